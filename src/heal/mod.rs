//! Healing: fine-tuning what a cut left, with frozen weights in four bits and low-rank adapters, or the last layers
//! whole.

pub mod optimiser;
pub mod schedule;
