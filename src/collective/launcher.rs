//! How launchers tell a process which of how many it is.

use super::tcp::Meeting;
use crate::{Error, Result};

/// The variables of one launcher.
struct Launcher {
    /// What it is called.
    name: &'static str,
    /// The process's own number, from 0.
    rank: &'static str,
    /// Its number among those of its machine.
    local: &'static str,
    /// How many there are: the first of these that is set.
    size: &'static [&'static str],
    /// A variable without which the others say nothing.
    only_with: Option<&'static str>,
}

/// Every launcher, the innermost first: torchrun may be started by one of the others, and mpirun by Slurm.
///
/// Sources: docs.pytorch.org, torchrun, environment variables; docs.open-mpi.org, environment variables set by mpirun;
/// the PMI-1 of MPICH's Hydra and Intel MPI; slurm.schedmd.com/srun.html, output environment variables. To add one, add
/// a row.
const LAUNCHERS: &[Launcher] = &[
    Launcher { name: "torchrun", rank: "RANK", local: "LOCAL_RANK", size: &["WORLD_SIZE"], only_with: None },
    Launcher {
        name: "mpirun",
        rank: "OMPI_COMM_WORLD_RANK",
        local: "OMPI_COMM_WORLD_LOCAL_RANK",
        size: &["OMPI_COMM_WORLD_SIZE"],
        only_with: None,
    },
    Launcher { name: "mpiexec", rank: "PMI_RANK", local: "MPI_LOCALRANKID", size: &["PMI_SIZE"], only_with: None },
    Launcher {
        name: "srun",
        rank: "SLURM_PROCID",
        local: "SLURM_LOCALID",
        size: &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
        // what sbatch starts itself has the others too: of the whole job
        only_with: Some("SLURM_STEP_ID"),
    },
];

/// The launcher whose processes have no MPI.
const TORCHRUN: &str = "torchrun";

/// Which of how many processes this is, where a launcher has started several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// Who has started them.
    pub launcher: &'static str,
    /// The number of this one, from 0.
    pub rank: usize,
    /// How many there are, 2 or more.
    pub size: usize,
    /// The number of this one among those of its machine, from 0, where the launcher says it.
    pub local_rank: Option<usize>,
    /// What says so: `WORLD_SIZE=2`.
    pub said: String,
    /// Where they meet, where torchrun's variables say so.
    pub meeting: Option<Meeting>,
}

impl Launched {
    /// What the launcher of this process says.
    ///
    /// # Errors
    /// As [`Launched::find`].
    pub fn here() -> Result<Option<Self>> {
        Self::find(&|name| std::env::var(name).ok())
    }

    /// What the launcher says by its variables; `None` of a process that is alone.
    ///
    /// # Errors
    /// Request: a variable that is no number or does not go with the others; it is named.
    pub fn find(variables: &dyn Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let mut found = Vec::new();
        for launcher in LAUNCHERS {
            found.extend(launcher.launched(variables)?);
        }
        let Some(innermost) = found.first() else { return Ok(None) };
        // scripts that hand MPI's numbers on under torchrun's names
        let of_mpi = found.iter().find(|other| {
            innermost.launcher == TORCHRUN
                && other.launcher != TORCHRUN
                && (other.rank, other.size) == (innermost.rank, innermost.size)
        });
        let launched = of_mpi.unwrap_or(innermost);
        Ok((launched.size > 1).then(|| launched.clone()))
    }

    /// Whether its processes meet over MPI.
    #[must_use]
    pub fn has_mpi(&self) -> bool {
        self.launcher != TORCHRUN
    }
}

