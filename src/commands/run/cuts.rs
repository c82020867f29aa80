//! A cut and the stages that follow from it: its scores, its speed, its healing, the healed model's scores.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::drop::{Keep, Wanted, Which};
use super::pipeline::{CutDone, Line, Size};
use super::recipe::Recipe;
use super::rounds::{Base, Made};
use super::stage::{Job, Stage, Step};
use crate::checkpoint::{Origin, Workplace, has_leftovers};
use crate::commands::cut::{self, CutSettings};
use crate::commands::heal;
use crate::commands::merge::{self, MergeSettings};
use crate::heal::{HealSettings, MergeOnto};
use crate::plan::Dropped;
use crate::progress::Progress;
use crate::{Error, Result};

/// How `settings` merge an adapter.
fn merging(settings: &HealSettings) -> MergeSettings {
    let merge_onto = settings.merge_onto;
    let plain_scales = settings.plain_scales && merge_onto == MergeOnto::Quantized;
    MergeSettings { merge_onto, plain_scales, ..MergeSettings::default() }
}

/// The healed model of the cut at `cut`, merged where an earlier run has tidied it away.
pub(super) fn merged(
    recipe: &Recipe,
    (cut, healed): (&str, &Path),
    job: &Job<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    let path = healed.join(MERGED);
    if has_leftovers(&path) {
        // of an earlier version that was killed: opening the place clears what is beside it
        drop(Workplace::open(&path, &Origin::program("run"))?);
    }
    if path.exists() {
        return Ok(());
    }
    let settings = MergeSettings {
        model: Some(cut.to_owned()),
        adapter: Some(healed.join("adapter")),
        out: Some(job.beside(MERGED)),
        force: true,
        max_shard_size: recipe.cut.max_shard_size.clone(),
        ..recipe.heal.as_ref().map_or_else(MergeSettings::default, merging)
    };
    merge::merge(&settings, progress)?;
    job.place(MERGED, &path)
}

/// The healed model in a healing's directory.
pub(super) const MERGED: &str = "merged";

/// A model to score.
pub(super) struct Scored {
    pub(super) path: String,
    pub(super) adapter: Option<PathBuf>,
    /// The cut and the healing that it is merged from, where it may have to be.
    pub(super) merged: Option<(String, PathBuf)>,
}

impl Scored {
    /// What stands there.
    pub(super) fn at(path: String) -> Self {
        Self { path, adapter: None, merged: None }
    }
}

