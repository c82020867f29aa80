//! Chat templates that ask for more than there is.

use std::fs;

use prune::Result;
use prune::data::Tokenizer;
use prune::data::chat::Template;
use serde_json::{Map, Value, json};

use crate::fixture::Llama;

fn rendered(source: &str, messages: &[Value]) -> Result<String> {
    let dir = tempfile::tempdir().unwrap();
    Llama { layers: 1, ..Llama::default() }.write(dir.path());
    let path = dir.path().join("t.jinja");
    fs::write(&path, source).unwrap();
    let template = Template::open(dir.path(), Some(&path), &Tokenizer::open(dir.path())?)?.unwrap();
    template.render(messages, None, &Map::new(), false).map(|(text, _)| text)
}

/// Templates are anybody's: what they ask for without measure is refused in words, with little memory and no overflow
/// of the stack, on a thread with the least of one.
#[test]
fn templates_without_measure_are_refused() {
    let nest = "{% set n = namespace(l=[], m=[]) %}{% for i in range(100000) %}{% set n.l = [n.l] %}{% set n.m = \
                [n.m] %}{% endfor %}";
    let deep = "{% set n = namespace(l=[], m=[]) %}{% for i in range(15000) %}{% set n.l = [n.l] %}{% set n.m = \
                [n.m] %}{% endfor %}";
    let long = "{% set s = 'x' * 1000000 %}";
    let mut sources = vec![
        format!("{nest}{{{{ n.l == n.m }}}}"),
        format!("{long}{{% for i in range(9999) %}}{{{{ s }}}}{{% endfor %}}"),
        format!("{long}{{{{ [s] * 10000 }}}}"),
        format!("{long}{{{{ ([s] * 10000) | tojson }}}}"),
        format!("{long}{{{{ ''.join([s] * 10000) }}}}"),
        format!("{long}{{{{ ([s] * 10000) | join }}}}"),
        format!("{long}{{{{ ([{{'a': {{'b': s}}}}] * 10000) | join(attribute='a.b') }}}}"),
        format!("{long}{{{{ ([s] * 10000) | string }}}}"),
        "{{ 'x' * 10000000000 }}".to_owned(),
        "{{ '%1000000000d' | format(3) }}".to_owned(),
        "{{ '{:1000000000}'.format(3) }}".to_owned(),
        "{{ messages[0].content | indent(1000000000) }}".to_owned(),
    ];
    let whole = ["n.l == n.m", "n.l ~ 'x'", "[n.l, n.m] | sort | length", "[n.l] | join('x')", "n.l in [n.m]"];
    let made = whole.map(|expression| format!("{deep}{{{{ {expression} }}}}"));
    let parsed = ["+1", ".a", "|f", "-", "[0]", "()", " if 1", " and 1", " ~ 1"];
    let parsed = parsed.map(|part| format!("{{{{ 1{} }}}}", part.repeat((63 << 10) / part.len())));
    let negated = format!("{{{{ {} 1 }}}}", "not ".repeat(16_000));
    let branches = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(5_000));
    sources.extend([format!("{deep}{{{{ n.l }}}}"), format!("{deep}{{{{ n.l | tojson }}}}"), "x".repeat(65 << 10)]);
    let run = |source: &str| {
        let source = source.to_owned();
        let messages = [json!({"role": "user", "content": "a\nb"})];
        let thread = std::thread::Builder::new().stack_size(1 << 20);
        thread.spawn(move || rendered(&source, &messages)).unwrap().join().unwrap()
    };
    for source in &sources {
        let error = run(source).unwrap_err().to_string();
        assert!(error.contains("chat template") && error.len() < 300 && !error.contains('\n'), "{error}");
    }
    // these need not be refused: they end
    for source in made.iter().chain(&parsed).chain([&negated, &branches]) {
        drop(run(source));
    }
}
