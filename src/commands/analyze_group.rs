//! Several processes that analyze one model.

use serde::Serialize;
use serde_json::{Map, Value};

use super::analyze_settings::AnalyzeSettings;
use crate::collective::{Members, ProcessGroup};
use crate::{Error, Result};

/// Settings that do not change a number, nor who computes it: only process 0 needs them, or each has its own.
const FREE: [&str; 6] = ["out", "csv", "force", "device", "memory", "rank_timeout"];

/// Processes that measure together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AnalyzeGroup {
    /// Who they are.
    #[serde(flatten)]
    pub members: Members,
}

impl AnalyzeGroup {
    pub(super) fn new(group: &ProcessGroup) -> Result<Self> {
        group.members().map(|members| Self { members })
    }

    /// Whether this process tells what came of it.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.members.rank == 0
    }

    /// A line about them.
    #[must_use]
    pub(super) fn text(&self) -> String {
        format!("{} processes of {} share it", self.members.processes, self.members.launcher)
    }
}

/// Refuses processes with other settings.
///
/// # Errors
/// As [`ProcessGroup::check_alike`].
pub(super) fn check_settings(group: &ProcessGroup, settings: &AnalyzeSettings) -> Result<()> {
    let named = serde_json::to_value(settings).map_err(|error| Error::work(format!("settings: {error}")))?;
    let Value::Object(mut named) = named else { return Err(Error::work("settings are no table")) };
    named.retain(|name, _| !FREE.contains(&name.as_str()));
    named.insert("version".to_owned(), env!("CARGO_PKG_VERSION").into());
    group.check_alike(&named, "analyzes")
}

/// Refuses processes that would measure another model, or on other text: `deciding` says what a measurement depends on.
///
/// # Errors
/// As [`ProcessGroup::check_alike`].
pub(super) fn check_alike(group: &ProcessGroup, deciding: &Map<String, Value>) -> Result<()> {
    let is_content = |name: &str| name.ends_with("_is") || name.ends_with("_are");
    let named = deciding.iter().filter(|(name, _)| is_content(name));
    group.check_alike(&named.map(|(name, value)| (name.clone(), value.clone())).collect(), "measures")
}
