//! Healing: adapters and their files, training, merging, against PEFT, bitsandbytes and the Hugging Face Trainer.

mod adapters;
mod cards;
mod chat;
mod chat_trl;
mod depth;
mod distilled;
mod dora;
mod experts;
mod four_bit;
mod gradients;
mod identity;
mod inserted;
mod killed;
mod kinds;
mod measured;
mod model;
mod patience;
mod requests;
mod runs;
mod shared;
mod state;
mod tasks;
mod text;
mod together;
mod tracked;
