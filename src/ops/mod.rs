//! The room of operations: devices, kernels, gradients. Every op that a forward or a training step touches lives here
//! with its reference, its CPU kernel, its gradient and their tests together.
//!
//! candle's own fused ops (`softmax_last_dim`, `rms_norm`, `rope`) cut the gradient without an error, and its matrix
//! product always builds the gradient of both sides, the frozen weight's included. The ops here do neither.

mod attention;
mod device;
mod dropout;
mod edit;
mod finite;
mod gradients;
mod layout;
mod likelihood;
mod linear;
pub mod nf4;
mod panels;
mod rms_norm;
mod rope;
mod rows;
mod swiglu;
mod weight;

pub use attention::{Heads, attention};
pub use device::device;
pub use dropout::{Mask, dropout};
pub use edit::edit;
pub use finite::all_finite;
pub use gradients::{Attended, attention_backward, attention_kept, rms_norm_backward, rope_backward, swiglu_backward};
pub use layout::{Layout, Segment};
pub use likelihood::{Scored, cross_entropy, log_likelihood};
pub use linear::{linear, trainable_linear};
pub use nf4::{Nf4Weight, nf4_linear};
pub use rms_norm::rms_norm;
pub use rope::rope;
pub use swiglu::swiglu;
pub use weight::WeightMatrix;
