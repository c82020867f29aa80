//! Every op against the CPU's: the same numbers up to the order of sums.

use candle_core::{DType, Device, Tensor};
use prune::ops::{self, AdamWStep, Divergence, FiniteWatch, Mask, Teacher, Tutor, WeightMatrix};

use crate::gpu;
use crate::numbers::{assert_close, numbers, random};

/// Of the largest number, where both compute in f32.
const CLOSE: f64 = 1e-5;
/// Where operands and results are rounded to bf16, eight bits.
const BF16: f64 = 1.0 / 64.0;

/// What a GPU computes in, and how close it comes to the CPU on the same numbers: those that `dtype` can hold.
const TYPES: [(&str, DType, f64); 2] = [("f32", DType::F32, CLOSE), ("bf16", DType::BF16, BF16)];

/// Numbers that `dtype` can hold, in f32.
fn held(x: &Tensor, dtype: DType) -> Tensor {
    x.to_dtype(dtype).unwrap().to_dtype(DType::F32).unwrap()
}

#[test]
fn swiglu() {
    for (name, dtype, tolerance) in TYPES {
        let Some(gpu) = gpu(name) else { return };
        let on = |x: &Tensor| x.to_dtype(dtype).unwrap().to_device(&gpu.device).unwrap();
        for (t, f) in [(1, 1), (3, 77), (70, 304)] {
            let numbers = [(random(1, t, f) * 9.0).unwrap(), random(2, t, f), random(3, t, f)];
            let [gate, up, dy] = numbers.map(|x| held(&x, dtype));
            let y = ops::swiglu(&on(&gate), &on(&up)).unwrap();
            assert_close("y", &y, &ops::swiglu(&gate, &up).unwrap(), tolerance);
            let found = ops::swiglu_backward(on(&gate), on(&up), &on(&dy)).unwrap();
            let expected = ops::swiglu_backward(gate.clone(), up.clone(), &dy).unwrap();
            assert_close("dgate", &found.0, &expected.0, tolerance);
            assert_close("dup", &found.1, &expected.1, tolerance);
        }
    }
}

/// A residual stream (f32 whatever products take) and heads (of their type) are normed.
#[test]
fn rms_norm() {
    for (name, dtype, tolerance) in TYPES {
        let Some(gpu) = gpu(name) else { return };
        let on = |x: &Tensor| x.to_device(&gpu.device).unwrap();
        for (t, d) in [(1, 1), (5, 33), (70, 256), (9, 1000), (9, 4096)] {
            let (x, dy) = (held(&(random(1, t, d) * 3.0).unwrap(), dtype), held(&random(2, t, d), dtype));
            let weight = random(3, 1, d).flatten_all().unwrap();
            for x_type in [DType::F32, dtype] {
                let (own_x, own_dy) = (on(&x.to_dtype(x_type).unwrap()), on(&dy.to_dtype(dtype).unwrap()));
                let y = ops::rms_norm(&own_x, &on(&weight), 1e-5).unwrap();
                assert_eq!(y.dtype(), dtype);
                assert_close("y", &y, &ops::rms_norm(&x, &weight, 1e-5).unwrap(), tolerance);
                for weighted in [false, true] {
                    let found = ops::rms_norm_backward(&own_x, &on(&weight), 1e-5, &own_dy, weighted).unwrap();
                    let expected = ops::rms_norm_backward(&x, &weight, 1e-5, &dy, weighted).unwrap();
                    assert_eq!(found.0.dtype(), x_type);
                    assert_close("dx", &found.0, &expected.0, tolerance);
                    assert_close("sum", &ops::sum_rows(&own_dy).unwrap(), &ops::sum_rows(&dy).unwrap(), CLOSE);
                    assert_eq!(found.1.is_some(), weighted);
                    if let (Some(found), Some(expected)) = (found.1, expected.1) {
                        assert_close("dweight", &found, &expected, CLOSE);
                    }
                }
            }
            let (found, expected) = (ops::rms_norm_backward(&on(&x), &on(&weight), 1e-5, &on(&dy), false), &dy);
            let expected = ops::rms_norm_backward(&x, &weight, 1e-5, expected, false).unwrap();
            assert_close("dx of f32", &found.unwrap().0, &expected.0, CLOSE);
        }
    }
}

