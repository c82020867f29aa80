//! Scores against the reference implementations' numbers, from recorded residual streams and through the model;
//! analysis files under mutation.

mod barriers;
mod channels;
mod goldens;
mod killed;
mod losses;
mod picks;
mod questions;
mod ranking;
mod sizes;
mod texts;
mod together;

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use prune::checkpoint::Checkpoint;
use prune::importance::{Analysis, DataUsed, METRICS, Metric, Probe, Scores, Streams, Watch, metric};
use prune::methods::{Search, search};
use prune::model::{Batch, Model, ModelOptions, Residency};
use prune::ops::Layout;
use prune::plan::PlannedFor;
use prune::progress::Silent;
use serde_json::Value;

use crate::fixture::Llama;
use crate::fixture::material::shared;

fn named<'a>(scores: &'a [Scores], name: &str) -> &'a Scores {
    scores.iter().find(|scores| scores.metric == name).unwrap()
}

/// Scores of recorded streams `hidden` `[L+1, S, T, d]`, of each sample its first `lengths` tokens.
fn recorded(hidden: &Tensor, lengths: &[usize]) -> Vec<Scores> {
    let (streams, _, t, d) = hidden.dims4().unwrap();
    let states: Vec<Vec<f32>> = (0..streams)
        .map(|l| {
            let state: Vec<f32> = hidden.get(l).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            lengths.iter().enumerate().flat_map(|(s, len)| state[s * t * d..][..len * d].to_vec()).collect()
        })
        .collect();
    let states: Vec<&[f32]> = states.iter().map(Vec::as_slice).collect();
    let mut probe = Probe::new(streams - 1, METRICS);
    let layout = Layout::sequences(lengths.iter().copied()).unwrap();
    probe.observe_batch(&Streams::Numbers { states: &states, d }, &layout).unwrap();
    probe.finish().unwrap()
}

#[test]
fn distances_of_recorded_streams_equal_the_golden_ones() {
    for name in ["tiny", "mini"] {
        let Some(path) = shared(&format!("golden/mini/{name}/forward.safetensors")) else { return };
        let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let hidden = &tensors["hidden"];
        let (streams, samples, t, _) = hidden.dims4().unwrap();
        let layers = streams - 1;
        let scores = recorded(hidden, &vec![t; samples]);
        let angular = named(&scores, "angular");
        let golden: Vec<Vec<f64>> = tensors["distance.mean"].to_vec2().unwrap();
        let each: Vec<Vec<Vec<f64>>> = tensors["distance.per_sample"].to_vec3().unwrap();
        let count = samples as f64;
        // standard error of the mean of some numbers, one a sample
        let error = |values: &dyn Fn(usize) -> f64| {
            let mean = (0..samples).map(values).sum::<f64>() / count;
            let squares: f64 = (0..samples).map(|s| (values(s) - mean).powi(2)).sum();
            (squares / (count - 1.0) / count).sqrt()
        };
        for n in 1..=layers {
            for l in 0..=layers - n {
                let (found, expected) = (angular.mean[n - 1][l], golden[l][n]);
                assert!((found - expected).abs() < 1e-13, "{name} d({l}, {n}): {found} {expected}");
                let expected = error(&|s| each[s][l][n]);
                assert!((angular.error(n, l).unwrap() - expected).abs() < 1e-13, "{name} error of d({l}, {n})");
                for other in l + 1..=layers - n {
                    let expected = error(&|s| each[s][l][n] - each[s][other][n]);
                    let found = angular.difference_error(n, l, other).unwrap();
                    assert!((found - expected).abs() < 1e-3 * expected + 1e-13, "{name} n {n}: {l} against {other}");
                }
            }
        }
        // the golden best blocks
        let text = std::fs::read_to_string(shared(&format!("golden/mini/{name}/golden.json")).unwrap()).unwrap();
        let golden: Value = serde_json::from_str(&text).unwrap();
        let starts = golden["best_block_start_for_n"].as_object().unwrap();
        assert_eq!(starts.len(), layers - 1);
        let analysis = analysis(layers, samples, scores);
        for (n, start) in starts {
            let best = &analysis.search.best[n.parse::<usize>().unwrap() - 1];
            assert_eq!(Some(best.drop[0] as u64), start.as_u64(), "{name} n {n}");
        }

        let lengths: Vec<i64> = tensors["padded.lengths"].to_vec1().unwrap();
        let lengths: Vec<usize> = lengths.into_iter().map(|len| len as usize).collect();
        let scores = recorded(hidden, &lengths);
        let golden: Vec<Vec<f64>> = tensors["padded.distance.mean"].to_vec2().unwrap();
        for (row, means) in named(&scores, "angular").mean.iter().enumerate() {
            for (l, found) in means.iter().enumerate() {
                let expected = golden[l][row + 1];
                // these streams were computed anew, in another shape
                assert!((found - expected).abs() < 1e-6, "{name} padded d({l}, {}): {found} {expected}", row + 1);
            }
        }
    }
}

