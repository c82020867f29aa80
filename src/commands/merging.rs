//! The repairs of `prune cut` that need no text: layers that go are merged into those before them.

use serde::Serialize;
use serde_json::json;

use crate::arch::ModelSpec;
use crate::repair::{Repair, merged};
use crate::surgery::Cut;
use crate::{Error, Result};

/// What a repair without a text did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Merged {
    /// Its name.
    pub name: &'static str,
    /// Tensors that were made anew.
    pub tensors: usize,
}

/// `cut`, with the layers before its gaps merged with those of the gaps.
pub(super) fn merging(merge: &Repair, cut: Cut) -> Result<(Cut, Merged)> {
    let (name, source) = (merge.name, cut.blueprint().source().clone());
    if let Some(why) = cut.not_computed() {
        return Err(Error::request(format!("--repair {name}: the model is not computed here: {why}")));
    }
    let changed = merged(merge, cut.plan(), &ModelSpec::from_config(&source.config)?, &source)?;
    let told = Merged { name, tensors: changed.len() };
    let record = json!({"name": name, "about": merge.about, "reference": merge.reference});
    Ok((cut.repaired(changed, record)?, told))
}
