//! What a dry run refuses is what the run refuses, with the same words, and nothing is left behind.

use std::fs;

use crate::fixture::desk::Desk;

const RECIPE: &str = r#"
model = "model"
[drop]
layers = [1, 2]
strategies = ["similarity", "deepest"]
[analyze]
data = "text.jsonl"
[heal]
data = "text.jsonl"
eval_data = "text.jsonl"
seq_len = 8
rank = 2
steps = 2
batch = 2
warmup = 1
[eval]
tasks = ["text:text.jsonl"]
[bench]
tokens = 2
prompt_tokens = 2
repetitions = 1
"#;

fn desk() -> Desk {
    let desk = Desk::new();
    fs::write(desk.path("recipe.toml"), RECIPE).unwrap();
    fs::create_dir(desk.path("here")).unwrap();
    fs::write(desk.path("here/thesis.tex"), "x").unwrap();
    fs::write(desk.path("broken.json"), "{").unwrap();
    fs::write(desk.path("empty.jsonl"), "").unwrap();
    desk
}

/// Both refuse with one line that says the word, and the same one.
fn both(desk: &Desk, line: &str, word: &str) {
    let said = |line: &str| {
        let before = desk.names();
        let output = desk.run(line);
        let said = String::from_utf8(output.stderr).unwrap();
        // a file without text is at fault itself
        let code = if word == "empty.jsonl" { 1 } else { 2 };
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        let error = said.lines().rfind(|line| line.starts_with("error: ")).unwrap_or_else(|| panic!("{line}: {said}"));
        assert!(error.contains(word), "{line}: {word:?} is not in {error}");
        assert_eq!(desk.names(), before, "{line}: left something behind");
        (output.status.code(), error.to_owned())
    };
    assert_eq!(said(&format!("{line} --dry-run")), said(line), "{line}");
}

#[test]
fn single_commands() {
    let desk = desk();
    for (line, word) in [
        ("analyze model --data nothing.jsonl -o a", "nothing.jsonl"),
        ("analyze model --data empty.jsonl -o a", "empty.jsonl"),
        ("analyze model --data text.jsonl --text-field body -o a", "body"),
        ("analyze model --data text.jsonl --samples 0 -o a", "0 samples"),
        ("analyze model --data text.jsonl --layers 4 -o a", "4"),
        ("analyze model --data text.jsonl --layers 3 --protect-last 2 -o a", "protected"),
        ("analyze model --data text.jsonl --protect-first 9 -o a", "protected"),
        ("analyze model --data text.jsonl --memory 1MiB -o a", "--memory"),
        ("analyze model --data text.jsonl --device gpu -o a", "--device"),
        ("analyze model --data text.jsonl -o here", "here"),
        ("cut model --plan broken.json -o a", "broken.json"),
        ("cut model --drop 9 -o a", "9"),
        ("cut model --deepest 4 -o a", "--deepest"),
        ("cut model --drop 1 --max-shard-size lots -o a", "--max-shard-size"),
        ("cut model --drop 1 -o here", "here"),
        ("merge model --adapter nowhere -o a", "nowhere"),
        ("heal model --data nothing.jsonl -o a", "nothing.jsonl"),
        ("heal model --data text.jsonl --rank 1000000 -o a", "rank"),
        ("heal model --data text.jsonl --batch 1000000000 -o a", "batch"),
        ("heal model --data text.jsonl --teacher nowhere -o a", "nowhere"),
        ("heal model --data text.jsonl --adapter nowhere -o a", "nowhere"),
        ("heal model --data text.jsonl --memory 1MiB -o a", "memory"),
        ("eval model --tasks riddles -o a", "riddles"),
        ("eval model --tasks text:nothing.jsonl -o a", "nothing.jsonl"),
        ("eval model --tasks boolq --data-dir nowhere -o a", "nowhere"),
        ("eval model --tasks text:text.jsonl --limit 0 -o a", "--limit"),
        ("eval model --tasks text:text.jsonl --against nowhere -o a", "nowhere"),
        ("eval model --tasks text:text.jsonl -o here", "here"),
    ] {
        both(&desk, line, word);
    }
}

