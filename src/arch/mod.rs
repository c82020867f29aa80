//! What a family member is, as data: one table row per `model_type`, read with a config into one [`ModelSpec`].
//!
//! `table` holds the rows, `config` reads a `config.json` with the help of a row, `names` says what the tensors are
//! called, `sublayers` what a block is made of, `check` compares them with a checkpoint, `rope` computes the rotations.

mod check;
mod config;
mod keys;
mod names;
mod refused;
mod rope;
mod rope_config;
mod spec;
mod sublayers;
mod table;
mod windows;

pub use names::{EMBEDDING, HEAD, LayerTensor};
pub use spec::{ModelSpec, Role, Rope, RopeScaling};
pub use sublayers::{Residual, SubLayerKind, SubLayers};
pub use table::{ARCHITECTURES, Architecture, Bias, WindowRule};
