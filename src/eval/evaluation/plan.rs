//! Which passes answer what is left to ask, on this machine or on the one where it was begun.

use std::fs;

use candle_core::Device;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::together::PlannedRoom;
use super::{Evaluation, is_shared};
use crate::arch::ModelSpec;
use crate::eval::generate;
use crate::eval::journal::{Journal, RunId};
use crate::eval::kept;
use crate::eval::passes::{self, Pass, PassTokens};
use crate::model::{Budget, Cache, Placement, Residency};
use crate::weights::lora::ADAPTER_FILES;
use crate::{Error, Result};

/// Which passes answer what is left to ask.
#[derive(Debug)]
pub struct PassPlan {
    pub(super) run: RunId,
    pub(super) passes: Vec<Pass>,
    /// Requests that are answered together in the model's own words.
    pub(super) batches: Vec<Vec<usize>>,
    /// How they run, or would run.
    pub report: PassReport,
}

/// How the passes run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PassReport {
    /// Layers in memory, or streamed from disk.
    pub residency: Residency,
    /// Bytes of weights in memory at once.
    pub weight_bytes: u64,
    /// Cap on memory, bytes.
    pub memory_bytes: u64,
    /// Questions and texts.
    pub documents: usize,
    /// Choices and windows.
    pub requests: usize,
    /// Tokens of all requests.
    pub tokens_asked: usize,
    /// Tokens that are run, shared beginnings counted once a pass; of answers in the model's own words as many as there
    /// may be.
    pub tokens_run: usize,
    /// Passes.
    pub passes: usize,
    /// Passes that an earlier, unfinished run had done.
    pub resumed: usize,
    /// Seconds of the passes, loading not counted; absent in a dry run.
    pub seconds: Option<f64>,
}

impl PassPlan {
    /// Passes that each of `processes` runs of them, where none is done yet.
    #[must_use]
    pub fn shares(&self, processes: usize) -> Vec<usize> {
        let all = 0..self.passes.len() + self.batches.len();
        (0..processes).map(|rank| all.clone().skip(rank).step_by(processes).count()).collect()
    }
}

