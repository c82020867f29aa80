//! The cut.

mod config;
mod json_text;
mod layer_keys;
mod module_names;
mod names;
mod per_layer;
mod stack_shape;

pub use config::{ConfigEdit, config_edits, edit_config, layer_count};
pub use names::Stack;
