//! The room of operations: devices, kernels, gradients. Every op that a forward or a training step touches lives here
//! with its reference, its CPU kernel, its gradient and their tests together.
//!
//! candle's own fused ops (`softmax_last_dim`, `rms_norm`, `rope`) cut the gradient without an error, and its matrix
//! product always builds the gradient of both sides, the frozen weight's included. The ops here do neither.

mod attention;
mod cross_entropy;
mod device;
mod exp;
mod finite;
mod layout;
mod likelihood;
mod linear;
mod matmul;
mod rms_norm;
mod rope;
mod rows;
mod simd;
mod swiglu;
#[cfg(test)]
mod testing;

pub use attention::{Heads, attention};
pub use cross_entropy::cross_entropy;
pub use device::device;
pub use finite::all_finite;
pub use layout::{Layout, Segment};
pub use likelihood::{Scored, log_likelihood};
pub use linear::{linear, trainable_linear};
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use swiglu::swiglu;
