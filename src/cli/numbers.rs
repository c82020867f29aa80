//! Extreme numbers in every numeric flag and setting of every command: refused, or worked with; never a panic, an
//! abort, or more memory than there is. New flags are found by themselves.

use std::any::TypeId;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use clap::{Arg, ArgAction, CommandFactory, FromArgMatches};
use prune::interrupt::Interrupt;
use prune::{Error, Result};

use super::output::Output;
use super::progress::Bars;
use super::{Cli, Context, THREADS, dispatch, flags, pool_size};

/// The first two are refused before a command sees them.
const COUNTS: [&str; 5] = ["9223372036854775807", "18446744073709551615", "1000000000", "65537", "0"];
const FLOATS: [&str; 5] = ["inf", "nan", "1e308", "-1e308", "5e-324"];
/// Requests beside each other: most wait, for a disk or for their [`PATIENCE`].
const AT_ONCE: usize = 4;
/// Some numbers ask for work without end: it is interrupted.
const PATIENCE: Duration = Duration::from_millis(700);

/// A small request of each command, its numeric flags apart, in a directory with the embedded model.
const REQUESTS: [(&str, &str); 11] = [
    ("analyze", "analyze model --data text/validation.jsonl -o OUT"),
    ("methods", "methods model --data text/validation.jsonl -o OUT"),
    ("cut", "cut model -o OUT"),
    ("grow", "grow model --after 1 --by lesa -o OUT"),
    ("generate", "generate model --prompts text/validation.jsonl -o OUT.jsonl"),
    ("teach", "teach model --data text/validation.jsonl -o OUT"),
    (
        "heal",
        "heal model --data text/validation.jsonl --eval-data text/validation.jsonl --teacher model --divergence jsd \
         --hidden-states 3 -o OUT",
    ),
    ("eval", "eval model --tasks text:text/validation.jsonl,boolq --data-dir . -o OUT"),
    ("run", "run recipe.toml -o OUT"),
    ("sample", "sample model --prompt The"),
    ("bench", "bench model"),
];
/// Numbers that make the request small where they are not the ones under test.
const SMALL: [(&str, &str, &str); 25] = [
    ("analyze", "samples", "2"),
    ("analyze", "seq_len", "16"),
    ("methods", "samples", "2"),
    ("methods", "seq_len", "16"),
    ("methods", "layers", "1"),
    ("cut", "deepest", "1"),
    ("generate", "limit", "2"),
    ("generate", "tokens", "2"),
    ("teach", "seq_len", "16"),
    ("teach", "steps", "1"),
    ("teach", "batch", "1"),
    ("teach", "top_k", "2"),
    ("teach", "shuffle_window", "4"),
    ("heal", "seq_len", "16"),
    ("heal", "steps", "1"),
    ("heal", "batch", "1"),
    ("heal", "rank", "2"),
    ("heal", "warmup", "0"),
    ("heal", "eval_samples", "1"),
    ("heal", "shuffle_window", "4"),
    ("eval", "limit", "2"),
    ("sample", "tokens", "2"),
    ("bench", "tokens", "2"),
    ("bench", "prompt_tokens", "2"),
    ("bench", "repetitions", "1"),
];

/// Numeric flags of each command: whether they take fractions.
fn numeric() -> Vec<(String, String, bool)> {
    let cli = flags::prepared(Cli::command());
    let mut found = Vec::new();
    for command in cli.get_subcommands() {
        let kind = |arg: &Arg| arg.get_value_parser().type_id();
        for arg in command.get_arguments().filter(|arg| matches!(arg.get_action(), ArgAction::Set)) {
            let is_float = kind(arg) == TypeId::of::<f64>();
            if is_float || kind(arg) == TypeId::of::<usize>() || kind(arg) == TypeId::of::<u64>() {
                found.push((command.get_name().to_owned(), arg.get_id().to_string(), is_float));
            }
        }
    }
    found
}

/// Interrupts what takes longer than [`PATIENCE`], from `start` to `stop`.
struct Watch {
    interrupt: Interrupt,
    done: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watch {
    fn start() -> Self {
        let (done, waits) = channel();
        let interrupt = Interrupt::new();
        let asked = interrupt.clone();
        let thread = std::thread::spawn(move || {
            if waits.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                asked.request();
            }
        });
        Self { interrupt, done, thread }
    }

    fn stop(self) {
        drop(self.done);
        self.thread.join().unwrap();
    }
}

