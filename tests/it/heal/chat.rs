//! Healing on conversations and instructions, through the binary: what is learned, what is said and what is refused.

use std::fs;

use prune::data::marked::given;
use prune::heal::{HealSettings, Quant, Trainer, parameters};
use prune::model::{CheckpointingPolicy, ModelOptions};
use serde_json::{Value, json};

use crate::fixture::Llama;
use crate::fixture::desk::{Desk, read};
use crate::heal::model::open;
use crate::heal::shared::difference;

/// A template that says what answers are.
const SAYS: &str = "{% for m in messages %}{% if m.role == 'assistant' %}w3 {% generation %}{{ m.content }} </s>\
                    {% endgeneration %} {% else %}w4 {{ m.content }} {% endif %}{% endfor %}\
                    {% if add_generation_prompt %}w3 {% endif %}";
/// The same without saying so, and strict about who speaks.
const PLAIN: &str = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}\
                     {% if m.role == 'assistant' %}w3 {{ m.content }} </s> {% else %}w4 {{ m.content }} {% endif %}\
                     {% endfor %}{% if add_generation_prompt %}w3 {% endif %}";

const HEAL: &str = "heal model --seq-len 16 --batch 2 --steps 4 --warmup 1 --rank 2 --lr 0.01 --quant none";

fn desk(template: &str) -> Desk {
    let desk = Desk::new();
    fs::write(desk.path("model/chat_template.jinja"), template).unwrap();
    let rows = |shift: usize| -> String {
        let word = |n: usize| format!("w{}", 5 + (n * 7 + shift) % 11);
        let turn = |role: &str, n: usize| json!({"role": role, "content": format!("{} {}", word(n), word(n + 1))});
        let row = |line: usize| {
            json!({"messages": [turn("user", line), turn("assistant", line + 1), turn("user", line + 2),
                                turn("assistant", line + 3)]})
        };
        (0..10).map(|line| row(line).to_string() + "\n").collect()
    };
    fs::write(desk.path("chat.jsonl"), rows(0)).unwrap();
    fs::write(desk.path("val.jsonl"), rows(3)).unwrap();
    desk
}

fn write(desk: &Desk, name: &str, rows: &[Value]) {
    fs::write(desk.path(name), rows.iter().map(|row| row.to_string() + "\n").collect::<String>()).unwrap();
}

fn adapter(desk: &Desk, out: &str) -> Vec<u8> {
    fs::read(desk.path(out).join("adapter/adapter_model.safetensors")).unwrap()
}

/// A template with generation blocks and one without find the same answers; the same run again, resumed, is the same.
#[test]
fn answers_are_learned_and_measured() {
    let desk = desk(SAYS);
    let heal = format!("{HEAL} --data chat.jsonl --eval-data val.jsonl --json");
    let report = desk.json(&format!("{heal} --dry-run"));
    let chat = &report["chat"];
    // 2 turns of `w4 a b` and 2 of `w3 a b </s>`
    assert_eq!((&chat["form"], &chat["rows"], &chat["whole"]), (&json!("messages"), &json!(10), &json!(true)));
    assert_eq!((&chat["tokens"], &chat["answer_tokens"]), (&json!(140), &json!(60)), "{chat}");
    let report = desk.json(&format!("{heal} -o says"));
    let text = &report["result"]["measured"]["text"];
    assert_eq!(
        (&text["tokens"], &text["answer_tokens"], &text["packing"]),
        (&json!(140), &json!(60), &json!("document"))
    );
    let settings = &read(&desk.path("says/heal.json"))["settings"];
    assert_eq!((&settings["form"], &settings["loss_on"]), (&json!("messages"), &json!("answers")));
    assert_eq!(settings["chat_template_sha256"].as_str().unwrap().len(), 64);
    let card = fs::read_to_string(desk.path("says/merged/README.md")).unwrap();
    for word in
        ["conversations, messages, chat template `chat_template.jinja`, the answers learned", "60 of them measured"]
    {
        assert!(card.contains(word), "{word}: {card}");
    }
    desk.json(&format!("{heal} -o all --loss-on all"));
    assert_ne!(adapter(&desk, "says"), adapter(&desk, "all"));
    let shown = desk.run(&format!("{HEAL} --data chat.jsonl --dry-run"));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("messages, template chat_template.jinja, answers are learned: 10 rows, 140 tokens, 60 of"),
        "{shown}"
    );

    fs::write(desk.path("plain.jinja"), PLAIN).unwrap();
    desk.json(&format!("{heal} --chat-template plain.jinja -o plain"));
    assert_eq!(adapter(&desk, "says"), adapter(&desk, "plain"), "the same answers, found by prefixes");
}

