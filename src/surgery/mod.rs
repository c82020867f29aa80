//! The cut.
mod json_text;
