//! The `prune` binary: parse, dispatch, print.

mod cli;

use std::process::ExitCode;

/// Page faults for every fresh tensor cost more than most ops; this allocator keeps its pages.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
