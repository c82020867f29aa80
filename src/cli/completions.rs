//! `prune completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use prune::{Error, Result};

use super::{Cli, Context};

/// Prints a script that completes this program's commands and flags in a shell
#[derive(Args)]
#[command(after_help = "Examples:
  prune completions bash > ~/.local/share/bash-completion/completions/prune
  prune completions zsh > ~/.zfunc/_prune
  prune completions fish > ~/.config/fish/completions/prune.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, context: &Context) -> Result<()> {
    if let Some(file) = &context.config {
        return Err(Error::request(format!("--config {}: completions has no settings", file.display())));
    }
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "prune", &mut script);
    let script = String::from_utf8(script).map_err(|error| Error::work(format!("completions: {error}")))?;
    context.output.say(&script)
}
