//! One schema per setting: a command's settings are one struct, filled from its defaults, then a TOML file, then flags.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// Builds the settings of `command` from `config` (a TOML file whose keys stand at the top or under `[command]`) and
/// `flags` (absent options and unset switches do not count). Missing keys take the schema's defaults.
///
/// # Errors
/// A file that is not there or not TOML, a key that is unknown, a value of another type; each names its place.
pub fn resolve<T: DeserializeOwned>(command: &str, config: Option<&Path>, flags: &impl Serialize) -> Result<T> {
    let mut settings = match config {
        Some(path) => read(command, path)?,
        None => Map::new(),
    };
    let place = config.map_or_else(|| "settings".to_owned(), |path| path.display().to_string());
    match serde_json::to_value(flags) {
        Ok(Value::Object(flags)) => {
            settings.extend(flags.into_iter().filter(|(_, value)| !matches!(value, Value::Null | Value::Bool(false))));
        }
        other => return Err(Error::work(format!("flags of {command} are not a table: {other:?}"))),
    }
    serde_json::from_value(Value::Object(settings)).map_err(|error| Error::request(format!("{place}: {error}")))
}

fn read(command: &str, path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, &error))?;
    let wrong = |error: &dyn std::fmt::Display| Error::request(format!("{}: {error}", path.display()));
    let table: toml::Table = text.parse().map_err(|error| wrong(&toml_fault(&text, &error)))?;
    let table = match table.get(command) {
        Some(toml::Value::Table(section)) => section.clone(),
        _ => table,
    };
    match serde_json::to_value(table) {
        Ok(Value::Object(mut map)) => {
            beside(path.parent().unwrap_or(Path::new("")), &mut map);
            Ok(map)
        }
        Ok(_) => Err(wrong(&"not a table")),
        Err(error) => Err(wrong(&error)),
    }
}

/// What is wrong with a TOML file, in a line.
#[must_use]
pub fn toml_fault(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    let place = before.map_or_else(String::new, |before| {
        let (line, start) = (before.matches('\n').count() + 1, before.rfind('\n').map_or(0, |at| at + 1));
        format!("line {line}, column {}: ", before[start..].chars().count() + 1)
    });
    let words: Vec<&str> = error.message().split_whitespace().collect();
    format!("{place}{}", words.join(" "))
}

/// Settings that name what is read.
const INPUTS: [&str; 9] = ["model", "data", "eval_data", "data_dir", "adapter", "teacher", "plan", "from", "against"];

/// Relative paths to inputs that exist in the directory of their file, `near`, mean those; others are left as they are,
/// to be found from the current directory or the hub. Tables in the table included.
pub fn beside(near: &Path, settings: &mut Map<String, Value>) {
    let found = |text: &str| {
        let path = near.join(text);
        (!text.is_empty() && path.exists()).then(|| path.display().to_string())
    };
    for (key, value) in settings {
        match value {
            Value::Object(section) => beside(near, section),
            Value::String(text) if INPUTS.contains(&key.as_str()) => {
                if let Some(path) = found(text) {
                    *text = path;
                }
            }
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
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Settings {
        samples: usize,
        force: bool,
        name: Option<String>,
    }

    impl Default for Settings {
        fn default() -> Self {
            Self { samples: 7, force: false, name: None }
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_the_defaults() {
        let config = file("samples = 3\nforce = true\n");
        let flags = Settings { samples: 9, force: false, name: None };
        let settings: Settings = resolve("analyze", Some(config.path()), &flags).unwrap();
        assert_eq!(settings, Settings { samples: 9, force: true, name: None });
        let none: Settings = resolve("analyze", None, &serde_json::json!({})).unwrap();
        assert_eq!(none, Settings::default());
    }

    #[test]
    fn a_section_of_a_recipe_will_do() {
        let config = file("model = \"m\"\n[analyze]\nsamples = 4\n");
        let settings: Settings = resolve("analyze", Some(config.path()), &serde_json::json!({})).unwrap();
        assert_eq!(settings.samples, 4);
    }

    #[test]
    fn inputs_are_looked_for_beside_the_file() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("c4"), "x").unwrap();
        let text = json!({"data": "c4", "model": "org/c4", "name": "c4", "eval": {"tasks": ["c4", "text:c4"]}});
        let Value::Object(mut settings) = text else { panic!() };
        beside(dir.path(), &mut settings);
        let found = dir.path().join("c4").display().to_string();
        let expected = json!({
            "data": found, "model": "org/c4", "name": "c4", "eval": {"tasks": ["c4", format!("text:{found}")]},
        });
        assert_eq!(Value::Object(settings), expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let unknown = file("sampels = 3\n");
        let error = resolve::<Settings>("analyze", Some(unknown.path()), &serde_json::json!({})).unwrap_err();
        assert!(error.to_string().contains("sampels"), "{error}");
        let broken = file("samples = = 3\n");
        assert!(resolve::<Settings>("analyze", Some(broken.path()), &serde_json::json!({})).is_err());
        let missing = resolve::<Settings>("analyze", Some(Path::new("nowhere.toml")), &serde_json::json!({}));
        assert_eq!(missing.unwrap_err().exit_code(), 2);
    }
}
