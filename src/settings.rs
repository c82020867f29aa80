//! One schema per setting: a command's settings are one struct, filled from its defaults, then a TOML file, then flags.
//!
//! All three layers are TOML tables until they become the struct, so that no value is lost on the way.

use std::fmt;
use std::path::Path;

use serde::de::value::MapDeserializer;
use serde::de::{self, DeserializeOwned};
use toml::{Table, Value};

use crate::{Context, Error, Result, files};

/// Sections that a file may have: one for each command that has settings, and what `prune run` drops and repairs by.
pub const SECTIONS: [&str; 17] = [
    "drop", "repair", "analyze", "cut", "grow", "generate", "teach", "heal", "merge", "convert", "eval", "compare",
    "sample", "bench", "fetch", "demo", "methods",
];
/// Keys above the sections: they belong to `prune run`.
pub(crate) const ABOVE: [&str; 2] = ["model", "caveat"];
/// More than there is of anything that is counted: layers, tokens, documents, steps.
const MOST: i64 = 1_000_000_000;
/// The setting that counts nothing.
const SEED: &str = "seed";

/// Builds the settings of `command` from `config` and from `flags`, which hold what was given on the command line and
/// nothing else. The keys of the file stand at its top; in a recipe, a file with [`SECTIONS`], under `[command]`, and
/// one without that section changes no default. Missing keys take the schema's defaults.
///
/// # Errors
/// Request: a file that is not there or not TOML, a key that is unknown, a value of another type or one that is not
/// finite; each names its place.
pub fn resolve<T: DeserializeOwned>(command: &str, config: Option<&Path>, flags: Table) -> Result<T> {
    let mut settings = Table::new();
    if let Some(path) = config {
        let (table, place) = section(path, command)?;
        settings = table;
        // its faults are the file's, whatever flags say
        build::<T>(&settings, &|key| format!("{place}{key}"))?;
    }
    settings.extend(flags.clone());
    let built = build(&settings, &|key| format!("--{}", key.replace('_', "-")));
    match (built, config) {
        // what only the two together do not allow
        (Err(error), Some(path)) if build::<T>(&flags, &str::to_owned).is_ok() => Err(error).context(|| path.display()),
        (built, _) => built,
    }
}

/// Settings from a table alone; `place` says where a key of it stands.
///
/// # Errors
/// Request: a key that is unknown, a value of another type or one that is not finite.
pub fn build<T: DeserializeOwned>(table: &Table, place: &dyn Fn(&str) -> String) -> Result<T> {
    let known = keys::<T>();
    for (key, value) in table {
        if !known.contains(&key.as_str()) {
            return Err(Error::request(unknown(key, known))).context(|| place(key));
        }
        possible(key, value).context(|| place(key))?;
        // every key has a default: alone with one, a fault is that one's
        let one = Table::from_iter([(key.clone(), value.clone())]);
        T::deserialize(one).map_err(|error| refused(value, error.message())).context(|| place(key))?;
    }
    T::deserialize(table.clone()).map_err(|error| Error::request(one_line(error.message())))
}

/// What is wrong with a value, in the words of a person.
fn refused(value: &Value, fault: &str) -> Error {
    let fault = match (value, fault.split_once(", expected ")) {
        (Value::Integer(number), Some((wrong, "usize" | "u64"))) if wrong.starts_with("invalid value") => {
            format!("{number} is no count, expected 0 or more")
        }
        (_, Some((wrong, expected))) if wrong.starts_with("invalid type") => {
            let expected = match expected {
                "usize" | "u64" => "a whole number",
                "f64" => "a number",
                "a boolean" => "true or false",
                "a sequence" => "a list",
                other => other.strip_prefix("expected ").unwrap_or(other),
            };
            let shown: String = value.to_string().chars().take(60).collect();
            format!("{shown}: expected {expected}")
        }
        _ => fault.to_owned(),
    };
    Error::request(one_line(&fault))
}

/// Refuses numbers that nothing can be sized by.
fn possible(key: &str, value: &Value) -> Result<()> {
    match value {
        Value::Float(number) if !number.is_finite() => {
            Err(Error::request(format!("{number}: expected a finite number")))
        }
        Value::Integer(number) if *number > MOST && key != SEED => {
            Err(Error::request(format!("{number}: expected at most {MOST}")))
        }
        Value::Array(values) => values.iter().try_for_each(|value| possible(key, value)),
        Value::Table(table) => table.iter().try_for_each(|(key, value)| possible(key, value).context(|| key)),
        _ => Ok(()),
    }
}

