//! The room of operations: devices, kernels, gradients. Every op that a forward or a training step touches lives here
//! with its CPU kernel, its gradient and their tests together.
//!
//! No op keeps a graph. candle's own fused ops (`softmax_last_dim`, `rms_norm`, `rope`) cut the gradient without an
//! error, and its matrix product always builds the gradient of both sides, the frozen weight's included; here a
//! gradient is a function of its own (`swiglu_backward`), and the model walks back by hand. candle's autograd is what
//! the tests hold that against, over formulas of plain operations (`tests/fixture/reference.rs`).

mod activation;
mod adamw;
mod add;
mod attention;
mod center;
mod cholesky;
mod clamped_swiglu;
mod cuda;
mod device;
mod divergence;
mod dora;
mod dropout;
mod edit;
mod exp;
mod finite;
mod inner_products;
mod layout;
mod likelihood;
mod linear;
mod low_rank;
mod matmul;
pub mod nf4;
mod objective;
mod optimizer;
mod product64;
mod rms_norm;
mod rope;
mod row_losses;
mod rows;
mod rows_of;
mod simd;
mod soft_cap;
mod speed;
mod stream;
mod swiglu;
#[cfg(test)]
pub(crate) mod testing;
mod top_k;
mod weight;
mod xielu;

pub use activation::{Activation, activate, activate_backward, gated, gated_backward};
pub use adamw::{AdamWStep, square_sums};
pub use add::add;
pub use attention::{Attended, Heads, attention, attention_backward, attention_kept, sinks_backward};
pub(crate) use attention::{attention_of_begun, attention_over};
pub use center::center;
pub(crate) use cholesky::Cholesky;
pub use clamped_swiglu::ClampedSwiglu;
pub use device::{device, device_memory, device_name, device_peak, device_total, gpus, settle_dtype};
pub use divergence::Divergence;
pub use dora::{RowNorms, times_columns};
pub use dropout::{Mask, dropout, dropout_rows};
pub use edit::{edit, numbers};
pub(crate) use finite::first_not_finite;
pub use finite::{FiniteWatch, all_finite};
pub use inner_products::{InnerProducts, inner_products};
pub use layout::{Layout, Segment};
pub use likelihood::{Scored, log_likelihood, log_likelihood_capped};
pub use linear::linear;
pub use low_rank::{low_rank_down, low_rank_up, outer};
pub(crate) use matmul::{FEW as ROWS_ALIKE, bf16_units, product_bytes};
pub use nf4::Nf4Weight;
pub(crate) use objective::objective_bytes;
pub use objective::{Objective, Remembered, Teacher, Tutor, objective, objective_capped};
pub use optimizer::{AdamW, Moments, Optimizer, clip};
pub(crate) use product64::{ProductSum, product64};
pub use rms_norm::{rms_norm, rms_norm_backward, sum_rows};
pub use rope::{rope, rope_backward, rope_interleaved, rope_interleaved_backward};
pub use rows_of::{RowSums, row_products, take_rows, times_rows};
pub(crate) use simd::vector_units;
pub use soft_cap::soft_cap;
pub(crate) use speed::multiply_adds;
pub use speed::reading;
pub(crate) use stream::{activation_bytes, restore_activation, save_activation};
pub use swiglu::{swiglu, swiglu_backward};
pub use top_k::{TopTokens, top_tokens};
pub use weight::{WeightMatrix, weight_bytes};
pub(crate) use weight::{as_stored_on, gather, on_device};
pub use xielu::Xielu;
