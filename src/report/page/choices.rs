//! What each way of choosing drops, at what cost, and how far the choices of one size agree.

use std::collections::BTreeSet;

use maud::{Markup, html};

use super::super::run::RunData;
use super::cuts::cuts;
use super::tables::scrolling;
use super::words::{self, ABSENT};
use crate::plan::{Dropped, SubLayer};

/// What one way of choosing drops at one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Choice<'a> {
    pub(super) strategy: &'a str,
    pub(super) dropped: &'a Dropped,
}

/// Every choice once, whatever was done after the cut, by size and then in the order of the run.
pub(super) fn choices(data: &RunData) -> Vec<Choice<'_>> {
    let mut found: Vec<Choice<'_>> = Vec::new();
    for cut in cuts(data) {
        let choice = Choice { strategy: cut.way.strategy.unwrap_or_default(), dropped: cut.dropped };
        if !found.contains(&choice) {
            found.push(choice);
        }
    }
    found.sort_by(|a, b| size(a.dropped).total_cmp(&size(b.dropped)));
    found
}

/// Layers' worth.
fn size(dropped: &Dropped) -> f64 {
    dropped.size().layers()
}

/// Sub-layers that go, one by one.
fn parts(dropped: &Dropped) -> BTreeSet<(usize, usize)> {
    let whole = dropped.layers.iter().flat_map(|layer| [(*layer, 0), (*layer, 1)]);
    let single = dropped.sublayers.iter().flat_map(|(layer, of)| {
        let own = SubLayer::ALL.into_iter().enumerate().filter(|(_, sublayer)| of.contains(*sublayer));
        own.map(|(place, _)| (*layer, place))
    });
    whole.chain(single).collect()
}

/// The share of what either drops that both drop (Jaccard's index).
pub(super) fn agreement(a: &Dropped, b: &Dropped) -> f64 {
    let (a, b) = (parts(a), parts(b));
    a.intersection(&b).count() as f64 / a.union(&b).count().max(1) as f64
}

/// Pairs of choices of one size.
pub(super) fn pairs<'a>(choices: &'a [Choice<'a>]) -> impl Iterator<Item = (Choice<'a>, Choice<'a>)> {
    let of = |(at, one): (usize, &'a Choice<'a>)| {
        let rest = choices[at + 1..].iter().filter(|other| size(other.dropped) == size(one.dropped));
        rest.map(|other| (*one, *other))
    };
    choices.iter().enumerate().flat_map(of)
}

/// A strip of the model's layers, what goes filled: attentions above, MLPs below.
fn strip(dropped: &Dropped, layers: usize) -> Markup {
    let gone = parts(dropped);
    let told = format!("without {dropped} of {layers} layers");
    html! {
        svg.strip role="img" aria-label=(told) viewBox={ "0 0 " (layers) " 2" } preserveAspectRatio="none" {
            title { (told) }
            @for (layer, place) in gone.iter().filter(|(layer, _)| *layer < layers) {
                rect x=(layer) y=(place) width="1" height="1" {}
            }
        }
    }
}

/// The table; `None` where there is one choice alone.
pub(super) fn table(data: &RunData) -> Option<Markup> {
    let choices = choices(data);
    if choices.len() < 2 {
        return None;
    }
    let mut strategies: Vec<&str> = Vec::new();
    for choice in &choices {
        if !strategies.contains(&choice.strategy) {
            strategies.push(choice.strategy);
        }
    }
    let compared = if pairs(&choices).next().is_some() { &strategies[..] } else { &[] };
    let of = |choice: &Choice<'_>, other: &str| {
        let same_size = |own: &&Choice<'_>| own.strategy == other && size(own.dropped) == size(choice.dropped);
        let found = choices.iter().find(same_size).filter(|_| other != choice.strategy);
        found.map(|found| format!("{:.0} %", 100.0 * agreement(choice.dropped, found.dropped)))
    };
    let costs = choices.iter().any(|choice| data.costs.contains_key(choice.strategy));
    let table = html! {
        thead {
            tr {
                th.text scope="col" { "chosen by" }
                th scope="col" { "layers" }
                th.text scope="col" { "layer 0 to " (data.dense.layers.saturating_sub(1)) }
                th.text scope="col" { "dropped" }
                @for strategy in compared { th scope="col" { "as " (strategy) } }
                @if costs { th.text scope="col" { "what the choice takes" } }
            }
        }
        tbody {
            @for choice in &choices {
                tr {
                    th scope="row" { (choice.strategy) }
                    td { (words::short(size(choice.dropped))) }
                    td.text { (strip(choice.dropped, data.dense.layers)) }
                    td.text { (choice.dropped.to_string()) }
                    @for other in compared { td { (of(choice, other).unwrap_or_else(|| ABSENT.to_owned())) } }
                    @if costs { td.text { (data.costs.get(choice.strategy).map_or(ABSENT, String::as_str)) } }
                }
            }
        }
    };
    Some(html! {
        (scrolling("What each choice drops", table))
        @if !compared.is_empty() {
            p.small { "Of what either of two choices of one size drops, the share that both drop." }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::{one, sweep};
    use super::*;

    #[test]
    fn shares_of_what_goes() {
        let layers = |layers: &[usize]| layers.iter().copied().collect::<Dropped>();
        assert_eq!(agreement(&layers(&[1, 2, 3]), &layers(&[2, 3, 4])), 0.5);
        assert_eq!(agreement(&layers(&[1]), &layers(&[1])), 1.0);
        let mut attention = Dropped::default();
        attention.insert(1, SubLayer::ALL[0]);
        // one of two halves
        assert_eq!(agreement(&layers(&[1]), &attention), 0.5);
        assert_eq!(agreement(&Dropped::default(), &Dropped::default()), 0.0);
    }

    #[test]
    fn every_choice_once_and_pairs_of_a_size() {
        let data = sweep();
        let choices = choices(&data);
        let distinct: BTreeSet<(Option<&str>, String)> =
            data.variants.iter().map(|own| (own.strategy.as_deref(), own.dropped.to_string())).collect();
        assert_eq!(choices.len(), distinct.len());
        assert!(choices.windows(2).all(|pair| size(pair[0].dropped) <= size(pair[1].dropped)));
        assert!(pairs(&choices).count() > 0);
        assert!(pairs(&choices).all(|(a, b)| size(a.dropped) == size(b.dropped) && a.strategy != b.strategy));
        let text = table(&data).unwrap().into_string();
        assert_eq!(text.matches("<svg").count(), choices.len());
        assert!(text.contains("as similarity") && text.contains("without 9..=12 of 16 layers"), "{text}");
        assert!(!text.contains("what the choice takes"));
        let mut data = sweep();
        data.costs.insert("deepest".to_owned(), "nothing".to_owned());
        assert!(table(&data).unwrap().into_string().contains("nothing"));
        assert!(table(&one()).is_none());
    }
}
