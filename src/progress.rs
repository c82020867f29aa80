//! What the library tells whoever watches: how far a long piece of work is, and what is worth a warning.

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown in binary units.
    Bytes,
    /// Tokens.
    Tokens,
    /// Samples, questions, steps, files: anything counted by ones.
    Items,
}

/// Receives progress. The binary draws bars; tests and library users pass [`Silent`].
pub trait Progress: Send + Sync {
    /// A piece of work of `total` units starts; it ends with the next `begin` or [`Progress::end`].
    fn begin(&self, what: &str, total: u64, unit: Unit);
    /// `units` were done before this process began with it: they count, and say nothing of the time that is left.
    fn skip(&self, _units: u64) {}
    /// What there is to say of the work as it is now: a loss, a speed.
    fn detail(&self, _text: &str) {}
    /// `units` more are done.
    fn advance(&self, units: u64);
    /// The current piece of work is over.
    fn end(&self);
    /// Something the user should know although the work goes on.
    fn warn(&self, message: &str);
    /// Something that is as it should be, and good to know.
    fn note(&self, _message: &str) {}
}

/// Reports nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total: u64, _unit: Unit) {}
    fn advance(&self, _units: u64) {}
    fn end(&self) {}
    fn warn(&self, _message: &str) {}
}
