//! The table holds together, and its rows choose what their papers choose.

use serde_json::{Map, json};

use super::*;
use crate::importance::{DataUsed, Evidence, Metric, Moments, QuestionsUsed};
use crate::model::Loss;

fn model(layers: usize) -> PlannedFor {
    PlannedFor { id: "org/name".into(), revision: None, fingerprint: "0123456789abcdef".into(), layers }
}

fn analysis(layers: usize) -> Analysis {
    let scores: Vec<_> = METRICS
        .iter()
        .map(|metric| {
            let mut moments = Moments::new(metric.subject.rows(layers));
            for sample in 0..7 {
                let value = |i: usize| ((i * 37 + sample * 11) % 23) as f64 / 29.0 + 0.01 * i as f64;
                moments.push(1.0, &(0..moments.values()).map(value).collect::<Vec<_>>());
            }
            moments.finish(metric.name)
        })
        .collect();
    let asked = QuestionsUsed { tasks: vec!["boolq".into()], questions: 7 };
    let data =
        DataUsed { source: "text.jsonl".into(), samples: 7, tokens: 28, seq_len: 64, seed: 1, asked: Some(asked) };
    let searched = METHODS[0].search(Protect::default()).unwrap().run(&scores, layers).unwrap();
    Analysis::new(model(layers), 16, data, Map::new(), scores, searched)
}

#[test]
fn every_row_has_its_pick_and_its_metric() {
    for row in METHODS {
        assert!(PICKS.iter().any(|pick| pick.name == row.pick), "{}", row.name);
        assert_eq!(row.needs_scores(), row.metric().is_some(), "{}", row.name);
        assert!(row.keeps.allowed(8).len() > 1, "{}", row.name);
        if row.needs_scores() {
            row.search(Protect::default()).unwrap().pick().unwrap();
        } else {
            assert_eq!(row.search(Protect::default()).unwrap_err().exit_code(), 2);
        }
        let text = serde_json::to_string(row).unwrap();
        assert_eq!(serde_json::from_str::<&Method>(&text).unwrap(), row);
    }
    assert!(
        serde_json::from_str::<&Method>("\"finest\"")
            .unwrap_err()
            .to_string()
            .contains("similarity, channel-cosine, deepest")
    );
}

#[test]
fn every_method_makes_a_plan_of_its_size() {
    let analysis = analysis(10);
    let is_known = |row: &Method| row.name != "given" && !row.is_searched() && !row.merges();
    let whole = |row: &&Method| is_known(row) && row.unit != RemovalUnit::SubLayer;
    for row in METHODS.iter().filter(whole) {
        let may_go = row.keeps.allowed(10);
        for n in 1..=may_go.len().min(9) {
            let plan = row.plan(&analysis.model, n, Some(&analysis)).unwrap();
            plan.check().unwrap();
            assert_eq!(plan.dropped().len(), n, "{} {n}", row.name);
            assert_eq!(plan.gone(), row.dropped(10, n, Some(&analysis)).unwrap());
            assert!(plan.dropped().iter().all(|layer| may_go.contains(layer)), "{}", row.name);
        }
        for n in [0, may_go.len() + 1, 10, usize::MAX] {
            let error = row.plan(&analysis.model, n, Some(&analysis)).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{} {n}: {error}", row.name);
        }
    }
}

#[test]
fn the_deepest_keep_the_last_layer_and_the_tail_does_not() {
    let dropped = |name, layers, n| method(name).unwrap().plan(&model(layers), n, None).map(|plan| plan.dropped());
    assert_eq!(dropped("deepest", 32, 8).unwrap(), (23..=30).collect::<Vec<_>>());
    assert_eq!(method("deepest").unwrap().plan(&model(32), 31, None).unwrap().kept(), [31]);
    assert_eq!(dropped("tail", 32, 8).unwrap(), (24..=31).collect::<Vec<_>>());
    assert_eq!(method("tail").unwrap().plan(&model(32), 31, None).unwrap().kept(), [0]);
    for (layers, n) in [(32, 0), (32, 32), (1, 1)] {
        assert!(dropped("deepest", layers, n).is_err() && dropped("tail", layers, n).is_err());
    }
    assert!(dropped("similarity", 32, 8).unwrap_err().to_string().contains("prune analyze --method similarity"));
    assert!(dropped("given", 32, 8).unwrap_err().to_string().contains("--drop"));
}

#[test]
fn another_search_needs_no_pass() {
    let mut analysis = analysis(5);
    analysis.mark(1).unwrap();
    let protect = Protect { first: 1, last: 1 };
    search(&mut analysis, &Search { metric: "block-influence".into(), protect, ..Search::default() }).unwrap();
    assert_eq!((analysis.search.strategy.as_str(), analysis.search.best.len()), ("lowest", 3));
    assert!(analysis.plan.is_none());
    for choice in &analysis.search.best {
        assert!(choice.drop.iter().all(|layer| (1..4).contains(layer)));
    }
    let by = |metric: &str, first| Search {
        metric: metric.into(),
        protect: Protect { first, last: 0 },
        ..Search::default()
    };
    assert_eq!(search(&mut analysis, &by("angulr", 0)).unwrap_err().exit_code(), 2);
    assert_eq!(search(&mut analysis, &by("angular", 5)).unwrap_err().exit_code(), 2);
    analysis.scores.retain(|scores| scores.metric != "cosine");
    assert!(search(&mut analysis, &by("cosine", 0)).unwrap_err().to_string().contains("it has angular"));
}

