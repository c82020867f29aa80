//! A measurement as people look at it: a table, the model it is compared with in front.

use std::fmt::{self, Display};

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::bench::{BenchReport, ModelBench, PeakSource, Spread};
use crate::checkpoint::ByteSize;
use crate::shown::shown;
use crate::surgery::short_count;

/// A line of the table: its name, the figure as text, the number that ratios are taken of, how far its measurements
/// spread.
type Line =
    (&'static str, fn(&ModelBench) -> String, Option<fn(&ModelBench) -> f64>, Option<fn(&ModelBench) -> Spread>);

const LINES: &[Line] = &[
    ("layers", |model| model.layers.to_string(), Some(|model| model.layers as f64), None),
    ("parameters", |model| short_count(model.parameters), Some(|model| model.parameters as f64), None),
    ("weights", |model| ByteSize(model.weight_bytes).to_string(), Some(|model| model.weight_bytes as f64), None),
    (
        "reading, tokens/s",
        |model| spread(model.prompt_tokens_per_second),
        Some(|model| model.prompt_tokens_per_second.median),
        Some(|model| model.prompt_tokens_per_second),
    ),
    (
        "first token, s",
        |model| spread(model.first_token_seconds),
        Some(|model| model.first_token_seconds.median),
        Some(|model| model.first_token_seconds),
    ),
    (
        "generating, tokens/s",
        |model| spread(model.tokens_per_second),
        Some(|model| model.tokens_per_second.median),
        Some(|model| model.tokens_per_second),
    ),
    ("peak memory", peak, Some(|model| model.peak_memory_bytes as f64), None),
    ("layers are", |model| model.residency.says().to_owned(), None, None),
];

/// The end of a long path.
fn short(model: &str) -> String {
    match model.rsplit_once('/') {
        Some((_, name)) if model.len() > 24 && !name.is_empty() => name.to_owned(),
        _ => model.to_owned(),
    }
}

/// Three digits that count: `1234`, `56.7`, `0.0891`.
fn number(value: f64) -> String {
    let digits = if value > 0.0 { (2.0 - value.log10().floor()).clamp(0.0, 6.0) as usize } else { 1 };
    format!("{value:.digits$}")
}

fn spread(Spread { median, min, max }: Spread) -> String {
    format!("{} ({}..{})", number(median), number(min), number(max))
}

fn peak(model: &ModelBench) -> String {
    let source = match model.peak_memory {
        PeakSource::Measured => "",
        PeakSource::Computed => " (computed)",
    };
    format!("{}{source}", ByteSize(model.peak_memory_bytes))
}

impl Display for BenchReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let BenchReport { threads, prompt_tokens, tokens, repetitions, model, against, .. } = self;
        let threads = if *threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
        let times = if *repetitions == 1 { "once" } else { "median (min..max)" };
        writeln!(
            f,
            "a prompt of {prompt_tokens} tokens, {tokens} new ones, {repetitions} times: {times}; {threads}\n"
        )?;
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        let models: Vec<&ModelBench> = against.iter().chain([model]).collect();
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        let mut head = vec![Cell::new("")];
        head.extend(models.iter().map(|model| right(shown(&short(&model.model)).into_owned())));
        head.extend(against.as_ref().map(|_| right("ratio".to_owned())));
        table.set_header(head);
        for (name, text, number, spread) in LINES {
            let mut line = vec![Cell::new(name)];
            line.extend(models.iter().map(|model| right(text(model))));
            if let Some(against) = against {
                // a ratio that some of the measurements contradict is none
                let is_sure = spread.is_none_or(|spread| spread(model).is_apart(&spread(against)));
                let unsure = if is_sure { "" } else { " within the spread" };
                let ratio = |number: &fn(&ModelBench) -> f64| format!("{:.2}{unsure}", number(model) / number(against));
                line.push(right(number.as_ref().map(ratio).unwrap_or_default()));
            }
            table.add_row(line);
        }
        for line in table.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