/// What comes of a command line; clap's own refusals included.
fn run(words: &[String]) -> Result<()> {
    let refused = |error: clap::Error| Error::request(error.to_string());
    let matches = flags::prepared(Cli::command()).try_get_matches_from(words).map_err(refused)?;
    let cli = Cli::from_arg_matches(&matches).map_err(refused)?;
    let given = matches.subcommand().map(|(_, given)| given.clone()).unwrap_or_default();
    let context = Context {
        config: cli.global.config,
        given,
        keeps_pages: true,
        bars: Bars::new(true),
        output: Output::new(false, true),
    };
    let watch = Watch::start();
    let done = catch_unwind(AssertUnwindSafe(|| watch.interrupt.run(|| dispatch(cli.command, &context))));
    watch.stop();
    done.unwrap_or_else(|_| panic!("{words:?} panics"))
}

/// No more than this at once, so that a request that is not checked fails here and not the machine.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn limit_memory() {
    let limit = libc::rlimit { rlim_cur: 12 << 30, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: sets a limit of this process
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn limit_memory() {}

/// A flag's value.
struct Tried<'a> {
    command: &'a str,
    flag: &'a str,
    is_float: bool,
    /// Of the value among all.
    place: usize,
    value: &'a str,
    by_file: bool,
}

impl Tried<'_> {
    /// What is wrong about what comes of it.
    fn fault(&self, dir: &Path) -> Option<String> {
        let Self { command, flag, is_float, place, value, by_file } = *self;
        let line = REQUESTS.iter().find(|(name, _)| *name == command).map(|(_, line)| line);
        let line = line.unwrap_or_else(|| panic!("{command}: no request"));
        // what an interrupted request leaves must not stand in the way of the next
        let out = tempfile::tempdir_in(dir).unwrap();
        let words = request((dir, out.path()), line, (command, flag, value), by_file);
        // seeds are what they are; a rate of 1e308 can be tried, and ends in numbers that are none
        // and a text can be too short for sequences of a length
        let may_fail = if is_float { place >= 2 } else { flag == "seq_len" && place == 3 };
        match run(&words) {
            Err(error) if error.exit_code() == 1 && !may_fail => Some(format!("{words:?}: {error}")),
            Ok(()) if place < 2 && flag != "seed" => Some(format!("{words:?}: not refused")),
            Ok(()) | Err(_) => None,
        }
    }
}

#[test]
fn no_number_is_too_large() {
    limit_memory();
    let dir = tempfile::tempdir().unwrap();
    prune::demo::extract(dir.path()).unwrap();
    let numeric = numeric();
    assert!(numeric.len() > 30, "{}", numeric.len());
    let tried = numeric.iter().flat_map(|(command, flag, is_float)| {
        let values = if *is_float { &FLOATS[..] } else { &COUNTS[..] };
        let of = move |(place, value): (usize, &'static &'static str)| {
            // what is worked with is the same from a file
            let ways = [false, true].into_iter().take(if place < 2 { 2 } else { 1 });
            ways.map(move |by_file| Tried { command, flag, is_float: *is_float, place, value, by_file })
        };
        values.iter().enumerate().flat_map(of)
    });
    let tried: Vec<Tried> = tried.collect();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(tried) = tried.get(next.fetch_add(1, Ordering::Relaxed)) {
                    wrong.lock().unwrap().extend(tried.fault(dir.path()));
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The request with one setting as a flag, or in a file.
fn request(
    (dir, out): (&Path, &Path),
    line: &str,
    (command, flag, value): (&str, &str, &str),
    by_file: bool,
) -> Vec<String> {
    let place = |word: &str| match word {
        "OUT" => out.join("out").display().to_string(),
        "OUT.jsonl" => out.join("out.jsonl").display().to_string(),
        "." => dir.display().to_string(),
        word if dir.join(word).exists() => dir.join(word).display().to_string(),
        word => word.replace("text:text", &format!("text:{}", dir.join("text").display())),
    };
    let mut words = vec!["prune".to_owned()];
    words.extend(line.split(' ').map(place));
    for (_, name, small) in SMALL.iter().filter(|(of, name, _)| *of == command && *name != flag) {
        if !(command == "cut" && ["fraction", "layers"].contains(&flag)) {
            words.push(format!("--{}={small}", name.replace('_', "-")));
        }
    }
    if by_file {
        let path = out.join("settings.toml");
        fs::write(&path, format!("{flag} = {value}\n")).unwrap();
        words.push(format!("--config={}", path.display()));
    } else {
        words.push(format!("--{}={value}", flag.replace('_', "-")));
    }
    words
}

#[test]
fn threads_that_can_be() {
    assert_eq!(pool_size(Some(3)).unwrap(), 3);
    assert!((1..=THREADS).contains(&pool_size(None).unwrap()));
    for wrong in [0, THREADS + 1, 65_536, usize::MAX] {
        let error = pool_size(Some(wrong)).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("--threads"), "{error}");
    }
}
