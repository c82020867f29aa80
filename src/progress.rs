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
    /// Part of a longer work is done: told where no bar shows how far it is.
    fn reached(&self, _message: &str) {}
    /// Something the user should know although the work goes on.
    fn warn(&self, message: &str);
    /// Something that is as it should be, and good to know.
    fn note(&self, _message: &str) {}
}

/// A piece of work that an earlier process began: the units it did count as well.
pub struct Continued<'a> {
    inner: &'a dyn Progress,
    before: u64,
}

impl<'a> Continued<'a> {
    /// `before` units were done.
    #[must_use]
    pub fn new(inner: &'a dyn Progress, before: u64) -> Self {
        Self { inner, before }
    }
}

impl Progress for Continued<'_> {
    fn begin(&self, what: &str, total: u64, unit: Unit) {
        self.inner.begin(what, self.before.saturating_add(total), unit);
        self.inner.skip(self.before);
    }

    fn skip(&self, units: u64) {
        self.inner.skip(units);
    }

    fn detail(&self, text: &str) {
        self.inner.detail(text);
    }

    fn advance(&self, units: u64) {
        self.inner.advance(units);
    }

    fn end(&self) {
        self.inner.end();
    }

    fn reached(&self, message: &str) {
        self.inner.reached(message);
    }

    fn warn(&self, message: &str) {
        self.inner.warn(message);
    }

    fn note(&self, message: &str) {
        self.inner.note(message);
    }
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
