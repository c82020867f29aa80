//! Every score is its definition, whatever the threads and batches.

use super::super::{METRICS, metric};
use super::*;

const LAYERS: usize = 4;
const D: usize = 150;

/// Streams that drift apart, `[L+1][t·d]`.
fn states(tokens: usize) -> Vec<Vec<f32>> {
    let number = |i: usize, l: usize| ((i * 7919 + l * 104_729 + 31) % 2011) as f32 / 1000.0 - 1.0;
    let base: Vec<f32> = (0..tokens * D).map(|i| number(i, 0)).collect();
    (0..=LAYERS).map(|l| base.iter().enumerate().map(|(i, x)| x + 0.2 * l as f32 * number(i, l)).collect()).collect()
}

/// Observes samples of these lengths, so many to a batch.
fn observe(states: &[Vec<f32>], lengths: &[usize], batch: usize) -> Result<Vec<Scores>> {
    let mut probe = Probe::new(LAYERS, METRICS);
    let mut start = 0;
    for lengths in lengths.chunks(batch) {
        let layout = Layout::sequences(lengths.iter().copied()).unwrap();
        let end = start + layout.tokens() * D;
        let batch: Vec<&[f32]> = states.iter().map(|state| &state[start..end]).collect();
        probe.observe_batch(&Streams::Numbers { states: &batch, d: D }, &layout)?;
        start = end;
    }
    assert_eq!(probe.samples(), lengths.len());
    probe.finish()
}

/// Cosine of two streams of one token.
fn cosine(states: &[Vec<f32>], token: usize, a: usize, b: usize) -> f64 {
    let row = |l: usize| states[l][token * D..][..D].iter().map(|&x| f64::from(x));
    let dot = |a, b| row(a).zip(row(b)).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

const LENGTHS: [usize; 6] = [1, 70, 33, 32, 5, 64];

#[test]
fn every_score_is_its_definition() {
    let tokens: usize = LENGTHS.iter().sum();
    let states = states(tokens);
    let found = observe(&states, &LENGTHS, 4).unwrap();
    let scores = |name: &str| found.iter().find(|scores| scores.metric == name).unwrap();
    let lasts: Vec<usize> = LENGTHS
        .iter()
        .scan(0, |end, len| {
            *end += len;
            Some(*end - 1)
        })
        .collect();
    for n in 1..=LAYERS {
        assert_eq!(scores("angular").mean[n - 1].len(), LAYERS - n + 1);
        for l in 0..=LAYERS - n {
            let angle = |token: &usize| cosine(&states, *token, l, l + n).acos() / std::f64::consts::PI;
            let angular = lasts.iter().map(angle).sum::<f64>() / lasts.len() as f64;
            assert!((scores("angular").mean[n - 1][l] - angular).abs() < 1e-13);
            let all: Vec<usize> = (0..tokens).collect();
            let mean = all.iter().map(angle).sum::<f64>() / tokens as f64;
            assert!((scores("angular-all").mean[n - 1][l] - mean).abs() < 1e-13);
            let mean = all.iter().map(|token| cosine(&states, *token, l, l + n)).sum::<f64>() / tokens as f64;
            assert!((scores("cosine").mean[n - 1][l] - mean).abs() < 1e-13);
        }
    }
    for l in 0..LAYERS {
        let influence = (0..tokens).map(|token| 1.0 - cosine(&states, token, l, l + 1)).sum::<f64>() / tokens as f64;
        assert!((scores("block-influence").mean[0][l] - influence).abs() < 1e-13);
        let magnitude = |token: usize| {
            let row = |l: usize| states[l][token * D..][..D].iter().map(|&x| f64::from(x));
            let update: f64 = row(l).zip(row(l + 1)).map(|(x, y)| (y - x) * (y - x)).sum();
            (update / row(l + 1).map(|y| y * y).sum::<f64>()).sqrt()
        };
        let mean = (0..tokens).map(magnitude).sum::<f64>() / tokens as f64;
        assert!((scores("relative-magnitude").mean[0][l] - mean).abs() < 1e-12);
    }
    assert_eq!(scores("block-influence").mean.len(), 1);
}

#[test]
fn neither_threads_nor_batches_change_a_bit() {
    let states = states(LENGTHS.iter().sum());
    let run = |threads: usize, batch: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| observe(&states, &LENGTHS, batch).unwrap())
    };
    let one = run(1, 6);
    for (threads, batch) in [(1, 1), (2, 6), (3, 2), (7, 4)] {
        assert_eq!(run(threads, batch), one, "{threads} threads, {batch} to a batch");
    }
}

