//! A `tokenizer.json` as llama.cpp's vocabulary.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::metadata::Pairs;
use crate::arch::ModelSpec;
use crate::checkpoint::gguf::{MetaValue, Pre};
use crate::files::{self, Bound};
use crate::{Error, Result};

/// Kinds of tokens (`llama_token_type`), and type of an array of them.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;
const INT32: u32 = 5;
const FLOAT32: u32 = 6;

/// What SentencePiece puts for a space.
const SPACE: &str = "\u{2581}";

/// Named tokens: of the settings, of the config, of llama.cpp.
const NAMED: [(&str, &str, &str); 4] = [
    ("bos_token", "bos_token_id", "bos"),
    ("eos_token", "eos_token_id", "eos"),
    ("unk_token", "unk_token_id", "unknown"),
    ("pad_token", "pad_token_id", "padding"),
];

/// The keys of the tokenizer in `dir`.
///
/// # Errors
/// Request: no tokenizer, one that llama.cpp has no name for. Work: a broken one.
pub(super) fn pairs(dir: &Path, spec: &ModelSpec) -> Result<Pairs> {
    let path = dir.join("tokenizer.json");
    if !path.is_file() {
        return Err(Error::request(format!("{}: no such file; a GGUF file holds its tokenizer", path.display())));
    }
    let file: Value = files::json(&path, Bound::TOKENIZER)?;
    let object = |name: &str| -> Result<Map<String, Value>> {
        let path = dir.join(name);
        if path.is_file() { files::json(&path, Bound::RECORD) } else { Ok(Map::new()) }
    };
    let (settings, config) = (object("tokenizer_config.json")?, object("config.json")?);
    let refuse = |what: &str| Error::request(format!("{}: {what}, which llama.cpp has no name for", path.display()));
    if file.pointer("/model/type").and_then(Value::as_str) != Some("BPE") {
        return Err(refuse("a tokenizer that is no BPE"));
    }
    let vocabulary = Vocabulary::read(&file, spec.vocab_size)
        .ok_or_else(|| Error::work(format!("{}: no vocabulary that fits the model", path.display())))?;
    let merges = merges(&file).ok_or_else(|| Error::work(format!("{}: no merges", path.display())))?;
    let is_pieces = file.pointer("/model/byte_fallback").and_then(Value::as_bool) == Some(true);
    let mut pairs = Pairs::new();
    let mut add = |key: &str, value: MetaValue| pairs.push((format!("tokenizer.ggml.{key}"), value));
    if is_pieces {
        add("model", MetaValue::text("llama"));
        add("pre", MetaValue::text("default"));
        add("scores", MetaValue::list(FLOAT32, vocabulary.scores(&merges).into_iter().map(f32::to_le_bytes)));
        add("add_space_prefix", MetaValue::truth(is_prefixed(&file)));
    } else {
        let pre = Pre::of(&file).ok_or_else(|| refuse("texts are cut in a way"))?;
        add("model", MetaValue::text("gpt2"));
        add("pre", MetaValue::text(pre.names[0]));
        let joined: Vec<String> = merges.iter().map(|[left, right]| format!("{left} {right}")).collect();
        add("merges", MetaValue::texts(joined.iter().map(String::as_str)));
    }
    add("tokens", MetaValue::texts(vocabulary.tokens.iter().map(String::as_str)));
    add("token_type", MetaValue::list(INT32, vocabulary.kinds.iter().map(|kind| kind.to_le_bytes())));
    let mut bos = None;
    for (name, id, ours) in NAMED {
        let token = settings.get(name).map(|token| token.get("content").unwrap_or(token)).and_then(Value::as_str);
        let named = token.and_then(|token| vocabulary.ids.get(token)).map(|id| *id as u64);
        let first = |value: &Value| value.as_array().map_or(value.as_u64(), |list| list.first()?.as_u64());
        let id = named.or_else(|| config.get(id).and_then(first)).and_then(|id| u32::try_from(id).ok());
        if let Some(id) = id.filter(|id| (*id as usize) < spec.vocab_size) {
            add(&format!("{ours}_token_id"), MetaValue::u32(id));
            if ours == "bos" {
                bos = vocabulary.tokens.get(id as usize).cloned();
            }
        }
    }
    let [before, after] = around(&file);
    add("add_bos_token", MetaValue::truth(bos.is_some() && before == bos));
    add("add_eos_token", MetaValue::truth(after.is_some()));
    if let Some(template) = template(dir, &settings)? {
        pairs.push(("tokenizer.chat_template".to_owned(), MetaValue::text(&template)));
    }
    Ok(pairs)
}

struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<i32>,
    ids: HashMap<String, usize>,
}