/// What to say of a key or section that is none of `known`.
#[must_use]
pub fn unknown(name: &str, known: &[&str]) -> String {
    let likeness = |known: &&&str| strsim::jaro_winkler(name, known);
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).filter(|near| likeness(near) > 0.8);
    match nearest {
        Some(near) => format!("unknown, did you mean {near}?"),
        None => format!("unknown, expected one of {}", known.join(", ")),
    }
}

/// The keys of a struct of settings, which denies unknown ones.
#[must_use]
pub fn keys<T: DeserializeOwned>() -> &'static [&'static str] {
    let strange = MapDeserializer::<_, Known>::new(std::iter::once(("", "")));
    T::deserialize(strange).map_or_else(|known| known.0, |_| &[])
}

/// What a struct says its keys are when it refuses one.
#[derive(Debug)]
struct Known(&'static [&'static str]);

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl std::error::Error for Known {}

impl de::Error for Known {
    fn custom<T: fmt::Display>(_fault: T) -> Self {
        Self(&[])
    }

    fn unknown_field(_key: &str, expected: &'static [&'static str]) -> Self {
        Self(expected)
    }
}

/// The TOML file at `path`.
///
/// # Errors
/// Request: no such file, none that can be settings, not TOML.
pub fn read(path: &Path) -> Result<Table> {
    let wrong = |fault: String| Error::request(format!("{}: {fault}", path.display()));
    // whatever is wrong with the file, it was asked for
    let text = files::read_text(path, files::TOML).map_err(|error| Error::request(error.to_string()))?;
    text.parse().map_err(|error| wrong(toml_fault(&text, &error)))
}

/// The settings of `command` in the file at `path`, and what stands in front of a key when it is spoken of.
fn section(path: &Path, command: &str) -> Result<(Table, String)> {
    let mut table = read(path)?;
    let mut place = format!("{}: ", path.display());
    if is_recipe(&table) {
        check_sections(&table).context(|| path.display())?;
        table = match table.remove(command) {
            Some(Value::Table(section)) => section,
            _ => Table::new(),
        };
        place += &format!("[{command}] ");
    }
    beside(path.parent().unwrap_or(Path::new("")), &mut table);
    Ok((table, place))
}

/// Whether a file has a section for each command, not the keys of one.
fn is_recipe(table: &Table) -> bool {
    table.iter().any(|(key, value)| value.is_table() && SECTIONS.contains(&key.as_str()))
}

