//! `config.json` of the smaller model: the layer count, every list and number that speaks of single layers, and nothing
//! else. Keys that are not understood stay, unless they look as if they had one value per layer.

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::json_text::{self, Change};
use super::per_layer::{self, Allowed};
use super::places::Places;
use super::stack_config::StackConfig;
use super::stack_shape;
use crate::checkpoint::parse_json;
use crate::shown::shown_message;
use crate::{Error, Result};

/// One value of the config that the cut changes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ConfigEdit {
    /// Path of the key, its parts joined with dots.
    pub key: String,
    /// Value in the source; null where the key was absent.
    pub before: Value,
    /// New value; null where the key goes.
    pub after: Value,
    #[serde(skip)]
    path: Vec<String>,
    #[serde(skip)]
    change: Change,
}

impl ConfigEdit {
    pub(super) fn new(path: Vec<String>, change: Change, before: Value, after: Value) -> Self {
        Self { key: path.join("."), before, after, path, change }
    }
}

impl fmt::Display for ConfigEdit {
    /// `layer_types: 32 -> 24 entries`, `num_hidden_layers: 32 -> 24`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brief = |value: &Value| match value {
            Value::Null => "absent".to_owned(),
            Value::Array(list) => format!("{} entries", list.len()),
            Value::Object(map) => format!("{} entries", map.len()),
            scalar => scalar.to_string(),
        };
        let text = format!("{}: {} -> {}", self.key, brief(&self.before), brief(&self.after));
        f.write_str(&shown_message(&text))
    }
}

/// What a stack of the source's layers `kept`, lowest first, does to `config`. Nothing when it is the source's.
///
/// # Errors
/// Work: no layer count in the config, a per-layer list that is too short. Request: a key that seems to have one value
/// per layer and is neither understood nor listed in `allow_unsliced` (by its name or its path), or a property of the
/// stack that the cut would change without the config being able to say so.
pub fn config_edits(config: &Map<String, Value>, kept: &[usize], allow_unsliced: &[String]) -> Result<Vec<ConfigEdit>> {
    let stacks = StackConfig::all(config)?;
    let allowed = Allowed(allow_unsliced);
    let mut edits = Vec::new();
    let places = Places::new(kept, stacks[0].layers);
    if kept.len() != stacks[0].layers {
        edits.push(stacks[0].set(stacks[0].count, json!(kept.len())));
    }
    per_layer::edits(config, &stacks[0], &places, allowed, &mut edits)?;
    for stack in stacks.iter().filter(|_| !places.is_whole()) {
        stack_shape::edits(stack, &places, allowed, &mut edits)?;
    }
    Ok(edits)
}

