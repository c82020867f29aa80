//! Sentences that compare the models of a run in pairs.

use maud::{Markup, html};

use super::super::run::{RunData, Variant};
use super::cuts::{Cut, Way, repairs, shown, strategies};
use super::verdict::{Verdict, change};
use super::words::{self, list, upper_first};

/// What comparing many pairs in a measure comes to.
enum Outcome {
    /// `better in 3 of 10`, `better in 3 and worse in 1 of 10`.
    Told(String),
    /// None of them is told apart.
    Alike,
}

/// Nothing where nothing could be told apart for want of errors.
fn tally(verdicts: &[Verdict]) -> Option<Outcome> {
    let all = verdicts.len();
    let count = |verdict: Verdict| verdicts.iter().filter(|known| **known == verdict).count();
    if count(Verdict::Unjudged) == all {
        return None;
    }
    let told = [(Verdict::Better, "better"), (Verdict::Worse, "worse"), (Verdict::Degenerate, "degenerate")];
    let parts = told.map(|(verdict, name)| (count(verdict), name)).into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<(usize, &str)> = parts.collect();
    Some(match parts[..] {
        [] => Outcome::Alike,
        [(count, name)] if count == all => Outcome::Told(format!("{name} in all {all}")),
        _ => {
            let parts: Vec<String> = parts.iter().map(|(count, name)| format!("{name} in {count}")).collect();
            Outcome::Told(format!("{} of {all}", list(&parts)))
        }
    })
}

/// Pairs of models compared in every measure that can be judged: what differs first, then what does not.
fn compared(data: &RunData, name: &str, pairs: &[(&Variant, &Variant)]) -> Option<Markup> {
    let (mut said, mut alike) = (Vec::new(), Vec::new());
    for (place, measure) in shown(data) {
        let verdicts: Vec<Verdict> =
            pairs.iter().filter_map(|(from, to)| Some(change(data, place, from, to)?.verdict)).collect();
        match tally(&verdicts) {
            Some(Outcome::Told(what)) => said.push(format!("{} is {what}", words::measure(measure))),
            Some(Outcome::Alike) => alike.push(words::measure(measure)),
            None => {}
        }
    }
    if !alike.is_empty() {
        said.push(format!("no difference beyond the error in {}", list(&alike)));
    }
    (!said.is_empty()).then(|| html! { b { (name) } ": " (said.join("; ")) "." })
}

/// Healed against unhealed, over all cuts.
pub(super) fn healing(data: &RunData, cuts: &[Cut]) -> Option<Markup> {
    let pairs: Vec<_> = cuts.iter().filter_map(|cut| cut.bare.zip(cut.healed)).collect();
    compared(data, "Healing", &pairs)
}

/// The first strategy against each other one, at the same number of layers dropped.
pub(super) fn against(data: &RunData, cuts: &[Cut]) -> Vec<Markup> {
    let strategies: Vec<&str> = strategies(data).into_iter().flatten().collect();
    let Some((first, others)) = strategies.split_first() else { return Vec::new() };
    let mut findings = Vec::new();
    for other in others {
        for (repair, is_healed) in repairs(data).into_iter().flat_map(|repair| [(repair, false), (repair, true)]) {
            let mut pairs = Vec::new();
            let way = |strategy| Way { strategy: Some(strategy), repair };
            for ours in cuts.iter().filter(|cut| cut.way == way(first)) {
                let is_theirs = |cut: &&Cut| cut.way == way(other) && cut.dropped.size() == ours.dropped.size();
                let theirs = cuts.iter().find(is_theirs);
                pairs.extend(theirs.and_then(|theirs| theirs.state(is_healed)).zip(ours.state(is_healed)));
            }
            let state = words::state(repair, is_healed);
            let name = format!("{} against {other} at the same size, {state}", upper_first(first));
            findings.extend(compared(data, &name, &pairs));
        }
    }
    findings
}

/// Each other repair against the first, or the plain cut, on the same cuts; and without healing against healing alone.
pub(super) fn repairing(data: &RunData, cuts: &[Cut]) -> Vec<Markup> {
    let repairs = repairs(data);
    let Some((first, others)) = repairs.split_first() else { return Vec::new() };
    let name = |repair: &Option<&str>| repair.map_or_else(|| "the plain cut".to_owned(), str::to_owned);
    let mut findings = Vec::new();
    for other in others {
        let pairs = |before: bool, after: bool| {
            let of = |theirs: &&Cut| theirs.way.repair == *first;
            let pairs = cuts.iter().filter(of).filter_map(|theirs| {
                let way = Way { repair: *other, ..theirs.way };
                let ours = cuts.iter().find(|cut| (cut.way, cut.dropped) == (way, theirs.dropped))?;
                theirs.state(before).zip(ours.state(after))
            });
            pairs.collect::<Vec<_>>()
        };
        let against = format!("{} against {}", upper_first(&name(other)), name(first));
        for (state, is_healed) in [("not healed", false), ("healed", true)] {
            findings.extend(compared(data, &format!("{against}, {state}"), &pairs(is_healed, is_healed)));
        }
        if let (None, Some(repair)) = (first, other) {
            let alone = format!("{} without healing against healing alone", upper_first(repair));
            findings.extend(compared(data, &alone, &pairs(true, false)));
        }
    }
    findings
}
