//! Attention against the plain formula.

use candle_core::Device;

use super::*;
use crate::ops::testing::{as_view, assert_close, assert_same_on_any_threads, check, random};
use crate::reference::{self, seen};

/// A tree: a prefix with two questions, one of which has two answers, and a sequence of its own in between.
fn tree(lengths: [usize; 6]) -> Arc<Layout> {
    let mut layout = Layout::default();
    let prefix = layout.push(lengths[0], None).unwrap();
    let question = layout.push(lengths[1], Some(prefix)).unwrap();
    layout.push(lengths[2], None).unwrap();
    layout.push(lengths[3], Some(question)).unwrap();
    layout.push(lengths[4], Some(prefix)).unwrap();
    layout.push(lengths[5], Some(question)).unwrap();
    Arc::new(layout)
}

fn heads(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> Heads {
    Heads { heads, kv_heads, head_dim, scale: 2.0 / (head_dim as f32).sqrt(), window, cap: None, sinks: None }
}

fn inputs(layout: &Layout, heads: &Heads) -> [Tensor; 3] {
    let width = |heads_: usize| heads_ * heads.head_dim;
    let spread = (random(1, layout.tokens(), width(heads.heads)) * 4.0).unwrap();
    let kv = |seed| random(seed, layout.tokens(), width(heads.kv_heads));
    [spread, kv(2), kv(3)]
}

#[test]
fn agrees_with_the_formula() {
    let plain = |lengths: &[usize]| Arc::new(Layout::sequences(lengths.iter().copied()).unwrap());
    for (layout, heads) in [
        (plain(&[1]), heads(1, 1, 4, None)),
        (plain(&[1, 2, 1]), heads(2, 1, 5, None)),
        (plain(&[7, 40]), heads(4, 2, 16, Some(3))),
        (plain(&[49]), heads(6, 2, 8, Some(1))),
        (plain(&[97, 15, 33]), heads(3, 3, 64, None)),
        (plain(&[600]), heads(2, 1, 24, None)),
        (plain(&[600]), heads(2, 1, 24, Some(70))),
        (plain(&[300]), heads(1, 1, 8, Some(1000))),
        (tree([5, 3, 4, 1, 2, 6]), heads(4, 1, 10, None)),
        (tree([130, 50, 20, 17, 3, 90]), heads(4, 2, 32, None)),
        (tree([130, 50, 20, 17, 3, 90]), heads(4, 2, 32, Some(60))),
        (tree([270, 2, 9, 1, 1, 55]), heads(2, 2, 16, Some(256))),
    ] {
        let seen = seen(&layout, heads.window);
        check(
            &inputs(&layout, &heads),
            |x| attention(&x[0], &x[1], &x[2], &layout, &heads),
            |x, dy| {
                let attended = attention_kept(&x[0], &x[1], &x[2], &layout, &heads)?;
                attention_backward((&x[0], &x[1], &x[2]), &attended, dy).map(|(dq, dk, dv)| vec![dq, dk, dv])
            },
            |x| reference::attention([&x[0], &x[1], &x[2]], &seen, heads.head_dim, heads.scale),
            1e-5,
        );
    }
}

/// Caps of the scores, low enough to bend them.
#[test]
fn caps_agree_with_the_formula() {
    for (layout, heads) in [
        (Arc::new(Layout::sequences([7, 40]).unwrap()), heads(4, 2, 16, Some(3))),
        (tree([130, 50, 20, 17, 3, 90]), heads(4, 2, 32, None)),
    ] {
        let (seen, cap) = (seen(&layout, heads.window), 0.8);
        let heads = Heads { cap: Some(cap), ..heads };
        check(
            &inputs(&layout, &heads),
            |x| attention(&x[0], &x[1], &x[2], &layout, &heads),
            |x, dy| {
                let attended = attention_kept(&x[0], &x[1], &x[2], &layout, &heads)?;
                attention_backward((&x[0], &x[1], &x[2]), &attended, dy).map(|(dq, dk, dv)| vec![dq, dk, dv])
            },
            |x| {
                let cap = Some(f64::from(cap));
                reference::capped_attention([&x[0], &x[1], &x[2]], &seen, heads.head_dim, heads.scale, cap)
            },
            1e-5,
        );
    }
}

/// Sinks as large as scores, far smaller and far larger; with a cache as without one.
#[test]
fn sinks_agree_with_the_formula() {
    for (layout, heads) in [
        (Arc::new(Layout::sequences([7, 40]).unwrap()), heads(4, 2, 16, Some(3))),
        (tree([130, 50, 20, 17, 3, 90]), heads(4, 2, 32, None)),
        (Arc::new(Layout::sequences([1]).unwrap()), heads(4, 4, 8, None)),
    ] {
        let seen = seen(&layout, heads.window);
        let sunk =
            |sinks: &Tensor| Heads { sinks: Some(sinks.flatten_all().unwrap().to_vec1().unwrap()), ..heads.clone() };
        let mut inputs = inputs(&layout, &heads).to_vec();
        inputs.push(Tensor::new(&[[0.5f32, -30.0, 3.0, 1.0]], &Device::Cpu).unwrap());
        check(
            &inputs,
            |x| attention(&x[0], &x[1], &x[2], &layout, &sunk(&x[3])),
            |x, dy| {
                let attended = attention_kept(&x[0], &x[1], &x[2], &layout, &sunk(&x[3]))?;
                let (dq, dk, dv) = attention_backward((&x[0], &x[1], &x[2]), &attended, dy)?;
                Ok(vec![dq, dk, dv, sinks_backward(&attended, dy)?.unsqueeze(0)?])
            },
            |x| reference::attention_with_sinks([&x[0], &x[1], &x[2]], &x[3], &seen, heads.head_dim, heads.scale),
            1e-5,
        );
    }
    let (layout, plain) = (Arc::new(Layout::sequences([40]).unwrap()), heads(4, 2, 16, Some(7)));
    let [q, k, v] = inputs(&layout, &plain);
    let heads = Heads { sinks: Some(vec![0.5, -1.0, 3.0, f32::MIN]), ..plain.clone() };
    let whole = attention(&q, &k, &v, &layout, &heads).unwrap();
    for t in [1, 2, 9, 40] {
        let last = attention_over(&q.narrow(0, 40 - t, t).unwrap(), &k, &v, &heads).unwrap();
        assert_close("last", &last, &whole.narrow(0, 40 - t, t).unwrap(), 1e-6);
    }
    // one that is far below all scores takes nothing
    let plain = attention(&q, &k, &v, &layout, &plain).unwrap();
    assert_close("no share", &whole.narrow(1, 48, 16).unwrap(), &plain.narrow(1, 48, 16).unwrap(), 0.0);
    let fewer = Heads { sinks: Some(vec![0.0; 3]), ..heads };
    assert!(attention(&q, &k, &v, &layout, &fewer).is_err());
}

#[test]
fn a_tree_is_its_sequences() {
    let layout = tree([100, 30, 64, 20, 70, 5]);
    let heads = heads(4, 2, 16, None);
    let [q, k, v] = inputs(&layout, &heads);
    let together = attention(&q, &k, &v, &layout, &heads).unwrap();
    for (index, segment) in layout.segments().iter().enumerate() {
        let mut runs = layout.prefix(index);
        runs.push(segment.start..segment.start + segment.len);
        let gather = |x: &Tensor| {
            let runs: Vec<_> = runs.iter().map(|run| x.narrow(0, run.start, run.len()).unwrap()).collect();
            Tensor::cat(&runs, 0).unwrap()
        };
        let alone = Arc::new(Layout::sequences([segment.position + segment.len]).unwrap());
        let alone = attention(&gather(&q), &gather(&k), &gather(&v), &alone, &heads).unwrap();
        let alone = alone.narrow(0, segment.position, segment.len).unwrap();
        assert_close("segment", &together.narrow(0, segment.start, segment.len).unwrap(), &alone, 1e-6);
    }
}

#[test]
fn the_last_tokens_alone_give_what_the_whole_gives() {
    for (n, heads) in [
        (1, heads(2, 1, 4, None)),
        (40, heads(4, 2, 10, None)),
        (300, heads(24, 2, 16, None)),
        (300, heads(2, 2, 64, Some(17))),
        (600, heads(4, 1, 8, Some(1))),
    ] {
        let layout = Arc::new(Layout::sequences([n]).unwrap());
        let [q, k, v] = inputs(&layout, &heads);
        let whole = attention(&q, &k, &v, &layout, &heads).unwrap();
        for t in [1, 2, 8, 9, 33, n] {
            let Some(start) = n.checked_sub(t) else { continue };
            let last = attention_over(&q.narrow(0, start, t).unwrap(), &k, &v, &heads).unwrap();
            assert_close(&format!("the last {t} of {n}"), &last, &whole.narrow(0, start, t).unwrap(), 1e-6);
        }
        assert_same_on_any_threads(|| vec![attention_over(&q.narrow(0, n - 1, 1).unwrap(), &k, &v, &heads).unwrap()]);
        let wide = attention_over(&as_view(&q), &as_view(&k), &as_view(&v), &heads).unwrap();
        assert_close("view", &wide, &whole, 0.0);
        assert!(n == 1 || attention_over(&q, &k.narrow(0, 1, n - 1).unwrap(), &v, &heads).is_err());
    }
}

#[test]
fn views_are_read_where_they_are() {
    let layout = tree([50, 3, 4, 1, 2, 6]);
    let heads = heads(4, 2, 16, None);
    let [q, k, v] = inputs(&layout, &heads);
    let expected = attention(&q, &k, &v, &layout, &heads).unwrap();
    let found = attention(&as_view(&q), &as_view(&k), &as_view(&v), &layout, &heads).unwrap();
    assert_close("view", &found, &expected, 0.0);
}

#[test]
fn same_on_any_threads() {
    let layout = tree([130, 50, 20, 17, 3, 90]);
    let heads = heads(4, 2, 32, Some(100));
    let inputs = inputs(&layout, &heads);
    assert_same_on_any_threads(|| {
        let [q, k, v] = &inputs;
        let attended = attention_kept(q, k, v, &layout, &heads).unwrap();
        let (dq, dk, dv) = attention_backward((q, k, v), &attended, &attended.out).unwrap();
        vec![attended.out, dq, dk, dv]
    });
}

#[test]
fn large_scores_do_not_overflow_and_nan_is_not_hidden() {
    let layout = Arc::new(Layout::sequences([300]).unwrap());
    let heads = heads(1, 1, 8, None);
    let [q, k, v] = inputs(&layout, &heads);
    let (q, k) = ((q * 1e4).unwrap(), (k * 1e4).unwrap());
    let y = attention(&q, &k, &v, &layout, &heads).unwrap();
    assert!(crate::ops::all_finite(&y).unwrap());
    let mut values = v.to_vec2::<f32>().unwrap();
    values[10][3] = f32::NAN;
    let v = Tensor::new(values, &Device::Cpu).unwrap();
    assert!(!crate::ops::all_finite(&attention(&q, &k, &v, &layout, &heads).unwrap()).unwrap());
}

#[test]
fn faults_are_named() {
    let layout = Arc::new(Layout::sequences([3]).unwrap());
    let x = random(1, 3, 8);
    for bad in [heads(3, 2, 4, None), heads(2, 0, 4, None), heads(2, 2, 0, None), heads(2, 2, 4, Some(0))] {
        assert!(attention(&x, &x, &x, &layout, &bad).is_err());
    }
    assert!(attention(&x, &x, &x, &layout, &heads(2, 2, 4, None)).is_ok());
    let message = attention(&x, &random(1, 4, 8), &x, &layout, &heads(2, 2, 4, None)).unwrap_err().to_string();
    assert!(message.contains("k is [4, 8]"), "{message}");
}
