//! Sentences that follow from the figures of a run.

use maud::{Markup, html};

use super::super::run::{RunData, ScoreColumn, Variant};
use super::comparisons::{against, healing, repairing};
use super::cuts::{Cut, Way, repairs, score, shown, strategies, ways};
use super::verdict::{Change, Verdict, change, is_chance};
use super::words::{self, list, plural, upper_first};
use crate::plan::DropSize;

/// What was cut, in a sentence or two.
pub(super) fn sentence_of(data: &RunData, cuts: &[Cut]) -> String {
    let layers = data.dense.layers;
    match cuts {
        [] => format!("Nothing was cut: this is the model as it came, {} deep.", plural(layers, "layer")),
        [cut] => {
            let chosen = cut.way.strategy.map(|strategy| format!(", chosen by {strategy}")).unwrap_or_default();
            let mended = cut.way.repair.map(|repair| format!(", repaired by {repair}")).unwrap_or_default();
            let what = match (cut.dropped.layers.len(), cut.dropped.are_layers()) {
                (0, true) => return format!("No layer of the {layers} was dropped."),
                (1, true) => format!("Layer {} of the {layers} was dropped", cut.dropped),
                (_, true) => format!("Layers {} of the {layers} were dropped", cut.dropped),
                (_, false) => format!("Of the {layers} layers, {} were dropped", cut.dropped),
            };
            let left = cut.models().next().map(|model| {
                let share = 100.0 * model.parameters as f64 / data.dense.parameters.max(1) as f64;
                format!(" {} and {share:.0} % of the parameters are left.", plural(model.layers, "layer"))
            });
            let healed = cut.healed.map(healed_by).unwrap_or_default();
            format!("{what} (numbered from 0, ends included){chosen}{mended}.{}{healed}", left.unwrap_or_default())
        }
        _ => {
            let sizes = || cuts.iter().map(|cut| cut.dropped.size());
            let (least, most) = (sizes().min().unwrap_or_default(), sizes().max().unwrap_or_default());
            let sizes = if least == most { most.to_string() } else { format!("{least} to {most}") };
            let by: Vec<String> = strategies(data).into_iter().flatten().map(str::to_owned).collect();
            let by = if by.is_empty() { String::new() } else { format!(", chosen by {}", list(&by)) };
            let healed = cuts.iter().filter(|cut| cut.healed.is_some()).count();
            let healed = match healed {
                0 => "None was healed.".to_owned(),
                healed if healed == cuts.len() => "Each was healed.".to_owned(),
                healed => format!("{healed} of them were healed."),
            };
            let mended = repairs(data);
            let each = cuts.len() / mended.len().max(1);
            format!(
                "{} of the {layers} layers were dropped{by}, in {}{}. {healed}",
                upper_first(&sizes),
                plural(each, "cut"),
                told_repairs(&mended, each)
            )
        }
    }
}

/// `, each as it is and repaired by refit`; nothing where nothing was repaired.
fn told_repairs(repairs: &[Option<&str>], cuts: usize) -> String {
    let by: Vec<String> = repairs.iter().flatten().map(|repair| (*repair).to_owned()).collect();
    if by.is_empty() {
        return String::new();
    }
    let each = if cuts == 1 { "" } else { "each " };
    let plain = if by.len() < repairs.len() { "as it is and " } else { "" };
    format!(", {each}{plain}repaired by {}", list(&by))
}

/// How the one healed model was healed.
fn healed_by(model: &Variant) -> String {
    match &model.healing {
        Some(healing) => {
            format!(" It was healed in {} on {} tokens.", plural(healing.steps, "step"), words::count(healing.tokens))
        }
        None => " It was healed.".to_owned(),
    }
}

/// A sentence for each measure of one cut; for several, how far each strategy goes, and comparisons.
pub(super) fn findings(data: &RunData, cuts: &[Cut]) -> Vec<Markup> {
    match cuts {
        [] => Vec::new(),
        [cut] => shown(data).filter_map(|(place, measure)| one_cut(data, cut, place, measure)).collect(),
        _ => {
            let mut findings: Vec<Markup> = ways(data).into_iter().filter_map(|way| how_far(data, cuts, way)).collect();
            findings.extend(healing(data, cuts));
            findings.extend(repairing(data, cuts));
            findings.extend(against(data, cuts));
            findings
        }
    }
}

