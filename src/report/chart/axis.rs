//! From numbers to places on the paper.

use super::super::canvas::At;
use super::super::scale::{labels, powers, round_numbers};

/// One side of the frame: the numbers at its ends, and the round ones between them.
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    labeled: Vec<f64>,
    is_logarithmic: bool,
}

impl Axis {
    /// Covers `values`, with some room beyond them: `margin` of their span. Starts at zero when that is near.
    pub(super) fn new(values: impl Iterator<Item = f64>, margin: f64, count: usize) -> Self {
        let (low, high) = span(values).unwrap_or((0.0, 1.0));
        let room = if high > low { (high - low) * margin } else { low.abs().max(1.0) * 0.1 };
        let is_near_zero = low >= 0.0 && low < 0.35 * high;
        let (low, high) = (if is_near_zero { 0.0 } else { low - room }, high + room);
        let inside = |number: &f64| *number >= low - 1e-9 * (high - low) && *number <= high + 1e-9 * (high - low);
        let labeled = round_numbers(low, high, count).into_iter().filter(inside).collect();
        Self { low, high, labeled, is_logarithmic: false }
    }

    /// Covers those of `values` that are above zero; equal ratios are equally long.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = span(values.filter(|value| *value > 0.0)).unwrap_or((1.0, 10.0));
        let (low, high) = (low / 1.3, (high * 1.3).min(f64::MAX));
        Self { low, high, labeled: powers(low, high), is_logarithmic: true }
    }

    /// Where `value` lies, 0 at the low end and 1 at the high one.
    fn part(&self, value: f64) -> f64 {
        match self.is_logarithmic {
            false => (value - self.low) / (self.high - self.low),
            true => (value.max(self.low).ln() - self.low.ln()) / (self.high.ln() - self.low.ln()),
        }
    }

    /// The round numbers and how they are written.
    pub(super) fn labels(&self) -> Vec<(f64, String)> {
        let written = match self.is_logarithmic {
            false => labels(&self.labeled),
            true => {
                let write = |number: &f64| match number.log10().floor() {
                    power if (-3.0..6.0).contains(&power) => format!("{number:.*}", (-power).max(0.0) as usize),
                    _ => format!("{number:.0e}"),
                };
                self.labeled.iter().map(write).collect()
            }
        };
        self.labeled.iter().copied().zip(written).collect()
    }
}

/// Least and largest of the finite values.
fn span(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let values = values.filter(|value| value.is_finite());
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
    (low <= high).then_some((low, high))
}

/// Where the curves may be, in units.
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

/// Both sides, and where they lie.
pub(super) struct Axes {
    pub(super) across: Axis,
    pub(super) up: Axis,
    pub(super) frame: Frame,
}

impl Axes {
    /// The place of a point.
    pub(super) fn place(&self, x: f64, y: f64) -> At {
        let Frame { left, top, right, bottom } = self.frame;
        (left + self.across.part(x) * (right - left), bottom - self.up.part(y) * (bottom - top))
    }
}
