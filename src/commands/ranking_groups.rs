//! The methods that `prune methods MODEL` tries, by what is computed for them.

use super::ranking::{LeftOut, RankedMethod};
use crate::arch::ModelSpec;
use crate::importance::{self, Draws, Evaluate, Evidence, Metric, Needs, Protect, Removals, Scores, Sources, Subject};
use crate::methods::{Method, Search};
use crate::model::Model;
use crate::plan::Dropped;
use crate::progress::Progress;
use crate::{Context, Error, Result};

/// Methods whose choices come of one computation.
pub(super) struct Group {
    methods: Vec<&'static Method>,
    layer_passes: usize,
}

/// The methods that can choose `n` layers of a model, and those that cannot.
pub(super) fn possible(chosen: &[&'static Method], spec: &ModelSpec, n: usize) -> (Vec<&'static Method>, Vec<LeftOut>) {
    let (mut tried, mut left_out) = (Vec::new(), Vec::new());
    for method in chosen {
        let is_fine = method.metric().is_some_and(|metric| metric.subject == Subject::SubLayer);
        let lacks = spec.without.iter().position(|without| !without.is_empty()).filter(|_| is_fine);
        let runs = spec.parallel && method.metric().is_some_and(Metric::runs_sublayers);
        let checked = match lacks {
            _ if runs => Err(Error::request("attention and MLP stand side by side in this model")),
            Some(layer) => Err(Error::request(format!("layer {layer} has no {}", spec.without[layer]))),
            None if method.needs_scores() => {
                method.search(Protect::default()).and_then(|search| search.protect.check(spec.layers, Some(n)))
            }
            None => method.layers(spec.layers, n).map(drop),
        };
        match checked {
            Ok(()) => tried.push(*method),
            Err(error) => left_out.push(LeftOut { name: method.name, why: error.to_string() }),
        }
    }
    (tried, left_out)
}

/// The methods by what is computed for them: those that search alone, the others with all that cost the same.
pub(super) fn groups(
    tried: &[&'static Method],
    spec: &ModelSpec,
    (n, texts): (usize, usize),
    draws: &Draws,
) -> Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for method in tried {
        let same = |group: &&mut Group| {
            !method.is_searched() && group.methods.iter().all(|own| !own.is_searched() && own.cost() == method.cost())
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.methods.push(method),
            None => groups.push(Group { methods: vec![method], layer_passes: 0 }),
        }
    }
    for group in &mut groups {
        group.layer_passes = group.passes(spec.layers, (n, texts), draws)?;
    }
    Ok(groups)
}

impl Group {
    fn metrics(&self) -> Vec<&'static Metric> {
        self.methods.iter().filter_map(|method| method.metric()).collect()
    }

    /// Layers computed for each token, at most.
    fn passes(&self, layers: usize, (n, texts): (usize, usize), draws: &Draws) -> Result<usize> {
        let [method, ..] = self.methods[..] else { return Ok(0) };
        if method.is_searched() {
            return Ok(searching(method, draws)?.passes(layers, n, (texts, 0))?.text);
        }
        let metrics = self.metrics();
        let removals = Removals::new(layers, metrics.iter().copied());
        if !removals.is_empty() {
            return Ok(removals.layer_passes());
        }
        let of = |metric: &&Metric| match metric.value {
            Evaluate::Weights(Needs::Nothing, _) => 0,
            // back is twice as much as forward
            Evaluate::Weights(Needs::Gradients, _) | Evaluate::Gates(_) | Evaluate::GatePairs => 3 * layers,
            Evaluate::Coalitions(how) => (how.passes)(layers, draws),
            _ => layers,
        };
        let each = metrics.iter().map(of);
        let one_by_one = metrics.iter().any(|metric| matches!(metric.value, Evaluate::Coalitions(_)));
        Ok(if one_by_one { each.sum() } else { each.max().unwrap_or(0) })
    }

    /// What is known of the methods before anything is computed.
    pub(super) fn ahead(&self) -> impl Iterator<Item = RankedMethod> {
        self.methods.iter().map(|method| RankedMethod {
            name: method.name,
            cost: method.cost(),
            layer_passes: self.layer_passes,
            seconds: None,
            choice: None,
        })
    }

    /// What goes by each of the methods.
    pub(super) fn choose(
        &self,
        (model, n): (&Model, usize),
        sequences: &[Vec<u32>],
        (evidence, draws): (&mut dyn Evidence, &Draws),
        progress: &dyn Progress,
    ) -> Result<Vec<Dropped>> {
        let layers = model.layers();
        let scores: Vec<Scores> = match self.methods.iter().any(|method| method.is_searched()) {
            true => Vec::new(),
            false => {
                let sources = Sources { asked: Some((&mut *evidence, draws)), shared: None };
                importance::measure_with(model, &self.metrics(), sequences, sources, progress)?
            }
        };
        let mut of = |method: &&'static Method| -> Result<Dropped> {
            if let Some(range) = method.layers(layers, n)? {
                return Ok(range.collect());
            }
            let search = searching(method, draws)?;
            let searched = match method.is_searched() {
                true => search.run_with(&mut *evidence, &scores, Some(n))?,
                false => search.run(&scores, layers)?,
            };
            searched.gone(n, layers)
        };
        self.methods.iter().map(|method| of(method).context(|| method.name)).collect()
    }
}

/// What a method that looks at scores searches, with these draws.
fn searching(method: &Method, draws: &Draws) -> Result<Search> {
    Ok(Search { draws: *draws, ..method.search(Protect::default())? })
}
