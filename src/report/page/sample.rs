//! Runs for the tests of the page.

use super::super::run::{Distances, Healing, RunData, Score, ScoreColumn, Speed, Variant};

fn measure(task: &str, title: &str, chance: Option<f64>, depth: usize) -> ScoreColumn {
    ScoreColumn {
        task: task.into(),
        title: title.into(),
        metric: if chance.is_some() { "acc" } else { "loss" }.into(),
        chance,
        is_loss: chance.is_none(),
        depth,
    }
}

fn accuracy(value: f64) -> Option<Score> {
    let stderr = Some((value * (1.0 - value) / 399.0).sqrt());
    Some(Score { value, stderr, documents: 400, ..Score::default() })
}

/// A model without `dropped` of its 16 layers; `cost` of its accuracy and as much more loss.
fn variant(strategy: Option<&str>, dropped: Vec<usize>, is_healed: bool, cost: f64) -> Variant {
    let layers = 16 - dropped.len();
    let loss = |step: usize| 0.4 + cost + 0.3 / (1.0 + step as f64);
    let healing = is_healed.then(|| Healing {
        steps: 40,
        tokens: 81_920,
        uncut: Some(0.4),
        cut: Some(loss(0) - 0.02),
        healed: Some(loss(40) - 0.01),
        healed_stderr: Some(0.004),
        undone: Some(0.6),
        text: Some("20 sequences x 64 tokens of held-out.jsonl (1280 tokens)".to_owned()),
        loss_before: Some(loss(0)),
        best_loss: Some(loss(40)),
        best_step: Some(40),
        training: (1..=40).map(|step| (step, loss(step) + 0.05 * f64::from(step as u32 % 3))).collect(),
        validation: (0..=4).map(|part| (10 * part, loss(10 * part))).collect(),
    });
    Variant {
        dir: format!("{}-{}{}", strategy.unwrap_or("dense"), dropped.len(), if is_healed { "-healed" } else { "" }),
        strategy: strategy.map(str::to_owned),
        repair: None,
        is_healed,
        layers,
        parameters: 270_000 + 184_320 * layers as u64,
        bytes: 540_000 + 368_640 * layers as u64,
        scores: vec![
            accuracy(0.8 - cost),
            accuracy(0.82 - cost),
            Some(Score { value: 0.35 + cost, stderr: Some(0.0064), documents: 400, ..Score::default() }),
        ],
        healing,
        speed: Some(Speed {
            prompt: 40_000.0 / layers as f64,
            generation: 3_000.0 / layers as f64,
            first_token: 0.003 * layers as f64,
            memory: 30_000_000 + 500_000 * layers as u64,
            ranges: [40_000.0, 3_000.0, 0.003].map(|rate| (0.9 * rate, 1.1 * rate)),
        }),
        dropped: dropped.into_iter().collect(),
    }
}

/// A sweep over sizes and strategies, unhealed and healed.
pub(in super::super) fn sweep() -> RunData {
    let mean: Vec<Vec<f64>> =
        (1..=16).map(|n| (0..=16 - n).map(|l| 0.03 * n as f64 + 0.002 * (l as f64 - 9.0).powi(2)).collect()).collect();
    let smallest = |row: &Vec<f64>| (0..row.len()).min_by(|a, b| row[*a].total_cmp(&row[*b]));
    let best: Vec<Option<usize>> = mean.iter().map(smallest).collect();
    let mut variants = Vec::new();
    for strategy in ["similarity", "deepest"] {
        for n in [1, 2, 4, 6, 8] {
            let first = if strategy == "deepest" { 15 - n } else { best[n - 1].unwrap() };
            for is_healed in [false, true] {
                let cost = 0.004 * (n * n) as f64 * if is_healed { 0.5 } else { 1.0 };
                let cost = cost * if strategy == "deepest" { 1.4 } else { 1.0 };
                variants.push(variant(Some(strategy), (first..first + n).collect(), is_healed, cost));
            }
        }
    }
    RunData {
        model: "atlas/model".into(),
        family: "llama".into(),
        caveat: Some("These numbers were made for a test.".into()),
        measures: vec![
            measure("mmlu", "MMLU", Some(0.25), 0),
            measure("mmlu_music", "music", Some(0.25), 1),
            measure("text", "held-out text", None, 0),
        ],
        dense: variant(None, Vec::new(), false, 0.0),
        variants,
        distances: Some(Distances {
            metric: "angular".into(),
            title: "angular distance".into(),
            stderr: mean.iter().map(|row| row.iter().map(|value| 0.02 * value).collect()).collect(),
            mean,
            best,
            samples: 150,
            text: "validation.jsonl".into(),
            highest_first: false,
        }),
        recipe: "model = \"atlas/model\"\n".into(),
        differences: Vec::new(),
        costs: std::collections::BTreeMap::new(),
        provenance: vec![("program".into(), "prune 0.1.0".into())],
    }
}

/// The sweep with every cut once more, repaired: three quarters of the cost.
pub(in super::super) fn repaired() -> RunData {
    let mut data = sweep();
    let mut variants = Vec::new();
    for cut in data.variants.chunks(2) {
        variants.extend_from_slice(cut);
        variants.extend(cut.iter().cloned().map(|mut variant| {
            variant.dir += "-refit";
            variant.repair = Some("refit".to_owned());
            for (score, dense) in variant.scores.iter_mut().zip(&data.dense.scores) {
                let (Some(score), Some(dense)) = (score, dense) else { continue };
                score.value += 0.25 * (dense.value - score.value);
            }
            variant
        }));
    }
    data.variants = variants;
    data
}

/// One cut of four layers by similarity, and the same healed.
pub(in super::super) fn one() -> RunData {
    let mut data = sweep();
    data.variants
        .retain(|variant| variant.dropped.layers.len() == 4 && variant.strategy.as_deref() == Some("similarity"));
    data
}
