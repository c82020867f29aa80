//! One file per command: open the inputs, call a stage, return its report.

mod analysis_view;
pub mod analyze;
pub mod cut;
pub mod demo;
pub mod eval;
mod eval_view;
pub mod heal;
mod heal_figure;
mod heal_record;
pub mod merge;
mod open;
mod seam;
