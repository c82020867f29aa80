//! The figures of a run, each with its words.

mod blocks;
mod losses;
mod scores;

pub(super) use self::blocks::entry;

use plotters::backend::DrawingBackend;

use super::super::canvas::{Canvas, Figure};
use super::super::chart::LineChart;
use super::super::format::PictureFormat;
use super::super::heatmap::HeatMap;
use super::super::run::RunData;
use crate::Result;

/// A figure, what it is called, and what it shows in words.
#[derive(Clone, Debug)]
pub struct NamedFigure {
    /// Name of its files: letters, digits and hyphens, no other figure's.
    pub name: String,
    /// Its heading.
    pub title: String,
    /// How to read it, and what it was drawn from.
    pub caption: String,
    /// What it shows, for those who do not see it.
    pub description: String,
    /// Where on the page it belongs.
    pub(super) part: Part,
    /// The picture.
    pub drawing: Drawing,
}

/// A part of the page that has figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Scores,
    Blocks,
    Healing,
}

/// A picture of either kind.
#[derive(Clone, Debug)]
pub enum Drawing {
    /// Curves.
    Curves(LineChart),
    /// A heat map.
    Map(HeatMap),
}

impl Drawing {
    /// The same picture for another place.
    #[must_use]
    pub(crate) fn with_format(&self, format: PictureFormat) -> Self {
        let mut drawing = self.clone();
        match &mut drawing {
            Self::Curves(chart) => chart.format = format,
            Self::Map(map) => map.format = format,
        }
        drawing
    }
}

impl Figure for Drawing {
    fn size(&self) -> (u32, u32) {
        match self {
            Self::Curves(chart) => chart.size(),
            Self::Map(map) => map.size(),
        }
    }

    fn is_crisp(&self) -> bool {
        match self {
            Self::Curves(chart) => chart.is_crisp(),
            Self::Map(map) => map.is_crisp(),
        }
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<B>) -> Result<()> {
        match self {
            Self::Curves(chart) => chart.draw(canvas),
            Self::Map(map) => map.draw(canvas),
        }
    }
}

/// Every figure that the run gives, for files: [`Figure::svg`] and [`Figure::png`] of its drawing.
#[must_use]
pub fn figures(data: &RunData) -> Vec<NamedFigure> {
    let mut figures = scores::figures(data);
    figures.extend(blocks::figures(data));
    figures.extend(losses::figures(data));
    let mut names: Vec<String> = Vec::new();
    for figure in &mut figures {
        figure.name = free_name(&figure.name, &names);
        names.push(figure.name.clone());
        let note = data.caveat.clone().unwrap_or_default();
        match &mut figure.drawing {
            Drawing::Curves(chart) => (chart.title, chart.note) = (format!("{}: {}", data.model, figure.title), note),
            Drawing::Map(map) => (map.title, map.note) = (format!("{}: {}", data.model, figure.title), note),
        }
    }
    figures
}

/// `name` as a file's, with a number where `taken` has it already.
fn free_name(name: &str, taken: &[String]) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let plain: String = plain.chars().take(80).collect();
    let is_taken = |name: &String| taken.contains(name);
    let numbered = (2..).map(|number| format!("{plain}-{number}"));
    std::iter::once(plain.clone()).chain(numbered).find(|name| !is_taken(name)).unwrap_or(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_files_names_of_their_own() {
        let taken = ["scores-mmlu-acc".to_owned(), "scores-mmlu-acc-2".to_owned()];
        assert_eq!(free_name("scores MMLU/acc", &taken), "scores-mmlu-acc-3");
        assert_eq!(free_name("../../etc", &taken), "------etc");
        assert_eq!(free_name(&"é".repeat(200), &taken).len(), 80);
    }
}
