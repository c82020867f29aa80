//! A process whose calls that change the disk are counted, and which is stopped at one of them: killed before it,
//! killed when it has written the half, or interrupted. By `ptrace`, so that the program itself has no hook for it.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use libc::{c_int, c_long, pid_t};

/// What happens at the call of this number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Never.
    Never,
    /// Killed before the call.
    Kill(usize),
    /// Killed when half of the bytes are written; before a call that writes none.
    Tear(usize),
    /// Ctrl-C.
    Interrupt(usize),
}

/// How a process ended.
pub(crate) struct Ended {
    /// Whether each call writes bytes, which can be torn.
    pub(crate) calls: Vec<bool>,
    /// `None` when it was killed.
    pub(crate) code: Option<i32>,
    pub(crate) said: String,
}

/// A call at its entry.
struct Call {
    number: c_long,
    args: [u64; 6],
}

/// Runs `command`, whose files are in `home`, a path without links.
pub(crate) fn run(mut command: Command, home: &Path, stop: Stop) -> io::Result<Ended> {
    // SAFETY: between fork and exec one system call is made, and nothing is allocated
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let leader = pid_t::try_from(child.id()).unwrap();
    // it stops when it has become the program
    wait(leader)?;
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_EXITKILL;
    // SAFETY: sets options of a stopped tracee; no memory of this process is given
    if unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, leader, 0, options) } == -1 {
        return Err(io::Error::last_os_error());
    }
    resume(leader, 0);
    let (mut calls, mut seen) = (Vec::new(), BTreeSet::from([leader]));
    let code = loop {
        let (thread, status) = wait(-1)?;
        if !libc::WIFSTOPPED(status) {
            match thread == leader {
                true => break libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
                false => continue,
            }
        }
        let (signal, is_new) = (libc::WSTOPSIG(status), seen.insert(thread));
        if signal == libc::SIGTRAP | 0x80 {
            if let Some(call) = entry(thread)?.filter(|call| is_writing(thread, call, home)) {
                let place = calls.len();
                calls.push(call.writes_bytes());
                match stop {
                    Stop::Tear(at) if at == place => {
                        if call.writes_bytes() {
                            write_half(thread, &call)?;
                        }
                        send(leader, libc::SIGKILL);
                        continue;
                    }
                    Stop::Kill(at) if at == place => {
                        send(leader, libc::SIGKILL);
                        continue;
                    }
                    Stop::Interrupt(at) if at == place => send(leader, libc::SIGINT),
                    _ => {}
                }
            }
            resume(thread, 0);
        } else if status >> 16 != 0 || (signal == libc::SIGSTOP && is_new) {
            // the birth of a thread
            resume(thread, 0);
        } else {
            resume(thread, signal);
        }
    };
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said)?;
    Ok(Ended { calls, code, said })
}

/// Waits for `thread`, or with -1 for any that this thread traces.
fn wait(thread: pid_t) -> io::Result<(pid_t, c_int)> {
    let mut status = 0;
    loop {
        // SAFETY: `status` is this function's
        match unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL | libc::__WNOTHREAD) } {
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
            found => return Ok((found, status)),
        }
    }
}

/// To the next call, with a signal unless it is 0. A thread that is gone meanwhile needs none.
fn resume(thread: pid_t, signal: c_int) {
    // SAFETY: no memory of this process is given
    unsafe { libc::ptrace(libc::PTRACE_SYSCALL, thread, 0, signal) };
}

fn send(process: pid_t, signal: c_int) {
    // SAFETY: the process is this one's child, and not reaped
    unsafe { libc::kill(process, signal) };
}

/// The call that `thread` is about to make, if it is stopped before one.
fn entry(thread: pid_t) -> io::Result<Option<Call>> {
    let size = size_of::<libc::ptrace_syscall_info>();
    // SAFETY: a plain structure of numbers, of which the kernel fills at most `size` bytes; the part of an entry is
    // read when the kernel says that it is one
    unsafe {
        let mut info: libc::ptrace_syscall_info = std::mem::zeroed();
        match libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size, &raw mut info) {
            -1 => match io::Error::last_os_error() {
                // killed meanwhile
                error if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
                error => Err(error),
            },
            _ if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY => Ok(None),
            _ => Ok(Some(Call { number: info.u.entry.nr as c_long, args: info.u.entry.args })),
        }
    }
}

impl Call {
    fn writes_bytes(&self) -> bool {
        [libc::SYS_write, libc::SYS_pwrite64].contains(&self.number) && self.args[2] > 1
    }
}

/// Whether the call changes what is on the disk in `home`.
fn is_writing(thread: pid_t, call: &Call, home: &Path) -> bool {
    let Call { number, args } = call;
    let is_home =
        |file: u64| fs::read_link(format!("/proc/{thread}/fd/{file}")).is_ok_and(|path| path.starts_with(home));
    let opens = |flags: u64, path: u64| {
        let writing = (libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC) as u64;
        flags & writing != 0 && !["/dev/", "/proc/"].iter().any(|place| text(thread, path).starts_with(place))
    };
    #[cfg(target_arch = "x86_64")]
    match *number {
        libc::SYS_open => return opens(args[1], args[0]),
        libc::SYS_creat | libc::SYS_rename | libc::SYS_unlink | libc::SYS_mkdir | libc::SYS_rmdir => return true,
        libc::SYS_link | libc::SYS_symlink | libc::SYS_chmod => return true,
        _ => {}
    }
    match *number {
        libc::SYS_openat => opens(args[2], args[1]),
        libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_unlinkat | libc::SYS_mkdirat => true,
        libc::SYS_linkat | libc::SYS_symlinkat | libc::SYS_truncate | libc::SYS_fchmodat => true,
        libc::SYS_write | libc::SYS_pwrite64 | libc::SYS_writev | libc::SYS_pwritev => is_home(args[0]),
        libc::SYS_fsync | libc::SYS_fdatasync | libc::SYS_ftruncate | libc::SYS_fallocate => is_home(args[0]),
        libc::SYS_sendfile | libc::SYS_fchmod => is_home(args[0]),
        libc::SYS_copy_file_range | libc::SYS_splice => is_home(args[2]),
        _ => false,
    }
}

/// The text at an address of the process that `thread` is of.
fn text(thread: pid_t, address: u64) -> String {
    let mut bytes = [0; 16];
    let read = File::open(format!("/proc/{thread}/mem")).and_then(|memory| memory.read_at(&mut bytes, address));
    let text = &bytes[..read.unwrap_or(0)];
    String::from_utf8_lossy(text.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// Writes the half of what the call is about to, where it is about to.
fn write_half(thread: pid_t, call: &Call) -> io::Result<()> {
    let [file, address, bytes, offset, ..] = call.args;
    let mut half = vec![0; usize::try_from(bytes / 2).unwrap()];
    File::open(format!("/proc/{thread}/mem"))?.read_exact_at(&mut half, address)?;
    let info = fs::read_to_string(format!("/proc/{thread}/fdinfo/{file}"))?;
    let field = |name: &str| info.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned())).unwrap();
    let to = OpenOptions::new().write(true).open(format!("/proc/{thread}/fd/{file}"))?;
    let is_appending = i32::from_str_radix(&field("flags:"), 8).unwrap() & libc::O_APPEND != 0;
    let place = match call.number {
        libc::SYS_pwrite64 => offset,
        _ if is_appending => to.metadata()?.len(),
        _ => field("pos:").parse().unwrap(),
    };
    to.write_all_at(&half, place)
}
