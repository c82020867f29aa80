//! What follows from trained parameters, to be brought up to date when they have changed: DoRA's norms.

use super::{Linear, Model};
use crate::{Context, Error, Result};

impl Model {
    /// Makes fresh adapters change nothing: DoRA's magnitudes become the norms of their weights' rows.
    ///
    /// # Errors
    /// Work: layers that are not in memory, a row that is zero, a weight on a GPU.
    pub fn begin_magnitudes(&self) -> Result<()> {
        self.each_linear(Linear::begin_magnitudes, true)
    }

    /// Brings up to date what follows from trained parameters, after they have changed.
    ///
    /// # Errors
    /// As [`Model::begin_magnitudes`].
    pub fn refresh(&self) -> Result<()> {
        self.each_linear(Linear::refresh, false)
    }

    fn each_linear(&self, work: fn(&Linear) -> Result<()>, begin: bool) -> Result<()> {
        let blocks = self.blocks().ok_or_else(|| Error::work("training needs all layers in memory"))?;
        for (place, block) in blocks.iter().enumerate() {
            for (role, linear) in block.linears() {
                work(linear).context(|| self.spec().layer_tensor(place, role).name)?;
            }
            block.follow(begin)?;
        }
        Ok(())
    }
}
