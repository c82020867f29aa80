//! The analyses of a run: the recipe's own, and one more for each search beside it, which measures as it picks.

use super::drop::{Wanted, Which};
use super::recipe::Recipe;
use crate::commands::analyze::AnalyzeSettings;
use crate::importance::{Analysis, METRICS};
use crate::methods::Method;
use crate::{Error, Result};

/// An analysis that a run makes.
pub(super) struct Analyzed {
    /// The stage's name, which is its directory.
    pub(super) name: String,
    /// The search that it is made for; `None` for the recipe's own, which all other methods choose from.
    pub(super) search: Option<&'static Method>,
    /// How it is made.
    pub(super) settings: AnalyzeSettings,
}

impl Analyzed {
    /// Its file, below the run's directory.
    pub(super) fn file(&self) -> String {
        format!("{}/analysis.json", self.name)
    }
}

/// What came of them, each beside what it was made for.
pub(super) struct Analyses(Vec<(Option<&'static Method>, Analysis)>);

impl Analyses {
    pub(super) fn new(made: Vec<(Option<&'static Method>, Analysis)>) -> Self {
        Self(made)
    }

    /// The recipe's own.
    pub(super) fn own(&self) -> Option<&Analysis> {
        self.made_for(None)
    }

    /// The one that decides `which` layers go.
    pub(super) fn of(&self, which: &Which) -> Option<&Analysis> {
        let search = which.method().and_then(|method| self.made_for(Some(method)));
        search.or_else(|| self.own())
    }

    fn made_for(&self, search: Option<&'static Method>) -> Option<&Analysis> {
        self.0.iter().find(|(own, _)| *own == search).map(|(_, analysis)| analysis)
    }
}

impl Recipe {
    /// The searches that need an analysis of their own, since the recipe's follows another method.
    ///
    /// # Errors
    /// As [`AnalyzeSettings::search`].
    fn searches(&self) -> Result<Vec<&'static Method>> {
        let Some(settings) = &self.analyze else { return Ok(Vec::new()) };
        let followed = settings.search()?;
        let is_followed = |method: &Method| {
            followed.pick().is_ok_and(|pick| pick.name == method.pick)
                && method.metric().is_some_and(|metric| metric.name == followed.metric)
        };
        Ok(self.drop.methods.iter().copied().filter(|method| method.is_searched() && !is_followed(method)).collect())
    }

    /// Whether the search has an analysis of its own.
    ///
    /// # Errors
    /// As [`Recipe::searches`].
    pub(super) fn searches_by(&self, method: &Method) -> Result<bool> {
        Ok(self.searches()?.contains(&method))
    }

    /// The analyses of the dense model that decide what is `wanted`; a search goes as far as the largest of its cuts.
    ///
    /// # Errors
    /// As [`Recipe::searches`].
    pub(super) fn analyses(&self, wanted: &[Wanted]) -> Result<Vec<Analyzed>> {
        let Some(settings) = self.analyze.as_ref().filter(|settings| !settings.data.is_empty()) else {
            return Ok(Vec::new());
        };
        let mut all = vec![Analyzed { name: OWN.to_owned(), search: None, settings: settings.clone() }];
        for method in self.searches()? {
            let sizes =
                wanted.iter().filter(|wanted| wanted.before.is_none()).filter_map(|wanted| match wanted.which {
                    Which::Method(own, size) if own == method => Some(size),
                    _ => None,
                });
            if let Some(layers) = sizes.max() {
                let settings = searching(method, layers, settings)?;
                all.push(Analyzed { name: format!("{OWN}-{}", method.name), search: Some(method), settings });
            }
        }
        Ok(all)
    }

    /// The analysis that decides what `wanted` drops of what the cut before it left, which lacks `gone` layers already;
    /// `None` where nothing is measured.
    ///
    /// # Errors
    /// As [`Recipe::searches`].
    pub(super) fn analysis_after(&self, wanted: &Wanted, gone: usize) -> Result<Option<Analyzed>> {
        let (Some(settings), Which::Method(method, size)) = (&self.analyze, &wanted.which) else { return Ok(None) };
        let name = format!("{}/{OWN}", wanted.name);
        Ok(match (method.needs_scores(), self.searches_by(method)?) {
            (false, _) => None,
            (true, false) => Some(Analyzed { name, search: None, settings: settings.clone() }),
            (true, true) => {
                Some(Analyzed { name, search: Some(method), settings: searching(method, size - gone, settings)? })
            }
        })
    }

    /// The file of the analysis that a cut by `method` follows, below the run's directory.
    ///
    /// # Errors
    /// As [`Recipe::searches`].
    pub(super) fn analysis_of(&self, method: &Method) -> Result<String> {
        Ok(match self.searches_by(method)? {
            true => format!("{OWN}-{}/analysis.json", method.name),
            false => format!("{OWN}/analysis.json"),
        })
    }
}

/// How the search of `method` is made for up to `layers` layers, on the text of `settings`.
fn searching(method: &'static Method, layers: usize, settings: &AnalyzeSettings) -> Result<AnalyzeSettings> {
    let metric = method.metric().ok_or_else(|| Error::work(format!("{} follows no score", method.name)))?;
    Ok(AnalyzeSettings {
        method: Some(method),
        metric: METRICS[0].name.to_owned(),
        metrics: vec![metric.name.to_owned()],
        layers: Some(layers),
        strategy: None,
        against: None,
        tasks: Vec::new(),
        include_path: None,
        data_dir: None,
        few_shot: None,
        limit: None,
        rerank: None,
        max_loss: None,
        ..settings.clone()
    })
}

/// The name of the recipe's own.
const OWN: &str = "analysis";
