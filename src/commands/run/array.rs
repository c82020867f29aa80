//! Array jobs: how each scheduler tells a process which of how many it is.

use crate::eval::shard::EvalShard;
use crate::{Error, Result};

/// The variables of one scheduler.
struct Array {
    /// What it is called.
    scheduler: &'static str,
    /// The process's own number.
    index: &'static str,
    /// The first number of all.
    first: Number,
    /// How far apart neighbours are.
    step: Number,
    /// How many there are.
    count: Count,
}

/// A number that a scheduler says, or that holds of it.
enum Number {
    Always(u64),
    /// Said by this variable; where that is not set, this.
    Said(&'static str, u64),
}

/// How many processes there are.
enum Count {
    /// Said by the first of these variables that is set.
    Said(&'static [&'static str]),
    /// By the number of the last one.
    Last(&'static str),
}

/// Every scheduler. What is said of the count for those that do not say it is said by `PRUNE_SHARDS`.
///
/// Sources: slurm.schedmd.com/job_array.html; kubernetes.io, Jobs, completion mode; docs.aws.amazon.com, Batch, array
/// jobs; PBS Professional's user's guide, 8; qsub(1) of (Sun, Univa) Grid Engine; LSF, job arrays. To add one, add a
/// row.
const ARRAYS: &[Array] = &[
    Array {
        scheduler: "Slurm",
        index: "SLURM_ARRAY_TASK_ID",
        first: Number::Said("SLURM_ARRAY_TASK_MIN", 0),
        step: Number::Said("SLURM_ARRAY_TASK_STEP", 1),
        count: Count::Said(&["SLURM_ARRAY_TASK_COUNT"]),
    },
    Array {
        scheduler: "Kubernetes",
        index: "JOB_COMPLETION_INDEX",
        first: Number::Always(0),
        step: Number::Always(1),
        count: Count::Said(&[SHARDS]),
    },
    Array {
        scheduler: "AWS Batch",
        index: "AWS_BATCH_JOB_ARRAY_INDEX",
        first: Number::Always(0),
        step: Number::Always(1),
        count: Count::Said(&["AWS_BATCH_JOB_ARRAY_SIZE", SHARDS]),
    },
    Array {
        scheduler: "PBS",
        index: "PBS_ARRAY_INDEX",
        first: Number::Said(FIRST, 1),
        step: Number::Always(1),
        count: Count::Said(&[SHARDS]),
    },
    Array {
        scheduler: "Grid Engine",
        index: "SGE_TASK_ID",
        first: Number::Said("SGE_TASK_FIRST", 1),
        step: Number::Said("SGE_TASK_STEPSIZE", 1),
        count: Count::Last("SGE_TASK_LAST"),
    },
    Array {
        scheduler: "LSF",
        index: "LSB_JOBINDEX",
        first: Number::Said(FIRST, 1),
        step: Number::Said("LSB_JOBINDEX_STEP", 1),
        count: Count::Said(&[SHARDS]),
    },
];

/// How many processes there are, where the scheduler does not say it.
const SHARDS: &str = "PRUNE_SHARDS";
/// The number of the first one, where that is not the usual one and the scheduler does not say it.
const FIRST: &str = "PRUNE_FIRST_SHARD";

/// A variable's value, if it is set.
type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Which of how many this process is, by the variables of the scheduler that started it.
///
/// # Errors
/// Request: none or several of the schedulers' variables are set, or one that is no number, or that does not go with
/// the others; it is named.
pub(super) fn shard(variables: Variables<'_>) -> Result<EvalShard> {
    // what is not in an array has some of the variables set all the same: 0, undefined
    let is_set = |array: &&Array| {
        variables(array.index).is_some_and(|index| {
            let outside = matches!(array.scheduler, "LSF") && index == "0";
            !index.is_empty() && index != "undefined" && !outside
        })
    };
    let found: Vec<&Array> = ARRAYS.iter().filter(is_set).collect();
    match found[..] {
        [array] => array.shard(variables),
        [] => {
            let names: Vec<&str> = ARRAYS.iter().map(|array| array.index).collect();
            Err(Error::request(format!("this is no array job: none of {} is set; say i/n", names.join(", "))))
        }
        [one, other, ..] => Err(Error::request(format!("{} and {} are both set; say i/n", one.index, other.index))),
    }
}

impl Array {
    fn shard(&self, variables: Variables<'_>) -> Result<EvalShard> {
        let index = number(self.index, variables)?.unwrap_or(0);
        let said = |of: &Number| match of {
            Number::Always(always) => Ok(*always),
            Number::Said(name, otherwise) => Ok::<_, Error>(number(name, variables)?.unwrap_or(*otherwise)),
        };
        let (first, step) = (said(&self.first)?, said(&self.step)?.max(1));
        let (count, by) = match &self.count {
            Count::Said(names) => {
                let set = names.iter().find(|name| variables(name).is_some());
                let name = set.or(names.last()).copied().unwrap_or_default();
                let count = number(name, variables)?.ok_or_else(|| self.missing(name))?;
                (count, name)
            }
            Count::Last(name) => {
                let last = number(name, variables)?.ok_or_else(|| self.missing(name))?;
                (last.checked_sub(first).map_or(0, |more| more / step + 1), *name)
            }
        };
        let place = index.checked_sub(first).filter(|past| past % step == 0).map(|past| past / step);
        let shard = place.filter(|place| *place < count).map(|place| format!("{}/{count}", place + 1).parse());
        shard.and_then(Result::ok).ok_or_else(|| {
            let fault = format!("{}={index} is none of {count} by {by}, counted from {first} by {step}", self.index);
            Error::request(format!("{fault}; say i/n"))
        })
    }

