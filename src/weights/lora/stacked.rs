//! Updates of the matrices of all experts in one tensor, as PEFT saves them for `target_parameters`: the rows of A of
//! one expert after the other, and the columns of B by rank, those of all experts beside each other (`ParamWrapper`).

use candle_core::Tensor;

use super::Adapter;
use crate::Result;
use crate::arch::{ModelSpec, Role};

/// What PEFT puts into the path for each wrapper within another.
const WITHIN: &str = "base_layer";

/// What a tensor of every layer is called among targets.
pub(super) fn name(role: Role) -> &'static str {
    if role == Role::ExpertsDown { "experts.down_proj" } else { "experts.gate_up_proj" }
}

/// The module under which the file has the update of `role`. Both wrap the module that has the parameters, the one of
/// gate and up within the one of down, where down `is_adapted` too.
pub(super) fn module(spec: &ModelSpec, layer: usize, role: Role, is_adapted: impl Fn(Role) -> bool) -> String {
    let own = spec.stacked_parameters(layer).into_iter().find(|(own, _)| *own == role);
    let path = own.map(|(_, path)| path).unwrap_or_default();
    let module = path.rsplit_once('.').map_or(path.as_str(), |(module, _)| module);
    match role == Role::ExpertsGateUp && is_adapted(Role::ExpertsDown) {
        true => format!("{module}.{WITHIN}"),
        false => module.to_owned(),
    }
}

/// The factors as they stand in the file: of n experts `[n·r, i]` and `[o, r·n]`.
pub(super) fn to_file(adapter: &Adapter) -> Result<(Tensor, Tensor)> {
    if adapter.stacked.is_none() {
        return Ok((adapter.a.clone(), adapter.b.clone()));
    }
    let b = adapter.b.permute((1, 2, 0))?.contiguous()?;
    Ok((adapter.a.flatten(0, 1)?, b.flatten_from(1)?))
}

/// The same back.
pub(super) fn from_file((a, b): (&Tensor, &Tensor), count: usize) -> Result<(Tensor, Tensor)> {
    let ((rows, i), o) = (a.dims2()?, b.dim(0)?);
    let rank = rows / count.max(1);
    let b = b.reshape((o, rank, count))?.permute((2, 0, 1))?.contiguous()?;
    Ok((a.reshape((count, rank, i))?, b))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::arch::Stacked;

    /// PEFT: `einsum("o r e, e r i -> e o i", B.reshape(o, -1, n), A.reshape(n, -1, i))`.
    #[test]
    fn factors_lie_as_peft_has_them() {
        let (n, r, i, o) = (3, 2, 4, 5);
        let a = Tensor::arange(0f32, (n * r * i) as f32, &Device::Cpu).unwrap().reshape((n * r, i)).unwrap();
        let b = Tensor::arange(0f32, (o * r * n) as f32, &Device::Cpu).unwrap().reshape((o, r * n)).unwrap();
        let (own_a, own_b) = from_file((&a, &b), n).unwrap();
        let at = |tensor: &Tensor, row: usize, column: usize| -> f32 {
            tensor.get(row).unwrap().get(column).unwrap().to_scalar().unwrap()
        };
        let adapter = Adapter { a: own_a, b: own_b, scale: 1.0, magnitude: None, stacked: Some(Stacked::Rows) };
        assert_eq!(adapter.shape().unwrap(), [n, o, i]);
        for expert in 0..n {
            let own = adapter.of_expert(expert).unwrap();
            let update = own.b.matmul(&own.a).unwrap();
            for (row, column) in [(0, 0), (4, 3), (2, 1)] {
                let terms = (0..r).map(|k| at(&b, row, k * n + expert) * at(&a, expert * r + k, column));
                assert_eq!(at(&update, row, column), terms.sum::<f32>());
            }
        }
        let (file_a, file_b) = to_file(&adapter).unwrap();
        for (found, expected) in [(file_a, a), (file_b, b)] {
            assert_eq!(found.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());
        }
    }
}
