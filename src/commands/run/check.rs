//! What a later stage would refuse is refused before the first: each stage's own checks, on the model that is there.
//! The dry run and the run make the same ones.

use std::sync::Arc;

use super::analyses::Analyses;
use super::drop::{Wanted, Which, cut_spec};
use super::recipe::Recipe;
use crate::arch::ModelSpec;
use crate::checkpoint::{ByteSize, Checkpoint};
use crate::commands::analyze::{self, AnalyzeSettings};
use crate::commands::cut::{self, CutReport, CutSettings};
use crate::commands::eval::{self, EvalReport};
use crate::commands::heal_open::settled;
use crate::commands::heal_rows::Texts;
use crate::commands::open;
use crate::commands::repair::Shared;
use crate::commands::taught::Taught;
use crate::data::{SequenceOptions, Sequences, TextMixture, Tokenizer};
use crate::eval::evaluation::Tokenized;
use crate::eval::settings::EvalSettings;
use crate::heal::{self, HealSettings};
use crate::importance::{Protect, Subject};
use crate::methods::{Follows, Method};
use crate::plan::Dropped;
use crate::progress::{Progress, Unit};
use crate::weights::lora::Adapters;
use crate::{Context, Error, Result};

/// A recipe and the dense model that it names.
pub(super) struct Checked<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) checkpoint: &'a Arc<Checkpoint>,
    pub(super) spec: &'a ModelSpec,
}

