//! Several texts for a person: what each would drop by itself, and what that costs on the others.

use super::ranking_view::strip;
use crate::importance::{Agreement, Analysis, Choice, DataUsed, Transfer, metric};
use crate::plan::Dropped;
use crate::report::{Column, table, with_error};

/// What the choice of all texts together is called.
const ALL: &str = "all";

/// What of each text is used, a line each.
pub(super) fn used(texts: &[DataUsed]) -> String {
    let head = [Column::right(""), Column::left("text"), Column::right("samples"), Column::right("tokens")];
    let rows = texts.iter().enumerate().map(|(number, used)| of_data(number, used).into());
    table(&head, rows)
}

fn of_data(number: usize, used: &DataUsed) -> [String; 4] {
    [(number + 1).to_string(), used.source.clone(), used.samples.to_string(), used.tokens.to_string()]
}

/// The texts and their choices, of `n` units where that is asked for and of every size where not; `None` of one text.
pub(super) fn texts(analysis: &Analysis, n: Option<usize>) -> Option<String> {
    if analysis.texts.is_empty() {
        return None;
    }
    let agreement = |n: usize| analysis.agreement.iter().find(|agreement| agreement.n == n);
    Some(match n.and_then(agreement) {
        Some(agreement) => of_size(analysis, agreement),
        None => of_every_size(analysis),
    })
}

/// What goes with a choice.
fn gone(analysis: &Analysis, choice: &Choice) -> Dropped {
    metric(&analysis.search.metric).map(|metric| metric.subject.gone(&choice.drop)).unwrap_or_default()
}

/// A strip a text, and a line for each choice on each other text.
fn of_size(analysis: &Analysis, agreement: &Agreement) -> String {
    let layers = analysis.model.layers;
    let row = |data: [String; 4], choice: Option<&Choice>| -> Vec<String> {
        let gone = choice.map(|choice| gone(analysis, choice)).unwrap_or_default();
        let score = choice.map_or_else(String::new, |choice| with_error(choice.score, choice.stderr));
        data.into_iter().chain([strip(&gone, layers), gone.to_string(), score]).collect()
    };
    let head = [
        Column::right(""),
        Column::left("text"),
        Column::right("samples"),
        Column::right("tokens"),
        Column::left("layers"),
        Column::left("would drop"),
        Column::left(&analysis.search.metric),
    ];
    let at = agreement.n - 1;
    let each = analysis.texts.iter().enumerate();
    let each = each.map(|(number, text)| row(of_data(number, &text.data), text.best.get(at)));
    let all = &analysis.data;
    let all = [ALL.to_owned(), "together".to_owned(), all.samples.to_string(), all.tokens.to_string()];
    let choices = table(&head, each.chain([row(all, analysis.search.best.get(at))]));

    let head = [
        Column::right("choice of"),
        Column::right("on text"),
        Column::right("in common"),
        Column::right("Jaccard"),
        Column::left(&format!("{} above its own", agreement.metric)),
    ];
    let rows = agreement.transfers.iter().map(|transfer| {
        let on = (transfer.on + 1).to_string();
        let common = format!("{} of {}", transfer.in_common, agreement.n);
        vec![name(transfer.choice_of), on, common, format!("{:.2}", transfer.jaccard), regret(transfer, agreement.n)]
    });
    format!("{choices}\n{}", table(&head, rows))
}

fn name(choice_of: Option<usize>) -> String {
    choice_of.map_or_else(|| ALL.to_owned(), |text| (text + 1).to_string())
}

/// `+0.0123 ± 0.0004`, and whether that is within the error.
fn regret(transfer: &Transfer, n: usize) -> String {
    if transfer.in_common == n {
        return "the same choice".to_owned();
    }
    let sign = if transfer.regret < 0.0 { "" } else { "+" };
    let within = if transfer.within_error == Some(true) { ", within the error" } else { "" };
    format!("{sign}{}{within}", with_error(transfer.regret, transfer.regret_stderr))
}

/// A line a size: what each text would drop, and the worst that a text's choice does on another.
fn of_every_size(analysis: &Analysis) -> String {
    let texts = &analysis.texts;
    let numbers = (1..=texts.len()).map(|number| number.to_string());
    let names = numbers.chain([ALL.to_owned()]).map(|name| Column::left(&name));
    let head: Vec<Column> = [Column::right("n")]
        .into_iter()
        .chain(names)
        .chain([Column::right("in every one"), Column::left("the most that one costs on another")])
        .collect();
    let rows = analysis.agreement.iter().map(|agreement| {
        let choices = texts.iter().map(|text| &text.best).chain([&analysis.search.best]);
        let choices = choices.filter_map(|best| best.get(agreement.n - 1));
        let gone = choices.map(|choice| gone(analysis, choice).to_string());
        let own = agreement.transfers.iter().filter(|transfer| transfer.choice_of.is_some());
        let worst = own.max_by(|a, b| a.regret.total_cmp(&b.regret)).map_or_else(String::new, |worst| {
            match worst.in_common == agreement.n {
                true => String::new(),
                false => format!("{} ({} on {})", regret(worst, agreement.n), name(worst.choice_of), worst.on + 1),
            }
        });
        let common = format!("{} of {}", agreement.in_all.len(), agreement.n);
        [agreement.n.to_string()].into_iter().chain(gone).chain([common, worst]).collect()
    });
    format!("{}\n{}", used(&texts.iter().map(|text| text.data.clone()).collect::<Vec<_>>()), table(&head, rows))
}
