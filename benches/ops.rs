//! Single operations against candle's own.
#![allow(clippy::unwrap_used, reason = "a benchmark fails where it unwraps")]

mod pairs;

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use criterion::Criterion;
use pairs::pair;
use prune::ops::{self, Heads, Layout, WeightMatrix};

const TOKENS: usize = 512;
const HIDDEN: usize = 768;
const MLP: usize = 2048;

fn random(shape: &[usize]) -> Tensor {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
}

fn products(criterion: &mut Criterion) {
    let (x, weight) = (random(&[TOKENS, HIDDEN]), random(&[MLP, HIDDEN]));
    pair(
        criterion,
        ("product, f32", "candle matmul"),
        || ops::linear(&x, &weight).unwrap(),
        || x.matmul(&weight.t().unwrap()).unwrap(),
    );
    let narrow = weight.to_dtype(DType::BF16).unwrap();
    pair(
        criterion,
        ("product, bf16 weight", "candle widen and matmul"),
        || ops::linear(&x, &narrow).unwrap(),
        || x.matmul(&narrow.to_dtype(DType::F32).unwrap().t().unwrap()).unwrap(),
    );
    let four_bit = WeightMatrix::Dense(weight.clone()).quantize(true).unwrap();
    pair(
        criterion,
        ("product, NF4 weight", "dequantise and candle matmul"),
        || four_bit.linear(&x).unwrap(),
        || x.matmul(&four_bit.dense(DType::F32, &Device::Cpu).unwrap().t().unwrap()).unwrap(),
    );
    let one = random(&[1, HIDDEN]);
    pair(
        criterion,
        ("product, one token", "candle matmul"),
        || ops::linear(&one, &weight).unwrap(),
        || one.matmul(&weight.t().unwrap()).unwrap(),
    );
}

fn elementwise(criterion: &mut Criterion) {
    let (x, weight) = (random(&[TOKENS, HIDDEN]), random(&[HIDDEN]));
    pair(
        criterion,
        ("RMS norm", "candle, with a gradient"),
        || ops::rms_norm(&x, &weight, 1e-5).unwrap(),
        || candle_nn::ops::rms_norm_slow(&x, &weight, 1e-5).unwrap(),
    );
    let (gate, up) = (random(&[TOKENS, MLP]), random(&[TOKENS, MLP]));
    pair(
        criterion,
        ("SwiGLU", "candle silu and product"),
        || ops::swiglu(&gate, &up).unwrap(),
        || (gate.silu().unwrap() * &up).unwrap(),
    );
}

/// Attention as candle's models write it: all scores, a mask, softmax.
fn plain_attention(q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor, heads: usize) -> Tensor {
    let split = |x: &Tensor| {
        let (t, width) = x.dims2().unwrap();
        x.reshape((t, heads, width / heads)).unwrap().transpose(0, 1).unwrap().contiguous().unwrap()
    };
    let (q, k, v) = (split(q), split(k), split(v));
    let scale = 1.0 / (q.dim(2).unwrap() as f64).sqrt();
    let scores = (q.matmul(&k.t().unwrap()).unwrap() * scale).unwrap().broadcast_add(mask).unwrap();
    let weights = candle_nn::ops::softmax(&scores, D::Minus1).unwrap();
    weights.matmul(&v).unwrap().transpose(0, 1).unwrap().contiguous().unwrap().flatten_from(1).unwrap()
}

fn attention(criterion: &mut Criterion) {
    let (q, k, v) = (random(&[TOKENS, HIDDEN]), random(&[TOKENS, HIDDEN]), random(&[TOKENS, HIDDEN]));
    let heads = Heads { heads: 12, kv_heads: 12, head_dim: 64, scale: 0.125, window: None, cap: None, sinks: None };
    let layout = Arc::new(Layout::sequences([TOKENS]).unwrap());
    let mask: Vec<f32> = (0..TOKENS * TOKENS)
        .map(|place| if place % TOKENS > place / TOKENS { f32::NEG_INFINITY } else { 0.0 })
        .collect();
    let mask = Tensor::from_vec(mask, (TOKENS, TOKENS), &Device::Cpu).unwrap();
    let (ours, theirs) =
        (ops::attention(&q, &k, &v, &layout, &heads).unwrap(), plain_attention(&q, &k, &v, &mask, heads.heads));
    let difference = (ours - theirs).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
    assert!(difference.to_scalar::<f32>().unwrap() < 1e-4, "both compute the same");
    pair(
        criterion,
        ("causal attention", "candle softmax"),
        || ops::attention(&q, &k, &v, &layout, &heads).unwrap(),
        || plain_attention(&q, &k, &v, &mask, heads.heads),
    );
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    products(&mut criterion);
    elementwise(&mut criterion);
    attention(&mut criterion);
    criterion.final_summary();
}
