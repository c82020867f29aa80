//! How fast a GPU is with Llama-2 7B's shape and random weights: analysis, QLoRA, scores, against its own peak in bf16
//! products. Measured, never asserted. `PRUNE_BENCH_LAYERS`, `PRUNE_BENCH_WIDTH` and `PRUNE_BENCH_TOKENS` make it smaller,
//! `PRUNE_BENCH_DIR` says where the 13 GB checkpoint goes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use half::bf16;
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::heal::{HealSettings, Trainer, fittings};
use prune::importance::{METRICS, Probe, Watch};
use prune::model::lora::Adapters;
use prune::model::{Batch, Budget, Model, ModelOptions, Observer, Residency, Spending};
use prune::ops::{self, Heads, Layout, WeightMatrix};
use prune::progress::Silent;
use serde_json::{Map, Value, json};

use crate::fixture::{Llama, write_json};
use crate::gpu;
use crate::numbers::random;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Llama-2 7B's config, or one with its proportions.
fn config() -> Map<String, Value> {
    let (layers, width) = (setting("PRUNE_BENCH_LAYERS", 32), setting("PRUNE_BENCH_WIDTH", 4096));
    let heads = (width / 128).max(1);
    let llama = Llama {
        layers,
        hidden: width,
        mlp: width * 43 / 16,
        heads,
        kv_heads: heads,
        head_dim: width / heads,
        vocab: if width == 4096 { 32_000 } else { 512 },
        dtype: safetensors::Dtype::BF16,
        ..Llama::default()
    };
    let mut config = llama.config();
    config.insert("max_position_embeddings".into(), json!(4096));
    config
}

