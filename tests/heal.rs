//! Healing: adapters and their files, training, merging, against PEFT, bitsandbytes and the Hugging Face Trainer.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]
#![allow(clippy::print_stdout, reason = "how far apart the numbers are is worth a line")]

#[path = "heal/adapters.rs"]
mod adapters;
#[path = "heal/cards.rs"]
mod cards;
mod fixture;
#[path = "heal/four_bit.rs"]
mod four_bit;
#[path = "heal/gradients.rs"]
mod gradients;
#[path = "heal/identity.rs"]
mod identity;
#[path = "heal/killed.rs"]
mod killed;
#[path = "heal/kinds.rs"]
mod kinds;
#[path = "heal/measured.rs"]
mod measured;
#[path = "heal/model.rs"]
mod model;
#[path = "heal/requests.rs"]
mod requests;
#[path = "heal/runs.rs"]
mod runs;
#[path = "heal/shared.rs"]
mod shared;
#[path = "heal/state.rs"]
mod state;
#[path = "heal/text.rs"]
mod text;
