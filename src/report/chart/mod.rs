//! Curves with their errors: distance over layers, accuracy over the fraction dropped.

mod axis;
mod curve;
mod legend;

use plotters::backend::DrawingBackend;

use self::axis::{Axes, Axis, Frame};
use self::legend::Entry;
use super::canvas::{Canvas, Figure, GRAY, Letters, PALE};
use super::format::PictureFormat;
use super::notes;
use crate::Result;

/// One point of a curve.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Across.
    pub x: f64,
    /// Up.
    pub y: f64,
    /// Standard error of `y`, 0 where there is none; a band or a bar shows it.
    pub error: f64,
}

/// At most `most` points, each the mean of some that follow one another: curves of many steps.
#[must_use]
pub fn means(points: &[(usize, f64)], most: usize) -> Vec<Point> {
    let point = |some: &[(usize, f64)]| {
        let count = some.len() as f64;
        let x = some.iter().map(|(x, _)| *x as f64).sum::<f64>() / count;
        Point { x, y: some.iter().map(|(_, y)| y).sum::<f64>() / count, error: 0.0 }
    };
    points.chunks(points.len().div_ceil(most.max(1)).max(1)).map(point).collect()
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
    /// How it looks, where its place among the others does not say it.
    pub look: Option<Look>,
}

/// How a curve looks: ink, line and points tell it apart, so that no one of them has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Red, green, blue.
    pub ink: [u8; 3],
    /// A dashed line with hollow points.
    pub is_dashed: bool,
    /// Its points.
    pub dot: Dot,
}

/// The shape of a curve's points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dot {
    /// A circle.
    Disc,
    /// A square.
    Square,
    /// A triangle.
    Triangle,
    /// A square on its corner.
    Diamond,
    /// A triangle on its corner.
    Wedge,
}

impl Dot {
    /// The shape of place `index`; they repeat after five.
    #[must_use]
    pub fn of(index: usize) -> Self {
        [Self::Disc, Self::Square, Self::Triangle, Self::Diamond, Self::Wedge][index % 5]
    }
}

/// How errors are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Errors {
    /// A band along the curve: for many points.
    #[default]
    Band,
    /// A bar at each point: for few points of several curves.
    Bars,
}

/// A level to compare curves with, across the whole chart: chance.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// What the legend calls it.
    pub name: String,
    /// How high it lies.
    pub y: f64,
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
    /// The curves. Those without a look have an order, which their colours follow.
    pub series: Vec<Series>,
    /// Levels to compare them with.
    pub levels: Vec<Level>,
    /// How errors are shown.
    pub errors: Errors,
    /// Each step up the axis multiplies.
    pub is_logarithmic: bool,
    /// A sentence below everything.
    pub note: String,
    /// Where it is to be seen.
    pub format: PictureFormat,
}

/// Widest legend beside the curves.
const LEGEND: f64 = 220.0;
/// Height of a line of the legend.
const LINE: f64 = 20.0;

impl LineChart {
    /// Width and height without the note.
    fn bare_size(&self) -> (u32, u32) {
        match self.format {
            PictureFormat::Sheet => (760, 460),
            PictureFormat::Column => (540, 380),
            PictureFormat::Phone => (340, 330),
        }
    }

