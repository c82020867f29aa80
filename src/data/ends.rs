//! What the files of a model say of its texts: the tokens that end them, and how it is kept from repeating itself.

use std::path::Path;

use serde_json::{Map, Value};

use super::Tokenizer;
use crate::checkpoint::read_json;
use crate::{Error, Result};

/// Files that may say it, the first that does decides: transformers' order.
const FILES: [&str; 2] = ["generation_config.json", "config.json"];

/// Ids after which a text of the model in `directory` ends: `eos_token_id`, one or a list, of `generation_config.json`
/// or else of `config.json`, or else the tokenizer's own; none if nobody names one.
///
/// # Errors
/// Work: a broken file, or an `eos_token_id` that is neither a number nor a list of numbers.
pub fn end_tokens(directory: &Path, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    for name in FILES {
        let path = directory.join(name);
        if !path.exists() {
            continue;
        }
        let config: Map<String, Value> = read_json(&path)?;
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids: Option<Vec<u32>> = match config.get("eos_token_id") {
            None | Some(Value::Null) => continue,
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        return ids.ok_or_else(|| {
            let found = &config["eos_token_id"];
            Error::work(format!("{}: eos_token_id is {found}, expected a token id or a list of them", path.display()))
        });
    }
    Ok(tokenizer.eos().into_iter().collect())
}

/// What the logits of tokens that stand in the text already are divided by, where negative multiplied with:
/// `repetition_penalty` of `generation_config.json`, or of `config.json` where there is no such file. transformers
/// applies it whenever it generates, by the likeliest token too.
///
/// # Errors
/// Work: a broken file, or a `repetition_penalty` that is no number above 0.
pub(crate) fn repetition_penalty(directory: &Path) -> Result<Option<f64>> {
    let Some(path) = FILES.iter().map(|name| directory.join(name)).find(|path| path.exists()) else { return Ok(None) };
    let config: Map<String, Value> = read_json(&path)?;
    match config.get("repetition_penalty") {
        None | Some(Value::Null) => Ok(None),
        Some(found) => match found.as_f64().filter(|penalty| *penalty > 0.0) {
            Some(penalty) => Ok(Some(penalty).filter(|penalty| *penalty != 1.0)),
            None => Err(Error::work(format!(
                "{}: repetition_penalty is {found}, expected a number above 0",
                path.display()
            ))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::tokenizer::tests::bytes;

    #[test]
    fn the_first_file_that_names_them_decides() {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = bytes();
        let ends = || end_tokens(dir.path(), &tokenizer);
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(ends().unwrap(), tokenizer.eos().into_iter().collect::<Vec<_>>());
        write("config.json", "{\"eos_token_id\": 7}");
        assert_eq!(ends().unwrap(), [7]);
        write("generation_config.json", "{\"eos_token_id\": null}");
        assert_eq!(ends().unwrap(), [7]);
        write("generation_config.json", "{\"eos_token_id\": [3, 9]}");
        assert_eq!(ends().unwrap(), [3, 9]);
        write("generation_config.json", "{\"eos_token_id\": [3, -9]}");
        let error = ends().unwrap_err().to_string();
        assert!(error.contains("generation_config.json: eos_token_id is [3,-9]"), "{error}");
        let penalty = || repetition_penalty(dir.path());
        assert_eq!(penalty().unwrap(), None);
        for (text, expected) in [("1.05", Some(1.05)), ("2", Some(2.0)), ("1.0", None), ("null", None)] {
            write("generation_config.json", &format!("{{\"repetition_penalty\": {text}}}"));
            assert_eq!(penalty().unwrap(), expected, "{text}");
        }
        write("generation_config.json", "{\"repetition_penalty\": -1}");
        assert!(penalty().unwrap_err().to_string().contains("generation_config.json: repetition_penalty is -1"));
    }
}
