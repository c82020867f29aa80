//! Templates by what they print, where they are found, and rows by what they hold.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::form::{Talk, read};
use super::*;
use crate::data::Tokenizer;

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    prune::pico::write(dir.path()).unwrap();
    dir
}

fn open(dir: &Path) -> Result<Option<Template>> {
    Template::open(dir, None, &Tokenizer::open(dir)?)
}

fn rendered(source: &str, messages: &Value) -> Result<(String, Vec<Range<usize>>)> {
    let dir = directory();
    let path = dir.path().join("t.jinja");
    fs::write(&path, source).unwrap();
    let tokenizer = Tokenizer::open(dir.path())?;
    let template = Template::open(dir.path(), Some(&path), &tokenizer)?.unwrap();
    template.render(messages.as_array().unwrap(), None, &Map::new(), false)
}

fn text(source: &str) -> String {
    let messages = json!([{"role": "user", "content": "it's"}, {"role": "assistant", "content": "é <b>"}]);
    rendered(source, &messages).unwrap().0
}

#[test]
fn what_is_printed_is_what_python_prints() {
    for (source, expected) in [
        ("{{ none }} {{ true }} {{ 1.0 }} {{ 1e20 }} {{ nothing }}.\n", "None True 1.0 1e+20 ."),
        ("{{ messages[0] }}", "{'role': 'user', 'content': \"it's\"}"),
        ("{{ messages[1] | tojson }}", "{\"role\": \"assistant\", \"content\": \"é <b>\"}"),
        ("{{ {'b': [], 'a': {}} | tojson(sort_keys=true, indent=1) }}", "{\n \"a\": {},\n \"b\": []\n}"),
        ("{{ ['é', 1] | tojson(ensure_ascii=true, separators=(',', ':')) }}", "[\"\\u00e9\",1]"),
        (
            "{% for m in messages %}\n  {% if loop.first %}\n{% continue %}{% endif %}{{ m.role }}\n{% endfor %}\n",
            "assistant\n",
        ),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ messages[::-1][0].role.split('s', 1)[1].upper() }}", "SISTANT"),
        ("{{ messages[0].get('name', 'no one').startswith('no') }}", "True"),
        ("{{ none is iterable }}{{ 'a' is iterable }}", "FalseTrue"),
        ("{{ [1.0, none, 'a'] | join(', ') }}{{ ', '.join(['a', 'b']) }}{{ [] | join }}", "1.0, None, aa, b"),
        ("{{ messages | join(' ', attribute='role') }}{{ [['a', ['b']]] | join(d='') }}", "user assistant['a', ['b']]"),
    ] {
        assert_eq!(text(source), expected, "{source}");
    }
    let day = text("{{ strftime_now('%d %b %Y') }}");
    assert!(day.len() == 11 && day.contains(" 20"), "{day}");
    let error = rendered("a\n{{ raise_exception('not ' ~ messages[0]) }}", &json!(["so"])).unwrap_err();
    assert_eq!(error.to_string(), "the chat template says: not so (line 2 of it)");
    assert!(rendered("{{ a.b.c }}", &json!([])).is_err());
    let endless = "{% for i in range(100000) %}{% for j in range(100000) %}{{ i }}{% endfor %}{% endfor %}";
    assert!(rendered(endless, &json!([])).is_err());
}

#[test]
fn generation_blocks_are_the_answers() {
    let source = "{% for m in messages %}\n<{{ m.role }}>\n{% if m.role == 'assistant' %}{% generation %}\n{{ m.content }};\
                  {%- endgeneration %}\n{% endif %}\n{% endfor %}";
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "é"},
                          {"role": "assistant", "content": "b"}]);
    let (text, parts) = rendered(source, &messages).unwrap();
    assert_eq!(text, "<user>\n<assistant>\né;<assistant>\nb;");
    assert_eq!(parts.into_iter().map(|part| &text[part]).collect::<Vec<_>>(), ["é;", "b;"]);
    let nested = "{% generation %}{% generation %}{% endgeneration %}{% endgeneration %}";
    assert!(rendered(nested, &json!([])).is_err());
}

