//! Speeds of models that were measured in turns.

use serde::{Deserialize, Serialize};

use crate::commands::bench::ModelBench;
use crate::report::run::Speed;

/// Speed of a model, and of the dense one measured in turns with it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Speeds {
    pub(super) model: Speed,
    pub(super) dense: Option<Speed>,
}

/// Speeds of one model, measured several times: the middle of the middles, the least and the most.
pub(super) fn together(speeds: impl Iterator<Item = Speed>) -> Option<Speed> {
    let speeds: Vec<Speed> = speeds.collect();
    let middle = |of: fn(&Speed) -> f64| {
        let mut all: Vec<f64> = speeds.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    };
    let range = |place: usize| {
        let ranges = speeds.iter().map(|speed| speed.ranges[place]);
        ranges.fold((f64::INFINITY, 0.0), |(least, most): (f64, f64), range| (least.min(range.0), most.max(range.1)))
    };
    Some(Speed {
        prompt: middle(|speed| speed.prompt)?,
        generation: middle(|speed| speed.generation)?,
        first_token: middle(|speed| speed.first_token)?,
        memory: speeds.iter().map(|speed| speed.memory).max()?,
        ranges: [0, 1, 2].map(range),
    })
}

pub(super) fn speed(bench: &ModelBench) -> Speed {
    let spreads = [bench.prompt_tokens_per_second, bench.tokens_per_second, bench.first_token_seconds];
    Speed {
        prompt: bench.prompt_tokens_per_second.median,
        generation: bench.tokens_per_second.median,
        first_token: bench.first_token_seconds.median,
        memory: bench.computed_memory_bytes,
        ranges: spreads.map(|spread| (spread.min, spread.max)),
    }
}
