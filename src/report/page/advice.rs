//! Which cut to take, and why.

use super::super::run::{RunData, Variant};
use super::cuts::{fraction, score, shown};
use super::verdict::{Verdict, change};
use super::words;
use crate::plan::DropSize;

/// What speaks for and against one model.
struct Judged<'a> {
    model: &'a Variant,
    verdicts: Vec<Verdict>,
    /// The measure that suffers most, in words, with the share that is lost of what the uncut model has.
    worst: Option<(String, f64)>,
}

/// A recommendation with its reason, from the figures of the summary; nothing where nothing was cut or scored.
#[must_use]
pub(crate) fn advice(data: &RunData) -> Option<String> {
    let judged: Vec<Judged<'_>> = data.variants.iter().filter_map(|model| judge(data, model)).collect();
    let least = |a: &Judged<'_>, b: &Judged<'_>| lost(a).total_cmp(&lost(b));
    let largest = |chosen: &dyn Fn(&Judged<'_>) -> bool| {
        let all = || judged.iter().filter(|judged| chosen(judged));
        let most = all().map(|judged| judged.model.dropped.size()).max()?;
        all().filter(|judged| judged.model.dropped.size() == most).min_by(|a, b| least(a, b))
    };
    let is_free = |judged: &Judged<'_>| judged.verdicts.iter().all(|verdict| is_fine(*verdict));
    if let Some(best) = largest(&is_free) {
        let reason = "the largest cut whose every score is within the error of the uncut model’s, or better";
        return Some(format!("{}: {reason}.", named(best.model)));
    }
    let is_usable = |judged: &Judged<'_>| !judged.verdicts.contains(&Verdict::Degenerate) && lost(judged) < 1.0;
    let rate = |judged: &Judged<'_>| lost(judged) / fraction(data, judged.model).max(f64::MIN_POSITIVE);
    let best = judged.iter().filter(|judged| is_usable(judged)).min_by(|a, b| rate(a).total_cmp(&rate(b)));
    let Some(best) = best else {
        return judged.first().map(|_| {
            "No cut can be recommended: each costs a measure all that it is better than guessing, or is degenerate."
                .to_owned()
        });
    };
    let mut text = format!(
        "{}: best trade-off. No cut is free, and this one costs least for its size: {}, the measure that suffers most.",
        named(best.model),
        price(data, best)?
    );
    // what costs least for its size is often the smallest
    let more = largest(&|judged| is_usable(judged) && lost(judged) <= TENTH);
    if let Some(more) = more.filter(|more| more.model.dropped.size() > best.model.dropped.size()) {
        text += &format!(" If a tenth may go: {}, {}.", lower_first(&named(more.model)), price(data, more)?);
    }
    Some(text)
}

/// The share of a measure that is not much to lose.
const TENTH: f64 = 0.1;

/// What the cuts come to: the price of the least and of the most that was dropped, each by the model that suffers
/// least.
#[must_use]
pub(super) fn course(data: &RunData) -> Option<String> {
    let judged: Vec<Judged<'_>> = data.variants.iter().filter_map(|model| judge(data, model)).collect();
    let sizes = || judged.iter().map(|judged| judged.model.dropped.size());
    let (smallest, largest) = (sizes().min()?, sizes().max()?);
    let best = |size: DropSize| {
        let ours = judged.iter().filter(|judged| judged.model.dropped.size() == size);
        ours.min_by(|a, b| lost(a).total_cmp(&lost(b)))
    };
    let told = |size: DropSize| {
        let (measure, lost) = best(size)?.worst.as_ref()?;
        Some(match *lost {
            lost if lost < 0.005 => "costs nothing that shows".to_owned(),
            lost => format!("costs {:.0} % {measure}", 100.0 * lost),
        })
    };
    let layers = words::layers(smallest);
    let first = told(smallest)?;
    if smallest == largest {
        return None;
    }
    let last = told(largest)?;
    Some(format!("In the measure that suffers most, the best cut of {layers} {first}, that of {largest} {last}."))
}

/// `25 % of the layers for 20 % more held-out loss`.
fn price(data: &RunData, judged: &Judged<'_>) -> Option<String> {
    let (measure, lost) = judged.worst.as_ref()?;
    Some(format!("{:.0} % of the layers for {:.0} % {measure}", 100.0 * fraction(data, judged.model), 100.0 * lost))
}

fn lower_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default()
}

