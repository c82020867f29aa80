//! The Jinja that prompts of evaluation tasks are written in: Jinja2's own defaults, and a filter of
//! lm-evaluation-harness.

use fancy_regex::Regex;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use serde_json::Map;

use super::environment::{FUEL, join, method, print};
use super::python;
use super::stack::on_deep_stack;
use super::template::said;

const NAME: &str = "template";

/// Bytes of a template.
const LONGEST: usize = 256 << 10;

/// A template over the fields of a document.
#[derive(Debug)]
pub(crate) struct PromptTemplate {
    environment: Environment<'static>,
}

impl PromptTemplate {
    /// Compiles `source`.
    ///
    /// # Errors
    /// What is wrong, and in which line of it.
    pub(crate) fn new(source: &str) -> Result<Self, String> {
        if source.len() > LONGEST {
            return Err(format!("a template of {} KiB, expected at most {}", source.len() >> 10, LONGEST >> 10));
        }
        let built = on_deep_stack(|| environment(source)).map_err(|error| error.to_string())?;
        built.map(|environment| Self { environment }).map_err(|error| said(&error))
    }

    /// The text it makes of `fields`.
    ///
    /// # Errors
    /// What is wrong, and in which line of it; a field that is not there is named.
    pub(crate) fn render(&self, fields: &Map<String, serde_json::Value>) -> Result<String, String> {
        let rendered = on_deep_stack(|| {
            let template = self.environment.get_template(NAME)?;
            let text = template.render(Value::from(Serde(fields)));
            text.map_err(|error| match error.kind() {
                ErrorKind::UndefinedError => {
                    let wanted = template.undeclared_variables(false);
                    let known = |name: &String| fields.contains_key(name) || GLOBALS.contains(&name.as_str());
                    let mut missing: Vec<String> = wanted.into_iter().filter(|name| !known(name)).collect();
                    missing.sort();
                    match missing.first() {
                        Some(name) => Error::new(ErrorKind::UndefinedError, format!("field {name} is missing")),
                        None => error,
                    }
                }
                _ => error,
            })
        });
        rendered.map_err(|error| error.to_string())?.map_err(|error| said(&error))
    }
}

/// Names that every template has.
const GLOBALS: &[&str] = &["range", "dict", "namespace", "debug"];

fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().keep_trailing_newline(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(print);
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: &Value| python::text(value));
    environment.add_filter("join", join);
    environment.add_filter("regex_replace", regex_replace);
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_template_owned(NAME, source.to_owned())?;
    Ok(environment)
}

/// `htmlsafe_json_dumps` with sorted keys.
fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent = options.get::<Option<Value>>("indent")?;
    options.assert_all_used()?;
    let mut all = vec![("ensure_ascii", Value::from(true)), ("sort_keys", Value::from(true))];
    all.extend(indent.map(|indent| ("indent", indent)));
    let text = python::tojson(value, &Kwargs::from_iter(all))?;
    let escaped = [('<', "\\u003c"), ('>', "\\u003e"), ('&', "\\u0026"), ('\'', "\\u0027")];
    Ok(escaped.iter().fold(text, |text, (letter, escape)| text.replace(*letter, escape)).into())
}

/// `re.sub(pattern, replacement, text, count)`, groups of the replacement written `\1` or `\g<1>`.
fn regex_replace(text: &str, pattern: &str, replacement: &str, count: Option<usize>) -> Result<String, Error> {
    let fault = |error: fancy_regex::Error| Error::new(ErrorKind::InvalidOperation, format!("regex_replace: {error}"));
    let mut replaced = String::new();
    let mut letters = replacement.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, letters.peek().copied()) {
            ('$', _) => replaced.push_str("$$"),
            ('\\', Some(digit)) if digit.is_ascii_digit() => {
                letters.next();
                replaced.push_str(&format!("${{{digit}}}"));
            }
            ('\\', Some('g')) => {
                letters.next();
                let name: String = letters.by_ref().skip_while(|c| *c == '<').take_while(|c| *c != '>').collect();
                replaced.push_str(&format!("${{{name}}}"));
            }
            ('\\', Some('n')) => {
                letters.next();
                replaced.push('\n');
            }
            ('\\', Some('\\')) => {
                letters.next();
                replaced.push('\\');
            }
            _ => replaced.push(letter),
        }
    }
    let regex = Regex::new(pattern).map_err(fault)?;
    regex.try_replacen(text, count.unwrap_or(0), replaced.as_str()).map(|text| text.into_owned()).map_err(fault)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(template: &str) -> Result<String, String> {
        let fields = json!({"q": " What? ", "n": 3, "yes": true, "list": ["a", "it's"], "none": null, "f": 1.0});
        PromptTemplate::new(template)?.render(fields.as_object().unwrap())
    }

    /// Expected values are those of Jinja2 3.1 with the harness's settings.
    #[test]
    fn texts_are_jinja2s() {
        for (template, expected) in [
            ("Q: {{q.strip()}}\n", "Q: What?\n"),
            ("{{n}} {{yes}} {{none}} {{f}}", "3 True None 1.0"),
            ("{{list}}", "['a', \"it's\"]"),
            ("{% for x in list %}\n{{x}}\n{% endfor %}", "\na\n\nit's\n"),
            ("{%- if yes -%} y {%- else -%} n {%- endif -%}", "y"),
            (
                "{{list[1]|tojson}} {{ {'b': 1, 'a': 'é<'}|tojson }}",
                "\"it\\u0027s\" {\"a\": \"\\u00e9\\u003c\", \"b\": 1}",
            ),
            ("{{q|regex_replace('(W)h', '<\\\\1>')}}", " <W>at? "),
            ("{{ ['x', q|trim]|join(': ') }}{{ 'abc'[::-1] }}{{ list|length }}", "x: What?cba2"),
            ("{{ \"%s\" }}{% set a = q.split('a')[0] %}{{a}}", "%s Wh"),
        ] {
            assert_eq!(made(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        assert!(made("a\n{{ other }}").unwrap_err().contains("field other is missing"));
        assert!(made("a\n{% for %}").unwrap_err().contains("line 2"));
        assert!(made("{% for i in range(1000000000) %}x{% endfor %}").is_err());
        assert!(made("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}").is_err());
        assert!(made("{{ list.nothing.more }}").is_err());
    }
}
