//! Random tensors and their comparison.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Numbers from -1 to 1, `[rows, columns]`, in main memory.
pub(crate) fn random(seed: u64, rows: usize, columns: usize) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let data = (0..rows * columns).map(|_| rng.random_range(-1f32..1.0)).collect();
    Tensor::from_vec(data, (rows, columns), &Device::Cpu).unwrap()
}

/// All numbers, in f64.
pub(crate) fn numbers(x: &Tensor) -> Vec<f64> {
    let x = x.to_device(&Device::Cpu).unwrap();
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Fails unless `found` is `expected` up to `tolerance` of the largest number expected.
pub(crate) fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (numbers(found), numbers(expected));
    let scale = expected.iter().fold(0.1, |max: f64, x| max.max(x.abs()));
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let error = (found - expected).abs() / scale;
        assert!(error <= tolerance, "{what}: element {index} is {found}, expected {expected}, scale {scale}");
    }
}
