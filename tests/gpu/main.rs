//! What a GPU computes against what the CPU computes, which the other tests hold against the references: every op,
//! whole passes, gradients, training, commands. Without a GPU (or a build that can use one) each test says so and
//! passes; `emulator/` has a GPU for tests that runs on the CPU.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test fails where it unwraps; a benchmark prints")]

mod attention;
mod bench;
#[path = "../it/arch/cases.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod cases;
mod commands;
#[path = "../fixture/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod fixture;
#[path = "../it/arch/forward.rs"]
mod forward;
mod kernels;
mod models;
mod numbers;
mod ops;
mod shapes;
mod training;

use std::sync::{Mutex, MutexGuard, PoisonError};

use candle_core::Device;

/// The GPU, for one test at a time: some of them look at what is left of its memory.
pub(crate) struct Gpu {
    pub(crate) device: Device,
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

/// The first GPU, its products with weights computed in `dtype`; `None` with a note where there is none. With
/// `PRUNE_REQUIRE_GPU` set that is a failure.
pub(crate) fn gpu(dtype: &str) -> Option<Gpu> {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match prune::ops::device("cuda") {
        Ok((device, _)) => {
            prune::ops::settle_dtype(&device, dtype).unwrap();
            Some(Gpu { device, _alone: alone })
        }
        Err(error) if std::env::var_os("PRUNE_REQUIRE_GPU").is_some() => panic!("a GPU is required: {error}"),
        Err(error) => {
            fixture::material::skipped(&format!("a GPU: {error}"));
            None
        }
    }
}