#[test]
fn the_whole_job() {
    let desk = desk();
    for (set, word) in [
        ("analyze.text_field=body", "body"),
        ("analyze.data=nothing.jsonl", "nothing.jsonl"),
        ("analyze.protect_first=3", "similarity-2"),
        ("analyze.device=gpu", "gpu"),
        ("analyze.memory=1MiB", "--memory"),
        ("drop.layers=[4]", "[drop] layers"),
        ("drop.given=[\"9\"]", "given-9/model"),
        ("cut.max_shard_size=lots", "--max-shard-size"),
        ("heal.text_field=body", "[heal]"),
        ("heal.data=nothing.jsonl", "[heal]"),
        ("heal.eval_data=nothing.jsonl", "nothing.jsonl"),
        ("heal.rank=1000000", "[heal]: rank"),
        ("heal.batch=1000000000", "[heal]: batch"),
        ("heal.memory=1MiB", "[heal]"),
        ("heal.adapter=nowhere", "rank cannot go with adapter"),
        ("heal.teacher=nowhere", "nowhere"),
        ("heal.max_shard_size=lots", "max_shard_size"),
        ("heal.device=gpu", "[heal]"),
        ("heal.lr=nan", "[heal] lr"),
        ("heal.stpes=3", "did you mean steps?"),
        ("sample.tokns=3", "[sample] tokns"),
        ("eval.tasks=[\"riddles\"]", "riddles"),
        ("eval.tasks=[\"text:nothing.jsonl\"]", "dense/scores"),
        ("eval.limit=inf", "[eval] limit"),
        ("bench.tokens=1", "[bench]"),
        ("bench.device=gpu", "[bench]"),
    ] {
        both(&desk, &format!("run recipe.toml -o job --set {set}"), word);
    }
    both(&desk, "run recipe.toml -o here", "here");
    both(&desk, "run recipe.toml -o job --memory 1MiB", "--memory");
    both(&desk, "run recipe.toml -o job --device gpu", "gpu");
    // without a directory, what lies about is none of its business
    fs::write(desk.path("run.json"), "something else").unwrap();
    assert!(desk.run("run recipe.toml --dry-run").status.success());
}

#[test]
fn a_recipe_serves_single_commands() {
    let desk = desk();
    fs::write(desk.path("no-heal.toml"), RECIPE.split("[heal]").next().unwrap()).unwrap();
    desk.json("analyze model --config no-heal.toml -o a --json");
    desk.json("cut model --config no-heal.toml --drop 1 -o small --json");
    let line =
        "heal small --config no-heal.toml --data text.jsonl --seq-len 8 --rank 2 --steps 1 --batch 1 -o healed --json";
    desk.json(line);
    desk.json("eval healed/merged --config no-heal.toml --tasks text:text.jsonl --json");
    desk.json("sample small --config recipe.toml --prompt w5 --tokens 2 --json");
}

#[test]
fn switches_and_lists_of_a_file() {
    let desk = desk();
    desk.config("mystery", serde_json::json!([1, 2, 3, 4]));
    fs::write(desk.path("cut.toml"), "allow_unsliced = [\"mystery\"]\nverify = true\nforce = true\n").unwrap();
    fs::create_dir(desk.path("old")).unwrap();
    let report = desk.json("cut model --config cut.toml --drop 1 -o small --json");
    assert!(report["identical"].is_object());
    let report = desk.json("cut model --config cut.toml --drop 1 -o small --no-verify --json");
    assert!(report["identical"].is_null());
    desk.refused("cut model --config cut.toml --drop 1 -o small --no-force", 2, &["small", "--force"]);
}

#[cfg(unix)]
#[test]
fn names_that_are_not_utf_8() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let desk = desk();
    for line in [
        "analyze model --data text.jsonl -o",
        "analyze model --data text.jsonl --csv",
        "cut model --drop 1 -o",
        "cut model -o a --plan",
        "generate model --prompts text.jsonl -o",
        "teach model --data text.jsonl -o",
        "heal model --data text.jsonl -o",
        "merge model --adapter",
        "eval model --tasks text:text.jsonl -o",
        "eval model --tasks",
        "run recipe.toml -o",
        "run",
        "sample",
        "bench",
        "fetch",
        "demo -o",
        "cut model --config",
    ] {
        let output = desk.command(line).arg(OsStr::from_bytes(b"a\xff")).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{line}: {said}");
        assert!(said.contains("not UTF-8"), "{line}: {said}");
    }
}
