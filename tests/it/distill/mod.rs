//! What a healing learns from beside people's text.

mod generate;
mod generate_killed;