#[test]
fn add() {
    for (name, dtype, tolerance) in TYPES {
        let Some(gpu) = gpu(name) else { return };
        let on = |x: &Tensor, dtype| x.to_dtype(dtype).unwrap().to_device(&gpu.device).unwrap();
        for (t, d) in [(1, 1), (5, 33), (70, 256)] {
            let (x, y) = (held(&random(1, t, d), dtype), held(&random(2, t, d), dtype));
            let bias = held(&random(3, 1, d).flatten_all().unwrap(), dtype);
            for (x_type, y_type) in [(DType::F32, dtype), (dtype, DType::F32), (dtype, dtype)] {
                for y in [&y, &bias] {
                    let sum = ops::add(&on(&x, x_type), &on(y, y_type)).unwrap();
                    assert_eq!(sum.dtype(), x_type);
                    let close = if x_type == DType::F32 { CLOSE } else { tolerance };
                    assert_close("sum", &sum, &ops::add(&x, y).unwrap(), close);
                }
            }
        }
    }
}

#[test]
fn rope() {
    for (name, dtype, tolerance) in TYPES {
        let Some(gpu) = gpu(name) else { return };
        let on = |x: &Tensor| x.to_device(&gpu.device).unwrap();
        for (t, heads, head_dim, half) in [(1, 1, 2, 1), (7, 3, 10, 3), (40, 4, 96, 48), (33, 2, 64, 16), (5, 3, 24, 4)]
        {
            let x = held(&random(1, t, heads * head_dim), dtype);
            let (cos, sin) = (random(2, t, half), random(3, t, half));
            for op in [ops::rope, ops::rope_backward] {
                let found = op(&on(&x.to_dtype(dtype).unwrap()), &on(&cos), &on(&sin), head_dim).unwrap();
                assert_close("rope", &found, &op(&x, &cos, &sin, head_dim).unwrap(), tolerance);
            }
        }
    }
}

/// The mask is the CPU's, number for number.
#[test]
fn dropout() {
    for (name, dtype, _) in TYPES {
        let Some(gpu) = gpu(name) else { return };
        for x in [random(1, 300, 257), random(1, 30, 256)].map(|x| held(&x, dtype)) {
            let on_gpu = x.to_dtype(dtype).unwrap().to_device(&gpu.device).unwrap();
            for mask in [
                Mask { rate: 0.25, seed: 3, stream: 9, row: 0 },
                Mask { rate: 0.5, seed: u64::MAX, stream: 7 << 40, row: 0 },
                Mask { rate: 0.25, seed: 3, stream: 9, row: 77 },
                Mask { rate: 0.25, seed: 3, stream: 9, row: 1 << 30 },
            ] {
                let found = ops::dropout(&on_gpu, mask).unwrap();
                assert_eq!(numbers(&found), numbers(&held(&ops::dropout(&x, mask).unwrap(), dtype)));
            }
            // some rows at a time, from one that no block of random words begins with
            let mask = Mask { rate: 0.25, seed: 3, stream: 9, row: 0 };
            let part = ops::dropout(&on_gpu.narrow(0, 13, 17).unwrap(), Mask { row: 13, ..mask }).unwrap();
            let width = x.dim(1).unwrap();
            let whole = numbers(&ops::dropout(&on_gpu, mask).unwrap());
            assert_eq!(numbers(&part), whole[13 * width..30 * width]);
        }
    }
}

#[test]
fn checks_sums_and_edits() {
    let Some(gpu) = gpu("f32") else { return };
    let x = random(1, 100, 300);
    let on_gpu = x.to_device(&gpu.device).unwrap();
    assert!(ops::all_finite(&on_gpu).unwrap());
    let few = random(2, 3, 5);
    let found = ops::square_sums(&[&on_gpu, &few.to_device(&gpu.device).unwrap()]).unwrap();
    let expected = ops::square_sums(&[&x, &few]).unwrap();
    assert!(found.iter().zip(&expected).all(|(found, expected)| (found - expected).abs() < 1e-12 * expected));
    let mut watch = FiniteWatch::new(2, &gpu.device).unwrap();
    assert!(watch.look(0, &on_gpu).unwrap() && watch.first_broken().unwrap().is_none());
    ops::edit(&on_gpu, |numbers| numbers[29_999] = f32::INFINITY).unwrap();
    assert!(!ops::all_finite(&on_gpu).unwrap() && !ops::square_sums(&[&on_gpu]).unwrap()[0].is_finite());
    watch.look(1, &on_gpu).unwrap();
    assert_eq!(watch.first_broken().unwrap(), Some(1));
    ops::edit(&on_gpu, |numbers| numbers[29_999] = f32::NAN).unwrap();
    assert!(!ops::all_finite(&on_gpu).unwrap());
    assert!(ops::all_finite(&on_gpu.narrow(0, 0, 99).unwrap()).unwrap());
    for (count, tokens, d) in [(1, 3, 5), (3, 70, 130), (33, 9, 130), (61, 3, 70), (93, 2, 33)] {
        let streams: Vec<Tensor> = (0..count).map(|stream| random(stream as u64, tokens, d)).collect();
        let moved: Vec<Tensor> = streams.iter().map(|stream| stream.to_device(&gpu.device).unwrap()).collect();
        let (found, expected) = (ops::inner_products(&moved).unwrap(), ops::inner_products(&streams).unwrap());
        let (found, expected) = (found.numbers().unwrap(), expected.numbers().unwrap());
        assert!(found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12 * d as f64));
        assert_eq!((found.len(), expected.len()), (tokens * count * (count + 1) / 2, found.len()));
    }
}

