//! An evaluation that several processes do together: process 0 has the output and what stands there, and says what is
//! asked and which passes are left; each answers its share of those and tells process 0 what comes of a pass.

use std::cmp::min;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{Asked, Evaluation, is_shared, selected};
use crate::collective::{Collective, ProcessGroup};
use crate::eval::journal::RunId;
use crate::eval::passes::PassTokens;
use crate::eval::settings::EvalSettings;
use crate::eval::source::TaskSource;
use crate::{Error, Result};

/// Settings that do not change an answer, nor who gives it: only process 0 needs them, or each has its own.
const FREE: [&str; 8] = ["out", "against", "force", "run_code", "python", "device", "memory", "rank_timeout"];

impl EvalSettings {
    /// The settings that processes have to have in common that do an evaluation together, by name.
    #[must_use]
    pub fn deciding(&self) -> Map<String, Value> {
        let Ok(Value::Object(mut named)) = serde_json::to_value(self) else { return Map::new() };
        named.retain(|name, _| !FREE.contains(&name.as_str()));
        named
    }
}

/// What has to fit into the memory of every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PlannedRoom {
    pub(super) pass_tokens: PassTokens,
    pub(super) cached_tokens: Option<usize>,
}

impl PlannedRoom {
    fn least(self, other: Self) -> Self {
        let (a, b) = (self.pass_tokens, other.pass_tokens);
        Self {
            pass_tokens: PassTokens { usual: min(a.usual, b.usual), most: min(a.most, b.most) },
            cached_tokens: self.cached_tokens.zip(other.cached_tokens).map(|(a, b)| min(a, b)),
        }
    }

    /// What all processes have room for: with as much memory as one alone, what that has.
    ///
    /// # Errors
    /// As [`ProcessGroup::agree`].
    pub(super) fn agreed(self, group: &ProcessGroup) -> Result<Self> {
        let all = group.collect(self)?;
        group.agree(&all.into_iter().fold(self, Self::least))
    }
}

impl Asked {
    /// Says to the other processes what is asked for: what stands in the output too.
    ///
    /// # Errors
    /// Work: a process that is gone. What another one met. Interrupted.
    pub fn lead(&self, group: &ProcessGroup) -> Result<()> {
        group.agree(&self.settings.tasks).map(drop)
    }

    /// What process 0 asks for, which has the output and runs programs.
    ///
    /// # Errors
    /// As [`Asked::open`]; what another process met.
    pub fn follow(
        settings: &EvalSettings,
        source: &dyn Fn() -> Result<TaskSource>,
        group: &ProcessGroup,
    ) -> Result<Self> {
        settings.check()?;
        let tasks: Vec<String> = group.agree(&Vec::new())?;
        let source = source()?;
        let selection = selected(settings, &tasks, &source)?;
        let settings = EvalSettings { tasks, out: None, against: None, force: false, ..settings.clone() };
        Ok(Self { settings, source, selection, place: None, before: None, runner: None })
    }
}

impl<'a> Evaluation<'a> {
    /// What says whether two processes ask the same of the same model, beside their settings.
    #[must_use]
    pub fn identity(&self) -> Map<String, Value> {
        let ends = self.endings.as_ref().map(|endings| format!("{:?} {:?}", endings.ids(), endings.penalty()));
        let entries = [
            ("version", json!(env!("CARGO_PKG_VERSION"))),
            ("model_is", json!(self.about.weights)),
            ("questions_are", json!(self.job.digest())),
            ("answers_end_at", json!(ends)),
        ];
        entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Shares the passes out to the processes of `group`, all of which ask the same.
    ///
    /// # Errors
    /// Request: settings by which each is to do a share of its own. Work: a process that is gone. What another one met.
    /// Interrupted.
    pub fn together(mut self, group: &'a ProcessGroup) -> Result<Self> {
        if is_shared(&self.settings) {
            return Err(Error::request("--shard, --merge: processes that have met share the passes out by themselves"));
        }
        let places: Vec<usize> = group.agree(&self.known.keys().copied().collect())?;
        if group.rank() > 0 {
            self.known = places.into_iter().map(|place| (place, Vec::new())).collect();
        }
        self.group = Some(group);
        Ok(self)
    }

    /// Whether this process plans, and has the output.
    pub(super) fn leads(&self) -> bool {
        self.group.is_none_or(|group| group.rank() == 0)
    }

    /// The run that process 0 plans.
    ///
    /// # Errors
    /// As [`ProcessGroup::agree`].
    pub(super) fn agreed(&self, run: RunId) -> Result<RunId> {
        self.group.map_or(Ok(run.clone()), |group| group.agree(&run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_planned_fits_everywhere() {
        let room = |usual, most, cached_tokens| PlannedRoom { pass_tokens: PassTokens { usual, most }, cached_tokens };
        assert_eq!(room(4, 9, Some(7)).least(room(5, 8, Some(6))), room(4, 8, Some(6)));
        assert_eq!(room(4, 9, None).least(room(4, 9, None)), room(4, 9, None));
    }

    #[test]
    fn what_decides_an_answer_is_compared() {
        let all = EvalSettings {
            out: Some("o".into()),
            against: Some("a".into()),
            run_code: Some(true),
            python: Some("p".into()),
            rank_timeout: 5,
            ..EvalSettings::default()
        };
        let named = serde_json::to_value(&all).unwrap();
        assert!(FREE.iter().all(|name| named.get(name).is_some()));
        assert_eq!(all.deciding(), EvalSettings::default().deciding());
        assert_ne!(EvalSettings { seed: 5, ..EvalSettings::default() }.deciding(), all.deciding());
    }
}
