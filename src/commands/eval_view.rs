//! An evaluation as people look at it.

use std::fmt::Write as _;
use std::path::Path;

use super::compare_view::comparisons;
use super::eval::EvalReport;
use crate::collective::Members;
use crate::eval::evaluation::PassReport;
use crate::report::{Column, table};

impl EvalReport {
    /// The report for a terminal.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        if self.found {
            let out = self.out.as_deref().unwrap_or(Path::new("")).display();
            let _ = writeln!(text, "found     finished before with these settings: {out}");
        } else {
            passes(&self.passes, &mut text);
        }
        if let Some(group) = &self.group {
            let shares: Vec<String> = group.passes.iter().map(ToString::to_string).collect();
            let Members { processes, launcher, .. } = &group.members;
            let _ = writeln!(text, "{processes} processes of {launcher}: passes {}", shares.join(" + "));
        }
        if !self.kept.is_empty() && !self.found {
            let _ = writeln!(text, "scored before and kept: {}", self.kept.join(", "));
        }
        if !self.figures.is_empty() {
            let head = [
                Column::left("task"),
                Column::right("shots"),
                Column::right("n"),
                Column::left("metric"),
                Column::right("value"),
                Column::left("± error"),
                Column::left(""),
            ];
            let rows = self.figures.iter().map(|figure| {
                vec![
                    format!("{:indent$}{}", "", figure.alias, indent = 2 * figure.depth),
                    figure.shots.map_or_else(|| "-".to_owned(), |shots| shots.to_string()),
                    figure.documents.to_string(),
                    figure.metric.to_owned(),
                    format!("{:.4}", figure.value),
                    figure.stderr.map_or_else(String::new, |stderr| format!("± {stderr:.4}")),
                    figure.degenerate.map_or("", |_| "degenerate").to_owned(),
                ]
            });
            text.push('\n');
            text.push_str(&table(&head, rows));
        }
        if !self.comparisons.is_empty() {
            text.push('\n');
            text.push_str(&comparisons("against the other run", ["there", "here", "difference"], &self.comparisons));
        }
        for figure in self.figures.iter().filter(|figure| figure.depth == 0) {
            if let Some(degenerate) = figure.degenerate {
                let share =
                    figure.majority.map(|share| format!(" ({:.1} % of them)", 100.0 * share)).unwrap_or_default();
                let (task, metric) = (&figure.alias, &figure.metric);
                let _ = writeln!(text, "\n{task} {metric} is degenerate: {}{share}", degenerate.words());
            }
        }
        if let Some((shard, out)) = self.shard.zip(self.out.as_deref()) {
            let _ = writeln!(text, "share {shard} is answered in {}; --merge puts all shares together", out.display());
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
    let before = if *resumed > 0 { format!(" ({resumed} of them before)") } else { String::new() };
    let _ = write!(text, "{tokens_run} run in {passes} passes{before}, shared beginnings once; layers ");
    text.push_str(report.residency.says());
    match report.seconds {
        // of what was done before it is not known how long that took
        Some(seconds) if *resumed > 0 => {
            let _ = writeln!(text, "; {seconds:.1} s for the others");
        }
        Some(seconds) => {
            let _ = writeln!(text, "; {seconds:.1} s, {:.1} documents/s", *documents as f64 / seconds.max(1e-9));
        }
        None => text.push_str("\ndry run: nothing scored, nothing written\n"),
    }
}
