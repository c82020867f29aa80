//! A `config.json` of a GGUF file's metadata, as transformers would have it.

use serde_json::{Map, Value as Json, json};

use super::families::Family;
use super::header::Header;
use super::rope::Rotations;
use super::value::Value;
use crate::{Error, Result};

/// What a file says of its model beside tensors' bytes.
pub(super) struct Said<'a> {
    pub(super) header: &'a Header,
    pub(super) arch: &'a str,
}

impl<'a> Said<'a> {
    /// The value of the key `key` of the architecture.
    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        self.header.get(&format!("{}.{key}", self.arch))
    }

    fn fault(&self, key: &str, found: Option<Value<'_>>, expected: &str) -> Error {
        let found = found.map_or("missing".to_owned(), |value| value.to_string());
        Error::work(format!("{}.{key} is {found}, expected {expected}", self.arch))
    }

    /// A whole number that has to be there, or the one number that all layers have.
    ///
    /// # Errors
    /// Work: it is missing or is none.
    pub(super) fn size(&self, key: &str) -> Result<u64> {
        let found = self.get(key);
        let number = found.and_then(same).and_then(Value::unsigned).filter(|number| *number > 0);
        number.ok_or_else(|| self.fault(key, found, "a whole number above 0, the same in all layers"))
    }

    /// A number, where it is there.
    fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(found) = self.get(key) else { return Ok(None) };
        let number = found.number().filter(|number| number.is_finite());
        number.map(Some).ok_or_else(|| self.fault(key, Some(found), "a number"))
    }

    fn count(&self, key: &str) -> Result<Option<u64>> {
        self.get(key).map(|_| self.size(key)).transpose()
    }
}

