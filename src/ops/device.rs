//! Where tensors live, and what products are computed in.

use candle_core::{DType, Device};

use super::cuda;
use super::matmul::{serves_bf16, switch_bf16};
use crate::{Context, Error, Result};

/// The device that `choice` names: `auto` (the first GPU where this build can use one, else the CPU), `cpu`, `cuda` or
/// `cuda:1`; and why `auto` is the CPU although this build is made for GPUs.
///
/// # Errors
/// Request: another name, a build without CUDA, a machine without a driver or a GPU.
pub fn device(choice: &str) -> Result<(Device, Option<String>)> {
    let index = match choice {
        "cpu" => return Ok((Device::Cpu, None)),
        "auto" => {
            return Ok(match cuda::open(0) {
                Ok(device) => (device, None),
                Err(error) => (Device::Cpu, cuda::BUILT.then(|| error.to_string())),
            });
        }
        "cuda" => 0,
        other => other.strip_prefix("cuda:").and_then(|index| index.parse().ok()).ok_or_else(|| {
            Error::request(format!("{other}: expected auto, cpu, cuda or cuda:N, N the number of a GPU from 0"))
        })?,
    };
    Ok((cuda::open(index).context(|| choice)?, None))
}

/// How many GPUs this build can use here.
#[must_use]
pub fn gpus() -> usize {
    cuda::count()
}

/// Settles what products with weights are computed in on `device`: `auto` (bf16 on a GPU, f32 on the CPU), `bf16` or
/// `f32`. Everything else is f32 everywhere, and so are the sums of products. Holds for `device` and its
/// clones; the same GPU opened once more has its own, and the CPU of a process is one.
///
/// # Errors
/// Request: another name, or bf16 on a CPU without instructions for it.
pub fn settle_dtype(device: &Device, choice: &str) -> Result<DType> {
    let dtype = match (choice, device.is_cuda()) {
        ("auto" | "bf16", true) => DType::BF16,
        ("auto" | "f32", _) => DType::F32,
        ("bf16", false) if serves_bf16() => DType::BF16,
        ("bf16", false) => {
            return Err(Error::request(
                "bf16: this CPU has no instructions for it (AVX512_BF16 or AMX), and computes in f32 as fast",
            ));
        }
        _ => return Err(Error::request(format!("{choice}: expected auto, bf16 or f32"))),
    };
    if device.is_cpu() {
        switch_bf16(dtype == DType::BF16);
    }
    cuda::take_products_in(device, dtype)?;
    Ok(dtype)
}

/// What `device` is, for people: `CPU` or a GPU's name.
///
/// # Errors
/// The device's.
pub fn device_name(device: &Device) -> Result<String> {
    if device.is_cuda() { cuda::name(device) } else { Ok("CPU".to_owned()) }
}

/// Bytes free for tensors on `device` now; `None` on the CPU, where they are in main memory.
///
/// # Errors
/// The device's.
pub fn device_memory(device: &Device) -> Result<Option<u64>> {
    if device.is_cuda() { Ok(Some(cuda::memory(device)?.0)) } else { Ok(None) }
}

/// Bytes that there are on `device`, free or not; `None` on the CPU.
///
/// # Errors
/// The device's.
pub fn device_total(device: &Device) -> Result<Option<u64>> {
    if device.is_cuda() { Ok(Some(cuda::memory(device)?.1)) } else { Ok(None) }
}

/// Most bytes that tensors took at one time on a GPU, since it was opened or since this was last asked; `None` on the
/// CPU and where a driver does not count.
///
/// # Errors
/// The device's.
pub fn device_peak(device: &Device) -> Result<Option<u64>> {
    if device.is_cuda() { cuda::peak(device) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(device("cpu").unwrap().0.is_cpu());
        assert!(device("auto").is_ok());
        assert_eq!(gpus() > 0, device("cuda").is_ok());
        for wrong in ["gpu", "cuda:", "cuda:x", "cuda:-1", ""] {
            assert!(device(wrong).unwrap_err().to_string().contains("expected auto"), "{wrong}");
        }
        assert_eq!(settle_dtype(&Device::Cpu, "auto").unwrap(), DType::F32);
        // bf16 would hold for all tests of this process
        assert!(settle_dtype(&Device::Cpu, "f16").is_err());
    }

    /// Without the feature, or without a GPU, the message says what to do.
    #[test]
    fn no_gpu() {
        if let Err(error) = device("cuda:99") {
            let text = error.to_string();
            assert!(text.contains("--device cpu") || text.contains("the first one is 0"), "{text}");
        }
    }
}
