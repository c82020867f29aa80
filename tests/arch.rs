//! Every row of the table of architectures against transformers: names, rotations, logits before and after a cut.
//!
//! `tests/data/arch` is written by `tests/interop/make_arch_fixtures.py`. A fixture holds no weights: both sides make
//! them from the formula described in `tests/interop/arch_cases.py`.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

#[path = "arch/cases.rs"]
mod cases;
#[path = "arch/configs.rs"]
mod configs;
mod fixture;
#[path = "arch/logits.rs"]
mod logits;
#[path = "arch/names.rs"]
mod names;
