//! Text as users have it, through the binary: compressed, in directories, with bad rows, without a token between
//! documents.

use std::fs;
use std::io::Write;

use serde_json::{Value, json};

use crate::fixture::desk::Desk;
use crate::fixture::write_json;

fn row(text: &str) -> String {
    json!({ "text": text }).to_string() + "\n"
}

/// Sequences and tokens that `analyze` finds.
fn found(desk: &Desk, data: &str) -> (u64, u64) {
    let report = desk.json(&format!("analyze model --data {data} --dry-run --json"));
    let number = |key: &str| report["pass"][key].as_u64().unwrap();
    (number("samples"), number("tokens"))
}

const HEAL: &str = "heal model --seq-len 32 --batch 2 --steps 2 --warmup 1 --rank 1 --adapter-only --quiet";

/// [`HEAL`] with `arguments`, which stand instead of its own of the same name.
fn command(arguments: &str) -> String {
    let mut words: Vec<&str> = HEAL.split(' ').collect();
    for flag in arguments.split(' ').filter(|word| word.starts_with("--")) {
        if let Some(at) = words.iter().position(|word| *word == flag) {
            words.drain(at..at + 2);
        }
    }
    format!("{} {arguments}", words.join(" "))
}

/// What a healing says on its way.
fn heal(desk: &Desk, arguments: &str) -> String {
    let output = desk.run(&command(arguments));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments}: {said}");
    said
}

#[test]
fn compressed_files_read_as_plain_ones() {
    let desk = Desk::new();
    let text = fs::read(desk.path("text.jsonl")).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&text).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip2.write_all(&text).unwrap();
    let frames = text.chunks(100).flat_map(|part| zstd::stream::encode_all(part, 1).unwrap());
    for (name, bytes) in [
        ("a.jsonl.gz", gzip.finish().unwrap()),
        ("a.json.bz2", bzip2.finish().unwrap()),
        ("a.jsonl.zst", frames.collect()),
    ] {
        fs::write(desk.path(name), &bytes).unwrap();
        assert_eq!(found(&desk, name), found(&desk, "text.jsonl"), "{name}");
        heal(&desk, &format!("--data {name} -o out-{name}"));
        fs::write(desk.path(name), &bytes[..bytes.len() / 2]).unwrap();
        desk.refused(&format!("{HEAL} --data {name} -o out"), 1, &[name, "ends early"]);
        desk.refused(&format!("analyze model --data {name}"), 1, &[name, "ends early"]);
    }
}

#[test]
fn a_directory_gives_the_split_that_is_wanted() {
    let desk = Desk::new();
    for (name, rows) in [
        ("set/data/train-00000-of-00002.jsonl", 3),
        ("set/data/train-00001-of-00002.jsonl", 4),
        ("set/data/test-00000-of-00001.jsonl", 2),
        ("set/.git/objects/train.jsonl", 9),
    ] {
        fs::create_dir_all(desk.path(name).parent().unwrap()).unwrap();
        fs::write(desk.path(name), row("w3 w4 w5 w6 w7 w8 w9 w10 w11 w12").repeat(rows)).unwrap();
    }
    fs::write(desk.path("set/dataset_infos.json"), "{\"default\": {\"splits\": {}}}").unwrap();
    fs::write(desk.path("set/README.md"), "# set").unwrap();
    assert_eq!(found(&desk, "set").0, 2);
    assert_eq!(found(&desk, "set/data/train-00001-of-00002.jsonl").0, 4);
    let output = desk.run(&command("--data set --packing document --batch 7 --steps 1 -o out").replace(" --quiet", ""));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("2 of 3 data files are read, the train split: data/train-00000"), "{said}");
    fs::write(desk.path("pointer.jsonl"), "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        .unwrap();
    desk.refused(&format!("{HEAL} --data pointer.jsonl -o out2"), 2, &["pointer.jsonl", "git lfs pull"]);
}

