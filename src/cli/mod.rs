//! The command line: what the user typed becomes settings, a command runs, its report is printed. Clap and terminal
//! output live only here.

mod analyze;
mod bench;
mod compare;
mod completions;
mod compute;
mod cut;
mod demo;
mod doctor;
mod eval;
mod fetch;
mod heal;
mod merge;
mod output;
mod progress;
mod run;
mod sample;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use prune::{Error, Result};

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
  prune eval ./llama-24 --tasks mmlu,boolq -o scores  how good it still is
  prune compare dense scores                          two evaluations, question by question
  prune sample ./llama-24 --prompt \"Once upon\"        whether it still speaks
  prune bench ./llama-24 --against ./llama            what was won";

/// Options every command takes.
#[derive(Args)]
struct Global {
    /// TOML file with this command's settings; flags override it
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
    Analyze(analyze::AnalyzeArgs),
    Cut(cut::CutArgs),
    Heal(Box<heal::HealArgs>),
    Merge(merge::MergeArgs),
    Eval(eval::EvalArgs),
    Compare(compare::CompareArgs),
    Run(run::RunArgs),
    Sample(sample::SampleArgs),
    Bench(bench::BenchArgs),
    Fetch(fetch::FetchArgs),
    Doctor(doctor::DoctorArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
}

/// Runs the program and turns its end into an exit code: 0 done, 1 the work failed, 2 the request was wrong.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli) -> Result<()> {
    let Global { config, json, quiet, threads } = cli.global;
    start(threads)?;
    let bars = Bars::new(quiet || json);
    let output = Output::new(json, quiet);
    let context = Context { config, bars, output };
    match cli.command {
        Command::Analyze(args) => analyze::run(&args, &context),
        Command::Cut(args) => cut::run(&args, &context),
        Command::Heal(args) => heal::run(&args, &context),
        Command::Merge(args) => merge::run(&args, &context),
        Command::Eval(args) => eval::run(&args, &context),
        Command::Compare(args) => compare::run(&args, &context),
        Command::Run(args) => run::run(&args, &context),
        Command::Sample(args) => sample::run(&args, &context),
        Command::Bench(args) => bench::run(&args, &context),
        Command::Fetch(args) => fetch::run(&args, &context),
        Command::Doctor(args) => doctor::run(&args, &context),
        Command::Demo(args) => demo::run(&args, &context),
        Command::Completions(args) => completions::run(&args, &context),
    }
}

/// What a command gets besides its own flags.
struct Context {
    config: Option<PathBuf>,
    bars: Bars,
    output: Output,
}

/// Threads that a pool will have, as rayon counts them.
fn pool_size(threads: Option<usize>) -> usize {
    let asked = || std::env::var("RAYON_NUM_THREADS").ok()?.parse().ok().filter(|threads| *threads > 0);
    threads.or_else(asked).unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Sets the process up: one pool of workers, a quiet candle, Ctrl-C as a request to stop.
fn start(threads: Option<usize>) -> Result<()> {
    if threads == Some(0) {
        return Err(Error::request("--threads 0: at least one thread is needed"));
    }
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
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.unwrap_or(0));
    // this thread works in the pool, instead of waking it and sleeping for every operation; one thread alone could not
    // wait for another, which reads the next layer, and work for it
    let pool = if pool_size(threads) > 1 { pool.use_current_thread() } else { pool };
    pool.build_global().map_err(|error| Error::work(format!("worker threads: {error}")))?;
    ctrlc::set_handler(prune::interrupt::request).map_err(|error| Error::work(format!("signal handler: {error}")))
}
