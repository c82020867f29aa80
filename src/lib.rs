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
//! # From analysis to cut
//!
//! What the commands of the same names do. Each takes its settings as a struct and gives a report; nothing is printed.
//!
//! ```
//! use prune::commands::analyze::{AnalyzeSettings, analyze};
//! use prune::commands::cut::{CutSettings, cut};
//! use prune::progress::Silent;
//!
//! let dir = tempfile::tempdir()?;
//! let (model, text) = (dir.path().join("model"), dir.path().join("text.txt"));
//! prune::pico::write(&model)?;
//! prune::checkpoint::write_new(&text, "w3 w1 w4 w1 w5 w9 w2 w6 w5 w3 w5 w8 w9 w7 w9")?;
//! let name = |path: &std::path::Path| Some(path.display().to_string());
//!
//! // the block of two layers whose ends are most alike
//! let out = Some(dir.path().join("analysis"));
//! let (model_name, data) = (name(&model), vec![text.display().to_string()]);
//! let settings = AnalyzeSettings { model: model_name, data, layers: Some(2), out, ..Default::default() };
//! let analysis = analyze(&settings, &Silent)?.analysis.unwrap();
//! let dropped = analysis.plan.as_ref().unwrap().dropped();
//!
//! // the checkpoint without it, compared with its source
//! let plan = Some(dir.path().join("analysis/analysis.json"));
//! let out = Some(dir.path().join("pruned"));
//! let report = cut(&CutSettings { model: name(&model), plan, out, verify: true, ..Default::default() }, &Silent)?;
//! assert_eq!(report.dropped, dropped);
//! assert_eq!((report.layers.before, report.layers.after), (4, 2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Add to it
//!
//! Every extension point is a table, and its documentation says how a row is added: an [architecture](arch), a
//! [metric](importance::METRICS), a [method and a pick](methods), a [repair], a [growth](surgery::GROWTHS), a
//! [task](eval::tasks).
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
//! arch         checkpoint ops
//! data         checkpoint
//! collective   checkpoint ops
//! report       checkpoint
//! demo         checkpoint
//! pico         arch checkpoint
//! weights      arch checkpoint ops
//! export       arch checkpoint ops weights
//! model        arch checkpoint data ops pico weights
//! surgery      arch checkpoint export model pico weights
//! importance   arch checkpoint collective data model ops
//! methods      importance model
//! repair       arch checkpoint model ops pico weights
//! distill      arch checkpoint data model ops
//! heal         arch checkpoint collective data model ops weights
//! eval         arch checkpoint collective data model ops weights
//!
//! foundations  card error files interrupt plan progress provenance settings shown
//! ```
//!
//! Shape letters, the same everywhere: `b` batch, `t` tokens, `d` hidden size, `h` heads, `k` KV heads, `e` head
//! dimension, `f` MLP size, `v` vocabulary, `l` layers, `r` LoRA rank. Layers are numbered from 0.

#[cfg(test)]
extern crate self as prune;

pub mod arch;
pub mod card;
pub mod checkpoint;
pub mod collective;
pub mod commands;
pub mod data;
pub mod demo;
pub mod distill;
pub mod error;
pub mod eval;
pub mod export;
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
pub mod pico;
pub mod plan;
pub mod progress;
pub mod provenance;
#[cfg(test)]
#[path = "../tests/fixture/reference.rs"]
mod reference;
pub mod repair;
pub mod report;
pub mod settings;
pub mod shown;
pub mod surgery;
pub mod weights;

pub use error::{Context, Error, Result};
