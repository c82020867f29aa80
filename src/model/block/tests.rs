//! Blocks of any wiring: sub-layers left out, two in one sum, none; forward by formula, backward by candle's autograd.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::arch::{Residual as Wiring, Role, SubLayerKind};
use crate::model::training::{CheckpointingPolicy, TrainContext};
use crate::model::{Batch, Parameter, Part};
use crate::ops::WeightMatrix;
use crate::ops::testing::{assert_close, numbers, random};
use crate::plan::SubLayers;
use crate::reference::Layer;
use crate::weights::lora::{Adapters, LoraSettings, Targets};

const D: usize = 12;

/// A layer of four query heads and two of keys, of 4 dimensions each, in a checkpoint that has no others than `roles`.
struct Fixture {
    _dir: TempDir,
    checkpoint: Arc<Checkpoint>,
    spec: ModelSpec,
}

impl Fixture {
    fn new(without: SubLayers) -> Self {
        Self::of(&json!({"model_type": "qwen3"}), without)
    }

    /// The same of the family that `patch` says.
    fn of(patch: &Value, without: SubLayers) -> Self {
        let mut config = json!({
            "hidden_size": D, "intermediate_size": 20, "num_attention_heads": 4, "head_dim": 4,
            "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": 16,
        });
        config.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
        let mut spec = ModelSpec::from_config(config.as_object().unwrap()).unwrap();
        spec.without = vec![without];
        let dir = tempfile::tempdir().unwrap();
        let tensors = spec.layer_tensors(0).into_iter().map(|tensor| {
            let count = tensor.shape.iter().product();
            let norm = if tensor.role.is_linear() || tensor.name.ends_with("bias") { 0.0 } else { 1.0 };
            let values = numbers(&random(seed_of(tensor.role), 1, count)).into_iter().map(|x| (0.5 * x + norm) as f32);
            (tensor.name, tensor.shape, values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
        });
        let tensors: Vec<_> = tensors.collect();
        let views = tensors
            .iter()
            .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let checkpoint = Arc::new(Checkpoint::open_dir(dir.path()).unwrap());
        Self { _dir: dir, checkpoint, spec }
    }

    fn load(&self, load_options: &LoadOptions) -> Block {
        Block::load(&self.checkpoint, &self.spec, (0, 0), load_options, &Device::Cpu).unwrap()
    }

    /// The same layer without some of what it has.
    fn load_without(&self, without: SubLayers) -> Block {
        let spec = ModelSpec { without: vec![without], ..self.spec.clone() };
        Block::load(&self.checkpoint, &spec, (0, 0), &LoadOptions::default(), &Device::Cpu).unwrap()
    }

    fn wired(&self, residuals: &[Wiring], load_options: &LoadOptions) -> Result<Block> {
        let (checkpoint, spec, device) = (&self.checkpoint, &self.spec, &Device::Cpu);
        Block::made_of(residuals, &Loader { checkpoint, spec, layer: 0, place: 0, load_options, device })
    }

    /// What the formulas make of `x`.
    fn formula(&self, x: &Tensor, pass: &ForwardContext, wiring: &[Wiring], adapters: Option<&Adapters>) -> Tensor {
        let layer = Layer { checkpoint: &self.checkpoint, spec: &self.spec, layer: 0, adapters };
        layer.forward(&x.to_dtype(DType::F64).unwrap(), pass, wiring).unwrap()
    }
}

/// A seed for each role, and each expert.
fn seed_of(role: Role) -> u64 {
    let (number, expert) = role.number();
    u64::from(number) + 1000 * u64::from(expert.map_or(0, |expert| expert + 1))
}

fn pass(spec: &ModelSpec, lengths: &[usize]) -> ForwardContext {
    let sequences: Vec<Vec<u32>> = lengths.iter().map(|len| vec![1; *len]).collect();
    ForwardContext::new(spec, &Batch::sequences(&sequences).unwrap(), &Device::Cpu).unwrap()
}

/// What is left out is not read, and the rest is `x` plus what the others make of their norm of it.
#[test]
fn sub_layers_are_left_out() {
    let whole = Fixture::new(SubLayers::default());
    let (x, pass, wirings) = (random(1, 5, D), pass(&whole.spec, &[3, 2]), wirings());
    for (attention, mlp, left) in [(false, false, 0), (false, true, 1), (true, false, 2), (true, true, 4)] {
        let (without, load_options) = (SubLayers { attention, mlp }, LoadOptions::default());
        let less = Fixture::new(without);
        let found = less.load(&load_options).forward(&x, &pass).unwrap();
        assert_close(&format!("{without:?}"), &found, &whole.formula(&x, &pass, &wirings[left], None), 1e-5);
        let tensors = less.spec.layer_tensors(0);
        let numbers: usize = tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>()).sum();
        assert_eq!(load_options.bytes(&less.checkpoint, &less.spec, (0, 0), &Device::Cpu), 4 * numbers as u64);
        // a layer with all of them finds them missing
        let all = ModelSpec { without: vec![SubLayers::default()], ..less.spec.clone() };
        let all = Block::load(&less.checkpoint, &all, (0, 0), &load_options, &Device::Cpu);
        assert_eq!(all.is_ok(), without.is_empty());
    }
}

