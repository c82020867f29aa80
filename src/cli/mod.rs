//! The command line: what the user typed becomes settings, a command runs, its report is printed. Clap and terminal
//! output live only here.

mod analyze;
mod bench;
mod compare;
mod completions;
mod compute;
mod convert;
mod cut;
mod demo;
mod doctor;
mod eval;
mod fetch;
mod flags;
mod generate;
mod grow;
mod heal;
mod heal_text;
mod merge;
mod methods;
#[cfg(test)]
mod numbers;
mod output;
mod progress;
mod run;
mod sample;
mod status;
mod teach;
#[cfg(test)]
mod tests;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use prune::interrupt::Interrupt;
use prune::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use output::Output;
use progress::Bars;

/// Removes layers from large language models and heals them.
#[derive(Parser)]
#[command(name = "prune", version, propagate_version = true, max_term_width = 120, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
}

const EXAMPLES: &str = "\
Examples:
  prune demo                                          the whole job on an embedded checkpoint
  prune analyze ./llama --data c4.jsonl -o analysis   which block hurts least
  prune cut ./llama --plan analysis/analysis.json --fraction 0.25 -o ./llama-24
  prune heal ./llama-24 --data c4.jsonl -o healed     QLoRA on the cut model
  prune grow ./llama --after 1,3,5,7 -o ./llama-36    more layers, to train alone
  prune eval ./llama-24 --tasks mmlu,boolq -o scores  how good it still is
  prune compare dense scores                          two evaluations, question by question
  prune sample ./llama-24 --prompt \"Once upon\"        whether it still speaks
  prune bench ./llama-24 --against ./llama            what was won";

/// Options every command takes.
#[derive(Args)]
struct Global {
    /// TOML file with this command's settings, alone or in the sections of a recipe; flags override it, and
    /// --no-NAME takes back a switch that it sets, such as --no-force
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    config: Option<PathBuf>,
    /// Print one JSON object on standard output instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// No progress bars, no text but errors
    #[arg(long, short, global = true, help_heading = "Global options")]
    quiet: bool,
    /// Worker threads [default: one for each core]
    #[arg(long, global = true, value_name = "N", help_heading = "Global options")]
    threads: Option<usize>,
}

#[derive(Subcommand)]
enum Command {
    Analyze(Box<analyze::AnalyzeArgs>),
    Cut(Box<cut::CutArgs>),
    Generate(Box<generate::GenerateArgs>),
    Teach(Box<teach::TeachArgs>),
    Grow(grow::GrowArgs),
    Heal(Box<heal::HealArgs>),
    Merge(merge::MergeArgs),
    Convert(convert::ConvertArgs),
    Eval(eval::EvalArgs),
    Compare(compare::CompareArgs),
    Run(Box<run::RunArgs>),
    Status(status::StatusArgs),
    Sample(sample::SampleArgs),
    Bench(bench::BenchArgs),
    Methods(methods::MethodsArgs),
    Fetch(fetch::FetchArgs),
    Doctor(doctor::DoctorArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
}

impl Command {
    /// What an interruption leaves, for the user.
    fn when_interrupted(&self) -> &'static str {
        match self {
            Self::Generate(_) | Self::Teach(_) | Self::Heal(_) | Self::Run(_) | Self::Demo(_) | Self::Fetch(_) => {
                GOES_ON
            }
            Self::Eval(_) => "with an --out the same command goes on where it stopped, without one it begins anew",
            Self::Analyze(_) => SEARCH_GOES_ON,
            Self::Cut(_) | Self::Grow(_) | Self::Merge(_) | Self::Convert(_) => {
                "nothing was written; the same command begins anew"
            }
            Self::Compare(_)
            | Self::Sample(_)
            | Self::Bench(_)
            | Self::Methods(_)
            | Self::Status(_)
            | Self::Doctor(_)
            | Self::Completions(_) => "nothing is kept",
        }
    }
}

const GOES_ON: &str = "the same command goes on where it stopped";
const SEARCH_GOES_ON: &str =
    "a search with an --out goes on where it stopped when the same command is given again, all else begins anew";

