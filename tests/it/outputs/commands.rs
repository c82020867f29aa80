//! Every command that makes something, small, and what is on the disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::fixture::desk::Desk;

/// A command whose output is `out`.
pub(crate) struct Making {
    pub(crate) name: &'static str,
    pub(crate) line: &'static str,
    /// Words of the line, and others that make another output of them.
    pub(crate) other: (&'static str, &'static str),
    /// Whether the output appears whole or not at all; otherwise it is worked in.
    pub(crate) is_whole: bool,
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
        other: ("--samples 3", "--samples 2"),
        is_whole: true,
        forces: &["--force"],
        failing: &["--text-field nothing", "--layers 9", "--memory 1KiB"],
    },
    Making {
        name: "search",
        line: "analyze model --data text.jsonl --samples 3 --seq-len 16 --method sleb -o out",
        other: ("--samples 3", "--samples 2"),
        is_whole: true,
        forces: &["--force"],
        failing: &["--text-field nothing", "--layers 9", "--memory 1KiB"],
    },
    Making {
        name: "methods",
        line: "methods model --data text.jsonl --samples 3 --seq-len 16 --layers 1 -o out",
        other: ("--samples 3", "--samples 2"),
        is_whole: true,
        forces: &["--force"],
        failing: &["--text-field nothing", "--layers 9", "--memory 1KiB"],
    },
    Making {
        name: "cut",
        line: "cut model --drop 1 --max-shard-size 4KB -o out",
        other: ("--drop 1", "--drop 2"),
        is_whole: true,
        forces: &["--force"],
        failing: &["--max-shard-size x", "--deepest 2"],
    },
    Making {
        name: "grow",
        line: "grow model --after 1 --max-shard-size 4KB -o out",
        other: ("--after 1", "--repeat 0-1"),
        is_whole: true,
        forces: &["--force"],
        failing: &["--max-shard-size x", "--by copy --repeat 1"],
    },
    Making {
        name: "heal",
        line: "heal model --data text.jsonl --eval-data text.jsonl --seq-len 16 --steps 4 --batch 2 --rank 2 \
               --save-every 2 --warmup 1 --eval-every 3 --save-4bit -o out",
        other: ("--steps 4", "--steps 2"),
        is_whole: true,
        forces: &["--force", "--restart", "--force --restart"],
        failing: &["--lr 1e30", "--text-field nothing", "--max-shard-size x"],
    },
    Making {
        name: "teach",
        line: "teach model --data text.jsonl --seq-len 8 --steps 4 --batch 2 --top-k 5 -o out",
        other: ("--steps 4", "--steps 3"),
        is_whole: false,
        forces: &["--force"],
        failing: &["--text-field nothing", "--top-k 65", "--memory 1KiB"],
    },
    Making {
        name: "eval",
        line: "eval model --tasks text:text.txt --pass-tokens 32 -o out",
        other: ("text:text.txt", "text:text.jsonl"),
        is_whole: false,
        forces: &["--force"],
        failing: &["--against nothing", "--adapter nothing", "--data-dir nothing"],
    },
    Making {
        name: "merge",
        line: "merge model --adapter adapter -o out",
        other: ("-o out", "--max-shard-size 4KB -o out"),
        is_whole: true,
        forces: &["--force"],
        failing: &["--max-shard-size x", "--memory 1"],
    },
    Making {
        name: "run",
        line: "run recipe.toml -o out",
        other: ("recipe.toml", "recipe.toml --set heal.steps=1"),
        is_whole: false,
        forces: &["--set cut.max_shard_size=\"4KB\""],
        failing: &["--set drop.layers=[9]", "--set heal.text_field=\"nothing\""],
    },
    Making {
        name: "demo",
        line: "demo --extract out",
        other: ("", ""),
        is_whole: true,
        forces: &["--force"],
        failing: &[],
    },
];

