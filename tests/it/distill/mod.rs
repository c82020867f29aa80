//! What a healing learns from beside one text that people wrote: text of a model's own, several texts in shares, what a
//! teacher said beforehand.

mod generate;
mod generate_killed;
mod mixed;
mod teach;
