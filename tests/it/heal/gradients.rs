//! Gradients: against candle's autograd, against finite differences, against PyTorch, and whatever memory is spent.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use prune::checkpoint::Checkpoint;
use prune::heal::{Gradients, HealSettings, Quant, Train, Trainer, parameters, targets};
use prune::model::{Batch, CheckpointingPolicy, ForwardContext, Model, ModelOptions};
use prune::ops::{self, Nf4Weight, nf4::Scales};
use prune::progress::Silent;
use prune::weights::four_bit;
use prune::weights::lora::Adapters;
use serde_json::{Map, Value, json};

#[path = "../../fixture/reference.rs"]
mod reference;

use crate::fixture::formula;
use crate::fixture::material::shared;
use crate::fixture::{Llama, Named, write_json, write_safetensors};
use crate::heal::model::{open, set, shake, write_random};
use crate::heal::shared::{difference, tensors};

fn plain() -> HealSettings {
    HealSettings { quant: Quant::None, dropout: 0.0, rank: 3.into(), alpha: Some(5.0), ..HealSettings::default() }
}

fn rows() -> Vec<Vec<u32>> {
    vec![(0..23).map(|i| i * 7 % 61).collect(), (0..14).map(|i| (i * i + 3) % 61).collect(), vec![5, 9]]
}

/// Small configs of the families whose blocks differ: biases, norms, fused projections, windows, multipliers,
/// sub-layers side by side, an MLP without gate.
fn families() -> Vec<(&'static str, Map<String, Value>)> {
    let config = |patch: Value| {
        let mut config = Llama { layers: 3, ..Llama::default() }.config();
        config.extend(patch.as_object().unwrap().clone());
        config
    };
    vec![
        ("llama", config(json!({"attention_bias": true, "mlp_bias": true}))),
        ("mistral", config(json!({"model_type": "mistral", "sliding_window": 6}))),
        ("qwen2", config(json!({"model_type": "qwen2"}))),
        ("qwen3", config(json!({"model_type": "qwen3", "tie_word_embeddings": true}))),
        ("phi3", config(json!({"model_type": "phi3"}))),
        ("granite", config(json!({"model_type": "granite", "residual_multiplier": 0.5, "logits_scaling": 2.0}))),
        ("nemotron", config(json!({"model_type": "nemotron", "hidden_act": "relu2"}))),
        ("glm4", config(json!({"model_type": "glm4"}))),
        ("cohere", config(json!({"model_type": "cohere", "logit_scale": 0.5}))),
        ("mixtral", config(json!({"model_type": "mixtral", "num_local_experts": 3, "num_experts_per_tok": 2}))),
        (
            "qwen2_moe",
            config(json!({
                "model_type": "qwen2_moe", "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
                "shared_expert_intermediate_size": 10, "mlp_only_layers": [0],
            })),
        ),
    ]
}

fn gradients(model: &Model, settings: &HealSettings, keep: usize) -> (f64, Gradients) {
    gradients_with(model, settings, CheckpointingPolicy::on(&Device::Cpu, keep))
}

fn gradients_with(model: &Model, settings: &HealSettings, policy: CheckpointingPolicy) -> (f64, Gradients) {
    let trainer = Trainer::new(model, None, settings, policy).unwrap();
    let (sums, gradients, targets) = trainer.gradients(&rows()).unwrap();
    (sums.loss / targets as f64, gradients)
}

