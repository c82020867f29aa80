//! How fast a GPU is with Llama-2 7B's shape and random weights: analysis, QLoRA, scores, against its own peak in bf16
//! products, and how long a sequence it trains on within a cap. Measured, never asserted. `PRUNE_BENCH_PARTS` picks
//! some of kernels, longest, analysis and healing; `PRUNE_BENCH_LAYERS`, `PRUNE_BENCH_WIDTH` and `PRUNE_BENCH_TOKENS`
//! make it smaller; `PRUNE_BENCH_DIR` says where the checkpoint goes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::heal::{HealSettings, TeacherSize, Trainer, estimate, load_options};
use prune::importance::{METRICS, Probe, Watch};
use prune::model::{Batch, Budget, CheckpointingPolicy, Model, ModelOptions, Observer, Residency};
use prune::ops;
use prune::progress::Silent;
use prune::weights::lora::Adapters;

use crate::gpu;
use crate::kernels::{best, kernels, products};
use crate::shapes::{flops, llama2, llama3, rows, setting, write};

/// Whether `PRUNE_BENCH_PARTS` names this part, or nothing.
fn wanted(part: &str) -> bool {
    std::env::var("PRUNE_BENCH_PARTS").map_or(true, |parts| parts.split(',').any(|wanted| wanted == part))
}

#[test]
#[ignore = "takes minutes and 14 GB; tests/gpu/run.sh runs it"]
fn benchmarks() {
    let Some(gpu) = gpu("bf16") else { return };
    let device = &gpu.device;
    // what a process takes before its first tensor, and what others take
    let (free, total) = ops::device_memory(device).unwrap().zip(ops::device_total(device).unwrap()).unwrap();
    let outside = total - free;
    let len = setting("PRUNE_BENCH_TOKENS", 2048);
    let (layers, width) = (setting("PRUNE_BENCH_LAYERS", 32), setting("PRUNE_BENCH_WIDTH", 4096));
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let peak_memory = || gib(ops::device_peak(device).unwrap().unwrap_or(0));
    let name = ops::device_name(device).unwrap();
    eprintln!(
        "{name}: {layers} layers of width {width}, sequences of {len}, {:.1} GiB free, {:.2} GiB taken by others and \
         the context",
        gib(free),
        gib(outside)
    );
    let peak = products(device, width);
    if wanted("kernels") {
        kernels(device, len);
    }
    let keep = tempfile::tempdir().unwrap();
    let dir = std::env::var_os("PRUNE_BENCH_DIR").map_or_else(|| keep.path().to_owned(), PathBuf::from);
    std::fs::create_dir_all(&dir).unwrap();
    if wanted("longest") {
        longest(device, &dir, outside);
    }
    if !["analysis", "healing"].into_iter().any(wanted) {
        return;
    }
    let started = Instant::now();
    write(&dir, &llama2(), 4096);
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
        let started = Instant::now();
        let model = Model::open(checkpoint.clone(), &options, &Silent).unwrap();
        eprintln!("load         {:.1} s, {:.2} GiB", started.elapsed().as_secs_f64(), peak_memory());
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
        eprintln!("             {:.2} GiB at most", peak_memory());
    }
    if !wanted("healing") {
        return;
    }
    let settings = HealSettings {
        dropout: 0.05,
        rank: 64.into(),
        pass_tokens: len,
        seq_len: Some(len),
        ..HealSettings::default()
    };
    let spec = ModelSpec::from_config(&checkpoint.config).unwrap();
    let mut load_options = load_options(&spec, &settings);
    load_options.adapters = Some(Arc::new(Adapters::new(&spec, &settings.lora(&spec).unwrap(), 0, device).unwrap()));
    peak_memory();
    let started = Instant::now();
    let model =
        Model::open(checkpoint, &ModelOptions { load_options, rows_on_host: true, ..options }, &Silent).unwrap();
    eprintln!("load in NF4  {:.1} s, {:.2} GiB", started.elapsed().as_secs_f64(), peak_memory());
    let text = rows(2, len, spec.vocab_size);
    let work = |kept: usize| {
        let recomputed = 1.0 - kept as f64 / layers as f64;
        let head = 4 * 2 * len * spec.vocab_size * spec.hidden_size;
        flops(&spec, 2 * len, len) * (2.0 + recomputed) + head as f64
    };
    for (kept, what) in [(0, "QLoRA, layers computed again  "), (layers, "QLoRA, everything kept        ")] {
        let mut trainer = Trainer::new(&model, None, &settings, CheckpointingPolicy::on(device, kept)).unwrap();
        let seconds = best(2, device, || {
            trainer.step(&text).unwrap();
        });
        report(what, 2 * len, seconds, work(kept));
        eprintln!("             {:.2} GiB at most", peak_memory());
    }
}

