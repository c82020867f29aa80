//! Curves with their errors: distance over layers, accuracy over the fraction dropped.

use plotters::backend::DrawingBackend;

use super::canvas::{At, BLACK, Canvas, Colour, Figure, GREY, Letters, PALE, WHITE};
use super::scale::{labels, round_numbers};
use super::triangle::colour;
use crate::Result;

/// One point of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Across.
    pub x: f64,
    /// Up.
    pub y: f64,
    /// Standard error of `y`, 0 where there is none; a band shows it.
    pub error: f64,
}

/// One curve.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// What the legend calls it.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<Point>,
    /// The point to single out, by index.
    pub marked: Option<usize>,
}

/// Curves over one axis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineChart {
    /// First line.
    pub title: String,
    /// Second line.
    pub subtitle: String,
    /// What runs across.
    pub across: String,
    /// What runs up.
    pub up: String,
    /// What the legend is about: `layers dropped, n`.
    pub legend: String,
    /// The curves; they have an order, which their colours follow.
    pub series: Vec<Series>,
}

const SIZE: (u32, u32) = (760, 460);
const LEFT: f64 = 76.0;
const TOP: f64 = 66.0;
const BOTTOM: f64 = 54.0;
/// Widest legend.
const LEGEND: f64 = 220.0;
/// Curves with more points than this show no dots.
const DOTTED: usize = 41;

/// One side of the frame: the numbers at its ends, and the round ones between them.
struct Axis {
    low: f64,
    high: f64,
    labelled: Vec<f64>,
}

impl Axis {
    /// Covers `values`, with some room beyond them: `margin` of their span. Starts at zero when that is near.
    fn new(values: impl Iterator<Item = f64>, margin: f64, count: usize) -> Self {
        let values = values.filter(|value| value.is_finite());
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| (low.min(x), high.max(x)));
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let room = if high > low { (high - low) * margin } else { low.abs().max(1.0) * 0.1 };
        let is_near_zero = low >= 0.0 && low < 0.35 * high;
        let (low, high) = (if is_near_zero { 0.0 } else { low - room }, high + room);
        let inside = |number: &f64| *number >= low - 1e-9 * (high - low) && *number <= high + 1e-9 * (high - low);
        let labelled = round_numbers(low, high, count).into_iter().filter(inside).collect();
        Self { low, high, labelled }
    }

    /// Where `value` lies, 0 at the low end and 1 at the high one.
    fn part(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

/// Numbers to places on the paper.
struct Axes {
    across: Axis,
    up: Axis,
    right: f64,
}

impl Axes {
    fn place(&self, x: f64, y: f64) -> At {
        let base = f64::from(SIZE.1) - BOTTOM;
        (LEFT + self.across.part(x) * (self.right - LEFT), base - self.up.part(y) * (base - TOP))
    }
}

impl LineChart {
    /// Ordered curves take ordered colours, without the pale end that white paper swallows.
    fn ink(&self, index: usize) -> Colour {
        let last = self.series.len().saturating_sub(1).max(1);
        colour(1.0 - 0.85 * index as f64 / last as f64)
    }

    fn grid<B: DrawingBackend>(&self, canvas: &Canvas<B>, axes: &Axes) -> Result<()> {
        let small = Letters::new(13.0);
        let (left, right, bottom, top) = (axes.across.low, axes.across.high, axes.up.low, axes.up.high);
        for (&y, label) in axes.up.labelled.iter().zip(labels(&axes.up.labelled)) {
            let at = axes.place(left, y);
            canvas.line([at, axes.place(right, y)], PALE, 1.0)?;
            canvas.text(&label, (at.0 - 8.0, at.1), small.to_the_left())?;
        }
        for (&x, label) in axes.across.labelled.iter().zip(labels(&axes.across.labelled)) {
            let at = axes.place(x, bottom);
            canvas.line([at, (at.0, at.1 + 5.0)], GREY, 1.0)?;
            canvas.text(&label, (at.0, at.1 + 15.0), small.centred())?;
        }
        canvas.line([axes.place(left, bottom), axes.place(right, bottom)], GREY, 1.0)?;
        let names = Letters::new(15.0).centred();
        let (middle, base) = axes.place((left + right) / 2.0, bottom);
        canvas.text(&self.across, (middle, base + 37.0), names)?;
        canvas.text(&self.up, (16.0, axes.place(left, (bottom + top) / 2.0).1), names.upright())
    }

    fn curve<B: DrawingBackend>(&self, canvas: &Canvas<B>, axes: &Axes, index: usize) -> Result<()> {
        let (series, ink) = (&self.series[index], self.ink(index));
        let finite = |point: &&Point| point.x.is_finite() && point.y.is_finite();
        let points: Vec<&Point> = series.points.iter().filter(finite).collect();
        let edge = |sign: f64| move |point: &&Point| axes.place(point.x, point.y + sign * point.error);
        if points.iter().any(|point| point.error > 0.0) {
            let upper = points.iter().map(edge(1.0));
            canvas.polygon(upper.chain(points.iter().rev().map(edge(-1.0))), ink, 0.2)?;
        }
        canvas.line(points.iter().map(edge(0.0)), ink, 2.0)?;
        if points.len() <= DOTTED {
            for point in &points {
                canvas.disc(axes.place(point.x, point.y), 3.0, ink)?;
            }
        }
        if let Some(point) = series.marked.and_then(|index| series.points.get(index)).filter(finite) {
            let at = axes.place(point.x, point.y);
            canvas.disc(at, 6.0, BLACK)?;
            canvas.disc(at, 4.5, WHITE)?;
            canvas.disc(at, 3.5, ink)?;
        }
        Ok(())
    }
}

impl Figure for LineChart {
    fn size(&self) -> (u32, u32) {
        SIZE
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        let room = f64::from(SIZE.0) - 32.0;
        let (title, subtitle, small) = (Letters::new(20.0), Letters::new(14.0).colour(GREY), Letters::new(13.0));
        canvas.text(&canvas.fitting(&self.title, title, room), (16.0, 24.0), title)?;
        canvas.text(&canvas.fitting(&self.subtitle, subtitle, room), (16.0, 46.0), subtitle)?;
        let names = self.series.iter().map(|series| canvas.width(&series.name, small) + 28.0);
        let legend = names.fold(canvas.width(&self.legend, small), f64::max).min(LEGEND);
        let points = || self.series.iter().flat_map(|series| &series.points);
        let axes = Axes {
            across: Axis::new(points().map(|point| point.x), 0.02, 8),
            up: Axis::new(points().flat_map(|point| [point.y - point.error, point.y + point.error]), 0.05, 6),
            right: f64::from(SIZE.0) - legend - 34.0,
        };
        self.grid(canvas, &axes)?;
        let x = axes.right + 18.0;
        canvas.text(&canvas.fitting(&self.legend, small, LEGEND), (x, TOP), small.colour(GREY))?;
        for (index, series) in self.series.iter().enumerate() {
            self.curve(canvas, &axes, index)?;
            let y = TOP + 20.0 * (index + 1) as f64;
            canvas.line([(x, y), (x + 20.0, y)], self.ink(index), 2.5)?;
            canvas.text(&canvas.fitting(&series.name, small, LEGEND - 28.0), (x + 28.0, y), small)?;
        }
        Ok(())
    }
}
