//! The cut: which tensors go, what the others are called afterwards, what the config says of them. Bytes and names
//! only; no tensor is decoded.
//!
//! A [`Cut`] is decided in full from a checkpoint and a plan; then its weights are copied, its config, model card and
//! history written, and, if asked, the result compared with the source. A plan that inserts layers ([`grow`],
//! [`repeat`]) is one as any other.

mod card;
mod config;
mod container;
mod cut;
mod format;
mod gguf;
mod gguf_keys;
mod grow;
mod grown_card;
mod json_text;
mod layer_keys;
mod mapped;
mod module_names;
mod names;
mod per_layer;
mod places;
mod sources;
mod stack_config;
mod stack_shape;
mod target;
mod tensors;
mod write;

pub use card::short_count;
pub use config::{ConfigEdit, config_edits, edit_config};
pub use cut::{Cut, CutOptions, Shrunk};
pub use format::{FORMATS, Format, format};
pub use grow::{GROWTHS, Growth, grow, growth, repeat};
pub use names::Stack;
pub use stack_config::layer_count;
pub use target::Target;