#[test]
fn adamw() {
    let Some(gpu) = gpu("f32") else { return };
    let numbers = || [random(1, 40, 50), random(2, 40, 50), random(3, 40, 50), random(4, 40, 50).sqr().unwrap()];
    let step = AdamWStep {
        clip: 0.5,
        weight1: 0.1,
        beta2: 0.999,
        weight2: 0.001,
        keep: 0.99,
        pace: -0.03,
        correction: 0.04,
        eps: 0.02,
    };
    let own = numbers();
    let moved = numbers().map(|x| x.to_device(&gpu.device).unwrap());
    for _ in 0..3 {
        step.apply(&own[0], &own[1], &own[2], &own[3]).unwrap();
        step.apply(&moved[0], &moved[1], &moved[2], &moved[3]).unwrap();
    }
    for (found, expected) in moved.iter().zip(&own) {
        assert_close("adamw", found, expected, CLOSE);
    }
}

/// Products with weights in every form, with what goes beside them, in both types; four-bit weights decode to the bit.
#[test]
fn products() {
    for (dtype, tolerance) in [("f32", CLOSE), ("bf16", BF16)] {
        let Some(gpu) = gpu(dtype) else { return };
        let on = |x: &Tensor| x.to_device(&gpu.device).unwrap();
        for (t, o, i, r) in [(1, 3, 5, 1), (7, 130, 65, 3), (70, 64, 128, 8)] {
            let dense = WeightMatrix::Dense(random(2, o, i));
            let narrow = WeightMatrix::Dense(random(3, o, i).to_dtype(DType::BF16).unwrap());
            let half = WeightMatrix::Dense(random(3, o, i).to_dtype(DType::F16).unwrap());
            let (plain, double) = (dense.quantize(false).unwrap(), dense.quantize(true).unwrap());
            for weight in [plain.clone(), double.clone(), narrow, half, dense] {
                let moved = weight.on(&gpu.device).unwrap();
                assert_eq!(moved.shape().unwrap(), (o, i));
                let (x, dy, u, du) = (random(4, t, i), random(5, t, o), random(6, t, r), random(7, t, r));
                let (a, b) = (random(8, r, i), random(9, o, r));
                let y = moved.linear(&on(&x)).unwrap();
                assert_close("x·Wᵀ", &y, &weight.linear(&x).unwrap(), tolerance);
                let y = moved.linear_plus(&on(&x), &on(&u), &on(&b)).unwrap();
                assert_close("x·Wᵀ + u·Bᵀ", &y, &weight.linear_plus(&x, &u, &b).unwrap(), tolerance);
                let dx = moved.linear_backward(&on(&dy), None).unwrap();
                assert_close("dy·W", &dx, &weight.linear_backward(&dy, None).unwrap(), tolerance);
                let dx = moved.linear_backward(&on(&dy), Some((&on(&du), &on(&a)))).unwrap();
                let expected = weight.linear_backward(&dy, Some((&du, &a))).unwrap();
                assert_close("dy·W + du·A", &dx, &expected, tolerance);
            }
            for weight in [plain, double] {
                let moved = weight.on(&gpu.device).unwrap();
                let decoded = moved.dense(DType::F32, &Device::Cpu).unwrap();
                assert_eq!(numbers(&decoded), numbers(&weight.dense(DType::F32, &Device::Cpu).unwrap()));
            }
            let (x, a, b, y) = (random(1, t, i), random(2, r, i), random(3, i, r), random(4, t, r));
            let narrow = |name: &str, found: prune::Result<Tensor>, expected: prune::Result<Tensor>| {
                assert_close(name, &found.unwrap(), &expected.unwrap(), tolerance);
            };
            narrow("down", ops::low_rank_down(&on(&x), &on(&a)), ops::low_rank_down(&x, &a));
            narrow("up", ops::low_rank_up(&on(&x), &on(&b)), ops::low_rank_up(&x, &b));
            narrow("outer", ops::outer(&on(&x), &on(&y)), ops::outer(&x, &y));
        }
        assert!(ops::outer(&on(&random(1, 2, 3)), &on(&random(1, 3, 3))).is_err());
    }
}

