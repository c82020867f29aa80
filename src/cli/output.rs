//! Everything the program prints.

use std::io::{self, IsTerminal, Write};

use prune::{Error, Result};
use serde::Serialize;

/// Standard output: text for a person, or one JSON object for a program.
pub(crate) struct Output {
    json: bool,
    quiet: bool,
}

impl Output {
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Whether colours may be used.
    pub(crate) fn colour(&self) -> bool {
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
    }

    /// Prints `text`, or `report` as JSON where the user asked for it.
    pub(crate) fn report(&self, report: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if self.json {
            let json = serde_json::to_string_pretty(report).map_err(|error| Error::work(format!("report: {error}")))?;
            print(&json)
        } else if self.quiet {
            Ok(())
        } else {
            print(text().trim_end())
        }
    }
}

/// A reader that has gone away (`prune … | head`) is no failure.
fn print(text: &str) -> Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::work(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a warning on standard error.
pub(crate) fn warning(message: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr().lock(), "warning: {message}");
}

/// Prints something good to know on standard error.
pub(crate) fn note(message: &str) {
    let _ = writeln!(io::stderr().lock(), "{message}");
}

/// Prints the error that ends the program.
pub(crate) fn error(error: &Error) {
    let _ = writeln!(io::stderr().lock(), "error: {error}");
}
