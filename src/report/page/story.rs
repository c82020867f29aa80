//! What became of one cut, step by step.

use super::super::run::{RunData, Variant};
use super::cuts::{score, shown};
use super::words;

/// The course of the choice whose size is nearest to a third of the layers, of those that were repaired or healed: a
/// figure of the uncut model, of the cut, and of what was made of it. Nothing where no cut was worked on.
#[must_use]
pub(crate) fn story(data: &RunData) -> Option<String> {
    let same = |a: &Variant, b: &Variant| (&a.strategy, &a.dropped) == (&b.strategy, &b.dropped);
    let is_bare = |variant: &Variant| variant.repair.is_none() && !variant.is_healed;
    let is_worked_on = |cut: &&Variant| data.variants.iter().any(|other| same(cut, other) && !is_bare(other));
    let third = data.dense.layers as f64 / 3.0;
    let far = |variant: &Variant| (variant.dropped.size().layers() - third).abs();
    let cuts = data.variants.iter().filter(|variant| is_bare(variant)).filter(is_worked_on);
    let cut = cuts.min_by(|a, b| far(a).total_cmp(&far(b)))?;
    // of accuracies first: a loss needs knowledge of losses
    let is_said = |place: usize| score(&data.dense, place).is_some_and(|score| !score.is_degenerate);
    let measures = || shown(data).filter(|(place, _)| is_said(*place) && score(cut, *place).is_some());
    let (place, measure) = measures().find(|(_, measure)| !measure.is_loss).or_else(|| measures().next())?;
    let mut steps = vec![format!("{} whole", words::score(score(&data.dense, place)))];
    for variant in data.variants.iter().filter(|variant| same(cut, variant)) {
        let what = match (&variant.repair, variant.is_healed) {
            (None, false) => "cut".to_owned(),
            (None, true) => "healed".to_owned(),
            (Some(repair), false) => format!("with {repair}"),
            (Some(repair), true) => format!("with {repair} and healed"),
        };
        if let Some(found) = score(variant, place) {
            steps.push(format!("{} {what}", words::score(Some(found))));
        }
    }
    let by = cut.strategy.as_ref().map_or_else(String::new, |strategy| format!(", by {strategy}"));
    let gone = words::layers(cut.dropped.size());
    let name = words::measure(measure);
    Some(format!("Without {gone} of {}{by}: {name} {}.", data.dense.layers, words::list(&steps)))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{one, repaired, sweep};
    use super::*;

    #[test]
    fn what_is_nearest_to_a_third_is_told() {
        let text = story(&repaired()).unwrap();
        assert!(
            text.starts_with("Without 6 layers of 16, by similarity: MMLU accuracy 0.800 ± 0.020 whole, "),
            "{text}"
        );
        for part in [" cut, ", " healed, ", " with refit and ", " with refit and healed."] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let swept = story(&sweep()).unwrap();
        assert!(swept.contains(" cut and ") && swept.ends_with(" healed."), "{swept}");
    }

    #[test]
    fn nothing_where_no_cut_was_worked_on() {
        let mut data = one();
        data.variants.retain(|variant| !variant.is_healed);
        assert_eq!(story(&data), None);
        // accuracies that say nothing are passed over
        let mut data = repaired();
        for place in [0, 1] {
            data.dense.scores[place].as_mut().unwrap().is_degenerate = true;
        }
        let text = story(&data).unwrap();
        assert!(text.contains(": ") && text.contains("loss 0.35"), "{text}");
        data.dense.scores.iter_mut().for_each(|score| *score = None);
        assert_eq!(story(&data), None);
    }
}