    /// What the legend lists.
    fn entries(&self) -> Vec<Entry<'_>> {
        let series = (0..self.series.len()).map(|index| Entry::curve(self, index));
        series.chain(self.levels.iter().enumerate().map(|(place, level)| Entry::level(place, level))).collect()
    }

    fn axes(&self, frame: Frame) -> Axes {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let ends = points().flat_map(|point| [point.y - point.error, point.y + point.error]);
        let ends = ends.chain(self.levels.iter().map(|level| level.y));
        let (ticks_across, ticks_up) = if self.format == PictureFormat::Phone { (5, 5) } else { (8, 6) };
        let up = match self.is_logarithmic {
            false => Axis::new(ends, 0.05, ticks_up),
            true => Axis::logarithmic(points().flat_map(|point| [point.y, point.y + point.error])),
        };
        Axes { across: Axis::new(points().map(|point| point.x), 0.02, ticks_across), up, frame }
    }

    fn grid<B: DrawingBackend>(&self, canvas: &Canvas<B>, axes: &Axes) -> Result<()> {
        let small = Letters::new(13.0);
        let (left, right, bottom, top) = (axes.across.low, axes.across.high, axes.up.low, axes.up.high);
        for (y, label) in axes.up.labels() {
            let at = axes.place(left, y);
            canvas.line([at, axes.place(right, y)], PALE, 1.0)?;
            canvas.text(&label, (at.0 - 8.0, at.1), small.to_the_left())?;
        }
        for (x, label) in axes.across.labels() {
            let at = axes.place(x, bottom);
            canvas.line([at, (at.0, at.1 + 5.0)], GRAY, 1.0)?;
            canvas.text(&label, (at.0, at.1 + 15.0), small.centered())?;
        }
        canvas.line([axes.place(left, bottom), axes.place(right, bottom)], GRAY, 1.0)?;
        let names = Letters::new(if self.format.has_title() { 15.0 } else { 14.0 }).centered();
        let ((low, base), high) = (axes.place(left, bottom), axes.place(right, top));
        let across = canvas.fitting(&self.across, names, high.0 - low + 16.0);
        canvas.text(&across, ((low + high.0) / 2.0, base + 37.0), names)?;
        let up = canvas.fitting(&self.up, names, base - high.1 + 16.0);
        let x = if self.format.has_title() { 16.0 } else { 10.0 };
        canvas.text(&up, (x, (base + high.1) / 2.0), names.upright())
    }

    /// The legend beside the curves; returns where the curves may be.
    fn beside<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<Frame> {
        let small = Letters::new(13.0);
        let (width, height) = self.bare_size();
        let entries = self.entries();
        let names = entries.iter().map(|entry| canvas.width(entry.name, small) + 28.0);
        let legend = names.fold(canvas.width(&self.legend, small), f64::max).min(LEGEND);
        let frame =
            Frame { left: 76.0, top: 66.0, right: f64::from(width) - legend - 34.0, bottom: f64::from(height) - 54.0 };
        let x = frame.right + 18.0;
        canvas.text(&canvas.fitting(&self.legend, small, LEGEND), (x, frame.top), small.color(GRAY))?;
        for (index, entry) in entries.iter().enumerate() {
            entry.draw(canvas, (x, frame.top + LINE * (index + 1) as f64), LEGEND - 28.0)?;
        }
        Ok(frame)
    }

    /// The legend above the curves, in as many lines as it takes; returns where the curves may be.
    fn above<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<Frame> {
        let small = Letters::new(13.0);
        let (width, height) = self.bare_size();
        let left = if self.format == PictureFormat::Phone { 60.0 } else { 66.0 };
        let end = f64::from(width) - 8.0;
        let (mut x, mut y) = (left, 14.0);
        if !self.legend.is_empty() {
            let legend = canvas.fitting(&self.legend, small, end - left);
            canvas.text(&legend, (x, y), small.color(GRAY))?;
            x += canvas.width(&legend, small) + 16.0;
        }
        for entry in self.entries() {
            let needed = canvas.width(entry.name, small) + 28.0;
            if x > left && x + needed > end {
                (x, y) = (left, y + LINE);
            }
            entry.draw(canvas, (x, y), end - x - 28.0)?;
            x += needed + 16.0;
        }
        Ok(Frame { left, top: y + 22.0, right: end - 6.0, bottom: f64::from(height) - 54.0 })
    }
}

