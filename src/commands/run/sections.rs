//! What stands in the sections of a recipe: settings that are the recipe's to make, and sections of other commands.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::commands::compare::CompareSettings;
use crate::commands::demo::DemoSettings;
use crate::commands::fetch::FetchSettings;
use crate::commands::generate_settings::GenerateSettings;
use crate::commands::grow::GrowSettings;
use crate::commands::merge::MergeSettings;
use crate::commands::methods::MethodsSettings;
use crate::commands::sample::SampleSettings;
use crate::commands::teach_settings::TeachSettings;
use crate::{Result, settings};

/// Settings of each section that are not the recipe's to make.
pub(super) const OWN: [(&str, &[&str]); 5] = [
    (
        "analyze",
        &[
            "model",
            "layers",
            "fraction",
            "target",
            "max_loss",
            "keep",
            "from",
            "out",
            "csv",
            "force",
            "rank_timeout",
            "dry_run",
        ],
    ),
    (
        "cut",
        &[
            "model",
            "plan",
            "drop",
            "deepest",
            "tail",
            "method",
            "fraction",
            "layers",
            "target",
            "max_loss",
            "keep",
            "whole",
            "one_at_a_time",
            "threshold",
            "merge_layers",
            "interval",
            "type",
            "out",
            "force",
            "dry_run",
        ],
    ),
    ("heal", &["model", "out", "restart", "force", "rank_timeout", "dry_run"]),
    ("bench", &["model", "against"]),
    ("eval", &["model", "adapter", "out", "against", "force", "rank_timeout", "dry_run"]),
];

pub(super) type Check = fn(&Table, &str) -> Result<()>;

/// Sections that a recipe may have for single commands; `prune run` does not use them.
pub(super) const OTHERS: [(&str, Check); 9] = [
    ("compare", well_formed::<CompareSettings>),
    ("generate", well_formed::<GenerateSettings>),
    ("grow", well_formed::<GrowSettings>),
    ("merge", well_formed::<MergeSettings>),
    ("sample", well_formed::<SampleSettings>),
    ("teach", well_formed::<TeachSettings>),
    ("fetch", well_formed::<FetchSettings>),
    ("demo", well_formed::<DemoSettings>),
    ("methods", well_formed::<MethodsSettings>),
];

fn well_formed<T: DeserializeOwned>(table: &Table, name: &str) -> Result<()> {
    section::<T>(table, name).map(|_| ())
}

/// The section `name`, if there is one.
///
/// # Errors
/// Request: a key or a value that is wrong; it is named.
pub(super) fn section<T: DeserializeOwned>(table: &Table, name: &str) -> Result<Option<T>> {
    let Some(Value::Table(section)) = table.get(name) else { return Ok(None) };
    settings::build(section, &|key| format!("[{name}] {key}")).map(Some)
}
