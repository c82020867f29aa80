//! `prune run --submit`: the run as an array job of a cluster, and a job after it that does what was left and reports.

use std::fmt::Write as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::RunSettings;
use super::place::refuse_other;
use super::worker::Worker;
use crate::card::quoted;
use crate::checkpoint::{Origin, Workplace, can_work_in, write_file};
use crate::progress::Progress;
use crate::{Error, Result};

/// Where a run may be submitted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Slurm.
    Slurm,
}

impl std::str::FromStr for Scheduler {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "slurm" => Ok(Self::Slurm),
            _ => Err(format!("{text:?}: expected slurm; others start prune run --shard auto themselves")),
        }
    }
}

impl std::fmt::Display for Scheduler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("slurm")
    }
}

/// What was submitted, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Submission {
    /// Where scripts and logs are.
    pub dir: PathBuf,
    /// The scripts: that of the array, that of the report.
    pub scripts: Vec<Script>,
    /// Numbers of the jobs, in that order; none in a dry run.
    pub jobs: Vec<String>,
}

/// A script of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Script {
    /// Its file.
    pub path: PathBuf,
    /// What is in it.
    pub text: String,
    /// How it is submitted.
    pub command: String,
}

/// Processes of an array where nobody says how many.
const JOBS: usize = 4;
/// As many as Slurm has in an array unless it is set up for more.
const MOST_JOBS: usize = 1000;
/// Seconds before the end of its time in which a job is warned.
const WARNED: usize = 120;
const SBATCH: &str = "sbatch";
/// How sbatch is asked for nothing but the number of the job.
const PARSABLE: &str = "--parsable";

/// Submits the run of `settings`, or says what would be.
///
/// # Errors
/// Request: settings that do not go together, no `sbatch` here. Work: `sbatch` refuses, as it says.
pub(super) fn submit(settings: &RunSettings, out: &Path, progress: &dyn Progress) -> Result<Submission> {
    Worker::of(settings)?;
    refuse_other(out)?;
    let jobs = settings.jobs.unwrap_or(JOBS);
    if !(1..=MOST_JOBS).contains(&jobs) {
        return Err(Error::request(format!("--jobs {jobs}: expected from 1 to {MOST_JOBS}")));
    }
    if let Some(time) = settings.time.as_deref().filter(|time| seconds(time).is_some_and(|all| all < 2 * WARNED)) {
        return Err(Error::request(format!(
            "--time {time}: a job is warned {WARNED} s before its time ends, and goes back into the queue then: give it {} \
             minutes or more",
            2 * WARNED / 60
        )));
    }
    let dir = beside(out)?;
    if dir.exists() && !can_work_in(&dir, "run")? {
        return Err(Error::request(format!("{}: not written by prune, so it stays; move it", dir.display())));
    }
    let scripts = scripts(settings, out, &dir, jobs)?;
    let is_there = sbatch_is_there();
    if settings.dry_run {
        if !is_there {
            progress.warn("there is no sbatch here: without --dry-run this is refused");
        }
        return Ok(Submission { dir, scripts, jobs: Vec::new() });
    }
    if !is_there {
        let hint = "submit where Slurm is, or see with --dry-run what would be submitted";
        return Err(Error::request(format!("--submit slurm: there is no sbatch here; {hint}")));
    }
    if !dir.exists() {
        let place = Workplace::open(&dir, &Origin::program("run"))?;
        place.make_dir(place.target(), &[])?;
    }
    for script in &scripts {
        write_file(&script.path, true, script.text.as_bytes())?;
    }
    let mut numbers: Vec<String> = Vec::new();
    for script in &scripts {
        let after = numbers.first().map(|array| dependency(array));
        let number = sbatch(after.as_deref(), &script.path).map_err(|error| match numbers.first() {
            None => error,
            Some(array) => {
                error.reworded(|fault| format!("{fault}; the array is submitted: scancel {array} takes it back"))
            }
        })?;
        numbers.push(number);
    }
    Ok(Submission { dir, scripts, jobs: numbers })
}

