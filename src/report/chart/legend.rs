//! What the curves and levels of a chart are called.

use plotters::backend::DrawingBackend;

use super::super::canvas::{At, Canvas, GRAY, Letters};
use super::curve::line;
use super::{Level, LineChart, Look};
use crate::Result;

/// A line of the legend.
pub(super) struct Entry<'a> {
    pub(super) name: &'a str,
    look: Sample,
    /// Its points are shown as well.
    has_dot: bool,
}

/// What stands in front of a name.
enum Sample {
    Curve(Look),
    /// The level of this place.
    Level(usize),
}

impl<'a> Entry<'a> {
    pub(super) fn curve(chart: &'a LineChart, index: usize) -> Self {
        let series = &chart.series[index];
        Self { name: &series.name, look: Sample::Curve(chart.look(index)), has_dot: series.look.is_some() }
    }

    pub(super) fn level(place: usize, level: &'a Level) -> Self {
        Self { name: &level.name, look: Sample::Level(place), has_dot: false }
    }

    /// Draws sample and name, centred on the height of `at`; the name takes at most `room`.
    pub(super) fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>, at: At, room: f64) -> Result<()> {
        let (x, y) = at;
        let letters = Letters::new(13.0);
        match self.look {
            Sample::Curve(look) => {
                line(canvas, [at, (x + 20.0, y)], look, 2.5)?;
                if self.has_dot {
                    look.dot(canvas, (x + 10.0, y))?;
                }
            }
            Sample::Level(place) => level(canvas, place, at, (x + 20.0, y))?,
        }
        canvas.text(&canvas.fitting(self.name, letters, room), (x + 28.0, y), letters)
    }
}

/// Dashes and gaps of levels, so that they are told apart without colours.
const LEVELS: [(f64, f64); 3] = [(1.5, 3.0), (9.0, 4.0), (4.0, 7.0)];

/// The line of the level at `place` among the chart's.
pub(super) fn level<B: DrawingBackend>(canvas: &Canvas<B>, place: usize, from: At, to: At) -> Result<()> {
    canvas.dashes([from, to], GRAY, 1.5, LEVELS[place % LEVELS.len()])
}
