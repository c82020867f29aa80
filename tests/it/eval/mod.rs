//! `prune eval` against lm-evaluation-harness's own numbers, and what it does when it is killed or given nonsense.

mod again;
mod data;
mod defined;
mod generation;
mod goldens;
mod killed;
mod programs;
mod recorded;
mod requests;
mod shards;
pub(crate) mod shared;
mod together;
mod ways;
