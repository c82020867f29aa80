//! The room of operations: devices, kernels, gradients. Every op that a forward or a training step touches lives here
//! with its reference, its CPU kernel, its gradient and their tests together.

mod layout;
pub mod nf4;
mod panels;

pub use layout::{Layout, Segment};
pub use nf4::{Nf4Weight, nf4_linear};
