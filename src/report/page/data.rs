//! The figures of a run as CSV.

use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::run::{RunData, Variant};
use super::choices::{Choice, agreement, choices, pairs};
use super::cuts::{fraction, has_repairs, score};
use crate::{Error, Result};

/// A table for other programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedTable {
    /// Name of its file, without `.csv`.
    pub name: &'static str,
    /// What its lines are.
    pub content: &'static str,
    /// CSV with a head; numbers as they are read back to the bit.
    pub text: String,
}

/// Every table that the run gives; those without a line are left out.
///
/// # Errors
/// Work: a table cannot be written.
pub fn tables(data: &RunData) -> Result<Vec<NamedTable>> {
    let tables = [
        table("models", "every model: layers, size, speed, healing", &head(data, MODELS), models(data))?,
        table("scores", "every score of every model", &head(data, SCORES), scores(data))?,
        table("distances", "the score of every block", DISTANCES, distances(data))?,
        table("losses", "losses while healing", &head(data, LOSSES), losses(data))?,
        table("choices", "how far the choices of one size agree", CHOICES, agreements(data))?,
    ];
    Ok(tables.into_iter().flatten().collect())
}

type Row = Vec<String>;

fn table(name: &'static str, content: &'static str, head: &[&str], rows: Vec<Row>) -> Result<Option<NamedTable>> {
    if rows.is_empty() {
        return Ok(None);
    }
    let fault = |error: &dyn std::fmt::Display| Error::work(format!("{name}.csv: {error}"));
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(head).map_err(|error| fault(&error))?;
    rows.iter().try_for_each(|row| writer.write_record(row)).map_err(|error| fault(&error))?;
    let bytes = writer.into_inner().map_err(|error| fault(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| fault(&error))?;
    Ok(Some(NamedTable { name, content, text }))
}

/// A number, or an empty field.
fn some(number: Option<impl ToString>) -> String {
    number.map(|number| number.to_string()).unwrap_or_default()
}

/// What tells a model from the others.
fn names(data: &RunData, variant: &Variant) -> Row {
    let mut names = vec![
        variant.dir.clone(),
        variant.strategy.clone().unwrap_or_default(),
        variant.dropped.to_string(),
        variant.dropped.size().to_string(),
        fraction(data, variant).to_string(),
    ];
    names.extend(has_repairs(data).then(|| variant.repair.clone().unwrap_or_default()));
    names.push(variant.is_healed.to_string());
    names
}

/// The head of a table of models: where there are repairs, they stand before the healing.
fn head<'a>(data: &RunData, columns: &[&'a str]) -> Vec<&'a str> {
    let mut head = columns.to_vec();
    if let (true, Some(place)) = (has_repairs(data), columns.iter().position(|column| *column == "healed")) {
        head.insert(place, "repair");
    }
    head
}

const MODELS: &[&str] = &[
    "model",
    "strategy",
    "dropped",
    "layers_dropped",
    "fraction_dropped",
    "healed",
    "layers",
    "parameters",
    "bytes",
    "prompt_tokens_per_second",
    "generation_tokens_per_second",
    "first_token_seconds",
    "prompt_tokens_per_second_min",
    "prompt_tokens_per_second_max",
    "generation_tokens_per_second_min",
    "generation_tokens_per_second_max",
    "first_token_seconds_min",
    "first_token_seconds_max",
    "peak_memory_bytes",
    "healing_steps",
    "healing_tokens",
    "loss_uncut",
    "loss_cut",
    "loss_healed",
    "loss_healed_stderr",
    "damage_undone",
    "healing_loss_before",
    "healing_best_loss",
    "healing_best_step",
];

