//! What the tensors of a new checkpoint are made of.
//!
//! A [`Blueprint`] says of each of them how it is made: an [`Expr`] over those of a source. What is the source's as it
//! stands is copied byte for byte; the rest is computed in f32 a piece at a time and rounded once. Written, it is a
//! checkpoint; opened, it is one that a model runs although nothing is written.
//!
//! A model whose layer 3 is the mean of its layers 3 and 4, run without being written:
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use prune::checkpoint::{ByteSize, Checkpoint, to_python_json};
//! use prune::model::{Model, ModelOptions};
//! use prune::progress::Silent;
//! use prune::weights::{Draft, Expr};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let source = Arc::new(Checkpoint::open_dir("model".as_ref())?);
//!     let mut draft = Draft::new(&source);
//!     for (name, entry) in &source.tensors {
//!         let expr = match name.strip_prefix("model.layers.3.") {
//!             Some(rest) => {
//!                 let next = Expr::Source(format!("model.layers.4.{rest}"));
//!                 Expr::Sum(vec![(0.5, Expr::Source(name.clone())), (0.5, next)])
//!             }
//!             None => Expr::Source(name.clone()),
//!         };
//!         draft.add(name, entry.dtype, expr)?;
//!     }
//!     let blueprint = Arc::new(draft.finish(to_python_json(&source.config)?, ByteSize(5_000_000_000))?);
//!     let merged = Model::open(Arc::new(blueprint.open()?), &ModelOptions::default(), &Silent)?;
//!     println!("{} nats", merged.loss(&[vec![1, 2, 3]], "loss", &Silent)?.mean());
//!     Ok(())
//! }
//! ```

mod between;
mod blueprint;
mod expr;
pub mod four_bit;
pub mod lora;
mod numbers;
mod opened;
mod verify;

pub use between::{Other, between};
pub(crate) use blueprint::stored;
pub use blueprint::{Blueprint, Draft, Size};
pub use expr::Expr;
pub use numbers::Numbers;
pub use verify::Identical;