/// The other forms come to the same tokens as the messages that they stand for.
#[test]
fn every_form_is_read() {
    let desk = desk(PLAIN);
    let user = |text: &str| json!({"role": "user", "content": text});
    let answer = |text: &str| json!({"role": "assistant", "content": text});
    write(&desk, "messages.jsonl", &vec![json!({"messages": [user("w5 w6"), answer("w7 w8")]}); 4]);
    for (name, row) in [
        (
            "sharegpt",
            json!({"conversations": [{"from": "human", "value": "w5 w6"}, {"from": "gpt", "value": "w7 w8"}]}),
        ),
        ("alpaca", json!({"instruction": "w5", "input": "w6", "output": "w7 w8"})),
        ("prompt-completion", json!({"prompt": [user("w5 w6")], "completion": [answer("w7 w8")]})),
    ] {
        write(&desk, "x.jsonl", &vec![row; 4]);
        let report = desk.json(&format!("{HEAL} --data x.jsonl --dry-run --json"));
        let expected = json!({"form": name, "template": "chat_template.jinja", "loss_on": "answers", "rows": 4,
            "whole": true, "sequences": 4, "tokens": 28, "answer_tokens": 12, "unanswered": 0, "truncated": 0});
        assert_eq!(report["chat"], expected, "{name}");
        desk.json(&format!("{HEAL} --data messages.jsonl -o messages-{name} --json"));
        desk.json(&format!("{HEAL} --data x.jsonl -o {name} --json"));
        assert_eq!(adapter(&desk, name), adapter(&desk, &format!("messages-{name}")), "{name}");
    }
    // texts need no template: BOS in front, EOS behind
    fs::remove_file(desk.path("model/chat_template.jinja")).unwrap();
    write(&desk, "x.jsonl", &vec![json!({"prompt": "w5 w6", "completion": " w7 w8"}); 4]);
    let report = desk.json(&format!("{HEAL} --data x.jsonl --dry-run --json"));
    assert_eq!((&report["chat"]["tokens"], &report["chat"]["answer_tokens"]), (&json!(24), &json!(12)));
    // a row with the field of the text is a text
    write(&desk, "y.jsonl", &vec![json!({"text": "w5 w6 w7 w8", "messages": [user("w5")]}); 9]);
    assert_eq!(desk.json(&format!("{HEAL} --data y.jsonl --dry-run --json")).get("chat"), None);
    desk.refused(
        &format!("{HEAL} --data messages.jsonl --dry-run"),
        2,
        &["messages.jsonl", "no chat template", "--chat-template"],
    );
    desk.refused(&format!("{HEAL} --data text.jsonl --loss-on all --dry-run"), 2, &["loss_on is for conversations"]);
}

#[test]
fn rows_that_cannot_be_learned_are_named_or_counted() {
    let desk = desk(PLAIN);
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let good = json!({"messages": [turn("user", "w5"), turn("assistant", "w6")]});
    for (row, words) in [
        (
            json!({"messages": [turn("system", "w5"), turn("assistant", "w6")]}),
            "the chat template says: no system here",
        ),
        (json!({"messages": [turn("usr", "w5")]}), "message 1 of `messages` has the unknown role \"usr\""),
        (json!({"messages": [turn("assistant", "w6")]}), "the first message is an answer"),
        (json!({"messages": ["w5"]}), "message 1 of `messages` is a string, expected an object"),
        (json!({"messages": []}), "field `messages` has no message"),
        (json!({"title": "w5"}), "no field `messages`"),
    ] {
        write(&desk, "x.jsonl", &[good.clone(), row.clone(), good.clone(), good.clone()]);
        desk.refused(&format!("{HEAL} --data x.jsonl --dry-run"), 1, &["x.jsonl line 2", words, "--on-bad-row skip"]);
        let report = desk.json(&format!("{HEAL} --data x.jsonl --dry-run --on-bad-row skip --json"));
        assert_eq!(report["chat"]["rows"], json!(3), "{row}");
    }
    let long = "w5 ".repeat(30);
    let cut = json!({"messages": [turn("user", long.trim()), turn("assistant", "w6")]});
    let none = json!({"messages": [turn("user", "w5"), turn("user", "w6")]});
    write(&desk, "x.jsonl", &[good.clone(), cut.clone(), none.clone(), good]);
    let output = desk.run(&format!("{HEAL} --data x.jsonl -o out"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && said.contains("2 of 4 rows have no token of an answer within 16 tokens"),
        "{said}"
    );
    write(&desk, "x.jsonl", &[cut, none]);
    desk.refused(&format!("{HEAL} --data x.jsonl --dry-run"), 1, &["x.jsonl", "no row has a token of an answer"]);
    // an earlier answer that the template writes otherwise once others follow
    fs::write(
        desk.path("model/chat_template.jinja"),
        "{% for m in messages %}{{ m.content if loop.last else 'w9' }} {% endfor %}",
    )
    .unwrap();
    desk.refused(
        &format!("{HEAL} --data chat.jsonl --dry-run"),
        1,
        &["chat.jsonl line 1", "message 2 otherwise", "--loss-on all"],
    );
    desk.json(&format!("{HEAL} --data chat.jsonl --loss-on all --dry-run --json"));
    fs::write(desk.path("model/chat_template.jinja"), "{% for m in %}").unwrap();
    desk.refused(&format!("{HEAL} --data chat.jsonl --dry-run"), 1, &["chat_template.jinja: no chat template"]);
}

/// A run that was stopped goes on to the same bytes.
#[test]
fn a_stopped_run_goes_on() {
    let desk = desk(SAYS);
    let heal =
        format!("{HEAL} --data chat.jsonl --eval-data val.jsonl --packing packed --save-every 1 --shuffle-window 3");
    let whole = desk.run(&format!("{heal} --steps 9 -o whole").replace("--steps 4 ", ""));
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let line = format!("{heal} --steps 9 -o parts").replace("--steps 4 ", "");
    for _ in 0..3 {
        let mut child = desk.command(&line).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(60));
        drop(child.kill());
        child.wait().unwrap();
    }
    let rest = desk.run(&line);
    assert!(rest.status.success(), "{}", String::from_utf8_lossy(&rest.stderr));
    assert_eq!(adapter(&desk, "whole"), adapter(&desk, "parts"));
}

