//! LESA (arXiv 2502.13794): a layer to be inserted is predicted from the layers on both sides of it. Each kind of
//! matrix is seen in one basis for all layers, [W₀ W₁ …] = U·S·[V₀ V₁ …], and a small network learns to tell the rows
//! of V of a layer from those of its neighbors; it is then asked for those of a layer between two.
//!
//! Norms and biases of a predicted layer are the mean of its neighbors'. The published code leaves it the norms of
//! layer 0, which is taken for an oversight.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use nalgebra::{DMatrix, SymmetricEigen};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::lesa_network::Between;
use crate::arch::{ModelSpec, Role};
use crate::checkpoint::Checkpoint;
use crate::ops::{ProductSum, product64};
use crate::progress::{Progress, Unit};
use crate::weights::Expr;
use crate::{Context, Error, Result, interrupt};

/// Times that all rows are seen.
const EPOCHS: usize = 10;
/// Rows of a step.
const BATCH: usize = 64;
/// Singular values below this part of the largest are rounding.
const SMALLEST: f64 = 1e-6;

/// The matrices of one kind, of all layers in one basis.
#[derive(Debug)]
pub struct Decomposed {
    /// Singular values of [W₀ W₁ …], from the largest on, `[r]`.
    pub singular_values: Vec<f64>,
    /// U, `[o, r]`.
    left: Vec<f64>,
    /// Of each layer V, `[r, i]` f32.
    right: Vec<Tensor>,
    shape: (usize, usize),
}

/// What matrices of one kind say.
#[derive(Clone, Copy, Debug)]
pub struct Predicted {
    /// The matrices' part in a layer.
    pub role: Role,
    /// Mean squared error of the network over the rows it learned from, in the last epoch.
    pub error: f64,
    /// The same of the mean of a layer's neighbors.
    pub of_means: f64,
}

impl Decomposed {
    /// Of the matrices `role` of `checkpoint`.
    ///
    /// # Errors
    /// Work: a weight that cannot be read, or is not finite; matrices without a number. Interrupted.
    pub fn new(checkpoint: &Checkpoint, spec: &ModelSpec, role: Role) -> Result<Self> {
        let shape = |layer| spec.layer_tensor(layer, role);
        let (o, i) = match shape(0).shape[..] {
            [o, i] => (o, i),
            _ => return Err(Error::work(format!("{} is no matrix", spec.module(role)))),
        };
        let read = |layer| checkpoint.load_f32(&shape(layer).name, &[o, i], &Device::Cpu);
        let mut gram = ProductSum::new(o, o, &Device::Cpu)?;
        for layer in 0..spec.layers {
            interrupt::check()?;
            gram.add(&read(layer)?.t()?.contiguous()?, None)?;
        }
        let gram = gram.numbers()?;
        if gram.iter().any(|number| !number.is_finite()) {
            return Err(Error::work(format!("{} of some layer is not finite", spec.module(role))));
        }
        let eigen = SymmetricEigen::new(DMatrix::from_row_slice(o, o, &gram));
        let mut order: Vec<usize> = (0..o).collect();
        order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
        let value = |at: usize| eigen.eigenvalues[at].max(0.0).sqrt();
        let largest = order.first().map_or(0.0, |at| value(*at));
        let kept: Vec<usize> = order.into_iter().filter(|at| value(*at) > SMALLEST * largest).collect();
        let singular_values: Vec<f64> = kept.iter().map(|at| value(*at)).collect();
        let r = kept.len();
        if r == 0 {
            return Err(Error::work(format!("{} is zero in every layer", spec.module(role))));
        }
        let left: Vec<f64> = (0..o * r).map(|at| eigen.eigenvectors[(at / r, kept[at % r])]).collect();
        let back: Vec<f64> =
            (0..r * o).map(|at| eigen.eigenvectors[(at % o, kept[at / o])] / singular_values[at / o]).collect();
        let right = (0..spec.layers).map(|layer| {
            interrupt::check()?;
            let weight: Vec<f32> = read(layer)?.flatten_all()?.to_vec1()?;
            let weight: Vec<f64> = weight.into_iter().map(f64::from).collect();
            let rows = product64(&back, &weight, (r, o, i)).into_iter().map(|number| number as f32).collect();
            Ok(Tensor::from_vec::<_, f32>(rows, (r, i), &Device::Cpu)?)
        });
        let right = right.collect::<Result<_>>()?;
        Ok(Self { singular_values, left, right, shape: (o, i) })
    }