impl Figure for LineChart {
    fn size(&self) -> (u32, u32) {
        let (width, height) = self.bare_size();
        let note = if self.format.has_title() { notes::height(&self.note, f64::from(width)) } else { 0 };
        (width, height + note)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        let frame = if self.format.has_title() {
            let (width, height) = self.bare_size();
            let room = f64::from(width) - 32.0;
            let (title, subtitle) = (Letters::new(20.0), Letters::new(14.0).color(GRAY));
            canvas.text(&canvas.fitting(&self.title, title, room), (16.0, 24.0), title)?;
            canvas.text(&canvas.fitting(&self.subtitle, subtitle, room), (16.0, 46.0), subtitle)?;
            notes::draw(canvas, &self.note, f64::from(height), f64::from(width))?;
            self.beside(canvas)?
        } else {
            self.above(canvas)?
        };
        let axes = self.axes(frame);
        self.grid(canvas, &axes)?;
        for (place, level) in self.levels.iter().enumerate() {
            legend::level(canvas, place, axes.place(axes.across.low, level.y), axes.place(axes.across.high, level.y))?;
        }
        (0..self.series.len()).try_for_each(|index| self.curve(canvas, &axes, index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(values: &[f64]) -> LineChart {
        let points = values.iter().enumerate().map(|(x, y)| Point { x: x as f64, y: *y, error: 0.1 * y.abs() });
        let look = Look { ink: [0, 96, 170], is_dashed: true, dot: Dot::Wedge };
        LineChart {
            series: vec![Series { name: "a".into(), points: points.collect(), marked: None, look: Some(look) }],
            levels: vec![Level { name: "level".into(), y: 0.5 }],
            errors: Errors::Bars,
            ..LineChart::default()
        }
    }

    #[test]
    fn dashes_leave_gaps_and_end_with_their_curve() {
        let mut chart = chart(&[0.0, 1.0, 0.5]);
        let dashed = chart.svg().unwrap();
        chart.series[0].look = None;
        let solid = chart.svg().unwrap();
        let lines = |svg: &str| svg.matches("<polyline").count();
        assert!(lines(&dashed) > lines(&solid) + 30);
        // what is not finite is not drawn, and ends
        for y in [f64::INFINITY, f64::NAN, 1e308] {
            chart.levels[0].y = y;
            assert!(chart.svg().unwrap().ends_with("</svg>\n"));
        }
    }

    #[test]
    fn logarithmic_axes_take_only_what_is_above_zero() {
        let mut chart = chart(&[2.0, 40.0, 0.0, -3.0, f64::INFINITY, 150_000.0]);
        chart.is_logarithmic = true;
        let svg = chart.svg().unwrap();
        for label in ["10", "100", "1000", "10000", "100000"] {
            assert!(svg.contains(&format!(">\n{label}\n</text>")), "{label}");
        }
        for values in [&[][..], &[0.0], &[1e-300, 1e300], &[5.0, 5.0]] {
            chart.series[0].points = values.iter().map(|y| Point { x: 1.0, y: *y, error: 1.0 }).collect();
            assert!(!chart.svg().unwrap().contains("NaN"));
        }
    }

    #[test]
    fn every_format_has_its_size_and_words() {
        let mut chart = LineChart { title: "title".into(), note: "a note".into(), ..chart(&[1.0, 2.0]) };
        assert_eq!(chart.size(), (760, 493));
        assert!(chart.svg().unwrap().contains("a note"));
        for (format, width) in [(PictureFormat::Column, 540), (PictureFormat::Phone, 340)] {
            chart.format = format;
            let svg = chart.svg().unwrap();
            assert!(
                chart.size().0 == width && !svg.contains("title") && !svg.contains("a note") && svg.contains("level")
            );
        }
    }

    #[test]
    fn means_of_neighbors() {
        let losses: Vec<(usize, f64)> = (0..10).map(|step| (step, step as f64)).collect();
        assert_eq!(means(&losses, 100).len(), 10);
        let few = means(&losses, 4);
        assert_eq!(few.iter().map(|point| point.x).collect::<Vec<_>>(), [1.0, 4.0, 7.0, 9.0]);
        assert!(means(&[], 4).is_empty());
    }
}
