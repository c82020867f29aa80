//! What the tensors of a new checkpoint are made of.
//!
//! A [`Blueprint`] says of each of them how it is made: an [`Expr`] over those of a source. What is the source's as it
//! stands is copied byte for byte; the rest is computed in f32 a piece at a time and rounded once. Written, it is a
//! checkpoint; opened, it is one that a model runs although nothing is written.

mod blueprint;
mod expr;
pub mod four_bit;
pub mod lora;
mod numbers;
mod opened;
mod verify;

pub use blueprint::{Blueprint, Draft, Size};
pub use expr::Expr;
pub use numbers::Numbers;
pub use verify::Identical;
