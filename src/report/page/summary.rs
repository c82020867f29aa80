//! What a reader wants to know first.

use maud::{Markup, html};

use super::super::run::{RunData, Speed, Variant};
use super::advice::{advice, course};
use super::cuts::{Cut, cuts, has_repairs, score, shown};
use super::findings::{findings, sentence_of};
use super::story::story;
use super::verdict::change;
use super::words::{self, ABSENT, upper_first};
use crate::checkpoint::ByteSize;

/// The first section.
pub(super) fn summary(data: &RunData) -> Markup {
    let cuts = cuts(data);
    html! {
        p.lead {
            (sentence_of(data, &cuts))
            @if let Some(course) = course(data) { " " (course) }
            @if let Some(story) = story(data) { " " (story) }
        }
        @if let Some(advice) = advice(data) { p.lead { b { "Recommendation. " } (advice) } }
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
            (reading(data))
        }
    }
}

/// How to read errors and verdicts.
fn reading(data: &RunData) -> Markup {
    html! {
        p.small {
            "± is one standard error, of a difference that of the differences. “Within the error” means that a \
             difference is less than two of them. "
            @if data.differences.is_empty() {
                "Each model is taken as an independent sample; the models answered the same questions, so "
                code { "prune compare" }
                ", which compares question by question, tells more apart."
            } @else {
                "Differences are those of the same questions and texts, one by one: what makes a question hard for \
                 both models cancels, so that more is told apart than the figures’ own errors would. Of questions, an \
                 exact test on those that two models disagree about has a say as well."
            }
            " Of many comparisons, about one in twenty is beyond the error by chance alone."
        }
    }
}

/// A size of the model before, and the least and the most of its variants, the nearer one first; as they are written.
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
    after.sort_by(f64::total_cmp);
    let distance = |value: Option<&f64>| (value.unwrap_or(&0.0) - before.unwrap_or(0.0)).abs();
    if distance(after.last()) < distance(after.first()) {
        after.reverse();
    }
    let range = |write: &dyn Fn(f64) -> Option<String>| {
        let (first, last) = (write(*after.first()?)?, write(*after.last()?)?);
        if first == last { Some(first) } else { Some(span(&first, &last)) }
    };
    let change = before.and_then(|before| range(&|after| words::relative(before, after)));
    let after = range(&|value| Some(write(value)));
    (before.is_some() || after.is_some()).then(|| Tile { name, before: before.map(write), after, change })
}

/// The tile of something timed: what lies within the spread of the measurements is no change.
fn timed(data: &RunData, place: usize, tile: Option<Tile>) -> Option<Tile> {
    let range = |variant: &Variant| variant.speed.map(|speed| speed.ranges[place]).filter(|range| range.1 > 0.0);
    let mut tile = tile?;
    let Some(before) = range(&data.dense) else { return Some(tile) };
    let after: Vec<(f64, f64)> = data.variants.iter().filter_map(range).collect();
    let inside = after.iter().filter(|after| after.0 <= before.1 && before.0 <= after.1).count();
    tile.change = match (inside, tile.change) {
        (0, change) => change,
        (inside, _) if inside == after.len() => Some("within the spread of the measurements".to_owned()),
        (inside, change) => change.map(|change| format!("{change}; {inside} of {} within the spread", after.len())),
    };
    Some(tile)
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
        timed(data, 0, tile(data, "Reading, tokens a second", &speed(|speed| speed.prompt), &words::three)),
        timed(data, 1, tile(data, "Writing, tokens a second", &speed(|speed| speed.generation), &words::three)),
        timed(data, 2, tile(data, "To the first token", &speed(|speed| speed.first_token), &time)),
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
    let bare = if cut.way.repair.is_some() { "cut and repaired" } else { "after the cut" };
    let states: Vec<(&str, &Variant)> = [(bare, cut.bare), ("healed", cut.healed)]
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
                                    @if let Some(change) = change(data, place, &data.dense, variant) {
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
    let has_repairs = has_repairs(data);
    let bare = if has_repairs { "not healed" } else { "cut" };
    let states: Vec<(&str, bool)> = [(bare, false, is_bare), ("healed", true, is_healed)]
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
                        @if has_repairs { th scope="col" rowspan="2" { "repaired by" } }
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
                        @if has_repairs { td.text { (ABSENT) } }
                        @for (place, _) in shown(data) { td.middle colspan=(states.len().max(1)) { (words::score(score(&data.dense, place))) } }
                    }
                    @for cut in cuts {
                        tr {
                            th scope="row" { (cut.dropped.to_string()) }
                            td.text { (cut.way.strategy.unwrap_or(ABSENT)) }
                            @if has_repairs { td.text { (cut.way.repair.unwrap_or(ABSENT)) } }
                            @for (place, _) in shown(data) {
                                @for (_, is_healed) in &states {
                                    @let now = cut.state(*is_healed);
                                    @let score = now.and_then(|variant| score(variant, place));
                                    td { (words::score(score)) (super::tables::mark(data, place, now)) }
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

#[cfg(test)]
mod tests {
    use super::super::sample::sweep;
    use super::*;

    #[test]
    fn a_tile_shows_the_least_and_the_most() {
        let mut data = sweep();
        data.variants.truncate(3);
        let speeds = [1690.0, 1111.0, 2342.0];
        let all = std::iter::once((&mut data.dense, 1561.0)).chain(data.variants.iter_mut().zip(speeds));
        for (variant, speed) in all {
            let found = variant.speed.as_mut().unwrap();
            (found.prompt, found.ranges) = (speed, [(speed - 100.0, speed + 100.0); 3]);
        }
        let of = |variant: &Variant| variant.speed.map(|speed| speed.prompt);
        let found = timed(&data, 0, tile(&data, "t", &of, &words::three)).unwrap();
        assert_eq!(found.after.as_deref(), Some("1111 to 2342"));
        assert_eq!(found.change.as_deref(), Some("−29 to +50 %; 1 of 3 within the spread"));
        // nothing is claimed where every measurement may be the other's
        for variant in &mut data.variants {
            variant.speed.as_mut().unwrap().ranges = [(1000.0, 3000.0); 3];
        }
        let found = timed(&data, 0, tile(&data, "t", &of, &words::three)).unwrap();
        assert_eq!(found.change.as_deref(), Some("within the spread of the measurements"));
        let layers = tile(&data, "l", &|variant| Some(variant.layers as f64), &words::three).unwrap();
        assert_eq!((layers.before.as_deref(), layers.after.as_deref()), (Some("16.0"), Some("15.0 to 14.0")));
    }
}
