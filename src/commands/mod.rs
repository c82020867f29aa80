//! One file per command: open the inputs, call a stage, return its report.

pub mod cut;
