//! What the tests of the ops share: random tensors, comparison with an f64 formula, pools of threads.

use candle_core::{DType, Device, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::Result;

/// Numbers from -1 to 1.
pub(crate) fn random(seed: u64, rows: usize, columns: usize) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let data = (0..rows * columns).map(|_| rng.random_range(-1f32..1.0)).collect();
    Tensor::from_vec(data, (rows, columns), &Device::Cpu).unwrap()
}

/// All numbers of a tensor, in f64.
pub(crate) fn numbers(x: &Tensor) -> Vec<f64> {
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

/// Holds an op and its gradients against a formula in f64 that candle differentiates: `backward` is given the inputs
/// and a random gradient of the output.
pub(crate) fn check(
    inputs: &[Tensor],
    op: impl Fn(&[Tensor]) -> Result<Tensor>,
    backward: impl Fn(&[Tensor], &Tensor) -> Result<Vec<Tensor>>,
    formula: impl Fn(&[Tensor]) -> candle_core::Result<Tensor>,
    tolerance: f64,
) {
    let exact: Vec<Var> =
        inputs.iter().map(|input| Var::from_tensor(&input.to_dtype(DType::F64).unwrap()).unwrap()).collect();
    let exact_y = formula(&exact.iter().map(|var| var.as_tensor().clone()).collect::<Vec<_>>()).unwrap();
    assert_close("value", &op(inputs).unwrap(), &exact_y, tolerance);
    let dy = random(99, 1, exact_y.elem_count()).reshape(exact_y.shape()).unwrap();
    let exact_dy = dy.to_dtype(DType::F64).unwrap();
    let exact_grads = (exact_y * exact_dy).unwrap().sum_all().unwrap().backward().unwrap();
    let found = backward(inputs, &dy).unwrap();
    assert_eq!(found.len(), inputs.len());
    for (index, (found, exact)) in found.iter().zip(&exact).enumerate() {
        assert_close(&format!("gradient {index}"), found, exact_grads.get(exact).unwrap(), tolerance);
    }
}

/// Fails unless `work` gives the same bytes on one thread, two and five.
pub(crate) fn assert_same_on_any_threads(work: impl Fn() -> Vec<Tensor> + Sync) {
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| work().iter().map(numbers).collect::<Vec<_>>())
    };
    let one = on(1);
    assert!(one == on(2) && one == on(5));
}

/// The same numbers as a view into a wider, taller tensor.
pub(crate) fn as_view(x: &Tensor) -> Tensor {
    let (rows, columns) = x.dims2().unwrap();
    let left = random(1, rows, 3).to_dtype(x.dtype()).unwrap();
    let wide = Tensor::cat(&[&left, x, &left], 1).unwrap();
    let tall = Tensor::cat(&[&wide, &wide], 0).unwrap();
    tall.narrow(0, rows, rows).unwrap().narrow(1, 3, columns).unwrap()
}
