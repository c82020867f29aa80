//! A `tokenizer.json` of the vocabulary in a GGUF file.

use std::collections::HashMap;

use serde_json::{Map, Value as Json, json};

use super::header::Header;
use super::merges::merges;
use super::pre::Pre;
use super::value::Value;

/// Kinds of tokens (`llama_token_type`).
const UNKNOWN: i128 = 2;
const CONTROL: i128 = 3;
const USER_DEFINED: i128 = 4;

/// What SentencePiece puts for a space.
const SPACE: &str = "\u{2581}";

/// Files of a tokenizer: `tokenizer.json` and `tokenizer_config.json`.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) tokenizer: Json,
    pub(super) settings: Json,
}

/// Tokens with their kinds.
struct Tokens<'a> {
    texts: Vec<String>,
    kinds: Vec<i128>,
    header: &'a Header,
}

/// The files of the tokenizer in `header`.
///
/// # Errors
/// Why there are none.
pub(super) fn files(header: &Header) -> Result<Files, String> {
    let text = |key: &str| header.get(&format!("tokenizer.ggml.{key}")).and_then(Value::text);
    let Some(model) = text("model") else { return Err("the file has no tokenizer.ggml.model".into()) };
    let tokens = Tokens::read(header)?;
    let (mut tokenizer, is_bos) = match model {
        "gpt2" => {
            let name = text("pre").unwrap_or("default");
            let pre = Pre::named(name).ok_or_else(|| format!("tokenizer.ggml.pre {name:?} is not known"))?;
            (tokens.by_bytes(pre)?, pre.adds_bos)
        }
        "llama" => (tokens.by_pieces()?, true),
        other => return Err(format!("tokenizer.ggml.model is {other:?}, expected gpt2 or llama")),
    };
    tokenizer["added_tokens"] = tokens.added();
    let adds = |key: &str, default| {
        header.get(&format!("tokenizer.ggml.add_{key}_token")).and_then(Value::truth).unwrap_or(default)
    };
    let around = |key: &str, default| tokens.named(key).filter(|_| adds(key, default));
    tokenizer["post_processor"] = template(around("bos", is_bos), around("eos", false));
    let mut settings = json!({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false});
    for (key, name) in [("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")]
    {
        if let Some((_, token)) = tokens.named(name) {
            settings[key] = json!(token);
        }
    }
    Ok(Files { tokenizer, settings })
}

impl<'a> Tokens<'a> {
    fn read(header: &'a Header) -> Result<Self, String> {
        let list = |key: &str| header.get(key).and_then(Value::list);
        let texts = list("tokenizer.ggml.tokens").ok_or("the file has no tokenizer.ggml.tokens")?;
        let texts = texts.values().enumerate().map(|(id, text)| match text.text() {
            Some("") => Ok(format!("[EMPTY_{id}]")),
            Some(text) => Ok(text.to_owned()),
            None => Err(format!("token {id} is no UTF-8")),
        });
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        let kinds = list("tokenizer.ggml.token_type").map(|kinds| kinds.values().map(whole).collect());
        let kinds: Vec<i128> = kinds.unwrap_or_else(|| vec![1; texts.len()]);
        if kinds.len() < texts.len() {
            return Err(format!("tokenizer.ggml.token_type has {} values for {} tokens", kinds.len(), texts.len()));
        }
        Ok(Self { texts, kinds, header })
    }

    /// The token that `tokenizer.ggml.KEY_token_id` names, and its id.
    fn named(&self, key: &str) -> Option<(u64, &str)> {
        let id = self.header.get(&format!("tokenizer.ggml.{key}_token_id")).and_then(Value::unsigned)?;
        let token = self.texts.get(usize::try_from(id).ok()?)?;
        Some((id, token))
    }

    fn vocabulary(&self) -> HashMap<&str, usize> {
        self.texts.iter().enumerate().map(|(id, token)| (token.as_str(), id)).collect()
    }

    /// `vocab` of a model.
    fn vocab(&self) -> Json {
        let ids = self.texts.iter().enumerate().map(|(id, token)| (token.clone(), json!(id)));
        Json::Object(ids.collect::<Map<_, _>>())
    }

