//! What figures are drawn on: one set of strokes, two ways to see them.

use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, FontTransform, IntoFont, RGBColor, TextStyle};

use super::letters;
use crate::shown::shown;
use crate::{Error, Result};

/// Dots for one unit of length: fine enough for a dense screen, and for strokes between the units in an SVG.
const DOTS: f64 = 2.0;
/// What a line of text takes from top to bottom, for one unit of its size: plotters' size of a font.
const LINE: f64 = 1.24;
/// The family a viewer of SVG picks letters from; the first is what PNGs are set in and what widths are measured with.
const FAMILY: &str = "Ubuntu, 'Segoe UI', 'Helvetica Neue', Helvetica, 'DejaVu Sans', sans-serif";

/// How much wider letters of the others are.
pub(super) const WIDEST: f64 = 1.2;

/// Ink.
pub(super) type Color = [u8; 3];
pub(super) const BLACK: Color = [20, 20, 20];
pub(super) const WHITE: Color = [255, 255, 255];
pub(super) const GRAY: Color = [110, 110, 110];
pub(super) const PALE: Color = [225, 225, 225];
/// Black and white on coloured ground, which stay as they are where a dark page replaces the others.
pub(super) const JET: Color = [21, 21, 21];
pub(super) const SNOW: Color = [254, 254, 254];
pub(super) const RED: Color = [214, 39, 40];

/// A drawing that can be had as SVG and as PNG.
pub trait Figure {
    /// Width and height in units (CSS pixels).
    fn size(&self) -> (u32, u32);

    /// Edges of filled shapes fall on dots and stay sharp: for cells that touch.
    fn is_crisp(&self) -> bool {
        false
    }

    /// Draws it.
    ///
    /// # Errors
    /// The backend's.
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()>;

    /// As SVG that needs no other file; letters are text.
    ///
    /// # Errors
    /// The backend's.
    fn svg(&self) -> Result<String> {
        let (width, height) = self.size();
        let dots = dots(self.size());
        let mut text = String::new();
        paint(self, SVGBackend::with_string(&mut text, dots), false)?;
        // drawn in dots, shown in units
        let drawn = format!("width=\"{}\" height=\"{}\"", dots.0, dots.1);
        let crisp = if self.is_crisp() { " shape-rendering=\"crispEdges\"" } else { "" };
        Ok(text.replacen(&drawn, &format!("width=\"{width}\" height=\"{height}\"{crisp}"), 1))
    }

    /// As PNG, two dots a unit.
    ///
    /// # Errors
    /// The backend's.
    fn png(&self) -> Result<Vec<u8>> {
        let (width, height) = dots(self.size());
        let mut pixels = vec![255; width as usize * height as usize * 3];
        paint(self, BitMapBackend::with_buffer(&mut pixels, (width, height)), true)?;
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pixels));
        written.map_err(|error| Error::work(format!("PNG: {error}")))?;
        Ok(bytes)
    }
}

fn dots((width, height): (u32, u32)) -> (u32, u32) {
    (width * DOTS as u32, height * DOTS as u32)
}

fn paint<F: Figure + ?Sized, B: DrawingBackend>(figure: &F, backend: B, draws_letters: bool) -> Result<()> {
    let canvas = Canvas { area: backend.into_drawing_area(), draws_letters };
    canvas.done(canvas.area.fill(&ink(WHITE)))?;
    figure.draw(&canvas)?;
    canvas.done(canvas.area.present())
}

/// The paper of a figure, measured in units from the upper left corner.
pub struct Canvas<B: DrawingBackend> {
    area: DrawingArea<B, Shift>,
    /// Letters are dots here; elsewhere they are text, and the viewer's.
    draws_letters: bool,
}

/// A point of a [`Canvas`].
pub(super) type At = (f64, f64);

/// How a text lies at its point.
#[derive(Clone, Copy)]
pub(super) struct Letters {
    /// Size in units.
    pub(super) size: f64,
    pub(super) color: Color,
    /// Which side of the text is at the point.
    pub(super) across: HPos,
    /// Reads upwards.
    pub(super) is_upright: bool,
}

impl Letters {
    /// Black, to the right of its point, centred on its height.
    pub(super) fn new(size: f64) -> Self {
        Self { size, color: BLACK, across: HPos::Left, is_upright: false }
    }

    pub(super) fn color(self, color: Color) -> Self {
        Self { color, ..self }
    }

    pub(super) fn centered(self) -> Self {
        Self { across: HPos::Center, ..self }
    }

    pub(super) fn to_the_left(self) -> Self {
        Self { across: HPos::Right, ..self }
    }

    pub(super) fn upright(self) -> Self {
        Self { is_upright: true, ..self }
    }