/// What is left beside a sub-layer that is left out computes the same bits, whatever the tokens see.
#[test]
fn halves_make_the_whole() {
    let whole = Fixture::new(SubLayers::default());
    let (x, pass) = (random(2, 9, D), pass(&whole.spec, &[6, 3]));
    let half = |attention, mlp, x: &Tensor| whole.load_without(SubLayers { attention, mlp }).forward(x, &pass).unwrap();
    let found = half(true, false, &half(false, true, &x));
    assert_eq!(numbers(&found), numbers(&whole.load(&LoadOptions::default()).forward(&x, &pass).unwrap()));
}

/// A map behind a block: the stream plus itself times M, and the same back; of a rank as whole.
#[test]
fn a_linear_map_follows_a_block() {
    let fixture = Fixture::new(SubLayers::default());
    let (x, dy, pass) = (random(4, 7, D), random(5, 7, D), pass(&fixture.spec, &[4, 3]));
    let policy = CheckpointingPolicy::on(&Device::Cpu, 1);
    let training = TrainContext { forward: &pass, place: 0, dropout: None, policy, inputs: None, rows: None };
    let plain = fixture.load(&LoadOptions::default());
    let (reduce, expand) = (random(6, 3, D), random(7, D, 3));
    let whole = expand.matmul(&reduce).unwrap();
    for factors in [vec![whole.clone()], vec![reduce, expand]] {
        let mut mapped = fixture.load(&LoadOptions::default());
        let factors = factors.into_iter().map(WeightMatrix::Dense).collect();
        mapped.seam_map = Some(LinearMap::new(factors).unwrap());
        let left = plain.forward(&x, &pass).unwrap();
        let expected = (&left + left.matmul(&whole.t().unwrap()).unwrap()).unwrap();
        assert_close("forward", &mapped.forward(&x, &pass).unwrap(), &expected, 1e-5);
        let through = (&dy + dy.matmul(&whole).unwrap()).unwrap();
        for all in [true, false] {
            let (y, saved) = mapped.forward_saving(&x, &training, all).unwrap();
            assert_close("training", &y, &expected, 1e-5);
            let (dx, _) = mapped.backward(saved, &training, dy.copy().unwrap(), true).unwrap();
            let (_, saved) = plain.forward_saving(&x, &training, all).unwrap();
            let (expected, _) = plain.backward(saved, &training, through.copy().unwrap(), true).unwrap();
            assert_close("backward", &dx.unwrap(), &expected.unwrap(), 1e-5);
        }
        let refused = mapped.forward_sublayer(plan::SubLayer::Mlp, &x, &pass).unwrap_err();
        assert!(refused.exit_code() == 2 && refused.to_string().contains("seam_maps"), "{refused}");
    }
}