    /// U·S·V for rows V, `[o, i]`.
    ///
    /// # Errors
    /// None that can be met.
    pub fn matrix(&self, right: &Tensor) -> Result<Tensor> {
        let ((o, i), r) = (self.shape, self.singular_values.len());
        let scaled: Vec<f64> = (0..o * r).map(|at| self.left[at] * self.singular_values[at % r]).collect();
        let rows: Vec<f32> = right.flatten_all()?.to_vec1()?;
        let rows: Vec<f64> = rows.into_iter().map(f64::from).collect();
        let numbers = product64(&scaled, &rows, (o, r, i)).into_iter().map(|number| number as f32).collect();
        Ok(Tensor::from_vec::<_, f32>(numbers, (o, i), &Device::Cpu)?)
    }

    /// V of layer `layer`, `[r, i]`.
    #[must_use]
    pub fn right(&self, layer: usize) -> &Tensor {
        &self.right[layer]
    }

    /// Learns to tell a layer from its neighbors; the network, its error and that of the neighbors' mean.
    fn learn(&self, seed: u64, progress: &dyn Progress) -> Result<(Between, f64, f64)> {
        let (r, (_, i)) = (self.singular_values.len(), self.shape);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut network = Between::new(i, &mut random)?;
        let inner = self.right.len() - 2;
        let mut order: Vec<usize> = (0..inner * r).collect();
        let row = |layer: usize, at: usize| self.right[layer].narrow(0, at, 1);
        let of_means = {
            let mut sum = 0.0;
            for layer in 1..=inner {
                let mean = ((&self.right[layer - 1] + &self.right[layer + 1])? * 0.5)?;
                sum += f64::from((mean - &self.right[layer])?.sqr()?.sum_all()?.to_scalar::<f32>()?);
            }
            sum / (inner * r * i) as f64
        };
        let mut error = 0.0;
        for _ in 0..EPOCHS {
            for at in (1..order.len()).rev() {
                order.swap(at, (random.next_u64() % (at as u64 + 1)) as usize);
            }
            let mut sum = 0.0;
            for batch in order.chunks(BATCH) {
                interrupt::check()?;
                let gathered = |by: usize| -> Result<Tensor> {
                    let rows = batch.iter().map(|own| row(own / r + by, own % r));
                    Ok(Tensor::cat(&rows.collect::<candle_core::Result<Vec<_>>>()?, 0)?)
                };
                let input = Tensor::cat(&[gathered(0)?, gathered(2)?], 1)?;
                sum += network.step(&input, &gathered(1)?)? * batch.len() as f64;
                progress.advance(batch.len() as u64);
            }
            error = sum / order.len() as f64;
        }
        Ok((network, error, of_means))
    }
}

