//! `prune` removes layers from Llama-family language models and heals them.
//!
//! It implements "The Unreasonable Ineffectiveness of the Deeper Layers" (arXiv 2403.17887): measure the angular
//! distance between the residual streams that enter layer l and layer l+n, drop the block whose removal changes them
//! least, heal the seam with QLoRA, and score the result.
//!
//! Data flows one way: `commands` open the inputs and call one stage (`importance`, `surgery`, `heal`, `eval`,
//! `report`); stages run a `model` over `data`; the model is described by `arch`, computed by `ops` and read from a
//! `checkpoint`, or from one whose tensors `weights` make. Stages never import each other: they meet in files.
//!
//! # Floor plan
//!
//! From the ground up, what each room may use beside the foundations, which all may use. Above the rooms, `commands`
//! use any of them, and `cli` and `main` the commands. `tests/structure.rs` reads this table and holds the code to it.
//!
//! ```text
//! room         uses
//! checkpoint
//! ops
//! arch         checkpoint
//! data         checkpoint
//! report       checkpoint
//! demo         checkpoint
//! weights      arch checkpoint ops
//! model        arch checkpoint data ops weights
//! surgery      arch checkpoint model weights
//! importance   arch checkpoint data model ops
//! methods      importance
//! heal         arch checkpoint data model ops weights
//! eval         arch checkpoint data model ops
//!
//! foundations  card error files interrupt plan progress provenance settings shown
//! ```
//!
//! Shape letters, the same everywhere: `b` batch, `t` tokens, `d` hidden size, `h` heads, `k` KV heads, `e` head
//! dimension, `f` MLP size, `v` vocabulary, `l` layers, `r` LoRA rank. Layers are numbered from 0.

pub mod arch;
pub mod card;
pub mod checkpoint;
pub mod commands;
pub mod data;
pub mod demo;
pub mod error;
pub mod eval;
pub mod files;
pub mod heal;
pub mod importance;
pub mod interrupt;
#[cfg(test)]
#[path = "../tests/fixture/material.rs"]
mod material;
pub mod methods;
pub mod model;
pub mod ops;
pub mod plan;
pub mod progress;
pub mod provenance;
pub mod report;
pub mod settings;
pub mod shown;
pub mod surgery;
pub mod weights;

pub use error::{Context, Error, Result};
