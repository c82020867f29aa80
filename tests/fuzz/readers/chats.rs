//! Conversations: rows of every form, and the chat templates that make text of them.

use std::path::Path;
use std::sync::Arc;

use prune::data::chat::{Chat, Form, LossOn, Survey, Template};
use prune::data::{BadRow, SequenceOptions, Sequences, Shape, SourceOptions, TextSource, Tokenizer};
use prune::progress::Silent;
use rand::Rng as _;
use serde_json::json;

use super::super::{bytes, json as values};
use super::{Feed, Files, small};

const TEMPLATES: [&str; 3] = [
    "{{ bos_token }}{% for message in messages %}{{ '<' + message['role'] + '>' + message.content | trim }}{% endfor %}\
     {% if add_generation_prompt %}<assistant>{% endif %}",
    "{%- set ns = namespace(n=0) -%}{% for m in messages if m.content is string %}{% if m.role == 'assistant' -%}\
     {% generation %}{{ m.content.split('w')[-1].strip() }}{% endgeneration %}{% else %}{{ m | tojson(indent=2) }}\
     {% endif %}{% set ns.n = ns.n + loop.index %}{{ \"%03d\" | format(ns.n) }}{% endfor %}{{ ns.n ~ [messages, none] }}",
    "{% macro say(m, deep) %}{{ m.role | upper }}: {{ m.content }}{% if deep %}{{ say(m, deep - 1) }}{% endif %}\
     {% endmacro %}{% if messages[0].role == 'system' %}{{ raise_exception('no ' ~ messages[0]) }}{% endif %}\
     {% for m in messages[1:] %}{{ say(m, 2) }}{{ tools | default([]) | length }}{{ '{:>5}'.format(1) }}{% endfor %}",
];

/// What templates are broken with.
const WORDS: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{%-",
    "{#",
    " generation ",
    " endgeneration ",
    " for ",
    " in ",
    "range(99999999)",
    " * 99999999",
    " ~ ",
    "|",
    "|tojson",
    "|join",
    ".format(",
    ".join(",
    ".replace('', 'aaaa')",
    "namespace(",
    "loop.",
    "messages",
    " is ",
    " not ",
    "-",
    "(",
    "[0]",
    "[::-1]",
    "{% break %}",
    "%999999999d",
    "{:999999999}",
    "strftime_now('%Q')",
    "raise_exception(",
    "{% set messages = [messages] %}",
    "{% include 'x' %}",
    "{% import 'x' as x %}",
    "self",
    "caller",
];

/// Rows, one of each form in a file of its own.
fn rows() -> [String; 5] {
    let turns = |a: &str, b: &str| json!([{"role": "user", "content": a}, {"role": "assistant", "content": b}]);
    [
        json!({"messages": turns("w3 w4", "w5"), "tools": [{"name": "f"}], "chat_template_kwargs": {"thinking": true}}),
        json!({"conversations": [{"from": "human", "value": "w3"}, {"from": "gpt", "value": "w4 w5"}], "system": "w6"}),
        json!({"instruction": "w3", "input": "w4", "output": "w5", "system": "", "history": [["w3", "w4"]]}),
        json!({"prompt": "w3 w4", "completion": "w5"}),
        json!({"prompt": turns("w3", "w4"), "completion": [{"role": "assistant", "content": "w5"}]}),
    ]
    .map(|row| format!("{row}\n{row}\n"))
}

/// `chat_template.jinja`, `tokenizer_config.json` and the rows.
pub(super) fn chats(dir: &Path) -> Feed {
    small().write(dir);
    let (files, rows) = (Files::of(dir), rows());
    Box::new(move |case| {
        let mut template = TEMPLATES[case.rng.random_range(0..TEMPLATES.len())].as_bytes().to_vec();
        let good = rows[case.rng.random_range(0..rows.len())].as_bytes();
        let what = case.rng.random_range(0..3);
        if what != 0 {
            bytes::change(&mut case.rng, &mut template, WORDS);
        }
        let data = if what == 1 { good.to_vec() } else { values::lines(&mut case.rng, good) };
        let config = json!({"bos_token": "<s>", "chat_template": String::from_utf8_lossy(&template)});
        let config =
            if case.is_one_in(8) { values::changed(&mut case.rng, &config) } else { config.to_string().into() };
        let place = case.pick(&["chat_template.jinja", "tokenizer_config.json"]);
        let template = if place == "chat_template.jinja" { template } else { config };
        files.replace(&[(place, template), ("data.jsonl", data)]);
        let Some(tokenizer) = case.heard(Tokenizer::open(&files.dir)) else { return };
        let Some(template) = case.heard(Template::open(&files.dir, None, &tokenizer)) else { return };
        let on_bad_row = if case.rng.random() { BadRow::Skip } else { BadRow::Error };
        let options = SourceOptions { on_bad_row, ..SourceOptions::default() };
        let Some(source) = case.heard(TextSource::open(files.dir.join("data.jsonl"), &options)) else { return };
        let Some(form) = case.heard(source.form()) else { return };
        if form == Form::Text {
            return;
        }
        let loss_on = if case.is_one_in(4) { LossOn::All } else { LossOn::Answers };
        let chat = Chat { form, template, loss_on, eos: Some("</s>".to_owned()), asks: case.rng.random() };
        case.heard(chat.check());
        let source = source.talking(Arc::new(chat));
        let shape = Shape { seq_len: 16, ..Shape::default() };
        case.heard(Survey::of(&source, &tokenizer, &shape));
        let options = SequenceOptions { samples: Some(3), shape, seed: None };
        case.heard(Sequences::read(&source, &tokenizer, &options, &Silent));
    })
}
