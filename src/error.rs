//! The one error type: a sentence for the person reading it, and whether the request or the work was at fault.

use std::fmt;
use std::path::Path;

use crate::files::meant;
use crate::shown::shown_message;

/// What went wrong, worded for the user: what, in which file or flag, what was expected, what to do.
#[derive(Debug)]
pub enum Error {
    /// The request was wrong: a flag, a path that is not there, a plan for another model. Exit code 2.
    Request(String),
    /// The request was right and the work failed: a broken file, a full disk, a non-finite value. Exit code 1.
    Work(String),
    /// Ctrl-C or SIGTERM. Exit code 130.
    Interrupted,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The request was wrong.
    pub fn request(message: impl Into<String>) -> Self {
        Self::Request(message.into())
    }

    /// The work failed.
    pub fn work(message: impl Into<String>) -> Self {
        Self::Work(message.into())
    }

    /// An operating system error at `path`; a path that does not exist is a wrong request, and what it may have meant
    /// is named.
    pub fn io(path: impl AsRef<Path>, error: &std::io::Error) -> Self {
        let (path, place) = (path.as_ref(), path.as_ref().display());
        match error.kind() {
            std::io::ErrorKind::NotFound => Self::Request(format!("{place}: no such file or directory{}", meant(path))),
            std::io::ErrorKind::PermissionDenied => Self::Work(format!("{place}: no permission")),
            _ => Self::Work(format!("{place}: {error}")),
        }
    }

    /// The same fault in other words; an interruption stays one.
    #[must_use]
    pub fn reworded(self, word: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Request(message) => Self::Request(word(message)),
            Self::Work(message) => Self::Work(word(message)),
            Self::Interrupted => Self::Interrupted,
        }
    }

    /// Exit code of the process: 2 request, 1 work, 130 interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Request(_) => 2,
            Self::Work(_) => 1,
            Self::Interrupted => 130,
        }
    }
}

impl fmt::Display for Error {
    /// A line that fits a screen, whatever names of strangers are in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(message) | Self::Work(message) => f.write_str(&shown_message(message)),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        // where the environment asks for one, a backtrace follows
        Self::Work(error.to_string().lines().next().unwrap_or_default().to_owned())
    }
}

/// Puts the place in front of the fault: `place: fault`.
pub trait Context<T> {
    /// Prefixes the error's message with `place`, computed only on failure.
    ///
    /// # Errors
    /// The error it was given, with the place in front.
    fn context<D: fmt::Display>(self, place: impl FnOnce() -> D) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<D: fmt::Display>(self, place: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| Into::<Error>::into(error).reworded(|message| format!("{}: {message}", place())))
    }
}
