//! Checkpoints made of expressions: their numbers, that a model runs them unwritten as it runs the written ones, and
//! that what is wrong is named.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use proptest::prelude::*;
use prune::arch::{ModelSpec, Role};
use prune::checkpoint::{ByteSize, Checkpoint};
use prune::model::{Batch, Model, ModelOptions, Observer, Residency};
use prune::progress::Silent;
use prune::weights::lora::{Adapter, Adapters, LoraSettings, TokenRows};
use prune::weights::{Blueprint, Draft, Expr};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;

use crate::fixture::{Head, Llama, Named, random, to_f32, write_json, write_weights};

const SHARD: ByteSize = ByteSize(5_000_000_000);

fn source(name: &str) -> Expr {
    Expr::Source(name.to_owned())
}

fn product(left: Expr, right: Expr) -> Expr {
    Expr::MatMul(Box::new(left), Box::new(right))
}

fn matrix(rng: &mut ChaCha8Rng, rows: usize, columns: usize) -> Tensor {
    let values: Vec<f32> = (0..rows * columns).map(|_| rng.random_range(-0.5..0.5)).collect();
    Tensor::from_vec(values, (rows, columns), &Device::Cpu).unwrap()
}

fn adapter(rng: &mut ChaCha8Rng, outputs: usize, inputs: usize) -> Adapter {
    let (a, b) = (matrix(rng, 3, inputs), matrix(rng, outputs, 3));
    let magnitude: Vec<f32> = (0..outputs).map(|_| rng.random_range(0.5..1.5)).collect();
    Adapter { a, b, scale: 0.75, magnitude: Some(Tensor::new(magnitude, &Device::Cpu).unwrap()), stacked: None }
}

/// A checkpoint of these tensors, which need not be a model's.
fn checkpoint(dir: &Path, tensors: &[Named]) -> Arc<Checkpoint> {
    fs::create_dir_all(dir).unwrap();
    write_json(&dir.join("config.json"), &serde_json::json!({}));
    write_weights(dir, tensors, 1);
    Arc::new(Checkpoint::open_dir(dir).unwrap())
}

fn written(blueprint: &Blueprint, dir: &Path) -> Checkpoint {
    fs::create_dir(dir).unwrap();
    blueprint.write(dir, &Silent).unwrap();
    Checkpoint::open_dir(dir).unwrap()
}

fn bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    checkpoint.read(checkpoint.entry(name).unwrap()).unwrap()
}

/// Sums and products are those of f64 within what f32 can hold, and rounded once to the type on disk.
#[test]
fn sums_and_products_are_those_of_f64() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
        let dir = tempfile::tempdir().unwrap();
        let shapes = [("a", vec![37, 24]), ("b", vec![37, 24]), ("c", vec![24, 51]), ("v", vec![19]), ("w", vec![19])];
        let tensors: Vec<Named> =
            shapes.iter().map(|(name, shape)| random(&mut rng, (*name).to_owned(), shape, dtype)).collect();
        let values = |name: &str| -> Vec<f64> {
            let tensor = tensors.iter().find(|tensor| tensor.name == name).unwrap();
            to_f32(dtype, &tensor.bytes).into_iter().map(f64::from).collect()
        };
        let model = checkpoint(&dir.path().join("source"), &tensors);
        let mut draft = Draft::new(&model);
        let sum = |a: &str, b: &str| Expr::Sum(vec![(0.3, source(a)), (-1.7, source(b)), (1.0, source(a))]);
        draft.add("sum", dtype, sum("a", "b")).unwrap();
        draft.add("vector", dtype, sum("v", "w")).unwrap();
        draft.add("product", dtype, product(source("a"), source("c"))).unwrap();
        draft.add("both", dtype, product(sum("a", "b"), source("c"))).unwrap();
        let blueprint = draft.finish("{}".to_owned(), SHARD).unwrap();
        let out = written(&blueprint, &dir.path().join("out"));

        let summed = |a: &str, b: &str| -> Vec<f64> {
            values(a).iter().zip(values(b)).map(|(a, b)| 0.3 * a - 1.7 * b + a).collect()
        };
        let multiplied = |left: &[f64], right: &[f64]| -> Vec<f64> {
            let element = |row: usize, column: usize| -> f64 {
                (0..24).map(|inner| left[row * 24 + inner] * right[inner * 51 + column]).sum()
            };
            (0..37 * 51).map(|at| element(at / 51, at % 51)).collect()
        };
        // half a step of the type on disk, and what a sum of 24 products in f32 loses
        let step = match dtype {
            Dtype::F32 => 0.0,
            Dtype::BF16 => 1.0 / 256.0,
            _ => 1.0 / 2048.0,
        };
        for (name, expected) in [
            ("sum", summed("a", "b")),
            ("vector", summed("v", "w")),
            ("product", multiplied(&values("a"), &values("c"))),
            ("both", multiplied(&summed("a", "b"), &values("c"))),
        ] {
            let found = to_f32(dtype, &bytes(&out, name));
            assert_eq!(found.len(), expected.len(), "{name}");
            for (found, expected) in found.iter().zip(&expected) {
                let off = (f64::from(*found) - expected).abs();
                assert!(off <= step * expected.abs() + 3e-6, "{dtype} {name}: {found}, {expected}");
            }
        }
    }
}

