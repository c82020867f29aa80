//! What the tensors of a new checkpoint are made of.

pub mod four_bit;
pub mod lora;
pub mod numbers;
