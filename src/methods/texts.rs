//! Several texts: what each chooses by itself, what all together choose, and what a choice costs on another text.

use std::ops::Range;

use super::pick::How;
use super::rerank;
use super::search::Search;
use crate::importance::{
    Agreement, Choice, Evidence, Metric, PartOf, Scores, Searched, Together, Transfer, is_within, scores_of,
};
use crate::{Error, Result};

/// What runs candidates on several texts.
pub struct Running<'a> {
    /// Measurements on the sequences of all, one text after the other.
    pub evidence: &'a mut dyn Evidence,
    /// Which of the sequences are whose.
    pub texts: &'a [Range<usize>],
}

/// What a search finds of several texts.
#[derive(Clone, Debug, PartialEq)]
pub struct OverTexts {
    /// The choices of each text by itself.
    pub each: Vec<Searched>,
    /// The choices of all together, each text weighing the same.
    pub together: Searched,
    /// How far they agree, for each size.
    pub agreement: Vec<Agreement>,
}

/// Candidates that were run on a text: the row of `scores` has one entry for each of the sets, which ascend.
struct Ran {
    metric: &'static Metric,
    sets: Vec<Vec<usize>>,
    scores: Scores,
}

impl Search {
    /// The best choices of each of several texts by its own scores, those of all together by `all` scores, and what the
    /// choices of one cost on the other. Where a search measures as it goes, all three are measured: then `running` is
    /// needed, and sizes are as in [`Search::run_with`].
    ///
    /// # Errors
    /// As [`Search::run`] and [`Search::run_with`]. Request: a pick that cannot weigh texts alike.
    pub fn over_texts(
        &self,
        texts: &[&[Scores]],
        all: &[Scores],
        layers: usize,
        mut running: Option<Running<'_>>,
        most: Option<usize>,
    ) -> Result<OverTexts> {
        self.pick()?.check_texts(texts.len())?;
        let mut each = Vec::new();
        for (number, scores) in texts.iter().enumerate() {
            each.push(match running.as_mut() {
                None => self.run(scores, layers)?,
                Some(Running { evidence, texts }) => {
                    self.run_with(&mut PartOf::new(&mut **evidence, texts[number].clone()), scores, most)?
                }
            });
        }
        let together = match running.as_mut() {
            None => self.run(all, layers)?,
            Some(Running { evidence, texts }) => {
                self.run_with(&mut Together::new(&mut **evidence, texts), all, most)?
            }
        };
        let ran = self.run_elsewhere(running, &each, &together)?;
        let agreement = self.agreement(texts, (&each, &together), &ran)?;
        Ok(OverTexts { each, together, agreement })
    }

    /// Whether what is measured of a choice decided it, not its scores.
    fn is_decided_by_run(&self, choice: &Choice) -> Result<bool> {
        Ok(self.pick()?.measures() || !choice.short_list.is_empty())
    }

    /// Runs on each text the choices of all, in one pass, where they were measured and not scored.
    fn run_elsewhere(&self, running: Option<Running<'_>>, each: &[Searched], together: &Searched) -> Result<Vec<Ran>> {
        let Some(Running { evidence, texts }) = running else { return Ok(Vec::new()) };
        let metric = if self.pick()?.measures() { self.metric()? } else { rerank::loss_of(self.metric()?)? };
        let mut sets = Vec::new();
        for choice in each.iter().chain([together]).flat_map(|searched| &searched.best) {
            if self.is_decided_by_run(choice)? {
                sets.push(choice.drop.clone());
            }
        }
        sets.sort_unstable();
        sets.dedup();
        if sets.is_empty() {
            return Ok(Vec::new());
        }
        let ran = texts.iter().map(|text| {
            let scores = rerank::costs(&mut PartOf::new(&mut *evidence, text.clone()), metric, &sets)?;
            Ok(Ran { metric, sets: sets.clone(), scores })
        });
        ran.collect()
    }