#[test]
fn text_files_are_cut_as_asked() {
    let desk = Desk::new();
    fs::write(desk.path("a.txt"), "w3 w4\nw5 w6\n\nw7 w8\n").unwrap();
    let cut = |how: &str| found(&desk, &format!("a.txt --text-split {how}")).0;
    assert_eq!((found(&desk, "a.txt").0, cut("document"), cut("lines"), cut("paragraphs")), (1, 1, 3, 2));
    heal(&desk, "--data a.txt --text-split lines --packing document -o out");
    let scored = |how: &str| {
        let report = desk.json(&format!("eval model --tasks text:a.txt --text-split {how} --json"));
        report["figures"][0]["documents"].as_u64()
    };
    assert_eq!((scored("document"), scored("lines"), scored("paragraphs")), (Some(1), Some(3), Some(2)));
    desk.refused("eval model --tasks boolq --text-split lines", 2, &["--text-split", "text:FILE"]);
    fs::write(desk.path("big.txt"), "w3 w4 w5 w6 w7 w8\n".repeat(1 << 20)).unwrap();
    for command in ["analyze model", HEAL] {
        desk.refused(&format!("{command} --data big.txt -o big"), 2, &["big.txt", "--text-split lines"]);
    }
}

/// 4100 rows of four tokens, eight steps of a healing; one row is beyond those that are looked at first.
fn far_inside(bad: &str) -> String {
    let good = |line: usize| row(&(0..2).map(|word| format!("w{} ", 3 + (word * 7 + line) % 13)).collect::<String>());
    (0..4100).map(|line| if line == 4050 { bad.to_owned() } else { good(line) }).collect()
}

#[test]
fn a_bad_row_far_inside_and_the_repaired_file() {
    let desk = Desk::new();
    let long = "--data x.jsonl --seq-len 256 --batch 8 --steps 12 --shuffle-window 8 --save-every 4";
    for (out, bad) in [("a", "{\"text\": 3}\n"), ("b", "{\"text\": \"w3 w\n"), ("c", "[]\n")] {
        fs::write(desk.path("x.jsonl"), far_inside(bad)).unwrap();
        let output = desk.run(&command(&format!("{long} -o {out}")));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        for word in ["x.jsonl line 4051", "--on-bad-row skip", "the state after step"] {
            assert!(said.contains(word), "{said}");
        }
        fs::write(desk.path("x.jsonl"), far_inside("")).unwrap();
        desk.refused(&command(&format!("{long} -o {out}")), 2, &["data_bytes", "--data-changed to go on"]);
        heal(&desk, &format!("{long} -o {out} --data-changed"));
        fs::write(desk.path("x.jsonl"), far_inside(bad)).unwrap();
        let said = heal(&desk, &format!("{long} -o {out}-skipped --on-bad-row skip"));
        assert!(said.contains("1 row passed over") && said.contains("x.jsonl line 4051"), "{said}");
        // the repaired file has the rows that the other passes over: the same adapter
        let adapter = |out: &str| fs::read(desk.path(out).join("adapter/adapter_model.safetensors")).unwrap();
        assert_eq!(adapter(out), adapter(&format!("{out}-skipped")));
    }
    fs::write(desk.path("x.jsonl"), far_inside("{\"title\": \"none\"}\n{\"text\": null}\n")).unwrap();
    let said = heal(&desk, &format!("{long} -o d"));
    assert!(said.contains("1 row without the text field") && said.contains("line 4051"), "{said}");
}