fn models(data: &RunData) -> Vec<Row> {
    let row = |variant: &Variant| {
        let (speed, healing) = (variant.speed, variant.healing.as_ref());
        let mut row = names(data, variant);
        row.extend([variant.layers.to_string(), variant.parameters.to_string(), variant.bytes.to_string()]);
        row.extend([some(speed.map(|speed| speed.prompt)), some(speed.map(|speed| speed.generation))]);
        row.push(some(speed.map(|speed| speed.first_token)));
        for place in 0..3 {
            let range = speed.map(|speed| speed.ranges[place]).filter(|range| range.1 > 0.0);
            row.extend([some(range.map(|range| range.0)), some(range.map(|range| range.1))]);
        }
        row.push(some(speed.map(|speed| speed.memory)));
        row.extend([some(healing.map(|healing| healing.steps)), some(healing.map(|healing| healing.tokens))]);
        row.extend([
            some(healing.and_then(|healing| healing.uncut)),
            some(healing.and_then(|healing| healing.cut)),
            some(healing.and_then(|healing| healing.healed)),
            some(healing.and_then(|healing| healing.healed_stderr)),
            some(healing.and_then(|healing| healing.undone)),
            some(healing.and_then(|healing| healing.loss_before)),
            some(healing.and_then(|healing| healing.best_loss)),
        ]);
        row.push(some(healing.and_then(|healing| healing.best_step)));
        row
    };
    data.all().map(row).collect()
}

const SCORES: &[&str] = &[
    "model",
    "strategy",
    "dropped",
    "layers_dropped",
    "fraction_dropped",
    "healed",
    "task",
    "title",
    "metric",
    "depth",
    "value",
    "stderr",
    "chance",
    "documents",
    "majority_answer",
    "degenerate",
    "difference_to_uncut",
    "difference_stderr",
    "difference_p",
];

fn scores(data: &RunData) -> Vec<Row> {
    let rows = data.all().flat_map(|variant| {
        data.measures.iter().enumerate().filter_map(move |(place, measure)| {
            let score = score(variant, place)?;
            let mut row = names(data, variant);
            row.extend([
                measure.task.clone(),
                measure.title.clone(),
                measure.metric.clone(),
                measure.depth.to_string(),
            ]);
            row.extend([
                score.value.to_string(),
                some(score.stderr),
                some(measure.chance),
                score.documents.to_string(),
                some(score.majority),
                score.is_degenerate.to_string(),
            ]);
            let found = data.difference(&data.dense, variant, place);
            row.extend([some(found.map(|found| found.difference)), some(found.and_then(|found| found.stderr))]);
            row.push(some(found.and_then(|found| found.p)));
            Some(row)
        })
    });
    rows.collect()
}

const DISTANCES: &[&str] = &["metric", "layers", "first", "last", "mean", "stderr", "best"];

fn distances(data: &RunData) -> Vec<Row> {
    let Some(distances) = &data.distances else { return Vec::new() };
    let rows = (1..).zip(&distances.mean).flat_map(|(n, row)| {
        row.iter().enumerate().map(move |(l, mean)| {
            let stderr = distances.stderr.get(n - 1).and_then(|row| row.get(l));
            let is_best = distances.best.get(n - 1).copied().flatten() == Some(l);
            let [n, l, last] = [n, l, l + n - 1].map(|number: usize| number.to_string());
            vec![distances.metric.clone(), n, l, last, mean.to_string(), some(stderr), is_best.to_string()]
        })
    });
    rows.collect()
}

const CHOICES: &[&str] = &["layers_dropped", "strategy", "dropped", "other_strategy", "other_dropped", "agreement"];

fn agreements(data: &RunData) -> Vec<Row> {
    let choices = choices(data);
    let row = |(one, other): (Choice<'_>, Choice<'_>)| {
        vec![
            one.dropped.size().to_string(),
            one.strategy.to_owned(),
            one.dropped.to_string(),
            other.strategy.to_owned(),
            other.dropped.to_string(),
            agreement(one.dropped, other.dropped).to_string(),
        ]
    };
    pairs(&choices).map(row).collect()
}

const LOSSES: &[&str] =
    &["model", "strategy", "dropped", "layers_dropped", "fraction_dropped", "healed", "kind", "step", "loss"];

fn losses(data: &RunData) -> Vec<Row> {
    let mut rows = Vec::new();
    for variant in &data.variants {
        let Some(healing) = &variant.healing else { continue };
        for (kind, losses) in [("training", &healing.training), ("validation", &healing.validation)] {
            rows.extend(losses.iter().map(|(step, loss)| {
                let mut row = names(data, variant);
                row.extend([kind.to_owned(), step.to_string(), loss.to_string()]);
                row
            }));
        }
    }
    rows
}

