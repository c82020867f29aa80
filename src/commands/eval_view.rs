//! An evaluation as people look at it.

use std::fmt::Write as _;

use super::eval::{EvalReport, PassReport};
use crate::eval::compare::Comparison;
use crate::model::Residency;
use crate::report::{Column, table};

impl EvalReport {
    /// The report for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        passes(&self.passes, &mut text);
        if !self.figures.is_empty() {
            let head = [
                Column::left("task"),
                Column::right("shots"),
                Column::right("n"),
                Column::left("metric"),
                Column::right("value"),
                Column::left("± error"),
            ];
            let rows = self.figures.iter().map(|figure| {
                vec![
                    format!("{:indent$}{}", "", figure.alias, indent = 2 * figure.depth),
                    figure.shots.map_or_else(|| "-".to_owned(), |shots| shots.to_string()),
                    figure.documents.to_string(),
                    figure.metric.to_owned(),
                    format!("{:.4}", figure.value),
                    figure.stderr.map_or_else(String::new, |stderr| format!("± {stderr:.4}")),
                ]
            });
            text.push('\n');
            text.push_str(&table(&head, rows));
        }
        if !self.comparisons.is_empty() {
            let head = [
                Column::left("against the other run"),
                Column::right("n"),
                Column::left("metric"),
                Column::right("difference"),
                Column::left("± error"),
                Column::right("gained"),
                Column::right("lost"),
                Column::right("p"),
            ];
            text.push('\n');
            text.push_str(&table(&head, self.comparisons.iter().map(compared)));
        }
        if !self.written.is_empty() {
            text.push('\n');
        }
        for path in &self.written {
            let _ = writeln!(text, "wrote {}", path.display());
        }
        text
    }
}

fn passes(report: &PassReport, text: &mut String) {
    let PassReport { documents, requests, tokens_asked, tokens_run, passes, resumed, .. } = report;
    let _ = write!(text, "{documents} documents, {requests} requests of {tokens_asked} tokens; ");
    let _ = write!(text, "{tokens_run} run in {passes} passes, shared beginnings once; layers ");
    text.push_str(match report.residency {
        Residency::Resident => "in memory",
        Residency::Streamed => "streamed from disk",
    });
    if *resumed > 0 {
        let _ = write!(text, "; {resumed} passes were done before");
    }
    match report.seconds {
        Some(seconds) => {
            let _ = writeln!(text, "; {seconds:.1} s, {:.1} documents/s", *documents as f64 / seconds.max(1e-9));
        }
        None => text.push_str("\ndry run: nothing scored, nothing written\n"),
    }
}

fn compared(comparison: &Comparison) -> Vec<String> {
    let count = |count: Option<usize>| count.map_or_else(String::new, |count| count.to_string());
    vec![
        comparison.task.clone(),
        comparison.documents.to_string(),
        comparison.metric.to_owned(),
        format!("{:+.4}", comparison.difference),
        comparison.stderr.map_or_else(String::new, |stderr| format!("± {stderr:.4}")),
        count(comparison.gained),
        count(comparison.lost),
        comparison.p.map_or_else(String::new, |p| if p < 1e-4 { format!("{p:.1e}") } else { format!("{p:.4}") }),
    ]
}
