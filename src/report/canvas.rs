//! What figures are drawn on: one set of strokes, two ways to see them.

use std::sync::Once;

use epaint_default_fonts::UBUNTU_LIGHT;
use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::coord::Shift;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Polygon, Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color, FontStyle, FontTransform, IntoFont, RGBColor, TextStyle, register_font};

use crate::{Error, Result};

/// Dots for one unit of length: fine enough for a dense screen, and for strokes between the units in an SVG.
const DOTS: f64 = 2.0;
/// The family a viewer picks letters from; the first is what PNGs are set in and what widths are measured with.
const FAMILY: &str = "Ubuntu, 'Segoe UI', 'Helvetica Neue', Helvetica, 'DejaVu Sans', sans-serif";

/// Ink.
pub(super) type Colour = [u8; 3];
pub(super) const BLACK: Colour = [20, 20, 20];
pub(super) const WHITE: Colour = [255, 255, 255];
pub(super) const GREY: Colour = [110, 110, 110];
pub(super) const PALE: Colour = [225, 225, 225];
pub(super) const RED: Colour = [214, 39, 40];

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
        paint(self, SVGBackend::with_string(&mut text, dots))?;
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
        paint(self, BitMapBackend::with_buffer(&mut pixels, (width, height)))?;
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

fn paint<F: Figure + ?Sized, B: DrawingBackend>(figure: &F, backend: B) -> Result<()> {
    static FONT: Once = Once::new();
    FONT.call_once(|| {
        // the bytes are part of the program; a failure shows as a missing font below
        let _ = register_font(FAMILY, FontStyle::Normal, UBUNTU_LIGHT);
    });
    let canvas = Canvas { area: backend.into_drawing_area() };
    canvas.done(canvas.area.fill(&ink(WHITE)))?;
    figure.draw(&canvas)?;
    canvas.done(canvas.area.present())
}

/// The paper of a figure, measured in units from the upper left corner.
pub struct Canvas<B: DrawingBackend> {
    area: DrawingArea<B, Shift>,
}

/// A point of a [`Canvas`].
pub(super) type At = (f64, f64);

/// How a text lies at its point.
#[derive(Clone, Copy)]
pub(super) struct Letters {
    /// Size in units.
    pub(super) size: f64,
    pub(super) colour: Colour,
    /// Which side of the text is at the point.
    pub(super) across: HPos,
    pub(super) along: VPos,
    /// Reads upwards.
    pub(super) is_upright: bool,
}

impl Letters {
    /// Black, to the right of its point, centred on its height.
    pub(super) fn new(size: f64) -> Self {
        Self { size, colour: BLACK, across: HPos::Left, along: VPos::Center, is_upright: false }
    }

    pub(super) fn colour(self, colour: Colour) -> Self {
        Self { colour, ..self }
    }

    pub(super) fn centred(self) -> Self {
        Self { across: HPos::Center, ..self }
    }

    pub(super) fn to_the_left(self) -> Self {
        Self { across: HPos::Right, ..self }
    }

    pub(super) fn upright(self) -> Self {
        Self { is_upright: true, ..self }
    }

    fn style(self) -> TextStyle<'static> {
        let transform = if self.is_upright { FontTransform::Rotate270 } else { FontTransform::None };
        let font = (FAMILY, self.size * DOTS).into_font().transform(transform);
        TextStyle { color: ink(self.colour).to_backend_color(), ..font.into() }.pos(Pos::new(self.across, self.along))
    }
}

impl<B: DrawingBackend> Canvas<B> {
    fn done<T>(&self, result: Result<T, DrawingAreaErrorKind<B::ErrorType>>) -> Result<T> {
        result.map_err(|error| Error::work(format!("drawing: {error}")))
    }

    pub(super) fn fill(&self, a: At, b: At, colour: Colour) -> Result<()> {
        self.done(self.area.draw(&Rectangle::new([place(a), place(b)], ink(colour).filled())))
    }

    /// A frame `width` units wide, inside the rectangle.
    pub(super) fn frame(&self, a: At, b: At, colour: Colour, width: f64) -> Result<()> {
        self.fill(a, (b.0, a.1 + width), colour)?;
        self.fill((a.0, b.1 - width), b, colour)?;
        self.fill(a, (a.0 + width, b.1), colour)?;
        self.fill((b.0 - width, a.1), b, colour)
    }

    pub(super) fn line(&self, points: impl IntoIterator<Item = At>, colour: Colour, width: f64) -> Result<()> {
        let points: Vec<_> = points.into_iter().map(place).collect();
        let style = ink(colour).stroke_width((width * DOTS).round().max(1.0) as u32);
        self.done(self.area.draw(&PathElement::new(points, style)))
    }

    pub(super) fn polygon(&self, points: impl IntoIterator<Item = At>, colour: Colour, opacity: f64) -> Result<()> {
        let points: Vec<_> = points.into_iter().map(place).collect();
        self.done(self.area.draw(&Polygon::new(points, ink(colour).mix(opacity).filled())))
    }

    pub(super) fn disc(&self, at: At, radius: f64, colour: Colour) -> Result<()> {
        self.done(self.area.draw(&Circle::new(place(at), (radius * DOTS).round() as i32, ink(colour).filled())))
    }

    pub(super) fn text(&self, text: &str, at: At, letters: Letters) -> Result<()> {
        self.done(self.area.draw(&Text::new(text.to_owned(), place(at), letters.style())))
    }

    /// Width of a text in units.
    pub(super) fn width(&self, text: &str, letters: Letters) -> Result<f64> {
        let flat = Letters { is_upright: false, ..letters };
        let (width, _) = self.done(self.area.estimate_text_size(text, &flat.style()))?;
        Ok(f64::from(width) / DOTS)
    }

    /// `text`, or as much of its start and end as fits `room` units.
    pub(super) fn fitting(&self, text: &str, letters: Letters, room: f64) -> Result<String> {
        if self.width(text, letters)? <= room {
            return Ok(text.to_owned());
        }
        let chars: Vec<char> = text.chars().collect();
        for kept in (0..chars.len().min(400)).rev() {
            let (start, end) = (kept.div_ceil(2), kept / 2);
            let short: String = chars[..start].iter().chain(&['…']).chain(&chars[chars.len() - end..]).collect();
            if self.width(&short, letters)? <= room {
                return Ok(short);
            }
        }
        Ok("…".to_owned())
    }
}

fn place((x, y): At) -> (i32, i32) {
    ((x * DOTS).round() as i32, (y * DOTS).round() as i32)
}

fn ink([r, g, b]: Colour) -> RGBColor {
    RGBColor(r, g, b)
}