/// The value, or the one that an array has throughout.
fn same(value: Value<'_>) -> Option<Value<'_>> {
    let Some(list) = value.list() else { return Some(value) };
    let mut values = list.values();
    let first = values.next()?;
    values.all(|other| other == first).then_some(first)
}

/// What the tensors say.
pub(super) struct Found {
    /// Rows of the embedding.
    pub(super) vocabulary: usize,
    /// Whether there is no head beside it.
    pub(super) is_tied: bool,
    /// Whether queries have a bias, and outputs.
    pub(super) biases: [bool; 2],
    /// The type that the config says.
    pub(super) dtype: &'static str,
    /// As [`Rotations`] has them.
    pub(super) divisors: Option<Vec<f32>>,
    pub(super) long: Option<(Vec<f32>, Vec<f32>)>,
    /// Rows of the gate of an expert, and of the one that all tokens go through.
    pub(super) expert: Option<usize>,
    pub(super) shared: Option<usize>,
}

/// What a mixture has beside: experts on all layers, as llama.cpp has them.
fn experts(
    said: &Said<'_>,
    family: &Family,
    (size, shared): (Option<usize>, Option<usize>),
    config: &mut Json,
) -> Result<()> {
    // these divide by the sum whatever a config says, and their experts are as wide as MLPs
    let is_plain = ["mixtral", "granitemoe"].contains(&family.model_type);
    config[if is_plain { "num_local_experts" } else { "num_experts" }] = json!(said.size("expert_count")?);
    config["num_experts_per_tok"] = json!(said.size("expert_used_count")?);
    if is_plain {
        return Ok(());
    }
    config["norm_topk_prob"] = json!(family.is_normed);
    if family.model_type != "olmoe" {
        config["moe_intermediate_size"] = json!(size);
        config["decoder_sparse_step"] = json!(1);
        config["mlp_only_layers"] = json!([]);
        config["use_sliding_window"] = json!(false);
    }
    if let Some(shared) = shared {
        config["shared_expert_intermediate_size"] = json!(shared);
    }
    Ok(())
}

/// The config of a model of `family`.
///
/// # Errors
/// Work: a key that is missing or makes no sense.
pub(super) fn config(said: &Said<'_>, family: &Family, found: Found) -> Result<Map<String, Json>> {
    let heads = said.size("attention.head_count")?;
    let kv_heads = said.count("attention.head_count_kv")?.unwrap_or(heads);
    let hidden = said.size("embedding_length")?;
    let head = said.count("attention.key_length")?.unwrap_or(hidden / heads);
    if let Some(value) = said.count("attention.value_length")?
        && value != head
    {
        let (key, found) = ("attention.value_length", said.get("attention.value_length"));
        return Err(said.fault(key, found, &format!("{head}, as the keys have")));
    }
    let context = said.count("context_length")?;
    let mut config = json!({
        "architectures": [family.class],
        "model_type": family.model_type,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": said.size("feed_forward_length")?,
        "num_hidden_layers": said.size("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "vocab_size": found.vocabulary,
        "tie_word_embeddings": found.is_tied,
        "dtype": found.dtype,
    });
    if let Some(context) = context {
        config["max_position_embeddings"] = json!(context);
    }
    if let Some(eps) = said.number("attention.layer_norm_rms_epsilon")? {
        config["rms_norm_eps"] = json!(eps);
    }
    match family.model_type {
        "llama" | "smollm3" | "granite" | "granitemoe" => config["attention_bias"] = json!(found.biases[0]),
        "qwen2_moe" => config["qkv_bias"] = json!(found.biases[0]),
        "seed_oss" => {
            config["attention_bias"] = json!(found.biases[0]);
            config["attention_out_bias"] = json!(found.biases[1]);
        }
        "qwen2" | "qwen3" => config["use_sliding_window"] = json!(false),
        _ => {}
    }
    if family.has_experts() {
        experts(said, family, (found.expert, found.shared), &mut config)?;
    }
    if family.has_multipliers {
        let scores = said.number("attention.scale")?.filter(|scale| *scale != 0.0);
        config["attention_multiplier"] = json!(scores.unwrap_or((head as f64).sqrt().recip()));
        for (key, ours) in [
            ("embedding_multiplier", "embedding_scale"),
            ("residual_multiplier", "residual_scale"),
            ("logits_scaling", "logit_scale"),
        ] {
            config[key] = json!(said.number(ours)?.filter(|scale| *scale != 0.0).unwrap_or(1.0));
        }
    }
    let original = said.count("rope.scaling.original_context_length")?;
    if family.model_type == "phi3" {
        let window = said.get("attention.sliding_window").and_then(Value::unsigned).filter(|window| *window > 0);
        config["sliding_window"] = json!(window);
        if let Some(original) = original {
            config["original_max_position_embeddings"] = json!(original);
        }
    }
    let rotated = said.count("rope.dimension_count")?.unwrap_or(head);
    let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let kind = said.get("rope.scaling.type").and_then(Value::text).map(str::to_owned);
    let attention = match said.number("rope.scaling.attn_factor")? {
        Some(factor) => Some(factor),
        None => said.number("rope.scaling.yarn_attn_factor")?,
    };
    let rotations = Rotations {
        theta: said.number("rope.freq_base")?,
        rotated: size(rotated),
        head: size(head),
        kind,
        factor: said.number("rope.scaling.factor")?,
        original,
        attention_factor: attention,
        beta: [said.number("rope.scaling.yarn_beta_fast")?, said.number("rope.scaling.yarn_beta_slow")?],
        divisors: found.divisors,
        long: found.long,
    };
    config["rope_parameters"] = Json::Object(rotations.parameters());
    let id = |key: &str| said.header.get(&format!("tokenizer.ggml.{key}_token_id")).and_then(Value::unsigned);
    for (key, id) in [("bos_token_id", id("bos")), ("eos_token_id", id("eos")), ("pad_token_id", id("padding"))] {
        if let Some(id) = id {
            config[key] = json!(id);
        }
    }
    match config {
        Json::Object(config) => Ok(config),
        _ => Err(Error::work("no config")),
    }
}
