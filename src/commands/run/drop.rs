//! What a recipe drops: `[drop]`, and the cuts that come of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::arch::ModelSpec;
use crate::checkpoint::Checkpoint;
use crate::commands::analyze::AnalyzeSettings;
use crate::importance::{Analysis, Protect};
use crate::methods::{self, Follows, Goal, METHODS, Method};
use crate::plan::{Dropped, SubLayers, layers_for_fraction, parse_drop};
use crate::repair::Repair;
use crate::surgery::Target;
use crate::{Context, Error, Result};

/// `[drop]`: every method with every number of layers, and the layers that are named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drop {
    /// How the layers are found.
    #[serde(alias = "strategies")]
    pub methods: Vec<&'static Method>,
    /// How many.
    pub layers: Vec<usize>,
    /// How many, as shares of all layers.
    pub fractions: Vec<f64>,
    /// How many, as few as bring the model to this: `params=5B`, `bytes=4GiB`, `kv-bytes=64KiB`, `speed=1.5`.
    pub targets: Vec<Target>,
    /// How many, as many as let the loss rise by no more than this, nats a token: the analysis measures it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_loss: Option<f64>,
    /// Layers by number, such as `21-28,30`, and sub-layers, `attn:7`; one entry for each cut.
    pub given: Vec<String>,
    /// Whether the cuts of a method go one after the other, each chosen, repaired and healed on what the last one left.
    pub alternating: bool,
    /// Scores cuts that are not healed as well, where there is a healing.
    pub unhealed: bool,
    /// What stays on disk in the end.
    pub keep: Keep,
}

impl Default for Drop {
    fn default() -> Self {
        Self {
            methods: vec![&METHODS[0]],
            layers: Vec::new(),
            fractions: Vec::new(),
            targets: Vec::new(),
            max_loss: None,
            given: Vec::new(),
            alternating: false,
            unhealed: true,
            keep: Keep::Models,
        }
    }
}

/// What stays on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// Every model.
    Models,
    /// Adapters, scores, figures: a cut and its merged model go when everything that needs them is done.
    Adapters,
}

/// One cut that the recipe asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Its directory: `similarity-4`, `similarity-4-refit`.
    pub name: String,
    /// What it is called in figures: `similarity`.
    pub strategy: String,
    /// How the layers are found.
    pub which: Which,
    /// What it is repaired by.
    pub repair: Option<&'static Repair>,
    /// The cut whose outcome this one goes on from; the dense model where there is none.
    pub before: Option<Before>,
    /// How many there are before it so.
    pub round: usize,
}

/// The cut that another one goes on from.
#[derive(Clone, Debug, PartialEq)]
pub struct Before {
    /// Its directory.
    pub name: String,
    /// Layers that are gone by then.
    pub layers: usize,
}

impl Wanted {
    /// The same cut, repaired.
    #[must_use]
    pub fn repaired(&self, repair: Option<&'static Repair>) -> Self {
        let named = |name: &String| repair.map_or_else(|| name.clone(), |repair| format!("{name}-{}", repair.name));
        let before = self.before.as_ref().map(|before| Before { name: named(&before.name), ..before.clone() });
        Self { name: named(&self.name), before, repair, ..self.clone() }
    }
}

/// What `spec` becomes without what is `dropped`, as far as memory and time go by it.
#[must_use]
pub(super) fn cut_spec(spec: &ModelSpec, dropped: &Dropped) -> ModelSpec {
    let kept = (0..spec.layers).filter(|layer| !dropped.layers.contains(layer));
    let of = |layer: usize| spec.without.get(layer).copied().unwrap_or_default();
    let without: Vec<SubLayers> =
        kept.map(|layer| of(layer).and(dropped.sublayers.get(&layer).copied().unwrap_or_default())).collect();
    ModelSpec { layers: without.len(), without, ..spec.clone() }
}

