//! Cosines of channels along the sequence, as `torch.cosine_similarity(a, b)` without a dimension takes them.

use std::collections::BTreeMap;

use candle_core::Tensor;
use prune::importance::{measure, metric};
use prune::methods::method;
use prune::model::{Batch, Observer, Residency};
use prune::progress::Silent;

use super::losses::{open, options};
use crate::fixture::Llama;
use crate::fixture::desk::Desk;

/// Keeps every stream.
#[derive(Default)]
struct All(BTreeMap<(usize, usize), Vec<Vec<f32>>>);

impl Observer for All {
    fn residual(&mut self, batch: usize, place: usize, x: &Tensor) -> prune::Result<()> {
        self.0.insert((batch, place), x.to_vec2()?);
        Ok(())
    }
}

#[test]
fn each_channel_over_the_tokens_of_a_sample() {
    let dir = tempfile::tempdir().unwrap();
    Llama::default().write(dir.path());
    let lengths = [1_u32, 7, 40, 33];
    let ids: Vec<Vec<u32>> = lengths.iter().map(|len| (0..*len).map(|i| (i * 7 + len * 3) % 64).collect()).collect();
    let model = open(dir.path(), &options(Residency::Resident));
    let cosine = [metric("channel-cosine").unwrap()];
    let found = measure(&model, &cosine, &ids, &Silent).unwrap();
    let batches: Vec<Batch> = ids.iter().map(|ids| Batch::sequences(&[ids]).unwrap()).collect();
    let mut streams = All::default();
    model.run(&batches, &mut streams, "streams", &Silent).unwrap();
    for n in 1..=4 {
        for l in 0..=4 - n {
            let of_sample = |sample: usize| {
                let (a, b) = (&streams.0[&(sample, l)], &streams.0[&(sample, l + n)]);
                let of_channel = |k: usize| {
                    let dot = |a: &[Vec<f32>], b: &[Vec<f32>]| -> f64 {
                        a.iter().zip(b).map(|(a, b)| f64::from(a[k]) * f64::from(b[k])).sum()
                    };
                    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
                };
                (0..a[0].len()).map(of_channel).sum::<f64>() / a[0].len() as f64
            };
            let expected = (0..ids.len()).map(of_sample).sum::<f64>() / ids.len() as f64;
            let value = found[0].mean[n - 1][l];
            assert!((value - expected).abs() < 1e-12, "{l} {n}: {value} {expected}");
        }
    }
    // from disk it is the same
    assert_eq!(measure(&open(dir.path(), &options(Residency::Streamed)), &cosine, &ids, &Silent).unwrap(), found);
}

#[test]
fn the_ends_of_the_model_stay() {
    let desk = Desk::new();
    let report = desk.json("analyze model --data text.jsonl --method channel-cosine --layers 2 --json");
    assert_eq!(report["analysis"]["search"]["best"][1]["drop"], serde_json::json!([1, 2]));
    assert_eq!(method("channel-cosine").unwrap().cost(), "one pass, channel by channel");
}
