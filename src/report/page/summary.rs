//! What a reader wants to know first.

use maud::{Markup, html};

use super::super::run::{RunData, Speed, Variant};
use super::cuts::{Cut, cuts, score, shown};
use super::findings::{findings, sentence_of};
use super::verdict::change;
use super::words::{self, ABSENT, upper_first};
use crate::checkpoint::ByteSize;

/// The first section.
pub(super) fn summary(data: &RunData) -> Markup {
    let cuts = cuts(data);
    html! {
        p.lead { (sentence_of(data, &cuts)) }
        @if let Some(caveat) = &data.caveat { p.caveat role="note" { (caveat) } }
        (tiles(data))
        @let findings = findings(data, &cuts);
        @if !findings.is_empty() {
            ul.findings { @for finding in &findings { li { (finding) } } }
        }
        @if shown(data).next().is_some() {
            @match &cuts[..] {
                [cut] => (one_cut(data, cut)),
                _ => (all_cuts(data, &cuts)),
            }
            (reading())
        }
    }
}

/// How to read errors and verdicts.
fn reading() -> Markup {
    html! {
        p.small {
            "± is one standard error. “Within the error” means that two figures are less than two standard errors of their \
             difference apart, each model taken as an independent sample; the models answered the same questions, so "
            code { "prune eval --against" }
            ", which compares question by question, tells more apart. Of many comparisons, about one in twenty is beyond \
             the error by chance alone."
        }
    }
}

/// A size of the model before, and of its variants after, the nearest to it first; both as they are written.
struct Tile {
    name: &'static str,
    before: Option<String>,
    after: Option<String>,
    change: Option<String>,
}

/// The tile of a size; nothing where it was never measured.
fn tile(
    data: &RunData,
    name: &'static str,
    of: &dyn Fn(&Variant) -> Option<f64>,
    write: &dyn Fn(f64) -> String,
) -> Option<Tile> {
    let before = of(&data.dense);
    let mut after: Vec<f64> = data.variants.iter().filter_map(of).collect();
    after.sort_by(|a, b| {
        let from = before.unwrap_or(0.0);
        (a - from).abs().total_cmp(&(b - from).abs())
    });
    let range = |write: &dyn Fn(f64) -> Option<String>| {
        let (first, last) = (write(*after.first()?)?, write(*after.last()?)?);
        if first == last { Some(first) } else { Some(span(&first, &last)) }
    };
    let change = before.and_then(|before| range(&|after| words::relative(before, after)));
    let after = range(&|value| Some(write(value)));
    (before.is_some() || after.is_some()).then(|| Tile { name, before: before.map(write), after, change })
}

/// `3.03 to 1.74 M`: the unit once where both have the same.
fn span(first: &str, last: &str) -> String {
    match (first.rsplit_once(' '), last.rsplit_once(' ')) {
        (Some((number, unit)), Some((_, same))) if unit == same => format!("{number} to {last}"),
        _ => format!("{first} to {last}"),
    }
}

/// Size and speed, before and after.
fn tiles(data: &RunData) -> Markup {
    let speed = |of: fn(&Speed) -> f64| move |variant: &Variant| variant.speed.as_ref().map(of);
    let whole = |value: f64| words::count(value as u64);
    let bytes = |value: f64| ByteSize(value as u64).to_string();
    let time = |value: f64| format!("{} ms", words::three(1e3 * value));
    let tiles = [
        tile(data, "Layers", &|variant| Some(variant.layers as f64), &whole),
        tile(data, "Parameters", &|variant| Some(variant.parameters as f64), &whole),
        tile(data, "Weights on disk", &|variant| Some(variant.bytes as f64), &bytes),
        tile(data, "Memory, computed", &speed(|speed| speed.memory as f64), &bytes),
        tile(data, "Reading, tokens a second", &speed(|speed| speed.prompt), &words::three),
        tile(data, "Writing, tokens a second", &speed(|speed| speed.generation), &words::three),
        tile(data, "To the first token", &speed(|speed| speed.first_token), &time),
    ];
    html! {
        dl.tiles {
            @for tile in tiles.into_iter().flatten() {
                div {
                    dt { (tile.name) }
                    dd {
                        @if let Some(before) = &tile.before { span class=[tile.after.is_none().then_some("after")] { (before) } " " }
                        @if let Some(after) = &tile.after { span.arrow aria-label="to" { "→ " } span.after { (after) } }
                        @if let Some(change) = &tile.change { span.change { (change) } }
                    }
                }
            }
        }
    }
}