/// The backward pass walked by hand equals candle's autograd through the formulas, for every family, with adapters on
/// every linear layer.
#[test]
fn equals_autograd() {
    for ((family, config), dora) in families().into_iter().flat_map(|family| [(family.clone(), false), (family, true)])
    {
        let dir = tempfile::tempdir().unwrap();
        write_random(dir.path(), &config);
        let settings = HealSettings { target: "all-linear".parse().unwrap(), dora, ..plain() };
        let model = open(dir.path(), &settings);
        shake(&parameters(&model).unwrap(), 1);
        let (loss, found) = gradients(&model, &settings, 9);

        // the same adapters as variables of a graph
        let (checkpoint, spec) = (model.checkpoint(), model.spec());
        let mut adapters = Adapters::new(spec, &settings.lora(spec).unwrap(), 0, &Device::Cpu).unwrap();
        let mut variables = HashMap::new();
        let given: HashMap<String, Tensor> = parameters(&model).unwrap().into_iter().collect();
        for ((layer, role), adapter) in &mut adapters.modules {
            let module = spec.layer_tensor(*layer, *role).name.replace(".weight", "");
            let m = adapter.magnitude.as_mut().map(|m| (m, "lora_magnitude_vector"));
            let parts = [(&mut adapter.a, "lora_A.weight"), (&mut adapter.b, "lora_B.weight")];
            for (tensor, part) in parts.into_iter().chain(m) {
                let name = format!("{module}.{part}");
                let variable = Var::from_tensor(&wide(&given[&name])).unwrap();
                *tensor = variable.as_tensor().clone();
                variables.insert(name, variable);
            }
        }
        let batch = Batch::sequences(&rows()).unwrap();
        let pass = ForwardContext::new(spec, &batch, &Device::Cpu).unwrap();
        let mut x = wide(&model.embed(&batch).unwrap());
        for layer in 0..spec.layers {
            let reference = reference::Layer { checkpoint, spec, layer, adapters: Some(&adapters) };
            x = reference.forward(&x, &pass, &spec.sublayers(layer)).unwrap();
        }
        let (norm, head) = (wide(model.head().norm_weight()), wide(model.head().weight().unwrap()));
        let bias = model.head().norm_bias().map(wide);
        let normed = reference::normed(spec, &x, &norm, bias.as_ref()).unwrap();
        let normed = (normed * spec.multipliers.logits).unwrap();
        let targets = targets(&batch);
        let sum = reference::cross_entropy(&normed, &head, &targets).unwrap();
        let mean = (sum / targets.iter().flatten().count() as f64).unwrap();
        assert!((mean.to_scalar::<f64>().unwrap() - loss).abs() < 1e-5, "{family}");
        let expected = mean.backward().unwrap();
        assert_eq!(found.len(), variables.len());
        for (name, variable) in &variables {
            let expected = expected.get(variable).unwrap_or_else(|| panic!("{family}: no gradient of {name}"));
            let size = largest(expected);
            assert!(size > 1e-7, "{family}: {name}");
            assert!(difference(&found[name], expected) < 2e-5 * size.max(1e-2), "{family}: {name}");
        }
    }
}

fn wide(tensor: &Tensor) -> Tensor {
    tensor.to_dtype(DType::F64).unwrap()
}

fn largest(tensor: &Tensor) -> f64 {
    difference(tensor, &tensor.zeros_like().unwrap())
}

/// A step along the gradient changes the loss as the gradient says, for every trained tensor of every family, adapters
/// or whole layers with head and norms: a wrong or missing part of any gradient would show.
#[test]
fn equals_finite_differences() {
    for (family, mut config) in families() {
        // a step may change which experts are chosen, which no gradient knows of: here all are
        if family == "mixtral" || family == "qwen2_moe" {
            config.insert("num_experts_per_tok".to_owned(), json!(3));
        }
        for (train, layers) in [(Train::Lora, None), (Train::Last(2), None), (Train::Layers, Some("1"))] {
            let dir = tempfile::tempdir().unwrap();
            write_random(dir.path(), &config);
            let layers_to_transform = layers.map(|layers| layers.parse().unwrap());
            let target = "all-linear".parse().unwrap();
            let settings = HealSettings { train, target, layers_to_transform, ..plain() };
            let model = open(dir.path(), &settings);
            let parameters = parameters(&model).unwrap();
            assert!(layers.is_none() || parameters.iter().all(|(name, _)| name.contains(".layers.1.")));
            shake(&parameters, 2);
            let trainer = Trainer::new(&model, None, &settings, CheckpointingPolicy::on(&Device::Cpu, 1)).unwrap();
            let loss = || {
                let (sums, _, targets) = trainer.gradients(&rows()).unwrap();
                sums.loss / targets as f64
            };
            let (_, found) = gradients(&model, &settings, 1);
            assert_eq!(found.len(), parameters.len());
            for (name, parameter) in &parameters {
                agrees_with_differences(&format!("{family}, {train}: {name}"), parameter, &found[name], &loss);
            }
        }
    }
}

