//! Scores in a terminal: one row as a strip, all of them as a triangle.

use std::fmt::Write as _;

use super::triangle::{Triangle, color, takes_black};

/// What a terminal shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// The 256 ANSI colours.
    Color,
    /// Blocks of Unicode, no colour.
    Blocks,
    /// ASCII: digits, 0 what goes first.
    Plain,
}

/// Models with more layers than this have a letter for a layer, not two.
const WIDE: usize = 36;
/// Models with more layers than this get no triangle.
const MOST_SHOWN: usize = 44;

/// Row `n`-1 of the scores over l, rescaled, with an arrow at the best block's first layer; the only row of single
/// layers, with an arrow at each that the plan drops. Ends with a newline; empty when there is no such row.
#[must_use]
pub(crate) fn strip(scores: &Triangle, n: usize, paint: Paint) -> String {
    let width = width(scores);
    let (n, label) = if scores.is_single() { (1, "layer ".to_owned()) } else { (n, format!("n={n:<3} ")) };
    let cells = scores.rescaled(n);
    if cells.is_empty() {
        return String::new();
    }
    let pointer = if paint == Paint::Plain { "^" } else { "▲" };
    let (mut row, mut pointers) = (String::new(), String::new());
    for (l, rescaled) in cells.iter().enumerate() {
        row.push_str(&cell(*rescaled, width, paint, Shape::Bar, false));
        let _ = write!(pointers, "{:<width$}", if scores.is_marked(n, l) { pointer } else { "" });
    }
    let below = axis(scores, width, cells.len());
    let room = " ".repeat(label.len());
    format!("{label}{row}\n{room}{}\n{room}{}\n", pointers.trim_end(), below.trim_end())
}

/// All rows, the largest blocks on top, each rescaled, the best block of each marked. `None` for models so deep that it
/// would not fit a terminal.
#[must_use]
pub(crate) fn triangle_map(scores: &Triangle, paint: Paint) -> Option<String> {
    if scores.layers() > MOST_SHOWN {
        return None;
    }
    let width = width(scores);
    let mut text = String::new();
    for n in (1..=scores.shown_rows()).rev() {
        let arrow = if scores.chosen == Some(n) { '>' } else { ' ' };
        let _ = write!(text, "{n:>4}{arrow} ");
        for (l, rescaled) in scores.rescaled(n).into_iter().enumerate() {
            text.push_str(&cell(rescaled, width, paint, Shape::Shade, scores.is_marked(n, l)));
        }
        text.push('\n');
    }
    let _ = writeln!(text, "   n  {}", axis(scores, width, scores.layers()).trim_end());
    Some(text)
}

/// Columns of a cell.
fn width(scores: &Triangle) -> usize {
    if scores.layers() > WIDE { 1 } else { 2 }
}

/// Numbers of layers under the cells, as many as fit without touching.
fn axis(scores: &Triangle, width: usize, cells: usize) -> String {
    let step = if scores.layers() <= 12 && width == 2 { 2 } else { 5 };
    let mut text = String::new();
    for l in (0..cells).step_by(step) {
        let _ = write!(text, "{:<room$}", l, room = step * width);
    }
    text
}

/// How the absence of colour shows a number.
#[derive(Clone, Copy, PartialEq)]
enum Shape {
    /// By height.
    Bar,
    /// By density.
    Shade,
}