    /// How far the choices of every size agree.
    fn agreement(
        &self,
        texts: &[&[Scores]],
        (each, together): (&[Searched], &Searched),
        ran: &[Ran],
    ) -> Result<Vec<Agreement>> {
        let sizes = each.iter().chain([together]).map(|searched| searched.best.len()).min().unwrap_or(0);
        let of_size = |size: usize| -> Result<Agreement> {
            let own: Vec<&Choice> = each.iter().map(|searched| &searched.best[size]).collect();
            let all = &together.best[size];
            let is_run = self.is_decided_by_run(all)?;
            let by = ran.first().filter(|_| is_run).map_or_else(|| self.metric(), |ran| Ok(ran.metric))?;
            let choices = own.iter().enumerate().map(|(text, own)| (Some(text), &own.drop));
            let mut transfers = Vec::new();
            for (choice_of, choice) in choices.chain([(None, &all.drop)]) {
                for (on, best) in own.iter().enumerate().filter(|(on, _)| choice_of != Some(*on)) {
                    let regret = match ran.get(on).filter(|_| is_run) {
                        Some(ran) => ran.regret(choice, &best.drop)?,
                        None => self.regret(texts[on], choice, &best.drop)?,
                    };
                    transfers.push(transfer((choice_of, choice), (on, &best.drop), regret));
                }
            }
            let in_all = own[0].drop.iter().copied().filter(|layer| own.iter().all(|own| own.drop.contains(layer)));
            Ok(Agreement { n: size + 1, metric: by.name.to_owned(), in_all: in_all.collect(), transfers })
        };
        (0..sizes).map(of_size).collect()
    }

    /// How much worse `choice` is than `best` by the scores of a text, and the error of that.
    fn regret(&self, scores: &[Scores], choice: &[usize], best: &[usize]) -> Result<(f64, Option<f64>)> {
        let metric = self.metric()?;
        let scores = scores_of(scores, metric.name)?;
        Ok(match self.pick()?.how {
            How::Blocks(_) => contrast(metric, (scores, best.len()), &choice[..1], &best[..1]),
            _ => contrast(metric, (scores, 1), choice, best),
        })
    }
}

impl Ran {
    fn regret(&self, choice: &[usize], best: &[usize]) -> Result<(f64, Option<f64>)> {
        let place = |set: &[usize]| self.sets.binary_search_by(|own| own[..].cmp(set)).ok();
        match (place(choice), place(best)) {
            (Some(choice), Some(best)) => Ok(contrast(self.metric, (&self.scores, 1), &[choice], &[best])),
            _ => Err(Error::work("a choice that was not run on the other texts")),
        }
    }
}

/// How much more the entries `more` of a row cost than as many entries `less`, in sum, and the standard error of that.
/// Entries of both cancel. A sum whose weights add up to nothing has the variance -1/2 Σ c_i c_j D_ij, D the variances
/// of the differences of two.
fn contrast(metric: &Metric, (scores, n): (&Scores, usize), more: &[usize], less: &[usize]) -> (f64, Option<f64>) {
    let without = |of: &[usize], other: &[usize]| -> Vec<usize> {
        of.iter().copied().filter(|entry| !other.contains(entry)).collect()
    };
    let (more, less) = (without(more, less), without(less, more));
    let sum = |of: &[usize]| of.iter().map(|entry| metric.order.cost(scores.mean[n - 1][*entry])).sum::<f64>();
    let squares = |a: &[usize], b: &[usize]| -> f64 {
        let errors = a.iter().flat_map(|a| b.iter().map(move |b| scores.difference_error(n, *a, *b).unwrap_or(0.0)));
        errors.map(|error| error * error).sum()
    };
    let variance = || squares(&more, &less) - (squares(&more, &more) + squares(&less, &less)) / 2.0;
    let error = scores.difference_stderr.as_ref().map(|_| variance().max(0.0).sqrt());
    (sum(&more) - sum(&less), error)
}

