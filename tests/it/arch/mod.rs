//! Every row of the table of architectures against transformers: names, rotations, logits before and after a cut.
//!
//! `tests/data/arch` is written by `tests/interop/make_arch_fixtures.py`. A fixture holds no weights: both sides make
//! them from the formula described in `tests/interop/arch_cases.py`.

mod adapters;
pub(crate) mod cases;
mod configs;
pub(crate) mod forward;
mod latent;
mod logits;
pub(crate) mod mixtures;
mod names;
