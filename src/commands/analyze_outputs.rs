//! What `prune analyze` leaves: the analysis with its figures, the scores as CSV, and while a search is at work what it
//! goes on from.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::analysis_view;
use super::analyze_settings::AnalyzeSettings;
use crate::checkpoint::{self, Origin, OutputDir, OutputFile, Workplace};
use crate::importance::{Analysis, Unfinished};
use crate::progress::Progress;
use crate::{Error, Result};

/// The file that an analysis is known by.
const ANALYSIS: &str = "analysis.json";

/// What is going to be written: what is in the way is said before the work, not after it.
pub(super) struct Outputs {
    place: Option<Arc<Workplace>>,
    csv: Option<Csv>,
}

/// Where the scores go as CSV.
enum Csv {
    /// Into the directory, by this name.
    Inside(PathBuf),
    Alone(OutputFile),
}

/// The place of the output.
fn place(out: &Path, settings: &AnalyzeSettings, origin: &Origin) -> Result<Arc<Workplace>> {
    let place = Workplace::open(out, origin)?;
    // killed between putting the output in place and removing what it came of
    if !settings.force && Unfinished::is_done(place.target(), &place.target().join(ANALYSIS)) {
        Unfinished::remove(&place)?;
    }
    place.refuse_taken(settings.force)?;
    if settings.measures_candidates()? {
        Unfinished::check(&place)?;
    }
    Ok(Arc::new(place))
}

impl Outputs {
    pub(super) fn open(settings: &AnalyzeSettings) -> Result<Self> {
        let (origin, force) = (Origin::of("analyze", settings)?, settings.force);
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(|error| Error::io(path, &error));
        let (out, csv) = (settings.out.as_ref().map(absolute), settings.csv.as_ref().map(absolute));
        let (out, csv) = (out.transpose()?, csv.transpose()?);
        let inside = |csv: &PathBuf| csv.strip_prefix(out.as_ref()?).ok().map(PathBuf::from);
        let csv = csv.map(|csv| match inside(&csv) {
            Some(name) => Ok(Csv::Inside(name)),
            None => OutputFile::create(&csv, force, &origin).map(Csv::Alone),
        });
        let place = out.map(|out| place(&out, settings, &origin));
        // the one clears what a killed run left before the other says what is in the way
        let place = place.transpose();
        Ok(Self { csv: csv.transpose()?, place: place? })
    }

    /// Nothing is going to be written.
    pub(super) fn none() -> Self {
        Self { place: None, csv: None }
    }

    /// Where the analysis is going to be, where it is kept at all.
    pub(super) fn place(&self) -> Option<&Arc<Workplace>> {
        self.place.as_ref()
    }

    /// Both appear, or none: a run that is killed between the two is done again.
    pub(super) fn write(
        self,
        settings: &AnalyzeSettings,
        analysis: &Analysis,
        progress: &dyn Progress,
    ) -> Result<Vec<PathBuf>> {
        let mut written = Vec::new();
        if settings.dry_run {
            return Ok(written);
        }
        let Self { place, csv } = self;
        let dir = place.clone().map(|place| OutputDir::at(place, settings.force)).transpose()?;
        if let (Some(out), Some(target)) = (&dir, &settings.out) {
            let json = (ANALYSIS, analysis.to_json()?.into_bytes());
            for (name, bytes) in std::iter::once(json).chain(analysis_view::figures(analysis)?) {
                checkpoint::write_new(&out.path().join(name), bytes)?;
                written.push(target.join(name));
            }
        }
        let mut alone = None;
        match (csv, &dir) {
            (Some(Csv::Inside(name)), Some(out)) => {
                let path = out.path().join(name);
                path.parent().map_or(Ok(()), checkpoint::create_dir)?;
                checkpoint::write_new(&path, analysis.to_csv())?;
            }
            (Some(Csv::Alone(file)), Some(out)) => {
                alone.insert(file).place(analysis.to_csv().as_bytes(), out.target())?;
            }
            (Some(Csv::Alone(file)), None) => file.write(analysis.to_csv().as_bytes())?,
            _ => {}
        }
        if let (Some(dir), Some(place)) = (&dir, &place) {
            Unfinished::note_done(place, &dir.path().join(ANALYSIS))?;
        }
        dir.map_or(Ok(()), OutputDir::commit)?;
        alone.into_iter().for_each(OutputFile::commit);
        if let Some(place) = place.filter(|place| Unfinished::check(place).is_ok()) {
            // all is done, whatever others have put there meanwhile
            Unfinished::remove(&place).or_else(|error| match error {
                Error::Request(why) => {
                    progress.warn(&why);
                    Ok(())
                }
                other => Err(other),
            })?;
        }
        written.extend(settings.csv.clone());
        Ok(written)
    }
}
