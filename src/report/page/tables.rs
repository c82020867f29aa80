//! The page's tables.

use maud::{Markup, html};

use super::super::run::{RunData, ScoreColumn, Speed, Variant};
use super::cuts::{has_repairs, score, shown};
use super::figures::entry;
use super::verdict::{Verdict, change};
use super::words::{self, ABSENT};
use crate::checkpoint::ByteSize;

/// What the marks behind figures mean.
pub(super) const MARKS: &str = "≈ within the error of the uncut model, ▲ better and ▼ worse than it, beyond the error; \
     ✕ degenerate: one answer to every question, or a loss above that of guessing";

/// A mark that says how a figure compares with the uncut model's.
pub(super) fn mark(data: &RunData, place: usize, now: Option<&Variant>) -> Markup {
    let verdict = now.and_then(|now| change(data, place, &data.dense, now)).map(|change| change.verdict);
    let (sign, words) = match verdict {
        Some(Verdict::Within | Verdict::Same) => ("≈", "within the error of the uncut model"),
        Some(Verdict::Better) => ("▲", "better than the uncut model"),
        Some(Verdict::Worse) => ("▼", "worse than the uncut model"),
        Some(Verdict::Degenerate) => ("✕", "degenerate"),
        // keeps the digits of a column below each other
        Some(Verdict::Unjudged) | None => return html! { span.mark aria-hidden="true" {} },
    };
    html! { span.mark title=(words) { span aria-hidden="true" { (sign) } span.unseen { ", " (words) } } }
}

/// A table that scrolls inside itself.
pub(super) fn scrolling(name: &str, table: Markup) -> Markup {
    html! { div.scroll tabindex="0" role="region" aria-label=(name) { table { caption { (name) } (table) } } }
}

/// Something told in a cell, or that there is nothing to tell.
fn cell(text: Option<String>) -> Markup {
    html! { td { (text.unwrap_or_else(|| ABSENT.to_owned())) } }
}

/// What was timed, in the order of [`Speed::ranges`].
const TIMED: [fn(&Speed) -> f64; 3] = [|speed| speed.prompt, |speed| speed.generation, |speed| speed.first_token];

/// The middle of some measurements, with the least and the most below it.
fn timed(measured: Option<(f64, (f64, f64))>) -> Markup {
    html! {
        td {
            @if let Some((middle, (least, most))) = measured {
                (words::three(middle))
                @if most > 0.0 { span.verdict { (words::three(least)) " to " (words::three(most)) } }
            } @else { (ABSENT) }
        }
    }
}

/// Every model with its size, figures and speed.
pub(super) fn models(data: &RunData) -> Markup {
    let has_repairs = has_repairs(data);
    let has_speed = data.all().any(|variant| variant.speed.is_some());
    let table = html! {
        thead {
            tr {
                th scope="col" { "dropped" }
                th.text scope="col" { "chosen by" }
                @if has_repairs { th.text scope="col" { "repaired by" } }
                th.text scope="col" { "healed" }
                th scope="col" { "layers" }
                th scope="col" { "parameters" }
                th scope="col" { "weights" }
                @for (_, measure) in shown(data) { th scope="col" { (words::measure(measure)) } }
                @if has_speed {
                    th scope="col" { "read, tokens/s" }
                    th scope="col" { "written, tokens/s" }
                    th scope="col" { "first token, s" }
                    th scope="col" { "memory, computed" }
                }
                th.text.dir scope="col" { "directory" }
            }
        }
        tbody {
            @for variant in data.all() {
                @let is_dense = std::ptr::eq(variant, &data.dense);
                tr class=[is_dense.then_some("first")] {
                    th scope="row" { @if variant.dropped.is_empty() { "none" } @else { (variant.dropped.to_string()) } }
                    td.text { @if is_dense { "uncut" } @else { (variant.strategy.as_deref().unwrap_or(ABSENT)) } }
                    @if has_repairs { td.text { (variant.repair.as_deref().unwrap_or(ABSENT)) } }
                    td.text { @if variant.is_healed { "healed" } @else { (ABSENT) } }
                    td { (variant.layers) }
                    td { (words::count(variant.parameters)) }
                    td { (ByteSize(variant.bytes)) }
                    @for (place, _) in shown(data) {
                        td { (words::score(score(variant, place))) @if !is_dense { (mark(data, place, Some(variant))) } @else { span.mark {} } }
                    }
                    @if has_speed {
                        @for (place, of) in TIMED.iter().enumerate() {
                            (timed(variant.speed.as_ref().map(|speed| (of(speed), speed.ranges[place]))))
                        }
                        (cell(variant.speed.map(|speed| ByteSize(speed.memory).to_string())))
                    }
                    td.text.dir { code { (variant.dir) } }
                }
            }
        }
    };
    html! { div.models { (scrolling("Every model: size, scores, speed", table)) } @if !data.variants.is_empty() { p.small { (MARKS) "." } } }
}

