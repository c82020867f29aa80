//! What rows are that hold no plain text, told by the names that people give their fields, and what to do with them.

use serde_json::{Map, Value};

/// What `fields` look like, and how a text is made of them; nothing for rows of another kind.
pub(super) fn advice(fields: &Map<String, Value>) -> Option<String> {
    const TEMPLATE: &str = "tokenizer.apply_chat_template(..., tokenize=False) gives it";
    if let Some((name, _)) = fields.iter().find(|(_, value)| is_conversation(value)) {
        return Some(format!(
            "`{name}` holds a conversation, and only `prune heal` reads those; for a text write each as one string in a field of its own ({TEMPLATE})"
        ));
    }
    let has = |names: &[&str]| names.iter().all(|name| fields.contains_key(*name));
    if has(&["prompt", "completion"]) {
        return Some("prompts and completions; --text-field prompt+completion reads both as one text".to_owned());
    }
    if has(&["chosen", "rejected"]) {
        return Some("pairs of preferences, from which nothing is learned here; choose one and write it as one string in a field of its own".to_owned());
    }
    for [question, answer] in [["instruction", "output"], ["instruction", "response"], ["question", "answer"]] {
        if has(&[question, answer]) {
            return Some(format!(
                "instructions with their answers, and only `prune heal` reads those; for a text write each row as one string in a field of its own ({TEMPLATE})"
            ));
        }
    }
    None
}

/// A list of turns: `role` and `content` (OpenAI, TRL), `from` and `value` (ShareGPT).
fn is_conversation(value: &Value) -> bool {
    let turn = |turn: &Value| {
        let has = |names: [&str; 2]| names.iter().all(|name| turn.get(name).is_some());
        has(["role", "content"]) || has(["from", "value"])
    };
    value.as_array().is_some_and(|turns| !turns.is_empty() && turns.iter().all(turn))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn advice_for(fields: Value) -> String {
        advice(fields.as_object().unwrap()).unwrap_or_default()
    }

    #[test]
    fn rows_are_known_by_their_fields() {
        let turn = json!([{"role": "user", "content": "hi"}]);
        let tool = json!([{"role": "assistant", "content": null, "tool_calls": []}]);
        for (fields, expected) in [
            (json!({"messages": turn}), "`messages` holds a conversation"),
            (
                json!({"id": 1, "conversations": [{"from": "human", "value": "hi"}]}),
                "`conversations` holds a conversation",
            ),
            (json!({"prompt": turn, "completion": turn}), "`prompt` holds a conversation"),
            (json!({"messages": tool}), "apply_chat_template"),
            (json!({"prompt": "a", "completion": "b"}), "--text-field prompt+completion"),
            (json!({"instruction": "a", "input": "", "output": "b"}), "template"),
            (json!({"prompt": "a", "chosen": "b", "rejected": "c"}), "preferences"),
            (json!({"title": "a", "messages": []}), ""),
            (json!({"lines": [{"text": "a"}]}), ""),
        ] {
            let found = advice_for(fields);
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{found}");
        }
    }
}