/// Writes a bf16 checkpoint. All matrices repeat the same noise, scaled to their width: its numbers mean nothing.
fn write(dir: &Path) {
    let config = config();
    let spec = ModelSpec::from_config(&config).unwrap();
    let table = vec![spec.vocab_size, spec.hidden_size];
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), table.clone())];
    tensors.extend((0..spec.layers).flat_map(|l| spec.layer_tensors(l)).map(|tensor| (tensor.name, tensor.shape)));
    tensors.push(("model.norm.weight".to_owned(), vec![spec.hidden_size]));
    tensors.push(("lm_head.weight".to_owned(), table));
    let (mut header, mut at) = (Map::new(), 0);
    for (name, shape) in &tensors {
        let end = at + 2 * shape.iter().product::<usize>();
        header.insert(name.clone(), json!({"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}));
        at = end;
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::new(File::create(dir.join("model.safetensors")).unwrap());
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(&header).unwrap();
    let mut state = 1_u64;
    let mut noise = |scale: f32| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bf16::from_f32(((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * scale).to_le_bytes()
    };
    let block = |scale: f32, noise: &mut dyn FnMut(f32) -> [u8; 2]| (0..1 << 22).flat_map(|_| noise(scale)).collect();
    let widths = [spec.hidden_size, spec.mlp_size];
    let blocks: Vec<Vec<u8>> = widths.iter().map(|w| block((3.0 / *w as f32).sqrt(), &mut noise)).collect();
    for (_, shape) in &tensors {
        let mut left = 2 * shape.iter().product::<usize>();
        if shape.len() == 1 {
            file.write_all(&bf16::ONE.to_le_bytes().repeat(left / 2)).unwrap();
            continue;
        }
        let block = &blocks[usize::from(shape[1] == spec.mlp_size)];
        while left > 0 {
            let piece = left.min(block.len());
            file.write_all(&block[..piece]).unwrap();
            left -= piece;
        }
    }
    file.flush().unwrap();
    write_json(&dir.join("config.json"), &Value::Object(config));
}

fn rows(count: usize, tokens: usize, vocabulary: usize) -> Vec<Vec<u32>> {
    (0..count).map(|row| (0..tokens).map(|i| ((row * 7919 + i * i * 31 + i) % vocabulary) as u32).collect()).collect()
}

/// Operations of a forward pass over `tokens` tokens in sequences of `len`: products and half of attention's square.
fn flops(spec: &ModelSpec, tokens: usize, len: usize) -> f64 {
    let tensors = spec.layer_tensors(0);
    let matrices: usize = tensors.iter().filter(|t| t.shape.len() == 2).map(|t| t.shape[0] * t.shape[1]).sum();
    let attention = 2 * spec.heads * spec.head_dim * len;
    (tokens * spec.layers) as f64 * (2 * matrices + attention) as f64
}

/// The best of some runs, seconds.
fn best(runs: usize, device: &Device, mut work: impl FnMut()) -> f64 {
    let once = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        device.synchronize().unwrap();
        started.elapsed().as_secs_f64()
    };
    once(&mut work);
    (0..runs).map(|_| once(&mut work)).fold(f64::INFINITY, f64::min)
}

/// Whether `PRUNE_BENCH_PARTS` names this part, or nothing.
fn wanted(part: &str) -> bool {
    std::env::var("PRUNE_BENCH_PARTS").map_or(true, |parts| parts.split(',').any(|wanted| wanted == part))
}

fn narrow(rows: usize, columns: usize, device: &Device) -> Tensor {
    random(7, rows, columns).to_dtype(DType::BF16).unwrap().to_device(device).unwrap()
}

/// Products of bf16 matrices with nothing else, the peak that the rest is measured against: operations a second.
fn products(device: &Device, width: usize) -> f64 {
    let mut peak = 0.0;
    for (t, o, i) in [(2 * width, 2 * width, 2 * width), (width / 2, width * 43 / 16, width), (width / 2, width, width)]
    {
        let (x, weight) = (narrow(t, i, device), WeightMatrix::Dense(narrow(o, i, device)));
        let many = 8;
        let seconds = best(5, device, || {
            for _ in 0..many {
                weight.linear(&x).unwrap();
            }
        });
        let rate = (2 * many * t * i * o) as f64 / seconds;
        eprintln!("product      {t} x {i} x {o}: {:.1} TFLOP/s", rate / 1e12);
        peak = f64::max(peak, rate);
    }
    peak
}

/// Attention alone, and the decoding of a matrix in four bits.
fn kernels(device: &Device, len: usize) {
    for (heads, kv_heads, head_dim, len) in [(32, 32, 128, len), (32, 8, 128, 4 * len), (32, 8, 64, len)] {
        let heads = Heads { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), window: None };
        let layout = Arc::new(Layout::sequences([len]).unwrap());
        let (q, k) = (narrow(len, heads.heads * head_dim, device), narrow(len, kv_heads * head_dim, device));
        let many = 8;
        let forward = best(5, device, || {
            for _ in 0..many {
                ops::attention(&q, &k, &k, &layout, &heads).unwrap();
            }
        });
        let kept = ops::attention_kept(&q, &k, &k, &layout, &heads).unwrap();
        let back = best(5, device, || {
            for _ in 0..many {
                ops::attention_backward((&q, &k, &k), &kept, &q).unwrap();
            }
        });
        let work = (many * 2 * len * len * heads.heads * head_dim) as f64 / 1e12;
        eprintln!(
            "attention    {len} tokens, {} heads of {head_dim}, {kv_heads} of keys: forward {:.0} TFLOP/s, back {:.0} \
             (2.5 times the work)",
            heads.heads,
            work / forward,
            2.5 * work / back
        );
    }
    let weight = WeightMatrix::Dense(random(3, 11_008, 4096)).quantise(true).unwrap().on(device).unwrap();
    let x = narrow(8, 4096, device);
    let seconds = best(5, device, || {
        weight.linear(&x).unwrap();
    });
    eprintln!("four bits    a matrix of 11008 x 4096 decoded and used in {:.0} us", 1e6 * seconds);
}

#[test]
#[ignore = "takes minutes and 14 GB; tests/gpu/run.sh runs it"]
fn benchmarks() {
    let Some(gpu) = gpu("bf16") else { return };
    let device = &gpu.device;
    let len = setting("PRUNE_BENCH_TOKENS", 2048);
    let (layers, width) = (setting("PRUNE_BENCH_LAYERS", 32), setting("PRUNE_BENCH_WIDTH", 4096));
    let free = || ops::device_memory(device).unwrap().unwrap() as f64 / f64::from(1 << 30);
    let name = ops::device_name(device).unwrap();
    eprintln!("{name}: {layers} layers of width {width}, sequences of {len}, {:.1} GiB free", free());
    let peak = products(device, width);
    if wanted("kernels") {
        kernels(device, len);
    }
    let keep = tempfile::tempdir().unwrap();
    let dir = std::env::var_os("PRUNE_BENCH_DIR").map_or_else(|| keep.path().to_owned(), PathBuf::from);
    if !["analysis", "healing"].into_iter().any(wanted) {
        return;
    }
    std::fs::create_dir_all(&dir).unwrap();
    let started = Instant::now();
    write(&dir);
    eprintln!("checkpoint written in {:.1} s", started.elapsed().as_secs_f64());
    let checkpoint = Arc::new(Checkpoint::open_dir(&dir).unwrap());
    let report = |what: &str, tokens: usize, seconds: f64, work: f64| {
        let (speed, rate) = (tokens as f64 / seconds, work / seconds);
        eprintln!("{what}{speed:.0} tokens/s, {:.1} TFLOP/s, {:.0} % of the peak", rate / 1e12, 100.0 * rate / peak);
    };
    let budget = Budget::on(device, None).unwrap();
    let options = ModelOptions {
        device: device.clone(),
        budget,
        residency: Some(Residency::Resident),
        ..ModelOptions::default()
    };
    if wanted("analysis") {
        let before = free();
        let started = Instant::now();
        let model = Model::open(checkpoint.clone(), &options, &Silent).unwrap();
        eprintln!("load         {:.1} s, {:.2} GiB on the device", started.elapsed().as_secs_f64(), before - free());
        let spec = model.spec();
        let text = rows(4, len, spec.vocab_size);
        let batches = Batch::pack(&text, model.pass_tokens(0)).unwrap();
        let work = flops(spec, 4 * len, len);
        let seconds = best(2, device, || {
            let mut probe = Probe::new(model.layers(), METRICS);
            model.run(&batches, &mut Watch::new(&mut probe, &batches), "bench", &Silent).unwrap();
            probe.finish().unwrap();
        });
        report("analyze      ", 4 * len, seconds, work);
        let seconds = best(2, device, || {
            let mut nothing = Nothing;
            model.run(&batches, &mut nothing, "bench", &Silent).unwrap();
        });
        report("  its passes ", 4 * len, seconds, work);
        let seconds = best(2, device, || {
            model.loss(&text, "bench", &Silent).unwrap();
        });
        let head = (2 * 4 * len * spec.vocab_size * spec.hidden_size) as f64;
        report("loss (eval)  ", 4 * len, seconds, work + head);
    }
    if !wanted("healing") {
        return;
    }
    let before = free();
    let settings = HealSettings { dropout: 0.05, rank: 64, pass_tokens: len, seq_len: len, ..HealSettings::default() };
    let spec = ModelSpec::from_config(&checkpoint.config).unwrap();
    let mut fittings = fittings(&spec, &settings);
    fittings.adapters = Some(Arc::new(Adapters::new(&spec, &settings.lora(), 0, device).unwrap()));
    let started = Instant::now();
    let model = Model::open(checkpoint, &ModelOptions { fittings, rows_on_host: true, ..options }, &Silent).unwrap();
    eprintln!("load in NF4  {:.1} s, {:.2} GiB on the device", started.elapsed().as_secs_f64(), before - free());
    let text = rows(2, len, spec.vocab_size);
    let work = |kept: usize| {
        let recomputed = 1.0 - kept as f64 / layers as f64;
        let head = 4 * 2 * len * spec.vocab_size * spec.hidden_size;
        flops(&spec, 2 * len, len) * (2.0 + recomputed) + head as f64
    };
    for (kept, what) in [(0, "QLoRA, layers computed again  "), (layers, "QLoRA, everything kept        ")] {
        let mut trainer = Trainer::new(&model, None, &settings, Spending::on(device, kept)).unwrap();
        let seconds = best(2, device, || {
            trainer.step(&text).unwrap();
        });
        report(what, 2 * len, seconds, work(kept));
        eprintln!("             {:.2} GiB taken since before loading", before - free());
    }
}

/// Looks at nothing.
struct Nothing;

impl Observer for Nothing {
    fn residual(&mut self, _batch: usize, _place: usize, _x: &Tensor) -> prune::Result<()> {
        Ok(())
    }
}