/// Figures below the summary's: the subjects of a group.
pub(super) fn subjects(data: &RunData) -> Markup {
    let below: Vec<(usize, &ScoreColumn)> =
        data.measures.iter().enumerate().filter(|(_, measure)| measure.depth > 0).collect();
    if below.is_empty() {
        return html! {};
    }
    let table = html! {
        thead {
            tr {
                th scope="col" { "subject" }
                th scope="col" { "documents" }
                th scope="col" { "chance" }
                @for variant in data.all() { th scope="col" { (words::variant(variant)) } }
            }
        }
        tbody {
            @for (place, measure) in below {
                tr {
                    th scope="row" style={ "padding-left:" (measure.depth.min(6)) "em" } { (words::measure(measure)) }
                    (cell(data.all().find_map(|variant| score(variant, place)).map(|score| score.documents.to_string())))
                    (cell(measure.chance.map(words::short)))
                    @for variant in data.all() { td { (words::score(score(variant, place))) } }
                }
            }
        }
    };
    html! {
        details {
            summary { "Scores by subject" }
            (scrolling("Scores by subject", table))
        }
    }
}

/// The best block of each size.
pub(super) fn best_blocks(data: &RunData) -> Markup {
    let Some(distances) = &data.distances else { return html! {} };
    if distances.mean.len() < 2 {
        return html! {};
    }
    let best = |n: usize| {
        let first = distances.best.get(n - 1).copied().flatten()?;
        let (value, error) = entry(distances, n, first)?;
        Some((words::block(first, n), words::with_error(value, error)))
    };
    let table = html! {
        thead { tr { th scope="col" { "layers, n" } th scope="col" { "best block" } th scope="col" { (distances.title) } } }
        tbody {
            @for (n, (block, value)) in (1..=distances.mean.len()).filter_map(|n| Some((n, best(n)?))) {
                tr { th scope="row" { (n) } td { (block) } td { (value) } }
            }
        }
    };
    html! { div.long { (scrolling("The best block of every size", table)) } }
}

/// How models were healed; nothing where none was.
pub(super) fn healings(data: &RunData) -> Option<Markup> {
    let healed: Vec<&Variant> = data.variants.iter().filter(|variant| variant.healing.is_some()).collect();
    if healed.is_empty() {
        return None;
    }
    let loss = |loss: Option<f64>| cell(loss.map(|loss| words::with_error(loss, None)));
    let table = html! {
        thead {
            tr {
                th scope="col" { "model" }
                th scope="col" { "steps" }
                th scope="col" { "tokens" }
                th scope="col" { "uncut" }
                th scope="col" { @if has_repairs(data) { "before healing" } @else { "cut" } }
                th scope="col" { "healed, as written" }
                th scope="col" { "damage undone" }
                th scope="col" { "while training, before" }
                th scope="col" { "best" }
                th scope="col" { "after step" }
            }
        }
        tbody {
            @for variant in &healed {
                @if let Some(healing) = &variant.healing {
                    tr {
                        th scope="row" { (words::variant(variant)) }
                        td { (healing.steps) }
                        td { (words::count(healing.tokens)) }
                        (loss(healing.uncut))
                        (loss(healing.cut))
                        (cell(healing.healed.map(|healed| words::with_error(healed, healing.healed_stderr))))
                        (cell(healing.undone.map(|undone| match undone > 1.0 {
                            true => "> 100 %".to_owned(),
                            false => format!("{:.0} %", 100.0 * undone),
                        })))
                        (loss(healing.loss_before))
                        (loss(healing.best_loss))
                        (cell(healing.best_step.map(|step| step.to_string())))
                    }
                }
            }
        }
    };
    let text = healed.iter().find_map(|variant| variant.healing.as_ref()?.text.clone());
    let on = text.map(|text| format!(" on {text}")).unwrap_or_default();
    Some(html! {
        (scrolling("How the models were healed", table))
        p.small {
            "Losses in nats a token" (on) ", the error that of the paired difference to the cut model. While training \
             they are those of the weights trained against, which may be in four bits. More than all of the damage is \
             undone where a model learned from the text besides."
        }
    })
}

/// The recipe, and what the run says of itself.
pub(super) fn origin(data: &RunData) -> Markup {
    html! {
        @if !data.recipe.is_empty() {
            details { summary { "The recipe" } pre tabindex="0" { code { (data.recipe) } } }
        }
        @if !data.provenance.is_empty() {
            dl.origin { @for (key, value) in &data.provenance { div { dt { (key) } dd { (value) } } } }
        }
    }
}
