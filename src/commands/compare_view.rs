//! Comparisons as people look at them.

use std::fmt::Write as _;

use super::compare::CompareReport;
use crate::eval::compare::Comparison;
use crate::report::{Column, table};

impl CompareReport {
    /// The report for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (name, side) in [("A", &self.from), ("B", &self.to)] {
            let _ = writeln!(text, "{name}  {}  ({})", side.model, side.results.display());
        }
        text + "\n" + &comparisons("task", ["A", "B", "B - A"], &self.comparisons)
    }
}

/// The table: what stands before, what now, and how far apart they are.
pub(super) fn comparisons(first: &str, [from, to, difference]: [&str; 3], all: &[Comparison]) -> String {
    let head = [
        Column::left(first),
        Column::right("n"),
        Column::left("metric"),
        Column::right(from),
        Column::right(to),
        Column::right(difference),
        Column::left("± error"),
        Column::right("gained"),
        Column::right("lost"),
        Column::right("p"),
        Column::left(""),
    ];
    table(&head, all.iter().map(row))
}

fn row(comparison: &Comparison) -> Vec<String> {
    let count = |count: Option<usize>| count.map_or_else(String::new, |count| count.to_string());
    vec![
        comparison.task.clone(),
        comparison.documents.to_string(),
        comparison.name(),
        format!("{:.4}", comparison.from),
        format!("{:.4}", comparison.to),
        format!("{:+.4}", comparison.difference),
        comparison.stderr.map_or_else(String::new, |stderr| format!("± {stderr:.4}")),
        count(comparison.gained),
        count(comparison.lost),
        comparison.p.map_or_else(String::new, |p| if p < 1e-4 { format!("{p:.1e}") } else { format!("{p:.4}") }),
        verdict(comparison),
    ]
}

/// What the difference says, in words.
fn verdict(comparison: &Comparison) -> String {
    let words = match (comparison.degenerate, comparison.is_better()) {
        (Some(degenerate), _) => format!("degenerate: {}", degenerate.words()),
        (None, Some(true)) => "better".to_owned(),
        (None, Some(false)) => "worse".to_owned(),
        (None, None) if comparison.difference == 0.0 => "the same".to_owned(),
        (None, None) if comparison.stderr.is_none() => "no error is known".to_owned(),
        (None, None) => "within the error".to_owned(),
    };
    if comparison.paired { words } else { words + ", not paired" }
}
