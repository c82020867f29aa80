//! Checkpoints: what is read is what is there, what is written is what others write, and every broken file is refused
//! with its name and the reason.
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod broken;
mod fetch;
#[path = "../fixture/mod.rs"]
mod fixture;
mod hostile;
mod hub;
mod liar;
mod mutated;
mod reading;
mod server;
mod writing;

use std::path::Path;

use fixture::{Head, Llama};
use prune::checkpoint::Checkpoint;
use safetensors::Dtype;

/// Every variant whose bytes must come back.
fn variants() -> Vec<Llama> {
    let plain = Llama::default;
    vec![
        plain(),
        Llama { dtype: Dtype::BF16, shards: 3, ..plain() },
        Llama { dtype: Dtype::F16, head: Head::Tied, ..plain() },
        Llama { dtype: Dtype::BF16, head: Head::TiedHeadOnly, ..plain() },
    ]
}

fn open(dir: &Path) -> Checkpoint {
    Checkpoint::open_dir(dir).unwrap()
}
