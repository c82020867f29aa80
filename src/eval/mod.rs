//! Scores a model on tasks so that every figure equals lm-evaluation-harness's.
//!
//! A [`Task`](tasks::Task), a row of the table [`TASKS`](tasks::TASKS), makes documents of rows, asks
//! [requests](request::Request) of three types about them and judges the [answers](request::Answer). An
//! [`Evaluation`](evaluation::Evaluation) does the rest, in the order of these files: [`select`](select::select) turns
//! names into tasks, those of [files](defined) too; a [`TaskSource`](source::TaskSource) has their data;
//! [`prompts`](prompts::prompts) puts examples in front, as [`shots`] and a [chat template](chat) have them; an
//! [`Encoder`](encode::Encoder) makes tokens of requests; [`plan`](passes::plan) packs those so that every distinct
//! beginning is run once a pass; [`score`](score::score) runs the model and reads the answers, [`generate`] lets it
//! answer in its own words; a [`Job`](job::Job) knows what they amount to; [`results`] are files in the harness's
//! schema, which [`compare`](compare::compare) compares with. Answers are kept in a [`Journal`](journal::Journal) as
//! they come; several [processes](crate::collective) share the passes out. [`questions`] are asked of many models by
//! whoever scores layers.
//!
//! The reference is lm-evaluation-harness 0.4.13 with transformers 5.23: its task files for prompts and metrics,
//! `api/task.py` and `api/samplers.py` for examples, `models/huggingface.py` for tokens and log-likelihoods.

mod before;
pub mod chat;
mod classes;
pub mod code;
pub mod compare;
pub mod defined;
pub mod degenerate;
pub mod encode;
pub mod evaluation;
mod examples;
pub mod fields;
pub mod finished;
pub mod gen_kwargs;
pub mod generate;
pub mod job;
pub mod journal;
mod kept;
mod layouts;
pub mod metrics;
pub mod outcome;
pub mod passes;
pub mod prompts;
mod python;
pub mod questions;
pub mod request;
pub mod results;
pub mod room;
mod samples;
pub mod score;
pub mod scores;
pub mod select;
pub mod settings;
pub mod shard;
pub mod shots;
pub mod side;
pub mod source;
mod subjects;
pub mod table;
pub mod tasks;
mod text_names;
pub mod ways;