/// Every summary measure before and after one cut.
fn one_cut(data: &RunData, cut: &Cut) -> Markup {
    let states: Vec<(&str, &Variant)> = [("after the cut", cut.bare), ("healed", cut.healed)]
        .into_iter()
        .filter_map(|(name, variant)| Some((name, variant?)))
        .collect();
    html! {
        div.scroll tabindex="0" role="region" aria-label="Scores before and after" {
            table {
                caption { "Scores before and after" }
                thead {
                    tr {
                        th scope="col" { "measure" }
                        th scope="col" { "chance" }
                        th scope="col" { "uncut" }
                        @for (name, _) in &states {
                            th scope="col" { (name) span.verdict { "and against uncut" } }
                        }
                    }
                }
                tbody {
                    @for (place, measure) in shown(data) {
                        @let dense = score(&data.dense, place);
                        tr {
                            th scope="row" { (words::measure(measure)) }
                            td { (measure.chance.map_or_else(|| ABSENT.to_owned(), words::short)) }
                            td { (words::score(dense)) }
                            @for (_, variant) in &states {
                                @let now = score(variant, place);
                                td {
                                    (words::score(now))
                                    @if let Some(change) = dense.zip(now).map(|(dense, now)| change(measure, dense, now)) {
                                        span.verdict {
                                            @if change.difference.is_finite() && change.difference != 0.0 {
                                                (words::signed(change.difference, change.error)) ", "
                                            }
                                            (change.verdict.words())
                                        }
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Every summary measure of every cut, a line each.
fn all_cuts(data: &RunData, cuts: &[Cut]) -> Markup {
    let is_healed = cuts.iter().any(|cut| cut.healed.is_some());
    let is_bare = cuts.iter().any(|cut| cut.bare.is_some());
    let states: Vec<(&str, bool)> = [("cut", false, is_bare), ("healed", true, is_healed)]
        .into_iter()
        .filter(|state| state.2)
        .map(|state| (state.0, state.1))
        .collect();
    html! {
        div.scroll tabindex="0" role="region" aria-label="Scores of every cut" {
            table.groups {
                caption { "Scores of every cut" }
                thead {
                    tr {
                        th scope="col" rowspan="2" { "dropped" }
                        th scope="col" rowspan="2" { "chosen by" }
                        @for (_, measure) in shown(data) {
                            th.group scope="colgroup" colspan=(states.len().max(1)) {
                                (words::measure(measure))
                                @if let Some(chance) = measure.chance { span.verdict { "chance " (words::short(chance)) } }
                            }
                        }
                    }
                    tr { @for _ in shown(data) { @for (name, _) in &states { th scope="col" { (name) } } } }
                }
                tbody {
                    tr {
                        th scope="row" { "none" }
                        td.text { "uncut" }
                        @for (place, _) in shown(data) { td.middle colspan=(states.len().max(1)) { (words::score(score(&data.dense, place))) } }
                    }
                    @for cut in cuts {
                        tr {
                            th scope="row" { (words::dropped(cut.dropped)) }
                            td.text { (cut.strategy.unwrap_or(ABSENT)) }
                            @for (place, measure) in shown(data) {
                                @for (_, is_healed) in &states {
                                    @let now = cut.state(*is_healed).and_then(|variant| score(variant, place));
                                    td { (words::score(now)) (super::tables::mark(data, place, measure, now)) }
                                }
                            }
                        }
                    }
                }
            }
        }
        p.small { (upper_first(super::tables::MARKS)) }
    }
}