/// Three layers made of a model's four: renamed, merged, adapted, multiplied, in four bits and through four bits.
fn mixture(model: &Arc<Checkpoint>, seed: u64) -> Blueprint {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let spec = ModelSpec::from_config(&model.config).unwrap();
    let mut draft = Draft::new(model);
    let settings = LoraSettings { rank: 2, targets: "q_proj".parse().unwrap(), ..LoraSettings::default() };
    let fresh = Adapters::new(&spec, &settings, seed, &Device::Cpu).unwrap();
    for (place, layer) in [3, 0, 2].into_iter().enumerate() {
        for (new, old) in spec.layer_tensors(place).iter().zip(spec.layer_tensors(layer)) {
            let (dtype, other) = (model.entry(&old.name).unwrap().dtype, spec.layer_tensor(1, old.role).name);
            let shape = |at: usize| old.shape[at];
            let halves = Expr::Sum(vec![(0.5, source(&old.name)), (0.5, source(&other))]);
            let expr = match (place, old.role) {
                (0, Role::Down) => product(Expr::Tensor(matrix(&mut rng, shape(0), shape(0))), source(&old.name)),
                (0, Role::Q) => Expr::Adapted(Box::new(source(&old.name)), fresh.modules[&(0, Role::Q)].clone()),
                (1, Role::Up) => Expr::Adapted(Box::new(halves), adapter(&mut rng, shape(0), shape(1))),
                (1, Role::K) => Expr::Quantized(Box::new(source(&old.name)), true),
                (1, Role::V) => {
                    draft.add_four_bit(&new.name, dtype, halves, true).unwrap();
                    continue;
                }
                (2, _) => halves,
                _ => source(&old.name),
            };
            draft.add(&new.name, dtype, expr).unwrap();
        }
    }
    for name in ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"] {
        let Some(entry) = model.tensors.get(name) else { continue };
        let rows = TokenRows { ids: vec![3, 9], rows: matrix(&mut rng, 2, spec.hidden_size) };
        let expr = match name {
            "model.embed_tokens.weight" => Expr::TokenRows(Box::new(source(name)), rows),
            _ => source(name),
        };
        draft.add(name, entry.dtype, expr).unwrap();
    }
    let mut config = model.config.clone();
    config.insert("num_hidden_layers".to_owned(), 3.into());
    // as bitsandbytes' checkpoints say
    config.insert("quantization_config".to_owned(), prune::weights::four_bit::quantization_config(true, "float32"));
    draft.finish(serde_json::to_string_pretty(&config).unwrap(), ByteSize(20_000)).unwrap()
}

/// Keeps the bits of every residual stream.
#[derive(Default)]
struct Bits(Vec<Vec<u32>>);

impl Observer for Bits {
    fn residual(&mut self, _batch: usize, _place: usize, x: &Tensor) -> prune::Result<()> {
        self.0.push(x.flatten_all()?.to_vec1::<f32>()?.into_iter().map(f32::to_bits).collect());
        Ok(())
    }
}

/// Streams, logits' losses: all that a model says, bit for bit.
fn said(checkpoint: Checkpoint, residency: Residency) -> (Vec<Vec<u32>>, u64) {
    let options = ModelOptions { residency: Some(residency), ..ModelOptions::default() };
    let model = Model::open(Arc::new(checkpoint), &options, &Silent).unwrap();
    let ids = [vec![1, 9, 5, 3, 60, 3], vec![1, 44, 2]];
    let mut bits = Bits::default();
    model.run(&[Batch::sequences(&ids).unwrap()], &mut bits, "test", &Silent).unwrap();
    (bits.0, model.loss(&ids, "loss", &Silent).unwrap().mean().to_bits())
}