/// Seconds of a time as Slurm writes it: minutes, minutes:seconds, hours:minutes:seconds, and after `days-` hours,
/// hours:minutes, hours:minutes:seconds. `None` for what is left to Slurm.
fn seconds(time: &str) -> Option<usize> {
    let (days, rest) = match time.split_once('-') {
        Some((days, rest)) => (Some(days.parse::<usize>().ok()?), rest),
        None => (None, time),
    };
    let parts = rest.split(':').map(|part| part.parse().ok()).collect::<Option<Vec<usize>>>()?;
    let own = match (days, &parts[..]) {
        (None, [minutes]) => [0, *minutes, 0],
        (None, [minutes, seconds]) => [0, *minutes, *seconds],
        (Some(_), [hours]) => [*hours, 0, 0],
        (Some(_), [hours, minutes]) => [*hours, *minutes, 0],
        (_, [hours, minutes, seconds]) => [*hours, *minutes, *seconds],
        _ => return None,
    };
    let [hours, minutes, seconds] = own;
    days.unwrap_or(0)
        .checked_mul(24)?
        .checked_add(hours)?
        .checked_mul(60)?
        .checked_add(minutes)?
        .checked_mul(60)?
        .checked_add(seconds)
}

/// Where scripts and logs go: what jobs print is not the run's.
fn beside(out: &Path) -> Result<PathBuf> {
    let out = std::path::absolute(out).map_err(|error| Error::io(out, &error))?;
    let mut name = out.into_os_string();
    name.push(".slurm");
    Ok(PathBuf::from(name))
}

fn dependency(array: &str) -> String {
    format!("--dependency=afterany:{array}")
}

fn sbatch_is_there() -> bool {
    let found = Command::new(SBATCH).arg("--version").output();
    !matches!(found, Err(error) if error.kind() == ErrorKind::NotFound)
}

/// Submits a script; the number of its job.
fn sbatch(after: Option<&str>, script: &Path) -> Result<String> {
    let mut command = Command::new(SBATCH);
    command.arg(PARSABLE).args(after).arg(script);
    let output = command.output().map_err(|error| Error::work(format!("{SBATCH}: {error}")))?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', "; ");
    if !output.status.success() {
        return Err(Error::work(format!("{SBATCH} {}: {}", script.display(), said(&output.stderr))));
    }
    // of several clusters, that one's name stands behind
    let told = said(&output.stdout);
    let number = told.split(';').next().unwrap_or_default().trim();
    match !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) {
        true => Ok(number.to_owned()),
        false => Err(Error::work(format!("{SBATCH} {}: said {told:?}, expected a number", script.display()))),
    }
}