/// The gradient is that of the mean over the answers of all sequences, however these are split, with a teacher as well.
#[test]
fn the_loss_is_the_mean_over_answers() {
    let dir = tempfile::tempdir().unwrap();
    Llama::default().write(dir.path());
    let answers = |row: &[u32], from: usize| -> Vec<u32> {
        row.iter().enumerate().map(|(at, id)| if at < from { given(*id) } else { *id }).collect()
    };
    let plain: Vec<Vec<u32>> =
        vec![(0..12).map(|i| 3 + i * 7 % 11).collect(), (0..7).map(|i| 3 + i * 5 % 11).collect()];
    let rows = vec![answers(&plain[0], 9), answers(&plain[1], 2)];
    let model = open(dir.path(), &HealSettings { quant: Quant::None, rank: 2.into(), ..HealSettings::default() });
    assert!(!parameters(&model).unwrap().is_empty());
    let of = |rows: &[Vec<u32>], pass_tokens: usize, teacher: bool| {
        let settings = HealSettings { pass_tokens, dropout: 0.0, quant: Quant::None, ..HealSettings::default() };
        let policy = CheckpointingPolicy::on(&ModelOptions::default().device, 0);
        let trainer = Trainer::new(&model, teacher.then_some(&model), &settings, policy).unwrap();
        trainer.gradients(rows).unwrap()
    };
    for teacher in [false, true] {
        let (together, gradients, targets) = of(&rows, 512, teacher);
        let (apart, split, same) = of(&rows, 1, teacher);
        assert_eq!((targets, same), (3 + 5, 3 + 5));
        assert!((together.loss - apart.loss).abs() < 1e-4);
        assert!(gradients.iter().all(|(name, gradient)| difference(gradient, &split[name]) < 1e-5));
        // the sum over all tokens less that over the ones that are given
        let alone = |from: usize, to: usize| of(&[answers(&plain[0][..to], from)], 512, teacher).0.loss;
        let (all, last) = (alone(0, 12), alone(9, 12));
        assert!((all - alone(0, 9) - last).abs() < 1e-4, "{all} {last}");
    }
}

/// A recipe's healing learns conversations as the command does, and its check refuses what the command would.
#[test]
fn recipes_heal_on_conversations() {
    let desk = desk(SAYS);
    let recipe = "model = \"model\"\n[drop]\nlayers = [1]\nmethods = [\"deepest\"]\n[heal]\ndata = \"chat.jsonl\"\n\
                  eval_data = \"val.jsonl\"\nseq_len = 16\nrank = 2\nsteps = 3\nbatch = 2\nwarmup = 1\n";
    fs::write(desk.path("recipe.toml"), recipe).unwrap();
    desk.json("run recipe.toml -o job --json");
    let record = read(&desk.path("job/deepest-1/healed/heal.json"));
    assert_eq!(record["settings"]["form"], json!("messages"));
    assert_eq!(record["result"]["measured"]["text"]["answer_tokens"], json!(60));
    write(&desk, "chat.jsonl", &[json!({"messages": [{"role": "nobody", "content": "w5"}]})]);
    desk.refused("run recipe.toml -o other --dry-run", 1, &["chat.jsonl line 1", "unknown role"]);
}
