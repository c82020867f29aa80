//! What a family member is, as data: one table row per `model_type`, read with a config into one [`ModelSpec`].

mod spec;

pub use spec::{ModelSpec, Role, Rope, RopeScaling};