    fn missing(&self, name: &str) -> Error {
        let fault = format!("{} is set and {name} is not: of how many ({})?", self.index, self.scheduler);
        Error::request(format!("{fault} set {name}, or say i/n"))
    }
}

/// The number that a variable says.
fn number(name: &str, variables: Variables<'_>) -> Result<Option<u64>> {
    let Some(text) = variables(name) else { return Ok(None) };
    let fault = || Error::request(format!("{name}={text}: expected a whole number"));
    text.trim().parse().map(Some).map_err(|_| fault())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(set: &[(&str, &str)]) -> std::result::Result<String, String> {
        let find = |name: &str| set.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        shard(&find).map(|shard| shard.to_string()).map_err(|error| {
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        })
    }

    #[test]
    fn every_scheduler_says_it_in_its_way() {
        for (set, expected) in [
            (&[("SLURM_ARRAY_TASK_ID", "3"), ("SLURM_ARRAY_TASK_COUNT", "8")][..], "4/8"),
            (
                &[
                    ("SLURM_ARRAY_TASK_ID", "9"),
                    ("SLURM_ARRAY_TASK_COUNT", "3"),
                    ("SLURM_ARRAY_TASK_MIN", "1"),
                    ("SLURM_ARRAY_TASK_MAX", "9"),
                    ("SLURM_ARRAY_TASK_STEP", "4"),
                ],
                "3/3",
            ),
            (&[("JOB_COMPLETION_INDEX", "0"), ("PRUNE_SHARDS", "2")], "1/2"),
            (&[("AWS_BATCH_JOB_ARRAY_INDEX", "4"), ("AWS_BATCH_JOB_ARRAY_SIZE", "5")], "5/5"),
            (&[("AWS_BATCH_JOB_ARRAY_INDEX", "4"), ("PRUNE_SHARDS", "5")], "5/5"),
            (&[("PBS_ARRAY_INDEX", "2"), ("PRUNE_SHARDS", "4")], "2/4"),
            (&[("PBS_ARRAY_INDEX", "0"), ("PRUNE_SHARDS", "4"), ("PRUNE_FIRST_SHARD", "0")], "1/4"),
            (
                &[("SGE_TASK_ID", "5"), ("SGE_TASK_FIRST", "1"), ("SGE_TASK_LAST", "8"), ("SGE_TASK_STEPSIZE", "2")],
                "3/4",
            ),
            (&[("LSB_JOBINDEX", "4"), ("PRUNE_SHARDS", "4")], "4/4"),
            (
                &[("SGE_TASK_ID", "undefined"), ("LSB_JOBINDEX", "0"), ("PBS_ARRAY_INDEX", "1"), ("PRUNE_SHARDS", "1")],
                "1/1",
            ),
        ] {
            assert_eq!(of(set).as_deref(), Ok(expected), "{set:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (set, words) in [
            (&[][..], &["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "i/n"][..]),
            (&[("SLURM_ARRAY_TASK_ID", "3")], &["SLURM_ARRAY_TASK_COUNT"]),
            (&[("SLURM_ARRAY_TASK_ID", "x"), ("SLURM_ARRAY_TASK_COUNT", "2")], &["SLURM_ARRAY_TASK_ID=x"]),
            (&[("SLURM_ARRAY_TASK_ID", "0"), ("SLURM_ARRAY_TASK_COUNT", "many")], &["SLURM_ARRAY_TASK_COUNT=many"]),
            (&[("SLURM_ARRAY_TASK_ID", "2"), ("SLURM_ARRAY_TASK_COUNT", "2")], &["SLURM_ARRAY_TASK_ID=2", "of 2"]),
            (&[("JOB_COMPLETION_INDEX", "1")], &["PRUNE_SHARDS"]),
            (&[("AWS_BATCH_JOB_ARRAY_INDEX", "1")], &["PRUNE_SHARDS"]),
            (&[("SGE_TASK_ID", "1"), ("SGE_TASK_LAST", "undefined")], &["SGE_TASK_LAST=undefined"]),
            (&[("SGE_TASK_ID", "0"), ("SGE_TASK_LAST", "2")], &["SGE_TASK_ID=0"]),
            (&[("SGE_TASK_ID", "1"), ("LSB_JOBINDEX", "1")], &["SGE_TASK_ID", "LSB_JOBINDEX"]),
            (&[("PBS_ARRAY_INDEX", "5"), ("PRUNE_SHARDS", "4")], &["PBS_ARRAY_INDEX=5", "PRUNE_SHARDS"]),
        ] {
            let error = of(set).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{set:?}: {error}");
        }
    }
}
