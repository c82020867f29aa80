//! Inner products of the residual streams of a token.

use candle_core::{DType, Tensor};

use super::cuda::{self, Arg, Grid};
use super::numbers;
use crate::{Error, Result};

/// Threads of a block, and pairs of streams that one of them works on: the kernel's.
const THREADS: usize = 256;
const PAIRS: usize = 4;
/// Columns that a block has at hand, and a gap against collisions.
const PANEL: usize = 33;

/// Inner products in f64 of some streams of `t` tokens, each `[t, d]` f32: `[t, streams, streams]`, flat.
///
/// # Errors
/// Streams of different shapes, or a device without this kernel.
pub fn inner_products(streams: &[Tensor]) -> Result<Vec<f64>> {
    let first = streams.first().ok_or_else(|| Error::work("inner products of no streams"))?;
    let ((tokens, d), count) = (first.dims2()?, streams.len());
    if let Some(other) = streams.iter().find(|stream| stream.dims() != first.dims()) {
        return Err(Error::work(format!("streams of {:?} and {:?}", first.shape(), other.shape())));
    }
    if first.device().is_cuda() {
        let all = cuda::empty((count, tokens, d), DType::F32, first.device())?;
        for (index, stream) in streams.iter().enumerate() {
            let (stream, place, n) = (stream.contiguous()?, all.narrow(0, index, 1)?, tokens * d);
            cuda::launch("copy", Grid::over_eights(n), &[Arg::Tensor(&stream), Arg::Tensor(&place), Arg::Size(n)])?;
        }
        let products = cuda::empty((tokens, count, count), DType::F64, first.device())?;
        let blocks = (tokens, (count * count).div_ceil(THREADS * PAIRS));
        let grid = Grid { blocks, threads: THREADS, shared: 4 * count * PANEL };
        let args = [Arg::Tensor(&all), Arg::Tensor(&products), Arg::Size(count), Arg::Size(tokens), Arg::Size(d)];
        cuda::launch("gram", grid, &args)?;
        return Ok(products.flatten_all()?.to_vec1()?);
    }
    let streams: Vec<Vec<f32>> =
        streams.iter().map(|stream| numbers(&stream.contiguous()?, <[f32]>::to_vec)).collect::<Result<_>>()?;
    let mut products = Vec::with_capacity(tokens * count * count);
    for token in 0..tokens {
        let row = |stream: &'_ Vec<f32>| stream[token * d..(token + 1) * d].to_vec();
        for a in &streams {
            for b in &streams {
                let terms = row(a).into_iter().zip(row(b)).map(|(a, b)| f64::from(a) * f64::from(b));
                products.push(terms.sum());
            }
        }
    }
    Ok(products)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;

    #[test]
    fn by_hand() {
        let streams = [random(1, 2, 3), random(2, 2, 3)];
        let products = inner_products(&streams).unwrap();
        let numbers: Vec<Vec<Vec<f32>>> = streams.iter().map(|stream| stream.to_vec2().unwrap()).collect();
        let dot = |a: usize, b: usize, token: usize| -> f64 {
            (0..3).map(|i| f64::from(numbers[a][token][i]) * f64::from(numbers[b][token][i])).sum()
        };
        let expected: Vec<f64> =
            (0..2).flat_map(|token| [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| dot(a, b, token))).collect();
        assert_eq!(products, expected);
        assert!(inner_products(&[]).is_err() && inner_products(&[random(1, 2, 3), random(1, 3, 2)]).is_err());
    }
}