#[test]
fn a_search_that_nobody_made_is_refused() {
    let mut analysis = analysis(5);
    check(&analysis).unwrap();
    analysis.search.metric = "block-influence".into();
    assert!(check(&analysis).unwrap_err().to_string().contains("single layers"));
    analysis.search.strategy = "mystery".into();
    assert!(check(&analysis).unwrap_err().to_string().contains("no strategy is called \"mystery\""));
    assert_eq!(json!(method("tail").unwrap()), "tail");
}

/// A model whose loss is given by what is missing of it.
struct Losing(fn(&[usize]) -> f64, usize);

impl Evidence for Losing {
    fn layers(&self) -> usize {
        4
    }

    fn sequences(&self) -> usize {
        3
    }

    fn costs(&mut self, _metric: &Metric, dropped: &[Vec<usize>], on: Option<&[usize]>) -> Result<Vec<Vec<Loss>>> {
        self.1 += 1;
        let of = |dropped: &Vec<usize>, sample: usize| {
            let tokens = 3 + sample;
            Loss { sum: tokens as f64 * (2.0 + (self.0)(dropped)), tokens }
        };
        let on = on.map_or_else(|| vec![0, 1, 2], <[usize]>::to_vec);
        Ok(dropped.iter().map(|dropped| on.iter().map(|sample| of(dropped, *sample)).collect()).collect())
    }

    fn reached(&self, _message: &str) {}
}

fn searched(name: &str, loss: fn(&[usize]) -> f64, protect: Protect, most: Option<usize>) -> Vec<Vec<usize>> {
    let search = method(name).unwrap().search(protect).unwrap();
    let mut evidence = Losing(loss, 0);
    let best = search.run_with(&mut evidence, &[], most).unwrap().best;
    assert_eq!(evidence.1, 1 + best.len(), "one pass over the text a size, and one for the whole model");
    best.into_iter().map(|choice| choice.drop).collect()
}

#[test]
fn searches_measure_anew_at_each_step() {
    // each costs its number; 1 and 2 together cost nothing
    let pair: fn(&[usize]) -> f64 = |dropped| match dropped {
        [1, 2] => 0.0,
        other => other.iter().map(|layer| 0.3 + *layer as f64).sum(),
    };
    let free = Protect::default();
    assert_eq!(searched("sleb", pair, free, None), [vec![0], vec![0, 1], vec![0, 1, 2]]);
    assert_eq!(searched("beam", pair, free, Some(2)), [vec![0], vec![1, 2]]);
    assert_eq!(searched("sleb", pair, Protect { first: 1, last: 1 }, None), [vec![1], vec![1, 2]]);
    // of equals the lower
    assert_eq!(searched("sleb", |_| 0.5, free, Some(2)), [vec![0], vec![0, 1]]);
    assert_eq!(searched("beam", |_| 0.5, free, Some(2)), [vec![0], vec![0, 1]]);
    let search = method("sleb").unwrap().search(free).unwrap();
    for most in [0, 4] {
        assert_eq!(search.run_with(&mut Losing(pair, 0), &[], Some(most)).unwrap_err().exit_code(), 2);
    }
    let broken = search.run_with(&mut Losing(|dropped| 1.0 / (dropped.len() as f64 - 1.0), 0), &[], None);
    assert!(broken.unwrap_err().to_string().contains("[3] is not finite"));
    let analysis = analysis(4);
    assert!(search.run(&analysis.scores, 4).unwrap_err().to_string().contains("needs the model"));
    // what it found stands
    let mut measured = analysis.clone();
    measured.follow(search.run_with(&mut Losing(pair, 0), &[], Some(2)).unwrap());
    super::search(&mut measured, &search).unwrap();
    assert_eq!(method("sleb").unwrap().dropped(4, 2, Some(&measured)).unwrap(), (0..2).collect());
    assert_eq!(measured.mark(3).unwrap_err().exit_code(), 2);
    assert_eq!(method("beam").unwrap().dropped(4, 2, Some(&measured)).unwrap_err().exit_code(), 2);
}

