//! A run as a person reads it: what was dropped, what it cost, where the report is.

use std::fmt;

use super::{RunReport, Script, StageReport, Submission};
use crate::checkpoint::ByteSize;
use crate::report::run::{RunData, Score, ScoreColumn, Variant};
use crate::report::{self, Column, table};

/// Characters of a line at most, where the model's columns leave room for one measure.
const WIDTH: usize = 118;

impl fmt::Display for RunReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(submission) = &self.submission {
            return submitted(submission, f);
        }
        if !self.left.is_empty() {
            writeln!(f, "stages   {}", took(&self.stages))?;
            return write!(f, "left     {}: other processes are at it", self.left.join(", "));
        }
        let Some(data) = &self.data else { return stages(&self.stages, f) };
        writeln!(f, "{}", models(data).trim_end())?;
        for told in [report::story(data), report::advice(data)].into_iter().flatten() {
            writeln!(f, "\n{told}")?;
        }
        if let Some(caveat) = &data.caveat {
            writeln!(f, "\n{caveat}")?;
        }
        writeln!(f, "\nstages   {}", took(&self.stages))?;
        if let Some(page) = &self.page {
            write!(f, "report   {}", page.display())?;
        }
        Ok(())
    }
}

/// What went to a cluster, or would.
fn submitted(submission: &Submission, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Submission { dir, scripts, jobs } = submission;
    if jobs.is_empty() {
        for Script { path, text, command } in scripts {
            writeln!(f, "{}\n\n{text}\n{command}\n", path.display())?;
        }
        return write!(f, "dry run: nothing submitted, nothing written");
    }
    for (what, job) in ["array", "report"].iter().zip(jobs) {
        writeln!(f, "{what:<8} job {job}")?;
    }
    write!(f, "scripts  {}, and what the jobs print", dir.display())
}

/// A line for each model, with every measure but the subjects of groups; in several tables where one would be too wide.
fn models(data: &RunData) -> String {
    let shown: Vec<usize> = (0..data.measures.len()).filter(|index| data.measures[*index].depth == 0).collect();
    let below = data.measures.len() - shown.len();
    let name = |variant: &Variant| match &variant.strategy {
        None => "dense".to_owned(),
        Some(strategy) => {
            let repair = variant.repair.as_ref().map_or_else(String::new, |repair| format!(" + {repair}"));
            let healed = if variant.is_healed { " healed" } else { "" };
            format!("{strategy}-{}{repair}{healed}", variant.dropped.size())
        }
    };
    let mut text = String::new();
    let mut left = &shown[..];
    loop {
        let is_first = text.is_empty();
        let make = |measures: &[usize]| {
            let mut head = vec![Column::left("model")];
            if is_first {
                head.extend([Column::left("dropped"), Column::right("layers"), Column::right("weights")]);
            }
            head.extend(measures.iter().map(|index| Column::right(&title(&data.measures[*index]))));
            let rows = data.all().map(|variant| {
                let mut row = vec![name(variant)];
                if is_first {
                    let size = ByteSize(variant.bytes).to_string();
                    row.extend([variant.dropped.to_string(), variant.layers.to_string(), size]);
                }
                row.extend(measures.iter().map(|index| cell(data, variant, *index)));
                row
            });
            table(&head, rows)
        };
        let fits = |count: &usize| make(&left[..*count]).lines().all(|line| line.chars().count() <= WIDTH);
        let count = (1..=left.len()).take_while(fits).last().unwrap_or(left.len().min(1));
        text += &make(&left[..count]);
        left = &left[count..];
        if left.is_empty() {
            break;
        }
        text.push('\n');
    }
    let marks =
        data.variants.iter().flat_map(|variant| shown.iter().map(move |index| report::mark(data, variant, *index)));
    if marks.flatten().next().is_some() {
        text += "\n= within the error of the dense model, + better, - worse, x degenerate; question by question where known\n";
    }
    if below > 0 {
        text += &format!("{below} more of subjects are in the report\n");
    }
    text
}

/// `MMLU acc`, `held-out loss`.
pub(super) fn title(measure: &ScoreColumn) -> String {
    format!("{} {}", measure.title, measure.metric)
}

fn cell(data: &RunData, variant: &Variant, index: usize) -> String {
    let Some(score) = variant.scores.get(index).copied().flatten() else { return String::new() };
    let mark = report::mark(data, variant, index).unwrap_or(' ');
    format!("{} {mark}", figure(&score))
}

pub(super) fn figure(score: &Score) -> String {
    match score.stderr {
        Some(error) => format!("{:.3} ± {error:.3}", score.value),
        None => format!("{:.3}", score.value),
    }
}

/// `57 in 76.2 s`; where an earlier process had done some, those and the time of all as well.
fn took(stages: &[StageReport]) -> String {
    let sum = |is_done: bool| {
        let those = stages.iter().filter(|stage| stage.is_done == is_done);
        those.fold((0, 0.0), |(count, sum), stage| (count + 1, sum + stage.seconds.unwrap_or(0.0)))
    };
    match (sum(false), sum(true)) {
        ((now, seconds), (0, _)) => format!("{now} in {seconds:.1} s"),
        ((now, seconds), (before, earlier)) => format!(
            "{}: {now} in {seconds:.1} s, {before} done before; {:.1} s in all",
            stages.len(),
            seconds + earlier
        ),
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
        let open = stage.layers_at_most.map_or_else(String::new, |most| format!(", up to {most} layers"));
        vec![format!("{}{open}", stage.name), size(stage.memory), size(stage.disk), time]
    });
    writeln!(f, "{}", table(&head, rows).trim_end())?;
    let left = || stages.iter().filter(|stage| !stage.is_done);
    let memory = left().filter_map(|stage| stage.memory).max().unwrap_or(0);
    let disk: u64 = left().filter_map(|stage| stage.disk).sum();
    let seconds: f64 = left().filter_map(|stage| stage.seconds).sum();
    write!(f, "\nat most {} of memory, {} of disk, about {}", ByteSize(memory), ByteSize(disk), duration(seconds))?;
    write!(f, "\ndry run: nothing done, nothing written")
}

pub(super) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.0} s"),
        s if s < 3600.0 => format!("{:.0} min", s / 60.0),
        s if s < 36.0 * 3600.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.1} days", s / 86400.0),
    }
}
