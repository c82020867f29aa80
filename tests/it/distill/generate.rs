//! Text that a model writes itself: the same bytes whatever goes on beside it, and a healing on it.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::fixture::Llama;
use crate::fixture::desk::{Desk, read};

/// Rows of a file of JSON lines.
pub(super) fn rows(desk: &Desk, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(desk.path(name)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(super) fn works(desk: &Desk, line: &str) -> String {
    let output = desk.run(line);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn bytes(desk: &Desk, line: &str, out: &str) -> Vec<u8> {
    works(desk, &format!("{line} -o {out} --quiet"));
    fs::read(desk.path(out)).unwrap()
}

/// A desk whose prompts are of one to thirty tokens, in no order of length.
fn desk(llama: &Llama) -> Desk {
    let desk = Desk::new();
    fs::remove_dir_all(desk.path("model")).unwrap();
    llama.write(&desk.path("model"));
    let lines = (0..14).map(|line| {
        let words: Vec<String> =
            (0..1 + line * 11 % 29).map(|word| format!("w{}", 3 + (word * 7 + line) % 50)).collect();
        json!({"text": words.join(" ")}).to_string() + "\n"
    });
    fs::write(desk.path("prompts.jsonl"), lines.collect::<String>()).unwrap();
    desk
}

fn wide() -> Llama {
    // sums longer than a block of the products, and a head wider than a panel
    Llama { hidden: 64, mlp: 208, heads: 4, kv_heads: 2, head_dim: 16, vocab: 300, ..Llama::default() }
}

const GENERATE: &str = "generate model --prompts prompts.jsonl --tokens 20 --samples 2";

/// In f32, with weights in bf16, with an adapter, and with products in bf16 where the machine has them.
#[test]
fn a_text_is_the_same_whatever_is_written_beside_it() {
    for llama in [wide(), Llama { dtype: safetensors::Dtype::BF16, ..wide() }] {
        let desk = desk(&llama);
        works(
            &desk,
            "heal model --data text.jsonl --seq-len 16 --steps 2 --batch 1 --rank 3 --warmup 0 --target all-linear \
             --adapter-only -o healed --quiet",
        );
        for more in ["", "--adapter healed/adapter", "--dtype bf16", "--temperature 0.7 --top-k 40 --min-p 0.01"] {
            // not every machine has products in bf16
            if more.contains("bf16") && !desk.run(&format!("{GENERATE} --dtype bf16 --dry-run")).status.success() {
                continue;
            }
            let line = format!("{GENERATE} {more}");
            let one = bytes(&desk, &format!("{line} --batch 1 --force"), "one.jsonl");
            for (batch, threads) in [(3, 1), (8, 2), (28, 2)] {
                let line = format!("{line} --batch {batch} --threads {threads} --force");
                assert_eq!(bytes(&desk, &line, "many.jsonl"), one, "{line}");
            }
            assert_eq!(rows(&desk, "one.jsonl").len(), 28);
        }
    }
}

#[test]
fn what_is_drawn_depends_on_the_seed_and_the_row() {
    let desk = desk(&wide());
    let all = rows_of(&desk, GENERATE);
    assert_eq!(all.iter().map(Value::to_string).collect::<BTreeSet<_>>().len(), 28);
    assert_eq!(rows_of(&desk, &format!("{GENERATE} --limit 5")), all[..10]);
    // the first sample is the first of many
    let one = rows_of(&desk, &GENERATE.replace("--samples 2", "--samples 1"));
    assert_eq!(one, all.iter().step_by(2).cloned().collect::<Vec<_>>());
    assert_ne!(rows_of(&desk, &format!("{GENERATE} --seed 1")), all);
    let given = rows(&desk, "prompts.jsonl");
    for (at, row) in all.iter().enumerate() {
        let (text, prompt) = (row["text"].as_str().unwrap(), given[at / 2]["text"].as_str().unwrap());
        assert!(text.starts_with(prompt) && row.as_object().unwrap().len() == 1, "{text}");
        assert!(text.split(' ').count() <= prompt.split(' ').count() + 20, "{text}");
    }
    // the likeliest tokens are those of `prune sample`
    let greedy = rows_of(&desk, "generate model --prompts prompts.jsonl --tokens 20 --temperature 0 --limit 3");
    for (row, prompt) in greedy.iter().zip(&given) {
        let mut command = desk.command("sample model --tokens 20 --json --prompt");
        let output = command.arg(prompt["text"].as_str().unwrap()).output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let said =
            format!("{}{}", prompt["text"].as_str().unwrap(), said["continuations"][0]["text"].as_str().unwrap());
        assert_eq!(row["text"], json!(said));
    }
}

fn rows_of(desk: &Desk, line: &str) -> Vec<Value> {
    bytes(desk, &format!("{line} --force"), "rows.jsonl");
    rows(desk, "rows.jsonl")
}

/// Texts from nothing, cut prompts, conversations, prompts without answers: each in a form that a healing reads.
#[test]
fn a_healing_reads_what_was_written() {
    let desk = desk(&wide());
    let template = "{% for m in messages %}{{ m.role | replace('user', 'w10') | replace('assistant', 'w11') }} \
                    {{ m.content }} {% endfor %}{% if add_generation_prompt %}w11 {% endif %}";
    fs::write(desk.path("model/chat_template.jinja"), template).unwrap();
    let messages = json!([{"role": "user", "content": "w5 w6"}, {"role": "assistant", "content": "w7"},
                          {"role": "user", "content": "w8"}, {"role": "assistant", "content": "old"}]);
    let chat: String = (0..6).map(|_| json!({"messages": messages, "n": 3}).to_string() + "\n").collect();
    fs::write(desk.path("chat.jsonl"), chat).unwrap();
    let alpaca: String = (0..6).map(|n| json!({"instruction": format!("w{}", 5 + n)}).to_string() + "\n").collect();
    fs::write(desk.path("alpaca.jsonl"), alpaca).unwrap();
    let asked: String = (0..6).map(|n| json!({"prompt": format!("w{} w4", 5 + n)}).to_string() + "\n").collect();
    fs::write(desk.path("asked.jsonl"), asked).unwrap();
    for (source, keys) in [
        ("--from-bos 9", &["text"][..]),
        ("--prompts prompts.jsonl --prompt-tokens 3", &["text"]),
        ("--prompts chat.jsonl --samples 2", &["messages"]),
        ("--prompts alpaca.jsonl", &["messages"]),
        ("--prompts asked.jsonl", &["prompt", "completion"]),
    ] {
        let found = rows_of(&desk, &format!("generate model {source} --tokens 24"));
        assert!(found.len() >= 6, "{source}");
        for row in &found {
            assert_eq!(row.as_object().unwrap().keys().collect::<Vec<_>>(), keys, "{source}");
        }
        if keys == ["messages"] {
            let said = found[0]["messages"].as_array().unwrap();
            assert_eq!(said.last().unwrap()["role"], "assistant");
            if source.contains("chat") {
                assert_eq!((&said[..3], said.len()), (&messages.as_array().unwrap()[..3], 4));
                assert_ne!(said[3]["content"], "old");
            }
        }
        let healed = "heal model --data rows.jsonl --seq-len 16 --steps 2 --batch 2 --rank 2 --warmup 0 --adapter-only";
        let report = desk.json(&format!("{healed} -o healed --force --json"));
        assert_eq!(report["result"]["steps"], 2, "{source}");
    }
}

#[test]
fn what_was_done_is_told_and_found_again() {
    let desk = desk(&wide());
    let line = format!("{GENERATE} -o own.jsonl --json");
    let plan = desk.json(&format!("{line} --dry-run"));
    assert_eq!((&plan["texts"], &plan["prompts"], &plan["said"]), (&json!(28), &json!(14), &Value::Null));
    assert!(!desk.path("own.jsonl").exists() && plan["memory"].as_u64().unwrap() > 1 << 20);
    let report = desk.json(&line);
    assert_eq!((&report["found"], &report["rows"]), (&json!(false), &json!(28)));
    let record = read(&desk.path("own.jsonl.provenance"));
    assert_eq!((&record["said"], &record["settings"]["tokens"]), (&report["said"], &json!(20)));
    let again = desk.json(&line);
    assert_eq!((&again["found"], &again["said"], &again["rows"]), (&json!(true), &report["said"], &json!(28)));
    desk.refused(&format!("{GENERATE} -o own.jsonl --seed 3"), 2, &["seed was 0, is 3", "--force"]);
    // without those that did not end
    let cut = report["said"]["cut_off"].as_u64().unwrap();
    let whole = desk.json(&format!("{line} --cut-off drop --force"));
    assert_eq!(whole["rows"].as_u64().unwrap(), 28 - cut);
    // what somebody wrote since is not what this made
    fs::write(desk.path("own.jsonl"), "{\"text\":\"mine\"}\n").unwrap();
    desk.refused(&format!("{GENERATE} -o own.jsonl"), 2, &["own.jsonl exists", "--force"]);
}

#[test]
fn wrong_requests_say_what_is_wrong() {
    let desk = desk(&wide());
    fs::write(desk.path("empty.jsonl"), "{\"text\":\"\"}\n{\"text\":\" \"}\n").unwrap();
    let long = vec!["w5"; 300].join(" ");
    fs::write(desk.path("long.jsonl"), json!({"text": long}).to_string()).unwrap();
    fs::write(desk.path("chat.jsonl"), json!({"messages": [{"role": "user", "content": "w5"}]}).to_string()).unwrap();
    fs::write(desk.path("answers.jsonl"), json!({"messages": [{"role": "assistant", "content": "w5"}]}).to_string())
        .unwrap();
    fs::write(desk.path("taken.jsonl.provenance"), "mine").unwrap();
    for (line, code, words) in [
        ("generate model -o out.jsonl", 2, &["--prompts", "--from-bos"][..]),
        ("generate model --prompts nothing.jsonl -o out.jsonl", 2, &["nothing.jsonl"]),
        ("generate model --prompts prompts.jsonl", 2, &["--out"]),
        ("generate model --prompts prompts.jsonl -o out", 2, &[".jsonl"]),
        ("generate model --prompts prompts.jsonl -o taken.jsonl", 2, &["taken.jsonl.provenance", "stays"]),
        ("generate model --prompts prompts.jsonl -o prompts.jsonl --force", 2, &["would replace its source"]),
        ("generate model --prompts empty.jsonl -o out.jsonl", 1, &["no prompt", "2 rows are empty"]),
        ("generate model --prompts long.jsonl -o out.jsonl", 1, &["line 1", "301 tokens", "256", "--on-bad-row"]),
        ("generate model --prompts long.jsonl --on-bad-row skip -o out.jsonl", 1, &["1 too long"]),
        ("generate model --prompts chat.jsonl -o out.jsonl", 2, &["no chat template", "--chat-template"]),
        ("generate model --prompts prompts.jsonl --chat-template x -o out.jsonl", 2, &["plain text"]),
        ("generate model --prompts chat.jsonl --prompt-tokens 3 -o out.jsonl", 2, &["prompt_tokens"]),
        ("generate model --prompts prompts.jsonl --memory 1MiB -o out.jsonl", 2, &["memory"]),
        ("generate model --prompts prompts.jsonl --temperature 0 --samples 2 -o out.jsonl", 2, &["the same"]),
    ] {
        desk.refused(line, code, words);
    }
    fs::write(desk.path("model/chat_template.jinja"), "{{ messages[0].content }}").unwrap();
    desk.refused("generate model --prompts answers.jsonl -o out.jsonl", 1, &["line 1", "no message to be answered"]);
}
