//! Which settings decide what: the course of training, or what is written of it.

use serde_json::{Map, Value};

use super::HealSettings;

/// Settings that do not change the course of training: an unfinished run may go on with others.
const FREE: [&str; 16] = [
    "data_changed",
    "track",
    "out",
    "reference",
    "merge_onto",
    "save_every",
    "adapter_only",
    "save_4bit",
    "max_shard_size",
    "restart",
    "force",
    "dry_run",
    "memory",
    "rank_timeout",
    "device",
    "keep_last",
];

/// Those of them that decide what is written of a finished run.
const WRITTEN: [&str; 7] =
    ["keep_last", "adapter_only", "save_4bit", "max_shard_size", "reference", "merge_onto", "track"];

impl HealSettings {
    /// The settings that decide the course of training, by name.
    #[must_use]
    pub fn deciding(&self) -> Map<String, Value> {
        self.named(|name| !FREE.contains(&name))
    }

    /// The settings that decide what is written when training is over, by name.
    #[must_use]
    pub fn written(&self) -> Map<String, Value> {
        self.named(|name| WRITTEN.contains(&name))
    }

    fn named(&self, wanted: impl Fn(&str) -> bool) -> Map<String, Value> {
        match serde_json::to_value(self) {
            Ok(Value::Object(mut map)) => {
                map.retain(|name, _| wanted(name));
                map
            }
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heal::Track;

    #[test]
    fn what_decides_the_result() {
        let deciding = HealSettings::default().deciding();
        assert!(deciding.contains_key("lr") && deciding.contains_key("eval_every"));
        assert!(FREE.iter().all(|name| !deciding.contains_key(*name)));
        let settings = HealSettings {
            rank_timeout: 5,
            reference: Some("m".to_owned()),
            track: Some(Track::Tensorboard),
            ..HealSettings::default()
        };
        let all = serde_json::to_value(&settings).unwrap();
        assert!(FREE.iter().all(|name| all.get(name).is_some()));
        assert!(WRITTEN.iter().all(|name| FREE.contains(name)));
        assert_eq!(settings.written().len(), WRITTEN.len());
    }
}
