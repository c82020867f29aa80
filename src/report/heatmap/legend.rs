//! What the colours and marks of a heat map mean.

use plotters::backend::DrawingBackend;

use super::super::canvas::{Canvas, GRAY, JET, Letters, RED};
use super::super::format::PictureFormat;
use super::super::triangle::color;
use super::{HeatMap, Margins};
use crate::Result;

/// The ends of the colours, and their middle.
const LABELS: [(f64, &str); 3] = [(0.0, "0"), (0.5, "0.5"), (1.0, "1")];

impl HeatMap {
    /// The colours and what they say: to the right of the cells, on a phone below them.
    pub(super) fn color_bar<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        let rows = if self.scores.is_single() { "" } else { "each row " };
        let name = format!("{}, {rows}rescaled", self.measure);
        if self.has_lying_bar() { self.lying_bar(canvas, &name) } else { self.standing_bar(canvas, &name) }
    }

    fn standing_bar<B: DrawingBackend>(&self, canvas: &Canvas<B>, name: &str) -> Result<()> {
        let ((width, height), Margins { left, top, .. }) = (self.plot(), self.margins());
        let (x, steps) = (left + width + 30.0, (height.max(1.0) as usize).min(256));
        for step in 0..steps {
            let edge = |step: usize| top + height - (height * step as f64 / steps as f64).round();
            let fill = color((step as f64 + 0.5) / steps as f64);
            canvas.fill((x, edge(step + 1)), (x + 16.0, edge(step)), fill)?;
        }
        for (place, label) in LABELS {
            let y = top + height * (1.0 - place);
            canvas.fill((x + 16.0, y - 0.5), (x + 20.0, y + 0.5), GRAY)?;
            canvas.text(label, (x + 24.0, y), Letters::new(13.0))?;
        }
        let letters = Letters::new(13.0).centered().color(GRAY);
        let name = canvas.fitting(name, letters, height);
        canvas.text(&name, (x + 62.0, top + height / 2.0), letters.upright())
    }

    fn lying_bar<B: DrawingBackend>(&self, canvas: &Canvas<B>, name: &str) -> Result<()> {
        let ((width, height), Margins { left, top, .. }) = (self.plot(), self.margins());
        let (y, steps) = (top + height + 58.0, 94);
        for step in 0..steps {
            let edge = |step: usize| left + (width * step as f64 / steps as f64).round();
            let fill = color((step as f64 + 0.5) / steps as f64);
            canvas.fill((edge(step), y), (edge(step + 1), y + 12.0), fill)?;
        }
        for (place, label) in LABELS {
            let x = left + width * place;
            canvas.fill((x - 0.5, y + 12.0), (x + 0.5, y + 16.0), GRAY)?;
            canvas.text(label, (x, y + 24.0), Letters::new(12.0).centered())?;
        }
        let letters = Letters::new(12.0).centered().color(GRAY);
        let name = canvas.fitting(name, letters, width + left);
        canvas.text(&name, (left + width / 2.0, y + 41.0), letters)
    }

    /// Explains the marks, in a line above the cells; on a phone, a line each.
    pub(super) fn legend<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        let Margins { left, top, .. } = self.margins();
        let is_phone = self.format == PictureFormat::Phone;
        let letters = Letters::new(if is_phone { 13.0 } else { 14.0 });
        let mut entries = Vec::new();
        if !self.scores.is_single() {
            entries.push(("best block of each n", JET));
        }
        if self.scores.chosen.is_some() {
            entries.push((&self.plan, RED));
        }
        let (mut x, mut y) = (left, if is_phone { 14.0 } else { top - 20.0 });
        let end = f64::from(super::Figure::size(self).0) - 16.0;
        for (entry, ink) in entries {
            if ink == RED {
                canvas.frame((x, y - 6.0), (x + 12.0, y + 6.0), RED, 2.0)?;
            } else {
                // what is best is yellow
                canvas.fill((x, y - 6.0), (x + 12.0, y + 6.0), color(0.0))?;
                self.mark(canvas, (x, y - 6.0), 12.0, ink)?;
            }
            let entry = canvas.fitting(entry, letters, end - x - 18.0);
            canvas.text(&entry, (x + 18.0, y), letters)?;
            match is_phone {
                true => y += 20.0,
                false => x += canvas.width(&entry, letters) + 40.0,
            }
        }
        Ok(())
    }
}