fn transfer(
    (choice_of, choice): (Option<usize>, &[usize]),
    (on, best): (usize, &[usize]),
    (regret, regret_stderr): (f64, Option<f64>),
) -> Transfer {
    let in_common = choice.iter().filter(|layer| best.contains(layer)).count();
    let within_error = match choice == best {
        true => Some(true),
        false => regret_stderr.map(|error| is_within(regret, error)),
    };
    let jaccard = in_common as f64 / (choice.len() + best.len() - in_common) as f64;
    Transfer { choice_of, on, in_common, jaccard, regret, regret_stderr, within_error }
}

#[cfg(test)]
mod tests {
    use super::super::method;
    use super::*;
    use crate::importance::{Moments, Protect, metric, together};
    use crate::model::Loss;

    const LAYERS: usize = 5;

    /// What sample `s` of text `text` says of entry `i` of its scores.
    fn value(text: usize, s: usize, i: usize) -> f64 {
        ((i * (7 + 6 * text) + s * 11 + text * 3) % 23) as f64 / 29.0 + 0.02 * ((i + text) % 4) as f64
    }

    fn scores(text: usize, name: &str) -> Vec<Scores> {
        let mut moments = Moments::new(metric(name).unwrap().subject.rows(LAYERS));
        for s in 0..6 + 3 * text {
            moments.push(1.0, &(0..moments.values()).map(|i| value(text, s, i)).collect::<Vec<_>>());
        }
        vec![moments.finish(name)]
    }