/// The slope of the loss along the gradient of a parameter is the gradient's length.
pub(super) fn agrees_with_differences(what: &str, parameter: &Tensor, gradient: &Tensor, loss: &dyn Fn() -> f64) {
    let gradient: Vec<f32> = gradient.flatten_all().unwrap().to_vec1().unwrap();
    let norm = gradient.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
    assert!(norm > 1e-6, "{what}: the gradient is {norm}");
    let step = 0.002 * (1.0 / norm.max(0.05)).min(5.0);
    let before: Vec<f32> = parameter.flatten_all().unwrap().to_vec1().unwrap();
    let at = |sign: f64| {
        let scale = (sign * step / norm) as f32;
        ops::edit(parameter, |numbers| {
            for ((x, before), g) in numbers.iter_mut().zip(&before).zip(&gradient) {
                *x = before + scale * g;
            }
        })
        .unwrap();
        loss()
    };
    let slope = (at(1.0) - at(-1.0)) / (2.0 * step);
    at(0.0);
    assert!((slope - norm).abs() < 0.02 * norm + 2e-5, "{what}: {slope} {norm}");
}

/// What is kept, how the sequences share passes, and how the frozen weights are held on the way change nothing.
#[test]
fn memory_and_passes_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    Llama { layers: 5, ..Llama::default() }.write(dir.path());
    for dropout in [0.0, 0.4] {
        let settings = HealSettings { quant: Quant::Nf4, dropout, ..plain() };
        for dora in [false, true] {
            memory_and_passes(dir.path(), &HealSettings { dora, ..settings.clone() });
        }
    }
}

fn memory_and_passes(dir: &Path, settings: &HealSettings) {
    let model = open(dir, settings);
    shake(&parameters(&model).unwrap(), 3);
    let (loss, all) = gradients(&model, settings, 5);
    for keep in [0, 2] {
        let (other, some) = gradients(&model, settings, keep);
        assert_eq!(loss, other);
        assert!(all.iter().all(|(name, gradient)| difference(gradient, &some[name]) == 0.0), "keep {keep}");
    }
    if settings.dropout == 0.0 {
        let apart = HealSettings { pass_tokens: 1, ..settings.clone() };
        let (other, gradients) = gradients(&model, &apart, 0);
        assert!((loss - other).abs() < 1e-6);
        assert!(all.iter().all(|(name, gradient)| difference(gradient, &gradients[name]) < 1e-6));
    }
}

/// Some tokens at a time give what all of them give, the same dropout included, for every family, adapters or whole
/// layers, whether layers are kept or computed again; as many at a time as there are give the same bits.
#[test]
fn tokens_at_once_change_only_sums() {
    for (family, config) in families() {
        let dir = tempfile::tempdir().unwrap();
        write_random(dir.path(), &config);
        for (train, quant, dora) in
            [(Train::Lora, Quant::Nf4, false), (Train::Lora, Quant::Nf4, true), (Train::Last(2), Quant::None, false)]
        {
            let target = "all-linear".parse().unwrap();
            let settings = HealSettings { train, quant, target, dora, dropout: 0.4, ..plain() };
            let model = open(dir.path(), &settings);
            shake(&parameters(&model).unwrap(), 6);
            let (loss, all) = gradients(&model, &settings, 9);
            for (chunk_size, saved_layers) in [(39, 0), (38, 9), (16, 0), (7, 1), (1, 9)] {
                let policy = CheckpointingPolicy { saved_layers, chunk_size, offload_activations: false };
                let (other, some) = gradients_with(&model, &settings, policy);
                let what = format!("{family}, {train}, {chunk_size} at once");
                let tolerance = if chunk_size == 39 { 0.0 } else { 1e-5 };
                assert!((loss - other).abs() <= tolerance * loss, "{what}: {loss} {other}");
                assert_eq!(all.keys().collect::<Vec<_>>(), some.keys().collect::<Vec<_>>());
                for (name, gradient) in &all {
                    let (off, size) = (difference(gradient, &some[name]), largest(gradient));
                    assert!(size > 1e-7 && off <= tolerance * size, "{what}: {name} is off by {off:e} of {size:e}");
                }
            }
        }
    }
}