fn analysis(layers: usize, samples: usize, scores: Vec<Scores>) -> Analysis {
    let model = PlannedFor { id: "model".into(), revision: None, fingerprint: "00".into(), layers };
    let data = DataUsed { source: "text".into(), samples, tokens: 1, seq_len: 1, seed: 0, asked: None };
    let search = Search { metric: "angular".into(), ..Search::default() };
    let searched = search.run(&scores, layers).unwrap();
    Analysis::new(model, 1, data, serde_json::Map::new(), scores, searched)
}

fn pass(dir: &Path, residency: Residency, metrics: &[&'static Metric], ids: &[Vec<u32>], tokens: usize) -> Vec<Scores> {
    let checkpoint = Arc::new(Checkpoint::open_dir(dir).unwrap());
    let options = ModelOptions { residency: Some(residency), ..ModelOptions::default() };
    let model = Model::open(checkpoint, &options, &Silent).unwrap();
    let mut probe = Probe::new(model.layers(), metrics.iter().copied());
    let batches = Batch::pack(ids, tokens).unwrap();
    model.run(&batches, &mut Watch::new(&mut probe, &batches), "analyse", &Silent).unwrap();
    assert_eq!(probe.samples(), ids.len());
    probe.finish().unwrap()
}

#[test]
fn residency_batches_and_metrics_do_not_change_a_score() {
    let dir = tempfile::tempdir().unwrap();
    Llama::default().write(dir.path());
    let ids: Vec<Vec<u32>> = (0..9).map(|s| (0..5 + 9 * s).map(|i| (i * 7 + s * 3) % 64).collect()).collect();
    let all: Vec<&Metric> = METRICS.iter().collect();
    let one = pass(dir.path(), Residency::Resident, &all, &ids, 1 << 20);
    assert_eq!(pass(dir.path(), Residency::Streamed, &all, &ids, 1 << 20), one);
    assert_eq!(one.iter().map(|scores| scores.metric.as_str()).collect::<Vec<_>>()[0], "angular");
    let last = pass(dir.path(), Residency::Streamed, &[metric("angular").unwrap()], &ids, 1 << 20);
    assert_eq!(last, one[..1]);
    // other batches sum the products of the forward pass in another order
    let narrow = pass(dir.path(), Residency::Resident, &all, &ids, 20);
    for (a, b) in one.iter().zip(&narrow) {
        for (a, b) in a.mean.iter().flatten().zip(b.mean.iter().flatten()) {
            assert!((a - b).abs() < 1e-5);
        }
    }
}

#[test]
fn the_stories_model_equals_its_reference() {
    let Some(dir) = shared("data/stories260K") else { return };
    let Some(text) = shared("data/stories260K/reference.json") else { return };
    let reference: Value = serde_json::from_str(&std::fs::read_to_string(text).unwrap()).unwrap();
    let Some(ids) = story_ids(&dir) else { return };
    for residency in [Residency::Resident, Residency::Streamed] {
        let all: Vec<&Metric> = METRICS.iter().collect();
        let scores = pass(&dir, residency, &all, &ids, 1024);
        let eval = &reference["eval"];
        for n in 1..=5 {
            let expected: Vec<f64> =
                serde_json::from_value(eval["angular_distance_last_token"][n.to_string()].clone()).unwrap();
            let found = &named(&scores, "angular").mean[n - 1];
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "n {n}: {found} {expected}");
            }
        }
        let expected: Vec<f64> = serde_json::from_value(eval["block_influence"]["values"].clone()).unwrap();
        for (found, expected) in named(&scores, "block-influence").mean[0].iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
}

