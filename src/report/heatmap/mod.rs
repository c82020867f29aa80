//! The paper's figure 4: the score of every block, each row rescaled, the best block of each n marked.

mod legend;

use plotters::backend::DrawingBackend;

use super::canvas::{At, Canvas, Color, Figure, GRAY, JET, Letters, PALE, RED, SNOW};
use super::format::PictureFormat;
use super::notes;
use super::scale::label_step;
use super::triangle::{Triangle, color, takes_black};
use crate::Result;

/// Blocks by first layer (across) and size (up), yellow what should go first in its row.
#[derive(Clone, Debug)]
pub struct HeatMap {
    /// First line: what, of which model.
    pub title: String,
    /// Second line: on which text.
    pub subtitle: String,
    /// What a score is: `angular distance`.
    pub measure: String,
    /// What the plan drops, in words; shown when the scores mark a chosen n.
    pub plan: String,
    /// The scores.
    pub scores: Triangle,
    /// A sentence below everything.
    pub note: String,
    /// Where it is to be seen.
    pub format: PictureFormat,
}

/// Cells of at least this side are marked by a frame.
const FRAMED: f64 = 14.0;

/// What surrounds the cells, in units.
struct Margins {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl HeatMap {
    /// Side of a cell in units, a whole number: cells of one picture are equally large.
    fn cell(&self) -> f64 {
        let (room, least, most) =
            if self.format == PictureFormat::Phone { (282.0, 3.0, 48.0) } else { (640.0, 8.0, 64.0) };
        (f64::floor(room / self.scores.layers().max(1) as f64)).clamp(least, most)
    }

    /// The colour bar lies below the cells, not beside them: on a phone, and where a page has one row of cells.
    fn has_lying_bar(&self) -> bool {
        match self.format {
            PictureFormat::Sheet => false,
            PictureFormat::Column => self.scores.is_single(),
            PictureFormat::Phone => true,
        }
    }

    fn margins(&self) -> Margins {
        let is_phone = self.format == PictureFormat::Phone;
        let legend = if self.scores.is_single() && self.scores.chosen.is_none() { 0.0 } else { 20.0 };
        let more = if is_phone && !self.scores.is_single() && self.scores.chosen.is_some() { 20.0 } else { 0.0 };
        let bottom = if self.has_lying_bar() { 108.0 } else { 54.0 };
        match self.format {
            PictureFormat::Sheet => Margins { left: 64.0, top: 96.0, right: 112.0, bottom },
            PictureFormat::Column => Margins { left: 64.0, top: 40.0, right: 112.0, bottom },
            // the legend has a line for each mark
            PictureFormat::Phone => Margins { left: 46.0, top: 14.0 + legend + more, right: 12.0, bottom },
        }
    }

    /// Width and height of the plot: the cells together, or what the words round them need. Cells stand in its lower
    /// left corner.
    fn plot(&self) -> (f64, f64) {
        let cell = self.cell();
        let width = if self.format == PictureFormat::Phone { 282.0 } else { 320.0 };
        let height = if self.has_lying_bar() { 0.0 } else { 170.0 };
        ((self.scores.layers() as f64 * cell).max(width), (self.scores.shown_rows() as f64 * cell).max(height))
    }

    /// Upper left corner of the block of `n` layers that starts at `l`.
    fn corner(&self, n: usize, l: usize) -> (f64, f64) {
        let (_, height) = self.plot();
        let Margins { left, top, .. } = self.margins();
        (left + l as f64 * self.cell(), top + height - n as f64 * self.cell())
    }

    fn cells<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        let cell = self.cell();
        for n in 1..=self.scores.shown_rows() {
            let values = &self.scores.rows[n - 1];
            for (l, (rescaled, value)) in self.scores.rescaled(n).into_iter().zip(values).enumerate() {
                let (x, y) = self.corner(n, l);
                if !value.is_finite() {
                    canvas.fill((x, y), (x + cell, y + cell), PALE)?;
                    continue;
                }
                let fill = color(rescaled);
                canvas.fill((x, y), (x + cell, y + cell), fill)?;
                if cell >= 36.0 {
                    let ink = if takes_black(fill) { JET } else { SNOW };
                    let number = format!("{value:.3}");
                    let number = if cell >= 48.0 { &number } else { number.trim_start_matches('0') };
                    let middle = (x + cell / 2.0, y + cell / 2.0);
                    canvas.text(number, middle, Letters::new(13.0).centered().color(ink))?;
                }
            }
        }
        Ok(())
    }

