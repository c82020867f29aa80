//! The paper's figure 4: the score of every block, each row rescaled, the best block of each n marked.

use plotters::backend::DrawingBackend;

use super::canvas::{At, BLACK, Canvas, Colour, Figure, GREY, Letters, RED, WHITE};
use super::scale::label_step;
use super::triangle::{Triangle, colour, takes_black};
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
}

/// Cells of at least this side are marked by a frame.
const FRAMED: f64 = 14.0;
const LEFT: f64 = 64.0;
const TOP: f64 = 96.0;
const RIGHT: f64 = 112.0;
const BOTTOM: f64 = 54.0;

impl HeatMap {
    /// Side of a cell in units, a whole number: cells of one picture are equally large.
    fn cell(&self) -> f64 {
        (640.0 / self.scores.layers().max(1) as f64).floor().clamp(8.0, 64.0)
    }

    /// Width and height of the plot: the cells together, or what the words round them need. Cells stand in its lower
    /// left corner.
    fn plot(&self) -> (f64, f64) {
        let cell = self.cell();
        ((self.scores.layers() as f64 * cell).max(320.0), (self.scores.shown_rows() as f64 * cell).max(170.0))
    }

    /// Upper left corner of the block of `n` layers that starts at `l`.
    fn corner(&self, n: usize, l: usize) -> (f64, f64) {
        let (_, height) = self.plot();
        (LEFT + l as f64 * self.cell(), TOP + height - n as f64 * self.cell())
    }

    fn cells<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        let cell = self.cell();
        for n in 1..=self.scores.shown_rows() {
            let values = &self.scores.rows[n - 1];
            for (l, (rescaled, value)) in self.scores.rescaled(n).into_iter().zip(values).enumerate() {
                let (x, y) = self.corner(n, l);
                let fill = colour(rescaled);
                canvas.fill((x, y), (x + cell, y + cell), fill)?;
                if cell >= 36.0 {
                    let ink = if takes_black(fill) { BLACK } else { WHITE };
                    let number = format!("{value:.3}");
                    let number = if cell >= 48.0 { &number } else { number.trim_start_matches('0') };
                    let middle = (x + cell / 2.0, y + cell / 2.0);
                    canvas.text(number, middle, Letters::new(13.0).centred().colour(ink))?;
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
                _ => self.mark(canvas, (x, y), cell, if is_chosen { RED } else { BLACK })?,
            }
            if is_chosen && !self.scores.is_single() {
                let y = y + cell / 2.0;
                canvas.polygon([(LEFT - 2.0, y), (LEFT - 11.0, y - 5.0), (LEFT - 11.0, y + 5.0)], RED, 1.0)?;
            }
        }
        Ok(())
    }

    /// Marks a square of side `side`: a frame round its number, or a dot where there is no room for one.
    fn mark<B: DrawingBackend>(&self, canvas: &Canvas<B>, (x, y): At, side: f64, ink: Colour) -> Result<()> {
        match self.cell() >= FRAMED {
            true => canvas.frame((x, y), (x + side, y + side), ink, 2.0),
            false => {
                let rim = ((side - 4.0) / 2.0).floor();
                canvas.fill((x + rim, y + rim), (x + side - rim, y + side - rim), ink)
            }
        }
    }

    fn axes<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        let (cell, (_, height)) = (self.cell(), self.plot());
        let small = Letters::new(13.0).centred();
        let base = TOP + height;
        let step = label_step(cell, 26.0);
        for l in (0..self.scores.layers()).step_by(step) {
            let x = LEFT + (l as f64 + 0.5) * cell;
            canvas.fill((x - 0.5, base), (x + 0.5, base + 4.0), GREY)?;
            canvas.text(&l.to_string(), (x, base + 13.0), small)?;
        }
        let names = Letters::new(15.0).centred();
        let middle = LEFT + self.scores.layers() as f64 * cell / 2.0;
        if self.scores.is_single() {
            return canvas.text("layer, l", (middle, base + 36.0), names);
        }
        canvas.text("first layer of the block, l", (middle, base + 36.0), names)?;
        let step = label_step(cell, 18.0);
        for n in (1..=self.scores.shown_rows()).filter(|n| n % step == 0 || *n == 1) {
            let y = base - (n as f64 - 0.5) * cell;
            canvas.fill((LEFT - 4.0, y - 0.5), (LEFT, y + 0.5), GREY)?;
            // the red arrow of the chosen row stands here too
            canvas.text(&n.to_string(), (LEFT - 14.0, y), Letters::new(13.0).to_the_left())?;
        }
        canvas.text("layers in the block, n", (14.0, TOP + height / 2.0), names.upright())
    }

    fn colour_bar<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        let (width, height) = self.plot();
        let (x, steps) = (LEFT + width + 30.0, (height.max(1.0) as usize).min(256));
        for step in 0..steps {
            let edge = |step: usize| TOP + height - (height * step as f64 / steps as f64).round();
            let fill = colour((step as f64 + 0.5) / steps as f64);
            canvas.fill((x, edge(step + 1)), (x + 16.0, edge(step)), fill)?;
        }
        for (place, label) in [(0.0, "0"), (0.5, "0.5"), (1.0, "1")] {
            let y = TOP + height * (1.0 - place);
            canvas.fill((x + 16.0, y - 0.5), (x + 20.0, y + 0.5), GREY)?;
            canvas.text(label, (x + 24.0, y), Letters::new(13.0))?;
        }
        let letters = Letters::new(13.0).centred().colour(GREY);
        let name = canvas.fitting(
            &format!("{}, {}rescaled", self.measure, if self.scores.is_single() { "" } else { "each row " }),
            letters,
            height,
        );
        canvas.text(&name, (x + 62.0, TOP + height / 2.0), letters.upright())
    }

    /// Explains the marks, in a line above the cells.
    fn legend<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        let (letters, y) = (Letters::new(14.0), TOP - 20.0);
        let mut entries = Vec::new();
        if !self.scores.is_single() {
            entries.push(("best block of each n", BLACK));
        }
        if self.scores.chosen.is_some() {
            entries.push((&self.plan, RED));
        }
        let (mut x, end) = (LEFT, f64::from(self.size().0) - 16.0);
        for (entry, ink) in entries {
            match ink == RED {
                true => canvas.frame((x, y - 6.0), (x + 12.0, y + 6.0), RED, 2.0)?,
                false => self.mark(canvas, (x, y - 6.0), 12.0, ink)?,
            }
            let entry = canvas.fitting(entry, letters, end - x - 18.0);
            canvas.text(&entry, (x + 18.0, y), letters)?;
            x += canvas.width(&entry, letters) + 40.0;
        }
        Ok(())
    }
}

impl Figure for HeatMap {
    fn size(&self) -> (u32, u32) {
        let (width, height) = self.plot();
        ((LEFT + width + RIGHT) as u32, (TOP + height + BOTTOM) as u32)
    }

    fn is_crisp(&self) -> bool {
        true
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        let room = f64::from(self.size().0) - 32.0;
        let (title, subtitle) = (Letters::new(20.0), Letters::new(14.0).colour(GREY));
        canvas.text(&canvas.fitting(&self.title, title, room), (16.0, 24.0), title)?;
        canvas.text(&canvas.fitting(&self.subtitle, subtitle, room), (16.0, 46.0), subtitle)?;
        self.cells(canvas)?;
        self.marks(canvas)?;
        self.axes(canvas)?;
        self.colour_bar(canvas)?;
        self.legend(canvas)
    }
}
