//! What the files beside `tokenizer.json` say: special tokens, tokens added later, the model's vocabulary.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::AddedToken;

use super::rebuilt;
use crate::files::{self, Bound};
use crate::{Error, Result};

/// The named special tokens in the order in which transformers adds those that `tokenizer.json` lacks.
const NAMED: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A model's special tokens and vocabulary as its configuration files declare them.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// Tokens that are no special tokens by name (`added_tokens_decoder`), by index.
    pub(super) added: Vec<AddedToken>,
    /// Special tokens, in the order in which missing ones are added.
    pub(super) special: Vec<AddedToken>,
    /// The token that starts a text, by its content.
    pub(super) bos: Option<String>,
    /// The token that ends a text.
    pub(super) eos: Option<String>,
    /// The token that fills up batches.
    pub(super) pad: Option<String>,
    /// The named special tokens, by name: `bos_token` and its like.
    pub(super) named: Map<String, Value>,
    /// Ids of `config.json`, for a directory whose tokenizer files name no tokens at all.
    pub(super) ids: Ids,
    /// Rows of the model's embedding, where `config.json` says.
    pub(super) vocabulary: Option<u64>,
    /// `model_max_length`, where it is a length.
    pub(super) max_length: Option<usize>,
    /// Special tokens inside a text are plain text.
    pub(super) split_special: bool,
}

/// Token ids.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ids {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) pad: Option<u32>,
}

impl Declared {
    /// Reads `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json` and `config.json` of `directory`,
    /// those that are there, with the precedence of transformers 5 (`PreTrainedTokenizerBase._from_pretrained`):
    /// `added_tokens_decoder` in the first makes the second and third void. A `tokenizer` given (the content of
    /// `tokenizer.json`) becomes what `AutoTokenizer` makes of it.
    ///
    /// # Errors
    /// [`crate::Error::Work`] for a file that is no JSON object.
    pub(super) fn read(directory: &Path, tokenizer: Option<&mut Value>) -> Result<Self> {
        let config = object(&directory.join("config.json"))?.unwrap_or_default();
        let own = object(&directory.join("tokenizer_config.json"))?;
        let map = object(&directory.join("special_tokens_map.json"))?;
        let named_somewhere = own.is_some() || map.is_some();
        let mut settings = own.unwrap_or_default();

        let decoder = match settings.remove("added_tokens_decoder") {
            Some(Value::Object(decoder)) => Some(decoder),
            _ => None,
        };
        if decoder.is_none() {
            settings.extend(map.unwrap_or_default());
        }
        let lost = tokenizer.map(|file| rebuilt::rebuild(file, &mut settings, &config)).unwrap_or_default();
        let mut by_index: BTreeMap<u64, AddedToken> = BTreeMap::new();
        if let Some(decoder) = decoder {
            let tokens = decoder.iter().filter_map(|(index, value)| Some((index.parse().ok()?, token(value, false)?)));
            by_index.extend(tokens);
        } else {
            for (content, index) in object(&directory.join("added_tokens.json"))?.unwrap_or_default() {
                let special = NAMED.iter().any(|name| content_of(settings.get(*name)) == Some(&content));
                if let Some(index) = index.as_u64() {
                    by_index.insert(index, AddedToken::from(content, special));
                }
            }
            let tokens = lost.iter().filter_map(|value| Some((value.get("id")?.as_u64()?, token(value, false)?)));
            by_index.extend(tokens);
        }
        // of two with one content the first counts
        let by_content: HashMap<&str, &AddedToken> =
            by_index.values().rev().map(|declared| (declared.content.as_str(), declared)).collect();
        let known = |found: AddedToken| {
            let declared = by_content.get(found.content.as_str()).map(|declared| (*declared).clone());
            declared.unwrap_or(found).special(true)
        };
        let special = special_values(&settings).into_iter().filter_map(|value| token(value, true)).map(known).collect();
        let content = |name: &str| content_of(settings.get(name)).map(str::to_owned);
        let named = NAMED.iter().filter_map(|name| Some(((*name).to_owned(), content(name)?.into()))).collect();
        Ok(Self {
            special,
            named,
            bos: content("bos_token"),
            eos: content("eos_token"),
            pad: content("pad_token"),
            ids: if named_somewhere { Ids::default() } else { ids(&config) },
            vocabulary: vocabulary(&config),
            // larger values are the library's way of saying "not set"
            max_length: settings
                .get("model_max_length")
                .and_then(Value::as_u64)
                .and_then(|n| u32::try_from(n).ok())
                .map(|n| n as usize),
            split_special: settings.get("split_special_tokens").and_then(Value::as_bool).unwrap_or(false),
            added: by_index.into_values().collect(),
        })
    }
}