/// The wirings that differ: in turn, each alone, in parallel, none, in parallel through a norm each.
fn wirings() -> Vec<Vec<Wiring>> {
    use SubLayerKind::{Attention, GatedMlp};
    let residual = |norm, sum: &[SubLayerKind]| Wiring { norms: vec![norm], sum: sum.to_vec(), post_norm: None };
    let (attention, mlp) = (residual(Role::InputNorm, &[Attention]), residual(Role::PostNorm, &[GatedMlp]));
    let parallel = residual(Role::InputNorm, &[Attention, GatedMlp]);
    let each = Wiring { norms: vec![Role::InputNorm, Role::PostNorm], ..parallel.clone() };
    vec![vec![attention.clone(), mlp.clone()], vec![attention], vec![mlp], vec![parallel], vec![], vec![each]]
}

#[test]
fn a_parallel_block_sees_one_norm_or_two() {
    let fixture = Fixture::new(SubLayers::default());
    let (x, pass) = (random(3, 4, D), pass(&fixture.spec, &[4]));
    for at in [3, 5] {
        let wiring = &wirings()[at];
        let block = fixture.wired(wiring, &LoadOptions::default()).unwrap();
        let expected = fixture.formula(&x, &pass, wiring, None);
        assert_close("parallel", &block.forward(&x, &pass).unwrap(), &expected, 1e-5);
    }
    let upside_down: Vec<Wiring> = wirings()[0].iter().rev().cloned().collect();
    assert!(fixture.wired(&upside_down, &LoadOptions::default()).is_err());
}

/// Forward and back in training, all kept or computed again, some tokens at a time or all of them.
fn train(
    block: &Block,
    x: &Tensor,
    pass: &ForwardContext,
    dy: &Tensor,
    at_once: usize,
    all: bool,
) -> (Tensor, Tensor, Vec<Parameter>) {
    let policy = CheckpointingPolicy { saved_layers: 0, chunk_size: at_once, offload_activations: false };
    let training = TrainContext { forward: pass, place: 0, dropout: None, policy, inputs: None, rows: None };
    let (y, kept) = block.forward_saving(x, &training, all).unwrap();
    // the gradient that is handed over is used up
    let (dx, gradients) = block.backward(kept, &training, dy.copy().unwrap(), true).unwrap();
    (y, dx.unwrap(), gradients)
}

#[test]
fn gradients_of_any_wiring_are_autograds() {
    let fixture = Fixture::new(SubLayers::default());
    for dora in [false, true] {
        let settings = LoraSettings { targets: Targets::AllLinear, rank: 3, dora, ..LoraSettings::default() };
        gradients_with_adapters(&fixture, &settings, &wirings());
    }
}

