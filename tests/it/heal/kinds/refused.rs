//! Adapters that cannot be right.

use serde_json::{Value, json};

use super::{Case, E, H, Q, own};
use crate::fixture::desk::Desk;

/// What PEFT would leave out, or what cannot be right, is refused; so is going on with more than low-rank updates.
#[test]
fn refusals() {
    let desk = Desk::new();
    let q = |config: Value| Case::new(own(), config).everywhere(Q);
    let eval = "eval base --adapter adapter --tasks text:text.jsonl";
    let heal = "heal base --adapter adapter --data text.jsonl --seq-len 8 --steps 1 -o healed";
    for (case, words) in [
        (q(json!({"target_modules": ["v_proj"]})), ["q_proj", "target_modules do not name it"]),
        (q(json!({"target_modules": ["q_proj"], "exclude_modules": ["q_proj"]})), ["q_proj", "do not name it"]),
        (
            q(json!({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]})),
            ["lm_head.weight", "does not have it"],
        ),
        (q(json!({"target_modules": ["q_proj", "lm_head"]})), ["lm_head", "no adapter"]),
        (q(json!({"target_modules": ["q_proj"], "alpha_pattern": {"(?=q)": 1}})), ["alpha_pattern", "(?=q)"]),
        (q(json!({"target_modules": "(q_proj"})), ["target_modules", "(q_proj"]),
        (q(json!({"target_modules": ["q_proj"], "use_dora": true})), ["q_proj", "lora_magnitude_vector"]),
        (
            q(json!({"target_modules": ["q_proj"]}))
                .whole("model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"),
            ["q_proj", "leave"],
        ),
        (q(json!({"target_modules": ["q_proj"], "lora_bias": true})), ["lora_bias", "not supported"]),
        (q(json!({"target_modules": ["q_proj"], "trainable_token_indices": [70]})), ["70", "64 rows"]),
        (
            Case::new(own(), json!({"target_modules": ["embed_tokens"], "use_dora": true})).low_rank(
                E,
                (2, 3.0),
                false,
            ),
            ["use_dora on model.embed_tokens", "not supported"],
        ),
    ] {
        case.write(&desk);
        desk.refused(eval, 2, &words);
    }
    for case in [
        q(json!({"target_modules": ["q_proj"]})).whole("lm_head.weight", "lm_head.weight"),
        q(json!({"target_modules": ["q_proj"], "trainable_token_indices": [5]})).rows(E, &[5]),
        q(json!({"target_modules": ["q_proj", "lm_head"]})).low_rank(H, (2, 3.0), false),
    ] {
        case.write(&desk);
        desk.refused(heal, 2, &["adapter: holds", "prune merge"]);
    }
}
