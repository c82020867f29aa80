//! PEFT's rules for names, against what PEFT 0.21.2 itself answers.

use serde_json::{Map, Value, json};

use super::config::Config;
use super::pattern::{Patterns, whole};

const PATHS: [&str; 7] = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.1.self_attn.q_proj",
    "model.layers.11.self_attn.v_proj",
    "model.layers.2.mlp.up_proj",
    "model.layers.1.mlp.down_proj",
    "model.embed_tokens",
    "lm_head",
];

/// Keys, and for each path which of them `get_pattern_key` finds; 9 where it finds none.
const KEYS: [(&[&str], [usize; 7]); 21] = [
    (&["q_proj"], [0, 0, 9, 9, 9, 9, 9]),
    (&["_proj"], [9; 7]),
    (&["^q_proj"], [9; 7]),
    (&["^model.layers.0.self_attn.q_proj"], [0, 9, 9, 9, 9, 9, 9]),
    (&[r".*\.layers\.1\..*(q_proj|v_proj)$"], [9, 0, 9, 9, 9, 9, 9]),
    (&[r"layers\.[0-2]\..*"], [0, 0, 9, 0, 0, 9, 9]),
    (&["(q|v)_proj"], [0, 0, 0, 9, 9, 9, 9]),
    (&["q_proj|v_proj"], [0, 0, 0, 9, 9, 9, 9]),
    (&["layers.1.self_attn.q_proj"], [9, 0, 9, 9, 9, 9, 9]),
    (&["1.self_attn.q_proj"], [9, 0, 9, 9, 9, 9, 9]),
    (&[r"mlp\.(up|down)_proj"], [9, 9, 9, 0, 0, 9, 9]),
    (&["proj", ".*"], [1; 7]),
    (&["lm_head", "head"], [9, 9, 9, 9, 9, 9, 0]),
    (&[r"self_attn\.\w+"], [0, 0, 0, 9, 9, 9, 9]),
    (&["q_proj", "model.layers.0.self_attn.q_proj"], [0, 0, 9, 9, 9, 9, 9]),
    (&["model.layers.0.self_attn.q_proj", "q_proj"], [0, 1, 9, 9, 9, 9, 9]),
    (&[r"(?:.*\.)?embed_tokens"], [9, 9, 9, 9, 9, 0, 9]),
    (&[r"layers\.\d{2}\.self_attn\.v_proj"], [9, 9, 0, 9, 9, 9, 9]),
    (&["q.proj"], [0, 0, 9, 9, 9, 9, 9]),
    (&["Q_PROJ"], [9; 7]),
    (&["$"], [9; 7]),
];

/// Which patterns of a config apply where: the first in the order of the file.
#[test]
fn patterns_match_as_pefts() {
    for (keys, expected) in KEYS {
        let map: Map<String, Value> =
            keys.iter().enumerate().map(|(place, key)| ((*key).into(), json!(place))).collect();
        let patterns: Patterns<usize> = serde_json::from_value(Value::Object(map)).unwrap();
        let compiled = patterns.compile().unwrap();
        assert_eq!(PATHS.map(|path| compiled.of(path).unwrap_or(9)), expected, "{keys:?}");
    }
}

/// Settings, and for each path whether `check_target_module_exists` finds it.
#[test]
fn targets_match_as_pefts() {
    for (keys, expected) in [
        (json!({"target_modules": ["q_proj"]}), [1, 1, 0, 0, 0, 0, 0]),
        (json!({"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [1]}), [0, 1, 0, 0, 0, 0, 1]),
        (
            json!({"target_modules": ["q_proj", "up_proj", "model.layers.11.self_attn.v_proj"], "layers_to_transform": 2}),
            [0, 0, 1, 1, 0, 0, 0],
        ),
        (
            json!({"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1, 11], "layers_pattern": "layers"}),
            [0, 1, 1, 0, 0, 0, 0],
        ),
        (
            json!({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": ["h", "layers"]}),
            [0, 1, 0, 0, 0, 0, 0],
        ),
        (json!({"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "h"}), [0; 7]),
        (json!({"target_modules": r".*\.layers\.\d\..*(q_proj|down_proj)"}), [1, 1, 0, 0, 1, 0, 0]),
        (json!({"target_modules": "q_proj"}), [0; 7]),
        (
            json!({"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]}),
            [0, 1, 0, 1, 0, 0, 0],
        ),
        (
            json!({"target_modules": ["q_proj", "up_proj", "down_proj"], "exclude_modules": r".*layers\.1.*"}),
            [1, 0, 0, 1, 0, 0, 0],
        ),
        (
            json!({"target_modules": ["q_proj", "up_proj", "lm_head"], "modules_to_save": ["lm_head", "mlp"]}),
            [1, 1, 0, 0, 0, 0, 0],
        ),
        (
            json!({"target_modules": ["q_proj", "up_proj"], "modules_to_save": ["proj", "up_pro."]}),
            [1, 1, 0, 0, 0, 0, 0],
        ),
        (json!({"target_modules": ["roj"]}), [0; 7]),
        (json!({"target_modules": ["self_attn.q_proj", "embed_tokens"]}), [1, 1, 0, 0, 0, 1, 0]),
        (json!({"target_modules": ["q_proj"], "layers_to_transform": []}), [1, 1, 0, 0, 0, 0, 0]),
        (json!({"target_modules": "all-linear"}), [1, 1, 1, 1, 1, 0, 0]),
    ] {
        let mut given = keys.clone();
        given["peft_type"] = json!("LORA");
        let config: Config = serde_json::from_value(given).unwrap();
        let rule = config.rule().unwrap();
        let found = PATHS.map(|path| u8::from(rule.targets(path, path.contains("layers"))));
        assert_eq!(found, expected, "{keys}");
    }
}

/// What Python reads and this matcher does not, or reads otherwise, is refused by name.
#[test]
fn expressions_that_cannot_be_read() {
    for key in [r"(?!0)\d", r"(a)\1", "(", "a)|(b", "a++", "[[a]]", "[a&&b]", "(?P<a>x)(?P=a)", "a{2000}{2000}", r"\Z"]
    {
        let error = whole(key).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(&format!("{key:?}")), "{error}");
    }
    assert!(whole(&"a".repeat(5000)).unwrap_err().to_string().contains("4096"));
    assert!(whole(r"(?i)MODEL\.layers\.\d+\..*").unwrap().is_match(PATHS[0]));
}
