//! Checkpoints: what is read is what is there, what is written is what others write, and every broken file is refused
//! with its name and the reason.

mod broken;
mod fetch;
mod hostile;
mod hub;
mod liar;
mod mutated;
mod reading;
pub(crate) mod server;
mod writing;

use std::path::Path;

use prune::checkpoint::Checkpoint;
use safetensors::Dtype;

use crate::fixture::{Head, Llama};

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
