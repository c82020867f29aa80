//! `prune doctor`.

use clap::Args;
use prune::commands::doctor::{self, DoctorSettings};
use prune::{Error, Result};
use serde::Serialize;

use super::Context;

/// Says what this machine can do, how the program sees it, and what is wrong
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune doctor         processor, memory, disk, speed, hub, cache
  prune doctor --json  the same for a program, or a report of a fault")]
pub(crate) struct DoctorArgs {}

pub(crate) fn run(args: &DoctorArgs, context: &Context) -> Result<()> {
    let settings: DoctorSettings = context.settings("doctor", args)?;
    let report = doctor::doctor(&settings, &context.bars)?;
    if !context.keeps_pages {
        super::output::warning("the C library's allocator takes no settings: more page faults, slower training");
    }
    context.output.report(&report, || report.to_string())?;
    match &report.broken[..] {
        [] => Ok(()),
        broken => Err(Error::work(broken.join("; "))),
    }
}
