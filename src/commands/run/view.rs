//! A run as a person reads it: what was dropped, what it cost, where the report is.

use std::fmt;

use super::{RunReport, StageReport};
use crate::checkpoint::ByteSize;
use crate::importance::inclusive;
use crate::report::run::{RunData, Score};
use crate::report::{Column, table};

/// Columns of scores at most; the report has all of them.
const MEASURES: usize = 4;

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(data) = &self.data else { return stages(&self.stages, f) };
        writeln!(f, "{}", models(data).trim_end())?;
        if let Some(caveat) = &data.caveat {
            writeln!(f, "\n{caveat}")?;
        }
        let made = self.stages.iter().filter(|stage| !stage.is_done);
        let (count, seconds) =
            made.fold((0, 0.0), |(count, sum), stage| (count + 1, sum + stage.seconds.unwrap_or(0.0)));
        writeln!(f, "\nstages   {count} of {} in {seconds:.1} s", self.stages.len())?;
        if let Some(page) = &self.page {
            write!(f, "report   {}", page.display())?;
        }
        Ok(())
    }
}

/// A line for each model.
fn models(data: &RunData) -> String {
    let shown: Vec<usize> =
        (0..data.measures.len()).filter(|index| data.measures[*index].depth == 0).take(MEASURES).collect();
    let mut head =
        vec![Column::left("model"), Column::left("dropped"), Column::right("layers"), Column::right("weights")];
    head.extend(shown.iter().map(|index| Column::right(&data.measures[*index].title)));
    let rows = data.all().map(|variant| {
        let name = match (&variant.strategy, variant.is_healed) {
            (None, _) => "dense".to_owned(),
            (Some(strategy), false) => format!("{strategy}-{}", variant.dropped.len()),
            (Some(strategy), true) => format!("{strategy}-{} healed", variant.dropped.len()),
        };
        let dropped = inclusive(&variant.dropped);
        let mut row = vec![name, dropped, variant.layers.to_string(), ByteSize(variant.bytes).to_string()];
        row.extend(shown.iter().map(|index| variant.scores[*index].as_ref().map(cell).unwrap_or_default()));
        row
    });
    table(&head, rows)
}

fn cell(score: &Score) -> String {
    match score.stderr {
        Some(error) => format!("{:.3} ± {error:.3}", score.value),
        None => format!("{:.3}", score.value),
    }
}

/// What a dry run says.
fn stages(stages: &[StageReport], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let head = [Column::left("stage"), Column::right("memory"), Column::right("disk"), Column::right("time")];
    let size = |bytes: Option<u64>| bytes.map(|bytes| ByteSize(bytes).to_string()).unwrap_or_default();
    let rows = stages.iter().map(|stage| {
        let time = match stage.seconds {
            _ if stage.is_done => "done".to_owned(),
            Some(seconds) => duration(seconds),
            None => String::new(),
        };
        vec![stage.name.clone(), size(stage.memory), size(stage.disk), time]
    });
    writeln!(f, "{}", table(&head, rows).trim_end())?;
    let left = || stages.iter().filter(|stage| !stage.is_done);
    let memory = left().filter_map(|stage| stage.memory).max().unwrap_or(0);
    let disk: u64 = left().filter_map(|stage| stage.disk).sum();
    let seconds: f64 = left().filter_map(|stage| stage.seconds).sum();
    write!(f, "\nat most {} of memory, {} of disk, about {}", ByteSize(memory), ByteSize(disk), duration(seconds))?;
    write!(f, "\ndry run: nothing done, nothing written")
}

fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.0} s"),
        s if s < 3600.0 => format!("{:.0} min", s / 60.0),
        s if s < 36.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86400.0),
    }
}
