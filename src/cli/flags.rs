//! What was typed, as a layer of settings: the flags that were given, and nothing else. What holds for all flags of all
//! commands is said here once.

use std::any::TypeId;
use std::ffi::OsStr;
use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use prune::{Error, Result};
use serde::Serialize;
use toml::{Table, Value};

/// In front of a switch, it takes back what a file switches on.
const NO: &str = "no-";

/// The program's commands with what holds for all: numbers are finite, counts fit a file of settings, names are UTF-8,
/// and for every `--switch` there is a `--no-switch`.
pub(super) fn prepared(command: Command) -> Command {
    command.mut_args(sound).mut_subcommands(|command| with_opposites(command.mut_args(sound)))
}

fn sound(arg: Arg) -> Arg {
    let parser = arg.get_value_parser();
    let is_listed = parser.possible_values().is_some();
    let kind = parser.type_id();
    // -1 is a number that is wrong, not a flag that is unknown
    let is_number =
        [TypeId::of::<f64>(), TypeId::of::<usize>(), TypeId::of::<u64>()].iter().any(|number| kind == *number);
    let arg = arg.allow_negative_numbers(is_number);
    match () {
        () if kind == TypeId::of::<f64>() => arg.value_parser(finite),
        () if kind == TypeId::of::<usize>() => arg.value_parser(|text: &str| count(text).map(|count| count as usize)),
        () if kind == TypeId::of::<u64>() => arg.value_parser(count),
        () if kind == TypeId::of::<PathBuf>() => arg.value_parser(Name { is_path: true }.map(PathBuf::from)),
        () if kind == TypeId::of::<String>() && !is_listed => arg.value_parser(Name { is_path: false }),
        () => arg,
    }
}

fn finite(text: &str) -> std::result::Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| "expected a finite number".to_owned())
}

/// As large as an integer in TOML can be.
fn count(text: &str) -> std::result::Result<u64, String> {
    let number = text.parse::<u64>().ok().filter(|number| i64::try_from(*number).is_ok());
    number.ok_or_else(|| format!("expected a whole number from 0 to {}", i64::MAX))
}

/// A name in UTF-8: it ends up in JSON files that have no other.
#[derive(Clone)]
struct Name {
    /// The name of a file is not empty.
    is_path: bool,
}

impl TypedValueParser for Name {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> std::result::Result<String, clap::Error> {
        let fault = match value.to_str() {
            Some("") if self.is_path => "expected a name, found none".to_owned(),
            Some(name) => return Ok(name.to_owned()),
            None => format!("{} is not UTF-8, as every name has to be", value.to_string_lossy()),
        };
        let flag = arg.map(|arg| format!("{arg}: ")).unwrap_or_default();
        Err(clap::Error::raw(ErrorKind::ValueValidation, format!("{flag}{fault}\n")).with_cmd(command))
    }
}

fn with_opposites(command: Command) -> Command {
    let is_switch = |arg: &&Arg| matches!(arg.get_action(), ArgAction::SetTrue) && !arg.is_global_set();
    let switches: Vec<(String, String)> = command
        .get_arguments()
        .filter(is_switch)
        .filter_map(|arg| Some((arg.get_id().to_string(), format!("{NO}{}", arg.get_long()?))))
        .collect();
    switches.into_iter().fold(command, |command, (switch, opposite)| {
        let arg = Arg::new(opposite.clone()).long(opposite.clone()).hide(true);
        command
            .arg(arg.action(ArgAction::SetTrue).overrides_with(switch.clone()))
            .mut_arg(switch, |arg| arg.overrides_with(opposite))
    })
}

/// A word that is no command, with the command that it is most like instead of the parser's own guess, which prefers
/// long names: `ct` is `cut`, not `doctor`.
pub(super) fn suggested(mut error: clap::Error, cli: &Command) -> clap::Error {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return error;
    }
    let Some(ContextValue::String(typed)) = error.get(ContextKind::InvalidSubcommand).cloned() else { return error };
    let names = cli.get_subcommands().map(Command::get_name);
    let like = names.map(|name| (strsim::normalized_damerau_levenshtein(&typed, name), name));
    let nearest = like.filter(|(likeness, _)| *likeness > 0.5).max_by(|a, b| a.0.total_cmp(&b.0));
    drop(error.remove(ContextKind::SuggestedSubcommand));
    if let Some((_, name)) = nearest {
        error.insert(ContextKind::SuggestedSubcommand, ContextValue::Strings(vec![name.to_owned()]));
    }
    error
}

