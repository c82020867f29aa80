//! How byte-level tokenizers cut a text before they merge: llama.cpp's names for it, and the expressions.
//!
//! Names: `llama_vocab::impl::load` of llama.cpp; expressions: the `tokenizer.json` of the models that the names are
//! of, where llama.cpp rewrote them for its own engine.

use serde_json::{Value, json};

/// One way.
#[derive(Debug)]
pub(crate) struct Pre {
    /// Values of `tokenizer.ggml.pre`; the first is written.
    pub(crate) names: &'static [&'static str],
    /// One after the other, each cuts the pieces that the one before left.
    splits: &'static [&'static str],
    /// Whether a word that is a token is one, whatever the merges say.
    pub(crate) ignores_merges: bool,
    /// Whether a text begins with BOS where the file does not say.
    pub(crate) adds_bos: bool,
    /// Whether texts are composed first (NFC).
    pub(crate) is_composed: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const DIGIT: &str = r"\p{N}";

const PLAIN: Pre = Pre { names: &[], splits: &[], ignores_merges: false, adds_bos: false, is_composed: false };

/// Every way.
pub(super) const PRES: &[Pre] = &[
    Pre {
        names: &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "trillion",
            "granite-docling",
        ],
        splits: &[GPT2],
        ..PLAIN
    },
    Pre {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        splits: &[DIGIT, GPT2],
        ..PLAIN
    },
    Pre {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        splits: &[LLAMA3],
        ignores_merges: true,
        adds_bos: true,
        ..PLAIN
    },
    Pre { names: &["smaug-bpe", "dbrx", "chatglm-bpe"], splits: &[LLAMA3], ..PLAIN },
    Pre { names: &["glm4", "glm5"], splits: &[LLAMA3], ignores_merges: true, ..PLAIN },
    Pre {
        names: &["qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2"],
        splits: &[QWEN2],
        is_composed: true,
        ..PLAIN
    },
    Pre { names: &["stablelm2", "hunyuan", "solar-open", "grok-2"], splits: &[QWEN2], ..PLAIN },
    Pre { names: &["tekken"], splits: &[TEKKEN], ignores_merges: true, adds_bos: true, ..PLAIN },
    Pre { names: &["gpt-4o", "llama4", "kanana2", "talkie"], splits: &[GPT4O], ..PLAIN },
    Pre {
        names: &["deepseek-v3", "hunyuan-dense", "joyai-llm"],
        splits: &[r"\p{N}{1,3}", "[一-龥\u{3040}-ゟ゠-ヿ]+", DEEPSEEK3],
        ..PLAIN
    },
    Pre {
        names: &["seed-coder"],
        splits: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ..PLAIN
    },
    Pre {
        names: &["default"],
        splits: &[
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            "[0-9][0-9][0-9]",
        ],
        ..PLAIN
    },
];

impl Pre {
    /// The way called `name`.
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        PRES.iter().find(|pre| pre.names.contains(&name))
    }

    /// `pre_tokenizer` of a `tokenizer.json`.
    pub(super) fn json(&self) -> Value {
        let split = |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let steps: Vec<Value> = self.splits.iter().map(split).chain([bytes]).collect();
        json!({"type": "Sequence", "pretokenizers": steps})
    }

    /// The way of a `tokenizer.json`, whose words are or are not tokens `whatever` the merges say; `None` where
    /// llama.cpp has no name for it.
    pub(crate) fn of(file: &Value) -> Option<&'static Self> {
        let splits = splits(file.get("pre_tokenizer")?)?;
        let ignores = file.pointer("/model/ignore_merges").and_then(Value::as_bool).unwrap_or(false);
        let is_composed = file.pointer("/normalizer/type").and_then(Value::as_str) == Some("NFC");
        let fits = |pre: &&Pre| pre.splits.iter().copied().eq(splits.iter().map(String::as_str));
        let likeness = |pre: &&Pre| (pre.ignores_merges == ignores, pre.is_composed == is_composed);
        // the first of the most alike
        let best = PRES.iter().rev().filter(fits).max_by_key(likeness)?;
        // merges that count or do not make other ids
        (best.ignores_merges == ignores).then_some(best)
    }
}

/// The expressions that a `pre_tokenizer` splits by, one after the other, all in bytes in the end.
fn splits(step: &Value) -> Option<Vec<String>> {
    let text = |key: &str| step.get(key).and_then(Value::as_str);
    let flag = |key: &str| step.get(key).and_then(Value::as_bool);
    match text("type")? {
        "Sequence" => {
            let steps = step.get("pretokenizers")?.as_array()?.iter().map(splits).collect::<Option<Vec<_>>>()?;
            Some(steps.concat())
        }
        "ByteLevel" if flag("add_prefix_space") != Some(true) => {
            Some(if flag("use_regex") == Some(false) { Vec::new() } else { vec![GPT2.to_owned()] })
        }
        "Digits" if flag("individual_digits") == Some(true) => Some(vec![DIGIT.to_owned()]),
        "Split" => {
            let is_whole = matches!((text("behavior")?, flag("invert")), ("Isolated", _) | ("Removed", Some(true)));
            let regex = step.pointer("/pattern/Regex").and_then(Value::as_str)?;
            is_whole.then(|| vec![regex.to_owned()])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_way_is_known_by_its_json() {
        let mut names = BTreeSet::new();
        for pre in PRES {
            assert!(pre.names.iter().all(|name| names.insert(*name)), "{:?}", pre.names);
            let mut file = json!({"pre_tokenizer": pre.json(), "model": {"ignore_merges": pre.ignores_merges}});
            if pre.is_composed {
                file["normalizer"] = json!({"type": "NFC"});
            }
            let found = Pre::of(&file).unwrap();
            let same = |pre: &Pre| (pre.splits, pre.ignores_merges, pre.is_composed);
            assert_eq!(same(found), same(pre), "{:?}", pre.names);
        }
        let smol = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]});
        assert_eq!(Pre::of(&json!({"pre_tokenizer": smol, "model": {}})).unwrap().names[0], "smollm");
        assert!(Pre::of(&json!({"pre_tokenizer": {"type": "Whitespace"}, "model": {}})).is_none());
    }
}