fn scripts(settings: &RunSettings, out: &Path, dir: &Path, jobs: usize) -> Result<Vec<Script>> {
    let program = std::env::current_exe().map_err(|error| Error::work(format!("this program's place: {error}")))?;
    let here = std::env::current_dir().map_err(|error| Error::work(format!("the current directory: {error}")))?;
    let out = std::path::absolute(out).map_err(|error| Error::io(out, &error))?;
    let mut words = vec![program.display().to_string(), "run".to_owned()];
    let recipe = settings.recipe.clone().unwrap_or_default();
    // one that comes with the program goes by its name
    let recipe = if recipe.exists() { std::path::absolute(&recipe).unwrap_or(recipe) } else { recipe };
    words.extend([recipe.display().to_string(), "--out".to_owned(), out.display().to_string()]);
    words.extend(settings.set.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
    let RunSettings { device, dtype, memory, claim_timeout, .. } = settings;
    let timeout = claim_timeout.map(|seconds| seconds.to_string());
    for (flag, value) in [("device", device), ("dtype", dtype), ("memory", memory), ("claim-timeout", &timeout)] {
        words.extend(value.iter().flat_map(|value| [format!("--{flag}"), value.clone()]));
    }
    let line = words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    let name = out.file_name().map_or_else(String::new, |name| format!("-{}", name.to_string_lossy()));
    let array = format!("--array=1-{jobs}");
    let text = |what: &str, own: &[&str], log: &str, more: &str| -> Result<String> {
        let mut text = format!("#!/bin/bash\n# {what}; written by prune run --submit slurm\n");
        let job = format!("--job-name=prune{name}");
        let log = format!("--output={}", dir.join(log).display());
        let warned = format!("--signal=B:USR1@{WARNED}");
        let asked = [("--partition", &settings.partition), ("--gpus", &settings.gpus), ("--time", &settings.time)];
        let asked = asked.iter().filter_map(|(flag, value)| value.as_ref().map(|value| format!("{flag}={value}")));
        let always = [job, log, "--open-mode=append".to_owned(), "--requeue".to_owned(), warned];
        let all = own.iter().map(|own| (*own).to_owned()).chain(always).chain(asked).chain(settings.sbatch.clone());
        for option in all {
            _ = writeln!(text, "#SBATCH {}", option_of(&option)?);
        }
        _ = write!(text, "cd {} || exit\n{line}{more} &\n{REST}", quoted(&here.display().to_string()));
        Ok(text)
    };
    let script = |file: &str, text: String, after: &str| {
        let path = dir.join(file);
        let command = format!("{SBATCH} {PARSABLE} {after}{}", quoted(&path.display().to_string()));
        Script { path, text, command }
    };
    let shards = text("one of the processes that share the stages", &[&array], "%A_%a.log", " --shard auto --no-wait")?;
    let report = text("does what is left when the array has ended, and reports", &[], "%j.log", "")?;
    let after = dependency("ARRAY") + " ";
    Ok(vec![script("array.sh", shards, ""), script("report.sh", report, &after)])
}

/// What each script ends with: a warning is handed on, and one that was warned goes back into the queue. That is asked
/// for by the task's own name: the number of one of them is that of the array too, and what is said of it holds for all
/// tasks. One that is cancelled is told to end as well, and stays cancelled.
const REST: &str = "\
pid=$!
warned=
trap 'warned=yes; kill -TERM \"$pid\"' USR1
trap 'kill -TERM \"$pid\" 2>/dev/null' TERM INT
wait \"$pid\"; code=$?
# a signal ends the waiting, not the process
while kill -0 \"$pid\" 2>/dev/null; do wait \"$pid\"; code=$?; done
# 130: stopped, and it goes on when it is started again
if [ \"$warned\" ] && [ \"$code\" -eq 130 ]; then
  scontrol requeue \"${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}\"
fi
exit \"$code\"
";

/// An option as a line of a script for sbatch has it.
fn option_of(option: &str) -> Result<String> {
    if !option.starts_with('-') || option.contains(['\n', '\r', '"', '\\']) {
        let expected = "expected an option of sbatch, such as --sbatch=--account=physics";
        return Err(Error::request(format!("{option:?}: {expected}")));
    }
    match option.split_once('=') {
        Some((flag, value)) if value.contains([' ', '\t', '\'', '#']) => Ok(format!("{flag}=\"{value}\"")),
        _ => Ok(option.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_slurms() {
        for (time, expected) in [
            ("5", Some(300)),
            ("1:30", Some(90)),
            ("00:02:00", Some(120)),
            ("04:00:00", Some(14_400)),
            ("1-0", Some(86_400)),
            ("0-0:3", Some(180)),
            ("1-2:3:4", Some(93_784)),
            ("UNLIMITED", None),
            ("1:2:3:4", None),
            ("99999999999999999999", None),
            ("9999999999999999999-0", None),
        ] {
            assert_eq!(seconds(time), expected, "{time}");
        }
    }

    #[test]
    fn options_stay_options() {
        assert_eq!(option_of("--output=/a b/%j.log").unwrap(), "--output=\"/a b/%j.log\"");
        for wrong in ["account=x", "--comment=a\nrm", "--x=\"", ""] {
            assert_eq!(option_of(wrong).unwrap_err().exit_code(), 2);
        }
    }

    /// Everything that decides what a job does is in its script.
    #[test]
    fn a_script_is_the_request() {
        let dir = tempfile::tempdir().unwrap();
        let (recipe, out) = (dir.path().join("a recipe.toml"), dir.path().join("job"));
        std::fs::write(&recipe, "").unwrap();
        let settings = RunSettings {
            recipe: Some(recipe.clone()),
            set: vec!["drop.layers=[2,4]".to_owned()],
            device: Some("cuda".to_owned()),
            jobs: Some(8),
            partition: Some("gpu".to_owned()),
            gpus: Some("a100:1".to_owned()),
            time: Some("04:00:00".to_owned()),
            sbatch: vec!["--account=physics".to_owned()],
            dry_run: true,
            ..RunSettings::default()
        };
        // no process is started: it would hold the locks of other tests for a moment
        let scripts = scripts(&settings, &out, &beside(&out).unwrap(), 8).unwrap();
        let [array, report] = &scripts[..] else { panic!() };
        let run = format!("run '{}' --out {} --set 'drop.layers=[2,4]' --device cuda", recipe.display(), out.display());
        assert!(array.text.contains(&format!("{run} --shard auto --no-wait &\n")), "{}", array.text);
        assert!(report.text.contains(&format!("{run} &\n")) && !report.text.contains("--array"), "{}", report.text);
        for line in ["--array=1-8", "--partition=gpu", "--gpus=a100:1", "--time=04:00:00", "--account=physics"] {
            assert!(array.text.contains(&format!("\n#SBATCH {line}\n")), "{line}: {}", array.text);
        }
        assert!(report.command.contains("--dependency=afterany:"), "{}", report.command);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        for jobs in [0, MOST_JOBS + 1] {
            let error = submit(&RunSettings { jobs: Some(jobs), ..settings.clone() }, &out, &crate::progress::Silent);
            assert!(error.unwrap_err().to_string().contains("--jobs"));
        }
    }
}