impl Declared {
    /// Adds to `tokenizer` what it lacks: tokens of the decoder by index, then special tokens by name.
    pub(super) fn add_to(&self, tokenizer: &mut tokenizers::Tokenizer) -> tokenizers::Result<()> {
        let present = tokenizer.get_added_tokens_decoder();
        let same: HashSet<&AddedToken> = present.values().collect();
        let mut known: HashSet<&str> = present.values().map(|token| token.content.as_str()).collect();
        let mut tokens = Vec::new();
        for token in self.added.iter().filter(|token| !same.contains(token)) {
            known.insert(token.content.as_str());
            tokens.push(token.clone());
        }
        for token in &self.special {
            if known.insert(token.content.as_str()) {
                tokens.push(token.clone());
            }
        }
        if !tokens.is_empty() {
            tokenizer.add_tokens(tokens)?;
        }
        Ok(())
    }
}

/// Every value that names a special token: the seven well-known names first, then other `*_token` keys, then the extra
/// ones.
fn special_values(settings: &Map<String, Value>) -> Vec<&Value> {
    let named = NAMED.iter().filter_map(|name| settings.get(*name));
    let others = settings.iter().filter(|(name, _)| name.ends_with("_token") && !NAMED.contains(&name.as_str()));
    let extra =
        settings.get("extra_special_tokens").filter(|v| !is_empty(v)).or(settings.get("additional_special_tokens"));
    let extra: Vec<&Value> = match extra {
        Some(Value::Array(list)) => list.iter().collect(),
        Some(Value::Object(map)) => map.values().collect(),
        _ => Vec::new(),
    };
    named.chain(others.map(|(_, value)| value)).chain(extra).collect()
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Null => true,
        _ => false,
    }
}

/// A token given as a string or as an object with `content` and flags.
fn token(value: &Value, special: bool) -> Option<AddedToken> {
    let content = content_of(Some(value))?;
    let flag = |name: &str, default: bool| value.get(name).and_then(Value::as_bool).unwrap_or(default);
    let special = flag("special", special);
    let token = AddedToken::from(content, special).normalized(flag("normalized", !special));
    Some(token.lstrip(flag("lstrip", false)).rstrip(flag("rstrip", false)).single_word(flag("single_word", false)))
}

fn content_of(value: Option<&Value>) -> Option<&str> {
    let content = match value? {
        Value::String(content) => content,
        Value::Object(token) => token.get("content")?.as_str()?,
        _ => return None,
    };
    (!content.is_empty()).then_some(content)
}

/// The ids in `config.json`; of several `eos_token_id` the first.
fn ids(config: &Map<String, Value>) -> Ids {
    let id = |name: &str| {
        let value = inner(config, name)?;
        let value = value.as_array().map_or(Some(value), |list| list.first())?;
        u32::try_from(value.as_u64()?).ok()
    };
    Ids { bos: id("bos_token_id"), eos: id("eos_token_id"), pad: id("pad_token_id") }
}

fn vocabulary(config: &Map<String, Value>) -> Option<u64> {
    inner(config, "vocab_size").and_then(Value::as_u64)
}

/// A key of the configuration, or of the language model's part of it.
fn inner<'a>(config: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    config.get(name).or_else(|| config.get("text_config")?.get(name))
}

/// A JSON object, or `None` where there is no such file.
fn object(path: &Path) -> Result<Option<Map<String, Value>>> {
    if path.exists() { files::json(path, Bound::RECORD).map(Some) } else { Ok(None) }
}

