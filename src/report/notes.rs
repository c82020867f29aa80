//! The sentence below a figure, in as many lines as it takes.

use plotters::backend::DrawingBackend;

use super::canvas::{Canvas, GRAY, Letters, WIDEST};
use super::letters;
use crate::Result;

const SIZE: f64 = 12.0;
const LINE: f64 = 17.0;
const MARGIN: f64 = 16.0;

/// Height that `note` takes below a figure that is `width` wide.
pub(super) fn height(note: &str, width: f64) -> u32 {
    match lines(note, width - 2.0 * MARGIN).len() {
        0 => 0,
        lines => (lines as f64 * LINE + MARGIN) as u32,
    }
}

/// Draws it below `top`.
pub(super) fn draw<B: DrawingBackend>(canvas: &Canvas<B>, note: &str, top: f64, width: f64) -> Result<()> {
    let letters = Letters::new(SIZE).color(GRAY);
    let lines = lines(note, width - 2.0 * MARGIN);
    lines.iter().enumerate().try_for_each(|(index, line)| {
        let line = canvas.fitting(line, letters, width - 2.0 * MARGIN);
        canvas.text(&line, (MARGIN, top + (index as f64 + 0.5) * LINE), letters)
    })
}

/// Words that fit `room` units together, whatever the viewer sets them in.
fn lines(note: &str, room: f64) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in note.split_whitespace() {
        match lines.last_mut() {
            Some(line) if letters::width(&format!("{line} {word}"), SIZE) * WIDEST <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_keeps_its_words() {
        let note = "a sentence of several words that says what the numbers are evidence for";
        let lines = lines(note, 150.0);
        assert!(lines.len() > 2);
        assert_eq!(lines.join(" "), note);
        assert!(lines.iter().all(|line| letters::width(line, SIZE) * WIDEST <= 150.0));
        assert_eq!((height("", 200.0), height("one", 200.0)), (0, 33));
    }
}