impl Vocabulary {
    /// As many tokens as the model has rows; `None` where a token lies beyond.
    fn read(file: &Value, rows: usize) -> Option<Self> {
        let mut tokens: Vec<Option<(String, i32)>> = vec![None; rows];
        let unknown = file.pointer("/model/unk_token").and_then(Value::as_str);
        for (token, id) in file.pointer("/model/vocab")?.as_object()? {
            let is_byte = token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
            let kind = match unknown == Some(token) {
                true => UNKNOWN,
                false if is_byte => BYTE,
                false => NORMAL,
            };
            *tokens.get_mut(usize::try_from(id.as_u64()?).ok()?)? = Some((token.clone(), kind));
        }
        for added in file.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            let id = usize::try_from(added.get("id")?.as_u64()?).ok()?;
            let content = added.get("content")?.as_str()?;
            let kind = match added.get("special").and_then(Value::as_bool) {
                _ if unknown == Some(content) => UNKNOWN,
                Some(true) => CONTROL,
                _ => USER_DEFINED,
            };
            *tokens.get_mut(id)? = Some((content.to_owned(), kind));
        }
        let filled = tokens.into_iter().enumerate();
        let (tokens, kinds): (Vec<String>, Vec<i32>) =
            filled.map(|(id, token)| token.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED))).unzip();
        let ids = tokens.iter().enumerate().map(|(id, token)| (token.clone(), id)).collect();
        Some(Self { tokens, kinds, ids })
    }

    /// Scores by which llama.cpp merges in the order of `merges`: the sooner, the better.
    fn scores(&self, merges: &[[String; 2]]) -> Vec<f32> {
        let mut scores = vec![0.0; self.tokens.len()];
        let mut seen = vec![false; self.tokens.len()];
        for (rank, [left, right]) in merges.iter().enumerate() {
            let Some(id) = self.ids.get(&format!("{left}{right}")) else { continue };
            if !std::mem::replace(&mut seen[*id], true) {
                scores[*id] = -(rank as f32 + 1.0);
            }
        }
        // what no merge makes comes after all that
        let last = -(merges.len() as f32) - 1.0;
        for (id, kind) in self.kinds.iter().enumerate().filter(|(id, kind)| **kind == NORMAL && !seen[*id]) {
            debug_assert_eq!(*kind, NORMAL);
            scores[id] = last;
        }
        scores
    }
}

/// Merges in both spellings: `["a", "b"]` and `"a b"`.
fn merges(file: &Value) -> Option<Vec<[String; 2]>> {
    let merge = |merge: &Value| match merge {
        Value::String(text) => {
            let (left, right) = text.split_once(' ')?;
            Some([left.to_owned(), right.to_owned()])
        }
        Value::Array(parts) => match &parts[..] {
            [Value::String(left), Value::String(right)] => Some([left.clone(), right.clone()]),
            _ => None,
        },
        _ => None,
    };
    file.pointer("/model/merges")?.as_array()?.iter().map(merge).collect()
}

/// Whether a space is put in front of a text.
fn is_prefixed(file: &Value) -> bool {
    let steps = |part: &str, list: &str| {
        let part = file.get(part).cloned().unwrap_or_default();
        part.get(list).and_then(Value::as_array).cloned().unwrap_or_else(|| vec![part])
    };
    let is = |step: &Value, kind: &str| step.get("type").and_then(Value::as_str) == Some(kind);
    let prepends = steps("normalizer", "normalizers")
        .iter()
        .any(|step| is(step, "Prepend") && step.get("prepend").and_then(Value::as_str) == Some(SPACE));
    let metaspace = steps("pre_tokenizer", "pretokenizers").iter().any(|step| {
        is(step, "Metaspace") && step.get("prepend_scheme").and_then(Value::as_str).unwrap_or("always") != "never"
    });
    prepends || metaspace
}

/// The special tokens that stand before and after every text.
fn around(file: &Value) -> [Option<String>; 2] {
    let processor = file.get("post_processor").cloned().unwrap_or_default();
    let steps = processor.get("processors").and_then(Value::as_array).cloned().unwrap_or_else(|| vec![processor]);
    let single = steps.iter().find_map(|step| step.get("single")?.as_array());
    let special = |piece: Option<&Value>| Some(piece?.pointer("/SpecialToken/id")?.as_str()?.to_owned());
    [special(single.and_then(|single| single.first())), special(single.and_then(|single| single.last()))]
}

/// The chat template of the checkpoint in `dir`.
fn template(dir: &Path, settings: &Map<String, Value>) -> Result<Option<String>> {
    let path = dir.join("chat_template.jinja");
    if path.is_file() {
        return files::read_text(&path, Bound::CONFIG.bytes).map(Some);
    }
    Ok(match settings.get("chat_template") {
        Some(Value::String(template)) => Some(template.clone()),
        Some(Value::Array(list)) => {
            let of = |entry: &&Value| entry.get("name").and_then(Value::as_str) == Some("default");
            list.iter().find(of).and_then(|entry| entry.get("template")?.as_str()).map(str::to_owned)
        }
        _ => None,
    })
}