/// One cell, `width` columns.
fn cell(rescaled: f64, width: usize, paint: Paint, shape: Shape, is_best: bool) -> String {
    let pick = |letters: &[char]| letters[((rescaled * letters.len() as f64) as usize).min(letters.len() - 1)];
    let fill = |letter: char| letter.to_string().repeat(width);
    match (paint, shape) {
        (Paint::Color, _) => {
            let ink = color(rescaled);
            let text = if is_best { format!("{:<width$}", "●") } else { " ".repeat(width) };
            let letter = if takes_black(ink) { 16 } else { 231 };
            format!("\x1b[48;5;{};38;5;{letter}m{text}\x1b[0m", ansi(ink))
        }
        (_, Shape::Shade) if is_best => format!("{:<width$}", if paint == Paint::Plain { "*" } else { "●" }),
        (Paint::Blocks, Shape::Bar) => fill(pick(&['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'])),
        (Paint::Blocks, Shape::Shade) => fill(pick(&[' ', '░', '▒', '▓', '█'])),
        (Paint::Plain, _) => format!("{:<width$}", pick(&['0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])),
    }
}

/// The nearest of the 216 colours of the ANSI cube.
fn ansi(color: [u8; 3]) -> u8 {
    let level =
        |part: u8| [0u8, 95, 135, 175, 215, 255].iter().enumerate().min_by_key(|(_, level)| level.abs_diff(part));
    let [r, g, b] = color.map(|part| level(part).map_or(0, |(index, _)| index as u8));
    16 + 36 * r + 6 * g + b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(layers: usize) -> Triangle {
        let value = |n: usize, l: usize| ((l as f64 - 0.6 * layers as f64).powi(2) + n as f64).sqrt();
        let rows: Vec<Vec<f64>> = (1..=layers).map(|n| (0..=layers - n).map(|l| value(n, l)).collect()).collect();
        let lowest = |row: &Vec<f64>| (0..row.len()).min_by(|a, b| row[*a].total_cmp(&row[*b]));
        Triangle { best: rows.iter().map(lowest).collect(), rows, chosen: Some(2), ..Triangle::default() }
    }

    /// Text as it appears: without colours.
    fn bare(text: &str) -> String {
        let mut bare = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('\x1b') {
            bare.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        bare + rest
    }

    #[test]
    fn a_strip_points_at_the_best_block() {
        let text = strip(&scores(10), 1, Paint::Plain);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "n=1   9 8 6 4 2 0 0 0 2 4 ");
        assert_eq!(lines[1].find('^'), Some(6 + 2 * 6));
        assert_eq!(lines[2], "      0   2   4   6   8");
        assert!(strip(&scores(10), 11, Paint::Plain).is_empty());
        assert!(strip(&scores(10), 1, Paint::Blocks).contains("▁▁"));
    }

    #[test]
    fn a_strip_of_single_layers_points_at_what_goes() {
        let rows = vec![vec![0.3, 0.1, 0.2, 0.4]];
        let scores =
            Triangle { rows, best: vec![Some(1)], chosen: Some(2), dropped: vec![1, 2], ..Triangle::default() };
        assert_eq!(strip(&scores, 2, Paint::Plain), "layer 6 0 3 9 \n        ^ ^\n      0   2\n");
        assert_eq!(triangle_map(&scores, Paint::Plain).unwrap().lines().next(), Some("   1  6 * * 9 "));
    }

    #[test]
    fn every_paint_has_the_same_shape() {
        for layers in [2, 5, 16, 32, 40] {
            let scores = scores(layers);
            let maps = [Paint::Color, Paint::Blocks, Paint::Plain].map(|paint| triangle_map(&scores, paint).unwrap());
            let shape = |text: &str| bare(text).lines().map(|line| line.chars().count()).collect::<Vec<_>>();
            assert_eq!(shape(&maps[0]), shape(&maps[1]));
            assert_eq!(shape(&maps[1]), shape(&maps[2]));
            assert_eq!(maps[2].lines().count(), layers);
            assert!(maps[2].lines().all(|line| line.chars().count() <= 80), "{layers}");
            assert!(maps[2].is_ascii());
            assert_eq!(maps[2].matches('*').count(), layers - 1);
            assert_eq!(maps[2].matches('>').count(), usize::from(layers > 2));
        }
        assert!(triangle_map(&scores(80), Paint::Plain).is_none());
        assert!(strip(&scores(80), 8, Paint::Plain).lines().all(|line| line.len() <= 88));
    }

    #[test]
    fn colors_of_the_cube() {
        assert_eq!((ansi([0, 0, 0]), ansi([255, 255, 255]), ansi([250, 4, 0])), (16, 231, 196));
    }
}