/// Refuses what no recipe has: other sections, other keys above them.
///
/// # Errors
/// Request: names what is wrong.
pub(crate) fn check_sections(table: &Table) -> Result<()> {
    for (key, value) in table {
        let (place, known) = match value {
            Value::Table(_) => (format!("[{key}]"), &SECTIONS[..]),
            _ => (key.clone(), &ABOVE[..]),
        };
        if known.contains(&key.as_str()) {
            continue;
        }
        return Err(match (value.is_table(), SECTIONS.contains(&key.as_str())) {
            (false, true) => Error::request(format!("{key}: expected a section, [{key}]")),
            (true, _) => Error::request(format!("{place}: {}", unknown(key, known))),
            _ => {
                let elsewhere = "settings stand in a command's section, such as [heal]";
                Error::request(format!("{place}: {}; {elsewhere}", unknown(key, known)))
            }
        });
    }
    Ok(())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is wrong with a TOML file, in a line.
fn toml_fault(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let place = before.map_or_else(String::new, |before| {
        let (line, start) = (before.matches('\n').count() + 1, before.rfind('\n').map_or(0, |at| at + 1));
        format!("line {line}, column {}: ", before[start..].chars().count() + 1)
    });
    format!("{place}{}", one_line(error.message()))
}

/// Settings that name what is read.
const INPUTS: [&str; 12] = [
    "model",
    "data",
    "eval_data",
    "data_dir",
    "adapter",
    "teacher",
    "reference",
    "chat_template",
    "plan",
    "from",
    "to",
    "against",
];

/// Relative paths to inputs that exist in the directory of their file, `near`, mean those; others are left as they are,
/// to be found from the current directory or the hub. Tables in the table included.
pub fn beside(near: &Path, settings: &mut Table) {
    let found = |text: &str| {
        let path = near.join(text);
        (!text.is_empty() && path.exists()).then(|| path.display().to_string())
    };
    let rename = |name: &mut Value| {
        if let Some(path) = name.as_str().and_then(found) {
            *name = Value::String(path);
        }
    };
    for (key, value) in settings {
        match value {
            Value::Table(section) => beside(near, section),
            Value::Array(names) if INPUTS.contains(&key.as_str()) => names.iter_mut().for_each(rename),
            Value::String(_) if INPUTS.contains(&key.as_str()) => rename(value),
            // eval's `text:FILE`
            Value::Array(names) if key == "tasks" => {
                for name in names {
                    let path = name.as_str().and_then(|name| found(name.strip_prefix("text:")?));
                    if let Some(path) = path {
                        *name = Value::String(format!("text:{path}"));
                    }
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Deserialize, Serialize};
    use toml::toml;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Settings {
        samples: usize,
        rate: Option<f64>,
        force: bool,
        names: Vec<String>,
    }

    impl Default for Settings {
        fn default() -> Self {
            Self { samples: 7, rate: None, force: false, names: Vec::new() }
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn from(text: &str, flags: Table) -> Result<Settings> {
        resolve("analyze", Some(file(text).path()), flags)
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_the_defaults() {
        let text = "samples = 3\nforce = true\nnames = [\"a\"]\n";
        let kept = Settings { samples: 9, rate: None, force: true, names: vec!["a".into()] };
        assert_eq!(from(text, toml! { samples = 9 }).unwrap(), kept);
        let off = Settings { samples: 3, rate: Some(0.5), force: false, names: Vec::new() };
        assert_eq!(
            from(
                text,
                toml! { force = false
                names = []
                rate = 0.5 }
            )
            .unwrap(),
            off
        );
        assert_eq!(resolve::<Settings>("analyze", None, Table::new()).unwrap(), Settings::default());
    }

    #[test]
    fn a_recipe_serves_every_command() {
        let none = Table::new;
        assert_eq!(from("model = \"m\"\n[analyze]\nsamples = 4\n", none()).unwrap().samples, 4);
        for other in ["model = \"m\"\ncaveat = \"c\"\n[heal]\nlr = 1.0", "[drop]\nlayers = [1]", "[analyze]"] {
            assert_eq!(from(other, none()).unwrap(), Settings::default(), "{other}");
        }
        for (text, fault) in [
            ("samples = 1\n[heal]", "samples: unknown, expected one of model, caveat"),
            ("[heal]\n[evaluate]", "[evaluate]: unknown, did you mean eval?"),
            ("heal = 3\n[eval]", "heal: expected a section"),
        ] {
            let error = from(text, none()).unwrap_err();
            assert!(error.to_string().contains(fault) && error.exit_code() == 2, "{error}");
        }
    }

    #[test]
    fn inputs_are_looked_for_beside_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("c4"), "x").unwrap();
        let table = |found: &str| {
            format!(
                "data = {found:?}\nplan = [{found:?}, \"other\"]\nmodel = \"org/c4\"\nname = \"c4\"\n[eval]\ntasks = [\"c4\", \"text:{found}\"]\n"
            )
        };
        let mut settings: Table = table("c4").parse().unwrap();
        beside(dir.path(), &mut settings);
        let found = dir.path().join("c4").display().to_string();
        assert_eq!(settings, table(&found).parse::<Table>().unwrap());
    }

    #[test]
    fn what_is_wrong_is_named_in_one_line() {
        for (text, fault) in [
            ("sampels = 3", "sampels: unknown, did you mean samples?"),
            ("zzz = 3", "zzz: unknown, expected one of samples, rate, force, names"),
            ("[analyze]\nsampels = 3", "[analyze] sampels: unknown"),
            ("samples = 3\nsamples = = 3", "line 2, column 11: "),
            ("samples = 3\nsamples = 3", "line 2, column 1: duplicate key"),
            ("samples = \"many\"", "samples: \"many\": expected a whole number"),
            ("samples = 1.5", "samples: 1.5: expected a whole number"),
            ("samples = -1", "samples: -1 is no count"),
            ("samples = 9223372036854775807", "samples: 9223372036854775807: expected at most 1000000000"),
            ("rate = nan", "rate: NaN: expected a finite number"),
            ("rate = -inf", "rate: -inf: expected a finite number"),
            ("force = 1", "force: 1: expected true or false"),
            ("names = \"a\"", "names: \"a\": expected a list"),
            ("samples = 9223372036854775808", "line 1, column "),
        ] {
            let error = from(text, Table::new()).unwrap_err();
            let said = error.to_string();
            assert!(said.contains(fault) && !said.contains('\n') && error.exit_code() == 2, "{text}: {said}");
        }
        let error = from("samples = 1", toml! { rate = inf }).unwrap_err();
        assert_eq!(error.to_string(), "--rate: inf: expected a finite number");
        for place in [Path::new("nowhere.toml"), Path::new("/")] {
            assert_eq!(resolve::<Settings>("analyze", Some(place), Table::new()).unwrap_err().exit_code(), 2);
        }
        let endless = file(&"# ".repeat(1 << 20));
        assert!(read(endless.path()).unwrap_err().to_string().contains("longer"));
    }
}
