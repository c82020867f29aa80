//! Tokenizers as transformers 5 rebuilds them.
//!
//! For three tokenizer classes transformers 5 keeps vocabulary, merges and post-processor of `tokenizer.json` and sets
//! normaliser, pre-tokeniser and decoder to what the class says, which is not always what the model was trained with
//! (Llama 2's leading spaces; words cut by another expression under GPT-2's name). Whoever compares numbers with such a
//! run needs the same ids.

use serde_json::{Map, Value, json};

/// A tokenizer class that rebuilds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Llama,
    Qwen2,
    Gpt2,
}

/// Qwen2's pre-tokeniser: contractions, words, single digits, punctuation, line ends, spaces.
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Class {
    fn named(name: &str) -> Option<Self> {
        match name.strip_suffix("Fast").unwrap_or(name) {
            "LlamaTokenizer" => Some(Self::Llama),
            "Qwen2Tokenizer" => Some(Self::Qwen2),
            "GPT2Tokenizer" => Some(Self::Gpt2),
            _ => None,
        }
    }

    /// The class that `AutoTokenizer` (transformers 5.23, `models/auto/tokenization_auto.py`) takes; `None` follows the
    /// file. `name` is what the tokenizer's or the model's configuration declares.
    fn chosen(name: Option<&str>, model_type: Option<&str>, byte_level: bool) -> Option<Self> {
        let declared = name.and_then(Self::named);
        match model_type {
            Some("mistral" | "phi3") => None,
            Some("qwen2") => Some(Self::Qwen2),
            Some("qwen3") if name.is_none() => Some(Self::Qwen2),
            _ if declared == Some(Self::Llama) && byte_level => None,
            _ => declared,
        }
    }

    /// Special tokens of the class, for names that no file mentions.
    fn special(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Llama => &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")],
            Self::Qwen2 => {
                &[("unk_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>"), ("pad_token", "<|endoftext|>")]
            }
            Self::Gpt2 => {
                &[("unk_token", "<|endoftext|>"), ("bos_token", "<|endoftext|>"), ("eos_token", "<|endoftext|>")]
            }
        }
    }
}

/// Turns `tokenizer`, the content of `tokenizer.json`, into what `AutoTokenizer` makes of it, and completes `settings`,
/// the special tokens of `tokenizer_config.json`, with the class's own. Gives the file's added tokens, which the
/// rebuilt tokenizer has lost; none where `AutoTokenizer` follows the file.
pub(super) fn rebuild(
    tokenizer: &mut Value,
    settings: &mut Map<String, Value>,
    config: &Map<String, Value>,
) -> Vec<Value> {
    let text = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
    let name = text(settings, "tokenizer_class").or_else(|| text(config, "tokenizer_class"));
    if !tokenizer.get("model").is_some_and(Value::is_object) {
        return Vec::new();
    }
    let byte_level = tokenizer.to_string().contains("\"ByteLevel\"");
    let Some(class) = Class::chosen(name.as_deref(), text(config, "model_type").as_deref(), byte_level) else {
        return Vec::new();
    };
    for (name, token) in class.special() {
        settings.entry(*name).or_insert_with(|| (*token).into());
    }
    let added = tokenizer["added_tokens"].as_array_mut().map(std::mem::take).unwrap_or_default();

    let (prefix, split) = (
        settings.get("add_prefix_space").and_then(Value::as_bool),
        |prefix: bool, regex: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": true, "use_regex": regex}),
    );
    let (vocabulary, merges) = (tokenizer["model"]["vocab"].take(), tokenizer["model"]["merges"].take());
    let llama = class == Class::Llama;
    tokenizer["model"] = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": llama, "byte_fallback": llama, "ignore_merges": false,
        "vocab": vocabulary, "merges": merges});
    tokenizer["normalizer"] = if class == Class::Qwen2 { json!({"type": "NFC"}) } else { Value::Null };
    (tokenizer["pre_tokenizer"], tokenizer["decoder"]) = match class {
        Class::Llama => {
            let legacy = settings.get("legacy").and_then(Value::as_bool).unwrap_or(false);
            let prefix = prefix.unwrap_or(true);
            let scheme = if !prefix {
                "never"
            } else if legacy {
                "always"
            } else {
                "first"
            };
            let mut decoders = vec![
                json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
                json!({"type": "ByteFallback"}),
                json!({"type": "Fuse"}),
            ];
            if prefix {
                decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
            }
            let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
            (metaspace, json!({"type": "Sequence", "decoders": decoders}))
        }
        Class::Qwen2 => {
            let words = json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false});
            let both = json!({"type": "Sequence", "pretokenizers": [words, split(prefix.unwrap_or(false), false)]});
            (both, split(true, true))
        }
        Class::Gpt2 => (split(prefix.unwrap_or(false), true), split(true, true)),
    };
    added
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_as_autotokenizer_chooses_them() {
        let chosen = Class::chosen;
        // Llama 2, Llama 3, TinyLlama, DeepSeek-LLM, SmolLM, Yi without a name
        assert_eq!(chosen(Some("LlamaTokenizer"), Some("llama"), false), Some(Class::Llama));
        assert_eq!(chosen(Some("PreTrainedTokenizerFast"), Some("llama"), true), None);
        assert_eq!(chosen(Some("LlamaTokenizerFast"), Some("llama"), false), Some(Class::Llama));
        assert_eq!(chosen(Some("LlamaTokenizerFast"), Some("llama"), true), None);
        assert_eq!(chosen(Some("GPT2Tokenizer"), Some("llama"), true), Some(Class::Gpt2));
        assert_eq!(chosen(None, Some("llama"), false), None);
        // Mistral, Phi-3, Qwen2.5 and its distilled relatives, Qwen3
        assert_eq!(chosen(Some("LlamaTokenizer"), Some("mistral"), false), None);
        assert_eq!(chosen(Some("LlamaTokenizer"), Some("phi3"), false), None);
        assert_eq!(chosen(Some("LlamaTokenizerFast"), Some("qwen2"), true), Some(Class::Qwen2));
        assert_eq!(chosen(Some("Qwen2Tokenizer"), Some("qwen3"), true), Some(Class::Qwen2));
        assert_eq!(chosen(Some("PreTrainedTokenizerFast"), Some("qwen3"), true), None);
    }

    #[test]
    fn the_file_is_left_alone_where_it_is_followed() {
        let mut tokenizer = json!({"added_tokens": [{"id": 0}], "model": {"vocab": {}}});
        let before = tokenizer.clone();
        let mut settings = Map::new();
        assert!(rebuild(&mut tokenizer, &mut settings, &Map::new()).is_empty());
        assert_eq!((tokenizer, settings.len()), (before, 0));
    }
}
