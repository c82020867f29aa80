//! What bounds this process's memory beside the machine: control groups, its own and all above, and resource limits.
//! All of it stands in files below `/proc` and `/sys`; on other systems nothing is found.

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::Serialize;

/// One bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Limit {
    /// What sets it.
    pub by: String,
    /// Bytes it allows.
    pub total: u64,
    /// Bytes that are left of them.
    pub free: u64,
}

impl Limit {
    fn new(by: String, total: u64, used: u64) -> Self {
        Self { by, total, free: total.saturating_sub(used) }
    }
}

/// The bounds that the files below `root` tell, `/` but in tests; each that is set.
#[must_use]
pub fn limits(root: &Path) -> Vec<Limit> {
    let mut limits = Vec::new();
    for (dir, group) in groups(root) {
        limits.extend(match group {
            Group::V1 => v1(&dir),
            Group::V2 => v2(&dir),
        });
    }
    limits.extend(resources(root));
    limits
}

/// The two kinds of control groups.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    V1,
    V2,
}

/// Directories of the control groups that this process is in and that are to be seen, from its own upwards.
fn groups(root: &Path) -> Vec<(PathBuf, Group)> {
    let mut found: Vec<(PathBuf, Group)> = Vec::new();
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
    let (own, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    for (mount, group) in mounts.lines().filter_map(Mount::read) {
        let Some(path) = own.lines().find_map(|line| path_of(line, group)) else { continue };
        let top = root.join(mount.point.strip_prefix("/").unwrap_or(&mount.point));
        // a mount of a part of the tree, as containers have it, begins at the path of that part; where that is none of
        // this process's parents as its namespace names them, the top is all that can be told
        let below = path.strip_prefix(&mount.root).unwrap_or(Path::new(""));
        let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        let mut dir = if is_plain { top.join(below) } else { top.clone() };
        loop {
            if dir.is_dir() && !found.iter().any(|(known, _)| *known == dir) {
                found.push((dir.clone(), group));
            }
            if dir == top || !dir.pop() {
                break;
            }
        }
    }
    found
}

/// A line of `mountinfo` that mounts control groups with a say in memory.
struct Mount {
    /// Path of the group that stands at the mount point.
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    /// `36 35 0:31 ROOT POINT OPTIONS [FIELDS] - TYPE SOURCE SUPER`.
    fn read(line: &str) -> Option<(Self, Group)> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let mount = Self { root: unescaped(left.next()?), point: unescaped(left.next()?) };
        let mut right = right.split(' ');
        match right.next()? {
            "cgroup2" => Some((mount, Group::V2)),
            "cgroup" if right.nth(1)?.split(',').any(|option| option == "memory") => Some((mount, Group::V1)),
            _ => None,
        }
    }
}

/// The kernel writes blanks in names as `\040`.
fn unescaped(name: &str) -> PathBuf {
    PathBuf::from(name.replace("\\040", " "))
}