/// Dropout is a mean of many masks around no dropout, and a different one every step.
#[test]
fn dropout_is_in_the_gradients() {
    let dir = tempfile::tempdir().unwrap();
    Llama::default().write(dir.path());
    let settings = HealSettings { dropout: 0.5, ..plain() };
    let model = open(dir.path(), &settings);
    shake(&parameters(&model).unwrap(), 4);
    let (with, _) = gradients(&model, &settings, 9);
    let (without, _) = gradients(&model, &HealSettings { dropout: 0.0, ..settings.clone() }, 9);
    let (other, _) = gradients(&model, &HealSettings { seed: 1, ..settings.clone() }, 9);
    assert!(with != without && with != other);
    assert_eq!(with, gradients(&model, &settings, 0).0);
}

/// A fresh adapter changes nothing: logits with B = 0 are those of the model without it.
#[test]
fn a_fresh_adapter_is_the_identity() {
    let dir = tempfile::tempdir().unwrap();
    Llama::default().write(dir.path());
    for dora in [false, true] {
        let with = open(dir.path(), &HealSettings { target: "all-linear".parse().unwrap(), dora, ..plain() });
        let without = Model::open(with.checkpoint().clone(), &ModelOptions::default(), &Silent).unwrap();
        let loss = |model: &Model| model.loss(&rows(), "", &Silent).unwrap().mean();
        assert_eq!(loss(&with), loss(&without));
        shake(&parameters(&with).unwrap(), 5);
        with.refresh().unwrap();
        assert!((loss(&with) - loss(&without)).abs() > 1e-3);
    }
}

/// `exact`: the frozen weights are those of the golden to the last bit. bitsandbytes' CPU code does not always take the
/// nearest code for a scale, so its double quantisation is repeated only where its codes are known.
fn golden_case(name: &str, checkpoint: &Path, goldens: &Path, exact: bool) {
    let init = tensors(goldens.join("lora-f32.safetensors"));
    let golden = tensors(goldens.join(format!("{name}.safetensors")));
    let ids: Vec<Vec<i64>> = tensors(goldens.join("forward.safetensors"))["input_ids"].to_vec2().unwrap();
    let rows: Vec<Vec<u32>> = ids.iter().map(|row| row.iter().map(|id| *id as u32).collect()).collect();
    let settings = HealSettings {
        quant: if name == "lora-f32" { Quant::None } else { Quant::Nf4 },
        plain_scales: name != "lora-nf4-dq",
        rank: 8.into(),
        alpha: Some(16.0),
        dropout: 0.0,
        lr: 1e-3,
        schedule: prune::heal::schedule::Decay::Constant,
        warmup: Some(0.0),
        weight_decay: 0.01,
        clip: 0.0,
        ..HealSettings::default()
    };
    let model = open(checkpoint, &settings);
    for (name, parameter) in parameters(&model).unwrap() {
        set(&parameter, &init[&format!("init.{name}")]);
    }
    let mut trainer = Trainer::new(&model, None, &settings, CheckpointingPolicy::on(&Device::Cpu, 99)).unwrap();
    let (_, gradients, _) = trainer.gradients(&rows).unwrap();
    let (mut compared, mut worst) = (0, 0f64);
    for (name, gradient) in &gradients {
        if let Some(expected) = golden.get(&format!("grad.{name}")) {
            worst = worst.max(difference(gradient, expected) / largest(expected));
            compared += 1;
        }
    }
    println!("{name}: gradients {worst:e}");
    assert!(worst < if exact { 2e-5 } else { 2e-3 }, "{name}: a gradient is off by {worst:e} of its size");
    assert!(compared >= 12, "{compared} gradients compared");
    let losses: Vec<f64> = golden["losses"].to_vec1().unwrap();
    let mut off = 0f64;
    for (step, expected) in losses.iter().enumerate() {
        let loss = if step < 10 {
            trainer.step(&rows).unwrap().loss
        } else {
            let (sums, _, targets) = trainer.gradients(&rows).unwrap();
            sums.loss / targets as f64
        };
        off = off.max((loss - expected).abs());
    }
    let mut after = 0f64;
    for (name, parameter) in trainer.parameters() {
        if let Some(expected) = golden.get(&format!("after10.{name}")) {
            after = after.max(difference(parameter, expected));
        }
    }
    println!("{name}: after ten steps {after:e}, losses {off:e}");
    assert!(off < 2e-5, "{name}: a loss is off by {off:e}");
    // AdamW's first steps go by the sign of a gradient, and that of one near zero by its last bit
    assert!(after < if exact { 1e-4 } else { 1e-2 }, "{name}: off by {after:e} after ten steps");
}