/// A model runs what is not written bit for bit as what is, and every byte read is the one that is written.
#[test]
fn a_blueprint_runs_unwritten() {
    for (dtype, head) in [(Dtype::F32, Head::Own), (Dtype::BF16, Head::Tied), (Dtype::F16, Head::Own)] {
        let dir = tempfile::tempdir().unwrap();
        let llama = Llama { hidden: 64, mlp: 96, heads: 4, head_dim: 16, dtype, head, shards: 2, ..Llama::default() };
        llama.write(&dir.path().join("source"));
        let model = Arc::new(Checkpoint::open_dir(&dir.path().join("source")).unwrap());
        let blueprint = Arc::new(mixture(&model, 5));
        let out = dir.path().join("out");
        let on_disk = written(&blueprint, &out);
        let unwritten = blueprint.open().unwrap();
        assert!(on_disk.index.shards.len() > 1);
        assert_eq!(unwritten.config, on_disk.config);
        let shape = |checkpoint: &Checkpoint, name: &str| {
            let entry = checkpoint.entry(name).unwrap();
            (entry.dtype, entry.shape.clone(), entry.len)
        };
        assert!(unwritten.tensors.keys().eq(on_disk.tensors.keys()));
        for name in on_disk.tensors.keys() {
            assert_eq!(shape(&unwritten, name), shape(&on_disk, name));
            assert!(bytes(&unwritten, name) == bytes(&on_disk, name), "{dtype} {name}");
        }
        let verified = blueprint.verify(&on_disk, &Silent).unwrap();
        let copied: Vec<&str> = blueprint.copied().map(|(name, _)| name).collect();
        assert_eq!(verified.tensors, copied.len());
        assert!(copied.contains(&"model.norm.weight") && !copied.contains(&"model.layers.0.mlp.down_proj.weight"));
        for residency in [Residency::Resident, Residency::Streamed] {
            let open = || Checkpoint::open_dir(&out).unwrap();
            assert_eq!(said(blueprint.open().unwrap(), residency), said(open(), residency), "{dtype} {residency:?}");
        }
        // another blueprint gives another model: the test above can fail
        let other = Arc::new(mixture(&model, 6)).open().unwrap();
        assert_ne!(said(other, Residency::Resident).1, said(on_disk, Residency::Resident).1);
        // a blueprint over an unwritten one
        let again = Arc::new(blueprint.open().unwrap());
        let mut draft = Draft::new(&again);
        let name = "model.layers.2.mlp.up_proj.weight";
        draft.add(name, dtype, Expr::Sum(vec![(1.0, source(name))])).unwrap();
        draft.copy("q", "model.layers.0.self_attn.q_proj.weight").unwrap();
        let twice = Arc::new(draft.finish("{}".to_owned(), SHARD).unwrap()).open().unwrap();
        let on_disk = Checkpoint::open_dir(&out).unwrap();
        assert!(bytes(&twice, name) == bytes(&on_disk, name));
        assert!(bytes(&twice, "q") == bytes(&on_disk, "model.layers.0.self_attn.q_proj.weight"));
    }
}