/// The text of the new `config.json`: the old one with only the edits' values changed.
///
/// # Errors
/// Work: `text` is no JSON object, or not the one the edits were made for.
pub fn edit_config(text: &str, edits: &[ConfigEdit]) -> Result<String> {
    let broken = |fault: &str| Error::work(format!("config.json: {fault}"));
    parse_json::<Map<String, Value>>(text.as_bytes()).map_err(|error| broken(&error.to_string()))?;
    let mut text = text.to_owned();
    for edit in edits {
        text = json_text::apply(&text, &edit.path, &edit.change).map_err(|fault| broken(&fault))?;
    }
    let edited: Map<String, Value> = parse_json(text.as_bytes()).map_err(|error| broken(&error.to_string()))?;
    for edit in edits {
        let value = edit.path.iter().skip(1).fold(edited.get(&edit.path[0]), |value, key| value?.get(key));
        if value.unwrap_or(&Value::Null) != &edit.after {
            return Err(broken(&format!("changing `{}` failed", edit.key)));
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text a cut makes of `config`, parsed, after checking that it is what the edits say.
    fn cut(config: &Value, kept: &[usize]) -> Value {
        cut_allowing(config, kept, &[]).unwrap()
    }

    fn cut_allowing(config: &Value, kept: &[usize], allow: &[&str]) -> Result<Value> {
        let allow: Vec<String> = allow.iter().map(ToString::to_string).collect();
        let edits = config_edits(config.as_object().unwrap(), kept, &allow)?;
        let text = edit_config(&serde_json::to_string_pretty(config).unwrap(), &edits)?;
        Ok(serde_json::from_str(&text).unwrap())
    }

    fn refused(config: &Value, kept: &[usize], word: &str) {
        let error = cut_allowing(config, kept, &[]).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains(word) && error.to_string().starts_with("config.json: "), "{error}");
    }

    fn with(base: &Value, pairs: Value) -> Value {
        let mut config = base.clone();
        for (key, value) in pairs.as_object().unwrap() {
            match value {
                Value::Null => drop(config.as_object_mut().unwrap().shift_remove(key)),
                value => config[key] = value.clone(),
            }
        }
        config
    }

    #[test]
    fn a_llama_changes_one_number() {
        let text = r#"{"model_type": "llama", "rms_norm_eps": 1e-05, "num_hidden_layers": 4, "eos_token_id": [1, 2, 3, 4],
            "rope_scaling": {"short_factor": [1.0, 1.0, 1.0, 1.0], "factor": 8.0}, "x": {"y": []}, "pretraining_tp": 1}"#;
        let config: Map<String, Value> = serde_json::from_str(text).unwrap();
        let edits = config_edits(&config, &[0, 3], &[]).unwrap();
        assert_eq!(edit_config(text, &edits).unwrap(), text.replace("layers\": 4", "layers\": 2"));
        assert_eq!(edits[0].to_string(), "num_hidden_layers: 4 -> 2");
        assert_eq!((edits.len(), &edits[0].before, &edits[0].after), (1, &json!(4), &json!(2)));
        let edits = config_edits(&config, &[0, 1, 2, 3], &[]).unwrap();
        assert_eq!(edits, []);
        assert_eq!(edit_config(text, &edits).unwrap(), text);
    }

    #[test]
    fn qwen_keeps_its_windows() {
        let types = ["full_attention", "full_attention", "full_attention", "sliding_attention", "sliding_attention"];
        let qwen = json!({"model_type": "qwen2", "num_hidden_layers": 5, "use_sliding_window": true,
                          "sliding_window": 128, "max_window_layers": 3, "layer_types": types});
        let after = json!({"num_hidden_layers": 3, "max_window_layers": 1,
                           "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]});
        assert_eq!(cut(&qwen, &[0, 3, 4]), with(&qwen, after));
        let old = with(&qwen, json!({"layer_types": null}));
        assert_eq!(cut(&old, &[3, 4]), with(&old, json!({"num_hidden_layers": 2, "max_window_layers": 0})));
        // the usual Qwen2: no window is used, the number is the layer count or far beyond
        let unused = with(&old, json!({"use_sliding_window": false, "max_window_layers": 5}));
        let after = json!({"num_hidden_layers": 2, "max_window_layers": 2});
        assert_eq!(cut(&unused, &[0, 1]), with(&unused, after));
        let beyond = with(&old, json!({"max_window_layers": 70}));
        assert_eq!(cut(&beyond, &[0, 1]), with(&beyond, json!({"num_hidden_layers": 2})));
        // a grown stack reaches beyond a number that was beyond the old one
        let layers: Vec<usize> = (0..5).flat_map(|layer| [layer; 20]).collect();
        let windowed = with(&old, json!({"max_window_layers": 70}));
        let after = json!({"num_hidden_layers": 100, "max_window_layers": 100});
        assert_eq!(cut(&windowed, &layers), with(&windowed, after));
        // no number: transformers assumes 28
        let layers: Vec<usize> = (0..32).filter(|layer| *layer != 5).collect();
        let silent = with(&old, json!({"num_hidden_layers": 32, "max_window_layers": null}));
        let after = json!({"num_hidden_layers": 31, "max_window_layers": 27});
        assert_eq!(cut(&silent, &layers), with(&silent, after));
    }

    #[test]
    fn smollm3_keeps_its_positions() {
        let list = json!([1, 1, 1, 0, 1, 1, 1, 0]);
        let smol = json!({"model_type": "smollm3", "num_hidden_layers": 8, "no_rope_layer_interval": 4,
                          "no_rope_layers": list, "layer_types": vec!["full_attention"; 8]});
        let after = json!({"num_hidden_layers": 4, "no_rope_layers": [1, 1, 0, 0],
                           "no_rope_layer_interval": null, "layer_types": vec!["full_attention"; 4]});
        assert_eq!(cut(&smol, &[0, 1, 3, 7]), with(&smol, after));
        // a whole period leaves the number right
        let after = json!({"num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0],
                           "layer_types": vec!["full_attention"; 4]});
        assert_eq!(cut(&smol, &[0, 1, 6, 7]), with(&smol, after));
        // no list: it is spelled out, whether the interval stands there or is the default
        for interval in [json!(4), Value::Null] {
            let bare =
                with(&smol, json!({"no_rope_layers": null, "layer_types": null, "no_rope_layer_interval": interval}));
            let after = json!({"num_hidden_layers": 4, "no_rope_layers": [1, 1, 0, 0], "no_rope_layer_interval": null});
            assert_eq!(cut(&bare, &[0, 1, 3, 7]), with(&bare, after));
        }
    }

    #[test]
    fn gemma_and_cohere_keep_their_windows() {
        let (s, f) = ("sliding_attention", "full_attention");
        let gemma = json!({"model_type": "gemma2", "num_hidden_layers": 6, "sliding_window": 64});
        let after = json!({"num_hidden_layers": 3, "layer_types": [s, s, f]});
        assert_eq!(cut(&gemma, &[0, 2, 5]), with(&gemma, after));
        assert_eq!(cut(&gemma, &[0, 1, 4, 5]), with(&gemma, json!({"num_hidden_layers": 4})));
        // an inserted layer is of the kind of the one before it
        let after = json!({"num_hidden_layers": 8, "layer_types": [s, f, f, s, s, f, s, f]});
        assert_eq!(cut(&gemma, &[0, 1, 1, 2, 2, 3, 4, 5]), with(&gemma, after));
        let cohere = json!({"model_type": "cohere2", "num_hidden_layers": 6, "sliding_window_pattern": 3});
        let after = json!({"num_hidden_layers": 3, "layer_types": [s, f, f], "sliding_window_pattern": null});
        assert_eq!(cut(&cohere, &[0, 2, 5]), with(&cohere, after));
        let unknown = with(&cohere, json!({"model_type": "llama"}));
        refused(&unknown, &[0, 2, 5], "`sliding_window_pattern` repeats a kind of layer every 3 layers");
        assert!(cut_allowing(&unknown, &[0, 2, 5], &["sliding_window_pattern"]).is_ok());
        refused(&with(&cohere, json!({"sliding_window_pattern": "LLG"})), &[0, 2, 5], "every 3 layers");
        refused(&with(&gemma, json!({"num_kv_shared_layers": 2})), &[0, 1], "`num_kv_shared_layers` is 2");
    }

    #[test]
    fn ernie_keeps_its_experts() {
        let ernie = |more: Value| with(&json!({"model_type": "ernie4_5_moe", "num_hidden_layers": 6}), more);
        for (config, kept, after) in [
            // what transformers assumes: all but layer 0
            (ernie(json!({})), &[0, 3, 4][..], json!({})),
            (ernie(json!({})), &[1, 2, 5], json!({"moe_layer_start_index": 0})),
            (ernie(json!({})), &[0, 0, 1, 5], json!({"moe_layer_start_index": 2})),
            (ernie(json!({})), &[0], json!({})),
            (ernie(json!({"moe_layer_end_index": 5})), &[0, 4, 5], json!({})),
            (
                ernie(json!({"moe_layer_start_index": 2, "moe_layer_end_index": 4})),
                &[0, 2, 4, 5],
                json!({"moe_layer_start_index": 1, "moe_layer_end_index": 2}),
            ),
            (ernie(json!({"moe_layer_interval": 2})), &[0, 1, 4, 5], json!({})),
            (
                ernie(json!({"moe_layer_interval": 2})),
                &[1, 3],
                json!({
                    "moe_layer_start_index": 0, "moe_layer_interval": 1,
                }),
            ),
            (
                ernie(json!({"moe_layer_interval": 2})),
                &[0, 2, 3, 5],
                json!({
                    "moe_layer_start_index": 2, "moe_layer_interval": 1,
                }),
            ),
        ] {
            let count = json!({"num_hidden_layers": kept.len()});
            assert_eq!(cut(&config, kept), with(&with(&config, count), after), "{config} {kept:?}");
        }
        refused(&ernie(json!({})), &[1, 0, 2], "which layers have experts");
        refused(&ernie(json!({"moe_layer_interval": 2})), &[0, 1, 2, 3, 5, 4], "keep the kinds apart");
        refused(&ernie(json!({"moe_layer_start_index": [1, 1]})), &[0, 1], "`moe_layer_start_index` is [1,1]");
        assert_eq!(cut(&with(&ernie(json!({})), json!({"model_type": "llama"})), &[1, 2])["num_hidden_layers"], 2);
    }

    #[test]
    fn lists_of_every_sort() {
        let config = json!({
            "model_type": "llama", "num_hidden_layers": 3, "num_nextn_predict_layers": 1, "first_k_dense_replace": 1,
            "num_key_value_heads": [8, 4, 2], "rope_theta": [1e4, 1e5, 1e6], "sliding_window": [null, 4, null],
            "layer_types": ["a", "b", "c", "extra"], "mlp_only_layers": [0, 2], "architectures": ["A", "B", "C"],
            "per_layer_config": {"1": {"x": 1}, "2": {"x": 2}}, "id2label": {"0": "a", "1": "b", "2": "c"},
            "quantization_config": {"modules_to_not_convert": ["lm_head", "model.layers.1.mlp", "model.layers.2"]},
            "vision_config": {"num_hidden_layers": 3, "depths": [1, 2, 3]},
        });
        let after = json!({
            "num_hidden_layers": 2, "first_k_dense_replace": 0, "num_key_value_heads": [4, 2], "rope_theta": [1e5, 1e6],
            "sliding_window": [4, null], "layer_types": ["b", "c", "extra"], "mlp_only_layers": [1],
            "per_layer_config": {"0": {"x": 1}, "1": {"x": 2}},
            "quantization_config": {"modules_to_not_convert": ["lm_head", "model.layers.0.mlp", "model.layers.1"]},
        });
        assert_eq!(cut(&config, &[1, 2]), with(&config, after));
        assert_eq!(cut(&config, &[0, 1, 2]), config);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let llama = |more: Value| with(&json!({"model_type": "llama", "num_hidden_layers": 3}), more);
        for (more, word) in [
            (json!({"mystery": [1, 2, 3]}), "`mystery` is a list of 3 values"),
            (json!({"a": {"b": {"mystery": [1, 2, 3]}}}), "`a.b.mystery` is a list"),
            (json!({"scales": {"0": 1, "1": 1, "2": 1}}), "`scales` has 3 numbered entries"),
            (json!({"q": {"ignore": ["re:model.layers.[01].mlp"]}}), "by the pattern `re:model.layers.[01].mlp`"),
            (json!({"q": {"ignore": ["layers.3.mlp"]}}), "names layer 3 of 3"),
            (json!({"q": {"dynamic": {"-:model\\.layers\\.0\\..*": {}}}}), "keyed by the name of a layer"),
            (json!({"exit": "model.layers.1"}), "`exit` names single layers"),
            (json!({"moe_layers": ["0", 1]}), "no list of layer numbers"),
        ] {
            refused(&llama(more.clone()), &[0, 2], word);
            assert!(cut(&llama(more.clone()), &[0, 1, 2]).is_object(), "nothing is dropped, nothing is refused");
        }
        let config = llama(json!({"a": {"b": {"mystery": [1, 2, 3]}}}));
        for allow in ["mystery", "a.b.mystery"] {
            let after = with(&config, json!({"num_hidden_layers": 2}));
            assert_eq!(cut_allowing(&config, &[0, 2], &[allow]).unwrap(), after);
        }
        let error = cut_allowing(&llama(json!({})), &[0, 2], &["mystery"]).unwrap_err();
        assert!(error.to_string().contains("--allow-unsliced mystery: config.json has no such key"), "{error}");
        for (layers, word) in [(Value::Null, "no `num_hidden_layers`"), (json!(0), "is 0"), (json!("3"), "is \"3\"")] {
            let error = cut_allowing(&llama(json!({"num_hidden_layers": layers})), &[0], &[]).unwrap_err();
            assert!(error.to_string().contains(word) && error.exit_code() == 1, "{error}");
        }
        let error = cut_allowing(&llama(json!({"layer_types": ["a"]})), &[0], &[]).unwrap_err();
        assert!(error.to_string().contains("`layer_types` has 1 values for 3 layers"), "{error}");
    }
}
