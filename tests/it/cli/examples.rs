//! Every example of every command's help, run in a directory where the things it names exist: a random model of 32
//! layers, texts, questions, an analysis, a cut, an adapter, and a hub cache in place of the network.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::write::GzEncoder;
use serde_json::json;

use crate::fixture::Llama;

/// What is added to the examples of a command whose real work is too long for a test.
const SHORTENED: &[(&str, &str)] = &[("heal", "--dry-run"), ("run", "--dry-run"), ("demo", "--dry-run")];

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

struct Desk {
    dir: tempfile::TempDir,
}

impl Desk {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a line as a shell would.
    fn run(&self, line: &str) -> Output {
        let program = Path::new(env!("CARGO_BIN_EXE_prune")).parent().unwrap().display().to_string();
        let path = format!("{program}:{}", std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).current_dir(self.dir.path()).env("PATH", path).env("HOME", self.path("home"));
        shell.env("HF_HOME", self.path("hf")).env("HF_HUB_OFFLINE", "1").output().unwrap()
    }

    fn works(&self, line: &str) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A repository in the hub's cache, one file after the other.
    fn cache(&self, repository: &str, revision: &str, files: &[(&str, Vec<u8>)]) {
        let root = self.path("hf/hub").join(repository);
        write(&root.join("refs").join(revision), COMMIT.as_bytes());
        for (name, contents) in files {
            write(&root.join("snapshots").join(COMMIT).join(name), contents);
        }
    }