/// How the layers are found.
#[derive(Clone, Debug, PartialEq)]
pub enum Which {
    /// So many, by a method.
    Method(&'static Method, usize),
    /// As many by a method as let the loss rise by no more than this.
    Within(&'static Method, f64),
    /// These, in the notation of `--drop`.
    Given(String),
}

impl Which {
    /// The method, where one finds them.
    #[must_use]
    pub fn method(&self) -> Option<&'static Method> {
        match self {
            Self::Method(method, _) | Self::Within(method, _) => Some(method),
            Self::Given(_) => None,
        }
    }

    /// The same where `gone` layers have gone before.
    #[must_use]
    pub fn less(&self, gone: usize) -> Self {
        match self {
            Self::Method(method, size) => Self::Method(method, size - gone),
            other => other.clone(),
        }
    }

    /// What goes from a model of `layers` at most; where only scores decide it, as many of the first layers.
    ///
    /// # Errors
    /// Request: layers that are not there.
    pub fn as_much(&self, layers: usize) -> Result<Dropped> {
        match self {
            Self::Method(_, count) => Ok((0..*count).collect()),
            Self::Within(..) => Ok((0..layers - 1).collect()),
            Self::Given(text) => parse_drop(text, layers),
        }
    }

    /// What goes at least, likewise.
    ///
    /// # Errors
    /// As [`Which::as_much`].
    pub fn as_little(&self, layers: usize) -> Result<Dropped> {
        match self {
            Self::Within(..) => Ok((0..1).collect()),
            _ => self.as_much(layers),
        }
    }

    /// What goes from a model of `layers`, by `analysis` where scores decide.
    ///
    /// # Errors
    /// Request: more than can go, layers that are not there, an analysis that is missing or lacks scores.
    pub fn dropped(&self, layers: usize, analysis: Option<&Analysis>) -> Result<Dropped> {
        match self {
            Self::Method(method, count) => method.dropped(layers, *count, analysis).context(|| "[drop]"),
            Self::Within(method, most) => {
                let count = |analysis: &Analysis| methods::within(&analysis.search, layers, Goal::Loss(*most));
                let count = analysis.map(count).transpose().context(|| "[drop] max_loss")?.unwrap_or(1);
                method.dropped(layers, count, analysis).context(|| "[drop] max_loss")
            }
            Self::Given(text) => parse_drop(text, layers),
        }
    }

    /// Whether scores decide.
    #[must_use]
    pub fn needs_scores(&self) -> bool {
        self.method().is_some_and(Method::needs_scores)
    }
}

impl Drop {
    /// Refuses a bound on the loss for methods whose choices `analyze` does not follow: it measures no losses of those.
    ///
    /// # Errors
    /// Request: names the method; a bound that is none.
    pub(super) fn check_loss(&self, analyze: Option<&AnalyzeSettings>) -> Result<()> {
        let Some(most) = self.max_loss else { return Ok(()) };
        if !(SMALLEST..=1.0 / SMALLEST).contains(&most) && most != 0.0 {
            let expected = "expected nats a token, such as 0.1";
            return Err(Error::request(format!("[drop] max_loss = {most}: {expected}")));
        }
        let search = analyze.map(AnalyzeSettings::search).transpose()?;
        for Method { name, follows, pick, keeps, .. } in self.methods.iter().copied() {
            let is_followed = match (&search, follows) {
                (None, _) | (_, Follows::None) => false,
                (Some(_), Follows::Analysis) => true,
                (Some(search), Follows::Scores(metric)) => {
                    let Protect { first, last } = search.protect;
                    let is_kept = first >= keeps.first && last >= keeps.last;
                    search.metric == *metric && search.pick()?.name == *pick && is_kept
                }
            };
            if !is_followed {
                let fault = format!("the losses of what {name} chooses are not measured");
                return Err(Error::request(match follows {
                    Follows::None => format!("[drop] max_loss: {fault}: it looks at nothing; say how many layers"),
                    _ => format!("[drop] max_loss: {fault}; the analysis follows it by [analyze] method = \"{name}\""),
                }));
            }
        }
        Ok(())
    }

    /// With the numbers of layers that bring `model`, which has `layers`, to the targets.
    ///
    /// # Errors
    /// Request: a target that cannot be met.
    pub fn settled(&self, model: &Checkpoint, layers: usize) -> Result<Self> {
        let mut settled = self.clone();
        for target in settled.targets.drain(..) {
            settled.layers.push(target.layers(model, &(0..layers)).context(|| "[drop] targets")?);
        }
        Ok(settled)
    }

    /// The cuts of a model of `layers` layers, each once, but for [targets](Self::settled).
    ///
    /// # Errors
    /// Request: more layers than there are.
    pub fn wanted(&self, layers: usize) -> Result<Vec<Wanted>> {
        let mut sizes = self.layers.clone();
        for fraction in &self.fractions {
            sizes.push(layers_for_fraction(*fraction, layers).context(|| "[drop] fractions")?);
        }
        sizes.sort_unstable();
        sizes.dedup();
        if let Some(size) = sizes.iter().find(|size| !(1..layers).contains(*size)) {
            return Err(Error::request(format!(
                "[drop] layers: {size} of {layers} cannot go, 1 to {} can",
                layers - 1
            )));
        }
        let mut wanted = Vec::new();
        for method in &self.methods {
            let named = |size: &usize| format!("{}-{size}", method.name);
            for (place, size) in sizes.iter().enumerate() {
                let before = place.checked_sub(1).and_then(|place| sizes.get(place)).filter(|_| self.alternating);
                let before = before.map(|size| Before { name: named(size), layers: *size });
                let round = if self.alternating { place } else { 0 };
                let (strategy, which) = (method.name.to_owned(), Which::Method(method, *size));
                wanted.push(Wanted { name: named(size), strategy, which, repair: None, before, round });
            }
            if let Some(most) = self.max_loss {
                let name = format!("{}-loss{most}", method.name);
                let (strategy, which) = (method.name.to_owned(), Which::Within(method, most));
                wanted.push(Wanted { name, strategy, which, repair: None, before: None, round: 0 });
            }
        }
        for text in &self.given {
            let name = format!("given-{}", text.replace(' ', "").replace(',', "+").replace(':', ""));
            let which = Which::Given(text.clone());
            wanted.push(Wanted { name, strategy: "given".to_owned(), which, repair: None, before: None, round: 0 });
        }
        let mut names = BTreeSet::new();
        wanted.retain(|wanted| names.insert(wanted.name.clone()));
        Ok(wanted)
    }
}

/// A bound on the loss below which, or above whose inverse, none is meant; each is part of a directory's name.
const SMALLEST: f64 = 1e-6;

/// What `methods` was called before.
const STRATEGIES: &str = "strategies";

/// Puts the methods under their name where the section has the old one, which was set last if both are there.
pub(super) fn rename(table: &mut Table) {
    if let Some(Value::Table(drop)) = table.get_mut("drop")
        && let Some(methods) = drop.remove(STRATEGIES)
    {
        drop.insert("methods".to_owned(), methods);
    }
}

/// Refuses a file with both names.
///
/// # Errors
/// Request: as said.
pub(super) fn check_names(table: &Table) -> Result<()> {
    let has = |key: &str| table.get("drop").and_then(|drop| drop.get(key)).is_some();
    match has(STRATEGIES) && has("methods") {
        true => Err(Error::request("[drop] strategies is the old name of methods: leave one of them out")),
        false => Ok(()),
    }
}