/// The longest sequence that Llama-3 8B's shape trains on, rank 32 on all linear layers, within some gigabytes of a
/// GPU, all that the process takes there counted: the plan says it, one step shows it.
fn longest(device: &Device, dir: &Path, outside: u64) {
    write(dir, &llama3(), 1 << 20);
    let checkpoint = Arc::new(Checkpoint::open_dir(dir).unwrap());
    let spec = ModelSpec::from_config(&checkpoint.config).unwrap();
    let settings = |len: usize| HealSettings {
        target: "all-linear".parse().unwrap(),
        rank: 32.into(),
        batch: 1,
        dropout: 0.0,
        pass_tokens: len,
        seq_len: Some(len),
        ..HealSettings::default()
    };
    let mut load_options = load_options(&spec, &settings(1024));
    load_options.adapters =
        Some(Arc::new(Adapters::new(&spec, &settings(1024).lora(&spec).unwrap(), 0, device).unwrap()));
    let residency = Some(Residency::Resident);
    let options = ModelOptions {
        device: device.clone(),
        budget: Budget::on(device, None).unwrap(),
        load_options,
        residency,
        rows_on_host: true,
        ..ModelOptions::default()
    };
    let model = Model::open(checkpoint.clone(), &options, &Silent).unwrap();
    // gigabytes, and where a step of all that fits would take minutes the tokens to step with
    let caps = std::env::var("PRUNE_BENCH_CAPS").unwrap_or_else(|_| "8,12:40960,24:81920".to_owned());
    for cap in caps.split(',') {
        let (cap, most) = cap.split_once(':').unwrap_or((cap, "1048576"));
        let (cap, most) = ((1e9 * cap.parse::<f64>().unwrap()) as u64, most.parse::<usize>().unwrap());
        let budget = Budget::on(device, Some(cap - outside)).unwrap();
        let plan =
            |len: usize| estimate(&checkpoint, &spec, &settings(len), (device, budget), TeacherSize::default(), None);
        // in steps of 256 tokens
        let (mut fits, mut too_long) = (0, 1 << 12);
        while fits + 1 < too_long {
            let middle = usize::midpoint(fits, too_long);
            if plan(middle * 256).is_ok() { fits = middle } else { too_long = middle }
        }
        let len = most.min(fits * 256);
        let Ok(planned) = plan(len) else {
            eprintln!("{:>5.1} GB     nothing fits", cap as f64 / 1e9);
            continue;
        };
        let mut trainer = Trainer::new(&model, None, &settings(len), planned.policy).unwrap();
        ops::device_peak(device).unwrap();
        let started = Instant::now();
        trainer.step(&rows(1, len, spec.vocab_size)).unwrap();
        device.synchronize().unwrap();
        let seconds = started.elapsed().as_secs_f64();
        let peak = ops::device_peak(device).unwrap().unwrap_or(0) + outside;
        eprintln!(
            "{:>5.1} GB     {} tokens fit; {len} in {seconds:.1} s, {:.2} GB taken of {:.2} planned, {:?}",
            cap as f64 / 1e9,
            fits * 256,
            peak as f64 / 1e9,
            (planned.memory + outside) as f64 / 1e9,
            planned.policy
        );
    }
}

/// Looks at nothing.
struct Nothing;

impl Observer for Nothing {
    fn residual(&mut self, _batch: usize, _place: usize, _x: &Tensor) -> prune::Result<()> {
        Ok(())
    }
}