    /// For SVG.
    fn style(self) -> TextStyle<'static> {
        let transform = if self.is_upright { FontTransform::Rotate270 } else { FontTransform::None };
        let font = (FAMILY, self.size * DOTS * LINE).into_font().transform(transform);
        TextStyle { color: ink(self.color).to_backend_color(), ..font.into() }.pos(Pos::new(self.across, VPos::Center))
    }
}

impl<B: DrawingBackend> Canvas<B> {
    fn done<T>(&self, result: Result<T, DrawingAreaErrorKind<B::ErrorType>>) -> Result<T> {
        result.map_err(|error| Error::work(format!("drawing: {error}")))
    }

    pub(super) fn fill(&self, a: At, b: At, color: Color) -> Result<()> {
        self.done(self.area.draw(&Rectangle::new([place(a), place(b)], ink(color).filled())))
    }

    /// A frame `width` units wide, inside the rectangle.
    pub(super) fn frame(&self, a: At, b: At, color: Color, width: f64) -> Result<()> {
        self.fill(a, (b.0, a.1 + width), color)?;
        self.fill((a.0, b.1 - width), b, color)?;
        self.fill(a, (a.0 + width, b.1), color)?;
        self.fill((b.0 - width, a.1), b, color)
    }

    pub(super) fn line(&self, points: impl IntoIterator<Item = At>, color: Color, width: f64) -> Result<()> {
        let points: Vec<_> = points.into_iter().map(place).collect();
        let style = ink(color).stroke_width((width * DOTS).round().max(1.0) as u32);
        self.done(self.area.draw(&PathElement::new(points, style)))
    }

    /// A line in dashes of `on` units with gaps of `off` between them.
    pub(super) fn dashes(
        &self,
        points: impl IntoIterator<Item = At>,
        color: Color,
        width: f64,
        (on, off): (f64, f64),
    ) -> Result<()> {
        let points: Vec<At> = points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        // the dash that is being drawn, and what is left of it or of the gap
        let (mut dash, mut is_on, mut left) = (points.first().copied().into_iter().collect::<Vec<_>>(), true, on);
        for pair in points.windows(2) {
            let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
            let length = (x1 - x0).hypot(y1 - y0);
            let mut done = 0.0;
            while length - done > left {
                done += left;
                let at = (x0 + (x1 - x0) * done / length, y0 + (y1 - y0) * done / length);
                if is_on {
                    dash.push(at);
                    self.line(std::mem::take(&mut dash), color, width)?;
                } else {
                    dash = vec![at];
                }
                is_on = !is_on;
                left = if is_on { on } else { off };
            }
            left -= length - done;
            if is_on {
                dash.push((x1, y1));
            }
        }
        if is_on && dash.len() > 1 { self.line(dash, color, width) } else { Ok(()) }
    }

    pub(super) fn polygon(&self, points: impl IntoIterator<Item = At>, color: Color, opacity: f64) -> Result<()> {
        let points: Vec<_> = points.into_iter().map(place).collect();
        self.done(self.area.draw(&Polygon::new(points, ink(color).mix(opacity).filled())))
    }

    pub(super) fn disc(&self, at: At, radius: f64, color: Color) -> Result<()> {
        self.done(self.area.draw(&Circle::new(place(at), (radius * DOTS).round() as i32, ink(color).filled())))
    }

    pub(super) fn text(&self, text: &str, at: At, how: Letters) -> Result<()> {
        let text = &*shown(text);
        if !self.draws_letters {
            return self.done(self.area.draw(&Text::new(text.to_owned(), place(at), how.style())));
        }
        let size = how.size * DOTS;
        let start = match how.across {
            HPos::Left => 0.0,
            HPos::Center => -letters::width(text, size) / 2.0,
            HPos::Right => -letters::width(text, size),
        };
        // capitals and digits are centred; a viewer of SVG centres on the small letters, a little lower
        let base = letters::CAPITALS * size / 2.0;
        let (x, y) = (at.0 * DOTS, at.1 * DOTS);
        letters::dots(text, size, (start, base), |(across, down), cover| {
            let dot = match how.is_upright {
                false => (x.round() as i32 + across, y.round() as i32 + down),
                true => (x.round() as i32 + down, y.round() as i32 - across),
            };
            self.done(self.area.draw_pixel(dot, &ink(how.color).mix(cover)))
        })
    }

    /// Width of a text in units; in SVG, the most it may take.
    pub(super) fn width(&self, text: &str, how: Letters) -> f64 {
        letters::width(&shown(text), how.size) * if self.draws_letters { 1.0 } else { WIDEST }
    }