impl Checked<'_> {
    /// Checks all stages, in their order; the questions but where `scored`, which an earlier run asked already. What
    /// scoring the dense model takes comes of it.
    ///
    /// # Errors
    /// Those of the stages, the stage's name in front.
    pub(super) fn check(
        &self,
        wanted: &[Wanted],
        tokenized: &mut Tokenized,
        scored: bool,
        progress: &dyn Progress,
    ) -> Result<Option<EvalReport>> {
        if self.recipe.cut.to.as_deref() == Some("gguf") && self.checkpoint.gguf.is_none() {
            return Err(Error::request(
                "[cut] to = \"gguf\": a recipe scores and heals cuts with the model's own numbers, and the model is no \
                 GGUF file; prune convert what it made",
            ));
        }
        // the stages say it all again when they run
        let quiet = &BarsOnly(progress);
        self.analysis(wanted, quiet)?;
        let mut shared = Shared::default();
        for wanted in wanted {
            self.cut(wanted, None, &mut shared, quiet)?;
        }
        if let Some(bench) = &self.recipe.bench {
            let checked = bench.check().and_then(|()| {
                let device = open::device(bench.device.as_deref(), bench.dtype.as_deref(), quiet)?;
                open::budget(bench.memory.as_deref(), &device)
            });
            checked.context(|| "[bench]")?;
        }
        if let Some(heal) = &self.recipe.heal {
            self.healing(heal, wanted, quiet).context(|| "[heal]")?;
        }
        match &self.recipe.eval {
            Some(settings) if !scored => {
                let model = Some(self.recipe.model.clone());
                let settings = EvalSettings { model, dry_run: true, out: None, ..settings.clone() };
                eval::eval_sharing(&settings, tokenized, quiet).context(|| "dense/scores").map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The text by its first sequence: the analysis reads all of it before it computes anything.
    fn analysis(&self, wanted: &[Wanted], progress: &dyn Progress) -> Result<()> {
        let Some(settings) = self.recipe.analyze.as_ref().filter(|settings| !settings.data.is_empty()) else {
            return Ok(());
        };
        let protect = Protect { first: settings.protect_first, last: settings.protect_last };
        for wanted in wanted {
            if let Which::Method(method, layers) = wanted.which
                && method.needs_scores()
            {
                protect.check(self.spec.layers, Some(layers)).context(|| wanted.name.clone())?;
            }
        }
        for analysis in self.recipe.analyses(wanted)? {
            let settings = AnalyzeSettings {
                model: Some(self.recipe.model.clone()),
                samples: Some(analysis.settings.samples.unwrap_or(1).min(1)),
                seed: None,
                dry_run: true,
                ..analysis.settings
            };
            analyze::analyze_alone(&settings, progress).context(|| analysis.name)?;
        }
        Ok(())
    }

    /// Checks the repairs of what `analyses` chose: only now is it known whether a repair takes it.
    ///
    /// # Errors
    /// Request: as a cut's, the stage's name in front.
    pub(super) fn repairs(&self, wanted: &[Wanted], analyses: &Analyses, progress: &dyn Progress) -> Result<()> {
        let mut shared = Shared::default();
        for wanted in wanted
            .iter()
            .filter(|wanted| wanted.repair.is_some() && wanted.before.is_none() && wanted.which.needs_scores())
        {
            let dropped = wanted.which.dropped(self.spec.layers, analyses.of(&wanted.which))?;
            self.cut(wanted, Some(&dropped), &mut shared, &BarsOnly(progress))?;
        }
        Ok(())
    }

    /// What a cut would be: of what is `known` to go, or one as large, where the analysis has to say which.
    ///
    /// # Errors
    /// As a cut, the stage's name in front.
    pub(super) fn cut(
        &self,
        wanted: &Wanted,
        known: Option<&Dropped>,
        shared: &mut Shared,
        progress: &dyn Progress,
    ) -> Result<CutReport> {
        let model = Some(self.recipe.model.clone());
        let settings = CutSettings { model, dry_run: true, ..self.recipe.cut_by(wanted.repair) };
        let settings = match (&wanted.which, known) {
            (_, Some(dropped)) => CutSettings { drop: Some(dropped.to_string()), ..settings },
            (Which::Method(method, _) | Which::Within(method, _), None) if method.needs_scores() => {
                let layers = wanted.which.as_little(self.spec.layers)?.layers.len();
                // a repair wants something before the seam
                let first = usize::from(wanted.repair.is_some());
                // whole layers need no format, parts of them do
                let drop = match self.drops_parts(method)? {
                    true => format!("attn:{first}"),
                    false => format!("{first}-{}", first + layers - 1),
                };
                CutSettings { drop: Some(drop), ..settings }
            }
            (Which::Method(method, layers), None) => {
                CutSettings { method: Some(method), layers: Some(*layers), ..settings }
            }
            (Which::Within(..), None) => return Err(Error::work(format!("{}: nothing is measured", wanted.name))),
            (Which::Given(text), None) => CutSettings { drop: Some(text.clone()), ..settings },
        };
        cut::cut_sharing(&settings, shared, progress).context(|| format!("{}/model", wanted.name))
    }

    /// Whether what goes by `method` are attentions and MLPs.
    fn drops_parts(&self, method: &Method) -> Result<bool> {
        let analysis = self.recipe.analyze.as_ref().filter(|_| method.follows == Follows::Analysis);
        let followed = analysis.map(|analyze| analyze.search()?.metric()).transpose()?.or(method.metric());
        Ok(followed.is_some_and(|metric| metric.subject == Subject::SubLayer))
    }

    /// Everything that a healing reads but the cut itself, which has the dense model's tokenizer and widths.
    fn healing(&self, settings: &HealSettings, wanted: &[Wanted], progress: &dyn Progress) -> Result<()> {
        let device = open::device(Some(&settings.device), settings.dtype.as_deref(), progress)?;
        let budget = open::budget_beside_tokenizer(settings.memory.as_deref(), &device, self.checkpoint)?;
        settings.max_shard_size.parse::<ByteSize>().context(|| "max_shard_size")?;
        let taught = Taught::open(settings, progress)?;
        if let Some(taught) = &taught {
            taught.check_model(settings, self.spec)?;
        }
        let teacher = taught.as_ref().and_then(Taught::model).cloned();
        let reference = settings.reference.as_deref().map(|model| open::computed(Some(model), progress)).transpose()?;
        for model in teacher.iter().chain(&reference) {
            ModelSpec::from_config(&model.config).context(|| model.source.id.clone())?;
        }
        let size = taught.as_ref().map(Taught::size).unwrap_or_default();
        for wanted in wanted {
            let spec = cut_spec(self.spec, &wanted.which.as_much(self.spec.layers)?);
            let adapter = settings.adapter.as_deref().map(|dir| Adapters::open(dir, &spec, &device)).transpose()?;
            let (settings, _) = settled(settings, adapter.as_ref()).settled(spec.max_positions);
            heal::estimate(self.checkpoint, &spec, &settings, (&device, budget), size, None)?;
        }
        let (mut settings, _) = settings.settled(self.spec.max_positions);
        let tokenizer = Tokenizer::open(&self.checkpoint.source.dir)?;
        let text = Texts::open(&mut settings, self.checkpoint, open::host(budget, &device), progress)?;
        if let Some(taught) = &taught {
            taught.check(&settings, (self.checkpoint, self.spec), &text, progress)?;
        }
        TextMixture::new(&text.training, &tokenizer, (1, settings.seed), None, false)?;
        if let Some(source) = &text.validation {
            let options = SequenceOptions { samples: Some(1), shape: settings.shape(), seed: None };
            Sequences::read(source, &tokenizer, &options, progress)?;
        }
        Ok(())
    }
}

/// Shows how far a check is and says nothing.
struct BarsOnly<'a>(&'a dyn Progress);

impl Progress for BarsOnly<'_> {
    fn begin(&self, what: &str, total: u64, unit: Unit) {
        self.0.begin(what, total, unit);
    }

    fn advance(&self, units: u64) {
        self.0.advance(units);
    }

    fn end(&self) {
        self.0.end();
    }

    fn warn(&self, _message: &str) {}

    fn note(&self, _message: &str) {}
}