/// The reference's samples: the first 40 stories, cut to 128 tokens, none that is short.
fn story_ids(dir: &Path) -> Option<Vec<Vec<u32>>> {
    let stories = shared("data/tinystories/tiny_stories_train_head.jsonl")?;
    let tokenizer = tokenizers::Tokenizer::from_file(dir.join("tokenizer.json")).unwrap();
    let text = std::fs::read_to_string(stories).unwrap();
    let ids = text.lines().take(40).map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        let mut ids = tokenizer.encode(row["text"].as_str().unwrap(), true).unwrap().get_ids().to_vec();
        ids.truncate(128);
        ids
    });
    Some(ids.filter(|ids| ids.len() > 32).collect())
}

/// The bytes of a small analysis file.
fn file() -> Vec<u8> {
    let (streams, d, lengths) = (4, 6, [3, 2, 4]);
    let t: usize = lengths.iter().sum();
    let number = |i: usize, l: usize| ((i * 7919 + l * 104_729) % 211) as f32 / 100.0 - 1.0;
    let states: Vec<Vec<f32>> = (0..streams).map(|l| (0..t * d).map(|i| number(i, l)).collect()).collect();
    let states: Vec<&[f32]> = states.iter().map(Vec::as_slice).collect();
    let mut probe = Probe::new(streams - 1, METRICS);
    probe.observe_batch(&Streams::Numbers { states: &states, d }, &Layout::sequences(lengths).unwrap()).unwrap();
    let mut analysis = analysis(streams - 1, lengths.len(), probe.finish().unwrap());
    analysis.mark(1).unwrap();
    analysis.to_json().unwrap().into_bytes()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_file_makes_the_reader_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0u8..6, any::<u8>()), 1..6)
    ) {
        let mut bytes = file();
        for (at, kind, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => { bytes.remove(at); }
                2 => bytes.insert(at, byte),
                3 => bytes.truncate(at.max(1)),
                // another digit, another sign: what stays JSON most of the time
                4 => if bytes[at].is_ascii_digit() { bytes[at] = b'0' + byte % 10 },
                _ => {
                    let end = bytes.len().min(at + usize::from(byte));
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
            }
        }
        let Ok(value) = serde_json::from_slice::<Value>(&bytes) else { return Ok(()) };
        if let Ok(mut analysis) = Analysis::from_value(value) {
            // what is accepted can be used
            let text = analysis.to_json().unwrap();
            prop_assert_eq!(Analysis::from_value(serde_json::from_str(&text).unwrap()).unwrap(), analysis.clone());
            for metric in METRICS {
                let by = Search { metric: metric.name.to_owned(), ..Search::default() };
                if search(&mut analysis, &by).is_ok() {
                    let _ = analysis.mark(analysis.search.best.len());
                }
            }
            prop_assert!(analysis.to_csv().lines().count() > 1);
        }
    }
}

#[test]
fn a_file_on_disk_is_named_when_it_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("analysis.json");
    assert_eq!(Analysis::read(&path).unwrap_err().exit_code(), 2);
    std::fs::write(&path, file()).unwrap();
    Analysis::read(&path).unwrap();
    for text in ["{", "[1]", "{\"format\": \"prune-analysis\", \"version\": 1}"] {
        std::fs::write(&path, text).unwrap();
        let error = Analysis::read(&path).unwrap_err().to_string();
        assert!(error.contains("analysis.json"), "{error}");
    }
    std::fs::write(&path, "[".repeat(1 << 20)).unwrap();
    assert!(Analysis::read(&path).unwrap_err().to_string().contains("analysis.json"));
}