/// What one cut cost in a measure, and what healing gave back.
fn one_cut(data: &RunData, cut: &Cut, place: usize, measure: &ScoreColumn) -> Option<Markup> {
    let dense = score(&data.dense, place)?;
    let value = |variant: &Variant| score(variant, place).map(|score| words::with_error(score.value, None));
    let guessing = |variant: &Variant| guessing(score(variant, place).and_then(|score| is_chance(measure, score)));
    let mut said = Vec::new();
    let cost = cut.bare.and_then(|bare| change(data, place, &data.dense, bare));
    if let Some((bare, cost)) = cut.bare.zip(cost) {
        let (before, now) = (words::with_error(dense.value, None), value(bare)?);
        let after = if cut.way.repair.is_some() { "cut and repair" } else { "the cut" };
        said.push(format!("{} after {after} ({before} → {now}{}){}", told(cost), by(cost), guessing(bare)));
    }
    if let Some(healed) = cut.healed {
        let gain = cut.bare.and_then(|bare| change(data, place, bare, healed));
        if let Some(gain) = gain {
            let share = share(cost, gain);
            said.push(format!(
                "{} once healed (→ {}{}){share}{}",
                told(gain),
                value(healed)?,
                by(gain),
                guessing(healed)
            ));
        }
        if let Some(left) = change(data, place, &data.dense, healed) {
            said.push(format!("healed and uncut: {}{}", told(left), by(left)));
        }
    }
    let name = upper_first(&words::measure(measure));
    let text = said.join("; ").replace(" ± ", "\u{a0}±\u{a0}").replace(" %", "\u{a0}%");
    (!said.is_empty()).then(|| html! { b { (name) } ": " (text) "." })
}

fn guessing(is_chance: Option<bool>) -> &'static str {
    if is_chance == Some(true) { ", no better than guessing" } else { "" }
}

fn told(change: Change) -> &'static str {
    match change.verdict {
        Verdict::Better => "better",
        Verdict::Worse => "worse",
        verdict => verdict.words(),
    }
}

/// A difference behind what it says, where there is one.
fn by(change: Change) -> String {
    match change.verdict {
        Verdict::Same => String::new(),
        _ if !change.difference.is_finite() => String::new(),
        _ => format!(", {}", words::signed(change.difference, change.error)),
    }
}

/// Which part of the cost was given back, where both are beyond their errors.
fn share(cost: Option<Change>, gain: Change) -> String {
    match cost {
        Some(cost) if cost.verdict == Verdict::Worse && gain.verdict == Verdict::Better => {
            format!(", which gives back {:.0} % of the cost", -100.0 * gain.difference / cost.difference)
        }
        _ => String::new(),
    }
}

/// Up to which size the cuts of one way cost nothing that shows, only cut and healed.
fn how_far(data: &RunData, cuts: &[Cut], way: Way<'_>) -> Option<Markup> {
    let ours: Vec<&Cut> = cuts.iter().filter(|cut| cut.way == way).collect();
    let only = if way.repair.is_some() { "Not healed" } else { "Only cut" };
    let said = match [false, true].map(|is_healed| reach(data, &ours, is_healed)) {
        [Some(bare), Some(healed)] if bare == healed => format!("{only} or healed, {bare}."),
        [Some(bare), Some(healed)] => format!("{only}, {bare}. Healed, {healed}."),
        [Some(bare), None] => format!("{only}, {bare}."),
        [None, Some(healed)] => format!("Healed, {healed}."),
        [None, None] => return None,
    };
    let name = way.strategy.map_or_else(|| "Cut".to_owned(), |_| format!("By {}", words::way(way)));
    Some(html! { b { (name) } ": " (said) })
}

