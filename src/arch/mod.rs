//! What a family member is, as data: one table row per `model_type`, read with a config into one [`ModelSpec`].
//!
//! `rows` holds the rows, `mixtures` those of mixtures of experts, `apertus` and `deepseek` two families'; `table`,
//! `kinds` and `experts` say what a row can say, `latent` is DeepSeek's attention, `config` reads a `config.json` with
//! the help of a row, `names` says what the tensors are called, `sublayers` what a block is made of, `check` compares
//! them with a checkpoint, `rope` computes the rotations.
//!
//! # Add an architecture
//! A family is a row of [`ARCHITECTURES`] in `rows.rs` and nothing else: `model_type`, `class`, and what differs from
//! Llama's row: kinds and places of norms, parallel sub-layers, activations, multipliers, biases, fused projections,
//! windows, rotations, names of modules, defaults of keys that configs leave out. A switch that no row can say yet
//! belongs in `refused.rs`, so that a config that turns it on is refused rather than computed wrongly.
//! `tests/interop/make_arch_fixtures.py` records what transformers computes for a small random model of the family in
//! `tests/data/arch`: logits before and after a cut, the loss, gradients; the tests compare with that for every row.
//!
//! ```
//! use prune::arch::{ARCHITECTURES, ModelSpec};
//!
//! let config = serde_json::json!({
//!     "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
//!     "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 64,
//! });
//! let spec = ModelSpec::from_config(config.as_object().unwrap())?;
//! assert!(ARCHITECTURES.iter().any(|row| row.model_type == spec.model_type));
//! let names: Vec<String> = spec.layer_tensors(3).into_iter().map(|tensor| tensor.name).collect();
//! assert!(names.contains(&"model.layers.3.self_attn.q_norm.weight".to_owned()));
//! # Ok::<(), prune::Error>(())
//! ```

mod alike;
mod apertus;
mod check;
mod config;
mod deepseek;
mod experts;
mod keys;
mod kinds;
mod latent;
mod left_out;
mod mixtures;
mod multipliers;
mod names;
mod refused;
mod role;
mod rope;
mod rope_config;
mod rows;
mod seam_maps;
mod spec;
mod sublayers;
mod table;
mod windows;

pub use experts::{ExpertRule, Experts, ExpertsAt, GroupRule, GroupScores, Groups, RouterScores, Stacked};
pub use kinds::{
    Activation, MultiplierRule, Multipliers, NormKind, NormPlaces, Parallel, QkNorm, RotationRule, SlidingRope,
};
pub use latent::{Latent, LatentRule};
pub use left_out::nas_mlp_size;

pub(crate) use left_out::{NAS, NAS_CLASS};
pub use names::LayerTensor;
pub(crate) use names::is_of_module;
pub use role::Role;
pub use rows::ARCHITECTURES;
pub(crate) use seam_maps::{SEAM_MAPS, seam_map_type};
pub use spec::{ModelSpec, Rope, RopeScaling, SeamMap};
pub use sublayers::{Residual, SubLayerKind};
pub use table::{Architecture, Bias, WindowRule};
