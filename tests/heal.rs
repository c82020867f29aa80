//! Healing: adapters and their files, training, merging, against PEFT, bitsandbytes and the Hugging Face Trainer.

#[path = "heal/adapters.rs"]
mod adapters;
mod fixture;
#[path = "heal/four_bit.rs"]
mod four_bit;
#[path = "heal/shared.rs"]
mod shared;
