//! The Jinja that chat templates are written in, as transformers sets it up.

use std::sync::LazyLock;

use chrono::Local;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value};
use minijinja::{Environment, Error, ErrorKind, Output, State};
use regex::Regex;

use super::python;

/// The template's name in its environment.
pub(super) const NAME: &str = "chat template";

/// Around what a `{% generation %}` block gives. Neither is a character that a text may hold.
pub(super) const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];

/// Steps that one rendering may take, each of them or 64 bytes that it makes: templates are anybody's.
pub(super) const FUEL: u64 = 400_000;

/// Digits of the largest width that a format may ask for.
const WIDTH_DIGITS: usize = 4;

/// An environment with the template `source` in it.
///
/// # Errors
/// A template that is none.
pub(super) fn environment(source: &str) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(method);
    environment.set_formatter(print);
    environment.add_filter("tojson", |value: &Value, options: Kwargs| python::tojson(value, &options));
    environment.add_filter("string", |value: &Value| python::text(value));
    environment.add_filter("join", join);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: &str| now(format));
    let [begin, end] = MARKS;
    environment.add_filter("prune_generation", move |text: &str| format!("{begin}{text}{end}"));
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_template_owned(NAME, with_filters(source))?;
    Ok(environment)
}

/// Python's methods. What `format` and `join` make is paid for when it is there, so that is bounded before.
pub(super) fn method(state: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    match (name, value.as_str()) {
        ("join", Some(between)) if arguments.len() == 1 => joined(state, &arguments[0], between, None).map(Value::from),
        ("format", Some(format)) if has_wide_field(format) => {
            Err(Error::new(ErrorKind::InvalidOperation, "format: a field is too wide"))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

/// The filter `join`.
pub(super) fn join(
    state: &mut State,
    value: &Value,
    between: Option<&str>,
    attribute: Option<&str>,
    options: Kwargs,
) -> Result<String, Error> {
    let between = between.map_or_else(|| options.get::<Option<&str>>("d"), |between| Ok(Some(between)))?;
    let attribute = attribute.map_or_else(|| options.get::<Option<&str>>("attribute"), |own| Ok(Some(own)))?;
    options.assert_all_used()?;
    joined(state, value, between.unwrap_or_default(), attribute)
}

/// The items, or an attribute of each, as Python writes them; what comes of it is paid for as it grows, as the engine's
/// own filter does not: a list can have the same long text many times.
fn joined(state: &State, value: &Value, between: &str, attribute: Option<&str>) -> Result<String, Error> {
    let mut all = String::new();
    for (place, item) in value.try_iter()?.enumerate() {
        let path = attribute.into_iter().flat_map(|path| path.split('.'));
        let item = path.into_iter().try_fold(item, |item, name| item.get_attr(name))?;
        let text = python::text(&item)?;
        let between = if place > 0 { between } else { "" };
        state.consume_fuel(1 + ((between.len() + text.len()) / 64) as u64)?;
        all.extend([between, &text]);
    }
    Ok(all)
}

/// Whether a number in braces has more digits than a width needs.
fn has_wide_field(format: &str) -> bool {
    let fields = format.split('{').skip(1).map(|field| field.split_once('}').map_or(field, |(field, _)| field));
    let mut numbers = fields.flat_map(|field| field.split(|letter: char| !letter.is_ascii_digit()));
    numbers.any(|digits| digits.len() > WIDTH_DIGITS)
}

/// Prints as Python does: `None`, `True`, lists and objects in Python's words.
pub(super) fn print(out: &mut Output, _: &mut State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text),
        None => out.write_str(&python::text(value)?),
    }
    .map_err(Error::from)
}

/// `{% generation %}` as a filter, which sees what the block gives.
fn with_filters(source: &str) -> String {
    static BLOCK: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}").ok());
    let Some(block) = BLOCK.as_ref() else { return source.to_owned() };
    let replaced = block.replace_all(source, |found: &regex::Captures<'_>| {
        let filter = if found.get(2).is_some() { "endfilter" } else { "filter prune_generation" };
        format!("{{%{} {filter} {}%}}", &found[1], &found[3])
    });
    replaced.into_owned()
}

/// Whether a template says which parts are the assistant's.
pub(super) fn has_generation(source: &str) -> bool {
    with_filters(source) != source
}

/// `datetime.now().strftime(format)`.
fn now(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    let written = std::fmt::Write::write_fmt(&mut text, format_args!("{}", Local::now().format(format)));
    let fault = |_| Error::new(ErrorKind::InvalidOperation, format!("strftime_now: {format:?} is no format of a date"));
    written.map_err(fault).map(|()| text)
}