/// The largest size without a score that is worse than the uncut model's, and the next one's first that is. The
/// smallest size that costs something ends it, whatever larger ones do.
fn reach(data: &RunData, cuts: &[&Cut], is_healed: bool) -> Option<String> {
    let mut judged: Vec<(DropSize, Vec<&ScoreColumn>)> = Vec::new();
    let mut is_judged = true;
    for cut in cuts {
        let Some(model) = cut.state(is_healed) else { continue };
        let verdicts = shown(data)
            .filter_map(|(place, measure)| Some((measure, change(data, place, &data.dense, model)?.verdict)));
        let (unjudged, verdicts): (Vec<_>, Vec<_>) = verdicts.partition(|(_, verdict)| *verdict == Verdict::Unjudged);
        is_judged &= unjudged.is_empty();
        if !verdicts.is_empty() {
            let is_worse = |verdict| matches!(verdict, Verdict::Worse | Verdict::Degenerate);
            let worse = verdicts.into_iter().filter(|(_, verdict)| is_worse(*verdict));
            judged.push((cut.dropped.size(), worse.map(|(measure, _)| measure).collect()));
        }
    }
    judged.sort_by_key(|(size, _)| *size);
    let most = judged.last()?.0;
    let which = if is_judged { "" } else { " that could be judged" };
    let is_fine = format!("every score{which} is within the error of the uncut model’s, or better");
    let Some((end, worse)) = judged.iter().find(|(_, worse)| !worse.is_empty()) else {
        return Some(format!("{is_fine}, at every size tried, up to {}", words::layers(most)));
    };
    let worse: Vec<String> = worse.iter().map(|measure| words::measure(measure)).collect();
    let worse = format!("{} {} worse", list(&worse), if worse.len() == 1 { "is" } else { "are" });
    Some(match judged.iter().map(|(size, _)| *size).take_while(|size| size < end).last() {
        None => format!("{worse} at {}, the smallest size tried", words::layers(*end)),
        Some(before) => format!("{is_fine}, up to {}; at {end} {worse}", words::layers(before)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::cuts::cuts;
    use super::super::sample::{one, repaired, sweep};
    use super::*;
    use crate::report::run::Score;

    fn told(data: &RunData) -> Vec<String> {
        let text =
            |finding: Markup| finding.into_string().replace("<b>", "").replace("</b>", "").replace('\u{a0}', " ");
        findings(data, &cuts(data)).into_iter().map(text).collect()
    }

    /// A run of one cut with these accuracies before, after and healed.
    fn accuracies(dense: (f64, f64), bare: (f64, f64), healed: (f64, f64)) -> RunData {
        let mut data = one();
        let score = |(value, stderr)| Some(Score { value, stderr: Some(stderr), documents: 400, ..Score::default() });
        data.dense.scores[0] = score(dense);
        data.variants[0].scores[0] = score(bare);
        data.variants[1].scores[0] = score(healed);
        data
    }

    #[test]
    fn one_cut_is_told_by_its_numbers() {
        assert_eq!(
            sentence_of(&one(), &cuts(&one())),
            "Layers 9..=12 of the 16 were dropped (numbered from 0, ends included), chosen by similarity. 12 layers \
             and 77 % of the parameters are left. It was healed in 40 steps on 81.9 k tokens."
        );
        let data = accuracies((0.8, 0.02), (0.6, 0.025), (0.7, 0.022));
        assert_eq!(
            told(&data)[0],
            "MMLU accuracy: worse after the cut (0.8000 → 0.6000, −0.200 ± 0.032); better once healed (→ 0.7000, \
             +0.100 ± 0.033), which gives back 50 % of the cost; healed and uncut: worse, −0.100 ± 0.030."
        );
    }

    #[test]
    fn within_the_error_is_no_cost_and_no_gain() {
        let told = &told(&accuracies((0.8, 0.02), (0.76, 0.02), (0.79, 0.02)))[0];
        assert_eq!(told.matches("within the error").count(), 3, "{told}");
        assert!(!told.contains("worse") && !told.contains("gives back"), "{told}");
    }

    #[test]
    fn healing_may_do_harm_and_a_cut_good() {
        let told = &told(&accuracies((0.5, 0.02), (0.7, 0.02), (0.4, 0.02)))[0];
        assert!(told.contains("better after the cut (0.5000 → 0.7000, +0.200 ± 0.028);"), "{told}");
        assert!(told.contains("worse once healed (→ 0.4000, −0.300 ± 0.028);"), "{told}");
        assert!(!told.contains("gives back"), "{told}");
    }

    #[test]
    fn guessing_and_what_cannot_be_judged() {
        let mut data = accuracies((0.8, 0.02), (0.26, 0.02), (0.27, 0.02));
        assert_eq!(told(&data)[0].matches("no better than guessing").count(), 2);
        data.variants[0].scores[0] = Some(Score { value: f64::NAN, stderr: None, documents: 400, ..Score::default() });
        assert!(told(&data)[0].contains("not judged, no error is known after the cut (0.8000 → not a number);"));
        data.variants[0].scores[0] = Some(Score { value: 0.3, stderr: None, documents: 400, ..Score::default() });
        assert!(
            told(&data)[0].contains("not judged, no error is known after the cut (0.8000 → 0.3000, −0.5000)"),
            "{:?}",
            told(&data)[0]
        );
        data.variants.clear();
        assert!(told(&data).is_empty());
        assert!(sentence_of(&data, &[]).starts_with("Nothing was cut"));
    }

    #[test]
    fn a_sweep_says_how_far_it_goes() {
        let data = sweep();
        assert!(sentence_of(&data, &cuts(&data)).starts_with(
            "1 to 8 of the 16 layers were dropped, chosen by similarity and deepest, in 10 cuts. Each was healed."
        ));
        let told = told(&data);
        // the loss costs 0.004 n² unhealed, half of it healed, against 2 x 0.0064 x √2 = 0.0181
        assert!(
            told[0].starts_with(
                "By similarity: Only cut, every score is within the error of the uncut model’s, or better, up to 2 \
                 layers; at 4 MMLU accuracy and held-out text loss are worse. Healed, every"
            ),
            "{}",
            told[0]
        );
        assert!(told[1].contains("at 2 held-out text loss is worse"), "{}", told[1]);
        assert!(
            told[2].starts_with("Healing: ") && told[2].contains("held-out text loss is better in "),
            "{}",
            told[2]
        );
        assert!(told[2].contains(" of 10"), "{}", told[2]);
        assert!(told[3].starts_with("Similarity against deepest at the same size, only cut: "), "{}", told[3]);
        assert_eq!(told.len(), 5);
    }

    #[test]
    fn repairs_are_told_from_cuts_and_healings() {
        let data = repaired();
        assert!(sentence_of(&data, &cuts(&data)).starts_with(
            "1 to 8 of the 16 layers were dropped, chosen by similarity and deepest, in 10 cuts, each as it is and \
             repaired by refit. Each was healed."
        ));
        let told = told(&data);
        let start = |start: &str| told.iter().find(|told| told.starts_with(start)).unwrap();
        let told = start("By similarity + refit: ");
        assert!(told.starts_with("By similarity + refit: Not healed or healed, every score"), "{told}");
        assert!(start("Refit against the plain cut, not healed: ").contains("held-out text loss is better in "));
        start("Refit against the plain cut, healed: ");
        start("Refit without healing against healing alone: ");
        start("Similarity against deepest at the same size, only cut: ");
        start("Similarity against deepest at the same size, repaired by refit and healed: ");
        let mut data = one();
        data.variants.iter_mut().for_each(|variant| variant.repair = Some("refit".to_owned()));
        assert!(sentence_of(&data, &cuts(&data)).contains("chosen by similarity, repaired by refit. 12 layers"));
        assert!(findings(&data, &cuts(&data))[0].clone().into_string().contains(" after cut and repair ("));
        // pairs: each with the dense one, and in a cut every two models
        let mut data = repaired();
        let is_in =
            |variant: &Variant| variant.dropped.layers.len() == 4 && variant.strategy.as_deref() == Some("similarity");
        data.variants.retain(is_in);
        assert_eq!(data.pairs(), [(0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)]);
    }

    #[test]
    fn a_score_without_an_error_is_not_claimed() {
        let mut data = sweep();
        data.dense.scores[0].as_mut().unwrap().stderr = None;
        let told = told(&data);
        assert!(
            told[0]
                .starts_with("By similarity: Only cut or healed, every score that could be judged is within the error"),
            "{}",
            told[0]
        );
        assert!(told[0].contains("at 4 held-out text loss is worse"), "{}", told[0]);
    }

    #[test]
    fn equal_models_are_never_told_apart() {
        let mut data = sweep();
        let scores = data.dense.scores.clone();
        data.variants.iter_mut().for_each(|variant| variant.scores.clone_from(&scores));
        let told = told(&data);
        let all = "Only cut or healed, every score is within the error of the uncut model’s, or better, at every size \
                   tried, up to 8 layers.";
        assert!(told[0].ends_with(all) && told[1].ends_with(all), "{told:?}");
        let same = "no difference beyond the error in MMLU accuracy and held-out text loss.";
        assert!(told[2].ends_with(same) && told[3].ends_with(same), "{} {}", told[2], told[3]);
        assert!(!told.concat().contains("is worse") && !told.concat().contains("are worse"));
    }
}
