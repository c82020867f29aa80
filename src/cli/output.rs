//! Everything the program prints. Whatever names it holds, nothing but text and our own colours reaches the terminal.

use std::io::{self, IsTerminal, Write};

use prune::shown::{shown_colors, shown_json, shown_lines, shown_message};
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
    pub(crate) fn color(&self) -> bool {
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
    }

    /// Whether a person looks on: text may come bit by bit.
    pub(crate) fn is_watched(&self) -> bool {
        !self.json && !self.quiet && io::stdout().is_terminal()
    }

    /// Shows a piece of text at once, without an end of line.
    pub(crate) fn say(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        tolerant(out.write_all(shown_lines(text).as_bytes()).and_then(|()| out.flush()))
    }

    /// Prints `text`, or `report` as JSON where the user asked for it.
    pub(crate) fn report(&self, report: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if self.json {
            let json = serde_json::to_string_pretty(report).map_err(|error| Error::work(format!("report: {error}")))?;
            print(&shown_json(&json))
        } else if self.quiet {
            Ok(())
        } else {
            let text = text();
            let text = text.trim_end();
            if self.color() { print(&shown_colors(text)) } else { print(&shown_lines(text)) }
        }
    }
}

fn print(text: &str) -> Result<()> {
    tolerant(writeln!(io::stdout().lock(), "{text}"))
}

/// A reader that has gone away (`prune … | head`) is no failure.
fn tolerant(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::work(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a warning on standard error.
pub(crate) fn warning(message: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr().lock(), "warning: {}", shown_message(message));
}

/// Prints something good to know on standard error.
pub(crate) fn note(message: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", shown_message(message));
}

/// Prints the error that ends the program.
pub(crate) fn error(error: &Error) {
    let _ = writeln!(io::stderr().lock(), "error: {error}");
}
