//! How fast this machine runs the products that everything waits for: a short probe with the program's own kernels.

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};

use super::linear;
use crate::Result;

/// The best of as many runs as fit into this time counts: whatever else the machine does only slows it.
const PATIENCE: Duration = Duration::from_millis(400);

/// Multiply-adds a second of x·Wᵀ in f32 with many rows, as in reading a prompt or in training; twice that is FLOP/s.
///
/// # Errors
/// The device's.
pub(crate) fn multiply_adds(device: &Device) -> Result<f64> {
    // a GPU is busy with more only
    let (t, o, i) = if device.is_cuda() { (2048, 4096, 4096) } else { (510, 1536, 1536) };
    best(device, (t, o, i)).map(|seconds| (t * o * i) as f64 / seconds)
}

/// Bytes a second at which x·Wᵀ with a single row reads a W of 64 MiB, as in generating.
///
/// # Errors
/// The device's.
pub fn reading(device: &Device) -> Result<f64> {
    let (o, i) = (4096, 4096);
    best(device, (1, o, i)).map(|seconds| (4 * o * i) as f64 / seconds)
}

/// Seconds of the fastest product `[t, i]`·`[o, i]`ᵀ.
fn best(device: &Device, (t, o, i): (usize, usize, usize)) -> Result<f64> {
    let (x, weight) = (Tensor::ones((t, i), candle_core::DType::F32, device)?, numbers(o, i, device)?);
    let (started, mut best) = (Instant::now(), f64::INFINITY);
    while started.elapsed() < PATIENCE {
        let run = Instant::now();
        linear(&x, &weight)?;
        device.synchronize()?;
        best = best.min(run.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Numbers that are really there: zeros would all be one page.
fn numbers(rows: usize, columns: usize, device: &Device) -> Result<Tensor> {
    let data: Vec<f32> = (0..rows * columns).map(|index| (index % 17) as f32 - 8.0).collect();
    Ok(Tensor::from_vec(data, (rows, columns), device)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_measures_something() {
        let (multiplied, read) = (multiply_adds(&Device::Cpu).unwrap(), reading(&Device::Cpu).unwrap());
        assert!(multiplied.is_finite() && multiplied > 1e6, "{multiplied}");
        assert!(read.is_finite() && read > 1e6, "{read}");
    }
}