/// `Drop 6 layers by similarity (9..=14) and heal`.
fn named(model: &Variant) -> String {
    let strategy = model.strategy.as_deref().map(|strategy| format!(" by {strategy}")).unwrap_or_default();
    let layers = words::layers(model.dropped.size());
    let repair = model.repair.as_deref();
    let then = match (repair, model.is_healed) {
        (None, false) => String::new(),
        (None, true) => " and heal".to_owned(),
        (Some(repair), false) => format!(" and repair by {repair}"),
        (Some(repair), true) => format!(", repair by {repair} and heal"),
    };
    format!("Drop {layers}{strategy} ({}){then}", model.dropped)
}

fn is_fine(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Better | Verdict::Within | Verdict::Same)
}

fn lost(judged: &Judged<'_>) -> f64 {
    judged.worst.as_ref().map_or(0.0, |(_, lost)| *lost)
}

/// Nothing where a measure of the summary is missing, or nothing was dropped.
fn judge<'a>(data: &RunData, model: &'a Variant) -> Option<Judged<'a>> {
    let mut judged = Judged { model, verdicts: Vec::new(), worst: None };
    for (place, measure) in shown(data) {
        let Some(dense) = score(&data.dense, place) else { continue };
        let change = change(data, place, &data.dense, model)?;
        judged.verdicts.push(change.verdict);
        // of an accuracy, what it is above guessing counts; of a loss, the loss
        let (has, name) = match measure.is_loss {
            true => (dense.value, format!("more {}", words::measure(measure))),
            false => {
                (dense.value - measure.chance.unwrap_or(0.0), format!("of {} above guessing", words::measure(measure)))
            }
        };
        let lost = if measure.is_loss { change.difference / has } else { -change.difference / has };
        if has > 0.0 && lost.is_finite() && judged.worst.as_ref().is_none_or(|(_, worst)| lost > *worst) {
            judged.worst = Some((name, lost));
        }
    }
    (!judged.verdicts.is_empty() && !model.dropped.is_empty()).then_some(judged)
}

#[cfg(test)]
mod tests {
    use super::super::sample::{one, repaired, sweep};
    use super::*;

    #[test]
    fn the_largest_free_cut() {
        let text = advice(&sweep()).unwrap();
        assert!(
            text.starts_with("Drop 2 layers by similarity (") && text.contains("and heal: the largest cut whose"),
            "{text}"
        );
    }

    #[test]
    fn a_repair_is_part_of_it() {
        let mut data = repaired();
        let text = advice(&data).unwrap();
        assert!(text.starts_with("Drop 2 layers by similarity (9..=10), repair by refit and heal: "), "{text}");
        data.variants.retain(|variant| !variant.is_healed && variant.repair.is_some());
        assert!(advice(&data).unwrap().contains(" and repair by refit: "));
    }

    #[test]
    fn more_where_a_tenth_may_go() {
        let mut data = sweep();
        // none is free any more, and the smallest costs least for its size
        let dense = data.dense.scores[2].as_mut().unwrap();
        (dense.value, dense.stderr) = (0.35, Some(1e-6));
        for variant in &mut data.variants {
            let size = variant.dropped.size().layers();
            let loss = variant.scores[2].as_mut().unwrap();
            (loss.value, loss.stderr) = (0.35 * (1.0 + 0.003 * size * size), Some(1e-6));
            variant.scores[0] = data.dense.scores[0];
        }
        let text = advice(&data).unwrap();
        assert!(text.starts_with("Drop 1 layer by similarity (") && text.contains("best trade-off"), "{text}");
        // 0.003 · 4² = 0.048 is within a tenth, 0.003 · 6² = 0.108 is not
        assert!(text.contains("If a tenth may go: drop 4 layers by similarity"), "{text}");
        assert!(text.ends_with("25 % of the layers for 5 % more held-out text loss."), "{text}");
        assert_eq!(
            course(&data).unwrap(),
            "In the measure that suffers most, the best cut of 1 layer costs nothing that shows, that of 8 costs 19 % \
             more held-out text loss."
        );
    }

    #[test]
    fn the_best_trade_off_and_none() {
        let mut data = one();
        for variant in &mut data.variants {
            let loss = variant.scores[2].as_mut().unwrap();
            (loss.value, loss.stderr) = (if variant.is_healed { 0.42 } else { 0.7 }, Some(0.001));
        }
        let text = advice(&data).unwrap();
        assert!(
            text.contains("and heal: best trade-off. No cut is free")
                && text.contains("25 % of the layers for 20 % more held-out text loss, "),
            "{text}"
        );
        assert_eq!(course(&data), None, "one size has no course");
        for variant in &mut data.variants {
            variant.scores[0].as_mut().unwrap().is_degenerate = true;
        }
        assert!(advice(&data).unwrap().starts_with("No cut can be recommended"));
        data.variants.clear();
        assert_eq!(advice(&data), None);
    }
}
