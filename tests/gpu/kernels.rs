//! How fast products, attention and the decoding of weights are by themselves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Device, Tensor};
use prune::ops::{self, Heads, Layout, WeightMatrix};

use crate::numbers::random;

/// The best of some runs, seconds.
pub(crate) fn best(runs: usize, device: &Device, mut work: impl FnMut()) -> f64 {
    let once = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        device.synchronize().unwrap();
        started.elapsed().as_secs_f64()
    };
    once(&mut work);
    (0..runs).map(|_| once(&mut work)).fold(f64::INFINITY, f64::min)
}

fn narrow(rows: usize, columns: usize, device: &Device) -> Tensor {
    random(7, rows, columns).to_dtype(DType::BF16).unwrap().to_device(device).unwrap()
}

/// Products of bf16 matrices with nothing else, the peak that the rest is measured against: operations a second.
pub(crate) fn products(device: &Device, width: usize) -> f64 {
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
    // a GPU that is busy for longer slows down to stay within its power
    let (x, weight) = (narrow(2 * width, 2 * width, device), WeightMatrix::Dense(narrow(2 * width, 2 * width, device)));
    let (started, mut done) = (Instant::now(), 0);
    while started.elapsed() < SUSTAINED {
        for _ in 0..20 {
            weight.linear(&x).unwrap();
        }
        device.synchronize().unwrap();
        done += 20;
    }
    let rate = (2 * done * (2 * width).pow(3)) as f64 / started.elapsed().as_secs_f64();
    eprintln!("product      the first again, for a second: {:.1} TFLOP/s", rate / 1e12);
    peak
}

/// How long is long.
const SUSTAINED: Duration = Duration::from_secs(1);

/// Attention alone, and the decoding of a matrix in four bits.
pub(crate) fn kernels(device: &Device, len: usize) {
    for (heads, kv_heads, head_dim, len) in [(32, 32, 128, len), (32, 8, 128, 4 * len), (32, 8, 64, len)] {
        let heads = Heads {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window: None,
            cap: None,
            sinks: None,
        };
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
    let (small, weight) = (narrow(8, 64, device), WeightMatrix::Dense(narrow(64, 64, device)));
    let many = 1000;
    let each = |work: &dyn Fn()| 1e6 * best(3, device, || (0..many).for_each(|_| work())) / f64::from(many);
    let kernel = each(&|| drop(ops::swiglu(&small, &small).unwrap()));
    let product = each(&|| drop(weight.linear(&small).unwrap()));
    let scaled = each(&|| drop((&small * 2.0).unwrap()));
    eprintln!(
        "launches     a small kernel {kernel:.1} us, a small product {product:.1} us, candle's own {scaled:.1} us"
    );
    let weight = WeightMatrix::Dense(random(3, 11_008, 4096)).quantize(true).unwrap().on(device).unwrap();
    let x = narrow(8, 4096, device);
    let seconds = best(5, device, || {
        weight.linear(&x).unwrap();
    });
    eprintln!("four bits    a matrix of 11008 x 4096 decoded and used in {:.0} us", 1e6 * seconds);
}