/// The error for a directory without `tokenizer.json`, with the way to make one from what is there.
pub(super) fn missing(directory: &Path) -> Error {
    let shown = directory.display();
    if !directory.is_dir() {
        return Error::request(format!("{shown}: no such directory, expected a checkpoint with a tokenizer.json"));
    }
    let others = ["tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model"];
    match others.into_iter().find(|name| directory.join(name).exists()) {
        Some(other) => Error::request(format!(
            "{shown}/tokenizer.json: no such file, and {other} alone cannot be read; make it once with \
             python -c \"from transformers import AutoTokenizer as T; T.from_pretrained('{shown}').save_pretrained('{shown}')\""
        )),
        None => Error::request(format!("{shown}/tokenizer.json: no such file; a checkpoint needs its tokenizer")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(files: &[(&str, Value)]) -> Declared {
        let directory = tempfile::tempdir().unwrap();
        for (name, value) in files {
            std::fs::write(directory.path().join(name), value.to_string()).unwrap();
        }
        Declared::read(directory.path(), None).unwrap()
    }

    fn contents(tokens: &[AddedToken]) -> Vec<&str> {
        tokens.iter().map(|token| token.content.as_str()).collect()
    }

    #[test]
    fn the_special_tokens_map_counts_only_without_a_decoder() {
        let map =
            ("special_tokens_map.json", json!({"bos_token": {"content": "<b>", "lstrip": true, "normalized": false}}));
        let with =
            read(&[map.clone(), ("tokenizer_config.json", json!({"bos_token": "<s>", "added_tokens_decoder": {}}))]);
        let without = read(&[map, ("tokenizer_config.json", json!({"bos_token": "<s>", "eos_token": null}))]);
        assert_eq!((with.bos.as_deref(), without.bos.as_deref(), without.eos), (Some("<s>"), Some("<b>"), None));
        assert!(without.special[0].lstrip && without.special[0].special);
    }

    #[test]
    fn special_tokens_take_their_flags_from_the_decoder() {
        let decoder = json!({"5": {"content": "<x>", "rstrip": true, "special": false}, "3": {"content": "<s>", "special": true}});
        let settings = json!({"additional_special_tokens": ["<x>", "<y>"], "bos_token": "<s>", "image_token": "<i>",
            "add_bos_token": true, "added_tokens_decoder": decoder, "model_max_length": 1e30, "split_special_tokens": true});
        let declared = read(&[("tokenizer_config.json", settings)]);
        assert_eq!(contents(&declared.added), ["<s>", "<x>"]);
        assert_eq!(contents(&declared.special), ["<s>", "<i>", "<x>", "<y>"]);
        assert!(declared.special[2].rstrip && declared.special[2].special && declared.split_special);
        assert_eq!(declared.max_length, None);
    }

    #[test]
    fn ids_of_the_model_stand_in_only_where_nothing_names_a_token() {
        let config =
            ("config.json", json!({"bos_token_id": 1, "eos_token_id": [7, 8], "text_config": {"vocab_size": 32}}));
        let alone = read(std::slice::from_ref(&config));
        assert_eq!((alone.ids.bos, alone.ids.eos, alone.ids.pad, alone.vocabulary), (Some(1), Some(7), None, Some(32)));
        let named = read(&[config, ("tokenizer_config.json", json!({"bos_token": null, "model_max_length": 4096}))]);
        assert_eq!((named.ids.bos, named.bos, named.max_length), (None, None, Some(4096)));
    }

    #[test]
    fn added_tokens_of_old_checkpoints() {
        let files = [
            ("added_tokens.json", json!({"<pad>": 9, "word": 8})),
            ("tokenizer_config.json", json!({"pad_token": "<pad>"})),
        ];
        let declared = read(&files);
        assert_eq!(contents(&declared.added), ["word", "<pad>"]);
        assert!(!declared.added[0].special && declared.added[0].normalized && declared.added[1].special);
    }

    #[test]
    fn a_broken_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config.json"), "[1]").unwrap();
        let message = Declared::read(directory.path(), None).unwrap_err().to_string();
        assert!(message.contains("config.json: ") && message.contains("expected a map"), "{message}");
    }
}