#[test]
fn last_rows_alone_give_the_last_token_scores() {
    let states = states(LENGTHS.iter().sum());
    let expected = observe(&states, &LENGTHS, 6).unwrap().swap_remove(0);
    let lasts: Vec<usize> = LENGTHS
        .iter()
        .scan(0, |end, len| {
            *end += len;
            Some(*end - 1)
        })
        .collect();
    let rows: Vec<Vec<f32>> = states
        .iter()
        .map(|state| lasts.iter().flat_map(|last| state[last * D..][..D].iter().copied()).collect())
        .collect();
    let mut probe = Probe::new(LAYERS, [metric("angular").unwrap()]);
    assert!(!probe.wants_all_tokens());
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let rows = Streams::Numbers { states: &rows, d: D };
    probe.observe_batch(&rows, &Layout::sequences([1; LENGTHS.len()]).unwrap()).unwrap();
    assert_eq!(probe.finish().unwrap(), [expected]);
}

#[test]
fn a_number_that_is_none_is_named() {
    let mut states = states(LENGTHS.iter().sum());
    // token 40 of sample 1; layer 1 breaks a later token of the same sample, layer 2 an earlier one
    states[3][41 * D + 7] = f32::NAN;
    states[2][60 * D] = f32::INFINITY;
    let error = observe(&states, &LENGTHS, 6).unwrap_err().to_string();
    assert!(error.contains("layer 1 ") && error.contains("sample 1"), "{error}");
    let error = observe(&states, &LENGTHS, 1).unwrap_err().to_string();
    assert!(error.contains("layer 1 ") && error.contains("sample 1"), "{error}");
    states[0][105 * D] = f32::NAN;
    let error = observe(&states, &LENGTHS, 6).unwrap_err();
    assert!(error.to_string().contains("the embedding") && error.to_string().contains("sample 3"), "{error}");
    assert_eq!(error.exit_code(), 1);
}

/// Inner products from elsewhere give the scores that the numbers give, and name the same layer.
#[test]
fn products_serve_as_well() {
    let tokens: usize = LENGTHS.iter().sum();
    let mut states = states(tokens);
    let products = |states: &[Vec<f32>]| {
        let mut gram = Gram::new(LAYERS + 1);
        let slices: Vec<&[f32]> = states.iter().map(Vec::as_slice).collect();
        let mut all = Vec::new();
        for token in 0..tokens {
            gram.fill(&slices, token, D);
            all.extend((0..=LAYERS).flat_map(|i| (i..=LAYERS).map(move |j| (i, j))).map(|(i, j)| gram.get(i, j)));
        }
        all
    };
    let layout = Layout::sequences(LENGTHS).unwrap();
    let mut probe = Probe::new(LAYERS, METRICS);
    probe.observe_batch(&Streams::Products(&products(&states)), &layout).unwrap();
    assert_eq!(probe.finish().unwrap(), observe(&states, &LENGTHS, 6).unwrap());
    states[2][60 * D] = f32::INFINITY;
    let broken = products(&states);
    let error = Probe::new(LAYERS, METRICS).observe_batch(&Streams::Products(&broken), &layout).unwrap_err();
    assert!(error.to_string().contains("layer 1 ") && error.to_string().contains("sample 1"), "{error}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let states = states(3);
    let slices: Vec<&[f32]> = states.iter().map(Vec::as_slice).collect();
    let layout = Layout::sequences([3]).unwrap();
    let mut probe = Probe::new(LAYERS, METRICS);
    assert!(probe.observe_batch(&Streams::Numbers { states: &slices[1..], d: D }, &layout).is_err());
    assert!(probe.observe_batch(&Streams::Numbers { states: &slices, d: D - 1 }, &layout).is_err());
    assert!(probe.observe_batch(&Streams::Products(&[1.0; 3]), &layout).is_err());
    let mut tree = Layout::default();
    tree.push(2, None).unwrap();
    tree.push(1, Some(0)).unwrap();
    assert!(
        probe
            .observe_batch(&Streams::Numbers { states: &slices, d: D }, &tree)
            .unwrap_err()
            .to_string()
            .contains("stand alone")
    );
    assert!(probe.finish().is_err());
}
