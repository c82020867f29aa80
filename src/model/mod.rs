//! Filled in by its room.

pub mod four_bit;
pub mod lora;