/// A family for each kind of norm, its places, rotation, activation, multiplier and cap.
fn families() -> Vec<Value> {
    vec![
        json!({"model_type": "granite", "residual_multiplier": 0.3, "attention_multiplier": 0.7, "attention_bias": true}),
        json!({"model_type": "nemotron"}),
        json!({"model_type": "ernie4_5"}),
        json!({"model_type": "hunyuan_v1_dense"}),
        json!({"model_type": "exaone4"}),
        json!({"model_type": "gemma2", "attn_logit_softcapping": 2.0, "sliding_window": 3}),
        json!({"model_type": "gemma3_text", "sliding_window": 3}),
        json!({"model_type": "olmo2"}),
        json!({"model_type": "glm4"}),
        json!({"model_type": "cohere", "num_key_value_heads": 4}),
        json!({"model_type": "phi"}),
        json!({"model_type": "starcoder2", "hidden_act": "gelu"}),
        json!({"model_type": "gpt_neox", "num_key_value_heads": 4, "head_dim": null, "hidden_size": 16, "rotary_pct": 0.5}),
        json!({
            "model_type": "gpt_neox", "num_key_value_heads": 4, "head_dim": null, "hidden_size": 16,
            "use_parallel_residual": false, "rotary_pct": 1.0,
        }),
        json!({"model_type": "apertus", "attention_bias": true}),
        json!({"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}),
        json!({"model_type": "qwen3_moe", "num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 8}),
        json!({
            "model_type": "qwen2_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
            "shared_expert_intermediate_size": 6, "norm_topk_prob": true,
        }),
        json!({
            "model_type": "dots1", "n_routed_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
            "n_shared_experts": 2, "norm_topk_prob": true, "routed_scaling_factor": 1.5,
        }),
        json!({"model_type": "granitemoe", "num_local_experts": 3, "num_experts_per_tok": 2, "attention_multiplier": 0.5}),
        json!({
            "model_type": "glm4_moe", "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 8,
            "n_group": 3, "topk_group": 2, "first_k_dense_replace": 0, "use_qk_norm": true, "routed_scaling_factor": 1.5,
        }),
        json!({
            "model_type": "deepseek_v2", "num_key_value_heads": 4, "q_lora_rank": 7, "kv_lora_rank": 5,
            "qk_nope_head_dim": 3, "qk_rope_head_dim": 4, "v_head_dim": 2, "n_routed_experts": 6,
            "num_experts_per_tok": 2, "moe_intermediate_size": 8, "topk_method": "group_limited_greedy", "n_group": 3,
            "topk_group": 2, "routed_scaling_factor": 1.5, "attention_bias": true, "mlp_bias": true,
        }),
        json!({
            "model_type": "deepseek_v3", "num_key_value_heads": 4, "q_lora_rank": null, "kv_lora_rank": 5,
            "qk_nope_head_dim": 2, "qk_rope_head_dim": 2, "v_head_dim": 6, "n_routed_experts": 6,
            "num_experts_per_tok": 2, "moe_intermediate_size": 8, "n_group": 3, "topk_group": 2,
            "first_k_dense_replace": 0, "rope_interleave": false,
        }),
        json!({
            "model_type": "ernie4_5_moe", "moe_num_experts": 5, "moe_k": 2, "moe_intermediate_size": 8,
            "moe_num_shared_experts": 1, "moe_layer_start_index": 0,
        }),
        json!({
            "model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2, "swiglu_limit": 2.0,
            "sliding_window": 3, "intermediate_size": 8,
        }),
    ]
}

#[test]
fn gradients_of_any_family_are_autograds() {
    let settings = LoraSettings { targets: Targets::AllLinear, rank: 3, ..LoraSettings::default() };
    for family in families() {
        let fixture = Fixture::of(&family, SubLayers::default());
        let wiring = fixture.spec.sublayers(0);
        gradients_with_adapters(&fixture, &settings, std::slice::from_ref(&wiring));
        whole_gradients(&fixture, &wiring);
    }
}

fn gradients_with_adapters(fixture: &Fixture, settings: &LoraSettings, wirings: &[Vec<Wiring>]) {
    let mut adapters = Adapters::new(&fixture.spec, settings, 0, &Device::Cpu).unwrap();
    for adapter in adapters.modules.values_mut() {
        let (outputs, rank) = adapter.b.dims2().unwrap();
        adapter.b = (random(outputs as u64, outputs, rank) * 0.1).unwrap();
        if let Some(m) = &mut adapter.magnitude {
            *m = (random(3, 1, outputs) + 2.0).unwrap().flatten_all().unwrap();
        }
    }
    let plain = LoadOptions { adapters: Some(Arc::new(adapters.clone())), ..LoadOptions::default() };
    let mut variables = BTreeMap::new();
    for ((_, role), adapter) in &mut adapters.modules {
        let m = adapter.magnitude.as_mut().map(|m| (m, Part::Magnitude));
        for (tensor, part) in [(&mut adapter.a, Part::A), (&mut adapter.b, Part::B)].into_iter().chain(m) {
            let variable = Var::from_tensor(&tensor.to_dtype(DType::F64).unwrap()).unwrap();
            *tensor = variable.as_tensor().clone();
            variables.insert((*role, part), variable);
        }
    }
    let (x, dy, pass) = (
        random(4, 11, fixture.spec.hidden_size),
        random(5, 11, fixture.spec.hidden_size),
        pass(&fixture.spec, &[7, 4]),
    );
    for wiring in wirings {
        let entered = Var::from_tensor(&x.to_dtype(DType::F64).unwrap()).unwrap();
        let y = fixture.formula(&entered, &pass, wiring, Some(&adapters));
        let sum = (&y * dy.to_dtype(DType::F64).unwrap()).unwrap().sum_all().unwrap();
        let expected = sum.backward().unwrap();
        let block = fixture.wired(wiring, &plain).unwrap();
        for (at_once, all) in [(11, true), (11, false), (4, true), (4, false)] {
            let what = format!("{wiring:?}, {at_once} at a time, all kept: {all}");
            let (found, dx, gradients) = train(&block, &x, &pass, &dy, at_once, all);
            assert_close(&what, &found, &y, 1e-5);
            assert_close(&what, &dx, expected.get(&entered).unwrap(), 1e-5);
            assert_eq!(gradients.len(), block.parameters().len(), "{what}");
            for (role, part, gradient) in gradients {
                let expected = expected.get(&variables[&(role, part)]).unwrap();
                assert_close(&format!("{what}: {role:?} {part:?}"), &gradient, expected, 1e-5);
            }
        }
    }
}

/// A step along the gradient of a block that is trained whole changes what leaves it as the gradient says.
#[test]
fn gradients_of_whole_blocks_are_slopes() {
    let fixture = Fixture::new(SubLayers::default());
    for wiring in wirings() {
        whole_gradients(&fixture, &wiring);
    }
}

fn whole_gradients(fixture: &Fixture, wiring: &[Wiring]) {
    let load_options = LoadOptions { unfrozen: [0].into(), ..LoadOptions::default() };
    let (x, dy, pass) = (
        random(6, 11, fixture.spec.hidden_size),
        random(7, 11, fixture.spec.hidden_size),
        pass(&fixture.spec, &[7, 4]),
    );
    {
        let block = fixture.wired(wiring, &load_options).unwrap();
        let (_, _, gradients) = train(&block, &x, &pass, &dy, 4, false);
        let mut gradients: BTreeMap<_, _> =
            gradients.into_iter().map(|(role, part, own)| ((role, part), own)).collect();
        for (role, part, parameter) in block.parameters() {
            let gradient = gradients.remove(&(role, part)).unwrap();
            let (before, along) = (numbers(&parameter), numbers(&gradient));
            let norm = along.iter().map(|x| x * x).sum::<f64>().sqrt();
            let at = |step: f64| {
                let moved = before.iter().zip(&along).map(|(x, g)| (x + step * g / norm) as f32);
                let moved: Vec<f32> = moved.collect();
                ops::edit(&parameter, |own| own.copy_from_slice(&moved)).unwrap();
                let y = block.forward(&x, &pass).unwrap();
                let products = (y.to_dtype(DType::F64).unwrap() * dy.to_dtype(DType::F64).unwrap()).unwrap();
                products.sum_all().unwrap().to_scalar::<f64>().unwrap()
            };
            let slope = |step: f64| (at(step) - at(-step)) / (2.0 * step);
            // a token may change its experts within a step, which no slope tells: a shorter one does not get there
            let steps: &[f64] = if fixture.spec.experts.is_some() { &[0.01, 0.003, 0.001] } else { &[0.01] };
            let slopes: Vec<f64> = steps.iter().map(|step| slope(*step)).collect();
            at(0.0);
            let is_found = slopes.iter().any(|slope| (slope - norm).abs() < 0.01 * norm + 1e-3);
            assert!(is_found, "{wiring:?}: {role:?} {part:?}: {slopes:?} {norm}");
        }
        assert!(gradients.is_empty());
    }
}
