//! Programs that a model wrote, run against the tests of their task (HumanEval, arXiv 2107.03374), each in a process of
//! its own: for so many seconds, with so much memory, in a directory that is empty and goes with it, without a network
//! where the system allows that. A program passes if it ends without an exception, as in `evaluate`'s `code_eval`.
//!
//! Its files are all that keeps a program from the user's: what a wicked one could do, it can do here. A container is
//! the place for programs of models that nobody trusts.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::progress::{Progress, Unit};
use crate::{Context, Error, Result, interrupt};

/// What runs a program within its limits.
const DRIVER: &str = include_str!("driver.py");
/// A program has so many seconds, as in the reference.
const SECONDS: f64 = 3.0;
/// Bytes of its memory.
const MEMORY: u64 = 2 << 30;
/// Bytes of a file that it writes.
const FILE: u64 = 16 << 20;
/// Seconds in which Python begins and ends.
const GRACE: f64 = 20.0;
/// How often a process is looked at.
const GLANCE: Duration = Duration::from_millis(4);
/// Processes at a time.
const TOGETHER: usize = 8;

/// What became of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ran {
    passed: bool,
    /// Whether it had no network.
    apart: bool,
}

/// Runs programs.
#[derive(Debug)]
pub struct CodeRunner {
    python: PathBuf,
    seconds: f64,
}

impl CodeRunner {
    /// By `python`, or else `python3`: it has to be there and to run a program. Says where the system gives programs no
    /// network of their own, which leaves them the user's.
    ///
    /// # Errors
    /// Request: no Python, one that runs nothing, a system without processes of this kind.
    pub fn open(python: Option<&Path>, progress: &dyn Progress) -> Result<Self> {
        if !cfg!(unix) {
            return Err(Error::request("--run-code: programs are run within limits that only Unix has"));
        }
        let named = python.unwrap_or(Path::new("python3"));
        let refuse = |fault: String| Error::request(format!("--run-code: {}: {fault}", named.display()));
        // a name may stand for a script that looks for the real one
        let mut asked = Command::new(named);
        asked.args(["-c", "import sys; print(sys.executable)"]).stdin(Stdio::null()).stderr(Stdio::null());
        let said = asked.output().map_err(|error| refuse(format!("{error}; --python names Python 3")))?;
        let path = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        if !said.status.success() || path.is_empty() {
            return Err(refuse("is no Python 3 that runs; --python names one".to_owned()));
        }
        let runner = Self { python: PathBuf::from(path), seconds: SECONDS };
        let probe = runner.run("assert sum([1, 2]) == 3")?;
        if !probe.passed || runner.run("assert sum([1, 2]) == 4")?.passed {
            return Err(refuse("does not run programs within limits here; --python names another one".to_owned()));
        }
        if !probe.apart {
            progress.warn("this system gives programs no network of their own: those that the model writes have yours");
        }
        Ok(runner)
    }

    /// Whether each of `programs` passes.
    ///
    /// # Errors
    /// Work: a process that cannot be made. Interrupted.
    pub fn passes(&self, programs: &[String], progress: &dyn Progress) -> Result<Vec<bool>> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(TOGETHER).min(programs.len());
        let (next, current, (done, finished)) = (AtomicUsize::new(0), interrupt::current(), channel());
        let mut passed = vec![false; programs.len()];
        progress.begin("running programs", programs.len() as u64, Unit::Items);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                let (done, next, current) = (done.clone(), &next, current.clone());
                scope.spawn(move || {
                    current.run(|| {
                        loop {
                            let place = next.fetch_add(1, Ordering::Relaxed);
                            let Some(program) = programs.get(place) else { return };
                            let ran = self.run(program);
                            let is_over = ran.is_err();
                            if done.send((place, ran)).is_err() || is_over {
                                return;
                            }
                        }
                    });
                });
            }
            drop(done);
            for (place, ran) in finished {
                passed[place] = ran.inspect_err(|_| next.store(programs.len(), Ordering::Relaxed))?.passed;
                progress.advance(1);
            }
            Ok::<_, Error>(())
        })?;
        progress.end();
        Ok(passed)
    }

    fn run(&self, program: &str) -> Result<Ran> {
        interrupt::check()?;
        let dir = tempfile::Builder::new().prefix("prune-code-").tempdir();
        let dir = dir.map_err(|error| Error::work(format!("no temporary directory for a program: {error}")))?;
        let mut command = Command::new(&self.python);
        command.args(["-s", "-c", DRIVER, &self.seconds.to_string(), &MEMORY.to_string(), &FILE.to_string()]);
        command.current_dir(dir.path()).env_clear().envs(["PATH", "SYSTEMROOT"].into_iter().filter_map(own));
        command.envs([("HOME", dir.path()), ("TMPDIR", dir.path())]);
        // the order of a set of texts is the same in every run
        command.envs([("PYTHONHASHSEED", "0"), ("LANG", "C.UTF-8"), ("OMP_NUM_THREADS", "1")]);
        command.envs([("OPENBLAS_NUM_THREADS", "1"), ("PYTHONDONTWRITEBYTECODE", "1")]);
        // what numpy sets otherwise, by a function that is taken away
        command.envs([("OPENBLAS_MAIN_FREE", "1"), ("GOTOBLAS_MAIN_FREE", "1")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().map_err(|error| Error::work(format!("{}: {error}", self.python.display())));
        let mut group = Group { driver: child.context(|| "--run-code")?, is_over: false };
        if let Some(mut input) = group.driver.stdin.take() {
            // one that ended early did not pass
            let _ = input.write_all(program.as_bytes());
        }
        let until = Instant::now() + Duration::from_secs_f64(self.seconds + GRACE);
        let io = |error: std::io::Error| Error::work(format!("a program's process: {error}"));
        while group.driver.try_wait().map_err(io)?.is_none() {
            if Instant::now() > until {
                return Ok(Ran { passed: false, apart: true });
            }
            interrupt::check()?;
            std::thread::sleep(GLANCE);
        }
        group.is_over = true;
        let mut said = String::new();
        if let Some(output) = group.driver.stdout.take() {
            // bytes that are no text are no verdict
            let _ = output.take(64).read_to_string(&mut said);
        }
        let mut words = said.split_whitespace();
        Ok(Ran { passed: words.next() == Some("passed"), apart: words.next() == Some("apart") })
    }
}

fn own(name: &'static str) -> Option<(&'static str, std::ffi::OsString)> {
    Some((name, std::env::var_os(name)?))
}

/// A process and all that it started, which end with it: it ends them itself, unless it is ended first.
struct Group {
    driver: Child,
    is_over: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        #[cfg(unix)]
        if let Ok(group) = i32::try_from(self.driver.id()) {
            // SAFETY: the call takes two numbers and touches no memory; the group is that of a child of this process
            // that nobody has waited for, so that no other group has its number.
            unsafe {
                libc::kill(-group, libc::SIGKILL);
            }
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// The share of draws of `k` among `samples` answers, `passed` of which are right, that have a right one: the unbiased
/// estimator of pass@k (arXiv 2107.03374, section 2.1).
#[must_use]
pub fn pass_at_k(samples: usize, passed: usize, k: usize) -> f64 {
    if samples.saturating_sub(passed) < k {
        return 1.0;
    }
    1.0 - (samples - passed + 1..=samples).map(|n| 1.0 - k as f64 / n as f64).product::<f64>()
}

#[cfg(test)]
mod tests;