    /// Mean and error of a number a sample.
    fn plainly(values: &[f64]) -> (f64, f64) {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        (mean, (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1.0) / count).sqrt())
    }

    fn by_scores(name: &str) -> (Vec<Vec<Scores>>, OverTexts) {
        let texts: Vec<Vec<Scores>> = (0..3).map(|text| scores(text, name)).collect();
        let slices: Vec<&[Scores]> = texts.iter().map(Vec::as_slice).collect();
        let search = Search { metric: name.to_owned(), ..Search::default() };
        let found = search.over_texts(&slices, &together(&slices), LAYERS, None, None).unwrap();
        for (text, own) in slices.iter().zip(&found.each) {
            assert_eq!(own, &search.run(text, LAYERS).unwrap());
        }
        assert_eq!(found.together, search.run(&together(&slices), LAYERS).unwrap());
        (texts, found)
    }

    /// Of blocks the difference of two scores of the text, of layers that of two sums, with errors paired over samples.
    #[test]
    fn a_regret_is_what_the_scores_of_the_other_text_say() {
        // entries of block-influence are layers; those of n layers begin at these entries of angular
        for (name, rows) in [("block-influence", [0; 4]), ("angular", [0, 5, 9, 12])] {
            let (_, found) = by_scores(name);
            assert_eq!(found.agreement.len(), LAYERS - 1);
            let mut differing = 0;
            for (size, agreement) in found.agreement.iter().enumerate() {
                assert_eq!((agreement.n, agreement.metric.as_str(), agreement.transfers.len()), (size + 1, name, 9));
                for transfer in &agreement.transfers {
                    let own = &found.each[transfer.on].best[size].drop;
                    let of = |text: usize| &found.each[text].best[size].drop;
                    let choice = transfer.choice_of.map_or(&found.together.best[size].drop, of);
                    assert_ne!(transfer.choice_of, Some(transfer.on));
                    let entries = if name == "angular" { 1 } else { size + 1 };
                    let sample = |s: usize, of: &[usize]| -> f64 {
                        of[..entries].iter().map(|layer| value(transfer.on, s, rows[size] + layer)).sum()
                    };
                    let samples = 6 + 3 * transfer.on;
                    let each: Vec<f64> = (0..samples).map(|s| sample(s, choice) - sample(s, own)).collect();
                    let (regret, error) = plainly(&each);
                    assert!((transfer.regret - regret).abs() < 1e-12 && transfer.regret > -1e-12, "{transfer:?}");
                    let found = transfer.regret_stderr.unwrap();
                    assert!((found - error).abs() < 5e-3 * error + 1e-12, "{name}: {found} {error}");
                    let common = choice.iter().filter(|layer| own.contains(layer)).count();
                    assert_eq!(transfer.in_common, common);
                    assert!((transfer.jaccard - common as f64 / (2 * (size + 1) - common) as f64).abs() < 1e-15);
                    assert_eq!(transfer.within_error, Some(choice == own || regret <= 2.0 * found));
                    differing += usize::from(choice != own);
                }
                let drops = |layer: &usize| found.each.iter().all(|own| own.best[size].drop.contains(layer));
                assert_eq!(agreement.in_all, (0..LAYERS).filter(|layer| drops(layer)).collect::<Vec<_>>());
            }
            assert!(differing > 8, "{name}: {differing}");
        }
    }

    #[test]
    fn without_errors_nothing_is_said_of_them() {
        let exact = |means: Vec<f64>| {
            vec![Scores { metric: "magnitude".into(), mean: vec![means], stderr: None, difference_stderr: None }]
        };
        let texts = [exact(vec![0.1, 0.5, 0.2]), exact(vec![0.4, 0.1, 0.2])];
        let slices: Vec<&[Scores]> = texts.iter().map(Vec::as_slice).collect();
        let search = Search { metric: "magnitude".into(), ..Search::default() };
        let found = search.over_texts(&slices, &together(&slices), 3, None, None).unwrap();
        let first = &found.agreement[0].transfers[0];
        assert_eq!((first.choice_of, first.on, first.in_common), (Some(0), 1, 0));
        assert!((first.regret - 0.3).abs() < 1e-15);
        assert_eq!((first.regret_stderr, first.within_error), (None, None));
        // layer 2 is the best of both together
        assert_eq!(found.together.best[0].drop, [2]);
        let last = found.agreement[0].transfers.last().unwrap();
        assert_eq!((last.choice_of, last.on), (None, 1));
        assert!((last.regret - 0.1).abs() < 1e-15);
    }

    /// What each layer costs on each of two texts of three and two sequences.
    const COSTS: [[f64; 4]; 2] = [[0.1, 0.9, 0.5, 0.7], [0.8, 0.2, 0.5, 0.9]];

    fn cost(s: usize, dropped: &[usize]) -> f64 {
        let text = usize::from(s > 2);
        // the first two go well together on the second text
        let pair = if text == 1 && dropped == [0, 1] { 0.2 } else { 0.0 };
        let noise = |layer: usize| 0.01 * ((s * 7 + layer * 3) % 5) as f64;
        dropped.iter().map(|layer| COSTS[text][*layer] + noise(*layer)).sum::<f64>() - pair
    }

    struct Two;

    impl Evidence for Two {
        fn layers(&self) -> usize {
            4
        }

        fn sequences(&self) -> usize {
            5
        }

        fn costs(&mut self, _metric: &Metric, dropped: &[Vec<usize>], on: Option<&[usize]>) -> Result<Vec<Vec<Loss>>> {
            let on: Vec<usize> = on.map_or_else(|| (0..5).collect(), <[usize]>::to_vec);
            let of = |s: usize, dropped: &[usize]| Loss { sum: 10.0 * (2.0 + cost(s, dropped)), tokens: 10 };
            Ok(dropped.iter().map(|dropped| on.iter().map(|s| of(*s, dropped)).collect()).collect())
        }

        fn reached(&self, _message: &str) {}
    }

    fn run(search: &Search, scores: &[Vec<Scores>], most: Option<usize>) -> Result<OverTexts> {
        let slices: Vec<&[Scores]> = scores.iter().map(Vec::as_slice).collect();
        let running = Running { evidence: &mut Two, texts: &[0..3, 3..5] };
        search.over_texts(&slices, &together(&slices), 4, Some(running), most)
    }

    #[test]
    fn searches_measure_on_each_text_and_on_all() {
        let search = method("sleb").unwrap().search(Protect::default()).unwrap();
        let found = run(&search, &[Vec::new(), Vec::new()], Some(2)).unwrap();
        let drops = |searched: &Searched| searched.best.iter().map(|choice| choice.drop.clone()).collect::<Vec<_>>();
        assert_eq!(drops(&found.each[0]), [vec![0], vec![0, 2]]);
        assert_eq!(drops(&found.each[1]), [vec![1], vec![1, 2]]);
        // 0.9 and 0.95 by the mean of the two texts; all five sequences alike would have taken 0.92 and 0.88
        assert_eq!(drops(&found.together), [vec![0], vec![0, 1]]);
        let alone = search.run_with(&mut PartOf::new(&mut Two, 3..5), &[], Some(2)).unwrap();
        assert_eq!(found.each[1], alone);
        for agreement in &found.agreement {
            assert_eq!(agreement.metric, "layer-loss");
            for transfer in &agreement.transfers {
                let sequences = [0..3, 3..5][transfer.on].clone();
                let own = &found.each[transfer.on].best[agreement.n - 1].drop;
                let of = |text: usize| &found.each[text].best[agreement.n - 1].drop;
                let choice = transfer.choice_of.map_or(&found.together.best[agreement.n - 1].drop, of);
                let each: Vec<f64> = sequences.map(|s| cost(s, choice) - cost(s, own)).collect();
                let (regret, error) = plainly(&each);
                assert!((transfer.regret - regret).abs() < 1e-12, "{transfer:?} {regret}");
                assert!((transfer.regret_stderr.unwrap() - error).abs() < 1e-3 * error + 1e-12, "{transfer:?} {error}");
            }
        }
        let all = found.together.best[0].score;
        let mean = |text: std::ops::Range<usize>| {
            let count = text.len() as f64;
            text.map(|s| cost(s, &[0])).sum::<f64>() / count
        };
        assert!((all - f64::midpoint(mean(0..3), mean(3..5))).abs() < 1e-12);
    }

    #[test]
    fn a_short_list_decides_where_there_is_one() {
        let texts = [scores(0, "block-influence"), scores(1, "block-influence")];
        let four = |own: &Vec<Scores>| -> Vec<Scores> {
            let cut = |rows: &Vec<Vec<f64>>| vec![rows[0][..4].to_vec()];
            vec![Scores { mean: cut(&own[0].mean), stderr: None, difference_stderr: None, ..own[0].clone() }]
        };
        let texts = texts.each_ref().map(four);
        let search = Search { metric: "block-influence".into(), rerank: Some(4), ..Search::default() };
        let found = run(&search, &texts, Some(1)).unwrap();
        assert_eq!((&found.each[0].best[0].drop, &found.each[1].best[0].drop), (&vec![0], &vec![1]));
        let by: Vec<&str> = found.agreement.iter().map(|agreement| agreement.metric.as_str()).collect();
        assert_eq!(by, ["layer-loss", "block-influence", "block-influence"]);
        let regret = found.agreement[0].transfers[0].regret;
        assert!((regret - (3..5).map(|s| cost(s, &[0]) - cost(s, &[1])).sum::<f64>() / 2.0).abs() < 1e-12);
        // a policy draws among the sequences
        let policy = method("policy").unwrap().search(Protect::default()).unwrap();
        let error = run(&policy, &[Vec::new(), Vec::new()], Some(1)).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("greedy or beam"), "{error}");
        policy.pick().unwrap().check_texts(1).unwrap();
    }

    #[test]
    fn passes_are_those_of_each_of_all_and_of_what_was_found() {
        let search = method("sleb").unwrap().search(Protect::default()).unwrap();
        let once = search.passes(8, 2, 10).unwrap();
        assert_eq!(search.passes_over(1, 8, 2, 10).unwrap(), once);
        // the whole model, and up to four choices of one layer and four of two
        assert_eq!(search.passes_over(3, 8, 2, 10).unwrap(), 2 * once + 8 + 4 * 7 + 4 * 6);
        let scored = Search { metric: "angular".into(), ..Search::default() };
        assert_eq!(scored.passes_over(3, 8, 2, 10).unwrap(), 0);
        let losses = Search { losses: true, ..scored };
        assert_eq!(losses.passes_over(3, 8, 2, 10).unwrap(), 2 * losses.passes(8, 2, 10).unwrap());
    }
}
