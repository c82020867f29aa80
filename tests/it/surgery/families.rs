//! Every architecture: the cut model computes, bit for bit, what the source computes when it runs the kept layers only.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::commands::cut::{CutSettings, cut};
use prune::model::{Batch, Model, ModelOptions, Observer};
use prune::progress::Silent;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::{drop_layers, settings};
use crate::fixture::{random, write_json, write_weights};

/// The stream that leaves the last layer, `[t, d]`.
struct Last(Option<Tensor>);

impl Observer for Last {
    fn residual(&mut self, _batch: usize, _place: usize, x: &Tensor) -> prune::Result<()> {
        self.0 = Some(x.clone());
        Ok(())
    }
}

/// Logits of the whole sequence, `[t, v]`, from the layers `places`.
pub(super) fn logits(dir: &Path, ids: &[u32], places: Option<Vec<usize>>) -> Vec<f32> {
    let checkpoint = Arc::new(Checkpoint::open_dir(dir).unwrap());
    let model = Model::open(checkpoint, &ModelOptions { places, ..ModelOptions::default() }, &Silent).unwrap();
    let mut last = Last(None);
    model.run(&[Batch::sequences(&[ids]).unwrap()], &mut last, "test", &Silent).unwrap();
    model.logits(&last.0.unwrap()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Random weights for a config.
pub(super) fn write(dir: &Path, config: &Map<String, Value>, seed: u64) -> ModelSpec {
    let spec = ModelSpec::from_config(config).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let table = vec![spec.vocab_size, spec.hidden_size];
    let mut shapes = vec![(spec.embedding.to_owned(), table.clone())];
    shapes.extend(spec.end_tensors());
    if !spec.tied {
        shapes.push((spec.head.to_owned(), table));
    }
    let layers = (0..spec.layers).flat_map(|layer| spec.layer_tensors(layer));
    shapes.extend(layers.map(|tensor| (tensor.name, tensor.shape)));
    let tensors: Vec<_> = shapes.into_iter().map(|(name, shape)| random(&mut rng, name, &shape, Dtype::F32)).collect();
    std::fs::create_dir_all(dir).unwrap();
    write_json(&dir.join("config.json"), &Value::Object(config.clone()));
    write_weights(dir, &tensors, 2);
    spec
}

#[test]
fn cut_models_compute_what_their_kept_layers_compute() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/arch");
    let mut seen = std::collections::BTreeSet::new();
    let mut edited = std::collections::BTreeSet::new();
    for entry in std::fs::read_dir(cases).unwrap() {
        let path = entry.unwrap().path();
        let case = super::json(&path);
        // rotations of published models, and other things that are no case
        let Some(config) = case.get("config").and_then(Value::as_object) else { continue };
        let name = path.file_stem().unwrap().to_str().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        let spec = write(&source, config, name.len() as u64);
        seen.insert(spec.model_type.clone());
        let ids: Vec<u32> = (0..24).map(|place| (place * 7 + 3) % spec.vocab_size as u32).collect();
        // the first layers, the last ones, every other one, all but one
        let last = spec.layers - 1;
        for dropped in [vec![0, 1], vec![last - 1, last], (0..last).step_by(2).collect(), (1..=last).collect()] {
            let out = dir.path().join(format!("{dropped:?}"));
            let layers: Vec<String> = dropped.iter().map(ToString::to_string).collect();
            let run = CutSettings { drop: Some(layers.join(",")), ..settings(&source, &out) };
            let report = match cut(&run, &Silent) {
                // experts at no even distance, which the config of this family cannot say
                Err(error) if name == "ernie4_5_moe-steps" && error.to_string().contains("change their kind") => {
                    continue;
                }
                report => report.unwrap_or_else(|error| panic!("{name} without {dropped:?}: {error}")),
            };
            edited.extend(report.config.into_iter().map(|edit| edit.key));
            let kept = (0..spec.layers).filter(|layer| !dropped.contains(layer)).collect();
            assert_eq!(logits(&out, &ids, None), logits(&source, &ids, Some(kept)), "{name} without {dropped:?}");
        }
    }
    for row in prune::arch::ARCHITECTURES {
        assert!(seen.contains(row.model_type), "{}", row.model_type);
    }
    for key in ["layer_types", "max_window_layers", "no_rope_layers", "no_rope_layer_interval"] {
        assert!(edited.contains(key), "no case needed {key}: {edited:?}");
    }
}

/// A family that is not computed: its layers go by names and bytes, under whatever names and keys it has.
#[test]
fn families_that_are_not_computed_are_cut_all_the_same() {
    for (config, prefix, word) in [
        (json!({"model_type": "gpt2", "n_layer": 4}), "transformer.h.", "n_layer"),
        (json!({"model_type": "mpt", "n_layers": 4}), "transformer.blocks.", "n_layers"),
        (json!({"model_type": "phimoe", "num_hidden_layers": 4}), "model.layers.", "num_hidden_layers"),
        (
            json!({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 4},
                   "vision_config": {"num_hidden_layers": 4, "layer_norms": [1, 2, 3, 4]}}),
            "model.language_model.layers.",
            "text_config.num_hidden_layers",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (source, out) = (dir.path().join("source"), dir.path().join("out"));
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut tensor = |name: String| random(&mut rng, name, &[3, 5], Dtype::F32);
        let mut tensors: Vec<_> = (0..4).map(|layer| tensor(format!("{prefix}{layer}.mlp.w"))).collect();
        tensors.extend((0..4).map(|layer| tensor(format!("vision.encoder.layers.{layer}.w"))));
        tensors.push(tensor("embed.weight".to_owned()));
        std::fs::create_dir_all(&source).unwrap();
        write_json(&source.join("config.json"), &config);
        write_weights(&source, &tensors, 2);
        let report = drop_layers(&source, "1-2", &out);
        let why = report.not_computed.unwrap();
        assert!(why.contains("model_type") || why.contains("text_config"), "{why}");
        assert!(report.seams.is_none());
        assert_eq!(report.identical.unwrap().tensors, 2 + 4 + 1);
        let edits: Vec<_> = report.config.iter().map(|edit| (edit.key.as_str(), &edit.after)).collect();
        assert_eq!(edits, [(word, &json!(2))]);
        let [old, new] = [&source, &out].map(|dir| Checkpoint::open_dir(dir).unwrap());
        let bytes = |checkpoint: &Checkpoint, name: &str| {
            let index = &checkpoint.index;
            index.read(index.entry(name).unwrap()).unwrap()
        };
        assert_eq!(bytes(&new, &format!("{prefix}1.mlp.w")), bytes(&old, &format!("{prefix}3.mlp.w")));
    }
}