/// Runs the program and turns its end into an exit code: 0 done, 1 the work failed, 2 the request was wrong, 130
/// interrupted.
///
/// `keeps_pages`: whether the allocator could be set up.
pub(crate) fn main(keeps_pages: bool) -> ExitCode {
    let matches = flags::prepared(Cli::command()).try_get_matches();
    let matches = matches.unwrap_or_else(|error| flags::suggested(error, &Cli::command()).exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let given = matches.subcommand().map(|(_, given)| given.clone()).unwrap_or_default();
    let when_interrupted = cli.command.when_interrupted();
    match run(cli, given, keeps_pages) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            match &error {
                Error::Interrupted => output::note(&format!("interrupted: {when_interrupted}")),
                error => output::error(error),
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli, given: ArgMatches, keeps_pages: bool) -> Result<()> {
    let Global { config, json, quiet, threads } = cli.global;
    let interrupt = start(threads)?;
    let bars = Bars::new(quiet || json);
    let output = Output::new(json, quiet);
    interrupt.run(|| dispatch(cli.command, &Context { config, given, keeps_pages, bars, output }))
}

fn dispatch(command: Command, context: &Context) -> Result<()> {
    match command {
        Command::Analyze(args) => analyze::run(&args, context),
        Command::Cut(args) => cut::run(&args, context),
        Command::Generate(args) => generate::run(&args, context),
        Command::Teach(args) => teach::run(&args, context),
        Command::Grow(args) => grow::run(&args, context),
        Command::Heal(args) => heal::run(&args, context),
        Command::Merge(args) => merge::run(&args, context),
        Command::Convert(args) => convert::run(&args, context),
        Command::Eval(args) => eval::run(&args, context),
        Command::Compare(args) => compare::run(&args, context),
        Command::Run(args) => run::run(&args, context),
        Command::Status(args) => status::run(&args, context),
        Command::Sample(args) => sample::run(&args, context),
        Command::Bench(args) => bench::run(&args, context),
        Command::Fetch(args) => fetch::run(&args, context),
        Command::Methods(args) => methods::run(&args, context),
        Command::Doctor(args) => doctor::run(&args, context),
        Command::Demo(args) => demo::run(&args, context),
        Command::Completions(args) => completions::run(&args, context),
    }
}

/// What a command gets besides its own flags.
struct Context {
    config: Option<PathBuf>,
    /// What was typed after the command's name.
    given: ArgMatches,
    keeps_pages: bool,
    bars: Bars,
    output: Output,
}

impl Context {
    /// The settings of `command`: its defaults, then the file, then the flags that were given.
    fn settings<T: DeserializeOwned>(&self, command: &str, args: &impl Serialize) -> Result<T> {
        prune::settings::resolve(command, self.config.as_deref(), flags::given(args, &self.given)?)
    }
}

/// Worker threads at most: more than any machine has cores, and few enough to be started at once.
const THREADS: usize = 4096;

/// Threads that the pool will have: as asked for by flag, by rayon's variable, or one for each core.
fn pool_size(threads: Option<usize>) -> Result<usize> {
    let asked = std::env::var("RAYON_NUM_THREADS").ok().and_then(|text| text.parse().ok()).filter(|asked| *asked > 0);
    let (place, size) = match (threads, asked) {
        (Some(threads), _) => ("--threads", threads),
        (None, Some(threads)) => ("RAYON_NUM_THREADS", threads),
        (None, None) => ("cores", std::thread::available_parallelism().map_or(1, usize::from).min(THREADS)),
    };
    match size {
        1..=THREADS => Ok(size),
        _ => Err(Error::request(format!("{place} {size}: expected from 1 to {THREADS}"))),
    }
}

/// Sets the process up: one pool of workers, a quiet candle, Ctrl-C as the wish to stop that is returned.
fn start(threads: Option<usize>) -> Result<Interrupt> {
    let size = pool_size(threads)?;
    // candle's own pool spins at a barrier while it waits, which stalls on any machine with other load; our loops run
    // on rayon's pool. candle reads the variables at its first operation, which has not happened yet.
    // SAFETY: no other thread exists at this point.
    unsafe {
        if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
            std::env::set_var("CANDLE_NUM_THREADS", "1");
        }
        if let Some(threads) = threads {
            std::env::set_var("RAYON_NUM_THREADS", threads.to_string());
        }
    }
    // a reader that panics over a broken file: the error that comes of it is all there is to say
    let shown = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !prune::data::is_fenced() {
            shown(panic);
        }
    }));
    // a file that may not grow is a full disk, not the end
    #[cfg(unix)]
    // SAFETY: ignores a signal; no handler runs
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
    // the warning of a cluster before its time is over: as if it had asked to stop
    #[cfg(unix)]
    // SAFETY: the handler only sends a signal, which is allowed in one
    unsafe {
        libc::signal(libc::SIGUSR1, ask_to_stop as *const () as libc::sighandler_t);
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(size);
    // this thread works in the pool, instead of waking it and sleeping for every operation; one thread alone could not
    // wait for another, which reads the next layer, and work for it
    let pool = if size > 1 { pool.use_current_thread() } else { pool };
    pool.build_global().map_err(|error| Error::work(format!("worker threads: {error}")))?;
    let interrupt = Interrupt::new();
    let asked = interrupt.clone();
    ctrlc::set_handler(move || asked.request()).map_err(|error| Error::work(format!("signal handler: {error}")))?;
    Ok(interrupt)
}

/// Passes a warning on as the signal to stop, which has its handler.
#[cfg(unix)]
extern "C" fn ask_to_stop(_: libc::c_int) {
    // SAFETY: sends this process a signal
    unsafe {
        libc::kill(libc::getpid(), libc::SIGTERM);
    }
}
