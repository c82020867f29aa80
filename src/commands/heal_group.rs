//! Several processes that heal one model: what each takes of the work, and of the memory of its machine.

use candle_core::Device;
use serde::{Deserialize, Serialize};

use super::open;
use crate::arch::ModelSpec;
use crate::checkpoint::ByteSize;
use crate::collective::{Launched, Members, ProcessGroup, sent_bytes, share};
use crate::heal::HealSettings;
use crate::heal::trained;
use crate::model::Budget;
use crate::progress::Progress;
use crate::{Result, ops};

/// Processes that heal together, and what that takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Who they are.
    #[serde(flatten)]
    pub members: Members,
    /// How many of them share the memory they compute in: the machine's, or that of one GPU.
    pub on_this_device: usize,
    /// Micro-batches of a step that each computes, at most.
    pub micro_batches: Vec<usize>,
    /// Bytes that each sends in a step.
    pub sent: Vec<u64>,
    /// Bytes that this one needs for sums of gradients beside what one alone needs, at most.
    pub memory: u64,
}

impl GroupReport {
    /// Of a healing of the model `spec` by `settings`.
    ///
    /// # Errors
    /// Request: settings that do not fit the model.
    pub(super) fn new(
        group: &ProcessGroup,
        (settings, spec): (&HealSettings, &ModelSpec),
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let members = group.members()?;
        let (rank, processes, on_this_machine) = (members.rank, members.processes, members.on_this_machine);
        let on_this_device = match (device.is_cpu(), leaves_open(&settings.device)) {
            (true, _) | (false, false) => on_this_machine,
            (false, true) => on_this_machine.div_ceil(ops::gpus().max(1)),
        };
        if device.is_cuda() && on_this_device > 1 {
            progress.warn(&format!("{on_this_device} processes share a GPU: start one for each GPU"));
        }
        let count = micro_batches(settings);
        let micro_batches: Vec<usize> = (0..processes).map(|rank| share(count, rank, processes).len()).collect();
        let idle = micro_batches.iter().filter(|own| **own == 0).count();
        if idle > 0 && rank == 0 {
            progress.warn(&format!(
                "{idle} of {processes} processes have nothing to do: a step has {count} micro-batches; a larger --batch \
                 or fewer --pass-tokens give them some"
            ));
        }
        let trained = trained(spec, settings)?;
        // process 0 adds as it goes, the others keep what each of theirs gave until the sum comes by
        let kept = if rank == 0 { 1 } else { micro_batches.get(rank).map_or(0, |own| (*own).max(1)) };
        Ok(Self {
            members,
            on_this_device,
            micro_batches,
            sent: (0..processes).map(|rank| sent_bytes(trained, rank, processes)).collect(),
            memory: 4 * trained * kept as u64,
        })
    }
}

/// Micro-batches of a step, at most: those of whole sequences.
fn micro_batches(settings: &HealSettings) -> usize {
    let sequences = (settings.pass_tokens / settings.seq_len().max(1)).max(1);
    let own = usize::from(settings.on_policy > 0.0 && settings.on_policy < 1.0);
    (settings.batch.div_ceil(sequences) + own).min(settings.batch)
}

/// What a process may take where several share a machine, and what the sums of gradients leave of it.
pub(super) fn beside(budget: Budget, settings: &HealSettings, group: Option<&GroupReport>) -> Budget {
    let Some(group) = group else { return budget };
    let own = open::own_share(budget, settings.memory.as_deref(), group.on_this_device);
    // all of it: this is not what is kept for the program
    Budget::new(Some(own.bytes().saturating_sub(group.memory)))
}

/// Whether `device` says only that a GPU is to be used, not which.
fn leaves_open(device: &str) -> bool {
    matches!(device, "auto" | "cuda")
}

/// The device that this process of several takes where `device` leaves open which GPU: that of its number on its
/// machine.
///
/// # Errors
/// As [`Launched::find`].
pub(super) fn own_device(device: &str) -> Result<String> {
    let local = Launched::here()?.and_then(|launched| launched.local_rank);
    Ok(match (local, ops::gpus()) {
        (Some(local), gpus @ 1..) if leaves_open(device) => format!("cuda:{}", local % gpus),
        _ => device.to_owned(),
    })
}

/// Whether process 0 trains with the others, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Plan {
    /// It does, so many tokens at a time.
    Train { chunk_size: usize },
    /// There is nothing to do for them.
    Nothing,
}

/// What there is to know of the group when it begins.
pub(super) fn describe(group: &GroupReport, progress: &dyn Progress) {
    let GroupReport { members, memory, .. } = group;
    progress.note(&format!("training {}; {} more memory for their sums", members.describe(), ByteSize(*memory)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_shared_out() {
        let settings = |text: &str| toml::from_str::<HealSettings>(text).unwrap();
        for (text, count) in [
            ("batch = 16\nseq_len = 2048", 16),
            ("batch = 16\nseq_len = 128\npass_tokens = 512", 4),
            ("batch = 15\nseq_len = 200\npass_tokens = 512", 8),
            ("batch = 3\nseq_len = 4", 1),
            ("batch = 8\nseq_len = 128\npass_tokens = 256\non_policy = 0.5\nteacher = \"m\"", 5),
            ("batch = 1\nseq_len = 4\non_policy = 0.5\nteacher = \"m\"", 1),
        ] {
            assert_eq!(micro_batches(&settings(text)), count, "{text}");
        }
    }

    #[test]
    fn processes_share_a_machine() {
        let group = GroupReport {
            members: Members { processes: 4, rank: 1, on_this_machine: 2, launcher: "mpirun".to_owned() },
            on_this_device: 2,
            micro_batches: vec![1; 4],
            sent: vec![0; 4],
            memory: 1 << 20,
        };
        let free = Budget::new(Some(8 << 30));
        let settings = HealSettings::default();
        assert_eq!(beside(free, &settings, Some(&group)).bytes(), (4 << 30) - (1 << 20));
        let asked = HealSettings { memory: Some("8GiB".to_owned()), ..HealSettings::default() };
        assert_eq!(beside(free, &asked, Some(&group)).bytes(), (8 << 30) - (1 << 20));
        assert_eq!(beside(free, &settings, None), free);
    }
}
