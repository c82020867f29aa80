//! Which settings were given, as opposed to left at their defaults: an adapter to start from excludes some.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::settings::HealSettings;

/// What an adapter brings itself.
const BROUGHT: [&str; 8] =
    ["rank", "alpha", "target", "rslora", "dora", "layers_to_transform", "rank_pattern", "alpha_pattern"];

impl Serialize for HealSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for HealSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Given)
    }
}

struct Given;

impl<'de> Visitor<'de> for Given {
    type Value = HealSettings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table of settings")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HealSettings, A::Error> {
        let mut keys = Vec::new();
        let settings = HealSettings::deserialize(MapAccessDeserializer::new(Keys { map, keys: &mut keys }))?;
        let given = |name: &&str| keys.iter().any(|key| key == name) && (*name != "alpha" || settings.alpha.is_some());
        let given: Vec<&str> = BROUGHT.into_iter().filter(|name| given(name)).collect();
        if settings.adapter.is_some() && !given.is_empty() {
            let given = given.join(", ");
            return Err(A::Error::custom(format!(
                "{given} cannot go with adapter, which brings its own: leave out the one or the other"
            )));
        }
        Ok(settings)
    }
}

/// A map whose keys are noted as they are read.
struct Keys<'a, A> {
    map: A,
    keys: &'a mut Vec<String>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Keys<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        let Some(key) = self.map.next_key::<String>()? else { return Ok(None) };
        self.keys.push(key.clone());
        seed.deserialize(key.into_deserializer()).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_adapter_brings_is_not_given_beside_it() {
        for text in [
            "rank = 64",
            "alpha = 1.0",
            "target = \"mlp\"",
            "rslora = false",
            "rank_pattern = {q_proj = 2}",
            "layers_to_transform = 1",
        ] {
            let name = text.split(' ').next().unwrap();
            let error = toml::from_str::<HealSettings>(&format!("adapter = \"a\"\n{text}")).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("cannot go with adapter"), "{error}");
            assert!(toml::from_str::<HealSettings>(text).is_ok());
        }
        let settings: HealSettings = toml::from_str("adapter = \"a\"\nlr = 0.1\ndropout = 0.0").unwrap();
        assert_eq!((settings.lr, settings.rank), (0.1, 64.into()));
        let null = serde_json::json!({"adapter": "a", "alpha": null});
        assert!(serde_json::from_value::<HealSettings>(null).is_ok());
    }
}
