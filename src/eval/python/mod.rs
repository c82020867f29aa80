//! What Python does, where the reference harness's numbers depend on it: its random numbers, its text rules, its
//! regular expressions, its JSON and its literals.

mod json;
mod literal;
mod pattern;
mod random;
mod text;

pub(super) use json::{repr, to_json, to_json_pretty};
pub(super) use literal::literal;
pub(super) use pattern::{Found, Pattern};
pub(super) use random::Random;
pub(super) use text::{capitalize, is_space, rstrip, strip, words};