/// The flags of `args` that were typed, as `matches` has them.
pub(super) fn given(args: &impl Serialize, matches: &ArgMatches) -> Result<Table> {
    let typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
    let mut flags = Table::try_from(args).map_err(|error| Error::work(format!("flags: {error}")))?;
    flags.retain(|key, _| typed(key));
    for id in matches.ids().map(clap::Id::as_str) {
        if let Some(switch) = id.strip_prefix(NO).filter(|_| typed(id)) {
            flags.insert(switch.replace('-', "_"), Value::Boolean(false));
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches};
    use toml::toml;

    use super::*;

    #[derive(Args, Serialize)]
    struct Flags {
        #[arg(long)]
        rate: Option<f64>,
        #[arg(long)]
        seed: Option<u64>,
        #[arg(long)]
        count: Option<usize>,
        #[arg(long)]
        out: Option<PathBuf>,
        #[arg(long)]
        names: Vec<String>,
        #[arg(long)]
        save_4bit: bool,
        #[arg(long)]
        bos: Option<bool>,
    }

    fn typed(words: &[&OsStr]) -> std::result::Result<Table, String> {
        let command = prepared(Command::new("x").subcommand(Flags::augment_args(Command::new("y"))));
        let words = ["x", "y"].map(OsStr::new).into_iter().chain(words.iter().copied());
        let matches = command.try_get_matches_from(words).map_err(|error| error.to_string())?;
        let (_, matches) = matches.subcommand().unwrap();
        let args = Flags::from_arg_matches(matches).unwrap();
        given(&args, matches).map_err(|error| error.to_string())
    }

    fn words(line: &str) -> std::result::Result<Table, String> {
        typed(&line.split_whitespace().map(OsStr::new).collect::<Vec<_>>())
    }

    #[test]
    fn what_was_typed_and_nothing_else() {
        assert_eq!(words("").unwrap(), Table::new());
        assert_eq!(words("--names a --names b").unwrap(), toml! { names = ["a", "b"] });
        assert_eq!(words("--save-4bit").unwrap(), toml! { save_4bit = true });
        for line in ["--no-save-4bit", "--save-4bit --no-save-4bit"] {
            assert_eq!(words(line).unwrap(), toml! { save_4bit = false });
        }
        assert_eq!(words("--no-save-4bit --save-4bit").unwrap(), toml! { save_4bit = true });
        assert_eq!(words("--bos false").unwrap(), toml! { bos = false });
        let numbers = words("--rate -1e3 --seed 9223372036854775807 --count 3 --out a/b");
        assert_eq!(numbers.unwrap()["rate"].as_float(), Some(-1e3), "a number below zero is no flag");
        let numbers = words("--rate=1e3 --seed 9223372036854775807 --count 3 --out a/b").unwrap();
        let expected = "rate = 1e3\nseed = 9223372036854775807\ncount = 3\nout = \"a/b\"";
        assert_eq!(numbers, expected.parse::<Table>().unwrap());
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_flag() {
        for (line, flag) in [
            ("--rate inf", "--rate"),
            ("--rate=-inf", "--rate"),
            ("--rate nan", "--rate"),
            ("--rate 1e999", "--rate"),
            ("--seed 9223372036854775808", "--seed"),
            ("--count 99999999999999999999999", "--count"),
            ("--count=-1", "--count"),
            ("--out=", "--out"),
        ] {
            let error = words(line).unwrap_err();
            assert!(error.contains(flag), "{line}: {error}");
        }
    }

    #[test]
    fn a_mistyped_command_is_the_one_most_like_it() {
        for (typed, meant) in [("ct", "'cut'"), ("analyse", "'analyze'"), ("evla", "'eval'"), ("zzz", "")] {
            let cli = Command::new("x").subcommands(["doctor", "cut", "analyze", "eval", "run"].map(Command::new));
            let error = cli.clone().try_get_matches_from(["x", typed]).unwrap_err();
            let said = suggested(error, &cli).to_string();
            assert!(if meant.is_empty() { !said.contains("tip") } else { said.contains(meant) }, "{said}");
            assert!(!said.contains("doctor"), "{said}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn names_are_utf_8() {
        use std::os::unix::ffi::OsStrExt;
        for flag in ["--out", "--names"] {
            let error = typed(&[OsStr::new(flag), OsStr::from_bytes(b"a\xff")]).unwrap_err();
            assert!(error.contains(flag) && error.contains("not UTF-8"), "{error}");
        }
    }
}