    /// Frames the best block of each row, the chosen one and single layers that go in red.
    fn marks<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        let cell = self.cell();
        let rows = 1..=self.scores.shown_rows();
        let entries = rows.flat_map(|n| (0..self.scores.rows[n - 1].len()).map(move |l| (n, l)));
        for (n, l) in entries.filter(|(n, l)| self.scores.is_marked(*n, *l)) {
            let (x, y) = self.corner(n, l);
            let is_chosen = self.scores.chosen == Some(n) || self.scores.is_single() && !self.scores.dropped.is_empty();
            match is_chosen {
                true if cell < FRAMED => {
                    canvas.frame((x - 4.0, y - 4.0), (x + cell + 4.0, y + cell + 4.0), RED, 2.0)?
                }
                _ => self.mark(canvas, (x, y), cell, if is_chosen { RED } else { JET })?,
            }
            if is_chosen && !self.scores.is_single() {
                let (x, y) = (self.margins().left, y + cell / 2.0);
                canvas.polygon([(x - 2.0, y), (x - 11.0, y - 5.0), (x - 11.0, y + 5.0)], RED, 1.0)?;
            }
        }
        Ok(())
    }

    /// Marks a square of side `side`: a frame round its number, or a dot where there is no room for one.
    fn mark<B: DrawingBackend>(&self, canvas: &Canvas<B>, (x, y): At, side: f64, ink: Color) -> Result<()> {
        match self.cell() >= FRAMED {
            true => canvas.frame((x, y), (x + side, y + side), ink, 2.0),
            false => {
                let rim = ((side - 4.0) / 2.0).floor().max(0.0);
                canvas.fill((x + rim, y + rim), (x + side - rim, y + side - rim), ink)
            }
        }
    }

    fn axes<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        let (cell, (_, height)) = (self.cell(), self.plot());
        let Margins { left, top, .. } = self.margins();
        let small = Letters::new(13.0).centered();
        let base = top + height;
        let step = label_step(cell, 26.0);
        for l in (0..self.scores.layers()).step_by(step) {
            let x = left + (l as f64 + 0.5) * cell;
            canvas.fill((x - 0.5, base), (x + 0.5, base + 4.0), GRAY)?;
            canvas.text(&l.to_string(), (x, base + 13.0), small)?;
        }
        let names = Letters::new(15.0).centered();
        let middle = left + self.scores.layers() as f64 * cell / 2.0;
        if self.scores.is_single() {
            return canvas.text("layer, l", (middle, base + 36.0), names);
        }
        canvas.text("first layer of the block, l", (middle, base + 36.0), names)?;
        let step = label_step(cell, 18.0);
        for n in (1..=self.scores.shown_rows()).filter(|n| n % step == 0 || *n == 1) {
            let y = base - (n as f64 - 0.5) * cell;
            canvas.fill((left - 4.0, y - 0.5), (left, y + 0.5), GRAY)?;
            // the red arrow of the chosen row stands here too
            canvas.text(&n.to_string(), (left - 14.0, y), Letters::new(13.0).to_the_left())?;
        }
        canvas.text(
            "layers in the block, n",
            (if self.format == PictureFormat::Phone { 10.0 } else { 14.0 }, top + height / 2.0),
            names.upright(),
        )
    }
}

impl HeatMap {
    /// Width and height without the note.
    fn bare_size(&self) -> (f64, f64) {
        let ((width, height), margins) = (self.plot(), self.margins());
        (margins.left + width + margins.right, margins.top + height + margins.bottom)
    }
}

impl Figure for HeatMap {
    fn size(&self) -> (u32, u32) {
        let (width, height) = self.bare_size();
        let note = if self.format.has_title() { notes::height(&self.note, width) } else { 0 };
        (width as u32, height as u32 + note)
    }

    fn is_crisp(&self) -> bool {
        true
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        if self.format.has_title() {
            let (width, height) = self.bare_size();
            let (title, subtitle) = (Letters::new(20.0), Letters::new(14.0).color(GRAY));
            canvas.text(&canvas.fitting(&self.title, title, width - 32.0), (16.0, 24.0), title)?;
            canvas.text(&canvas.fitting(&self.subtitle, subtitle, width - 32.0), (16.0, 46.0), subtitle)?;
            notes::draw(canvas, &self.note, height, width)?;
        }
        self.cells(canvas)?;
        self.marks(canvas)?;
        self.axes(canvas)?;
        self.color_bar(canvas)?;
        self.legend(canvas)
    }
}
