//! What an output is made by and from: which command, and every file that its settings name.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;

use crate::shown::from_here;
use crate::{Error, Result};

/// Settings that say where something goes.
const OUTPUTS: &[&str] = &["out", "csv", "extract"];

/// Settings that name a row of a table: a directory may be called the same.
const NAMES: &[&str] = &["by", "format", "method", "methods", "metric", "metrics", "repair", "strategies", "strategy"];

/// Which command makes an output, and what from.
#[derive(Clone, Debug)]
pub struct Origin {
    pub(super) command: &'static str,
    inputs: Vec<PathBuf>,
}

impl Origin {
    /// Made by `command` from what `settings` name: every text in them that is the path of something that exists, alone
    /// or behind a `:` (`text:FILE`), is an input, so that no command can forget one; but for names of rows of tables.
    ///
    /// # Errors
    /// Request: settings that are no text, as paths may be.
    pub fn of(command: &'static str, settings: &impl Serialize) -> Result<Self> {
        let value = serde_json::to_value(settings).map_err(|error| Error::request(error.to_string()))?;
        let mut inputs = Vec::new();
        gather(&value, &mut inputs);
        Ok(Self { command, inputs })
    }

    /// Made by `command` from nothing that is a file.
    #[must_use]
    pub fn program(command: &'static str) -> Self {
        Self { command, inputs: Vec::new() }
    }

    /// Refuses a `target` that would replace the current directory, or lie in a model or adapter that it is made from.
    pub(super) fn keep_out(&self, target: &Path) -> Result<()> {
        for input in self.inputs.iter().filter(|input| target.starts_with(input) && target != input.as_path()) {
            if ["config.json", "adapter_config.json"].iter().any(|file| input.join(file).exists()) {
                return refuse(target, &format!("the output would lie in its source, {}", from_here(input)));
            }
        }
        match std::env::current_dir() {
            Ok(current) if current.starts_with(target) => {
                refuse(target, "the output would replace the current directory")
            }
            _ => Ok(()),
        }
    }

    /// Refuses a `target` that would replace an input.
    pub(super) fn keep_inputs(&self, target: &Path) -> Result<()> {
        match self.inputs.iter().find(|input| input.starts_with(target)) {
            Some(input) => refuse(target, &format!("the output would replace its source, {}", from_here(input))),
            None => Ok(()),
        }
    }
}

fn refuse(target: &Path, why: &str) -> Result<()> {
    Err(Error::request(format!("{}: {why}", from_here(target))))
}

fn gather(value: &Value, inputs: &mut Vec<PathBuf>) {
    match value {
        Value::String(text) => {
            let behind = text.split_once(':').map(|(_, behind)| behind);
            let paths = [Some(text.as_str()), behind].into_iter().flatten().filter(|path| !path.is_empty());
            inputs.extend(paths.filter_map(|path| Path::new(path).canonicalize().ok()));
        }
        Value::Array(values) => values.iter().for_each(|value| gather(value, inputs)),
        Value::Object(map) => {
            let is_input = |key: &str| !OUTPUTS.contains(&key) && !NAMES.contains(&key);
            map.iter().filter(|(key, _)| is_input(key)).for_each(|(_, value)| gather(value, inputs));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Whatever names something that exists is a source, wherever it stands; a repair is none that a directory is
    /// called after.
    #[test]
    fn paths_are_inputs_and_names_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().display().to_string(), dir.path().canonicalize().unwrap());
        let kept = |settings| Origin::of("cut", &settings).unwrap().keep_inputs(&target).is_err();
        assert!(kept(json!({"data": path})) && kept(json!({"tasks": [format!("text:{path}")]})));
        assert!(kept(json!({"cut": {"plan": path}})));
        for own in [
            json!({"out": path}),
            json!({"repair": path}),
            json!({"by": path}),
            json!({"metrics": [path]}),
            json!({"samples": 3}),
        ] {
            assert!(!kept(own.clone()), "{own}");
        }
    }
}
