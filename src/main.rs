//! The `prune` binary: parse, dispatch, print.

mod allocator;
mod cli;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    allocator::set_up();
    cli::main()
}