/// The path in a line of `/proc/self/cgroup`, `ID:CONTROLLERS:PATH`, where it is one of `group`.
fn path_of(line: &str, group: Group) -> Option<PathBuf> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    let is_it = match group {
        Group::V1 => controllers.split(',').any(|name| name == "memory"),
        Group::V2 => controllers.is_empty(),
    };
    is_it.then(|| PathBuf::from(path))
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A line `NAME VALUE` of `memory.stat`.
fn statistic(dir: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(dir.join("memory.stat")).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Pages of files that were read some time ago count as used, and go as soon as memory is asked for.
fn bound(dir: &Path, file: &str, total: u64, used: &str, cache: &str) -> Limit {
    let used = number(&dir.join(used)).unwrap_or(0).saturating_sub(statistic(dir, cache).unwrap_or(0));
    Limit::new(dir.join(file).display().to_string(), total, used)
}

fn v2(dir: &Path) -> Vec<Limit> {
    // above `high` a process is slowed down until it stands
    let files = ["memory.max", "memory.high"].into_iter();
    let set = files.filter_map(|file| Some((file, number(&dir.join(file))?)));
    set.map(|(file, total)| bound(dir, file, total, "memory.current", "inactive_file")).collect()
}

fn v1(dir: &Path) -> Vec<Limit> {
    // what groups above allow that a container does not see stands here
    let above = statistic(dir, "hierarchical_memory_limit");
    let total = [number(&dir.join("memory.limit_in_bytes")), above].into_iter().flatten().min();
    // no limit is the largest number of pages
    let set = total.filter(|total| *total < i64::MAX as u64 / 2);
    set.into_iter()
        .map(|total| bound(dir, "memory.limit_in_bytes", total, "memory.usage_in_bytes", "total_inactive_file"))
        .collect()
}

/// `ulimit -v` and `ulimit -d`.
fn resources(root: &Path) -> Vec<Limit> {
    let read = |file: &str| fs::read_to_string(root.join("proc/self").join(file)).unwrap_or_default();
    let (limits, status) = (read("limits"), read("status"));
    let used = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib << 10)
    };
    let of = |(name, by, size): (&str, &str, &str)| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
        let total = line.split_whitespace().next()?.parse().ok()?;
        Some(Limit::new(by.to_owned(), total, used(size)?))
    };
    let known = [
        ("Max address space", "ulimit -v (address space)", "VmSize:"),
        ("Max data size", "ulimit -d (data size)", "VmData:"),
    ];
    known.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root directory with these files.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    /// The last two parts of what sets each limit, total and free.
    fn found(files: &[(&str, &str)]) -> Vec<(String, u64, u64)> {
        let root = tree(files);
        let limits = limits(root.path());
        let by = |limit: &Limit| limit.by.replace(&format!("{}/", root.path().display()), "");
        limits.iter().map(|limit| (by(limit), limit.total, limit.free)).collect()
    }

    const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "30 25 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      31 25 0:28 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n";

    #[test]
    fn version_two_at_every_level() {
        let expected =
            [("sys/fs/cgroup/slurm/job/memory.high", 700, 650), ("sys/fs/cgroup/slurm/memory.max", 1000, 800)];
        let files = [
            ("proc/self/cgroup", "0::/slurm/job\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/slurm/job/memory.max", "max\n"),
            ("sys/fs/cgroup/slurm/job/memory.high", "700\n"),
            ("sys/fs/cgroup/slurm/job/memory.current", "50\n"),
            ("sys/fs/cgroup/slurm/memory.max", "1000\n"),
            ("sys/fs/cgroup/slurm/memory.current", "900\n"),
            // the cache of what was read is no use of memory
            ("sys/fs/cgroup/slurm/memory.stat", "anon 100\ninactive_file 700\nactive_file 100\n"),
        ];
        assert_eq!(found(&files), expected.map(|(by, total, free)| (by.to_owned(), total, free)));
    }

    #[test]
    fn version_two_in_a_namespace() {
        let files = [
            ("proc/self/cgroup", "0::/\n"),
            ("proc/self/mountinfo", V2),
            ("sys/fs/cgroup/memory.max", "1000\n"),
            ("sys/fs/cgroup/memory.current", "1200\n"),
        ];
        assert_eq!(found(&files), [("sys/fs/cgroup/memory.max".to_owned(), 1000, 0)]);
        // a namespace that names its parents by dots
        let mounted = V2.replace("0:26 / ", "0:26 /../.. ");
        let files = [("proc/self/mountinfo", mounted.as_str()), files[0], files[2]];
        assert_eq!(found(&files).len(), 1);
    }

    #[test]
    fn version_one_at_every_level() {
        let none = "9223372036854771712\n";
        let files = [
            ("proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/a b/c\n0::/\n"),
            ("proc/self/mountinfo", V1),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", none),
            ("sys/fs/cgroup/memory/a b/memory.limit_in_bytes", "5000\n"),
            ("sys/fs/cgroup/memory/a b/memory.usage_in_bytes", "4500\n"),
            ("sys/fs/cgroup/memory/a b/memory.stat", "inactive_file 7\ntotal_inactive_file 4000\n"),
            ("sys/fs/cgroup/memory/a b/c/memory.limit_in_bytes", none),
        ];
        assert_eq!(found(&files), [("sys/fs/cgroup/memory/a b/memory.limit_in_bytes".to_owned(), 5000, 4500)]);
    }

    #[test]
    fn version_one_as_containers_mount_it() {
        // the whole tree's mount is covered by that of the container's own part
        let mounts = format!("{V1}99 31 0:28 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
        let files = [
            ("proc/self/cgroup", "4:memory:/docker/x\n"),
            ("proc/self/mountinfo", mounts.as_str()),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "8900\n"),
            // a group above, out of sight, allows less
            ("sys/fs/cgroup/memory/memory.stat", "hierarchical_memory_limit 8000\ntotal_inactive_file 5000\n"),
        ];
        assert_eq!(found(&files), [("sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned(), 8000, 4100)]);
    }

    #[test]
    fn resource_limits() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max data size             unlimited            unlimited            bytes     \n\
                      Max address space         104857600            unlimited            bytes     \n";
        let status = "Name:\tprune\nVmPeak:\t   99999 kB\nVmSize:\t    2048 kB\nVmData:\t    1024 kB\n";
        let files = [("proc/self/limits", limits), ("proc/self/status", status)];
        let (total, free) = (100 << 20, 98 << 20);
        assert_eq!(found(&files), [("ulimit -v (address space)".to_owned(), total, free)]);
        let swapped = limits.replace("unlimited            unlimited", "3145728              unlimited");
        assert_eq!(found(&[("proc/self/limits", swapped.as_str()), files[1]])[1].2, 2 << 20);
    }

    #[test]
    fn nothing_that_is_not_there() {
        assert_eq!(found(&[]), []);
        let strange = [
            ("proc/self/cgroup", "x\n0:\n0::relative/../..\n"),
            ("proc/self/mountinfo", "1 2\n29 23 0:26 / /../../.. rw - cgroup2 c rw\n- cgroup2\n"),
            ("proc/self/limits", "Max address space\n"),
        ];
        let _ = found(&strange);
    }
}