/// `tiny` in four bits with the codes and scales that bitsandbytes gave it.
fn write_double_quantized(dir: &Path, tiny: &Path) {
    let golden = tensors(tiny.join("nf4-dq-weights.safetensors"));
    let checkpoint = Checkpoint::open_dir(tiny).unwrap();
    let bytes = |name: &str| golden[name].flatten_all().unwrap().to_vec1::<u8>().unwrap();
    let floats = |name: &str| golden[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let map: [f32; 256] = floats("code2").try_into().unwrap();
    let mut all = Vec::new();
    for (name, entry) in &checkpoint.tensors {
        let module = name.strip_suffix(".weight").unwrap();
        if !golden.contains_key(&format!("{module}.packed")) {
            let (shape, bytes) = (entry.shape.clone(), checkpoint.read(entry).unwrap());
            all.push(Named { name: name.clone(), dtype: entry.dtype, shape, bytes });
            continue;
        }
        let scales = Scales::Double {
            codes: bytes(&format!("{module}.absmax_u8")),
            map: Arc::new(map),
            outer: floats(&format!("{module}.absmax2")),
            outer_block: 256,
            offset: floats(&format!("{module}.offset"))[0],
        };
        let (packed, shape) = (bytes(&format!("{module}.packed")), (entry.shape[0], entry.shape[1]));
        let codes = floats("code").try_into().unwrap();
        let weight = Nf4Weight::new(packed, scales, codes, 64, shape, DType::F32).unwrap();
        let parts = four_bit::parts(name, &weight).into_iter();
        all.extend(parts.map(|(name, dtype, shape, bytes)| Named { name, dtype, shape, bytes }));
    }
    write_safetensors(&dir.join("model.safetensors"), &all);
    write_json(&dir.join("config.json"), &Value::Object(checkpoint.config.clone()));
}

/// Gradients and ten AdamW steps against PyTorch, PEFT and bitsandbytes: base in f32, NF4, NF4 with double
/// quantisation.
#[test]
fn pytorchs_gradients_and_steps_on_tiny() {
    let Some(tiny) = shared("golden/mini/tiny") else { return };
    for name in ["lora-f32", "lora-nf4"] {
        golden_case(name, &tiny, &tiny, true);
    }
    golden_case("lora-nf4-dq", &tiny, &tiny, false);
    let dir = tempfile::tempdir().unwrap();
    write_double_quantized(dir.path(), &tiny);
    golden_case("lora-nf4-dq", dir.path(), &tiny, true);
}

/// The same on `mini`, 16 layers, whose weights are made from their formula.
#[test]
fn pytorchs_gradients_and_steps_on_mini() {
    let Some(mini) = shared("golden/mini/mini") else { return };
    let dir = tempfile::tempdir().unwrap();
    assert!(formula::mini(dir.path()));
    for name in ["lora-f32", "lora-nf4", "lora-nf4-dq"] {
        golden_case(name, dir.path(), &mini, name != "lora-nf4-dq");
    }
}