/// Any bytes of a tensor of several pieces are those that are written.
#[test]
fn any_part_of_a_computed_tensor() {
    let (rows, columns) = (1 << 16, 96);
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let dir = tempfile::tempdir().unwrap();
    let table = random(&mut rng, "table".to_owned(), &[rows, columns], Dtype::BF16);
    let model = checkpoint(&dir.path().join("source"), &[table]);
    let mut draft = Draft::new(&model);
    draft.add("adapted", Dtype::BF16, Expr::Adapted(source("table").into(), adapter(&mut rng, rows, columns))).unwrap();
    let square = matrix(&mut rng, columns, columns);
    draft.add("product", Dtype::F32, product(source("table"), Expr::Tensor(square))).unwrap();
    let blueprint = Arc::new(draft.finish("{}".to_owned(), SHARD).unwrap());
    let on_disk = written(&blueprint, &dir.path().join("out"));
    let unwritten = blueprint.open().unwrap();
    proptest!(ProptestConfig::with_cases(24), |(name in "adapted|product", ends in any::<[prop::sample::Index; 2]>())| {
        let entry = on_disk.entry(&name).unwrap();
        let [mut begin, mut end] = ends.map(|end| end.index(entry.len as usize));
        (begin, end) = (begin.min(end), begin.max(end));
        let read = |checkpoint: &Checkpoint| {
            let mut bytes = vec![0; end - begin];
            checkpoint.read_range(checkpoint.entry(&name).unwrap(), begin as u64, &mut bytes).unwrap();
            bytes
        };
        prop_assert!(read(&unwritten) == read(&on_disk));
    });
    let ids: Vec<u32> = (0..200).map(|_| rng.random_range(0..rows as u32)).collect();
    for name in ["adapted", "product"] {
        let rows = |checkpoint: &Checkpoint| {
            let rows = checkpoint.gather_rows(name, &[rows, columns], &ids).unwrap();
            rows.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert!(rows(&unwritten) == rows(&on_disk), "{name}");
        let all = |checkpoint: &Checkpoint| {
            let all = checkpoint.load_f32(name, &[rows_of(checkpoint, name), columns], &Device::Cpu).unwrap();
            all.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert!(all(&unwritten) == all(&on_disk), "{name}");
    }
}

fn rows_of(checkpoint: &Checkpoint, name: &str) -> usize {
    checkpoint.entry(name).unwrap().shape[0]
}

/// A byte that is not the decided one is found, in what was copied and in what was computed.
#[test]
fn verification_sees_computed_bytes() {
    let dir = tempfile::tempdir().unwrap();
    Llama { hidden: 64, mlp: 96, head_dim: 16, ..Llama::default() }.write(&dir.path().join("source"));
    let model = Arc::new(Checkpoint::open_dir(&dir.path().join("source")).unwrap());
    let blueprint = mixture(&model, 5);
    let out = dir.path().join("out");
    let good = written(&blueprint, &out);
    for name in [
        "model.norm.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.self_attn.v_proj.weight.absmax",
        "model.layers.1.self_attn.v_proj.weight",
    ] {
        let entry = good.entry(name).unwrap();
        let file = &good.index.shards[entry.shard];
        let bytes = fs::read(file).unwrap();
        let mut bad = bytes.clone();
        bad[entry.begin as usize + 5] ^= 1;
        fs::write(file, &bad).unwrap();
        let error = blueprint.verify(&Checkpoint::open_dir(&out).unwrap(), &Silent).unwrap_err().to_string();
        assert!(error.contains(&format!("tensor {name} differs from")) && error.ends_with("at byte 5"), "{error}");
        fs::write(file, &bytes).unwrap();
    }
    blueprint.verify(&Checkpoint::open_dir(&out).unwrap(), &Silent).unwrap();
}

/// What does not go together is refused before anything is written, and numbers that no file should hold are named.
#[test]
fn what_cannot_be_made() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let dir = tempfile::tempdir().unwrap();
    let tensors: Vec<Named> = [("a", vec![4, 6]), ("b", vec![6, 4]), ("v", vec![6])]
        .map(|(name, shape)| random(&mut rng, name.to_owned(), &shape, Dtype::F32))
        .into();
    let model = checkpoint(&dir.path().join("source"), &tensors);
    let refused = |dtype: Dtype, expr: Expr| Draft::new(&model).add("new", dtype, expr).unwrap_err().to_string();
    let sum = |terms: &[&str]| Expr::Sum(terms.iter().map(|name| (1.0, source(name))).collect());
    assert!(refused(Dtype::F32, sum(&["a", "b"])).contains("tensor new: a sum: the shapes [4, 6] and [6, 4]"));
    assert!(refused(Dtype::F32, sum(&[])).contains("nothing"));
    assert!(refused(Dtype::F32, product(source("a"), source("a"))).contains("a product"));
    assert!(refused(Dtype::F32, product(source("v"), source("b"))).contains("a product"));
    assert!(refused(Dtype::F32, source("c")).contains("there is no tensor c"));
    assert!(refused(Dtype::I32, sum(&["a"])).contains("I32"));
    assert!(refused(Dtype::F32, Expr::Quantized(source("v").into(), true)).contains("no matrix"));
    let wrong = Expr::Adapted(source("a").into(), adapter(&mut rng, 4, 4));
    assert!(refused(Dtype::F32, wrong).contains("an adapter"));

    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let mut draft = Draft::new(&model);
    draft.add("large", Dtype::F16, Expr::Sum(vec![(1e9, source("a"))])).unwrap();
    let blueprint = Arc::new(draft.finish("{}".to_owned(), SHARD).unwrap());
    let error = blueprint.write(&out, &Silent).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("tensor large would hold numbers too large for f16") && !error.contains("adapter"),
        "{error}"
    );
    let unwritten = blueprint.open().unwrap();
    let error = unwritten.load("large", &[4, 6], &Device::Cpu).unwrap_err().to_string();
    assert!(error.contains("tensor large would hold numbers too large"), "{error}");
}
