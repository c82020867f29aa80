//! Merges: the layer before a gap takes in the layers of the gap, as a sum of their tensors. No text is needed.

use std::collections::BTreeMap;
use std::iter::{once, repeat_n};
use std::sync::Arc;

use super::{How, Repair};
use crate::arch::{LayerTensor, ModelSpec};
use crate::checkpoint::Checkpoint;
use crate::plan::{Place, Plan};
use crate::weights::Expr;
use crate::{Error, Result};

/// θ + Σ (θ_k - θ) over the layers k of the gap, for the projections of the layer before it; its norms stay.
pub(super) const RDSC: Repair = Repair {
    name: "rdsc",
    about: "the projections of the layer before a gap plus what each dropped layer's differ from them by; no text",
    reference: "LaCo, arXiv 2402.11187, eq. 1, as written and not as its code telescopes; Sliding Layer Merging",
    opens_everywhere: true,
    how: How::Merged(|is_linear, gap| is_linear.then(|| once(1.0 - gap as f64).chain(repeat_n(1.0, gap)).collect())),
};

/// The mean of all tensors of the layer before the gap and of the layers of the gap.
pub(super) const AVERAGE: Repair = Repair {
    name: "average",
    about: "the mean of the layer before a gap and the dropped layers, norms included; no text",
    reference: "the plain mean that LaCo, arXiv 2402.11187, compares with",
    opens_everywhere: true,
    how: How::Merged(|_, gap| Some(vec![1.0 / (gap + 1) as f64; gap + 1])),
};

/// How the tensors of a cut by `plan` are made that `repair` makes otherwise, by their names in the new checkpoint and
/// of numbers of `source`, the model `spec` before the cut.
///
/// # Errors
/// Request: a repair that is fitted on text; a plan that does more than drop whole layers, or the first ones; layers
/// that lack parts, weights in codes. Work: the system has no more room for open files.
pub fn merged(repair: &Repair, plan: &Plan, spec: &ModelSpec, source: &Checkpoint) -> Result<BTreeMap<String, Expr>> {
    let refused = |why: &str| Err(Error::request(format!("--repair {}: {why}", repair.name)));
    let How::Merged(factors) = repair.how else { return refused("is fitted on text") };
    if spec.experts.is_some() {
        return refused("expert 3 of one layer is not expert 3 of the next, so layers with experts are not merged");
    }
    let kept = plan.kept();
    if !plan.stack.iter().all(Place::is_copy) || !plan.only_drops_layers() {
        return refused("whole layers are merged: the plan must keep the others as they are, in order, each once");
    }
    match kept.first() {
        Some(0) if kept.len() == spec.layers => return refused("the plan drops nothing: there is no gap"),
        Some(0) => {}
        _ => return refused("the plan drops the first layers, and no layer before that gap could take them in"),
    }
    let index = Arc::new(source.index.share()?);
    let stacked = spec.stacked(&kept);
    let ends = kept.iter().skip(1).copied().chain([spec.layers]);
    let mut changed = BTreeMap::new();
    for (place, (&layer, end)) in kept.iter().zip(ends).enumerate().filter(|(_, (layer, end))| **layer + 1 < *end) {
        if let Some(other) = (layer..end).find(|other| spec.without[*other] != spec.without[layer]) {
            return refused(&format!("layers {layer} and {other} have different sub-layers"));
        }
        let window: Vec<Vec<LayerTensor>> = (layer..end).map(|layer| spec.layer_tensors(layer)).collect();
        for (at, new) in stacked.layer_tensors(place).into_iter().enumerate() {
            let Some(factors) = factors(new.role.is_linear(), end - layer - 1) else { continue };
            let names = || window.iter().map(|tensors| tensors[at].name.clone());
            if let Some(name) = names().find(|name| source.four_bit_state(name).is_some()) {
                return refused(&format!(
                    "tensor {name} is stored in four bits; start from a checkpoint in f32, f16 or bf16"
                ));
            }
            let terms = factors.into_iter().zip(names()).filter(|(factor, _)| *factor != 0.0);
            let terms = terms.map(|(factor, name)| (factor, Expr::Stored(index.clone(), name)));
            changed.insert(new.name, Expr::Sum(terms.collect()));
        }
    }
    Ok(changed)
}
