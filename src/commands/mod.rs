//! One file per command: open the inputs, call a stage, return its report.

mod analysis_view;
pub mod analyze;
mod analyze_settings;
pub mod bench;
mod bench_view;
pub mod compare;
mod compare_view;
pub mod cut;
pub mod demo;
pub mod doctor;
mod doctor_view;
pub mod eval;
mod eval_view;
pub mod fetch;
pub mod heal;
mod heal_figure;
mod heal_job;
mod heal_measure;
mod heal_record;
mod made;
pub mod merge;
pub mod methods;
mod neighbors;
mod open;
pub mod run;
pub mod sample;
mod seam;
