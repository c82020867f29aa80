//! One file per command: open the inputs, call a stage, return its report.

pub mod cut;
pub mod eval;
mod eval_view;
mod open;