#[test]
fn what_can_be_known_is_told_before_the_first_step() {
    let desk = Desk::new();
    let good = row("w3 w4 w5 w6").repeat(20);
    for (bad, words) in [
        ("{\"text\": 3}\n", "line 21: field `text` is a number, expected a string"),
        ("{\"text\" 3}\n", "line 21 column"),
    ] {
        fs::write(desk.path("x.jsonl"), good.clone() + bad).unwrap();
        for rest in ["--data x.jsonl --dry-run", "--data text.jsonl --eval-data x.jsonl --dry-run"] {
            desk.refused(&command(rest), 1, &["x.jsonl", words, "--on-bad-row skip"]);
        }
    }
    for (rows, words) in [
        ("{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}\n", "only `prune heal` reads those"),
        ("{\"conversations\": [{\"from\": \"human\", \"value\": \"hi\"}]}\n", "only `prune heal` reads those"),
        ("{\"instruction\": \"a\", \"input\": \"\", \"output\": \"b\"}\n", "template"),
        ("{\"prompt\": \"w3 w4\", \"completion\": \" w5 w6\"}\n", "--text-field prompt+completion"),
        ("{\"body\": \"a\"}\n", "name the text's with --text-field"),
    ] {
        fs::write(desk.path("x.jsonl"), rows).unwrap();
        desk.refused(&format!("{HEAL} --data x.jsonl --form text --dry-run"), 2, &["x.jsonl line 1", words]);
        desk.refused("analyze model --data x.jsonl --dry-run", 2, &["x.jsonl line 1", words]);
    }
    fs::write(desk.path("x.jsonl"), "{\"prompt\": \"w3 w4\", \"completion\": \" w5 w6\"}\n").unwrap();
    assert_eq!(found(&desk, "x.jsonl --text-field prompt+completion"), (1, 5));
}

#[test]
fn documents_are_told_apart_without_bos() {
    let desk = Desk::new();
    let mut tokenizer: Value = serde_json::from_slice(&fs::read(desk.path("model/tokenizer.json")).unwrap()).unwrap();
    fs::write(desk.path("two.jsonl"), row("w3 w4 w5 w6") + &row("w7 w8 w9 w10")).unwrap();
    // with BOS, as before: 5 tokens a document
    assert_eq!(found(&desk, "two.jsonl --packing packed --seq-len 10"), (1, 10));
    tokenizer["post_processor"] = Value::Null;
    write_json(&desk.path("model/tokenizer.json"), &tokenizer);
    assert_eq!(found(&desk, "two.jsonl --packing packed --seq-len 10"), (1, 10), "EOS after each of 4 tokens");
    assert_eq!(found(&desk, "two.jsonl --packing packed --seq-len 8 --separator none"), (1, 8));
    assert_eq!(found(&desk, "two.jsonl --packing packed --seq-len 10 --attention within"), (2, 10));
    assert_eq!(found(&desk, "two.jsonl"), (2, 8), "one sequence a document needs nothing between them");
    desk.refused(&command("--data two.jsonl --seq-len 11 -o out"), 1, &["too little text"]);
    heal(&desk, "--data two.jsonl --seq-len 10 -o out");
}

/// Documents that do not see each other give the gradients that the same documents give as sequences of their own.
#[test]
fn documents_within_a_sequence_train_like_sequences_of_their_own() {
    let desk = Desk::new();
    let text =
        (0..8).map(|line| row(&(0..4).map(|word| format!("w{} ", 3 + (word * 5 + line) % 13)).collect::<String>()));
    fs::write(desk.path("x.jsonl"), text.collect::<String>()).unwrap();
    let adapter = |out: &str, arguments: &str| {
        heal(&desk, &format!("--data x.jsonl --shuffle-window 1 --dropout 0 {arguments} -o {out}"));
        fs::read(desk.path(out).join("adapter/adapter_model.safetensors")).unwrap()
    };
    let within = adapter("within", "--seq-len 20 --batch 1 --attention within");
    assert_eq!(within, adapter("document", "--seq-len 20 --batch 4 --packing document"));
    assert_ne!(within, adapter("across", "--seq-len 20 --batch 1"));
}

#[test]
fn a_path_that_is_not_there_is_said_to_be_no_path() {
    let desk = Desk::new();
    for model in ["./nosuch", "nosuch/", "models/nosuch", "nosuch"] {
        desk.refused(&format!("analyze {model} --data text.jsonl"), 2, &[model, "no such"]);
        desk.refused(&format!("heal model --data text.jsonl --teacher {model} -o out"), 2, &[model, "no such"]);
    }
    for data in ["./nosuch", "nosuch.jsonl", "models/nosuch"] {
        desk.refused(&format!("analyze model --data {data}"), 2, &[data, "no such file or directory"]);
        desk.refused(&format!("{HEAL} --data text.jsonl --eval-data {data} --dry-run"), 2, &[data, "no such file"]);
    }
}
