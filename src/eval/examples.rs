//! Solved documents in front of a document: few-shot examples, picked as the reference picks them.

use super::fields::Fields;
use super::python::Random;
use super::room::Room;
use super::select::Leaf;
use super::settings::EvalSettings;
use super::source::TaskSource;
use super::tasks::Sampler;
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// The examples of one task: documents, and each with its right answer.
pub(super) struct Examples<'a> {
    leaf: &'a Leaf,
    pub(super) shots: usize,
    random: Random,
    rows: Vec<Fields>,
    solved: Vec<String>,
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
        let random = Random::new(settings.seed);
        let mut examples = Self { leaf, shots, random, rows: Vec::new(), solved: Vec::new() };
        if shots == 0 {
            return Ok(examples);
        }
        let used = if about.sampler == Sampler::First { shots } else { usize::MAX };
        source.split(leaf, about.shots_split, &room.reading(settings), progress, &mut |row| {
            let place = || row.place.clone();
            let fields = leaf.task.prepare(row.fields).context(place)?;
            room.row(&fields)?;
            let solved = leaf.task.example(&fields).context(place)?;
            room.text(solved.len())?;
            examples.solved.push(solved);
            examples.rows.push(fields);
            Ok(examples.rows.len() < used)
        })?;
        Ok(examples)
    }

    /// The solved examples in front of `row`, in order. They have to fit into what is left of `room`; nothing is taken.
    pub(super) fn pick(&mut self, row: &Fields, room: &Room) -> Result<String> {
        if self.shots == 0 {
            return Ok(String::new());
        }
        let picked = match self.leaf.task.about().sampler {
            Sampler::First => (self.shots <= self.rows.len()).then(|| (0..self.shots).collect()),
            Sampler::Drawn => self.random.sample(self.rows.len(), self.shots),
            Sampler::DrawnWithoutSelf => self.without_self(row),
        };
        let picked = picked.ok_or_else(|| {
            let (task, split) = (&self.leaf.name, self.leaf.task.about().shots_split);
            Error::request(format!(
                "--few-shot {}: {task} takes examples from its {split} split, which has only {} rows",
                self.shots,
                self.rows.len()
            ))
        })?;
        let picked = || picked.iter().map(|index| self.solved[*index].as_str());
        room.taken().take(picked().map(str::len).sum())?;
        Ok(picked().collect())
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