impl Line<'_> {
    /// The cut and all that is made of it; its speed unless one that is repaired otherwise `is_timed` for it.
    pub(super) fn cut(
        &mut self,
        wanted: Wanted,
        (base, dropped): (&Base, Dropped),
        is_timed: bool,
    ) -> Result<Step<CutDone>> {
        let dir = wanted.name.clone();
        let place = |part: &str| format!("{dir}/{part}");
        let [model, scores, speed, healed, healed_scores] =
            ["model", "scores", "speed", "healed", "healed-scores"].map(place);
        let identity = self.keys.cut_model(&base.made.identity, &dropped, wanted.repair)?;
        let shape = self.keys.cut_model(&base.made.identity, &dropped, None)?;
        let healing = self.recipe.heal.clone().zip(self.keys.healing(&identity)?);

        // what is missing decides whether the cut has to be there
        let is_scored = healing.is_none() || self.recipe.drop.unhealed;
        let mut missing = is_scored && self.unscored(&scores, &identity)?;
        if let (Some(key), true) = (self.keys.speed(&shape)?, is_timed) {
            missing |= !self.state.is_done(&Stage { name: &speed, key, needed: None });
        }
        if let Some((_, key)) = &healing {
            missing |= !self.state.is_done(&Stage { name: &healed, key: key.clone(), needed: Some(&healed) });
            missing |= self.unscored(&healed_scores, &json!(key))?;
        }
        let Step::Is(size) = self.write_cut(&wanted, (base, &dropped), &model, missing)? else {
            return Ok(Step::Waits);
        };

        let cut = Scored::at(self.path(&model));
        let scores = if is_scored { self.score(&scores, cut, &identity)? } else { Step::Is(None) };
        let speed = match is_timed {
            true => self.speed(&speed, &self.path(&model), &shape)?,
            false => Step::Is(None),
        };
        let mut made = Made { path: self.path(&model), identity: identity.clone() };
        let (mut healing_done, mut healed_done) = (Step::Is(None), Step::Is(None));
        if let Some((settings, key)) = healing {
            let identity = json!(key);
            made = Made { path: self.path(&format!("{healed}/{MERGED}")), identity: identity.clone() };
            let stage = Stage { name: &healed, key, needed: Some(&healed) };
            let told = self.begin(&stage);
            let reference = settings.eval_data.is_some().then(|| self.recipe.model.clone());
            let reference = settings.reference.clone().or(reference);
            let settings = HealSettings { model: Some(self.path(&model)), reference, ..settings };
            let measured = &mut self.measured;
            let result = self.state.run(&stage, &told, |job, progress| {
                let settings = HealSettings { out: Some(job.out.clone()), ..settings };
                let report = heal::heal_sharing(&settings, None, measured, progress)?;
                report.result.ok_or_else(|| Error::work("the healing has no result"))
            })?;
            healed_done = match &result {
                Step::Is(_) => {
                    let whole = self.healed(&model, &healed);
                    self.score(&healed_scores, whole, &identity)?
                }
                Step::Waits => Step::Waits,
            };
            healing_done = result.map(Some);
        }
        let (Step::Is(scores), Step::Is(speed), Step::Is(healing), Step::Is(healed_scores)) =
            (scores, speed, healing_done, healed_done)
        else {
            return Ok(Step::Waits);
        };
        if self.recipe.drop.keep == Keep::Adapters {
            self.state.tidy(&model, &healed)?;
        }
        let dropped = base.and(&dropped);
        Ok(Step::Is(CutDone { wanted, dir, dropped, made, size, scores, speed, healing, healed: healed_scores }))
    }

    /// The healed model: merged, or where the recipe wants adapters alone, the cut with its adapter.
    fn healed(&self, model: &str, healed: &str) -> Scored {
        let adapter = self.state.dir().join(healed).join("adapter");
        if self.recipe.heal.as_ref().is_some_and(|heal| heal.adapter_only) {
            return Scored { adapter: Some(adapter), ..Scored::at(self.path(model)) };
        }
        let merged = Some((self.path(model), self.state.dir().join(healed)));
        Scored { merged, ..Scored::at(self.path(&format!("{healed}/merged"))) }
    }

    fn path(&self, part: &str) -> String {
        self.state.dir().join(part).display().to_string()
    }

    /// Whether scores are still to be made.
    fn unscored(&self, name: &str, identity: &Value) -> Result<bool> {
        let Some(key) = self.keys.scores(identity)? else { return Ok(false) };
        Ok(!self.state.is_done(&Stage { name, key, needed: Some(name) }))
    }

    fn write_cut(
        &mut self,
        wanted: &Wanted,
        (base, dropped): (&Base, &Dropped),
        name: &str,
        needed: bool,
    ) -> Result<Step<Size>> {
        let key = self.keys.cut(&base.made.identity, wanted, dropped)?;
        let stage = Stage { name, key, needed: needed.then_some(name) };
        let told = self.begin(&stage);
        let settings = self.recipe.cut_by(wanted.repair);
        let mut settings = CutSettings { model: Some(base.made.path.clone()), force: true, ..settings };
        match &wanted.which {
            Which::Method(method, n) => {
                settings.plan = base.analysis.as_ref().map(|file| self.state.dir().join(file));
                settings.method = Some(method);
                settings.layers = Some(n - base.dropped.layers.len());
            }
            // the method is the one that the analysis follows
            Which::Within(_, most) => {
                settings.plan = base.analysis.as_ref().map(|file| self.state.dir().join(file));
                settings.max_loss = Some(*most);
            }
            Which::Given(text) => settings.drop = Some(text.clone()),
        }
        if dropped.are_layers() {
            // a recipe says it for the cuts that need it
            settings.format = None;
        }
        let shared = &mut self.repairing;
        self.state.run(&stage, &told, |job, progress| {
            let settings = CutSettings { out: Some(job.out.clone()), ..settings };
            let report = cut::cut_sharing(&settings, shared, progress)?;
            Ok(Size { parameters: report.parameters.after, bytes: report.bytes.after })
        })
    }
}