    /// The tokens that are looked for in a text before anything else.
    fn added(&self) -> Json {
        let tokens = self.texts.iter().zip(&self.kinds).enumerate();
        let added = tokens.filter(|(_, (_, kind))| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind));
        let added = added.map(|(id, (token, kind))| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": *kind != USER_DEFINED})
        });
        Json::Array(added.collect())
    }

    /// Byte-level BPE, GPT-2's kind.
    fn by_bytes(&self, pre: &Pre) -> Result<Json, String> {
        let list = self.header.get("tokenizer.ggml.merges").and_then(Value::list);
        let list = list.ok_or("the file has no tokenizer.ggml.merges")?;
        let vocabulary = self.vocabulary();
        let mut merges = Vec::with_capacity(list.len());
        for (at, merge) in list.values().enumerate() {
            let merge = merge.text().ok_or_else(|| format!("merge {at} is no UTF-8"))?;
            // the first letter may be a space
            let second = merge.char_indices().nth(1).map_or(merge.len(), |(at, _)| at);
            let Some(space) = merge.get(second..).and_then(|rest| rest.find(' ')).map(|at| at + second) else {
                return Err(format!("merge {at} is {merge:?}, expected two parts"));
            };
            let (left, right) = (&merge[..space], &merge[space + 1..]);
            // what is no token is never made
            let is_made = [left, right].iter().all(|part| vocabulary.contains_key(part));
            if is_made && vocabulary.contains_key(format!("{left}{right}").as_str()) {
                merges.push(json!([left, right]));
            }
        }
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": if pre.is_composed { json!({"type": "NFC"}) } else { Json::Null },
            "pre_tokenizer": pre.json(), "post_processor": null, "decoder": bytes,
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": pre.ignores_merges, "vocab": self.vocab(), "merges": merges,
            },
        }))
    }

    /// SentencePiece's BPE, Llama 2's kind.
    fn by_pieces(&self) -> Result<Json, String> {
        let scores = self.header.get("tokenizer.ggml.scores").and_then(Value::list);
        let scores: Vec<f64> = match scores {
            Some(scores) => scores.values().map(|score| score.number().unwrap_or(0.0)).collect(),
            None => return Err("the file has no tokenizer.ggml.scores".into()),
        };
        if scores.len() < self.texts.len() {
            return Err(format!("tokenizer.ggml.scores has {} values for {} tokens", scores.len(), self.texts.len()));
        }
        let vocabulary = self.vocabulary();
        let pieces = self.texts.iter().zip(&scores).zip(&self.kinds).filter(|(_, kind)| **kind == 1);
        let pieces: Vec<(&str, f64)> = pieces.map(|((token, score), _)| (token.as_str(), *score)).collect();
        let normal: HashMap<&str, usize> =
            pieces.iter().filter_map(|(piece, _)| Some((*piece, *vocabulary.get(piece)?))).collect();
        let merges = merges(&normal, &pieces);
        let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
        let is_prefixed = self.header.get("tokenizer.ggml.add_space_prefix").and_then(Value::truth).unwrap_or(true);
        let mut decoders = vec![replace(SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
        let mut normalizers = vec![replace(" ", SPACE)];
        if is_prefixed {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let unknown = self.named("unknown").map(|(_, token)| token);
        let unknown =
            unknown.or_else(|| self.kinds.iter().position(|kind| *kind == UNKNOWN).map(|id| self.texts[id].as_str()));
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null, "post_processor": null,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": self.vocab(), "merges": merges,
            },
        }))
    }
}

fn whole(value: Value<'_>) -> i128 {
    match value {
        Value::Whole(number) => number,
        _ => 0,
    }
}

/// A post-processor that puts these tokens around a text.
fn template(before: Option<(u64, &str)>, after: Option<(u64, &str)>) -> Json {
    if before.is_none() && after.is_none() {
        return Json::Null;
    }
    let special = |token: &str, text: u32| json!({"SpecialToken": {"id": token, "type_id": text}});
    let around = |name: &str, text: u32| {
        let before = before.iter().map(|(_, token)| special(token, text));
        let after = after.iter().map(|(_, token)| special(token, text));
        before.chain([json!({"Sequence": {"id": name, "type_id": text}})]).chain(after).collect::<Vec<_>>()
    };
    let used = before.iter().chain(&after);
    let used = used.map(|(id, token)| ((*token).to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})));
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair,
           "special_tokens": used.collect::<Map<_, _>>()})
}