/// A search among sub-layers: its plan leaves them out, and of two of one layer the layer goes whole.
#[test]
fn sublayers_become_a_plan() {
    let mut analysis = analysis(4);
    let search = method("finercut").unwrap().search(Protect::default()).unwrap();
    // 2l is the attention of layer l
    let cost: fn(&[usize]) -> f64 =
        |dropped| dropped.iter().map(|own| [3.0, 4.0, 0.1, 0.3, 5.0, 0.2, 6.0, 7.0][*own]).sum();
    let found = search.run_with(&mut Losing(cost, 0), &[], Some(2)).unwrap();
    let drops: Vec<&Vec<usize>> = found.best.iter().map(|choice| &choice.drop).collect();
    assert_eq!(drops, [&vec![2], &vec![2, 5], &vec![2, 3, 5], &vec![0, 2, 3, 5]]);
    analysis.follow(found);
    analysis.mark(1).unwrap();
    let plan = analysis.plan.clone().unwrap();
    assert_eq!((plan.gone().to_string().as_str(), plan.kept().len()), ("attention:1, mlp:2", 4));
    let text = analysis.to_json().unwrap();
    assert_eq!(Analysis::from_value(serde_json::from_str(&text).unwrap()).unwrap(), analysis);
    let row = method("finercut").unwrap();
    assert_eq!(row.plan(&model(4), 2, Some(&analysis)).unwrap().gone().to_string(), "1, attention:0, mlp:2");
    assert_eq!(row.dropped(4, 1, Some(&analysis)).unwrap().to_string(), "attention:1, mlp:2");
}

/// Scores and losses that disagree: the short list's losses decide, of every size, and the file says both.
#[test]
fn the_best_of_a_short_list_is_by_loss() {
    let mut analysis = analysis(4);
    let cost: fn(&[usize]) -> f64 = |dropped| dropped.iter().map(|layer| 0.5 - 0.1 * *layer as f64).sum();
    let plain = Search { metric: "angular".into(), ..Search::default() };
    let listed = Search { rerank: Some(3), ..plain.clone() };
    let (mut one, mut all) = (Losing(cost, 0), Losing(cost, 0));
    let found = listed.run_with(&mut all, &analysis.scores, None).unwrap();
    // all sizes in one pass; the last layers cost least
    assert_eq!(all.1, 1);
    for choice in &found.best {
        let n = choice.layers();
        let starts: Vec<usize> = choice.short_list.iter().map(|own| own.drop[0]).collect();
        assert_eq!(choice.short_list.len(), (5 - n).min(3));
        assert!(starts.is_sorted_by(|a, b| a > b), "{starts:?}");
        assert_eq!(choice.loss, Some(choice.short_list[0].loss));
    }
    let same = listed.run_with(&mut one, &analysis.scores, Some(2)).unwrap();
    assert_eq!((&same.best[1], &same.best[0]), (&found.best[1], &plain.run(&analysis.scores, 4).unwrap().best[0]));
    analysis.follow(found);
    analysis.mark(2).unwrap();
    assert_eq!(analysis.plan.as_ref().unwrap().why["rerank"], 3);
    let text = analysis.to_json().unwrap();
    assert_eq!(Analysis::from_value(serde_json::from_str(&text).unwrap()).unwrap(), analysis);
    for (at, broken) in [("/short_list/0/drop", json!([0, 1])), ("/loss/mean", json!(9.0)), ("/loss/stderr", json!(-1))]
    {
        let mut value: serde_json::Value = serde_json::from_str(&text).unwrap();
        *value.pointer_mut(&format!("/search/best/1{at}")).unwrap() = broken;
        assert!(Analysis::from_value(value).is_err(), "{at}");
    }
    assert!(listed.run(&analysis.scores, 4).unwrap_err().to_string().contains("needs the model"));
    for (search, fault) in [
        (Search { rerank: Some(1), ..plain.clone() }, "2 to 1000"),
        (Search { rerank: Some(4), ..method("sleb").unwrap().search(Protect::default()).unwrap() }, "by scores"),
    ] {
        assert!(search.pick().unwrap_err().to_string().contains(fault));
    }
}

/// A larger cut may cost less than a smaller one: the largest within what is allowed counts.
#[test]
fn sizes_are_looked_at_one_by_one() {
    let analysis = analysis(4);
    let cost: fn(&[usize]) -> f64 = |dropped| [0.0, 0.3, 0.1, 0.7][dropped.len()];
    for (name, metric, strategy, passes) in [
        ("scores", "angular", "block", 1),
        ("layers", "layer-loss", "lowest", 1),
        ("search", "layer-loss", "greedy", 4),
    ] {
        let (metric, strategy) = (metric.to_owned(), Some(strategy.to_owned()));
        let search = Search { metric, strategy, losses: true, ..Search::default() };
        let mut evidence = Losing(cost, 0);
        let found = search.run_with(&mut evidence, &analysis.scores, None).unwrap();
        assert_eq!(evidence.1, passes, "{name}: the losses of all sizes take one pass, or are known");
        for (most, layers) in [(0.05, None), (0.1, Some(2)), (0.2, Some(2)), (0.5, Some(2)), (0.7, Some(3))] {
            match (super::within(&found, 4, Goal::Loss(most + 1e-9)), layers) {
                (Ok(found), Some(layers)) => assert_eq!(found, layers, "{name} {most}"),
                (Err(error), None) => assert!(error.to_string().contains("the least is +0.1"), "{name}: {error}"),
                (found, _) => panic!("{name} {most}: {found:?}"),
            }
        }
        let unknown = Search { losses: false, ..search }.run_with(&mut evidence, &analysis.scores, None).unwrap();
        assert_eq!(super::within(&unknown, 4, Goal::Loss(1.0)).unwrap_err().exit_code(), 2);
    }
}
