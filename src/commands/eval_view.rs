//! An evaluation as people look at it.

use std::fmt::Write as _;

use super::eval::{EvalReport, PassReport};
use crate::eval::compare::Comparison;
use crate::model::Residency;

impl EvalReport {
    /// The report for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        passes(&self.passes, &mut text);
        if !self.figures.is_empty() {
            let mut rows = vec![["task", "shots", "n", "metric", "value", "± error"].map(str::to_owned).to_vec()];
            for figure in &self.figures {
                rows.push(vec![
                    format!("{:indent$}{}", "", figure.alias, indent = 2 * figure.depth),
                    figure.shots.map_or_else(|| "-".to_owned(), |shots| shots.to_string()),
                    figure.documents.to_string(),
                    figure.metric.to_owned(),
                    format!("{:.4}", figure.value),
                    figure.stderr.map_or_else(String::new, |stderr| format!("± {stderr:.4}")),
                ]);
            }
            text.push('\n');
            table(&rows, &[1, 2, 4], &mut text);
        }
        if !self.comparisons.is_empty() {
            let mut rows = vec![
                ["against the other run", "n", "metric", "difference", "± error", "gained", "lost", "p"]
                    .map(str::to_owned)
                    .to_vec(),
            ];
            rows.extend(self.comparisons.iter().map(compared));
            text.push('\n');
            table(&rows, &[1, 3, 5, 6, 7], &mut text);
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

/// Columns two spaces apart, those of `right` aligned there; a rule under the first row.
fn table(rows: &[Vec<String>], right: &[usize], text: &mut String) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (index, row) in rows.iter().enumerate() {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let pad = " ".repeat(widths[column] - cell.chars().count());
            if right.contains(&column) { pad + cell } else { format!("{cell}{pad}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{}", line.trim_end());
        if index == 0 {
            let _ = writeln!(text, "{}", "─".repeat(widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1)));
        }
    }
}
