//! What a repair takes, and what it cannot work with: told before any text is run.

use super::hadamard::hadamard;
use super::trained::{self, LayerTraining};
use super::units::{Unit, lacks_the_bottom, units};
use super::{How, Repair, refit};
use crate::arch::{ModelSpec, Role};
use crate::checkpoint::Checkpoint;
use crate::model::{Cost, mean_flops};
use crate::plan::{Plan, SubLayer};
use crate::{Error, Result};

/// What a repair takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RepairNeeds {
    /// Tokens that the equations need to be fitted on, at least.
    pub tokens: usize,
    /// Bytes beside the weights of two layers and the head.
    pub bytes: u64,
    /// Bytes more with which nothing is computed twice.
    pub bytes_to_keep: u64,
    /// Floating point operations.
    pub flops: f64,
}

/// Tokens of a text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextTokens {
    /// Of sequences that fit.
    pub fitting: usize,
    /// Of sequences that judge.
    pub judging: usize,
    /// Of the longest sequence.
    pub longest: usize,
}

/// The output projection of a sub-layer.
fn role(sublayer: SubLayer) -> Role {
    match sublayer {
        SubLayer::Attention => Role::O,
        SubLayer::Mlp => Role::Down,
    }
}

/// Refuses a plan and a model that `repair` cannot work with.
///
/// # Errors
/// Request: layers out of order, weights in codes, nothing before a seam, a projection that lacks a bias.
pub(super) fn check(
    repair: &Repair,
    (plan, changed): (&Plan, bool),
    spec: &ModelSpec,
    source: &Checkpoint,
) -> Result<()> {
    if !spec.adds_plainly() && !matches!(repair.how, How::Merged(_)) {
        return Err(Error::request(format!(
            "--repair {}: a {} layer does not add what its output projections give to the stream as it is, so no fit of \
             these can follow the stream; --repair streamline and xmerge train whole layers",
            repair.name, spec.model_type
        )));
    }
    let units = units(plan, spec, changed)?;
    let is_before = |unit: &&Unit| !unit.is_seam && unit.is_copy;
    let of_experts = |unit: &&Unit| unit.sublayer == SubLayer::Mlp && spec.experts_of(unit.layer).is_some();
    if let Some(unit) = units.iter().skip_while(is_before).find(of_experts) {
        return Err(Error::request(format!(
            "--repair {}: it works on output projections, and layer {} has experts with one each; --repair streamline \
             and xmerge train whole layers",
            repair.name, unit.layer
        )));
    }
    for unit in units.iter().skip_while(is_before) {
        let tensor = spec.layer_tensor(unit.layer, role(unit.sublayer));
        if source.four_bit_state(&tensor.name).is_some() {
            return Err(Error::request(format!(
                "tensor {} is stored in four bits, so it cannot be fitted anew; start from a checkpoint in f32, f16 or \
                 bf16",
                tensor.name
            )));
        }
    }
    let name = repair.name;
    if matches!(repair.how, How::Projections) {
        return Ok(());
    }
    if lacks_the_bottom(&units, spec) {
        return Err(Error::request(format!(
            "--repair {name}: the plan drops the first layers, and no layer before that seam could hold the repair; \
             --repair refit changes those behind it"
        )));
    }
    if !units.iter().any(|unit| unit.is_seam) {
        return Err(Error::request(format!("--repair {name}: the plan drops nothing: there is no seam to repair")));
    }
    if let How::Maps(mapping) = repair.how {
        if mapping.rotated {
            hadamard(spec.hidden_size)?;
        }
        return Ok(());
    }
    let lacks = |unit: &&Unit| spec.layer_tensor(unit.layer, role(unit.sublayer)).bias.is_none();
    let bias = units.iter().filter(|unit| unit.is_seam).find(lacks);
    match (repair.how, bias) {
        (How::BiasAtSeams(_), Some(unit)) => Err(Error::request(format!(
            "--repair {name}: {} has no bias that could hold it; --repair refit, fold or scale need none",
            spec.layer_tensor(unit.layer, role(unit.sublayer)).name
        ))),
        _ => Ok(()),
    }
}