/// Four bits become bf16 as they do on the CPU, one rounding.
#[test]
fn four_bits_to_bf16() {
    let Some(gpu) = gpu("bf16") else { return };
    // an odd number of weights, and one row: x picks single weights out
    let weight = WeightMatrix::Dense(random(2, 7, 65));
    for double in [false, true] {
        let weight = weight.quantize(double).unwrap();
        let eye = Tensor::eye(65, DType::F32, &Device::Cpu).unwrap().to_device(&gpu.device).unwrap();
        let columns = weight.on(&gpu.device).unwrap().linear(&eye).unwrap();
        let expected = weight.dense(DType::BF16, &Device::Cpu).unwrap().t().unwrap();
        assert_eq!(numbers(&columns), numbers(&expected));
    }
}

#[test]
fn log_likelihood() {
    let Some(gpu) = gpu("f32") else { return };
    for (t, d, v) in [(1, 3, 5), (20, 24, 700), (70, 16, 37)] {
        let hidden = (random(1, t, d) * 4.0).unwrap();
        let head = random(2, v, d).to_dtype(if t == 20 { DType::BF16 } else { DType::F32 }).unwrap();
        let candidates: Vec<Vec<u32>> =
            (0..t).map(|row| (0..row % 4).map(|c| ((row * 31 + c * 7) % v) as u32).collect()).collect();
        let on = |x: &Tensor| x.to_device(&gpu.device).unwrap();
        let found = ops::log_likelihood(&on(&hidden), &on(&head), &candidates).unwrap();
        let expected = ops::log_likelihood(&hidden, &head, &candidates).unwrap();
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!((found.log_likelihood - expected.log_likelihood).abs() < 2e-5, "{found:?} {expected:?}");
            assert_eq!(found.greedy, expected.greedy);
        }
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), (0..t).map(|row| row % 4).collect::<Vec<_>>());
    }
    // the smallest id wins a tie
    let (hidden, head) = (Tensor::ones((1, 2), DType::F32, &gpu.device).unwrap(), random(1, 1, 2));
    let head = Tensor::cat(&[&head, &head, &head], 0).unwrap().to_device(&gpu.device).unwrap();
    let scored = ops::log_likelihood(&hidden, &head, &[[0, 1, 2]]).unwrap();
    assert_eq!(scored[0].iter().map(|scored| scored.greedy).collect::<Vec<_>>(), [true, false, false]);
}

#[test]
fn objective() {
    let Some(gpu) = gpu("f32") else { return };
    let on = |x: &Tensor| x.to_device(&gpu.device).unwrap();
    for (t, d, v, other_d) in [(1, 3, 5, 4), (40, 16, 530, 24)] {
        let targets: Vec<Option<u32>> = (0..t).map(|row| (row % 5 != 3).then_some((row * 31 % v) as u32)).collect();
        let (hidden, head) = ((random(1, t, d) * 3.0).unwrap(), random(2, v, d));
        let (other, other_head) = ((random(3, t, other_d) * 3.0).unwrap(), random(4, v, other_d));
        let (moved, moved_head) = (on(&other), on(&other_head));
        let lessons = [(0.3, 2.0), (1.0, 1.0)].into_iter().flat_map(|(weight, temperature)| {
            let all = [Divergence::Kl, Divergence::ReverseKl, Divergence::Jsd { beta: 0.3 }];
            all.map(|divergence| Some((weight, temperature, divergence)))
        });
        for lesson in [None].into_iter().chain(lessons) {
            let teacher = |hidden, head| {
                lesson.map(|(weight, temperature, divergence)| {
                    Tutor::Live(Teacher { hidden, head, cap: None, weight, temperature, divergence })
                })
            };
            let found = ops::objective(&on(&hidden), &on(&head), &targets, teacher(&moved, &moved_head), true).unwrap();
            let expected = ops::objective(&hidden, &head, &targets, teacher(&other, &other_head), true).unwrap();
            for (found, expected) in [(found.loss, expected.loss), (found.cross_entropy, expected.cross_entropy)] {
                assert!((found - expected).abs() < 2e-5 * expected.abs().max(1.0), "{found} {expected}");
            }
            assert_close("hidden", &found.hidden, &expected.hidden, 2e-5);
            assert_close("head", &found.head.unwrap(), &expected.head.unwrap(), 2e-5);
        }
        let none = ops::objective(&on(&hidden), &on(&head), &vec![None; t], None, false).unwrap();
        assert_eq!((none.loss, none.head.is_none()), (0.0, true));
        assert!(numbers(&none.hidden).iter().all(|x| *x == 0.0));
    }
}
