//! Attention over trees of segments, forward and back, against the CPU's.

use std::sync::Arc;

use candle_core::Tensor;
use prune::ops::{self, Heads, Layout};

use crate::gpu;
use crate::numbers::{assert_close, random};

/// Prefixes, answers of every length, sequences that stand alone: lengths on both sides of the kernels' tiles.
fn trees() -> Vec<Layout> {
    let mut tree = Layout::default();
    let prefix = tree.push(70, None).unwrap();
    let question = tree.push(5, Some(prefix)).unwrap();
    tree.push(33, Some(question)).unwrap();
    tree.push(1, Some(question)).unwrap();
    tree.push(40, Some(prefix)).unwrap();
    tree.push(31, None).unwrap();
    vec![Layout::sequences([1]).unwrap(), Layout::sequences([32, 3, 65]).unwrap(), tree]
}

#[test]
fn equals_the_cpu() {
    // forward, back
    compare("f32", [1e-5, 2e-5]);
}

/// On tensor cores: operands and results rounded to eight bits, the CPU's are not.
#[test]
fn equals_the_cpu_in_bf16() {
    compare("bf16", [0.02, 0.1]);
}

fn compare(dtype: &str, tolerances: [f64; 2]) {
    let Some(gpu) = gpu(dtype) else { return };
    let on = |x: &Tensor| x.to_device(&gpu.device).unwrap();
    for layout in trees().into_iter().map(Arc::new) {
        let t = layout.tokens();
        for (heads, kv_heads, head_dim, window) in [
            (1, 1, 4, None),
            (4, 2, 8, Some(7)),
            (6, 2, 33, None),
            (2, 1, 64, Some(33)),
            (2, 2, 80, None),
            (2, 1, 96, Some(1)),
            (3, 1, 128, None),
            (1, 1, 160, None),
        ] {
            let heads = Heads {
                heads,
                kv_heads,
                head_dim,
                scale: 1.0 / (head_dim as f32).sqrt(),
                window,
                cap: None,
                sinks: None,
            };
            let (width, kv_width) = (heads.heads * head_dim, kv_heads * head_dim);
            let (q, k, v) = ((random(1, t, width) * 4.0).unwrap(), random(2, t, kv_width), random(3, t, kv_width));
            let dout = random(4, t, width);
            let found = ops::attention_kept(&on(&q), &on(&k), &on(&v), &layout, &heads).unwrap();
            let expected = ops::attention_kept(&q, &k, &v, &layout, &heads).unwrap();
            let what = format!("{heads:?} {t} tokens");
            assert_close(&what, &found.out, &expected.out, tolerances[0]);
            let alone = ops::attention(&on(&q), &on(&k), &on(&v), &layout, &heads).unwrap();
            assert_close(&what, &alone, &expected.out, tolerances[0]);
            let (dq, dk, dv) = ops::attention_backward((&on(&q), &on(&k), &on(&v)), &found, &on(&dout)).unwrap();
            let (own_dq, own_dk, own_dv) = ops::attention_backward((&q, &k, &v), &expected, &dout).unwrap();
            assert_close(&format!("dq {what}"), &dq, &own_dq, tolerances[1]);
            assert_close(&format!("dk {what}"), &dk, &own_dk, tolerances[1]);
            assert_close(&format!("dv {what}"), &dv, &own_dv, tolerances[1]);
        }
    }
    let x = on(&random(1, 3, 300));
    let heads = Heads { heads: 1, kv_heads: 1, head_dim: 300, scale: 1.0, window: None, cap: None, sinks: None };
    let layout = Arc::new(Layout::sequences([3]).unwrap());
    let error = ops::attention(&x, &x, &x, &layout, &heads).unwrap_err().to_string();
    assert!(error.contains("300") && error.contains("256"), "{error}");
}