/// Commands that make nothing.
pub(crate) const READING: &[&str] = &[
    "doctor",
    "methods",
    "completions bash",
    "run recipe.toml -o out --submit slurm --dry-run",
    "analyze model --data text.jsonl --samples 3 --seq-len 16",
    "analyze model --data text.jsonl --samples 3 --seq-len 16 -o out --csv out.csv --dry-run",
    "methods model --data text.jsonl --samples 3 --seq-len 16 --layers 1",
    "methods model --data text.jsonl --samples 3 --seq-len 16 --layers 1 -o out --dry-run",
    "cut model --drop 1 --dry-run",
    "cut model --drop 1 -o out --dry-run",
    "cut model --drop 1 --repair refit --data text.jsonl --seq-len 16 -o out --dry-run",
    "grow model --after 0-1 --dry-run",
    "grow model --repeat 0-1 -o out --dry-run",
    "heal model --data text.jsonl --seq-len 16 --steps 1 --batch 1 --warmup 0 -o out --dry-run",
    "generate model --prompts text.jsonl --tokens 2 -o out.jsonl --dry-run",
    "teach model --data text.jsonl --seq-len 8 --steps 2 --batch 2 -o out --dry-run",
    "merge model --adapter adapter -o out --dry-run",
    "eval model --tasks text:text.txt",
    "eval model --tasks text:text.txt -o out --dry-run",
    "run recipe.toml -o out --dry-run",
    "demo -o out --dry-run",
    "sample model --prompt w5 --tokens 2",
    "bench model --tokens 2 --prompt-tokens 4 --repetitions 1",
    "compare model text.jsonl",
    "fetch no/such --dry-run",
];

impl Making {
    /// The line that makes another output.
    pub(crate) fn other_line(&self) -> String {
        self.line.replace(self.other.0, self.other.1)
    }

    /// What replaces an output: the line with the flag for that.
    pub(crate) fn replacing(&self) -> String {
        format!("{} {}", self.line, self.forces.iter().find(|force| **force == "--force").unwrap_or(&""))
    }
}

/// Names beside an output, close to those the program uses and none of them: nothing is in the way.
pub(crate) fn strangers_beside(desk: &Desk) {
    for name in [
        "out.bak/thesis.tex",
        "out.healing.bak/log.jsonl",
        ".out.prune-old/mine",
        ".out.prune-Ab12Cd/new/mine",
        ".out.csv.prune-Ab12Cd",
        "out.csv.new",
        "out.tmp",
        "journal.jsonl",
        "run.json",
        "state.safetensors.new",
        ".prune",
        ".prune.new",
        "new/mine",
        "gone",
    ] {
        let path = desk.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("somebody's {name}")).unwrap();
    }
    symlink("out.bak", desk.path("out.link")).unwrap();
    symlink("nothing", desk.path("out.lock")).unwrap();
    assert!(Command::new("mkfifo").arg(desk.path("out.fifo")).status().unwrap().success());
}

/// Copies what is at `from`, links and FIFOs as what they are.
pub(crate) fn copy(from: &Path, to: &Path) {
    let metadata = from.symlink_metadata().unwrap();
    if metadata.is_symlink() {
        return symlink(fs::read_link(from).unwrap(), to).unwrap();
    }
    if metadata.file_type().is_fifo() {
        return assert!(Command::new("mkfifo").arg(to).status().unwrap().success());
    }
    if metadata.is_file() {
        fs::copy(from, to).unwrap();
        return;
    }
    if !to.exists() {
        fs::create_dir(to).unwrap();
    }
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        copy(&path, &to.join(path.file_name().unwrap()));
    }
}

/// A directory with what the commands read.
pub(crate) fn desk() -> Desk {
    let desk = Desk::in_memory();
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
        if bytes.starts_with(b"somebody's") {
            continue;
        }
        if file == "log.jsonl" {
            let lines = std::str::from_utf8(bytes).unwrap().lines().map(|line| {
                // one that a kill cut short stays as it is
                let Ok(mut line) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
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
