//! One curve of a chart, with its errors.

use plotters::backend::DrawingBackend;

use super::super::canvas::{At, BLACK, Canvas, Color, WHITE};
use super::super::triangle::color;
use super::axis::Axes;
use super::{Dot, Errors, LineChart, Look, Point};
use crate::Result;

/// Curves with more points than this show few or no dots.
const DOTTED: usize = 41;
/// Dashes and the gaps between them, in units.
const DASHES: (f64, f64) = (6.0, 4.0);

impl LineChart {
    /// How a curve looks. Ordered curves take ordered colours, without the pale end that white paper swallows.
    pub(super) fn look(&self, index: usize) -> Look {
        let last = self.series.len().saturating_sub(1).max(1);
        let ink = color(1.0 - 0.85 * index as f64 / last as f64);
        self.series[index].look.unwrap_or(Look { ink, is_dashed: false, dot: Dot::Disc })
    }

    pub(super) fn curve<B: DrawingBackend>(&self, canvas: &Canvas<B>, axes: &Axes, index: usize) -> Result<()> {
        let (series, look) = (&self.series[index], self.look(index));
        let above_zero = |point: &&Point| !self.is_logarithmic || point.y > 0.0;
        let finite = |point: &&Point| point.x.is_finite() && point.y.is_finite() && above_zero(point);
        let points: Vec<&Point> = series.points.iter().filter(finite).collect();
        let edge = |sign: f64| move |point: &&Point| axes.place(point.x, point.y + sign * point.error);
        let uncertain: Vec<&Point> = points.iter().copied().filter(|point| point.error > 0.0).collect();
        match self.errors {
            Errors::Band if !uncertain.is_empty() => {
                let upper = points.iter().map(edge(1.0));
                canvas.polygon(upper.chain(points.iter().rev().map(edge(-1.0))), look.ink, 0.2)?;
            }
            Errors::Band => {}
            Errors::Bars => {
                for point in &uncertain {
                    bar(canvas, edge(1.0)(point), edge(-1.0)(point), look.ink)?;
                }
            }
        }
        line(canvas, points.iter().map(edge(0.0)), look, 2.0)?;
        // curves that are to be told apart by their dots keep some, each curve other ones
        let every = points.len().div_ceil(DOTTED);
        let first = if every > 1 { index * 3 % (4 * every) } else { 0 };
        let step = if every > 1 { 4 * every } else { 1 };
        if every <= 1 || series.look.is_some() {
            for point in points.iter().skip(first).step_by(step) {
                look.dot(canvas, edge(0.0)(point))?;
            }
        }
        if let Some(point) = series.marked.and_then(|index| series.points.get(index)).filter(finite) {
            let at = axes.place(point.x, point.y);
            canvas.disc(at, 6.0, BLACK)?;
            canvas.disc(at, 4.5, WHITE)?;
            canvas.disc(at, 3.5, look.ink)?;
        }
        Ok(())
    }
}

/// A bar from `top` to `bottom`, with a stroke across at each end.
fn bar<B: DrawingBackend>(canvas: &Canvas<B>, top: At, bottom: At, ink: Color) -> Result<()> {
    canvas.line([top, bottom], ink, 1.0)?;
    for (x, y) in [top, bottom] {
        canvas.line([(x - 3.0, y), (x + 3.0, y)], ink, 1.0)?;
    }
    Ok(())
}

/// A line as `look` has it.
pub(super) fn line<B: DrawingBackend>(
    canvas: &Canvas<B>,
    points: impl IntoIterator<Item = At>,
    look: Look,
    width: f64,
) -> Result<()> {
    match look.is_dashed {
        false => canvas.line(points, look.ink, width),
        true => canvas.dashes(points, look.ink, width, DASHES),
    }
}

impl Look {
    /// A point of the curve.
    pub(super) fn dot<B: DrawingBackend>(self, canvas: &Canvas<B>, at: At) -> Result<()> {
        self.dot.draw(canvas, at, 1.0, self.ink)?;
        if self.is_dashed { self.dot.draw(canvas, at, 0.55, WHITE) } else { Ok(()) }
    }
}

impl Dot {
    fn draw<B: DrawingBackend>(self, canvas: &Canvas<B>, (x, y): At, size: f64, ink: Color) -> Result<()> {
        // shapes that look equally large
        let corners: &[At] = match self {
            Self::Disc => return canvas.disc((x, y), 3.0 * size, ink),
            Self::Square => &[(-3.0, -3.0), (3.0, -3.0), (3.0, 3.0), (-3.0, 3.0)],
            Self::Triangle => &[(0.0, -4.5), (4.2, 3.0), (-4.2, 3.0)],
            Self::Diamond => &[(0.0, -4.5), (4.5, 0.0), (0.0, 4.5), (-4.5, 0.0)],
            Self::Wedge => &[(0.0, 4.5), (4.2, -3.0), (-4.2, -3.0)],
        };
        canvas.polygon(corners.iter().map(|(across, down)| (x + across * size, y + down * size)), ink, 1.0)
    }
}
