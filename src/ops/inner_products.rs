//! Inner products of the residual streams of a token.

use candle_core::{DType, Tensor};

use super::cuda::{self, Arg, Arriving, Grid};
use super::numbers;
use crate::{Error, Result};

/// Streams that a thread multiplies with as many others, and columns that a block has at hand: the kernel's.
const TILE: usize = 4;
const COLUMNS: usize = 32;
/// Threads of a block.
const THREADS: usize = 256;

/// Inner products of some streams, `[t, n·(n+1)/2]` for n of them: of each stream those with itself and the later ones.
pub struct InnerProducts(Kept);

enum Kept {
    Here(Vec<f64>),
    OnTheWay(Arriving),
}

impl InnerProducts {
    /// The numbers; waits for what a GPU has yet to compute.
    ///
    /// # Errors
    /// The device's.
    pub fn numbers(&self) -> Result<&[f64]> {
        match &self.0 {
            Kept::Here(products) => Ok(products),
            Kept::OnTheWay(products) => products.numbers(),
        }
    }
}

/// Inner products in f64 of some streams of `t` tokens, each `[t, d]` f32. A GPU is not waited for.
///
/// # Errors
/// Streams of different shapes, or a device without this kernel.
pub fn inner_products(streams: &[Tensor]) -> Result<InnerProducts> {
    let first = streams.first().ok_or_else(|| Error::work("inner products of no streams"))?;
    let ((tokens, d), count) = (first.dims2()?, streams.len());
    if let Some(other) = streams.iter().find(|stream| stream.dims() != first.dims()) {
        return Err(Error::work(format!("streams of {:?} and {:?}", first.shape(), other.shape())));
    }
    let kept = count * (count + 1) / 2;
    if first.device().is_cuda() {
        cuda::all_are(DType::F32, &streams.iter().collect::<Vec<_>>())?;
        // SAFETY: every stream has its place, which is as large
        let all = unsafe { cuda::empty((count, tokens, d), DType::F32, first.device())? };
        for (index, stream) in streams.iter().enumerate() {
            let (stream, place, n) = (stream.contiguous()?, all.narrow(0, index, 1)?, tokens * d);
            let args = [Arg::Tensor(&stream), Arg::Tensor(&place), Arg::Size(n)];
            // SAFETY: both hold n numbers
            unsafe { cuda::launch("copy", Grid::over_eights(n), &args)? };
        }
        // SAFETY: the kernel writes the products of all streams with themselves and later ones, of all tokens
        let products = unsafe { cuda::empty((tokens, kept), DType::F64, first.device())? };
        let tiles = count.div_ceil(TILE);
        let blocks = (tokens, (tiles * (tiles + 1) / 2).div_ceil(THREADS));
        let grid = Grid { blocks, threads: THREADS, shared: 8 * COLUMNS * (TILE * tiles + 2) };
        let args = [Arg::Tensor(&all), Arg::Tensor(&products), Arg::Size(count), Arg::Size(tokens), Arg::Size(d)];
        // SAFETY: sizes of `all` and `products`, and memory for a block's tiles of as many streams
        unsafe { cuda::launch("gram", grid, &args)? };
        return Ok(InnerProducts(Kept::OnTheWay(cuda::send(&products)?)));
    }
    let streams: Vec<Vec<f32>> =
        streams.iter().map(|stream| numbers(&stream.contiguous()?, <[f32]>::to_vec)).collect::<Result<_>>()?;
    let mut products = Vec::with_capacity(tokens * kept);
    for token in 0..tokens {
        let row = |stream: &'_ Vec<f32>| stream[token * d..(token + 1) * d].to_vec();
        for (index, a) in streams.iter().enumerate() {
            for b in &streams[index..] {
                let terms = row(a).into_iter().zip(row(b)).map(|(a, b)| f64::from(a) * f64::from(b));
                products.push(terms.sum());
            }
        }
    }
    Ok(InnerProducts(Kept::Here(products)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::random;

    #[test]
    fn by_hand() {
        let streams = [random(1, 2, 3), random(2, 2, 3)];
        let products = inner_products(&streams).unwrap().numbers().unwrap().to_vec();
        let numbers: Vec<Vec<Vec<f32>>> = streams.iter().map(|stream| stream.to_vec2().unwrap()).collect();
        let dot = |a: usize, b: usize, token: usize| -> f64 {
            (0..3).map(|i| f64::from(numbers[a][token][i]) * f64::from(numbers[b][token][i])).sum()
        };
        let expected: Vec<f64> =
            (0..2).flat_map(|token| [(0, 0), (0, 1), (1, 1)].map(|(a, b)| dot(a, b, token))).collect();
        assert_eq!(products, expected);
        assert!(inner_products(&[]).is_err() && inner_products(&[random(1, 2, 3), random(1, 3, 2)]).is_err());
    }
}