/// The tables inside the page, to be saved from it.
pub(super) fn downloads(tables: &[NamedTable]) -> Markup {
    html! {
        @if !tables.is_empty() {
            h3 { "The numbers as CSV" }
            ul.plain {
                @for table in tables {
                    @let text = utf8_percent_encode(&table.text, NON_ALPHANUMERIC);
                    li {
                        a download={ (table.name) ".csv" } href={ "data:text/csv;charset=utf-8," (text.to_string()) } { (table.name) ".csv" }
                        ": " (table.content)
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{repaired, sweep};
    use super::*;

    /// The lines of a table, each field by its name.
    fn read(table: &NamedTable) -> Vec<std::collections::HashMap<String, String>> {
        let mut reader = csv::Reader::from_reader(table.text.as_bytes());
        reader.deserialize().map(Result::unwrap).collect()
    }

    #[test]
    fn numbers_come_back_to_the_bit() {
        let mut data = sweep();
        data.dense.dir = "a \"dense\", model\nof two lines".into();
        data.variants[0].scores[0].as_mut().unwrap().value = f64::NAN;
        data.variants[0].scores[1] = None;
        let tables = tables(&data).unwrap();
        assert_eq!(
            tables.iter().map(|table| table.name).collect::<Vec<_>>(),
            ["models", "scores", "distances", "losses", "choices"]
        );
        let choices = read(&tables[4]);
        assert!(choices.iter().all(|line| (0.0..=1.0).contains(&line["agreement"].parse::<f64>().unwrap())));
        assert!(!choices.is_empty() && choices.iter().all(|line| line["strategy"] != line["other_strategy"]));
        let (models, scores, distances, losses) =
            (read(&tables[0]), read(&tables[1]), read(&tables[2]), read(&tables[3]));
        assert_eq!(models.len(), 21);
        assert_eq!(models[0]["model"], data.dense.dir);
        assert_eq!(models[1]["peak_memory_bytes"], "37500000");
        assert_eq!((models[1]["healing_steps"].as_str(), models[2]["healing_steps"].as_str()), ("", "40"));
        assert_eq!(scores.len(), 3 * 21 - 1);
        assert!(scores[3]["value"].parse::<f64>().unwrap().is_nan());
        assert_eq!(scores[0]["stderr"].parse::<f64>().ok(), data.dense.scores[0].unwrap().stderr);
        assert_eq!((scores[0]["chance"].as_str(), scores[2]["chance"].as_str()), ("0.25", ""));
        assert_eq!(distances.len(), 136);
        let all = data.distances.as_ref().unwrap();
        for line in &distances {
            let [n, l, last] = ["layers", "first", "last"].map(|name| line[name].parse::<usize>().unwrap());
            assert_eq!(last, l + n - 1);
            assert_eq!(line["mean"].parse::<f64>().unwrap(), all.mean[n - 1][l]);
            assert_eq!(line["best"] == "true", all.best[n - 1] == Some(l));
        }
        assert_eq!(losses.len(), 10 * 45);
        assert_eq!((losses[0]["kind"].as_str(), losses[0]["step"].as_str()), ("training", "1"));
    }

    #[test]
    fn repairs_have_a_column_where_there_are_any() {
        let has = |data: &RunData| {
            tables(data).unwrap().iter().filter(|table| table.text.contains(",repair,healed,")).count()
        };
        assert_eq!((has(&sweep()), has(&repaired())), (0, 3));
        let of_models = |table: &&NamedTable| !["distances", "choices"].contains(&table.name);
        for row in tables(&repaired()).unwrap().iter().filter(of_models).flat_map(read) {
            assert_eq!(row["repair"], if row["model"].ends_with("-refit") { "refit" } else { "" });
        }
    }

    #[test]
    fn what_was_not_done_has_no_table() {
        let mut data = sweep();
        data.distances = None;
        data.variants.clear();
        let names: Vec<&str> = tables(&data).unwrap().iter().map(|table| table.name).collect();
        assert_eq!(names, ["models", "scores"]);
    }
}