#[test]
fn templates_are_where_transformers_finds_them() {
    let dir = directory();
    let said = |tools: Option<&Value>| {
        let template = open(dir.path()).unwrap().unwrap();
        let text = template.render(&[json!({"role": "user"})], tools, &Map::new(), true).unwrap().0;
        format!("{} {text}", template.name())
    };
    assert!(open(dir.path()).unwrap().is_none());
    let config = |value: Value| fs::write(dir.path().join("tokenizer_config.json"), value.to_string()).unwrap();
    config(
        json!({"eos_token": {"content": "w1"}, "bos_token": "w2", "chat_template": "{{ bos_token }}a{{ eos_token }}"}),
    );
    assert_eq!(said(None), "tokenizer_config.json w2aw1");
    config(json!({"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}));
    assert_eq!(
        (said(None), said(Some(&json!([])))),
        ("tokenizer_config.json d".into(), "tokenizer_config.json t".into())
    );
    config(json!({"chat_template": [{"name": "rag", "template": "d"}]}));
    assert!(open(dir.path()).unwrap_err().to_string().contains("chat templates rag, none of them `default`"));
    let named = |wanted| Template::named(dir.path(), wanted, &Tokenizer::open(dir.path())?);
    assert_eq!(named(Some("rag")).unwrap().unwrap().source(), "d");
    let unknown = [Some("default"), None, Some("other")].map(|wanted| named(wanted).unwrap_err());
    assert!(
        unknown.iter().all(|error| error.exit_code() == 2 && error.to_string().contains("chat templates rag, none"))
    );
    config(json!({"chat_template": 3}));
    assert!(open(dir.path()).unwrap_err().to_string().contains("chat_template is no template"));
    fs::write(dir.path().join("chat_template.jinja"), "j{{ add_generation_prompt }}").unwrap();
    assert_eq!(said(None), "chat_template.jinja jTrue");
    fs::write(dir.path().join("chat_template.jinja"), "{% for %}").unwrap();
    assert!(open(dir.path()).unwrap_err().to_string().contains("chat_template.jinja: no chat template: "));
}

#[test]
fn rows_are_told_apart_and_become_messages() {
    let fields = |row: Value| row.as_object().unwrap().clone();
    let messages = |form: Form, row: Value| match read(form, &mut fields(row)) {
        Ok(Talk::Messages { messages, answer, tools, .. }) => json!([messages, answer, tools]),
        other => panic!("{other:?}"),
    };
    let (user, answer) = (json!({"role": "user", "content": "q"}), json!({"role": "assistant", "content": "a"}));
    for (form, row, expected) in [
        (Form::Messages, json!({"messages": [user, answer], "tools": "[1]"}), json!([[user, answer], null, [1]])),
        (
            Form::Messages,
            json!({"conversations": [{"role": "user", "content": "q", "name": null}]}),
            json!([[user], null, null]),
        ),
        (
            Form::Sharegpt,
            json!({"system": "s", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}),
            json!([[{"role": "system", "content": "s"}, user, answer], null, null]),
        ),
        (
            Form::Alpaca,
            json!({"instruction": "q", "input": "", "output": "a", "history": [["q", "a"]]}),
            json!([[user, answer, user, answer], 3, null]),
        ),
        (Form::PromptCompletion, json!({"prompt": [user], "completion": [answer]}), json!([[user, answer], 1, null])),
    ] {
        assert_eq!(recognized([fields(row.clone())].iter(), &["text".to_owned()], false), form, "{row}");
        assert_eq!(messages(form, row), expected);
    }
    let texts = read(Form::PromptCompletion, &mut fields(json!({"prompt": "p", "completion": "c"})));
    assert_eq!(texts, Ok(Talk::Texts { prompt: "p".into(), completion: "c".into() }));
    for (form, row, words) in [
        (Form::Sharegpt, json!({"conversations": [{"from": "nobody", "value": "q"}]}), "unknown role \"nobody\""),
        (Form::Alpaca, json!({"instruction": 3, "output": "a"}), "`instruction` is a number"),
        (Form::Alpaca, json!({"instruction": "q"}), "no field `output`"),
        (
            Form::PromptCompletion,
            json!({"prompt": "p", "completion": [answer]}),
            "`prompt` is a string, expected a list",
        ),
        (Form::Messages, json!({"messages": [{"content": "q"}]}), "message 1 of `messages` has no `role`"),
        (Form::Messages, json!({"messages": [user], "tools": "["}), "`tools` is no JSON"),
    ] {
        let fault = read(form, &mut fields(row)).unwrap_err();
        assert!(fault.contains(words), "{fault}");
    }
    let plain = [fields(json!({"text": "a", "messages": [{"role": "user"}]}))];
    assert_eq!(recognized(plain.iter(), &["text".to_owned()], false), Form::Text);
    assert_eq!(recognized([].iter(), &["text".to_owned()], false), Form::Text);
}