/// The matrices of layers between `after` and the next ones, by their names at `places` of the new stack: pairs of a
/// layer of the source and the place of the one that comes behind it.
///
/// # Errors
/// Request: fewer than three layers. Work: as [`Decomposed::new`]. Interrupted.
pub fn predict(
    checkpoint: &Checkpoint,
    spec: &ModelSpec,
    places: &[(usize, usize)],
    seed: u64,
    progress: &dyn Progress,
) -> Result<(BTreeMap<String, Expr>, Vec<Predicted>)> {
    if spec.layers < 3 {
        return Err(Error::request("--by lesa: it learns from layers with one on each side, and this model has none"));
    }
    if spec.experts.is_some() {
        return Err(Error::request(
            "--by lesa: expert 3 of one layer is not expert 3 of the next, so there is nothing to learn from; --by copy \
             repeats layers",
        ));
    }
    let roles: Vec<Role> = spec.roles(0).into_iter().filter(|role| role.is_linear()).collect();
    let (mut made, mut told) = (BTreeMap::new(), Vec::new());
    for role in roles {
        let place = || spec.module(role);
        let all = Decomposed::new(checkpoint, spec, role).context(place)?;
        let rows = (spec.layers - 2) * all.singular_values.len() * EPOCHS;
        progress.begin(&format!("learning {}", spec.module(role)), rows as u64, Unit::Items);
        let (network, error, of_means) = all.learn(seed, progress).context(place)?;
        progress.end();
        told.push(Predicted { role, error, of_means });
        for (layer, place) in places {
            let input = Tensor::cat(&[all.right(*layer), all.right(layer + 1)], 1)?;
            let matrix = all.matrix(&network.forward(&input)?)?;
            made.insert(spec.layer_tensor(*place, role).name, Expr::Tensor(matrix));
        }
    }
    Ok((made, told))
}

/// Bytes of memory that it takes, most of them rows of one kind of matrix of all layers.
#[must_use]
pub fn lesa_bytes(spec: &ModelSpec, inserted: usize) -> u64 {
    let roles = spec.roles(0).into_iter().filter(|role| role.is_linear());
    let sizes: Vec<(u64, u64)> = roles
        .map(|role| spec.layer_tensor(0, role).shape)
        .filter_map(|shape| Some((*shape.first()? as u64, *shape.get(1)? as u64)))
        .collect();
    let made: u64 = sizes.iter().map(|(o, i)| 4 * o * i * inserted as u64).sum();
    let most = sizes.iter().map(|(o, i)| 4 * o * i * spec.layers as u64 + 8 * (5 * o * o + 3 * o * i));
    made + most.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    #[test]
    fn one_basis_holds_all_layers() {
        let dir = tempfile::tempdir().unwrap();
        crate::pico::write(dir.path()).unwrap();
        let checkpoint = Checkpoint::open_dir(dir.path()).unwrap();
        let spec = ModelSpec::from_config(&checkpoint.config).unwrap();
        for role in spec.roles(0).into_iter().filter(|role| role.is_linear()) {
            let all = Decomposed::new(&checkpoint, &spec, role).unwrap();
            let mut squares = 0.0;
            for layer in 0..spec.layers {
                let tensor = spec.layer_tensor(layer, role);
                let own = checkpoint.load_f32(&tensor.name, &tensor.shape, &Device::Cpu).unwrap();
                let made = all.matrix(all.right(layer)).unwrap();
                let off = (&made - &own).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
                assert!(off < 1e-5, "{role:?} {layer}: {off}");
                squares += f64::from(own.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap());
            }
            let sum: f64 = all.singular_values.iter().map(|value| value * value).sum();
            assert!((sum - squares).abs() < 1e-5 * squares && all.singular_values.is_sorted_by(|a, b| a >= b));
        }
        let (made, told) = predict(&checkpoint, &spec, &[(0, 1), (2, 4)], 0, &Silent).unwrap();
        assert_eq!(made.len(), 2 * told.len());
        assert!(made.contains_key("model.layers.4.mlp.down_proj.weight"));
        let (again, _) = predict(&checkpoint, &spec, &[(0, 1), (2, 4)], 0, &Silent).unwrap();
        for (name, expr) in &made {
            let (Expr::Tensor(a), Expr::Tensor(b)) = (expr, &again[name]) else { panic!("{name}") };
            assert_eq!(a.to_vec2::<f32>().unwrap(), b.to_vec2::<f32>().unwrap(), "{name}");
        }
    }
}