    /// `text`, or as much of its start and end as fits `room` units.
    pub(super) fn fitting(&self, text: &str, how: Letters, room: f64) -> String {
        let text = &*shown(text);
        if self.width(text, how) <= room {
            return text.to_owned();
        }
        let chars: Vec<char> = text.chars().collect();
        for kept in (0..chars.len().min(400)).rev() {
            let (start, end) = (kept.div_ceil(2), kept / 2);
            let short: String = chars[..start].iter().chain(&['…']).chain(&chars[chars.len() - end..]).collect();
            if self.width(&short, how) <= room {
                return short;
            }
        }
        "…".to_owned()
    }
}

fn place((x, y): At) -> (i32, i32) {
    ((x * DOTS).round() as i32, (y * DOTS).round() as i32)
}

fn ink([r, g, b]: Color) -> RGBColor {
    RGBColor(r, g, b)
}

#[cfg(test)]
mod tests {
    use super::super::{HeatMap, LineChart, PictureFormat, Point, Series, Triangle};
    use super::*;

    fn map(rows: Vec<Vec<f64>>, chosen: Option<usize>) -> HeatMap {
        let best = rows.iter().map(|row| row.len().checked_sub(1)).collect();
        HeatMap {
            title: "a \"model\" <of> & many ".repeat(9),
            subtitle: String::new(),
            measure: "distance".into(),
            plan: "plan: drop 3".into(),
            scores: Triangle { rows, best, chosen, ..Triangle::default() },
            note: String::new(),
            format: PictureFormat::Sheet,
        }
    }

    fn chart(points: &[(f64, f64, f64)]) -> LineChart {
        let points = points.iter().map(|&(x, y, error)| Point { x, y, error }).collect();
        LineChart {
            title: "t".into(),
            series: vec![Series { name: "s".into(), points, marked: Some(1), look: None }],
            ..LineChart::default()
        }
    }

    /// Both pictures are whole, of one size, and made again they are the same.
    fn look(figure: &impl Figure) -> (String, Vec<u8>) {
        let (svg, png) = (figure.svg().unwrap(), figure.png().unwrap());
        assert_eq!((figure.svg().unwrap(), figure.png().unwrap()), (svg.clone(), png.clone()));
        let (width, height) = figure.size();
        assert!(svg.starts_with(&format!("<svg width=\"{width}\" height=\"{height}\"")), "{}", &svg[..99]);
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("href"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        let mut reader = png::Decoder::new(std::io::Cursor::new(&png)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (2 * width, 2 * height));
        assert!(pixels.iter().any(|part| *part < 60));
        (svg, pixels)
    }

    #[test]
    fn maps_of_every_depth() {
        for layers in [0usize, 1, 2, 3, 7, 30, 100] {
            let value = |n: usize, l: usize| ((n * 31 + l * 17) % 13) as f64 / 13.0;
            let rows: Vec<Vec<f64>> = (1..=layers).map(|n| (0..=layers - n).map(|l| value(n, l)).collect()).collect();
            let figure = map(rows, Some(1));
            let (svg, pixels) = look(&figure);
            assert!(svg.contains("&lt;of&gt; &amp;") && svg.contains('…'));
            let blocks = if layers == 1 { 1 } else { (layers * (layers + 1) / 2).saturating_sub(1) };
            assert!(svg.matches("<rect").count() > blocks);
            if layers > 1 {
                // the plan is marked in red
                assert!(pixels.chunks(3).any(|pixel| pixel == RED));
            }
        }
        look(&map(vec![vec![0.5; 12]], None));
        look(&map(vec![vec![1e300, -1e300, 0.0], vec![1e-300, 0.0]], None));
    }

    #[test]
    fn charts_of_few_points() {
        for points in [
            &[][..],
            &[(0.0, 1.0, 0.0)],
            &[(0.0, 0.0, 0.0), (1.0, 0.0, 0.1)],
            &[(0.0, f64::NAN, 0.0), (1.0, 3.0, 0.0), (2.0, -3.0, 1.0)],
            &[(0.0, 1e9, 0.0), (1e-9, 1e9 + 1.0, 0.0)],
        ] {
            look(&chart(points));
        }
        look(&LineChart { title: "empty".into(), ..LineChart::default() });
    }

    #[test]
    fn what_does_not_fit_loses_its_middle() {
        let mut pixels = vec![255; 300];
        let backend = BitMapBackend::with_buffer(&mut pixels, (10, 10));
        let canvas = Canvas { area: backend.into_drawing_area(), draws_letters: true };
        let how = Letters::new(10.0);
        assert_eq!(canvas.fitting("short", how, 100.0), "short");
        let fit = canvas.fitting("organisation/a-model-with-a-long-name", how, 100.0);
        assert!(fit.starts_with("org") && fit.ends_with("name") && fit.contains('…'), "{fit}");
        assert!(canvas.width(&fit, how) <= 100.0);
        assert_eq!(canvas.fitting("anything", how, 0.0), "…");
    }
}
