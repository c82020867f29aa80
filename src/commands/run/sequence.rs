//! Which stages a run has, in order, and which cuts are one because they drop the same.

use super::analyses::{Analyses, Analyzed};
use super::drop::Wanted;
use super::recipe::Recipe;
use crate::Result;
use crate::plan::Dropped;

/// The cuts of a run: of those that are the same the first stands for all.
pub(super) struct Plan {
    /// Their directories.
    dirs: Vec<String>,
    /// Whether what goes is decided on what the cut before left.
    analyzed: Vec<bool>,
    /// What each drops.
    pub(super) dropped: Vec<Dropped>,
    /// The first that is the same.
    pub(super) same: Vec<usize>,
    /// The first that drops the same, however it is repaired: one is as fast as the other.
    pub(super) timed: Vec<usize>,
}

impl Plan {
    /// That of `wanted`, cuts of a model of `layers`.
    ///
    /// # Errors
    /// As [`super::drop::Which::dropped`].
    pub(super) fn new(recipe: &Recipe, wanted: &[Wanted], layers: usize, analyses: &Analyses) -> Result<Self> {
        let dropped = |wanted: &Wanted| match wanted.before {
            // that is known when the one before it is done
            Some(_) => Ok(Dropped::default()),
            None => wanted.which.dropped(layers, analyses.of(&wanted.which)),
        };
        let dropped: Vec<Dropped> = wanted.iter().map(dropped).collect::<Result<_>>()?;
        let first = |is_it: &dyn Fn(usize) -> bool, own: usize| (0..own).find(|place| is_it(*place)).unwrap_or(own);
        let (mut same, mut timed) = (Vec::new(), Vec::new());
        for (own, cut) in wanted.iter().enumerate() {
            let is_alike = |place: usize| cut.before.is_none() && dropped[place] == dropped[own];
            same.push(first(&|place| is_alike(place) && wanted[place].repair == cut.repair, own));
            timed.push(first(&is_alike, own));
        }
        Ok(Self { dropped, same, timed, ..Self::before(recipe, wanted) })
    }

    /// As far as is known before the analysis: every cut is another one.
    pub(super) fn before(recipe: &Recipe, wanted: &[Wanted]) -> Self {
        let each: Vec<usize> = (0..wanted.len()).collect();
        let repairs = recipe.repairs().len();
        let timed =
            each.iter().map(|place| if wanted[*place].before.is_some() { *place } else { place - place % repairs });
        let timed = timed.collect();
        let dirs = wanted.iter().map(|wanted| wanted.name.clone()).collect();
        let is_analyzed = |wanted: &Wanted| wanted.before.is_some() && wanted.which.needs_scores();
        let analyzed = wanted.iter().map(is_analyzed).collect();
        Self { dirs, analyzed, dropped: Vec::new(), same: each, timed }
    }

    /// Names of all stages, in order, the `first` before those of the cuts.
    pub(super) fn names(&self, recipe: &Recipe, first: &[Analyzed]) -> Vec<String> {
        let (scores, heals, times) = (recipe.eval.is_some(), recipe.heal.is_some(), recipe.bench.is_some());
        let mut names = Vec::new();
        let mut add = |is_there: bool, name: String| names.extend(is_there.then_some(name));
        first.iter().for_each(|analysis| add(true, analysis.name.clone()));
        add(scores, "dense/scores".to_owned());
        for (place, dir) in self.dirs.iter().enumerate().filter(|(place, _)| self.same[*place] == *place) {
            add(self.analyzed[place], format!("{dir}/analysis"));
            add(true, format!("{dir}/model"));
            add(scores && (!heals || recipe.drop.unhealed), format!("{dir}/scores"));
            add(times && self.timed[place] == place, format!("{dir}/speed"));
            add(heals, format!("{dir}/healed"));
            add(heals && scores, format!("{dir}/healed-scores"));
        }
        add(times && self.dirs.is_empty(), "dense/speed".to_owned());
        names
    }
}
