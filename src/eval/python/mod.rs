//! What Python does, where the reference harness's numbers depend on it: its random numbers, its text rules, its JSON.

mod json;
mod random;
mod text;

pub(super) use json::{repr, to_json, to_json_pretty};
pub(super) use random::Random;
pub(super) use text::{capitalize, is_space, rstrip, strip, words};
