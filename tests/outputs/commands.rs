//! Every command that makes something, small, and what is on the disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use serde_json::Value;

use crate::fixture::desk::Desk;

/// A command whose output is `out`.
pub(crate) struct Making {
    pub(crate) name: &'static str,
    pub(crate) line: &'static str,
    /// What takes its settings at their word and begins anew or replaces.
    pub(crate) forces: &'static [&'static str],
    /// What lets it fail in the middle of its work, or before.
    pub(crate) failing: &'static [&'static str],
}

/// The table; `desk` makes what they read.
pub(crate) const COMMANDS: &[Making] = &[
    Making {
        name: "analyze",
        line: "analyze model --data text.jsonl --samples 3 --seq-len 16 -o out --csv out.csv",
        forces: &["--force"],
        failing: &["--text-field nothing", "--layers 9", "--memory 1KiB"],
    },
    Making {
        name: "cut",
        line: "cut model --drop 1 --max-shard-size 4KB -o out",
        forces: &["--force"],
        failing: &["--max-shard-size x", "--deepest 2"],
    },
    Making {
        name: "heal",
        line: "heal model --data text.jsonl --eval-data text.jsonl --seq-len 16 --steps 4 --batch 2 --rank 2 \
               --save-every 2 --warmup 1 --eval-every 3 --save-4bit -o out",
        forces: &["--force", "--restart", "--force --restart"],
        failing: &["--lr 1e30", "--text-field nothing", "--max-shard-size x"],
    },
    Making {
        name: "eval",
        line: "eval model --tasks text:text.txt --pass-tokens 32 -o out",
        forces: &["--force"],
        failing: &["--against nothing", "--adapter nothing", "--data-dir nothing"],
    },
    Making {
        name: "merge",
        line: "merge model adapter -o out",
        forces: &["--force"],
        failing: &["--max-shard-size x", "--memory 1"],
    },
    Making {
        name: "run",
        line: "run recipe.toml -o out",
        forces: &["--set cut.max_shard_size=\"4KB\""],
        failing: &["--set drop.layers=[9]", "--set heal.text_field=\"nothing\""],
    },
    Making { name: "demo", line: "demo --extract out", forces: &["--force"], failing: &[] },
];

/// A directory with what the commands read.
pub(crate) fn desk() -> Desk {
    let desk = Desk::new();
    let text: String = (0..60).map(|word| format!("w{} ", 3 + word * 7 % 13)).collect();
    fs::write(desk.path("text.txt"), format!("{text}\n{text}\n")).unwrap();
    let healing = "heal model --data text.jsonl --seq-len 16 --steps 1 --batch 1 --rank 2 --warmup 0 --adapter-only \
                   -o healed --quiet";
    assert!(desk.run(healing).status.success());
    fs::rename(desk.path("healed/adapter"), desk.path("adapter")).unwrap();
    fs::remove_dir_all(desk.path("healed")).unwrap();
    let recipe = "model = \"model\"\n[drop]\nlayers = [1]\nstrategies = [\"deepest\"]\n[heal]\ndata = \"text.jsonl\"\n\
                  seq_len = 16\nsteps = 2\nbatch = 1\nrank = 2\nwarmup = 0\n[eval]\ntasks = [\"text:text.txt\"]\n";
    fs::write(desk.path("recipe.toml"), recipe).unwrap();
    desk
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Thing {
    Directory,
    File(Vec<u8>),
    Link(String),
    Other,
}

/// Everything below `dir`, links not followed.
pub(crate) fn tree(dir: &Path) -> BTreeMap<String, Thing> {
    fn walk(dir: &Path, prefix: &str, found: &mut BTreeMap<String, Thing>) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
            let thing = match kind {
                kind if kind.is_dir() => Thing::Directory,
                kind if kind.is_symlink() => Thing::Link(fs::read_link(&path).unwrap().display().to_string()),
                kind if kind.is_fifo() || kind.is_socket() => Thing::Other,
                _ => Thing::File(fs::read(&path).unwrap()),
            };
            found.insert(name.clone(), thing);
            if kind.is_dir() {
                walk(&path, &format!("{name}/"), found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(dir, "", &mut found);
    found
}

/// [`tree`] without what files say of time and memory.
pub(crate) fn timeless(dir: &Path) -> BTreeMap<String, Thing> {
    let mut found = tree(dir);
    for (name, thing) in &mut found {
        let file = name.rsplit('/').next().unwrap();
        let Thing::File(bytes) = thing else { continue };
        if file == "log.jsonl" {
            let lines = std::str::from_utf8(bytes).unwrap().lines().map(|line| {
                let mut line: Value = serde_json::from_str(line).unwrap();
                line.as_object_mut().unwrap().retain(|key, _| !["tokens_per_second", "memory_mib"].contains(&&**key));
                line.to_string() + "\n"
            });
            *bytes = lines.collect::<String>().into_bytes();
        } else if ["run.json", "report.json", "report.html"].contains(&file) || name.contains("tables/") {
            bytes.clear();
        }
    }
    found
}