impl Launcher {
    fn launched(&self, variables: &dyn Fn(&str) -> Option<String>) -> Result<Option<Launched>> {
        let is_set = |name: &&str| variables(name).is_some_and(|text| !text.trim().is_empty());
        let Some(by) = self.size.iter().find(|name| is_set(name)) else { return Ok(None) };
        if self.only_with.is_some_and(|name| !is_set(&name)) {
            return Ok(None);
        }
        let number = |name: &str| -> Result<usize> {
            let text = variables(name).unwrap_or_default();
            let wrong = |_| Error::request(format!("{name}={text}: expected a whole number, as {} sets it", self.name));
            text.trim().parse().map_err(wrong)
        };
        let size = number(by)?;
        let said = format!("{by}={size}");
        if !is_set(&self.rank) {
            // a variable of this name alone may be anyone's
            return match size {
                0 | 1 => Ok(None),
                _ => Err(Error::request(format!(
                    "{said} is set and {} is not: which of the processes is this? set both, as {} does, or none",
                    self.rank, self.name
                ))),
            };
        }
        let rank = number(self.rank)?;
        if rank >= size {
            return Err(Error::request(format!(
                "{}={rank} is none of the processes of {said}, which are counted from 0",
                self.rank
            )));
        }
        let local_rank = is_set(&self.local).then(|| number(self.local)).transpose()?;
        let meeting = Meeting::find(variables);
        Ok(Some(Launched { launcher: self.name, rank, size, local_rank, said, meeting }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(set: &[(&str, &str)]) -> Result<Option<Launched>> {
        Launched::find(&|name| set.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn every_launcher_says_it_in_its_way() {
        let torchrun = [("RANK", "1"), ("WORLD_SIZE", "4"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "29500")];
        let open_mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "4")];
        let step = [("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "4")];
        for (set, launcher) in [
            (&torchrun[..], "torchrun"),
            (&open_mpi, "mpirun"),
            (&[("PMI_RANK", "1"), ("PMI_SIZE", "4")], "mpiexec"),
            (&step, "srun"),
            (&[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "1"), ("SLURM_NTASKS", "4")], "srun"),
            // within each other
            (&[&step[..], &open_mpi].concat(), "mpirun"),
            (
                &[&[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0"), ("SLURM_NTASKS", "2")][..], &torchrun].concat(),
                "torchrun",
            ),
            (&[&torchrun[..], &open_mpi].concat(), "mpirun"),
        ] {
            let found = find(set).unwrap().unwrap();
            assert_eq!((found.launcher, found.rank, found.size), (launcher, 1, 4), "{set:?}");
            assert_eq!((found.has_mpi(), found.local_rank), (launcher != "torchrun", None));
        }
        for set in [
            [("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")],
            [("OMPI_COMM_WORLD_RANK", "5"), ("OMPI_COMM_WORLD_SIZE", "8"), ("OMPI_COMM_WORLD_LOCAL_RANK", "1")],
            [("PMI_RANK", "5"), ("PMI_SIZE", "8"), ("MPI_LOCALRANKID", "1")],
        ] {
            let found = find(&set).unwrap().unwrap();
            assert_eq!((found.rank, found.local_rank), (5, Some(1)), "{set:?}");
        }
        let meeting = find(&torchrun).unwrap().unwrap().meeting;
        assert!(meeting.is_some() && find(&open_mpi).unwrap().unwrap().meeting.is_none());
    }

    #[test]
    fn one_process_is_alone() {
        for set in [
            &[][..],
            &[("RANK", "0"), ("WORLD_SIZE", "1")],
            &[("WORLD_SIZE", "1")],
            &[("WORLD_SIZE", "")],
            &[("RANK", "3")],
            &[("OMPI_COMM_WORLD_RANK", "0"), ("OMPI_COMM_WORLD_SIZE", "1")],
            // what sbatch starts, beside any srun, and srun -n 1 in a job of four
            &[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")],
            &[("SLURM_STEP_ID", "0"), ("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1"), ("SLURM_NTASKS", "4")],
            &[("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "8"), ("SLURM_PROCID", "0")],
            // torchrun of one, within mpirun
            &[("RANK", "0"), ("WORLD_SIZE", "1"), ("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "2")],
        ] {
            assert_eq!(find(set).unwrap(), None, "{set:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (set, words) in [
            (&[("WORLD_SIZE", "2")][..], &["WORLD_SIZE=2", "RANK"][..]),
            (&[("RANK", "2"), ("WORLD_SIZE", "2")], &["RANK=2", "WORLD_SIZE=2"]),
            (&[("RANK", "0"), ("WORLD_SIZE", "two")], &["WORLD_SIZE=two"]),
            (&[("RANK", "-1"), ("WORLD_SIZE", "2")], &["RANK=-1"]),
            (&[("OMPI_COMM_WORLD_RANK", "x"), ("OMPI_COMM_WORLD_SIZE", "2")], &["OMPI_COMM_WORLD_RANK=x", "mpirun"]),
            (&[("RANK", "0"), ("WORLD_SIZE", "0")], &["WORLD_SIZE=0"]),
            (&[("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "one")], &["LOCAL_RANK=one"]),
        ] {
            let error = find(set).unwrap_err();
            let text = error.to_string();
            assert!(error.exit_code() == 2 && words.iter().all(|word| text.contains(word)), "{set:?}: {text}");
        }
    }
}