    /// Runs an example, and puts everything back: what stands where it writes, and what it leaves.
    fn try_out(&self, line: &str, before: &BTreeSet<String>) {
        let mut words = line.split_whitespace().skip_while(|word| !["-o", "--out", "--extract"].contains(word)).skip(1);
        let target = words.next().map(|name| self.path(name.trim_start_matches("./")));
        let aside = self.path("aside");
        let moved = target.filter(|target| target.exists());
        moved.iter().for_each(|target| fs::rename(target, &aside).unwrap());
        self.works(line);
        for name in self.names().iter().filter(|name| *name != "aside") {
            let path = self.path(name);
            if before.contains(name) && moved.as_ref() != Some(&path) {
                continue;
            }
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
        moved.iter().for_each(|target| fs::rename(&aside, target).unwrap());
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn write(path: &Path, contents: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, contents).unwrap();
}

/// JSON rows, one a line.
fn rows(count: usize, row: impl Fn(usize) -> serde_json::Value) -> Vec<u8> {
    (0..count).flat_map(|index| (row(index).to_string() + "\n").into_bytes()).collect()
}

fn text(count: usize) -> Vec<u8> {
    rows(count, |row| {
        let words: Vec<String> = (0..20 + row % 9).map(|word| format!("w{}", 3 + (word * 7 + row) % 50)).collect();
        json!({"text": words.join(" ")})
    })
}

fn gz(contents: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(contents).unwrap();
    encoder.finish().unwrap()
}

/// The names that examples use.
fn desk() -> Desk {
    let desk = Desk { dir: tempfile::tempdir().unwrap() };
    Llama { layers: 32, hidden: 8, mlp: 8, heads: 2, kv_heads: 1, ..Llama::default() }.write(&desk.path("llama"));
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/gguf/llama.gguf"), desk.path("llama.gguf"))
        .unwrap();
    desk.works("prune convert llama.gguf -o smol");
    for name in ["c4.jsonl", "code.jsonl", "val.jsonl", "validation.jsonl"] {
        fs::write(desk.path(name), text(40)).unwrap();
    }
    let chat = rows(40, |row| json!({"prompt": format!("w{} w6", 3 + row), "completion": "w7 w8 w9"}));
    for name in ["chat.jsonl", "chat-val.jsonl"] {
        fs::write(desk.path(name), &chat).unwrap();
    }
    fs::write(desk.path("prompt.txt"), "w5 w6\n").unwrap();
    let river = "task: rivers\ndataset_path: json\ndataset_kwargs: {data_files: {test: rivers.jsonl}}\ntest_split: test\n\
                 output_type: multiple_choice\ndoc_to_text: question\ndoc_to_choice: choices\ndoc_to_target: answer\n";
    write(&desk.path("tasks/rivers.yaml"), river.as_bytes());
    let question = "{\"question\": \"w5 w6\", \"choices\": [\"w7\", \"w8\"], \"answer\": 0}\n";
    write(&desk.path("tasks/rivers.jsonl"), question.as_bytes());
    for folder in [".local/share/bash-completion/completions", ".zfunc", ".config/fish/completions"] {
        fs::create_dir_all(desk.path("home").join(folder)).unwrap();
    }

    let model: Vec<(&str, Vec<u8>)> =
        ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
            .map(|name| (name, fs::read(desk.path("llama").join(name)).unwrap()))
            .to_vec();
    desk.cache("models--org--name", "main", &model);
    desk.cache("models--other--name", "v2", &model);
    desk.cache("models--meta-llama--Llama-2-7b-hf", "main", &model);
    let recipe = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/llama-2-7b.toml")).unwrap();
    write(&desk.path("configs/llama-2-7b.toml"), &recipe);
    let local = String::from_utf8(recipe).unwrap().replace("meta-llama/Llama-2-7b-hf", "llama");
    fs::write(desk.path("recipe.toml"), local.replace("allenai/c4", "c4.jsonl")).unwrap();
    let small = "model = \"llama\"\n[drop]\nlayers = [1]\nmethods = [\"deepest\"]\n";
    fs::write(desk.path("small.toml"), small).unwrap();
    desk.works("prune run small.toml -o job");
    let c4 = gz(&text(30));
    let names = ["en/c4-validation.00000-of-00008.json.gz", "en/c4-train.00000-of-01024.json.gz"];
    desk.cache("datasets--allenai--c4", "main", &names.map(|name| (name, c4.clone())));
    let boolq = rows(4, |row| json!({"question": "is it", "passage": "w5 w6", "idx": row, "label": row % 2}));
    let names = ["boolq/validation.jsonl", "boolq/train.jsonl"];
    desk.cache("datasets--aps--super_glue", "main", &names.map(|name| (name, boolq.clone())));
    let arc = |row: usize| {
        let key = if row.is_multiple_of(2) { "A" } else { "B" };
        json!({"question": "w5", "choices": {"text": ["w3", "w4"], "label": ["A", "B"]}, "answerKey": key})
    };
    desk.cache("datasets--allenai--ai2_arc", "main", &[("ARC-Easy/test.jsonl", rows(4, arc))]);
    let piqa = rows(4, |row| json!({"goal": "w5", "sol1": "w3", "sol2": "w4", "label": row % 2}));
    desk.cache("datasets--baber--piqa", "main", &[("data/validation.jsonl", piqa)]);
    let question =
        |row: usize| json!({"question": format!("w{row}"), "choices": ["w3", "w4", "w5", "w6"], "answer": row % 4});
    let selected = prune::eval::select::select(&["mmlu".to_owned()], &[]).unwrap();
    for leaf in &selected.leaves {
        let subject = leaf.subject.as_deref().unwrap();
        let (dev, test) = (format!("{subject}/dev.jsonl"), format!("{subject}/test.jsonl"));
        desk.cache("datasets--cais--mmlu", "main", &[(&dev, rows(5, question)), (&test, rows(1, question))]);
    }
    for file in ["dev", "test"] {
        write(&desk.path(&format!("mmlu/queens/{file}.jsonl")), &rows(5, question));
    }

    model.iter().for_each(|(name, contents)| write(&desk.path("llama-it").join(name), contents));
    let template = "{% for message in messages %}{{ message.content }} {% endfor %}";
    fs::write(desk.path("llama-it/chat_template.jinja"), template).unwrap();
    desk.works("prune analyze ./llama --data c4.jsonl --layers 8 -o analysis");
    desk.works("prune cut ./llama --deepest 8 -o llama-24");
    desk.works("prune grow ./llama --after 1,3,5,7 -o llama-36");
    desk.works("prune heal ./llama-24 --data c4.jsonl --seq-len 32 --steps 2 --batch 2 --rank 2 --warmup 0 -o healed");
    desk.works("prune teach ./llama --data c4.jsonl --seq-len 32 --steps 2 --batch 4 --top-k 16 -o cache");
    desk.works("prune eval ./llama-24 --tasks boolq -o dense/results");
    desk.works("prune eval ./llama-24 --tasks boolq -o pruned/results");
    desk.works("prune eval ./llama-24 --tasks boolq --shard 1/2 -o one");
    desk.works("prune eval ./llama-24 --tasks boolq --shard 2/2 -o two");
    desk
}

/// An example with the size that it brings a model to that of three quarters of this one.
fn scaled(desk: &Desk, line: &str) -> String {
    let model = prune::checkpoint::Checkpoint::open_dir(&desk.path("llama")).unwrap();
    let tensors = || model.index.tensors.values();
    let parameters = tensors().map(|entry| entry.shape.iter().product::<usize>()).sum::<usize>();
    let bytes = tensors().map(|entry| entry.len).sum::<u64>();
    let line = line.replace("params=5B", &format!("params={}", parameters * 3 / 4));
    line.replace("bytes=4GiB", &format!("bytes={}", bytes * 3 / 4))
}

/// The lines under "Examples:" that show the program.
fn examples(help: &str) -> Vec<String> {
    let after = help.split_once("Examples:").map_or("", |(_, after)| after);
    let lines = after.lines().map(str::trim).filter(|line| line.starts_with("prune "));
    lines.map(|line| line.split_once("  ").map_or(line, |(command, _)| command).to_owned()).collect()
}

#[test]
fn every_example_works() {
    let desk = desk();
    let help = desk.works("prune help");
    let commands = help.split_once("Commands:").unwrap().1.lines().skip(1).take_while(|line| !line.trim().is_empty());
    let commands: Vec<&str> = commands
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(commands.len() >= 11, "{commands:?}");
    let before = desk.names();
    let mut run = 0;
    for command in commands.into_iter().filter(|command| *command != "help") {
        let examples = examples(&desk.works(&format!("prune {command} --help")));
        assert!(!examples.is_empty(), "prune {command} --help shows no examples");
        for example in examples {
            let more = SHORTENED.iter().find(|(name, _)| *name == command).map_or("", |(_, more)| more);
            let is_short = example.contains(more) || example.contains("--extract");
            let line = if is_short { example } else { format!("{example} {more}") };
            desk.try_out(&scaled(&desk, &line), &before);
            run += 1;
        }
    }
    assert!(run >= 30, "{run}");
}

/// Commands of the README's blocks, one after the other as they stand there: what one writes, the next reads.
#[test]
fn every_command_of_the_readme_works() {
    let desk = desk();
    let model: Vec<(&str, Vec<u8>)> = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
        .map(|name| (name, fs::read(desk.path("llama").join(name)).unwrap()))
        .to_vec();
    desk.cache("models--HuggingFaceTB--SmolLM2-135M-Instruct", "main", &model);
    fs::write(desk.path("c4.jsonl"), text(160)).unwrap();
    fs::write(desk.path("held-out.jsonl"), text(8)).unwrap();
    for name in ["analysis", "smaller", "scores"] {
        let place = desk.path(name);
        if place.exists() {
            fs::remove_dir_all(place).unwrap();
        }
    }
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split_once("```")).map(|(block, _)| block);
    let lines: Vec<&str> = blocks.flat_map(str::lines).collect();
    let (own, cargo): (Vec<&str>, Vec<&str>) = lines.iter().partition(|line| line.starts_with("prune "));
    // the other tests, the demo in CI, and an installation that would change this machine
    assert!(cargo.iter().all(|line| line.starts_with("cargo ")), "{cargo:?}");
    assert!(own.len() >= 5, "{own:?}");
    for line in own {
        // a recipe of hours is planned; what it says of its stages is what it would do
        let line = if line.starts_with("prune run") && !line.contains("--dry-run") {
            format!("{line} --dry-run")
        } else {
            line.to_owned()
        };
        let said = desk.works(&line);
        assert!(!said.trim().is_empty(), "{line} says nothing");
    }
    assert!(desk.path("smaller/model.safetensors").exists() && desk.path("scores").exists());
}