impl Evaluation<'_> {
    /// Packs what is left to ask into passes: those that an unfinished evaluation was planned for, where it goes on.
    ///
    /// # Errors
    /// Request: passes that do not fit into memory.
    pub fn plan(&self) -> Result<PassPlan> {
        let (settings, job, options) = (&self.settings, self.job, &self.options);
        let places: Vec<usize> = (0..self.spec.layers).collect();
        let fit = Placement::new(&self.checkpoint, &self.spec, &places, options)?;
        let (usual, most) = match settings.pass_tokens {
            Some(tokens) => (tokens, tokens),
            None if is_shared(settings) => fit.tree_tokens(&self.spec, Budget::new(Some(u64::MAX))),
            None => fit.tree_tokens(&self.spec, options.budget),
        };
        let own = PlannedRoom { pass_tokens: PassTokens { usual, most }, cached_tokens: self.cached_tokens };
        let room = self.group.map_or(Ok(own), |group| own.agreed(group))?;
        let now = room.pass_tokens;
        let mut run = self.run_of(room)?;
        let is_large = settings.pass_tokens.is_none() && settings.shard.is_some();
        if is_large && fit.pass_bytes(&self.spec, now.most.min(job.tokens())) > options.budget.usable() {
            return Err(Error::request(format!(
                "--shard: passes of {} tokens, alike in every share, do not fit into the memory there is: allow more \
                 with --memory, or give every share the same --pass-tokens",
                now.most
            )));
        }
        let planned = |begun: PassTokens, force: bool| {
            // without a cap what is free now counts, not the nine tenths of it that a new run is planned for
            let budget = options.budget;
            let room = if settings.memory.is_some() { budget.usable() } else { budget.bytes() / 9 * 10 };
            let fits = fit.pass_bytes(&self.spec, begun.most.min(job.tokens())) <= room;
            kept::planned(begun, now, fits, force)
        };
        if run.pass_tokens != now {
            run.pass_tokens = planned(run.pass_tokens, settings.force)?;
        }
        run = self.agreed(run)?;
        if run.pass_tokens != now && !self.leads() {
            planned(run.pass_tokens, false)?;
        }
        let passes = passes::plan(&job.requests, &self.ranges(), run.pass_tokens)?;
        let batches = {
            let (most, _) = generate::most_together(&self.options.device);
            generate::batches(&job.requests, &self.ranges(), (most, run.cached_tokens.unwrap_or(0)))
        };
        let is_own = |place: usize| settings.shard.is_none_or(|shard| shard.has(place));
        let own = passes.iter().enumerate().filter(|(place, _)| is_own(*place)).map(|(_, pass)| pass);
        let own_batches = batches.iter().enumerate().filter(|(place, _)| is_own(passes.len() + place));
        let own_batches: Vec<&Vec<usize>> = own_batches.map(|(_, batch)| batch).collect();
        let generated =
            own_batches.iter().copied().flatten().filter_map(|request| generate::room(&job.requests[*request]));
        let report = PassReport {
            residency: fit.residency,
            weight_bytes: fit.weight_bytes,
            memory_bytes: options.budget.bytes(),
            documents: job.documents(),
            requests: job.requests.len(),
            tokens_asked: job.tokens(),
            tokens_run: own.clone().map(|pass| pass.batch.tokens()).chain(generated).sum(),
            passes: own.count() + own_batches.len(),
            resumed: 0,
            seconds: None,
        };
        Ok(PassPlan { run, passes, batches, report })
    }

    /// What has to be the same for a run to go on where another one stopped.
    fn run_of(&self, room: PlannedRoom) -> Result<RunId> {
        let (settings, checkpoint) = (&self.settings, &self.checkpoint);
        let mut digest = Sha256::new();
        digest.update(self.job.digest());
        digest.update(format!("{:?}", self.rounding()));
        if let Some(endings) = &self.endings {
            digest.update(format!("{:?}", endings.ids()));
            digest.update(endings.penalty().map_or_else(String::new, |penalty| format!("penalty {penalty}")));
        }
        if self.options.device.is_cuda() {
            digest.update(format!("GPU {:?}", settings.dtype));
        }
        if is_shared(settings) {
            // files of other machines have other times
            digest.update(&self.about.weights);
        }
        let config = checkpoint.config_file();
        let adapter = settings.adapter.as_ref().map(|dir| ADAPTER_FILES.map(|file| dir.join(file)));
        let files = std::iter::once(&config).chain(checkpoint.index.stored()).chain(adapter.iter().flatten());
        for path in files.filter(|_| !is_shared(settings)) {
            let metadata = fs::metadata(path).map_err(|error| Error::io(path, &error))?;
            let changed = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
            digest.update(format!("{} {} {changed:?}\n", path.display(), metadata.len()));
        }
        let mut run = RunId {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: checkpoint.source.id.clone(),
            digest: format!("{:x}", digest.finalize()),
            pass_tokens: room.pass_tokens,
            cached_tokens: room.cached_tokens,
        };
        if let Some(begun) = settings.out.as_deref().and_then(Journal::run)
            && (&begun.version, &begun.digest) == (&run.version, &run.digest)
        {
            run.pass_tokens = begun.pass_tokens;
            run.cached_tokens = begun.cached_tokens;
        }
        Ok(run)
    }
}

/// Tokens that answers in the model's own words get room for at once: an eighth of the memory, the longest alone at
/// least. `rooms` are those that the requests want.
pub(super) fn cached_tokens(rooms: &[usize], spec: &ModelSpec, budget: Budget, device: &Device) -> usize {
    let token = Cache::bytes(spec, 1).max(1);
    let fitting =
        usize::try_from(budget.usable() / 8 / token).unwrap_or(usize::MAX).min(generate::most_together(device).1);
    let (all, longest) = (rooms.iter().sum::<usize>(), rooms.iter().max().copied().unwrap_or(0));
    fitting.min(all).max(longest)
}