impl Repair {
    /// What it takes for `plan` of a model with a text of `tokens`, where layers are trained by `training` if it is not
    /// as the repair has it. Where the cut has been `changed` since, every projection is behind the first seam.
    ///
    /// # Errors
    /// Request: as [`fit`](super::fit), as far as can be told before it.
    pub fn needs(
        &self,
        (plan, changed): (&Plan, bool),
        spec: &ModelSpec,
        source: &Checkpoint,
        (tokens, training): (TextTokens, Option<LayerTraining>),
    ) -> Result<RepairNeeds> {
        if let How::Trained(_, own) = self.how {
            let replaced = trained::replaced(self, plan, spec, source)?;
            return Ok(trained::needs(&replaced, training.unwrap_or(own), spec, tokens));
        }
        check(self, (plan, changed), spec, source)?;
        let units = units(plan, spec, changed)?;
        let first = units.iter().position(|unit| unit.is_seam || !unit.is_copy).unwrap_or(units.len());
        let first = if lacks_the_bottom(&units, spec) { 0 } else { first };
        let behind = || units[first..].iter();
        let (d, all) = (spec.hidden_size, tokens.fitting + tokens.judging);
        let width = |unit: &Unit| spec.layer_tensor(unit.layer, role(unit.sublayer)).shape[1];
        let is_refit = matches!(self.how, How::Projections);
        let widest = behind().filter(|unit| is_refit || unit.is_seam).map(width).max().unwrap_or(d);
        let steps = if is_refit { refit::STEPS.len() } else { 1 };
        let streams = 4 * d * (2 * all + steps * tokens.judging) + 4 * spec.rope.rotary_dim * all;
        let Cost { pass_bytes, chunk_bytes, .. } = Cost::most(spec);
        let pass = (pass_bytes + chunk_bytes) as usize * tokens.longest.max(512).min(all.max(1));
        // the sums of both texts, one factored, its solutions and what is multiplied with them; tokens widened
        let (equations, changes) = match is_refit {
            true => {
                let changes: usize = behind().map(|unit| 4 * d * width(unit)).sum();
                (8 * (3 * widest * widest + 5 * widest * d) + 8 * 512 * (widest + d), changes)
            }
            // a map that is reduced: the matrix, its eigenvectors, what they are sorted from
            false => (
                8 * (if self.has_rank() { 16 } else { 10 }) * d * d + 8 * 512 * 2 * d,
                4 * d * d * behind().filter(|unit| unit.is_seam).count(),
            ),
        };
        // a projection remade, some numbers of it at a time
        let remade = 4 * 4 * d * widest;
        let (products, mixing) = mean_flops(spec);
        let a_sublayer = (products + mixing * tokens.longest as f64 / 2.0) / SubLayer::ALL.len() as f64;
        let later = behind().count() as f64;
        let again = (all + steps * tokens.judging) as f64;
        let head = 2.0 * (d * spec.vocab_size * tokens.judging * (steps + 2)) as f64;
        let of_fit = |unit: &Unit| {
            let n = width(unit) as f64;
            let (d, all) = (d as f64, all as f64);
            match is_refit {
                // f64 counts twice, and half of a square is computed
                true => 2.0 * n * n * all + 4.0 * n * d * all + 5.0 * 2.0 * (n * n * n / 3.0 + 4.0 * n * n * d),
                false => 10.0 * d * d * all,
            }
        };
        let fits: f64 = behind().filter(|unit| is_refit || unit.is_seam).map(of_fit).sum();
        let whole = a_sublayer * SubLayer::ALL.len() as f64 * spec.layers as f64 * all as f64;
        Ok(RepairNeeds {
            tokens: if is_refit { widest } else { d },
            bytes: (streams + pass + equations + changes + remade) as u64,
            bytes_to_keep: (4 * widest * all) as u64,
            flops: whole + a_sublayer * later * again + head + fits,
        })
    }
}
