//! Solved documents in front of a document: few-shot examples, picked as the reference picks them.

use std::fmt::Display;

use super::fields::Fields;
use super::python::Random;
use super::room::Room;
use super::select::Leaf;
use super::settings::EvalSettings;
use super::shots::Example;
use super::source::TaskSource;
use super::tasks::{About, Sampler};
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// How often a document may stand among the first examples.
const COPIES: usize = 64;

/// The examples of one task: documents, and each with its right answer.
pub(super) struct Examples<'a> {
    leaf: &'a Leaf,
    pub(super) shots: usize,
    random: Random,
    rows: Vec<Fields>,
    solved: Vec<Example>,
}

impl<'a> Examples<'a> {
    pub(super) fn open(
        leaf: &'a Leaf,
        source: &TaskSource,
        settings: &EvalSettings,
        room: &Room,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let about = leaf.task.about();
        let shots = if about.has_examples() { settings.few_shot.unwrap_or(about.shots) } else { 0 };
        if about.is_zero_shot && settings.few_shot.is_some_and(|shots| shots > 0) {
            progress
                .warn(&format!("{}: no examples are shown, as in the reference; --few-shot is left out", leaf.name));
        }
        let random = Random::new(settings.seed);
        let mut examples = Self { leaf, shots, random, rows: Vec::new(), solved: Vec::new() };
        if shots == 0 {
            return Ok(examples);
        }
        let used = match about.sampler {
            Sampler::First => shots,
            Sampler::FirstWithoutSelf => shots + COPIES,
            Sampler::Drawn | Sampler::DrawnWithoutSelf => usize::MAX,
        };
        let mut take = |fields: Fields, place: &dyn Display| {
            let fields = leaf.task.prepare(fields).context(|| place)?;
            room.row(&fields)?;
            let solved = leaf.task.example(&fields).context(|| place)?;
            room.text(solved.bytes())?;
            examples.solved.push(solved);
            examples.rows.push(fields);
            Ok(examples.rows.len() < used)
        };
        if about.samples.is_empty() {
            source.split(leaf, about.shots_split, &room.reading(settings), progress, &mut |row| {
                take(row.fields, &row.place)
            })?;
        } else {
            for fields in own(about)? {
                take(fields, &format!("the examples of {}", about.name))?;
            }
        }
        Ok(examples)
    }

    /// The solved examples in front of `row`, in order. They have to fit into what is left of `room`; nothing is taken.
    pub(super) fn pick(&mut self, row: &Fields, room: &Room) -> Result<Vec<&Example>> {
        if self.shots == 0 {
            return Ok(Vec::new());
        }
        let picked = match self.leaf.task.about().sampler {
            Sampler::First => (self.shots <= self.rows.len()).then(|| (0..self.shots).collect()),
            Sampler::Drawn => self.random.sample(self.rows.len(), self.shots),
            Sampler::DrawnWithoutSelf => self.without_self(row),
            Sampler::FirstWithoutSelf => {
                let others = (0..self.rows.len()).filter(|index| self.rows[*index] != *row);
                let picked: Vec<usize> = others.take(self.shots).collect();
                (picked.len() == self.shots).then_some(picked)
            }
        };
        let picked = picked.ok_or_else(|| {
            let (task, About { shots_split, samples, .. }) = (&self.leaf.name, *self.leaf.task.about());
            let source = if samples.is_empty() {
                format!("takes examples from its {shots_split} split, which has only {} rows", self.rows.len())
            } else {
                format!("has examples of its own, only {}", self.rows.len())
            };
            Error::request(format!("--few-shot {}: {task} {source}", self.shots))
        })?;
        let picked: Vec<&Example> = picked.iter().map(|index| &self.solved[*index]).collect();
        room.taken().take(picked.iter().map(|example| example.bytes()).sum())?;
        Ok(picked)
    }

    fn without_self(&mut self, row: &Fields) -> Option<Vec<usize>> {
        let mut picked = self.random.sample(self.rows.len(), self.shots + 1)?;
        picked.retain(|index| self.rows[*index] != *row);
        picked.truncate(self.shots);
        if picked.len() < self.shots {
            // several copies of the document were drawn: draw again from a pool without any
            let pool: Vec<usize> = (0..self.rows.len()).filter(|index| self.rows[*index] != *row).collect();
            let drawn = self.random.sample(pool.len(), self.shots)?;
            picked = drawn.into_iter().map(|index| pool[index]).collect();
        }
        Some(picked)
    }
}

/// Rows that a task brings itself.
fn own(about: &About) -> Result<Vec<Fields>> {
    let fault = |error| Error::work(format!("{}: its own examples are broken: {error}", about.name));
    serde_json::from_str(about.samples).map_err(fault)
}
