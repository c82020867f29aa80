//! What a cut is made from: the dense model, or where cuts and healings alternate, what the last cut left.

use serde_json::Value;

use super::drop::{Keep, Wanted};
use super::inputs::Keys;
use super::pipeline::{CutDone, Line};
use super::recipe::Recipe;
use super::stage::Step;
use crate::methods::RemovalUnit;
use crate::plan::Dropped;
use crate::{Error, Result};

/// A model that is there.
#[derive(Clone, Debug)]
pub(super) struct Made {
    /// Its directory or hub id.
    pub(super) path: String,
    /// What decides what it is.
    pub(super) identity: Value,
}

/// What a cut is made from.
#[derive(Debug)]
pub(super) struct Base {
    /// The model.
    pub(super) made: Made,
    /// What of the dense model is gone already.
    pub(super) dropped: Dropped,
    /// The analysis that decides what goes now, below the run's directory; absent where nothing is measured.
    pub(super) analysis: Option<String>,
    /// Layers of the dense model.
    pub(super) layers: usize,
}

impl Base {
    /// The dense model, for the cut that is `wanted`.
    ///
    /// # Errors
    /// Those of the analysis' settings.
    pub(super) fn dense(recipe: &Recipe, keys: &Keys<'_>, wanted: &Wanted, layers: usize) -> Result<Self> {
        let method = wanted.which.method().filter(|method| method.needs_scores());
        Ok(Self {
            made: Made { path: recipe.model.clone(), identity: keys.model.clone() },
            dropped: Dropped::default(),
            analysis: method.map(|method| recipe.analysis_of(method)).transpose()?,
            layers,
        })
    }

    /// What is gone of the dense model when `dropped` goes of this one.
    pub(super) fn and(&self, dropped: &Dropped) -> Dropped {
        if self.dropped.is_empty() {
            return dropped.clone();
        }
        let left: Vec<usize> = (0..self.layers).filter(|layer| !self.dropped.layers.contains(layer)).collect();
        let own = dropped.layers.iter().filter_map(|place| left.get(*place).copied());
        self.dropped.layers.iter().copied().chain(own).collect()
    }
}

impl Line<'_> {
    /// What `wanted` is made from, and what goes of it, by the analysis of what the cut `before` it left of a model of
    /// `layers` layers.
    ///
    /// # Errors
    /// Those of the analysis; more than can go.
    pub(super) fn after(&mut self, before: &CutDone, wanted: &Wanted, layers: usize) -> Result<Step<(Base, Dropped)>> {
        let (made, gone) = (before.made.clone(), before.dropped.layers.len());
        let asked = self.recipe.analysis_after(wanted, gone)?;
        let analysis = match &asked {
            Some(asked) => match self.analysis(asked, &made.path, &made.identity)? {
                Step::Is(analysis) => Some(analysis),
                Step::Waits => return Ok(Step::Waits),
            },
            None => None,
        };
        let dropped = wanted.which.less(gone).dropped(layers - gone, analysis.as_ref())?;
        let analysis = asked.map(|asked| asked.file());
        Ok(Step::Is((Base { made, dropped: before.dropped.clone(), analysis, layers }, dropped)))
    }
}

impl Recipe {
    /// Refuses cuts that cannot go one after the other.
    ///
    /// # Errors
    /// Request: says what does not fit.
    pub(super) fn check_alternating(&self) -> Result<()> {
        if !self.drop.alternating {
            return Ok(());
        }
        let parts = self.drop.methods.iter().find(|method| method.unit == RemovalUnit::SubLayer);
        let fault = if !self.drop.given.is_empty() {
            "layers that are named go from the dense model: leave given out".to_owned()
        } else if self.drop.max_loss.is_some() {
            "how many go at a time is said by layers, fractions or targets: leave max_loss out".to_owned()
        } else if let Some(method) = parts {
            format!("{} takes single attentions and MLPs: alternating takes whole layers", method.name)
        } else if self.drop.keep == Keep::Adapters {
            "each cut begins with the model that the last one left: keep = \"models\"".to_owned()
        } else if self.heal.as_ref().is_some_and(|heal| heal.adapter_only) {
            "each cut begins with the healed model: leave [heal] adapter_only out".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::request(fault))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_goes_later_has_the_numbers_of_the_dense_model() {
        let gone = |layers: &[usize]| layers.iter().copied().collect::<Dropped>();
        let made = Made { path: String::new(), identity: json!(0) };
        let base = Base { made, dropped: gone(&[1, 4]), analysis: None, layers: 8 };
        // 0 2 3 5 6 7 are left
        assert_eq!(base.and(&gone(&[0, 3, 5])), gone(&[0, 1, 4, 5, 7]));
        assert_eq!(base.and(&gone(&[])), gone(&[1, 4]));
        let dense = Base { dropped: Dropped::default(), ..base };
        assert_eq!(dense.and(&gone(&[2])), gone(&[2]));
    }
}
