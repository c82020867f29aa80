//! What the help promises: examples that parse, and flags that do something. New commands are found by themselves.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, Command, CommandFactory, Parser};
use regex::Regex;

use super::Cli;

/// The lines of `help` that show a command, without their remarks.
fn examples(help: &str) -> Vec<String> {
    let after = help.split_once("Examples:").map_or("", |(_, after)| after);
    let lines = after.lines().map(str::trim).filter(|line| line.starts_with("prune "));
    // a remark stands two spaces away
    lines.map(|line| line.split_once("  ").map_or(line, |(command, _)| command).to_owned()).collect()
}

/// Words as a shell sees them: quoted ones whole, redirections left away.
fn words(line: &str) -> Vec<String> {
    let line = line.split_once(" > ").map_or(line, |(line, _)| line);
    let line = line.split_once(" < ").map_or(line, |(line, _)| line);
    let mut words = Vec::new();
    for (index, part) in line.split('"').enumerate() {
        match index % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    words
}

fn commands() -> Vec<Command> {
    let mut cli = super::flags::prepared(Cli::command());
    cli.build();
    let commands: Vec<Command> =
        cli.get_subcommands().filter(|command| command.get_name() != "help").cloned().collect();
    assert!(commands.len() >= 11, "{}", commands.len());
    commands
}

#[test]
fn every_command_shows_examples_that_parse() {
    let after = |command: &Command| command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let all = commands().into_iter().chain([Cli::command()]);
    for command in all {
        let name = command.get_name().to_owned();
        let examples = examples(&after(&command));
        assert!(!examples.is_empty(), "prune {name} --help has no line under \"Examples:\"");
        for example in &examples {
            let words = words(example);
            assert!(example.len() <= 98, "prune {name}: too long for a terminal: {example}");
            assert!(name == "prune" || words[1] == name, "prune {name}: an example of another command: {example}");
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("prune {name}: the example does not parse: {example}\n{error}");
            }
        }
        assert!(command.get_about().is_some(), "prune {name} does not say what it does");
    }
}

/// Rust files below `dir` and their text.
fn sources(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            found.push((path, text));
        }
    }
}

/// The program's text: without the tests, comments and the definition of the settings `name` and of their defaults.
fn program(text: &str, name: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let text = lines.collect::<Vec<_>>().join("\n");
    let definition = format!(r"(?s)(pub struct {name}|impl Default for {name}) \{{.*?\n\}}");
    Regex::new(&definition).unwrap().replace_all(&text, "").into_owned()
}

/// Fields of the settings `name`, where `text` defines them.
fn fields(text: &str, name: &str) -> Option<Vec<String>> {
    let body = text.split_once(&format!("pub struct {name} {{"))?.1;
    let body = body.split_once("}\n").map_or(body, |(body, _)| body);
    let field = Regex::new(r"(?m)^ +pub (?:r#)?(\w+):").unwrap();
    Some(field.captures_iter(body).map(|found| found[1].to_owned()).collect())
}

/// Whether `program` looks at the field `field` of settings of type `name`.
fn is_read(program: &str, name: &str, field: &str) -> bool {
    let access = Regex::new(&format!(r"\b(settings|self)\s*\.\s*(r#)?{field}\b")).unwrap();
    let taken_apart = Regex::new(&format!(r"(?s)let {name} \{{[^}}]*\b{field}\b[^}}]*\}} =")).unwrap();
    access.is_match(program) || taken_apart.is_match(program)
}

/// `AnalyzeSettings` of `analyze`, `DryRunSettings` of `dry-run`.
fn settings_of(command: &str) -> String {
    let part = |part: &str| part[..1].to_uppercase() + &part[1..];
    command.split('-').map(part).collect::<String>() + "Settings"
}

/// Flags of `command` that reach no code: their field is missing from the command's settings, or nobody reads it.
fn dead_flags(command: &str, flags: &[String], cli: &str, library: &[(PathBuf, String)]) -> Vec<String> {
    if !cli.contains("context.settings(") {
        // no settings: the flags are used right there
        return flags.iter().filter(|flag| !cli.contains(&format!("args.{flag}"))).cloned().collect();
    }
    let name = settings_of(command);
    let Some(fields) = library.iter().find_map(|(_, text)| fields(text, &name)) else {
        panic!("prune {command}: no struct {name} in the library; the settings of a command are called after it");
    };
    let programs: Vec<String> =
        library.iter().filter(|(_, text)| text.contains(&name)).map(|(_, text)| program(text, &name)).collect();
    let is_dead =
        |flag: &&String| !fields.contains(flag) || !programs.iter().any(|program| is_read(program, &name, flag));
    flags.iter().filter(is_dead).cloned().collect()
}

#[test]
fn every_flag_does_something() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut library = Vec::new();
    sources(&root, &mut library);
    library.retain(|(path, _)| !path.starts_with(root.join("cli")));
    let mut checked = 0;
    for command in commands() {
        let name = command.get_name();
        // the opposite of a switch is its setting too
        let own = |arg: &&Arg| {
            !arg.is_global_set() && !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str())
        };
        let flags: Vec<String> = command.get_arguments().filter(own).map(|arg| arg.get_id().to_string()).collect();
        let cli = fs::read_to_string(root.join(format!("cli/{}.rs", name.replace('-', "_")))).unwrap();
        let dead = dead_flags(name, &flags, &cli, &library);
        assert!(dead.is_empty(), "prune {name}: nothing reads {}", dead.join(", "));
        checked += flags.len();
    }
    assert!(checked > 100, "{checked}");
}

#[test]
fn a_dead_flag_is_found() {
    let settings = "/// What.\npub struct GrindSettings {\n    /// A.\n    pub beans: usize,\n    /// B.\n    pub \
                    idle: bool,\n    pub apart: u8,\n}\nimpl Default for GrindSettings {\n    fn default() -> Self {\n \
                           Self { idle: false }\n    }\n}\n// settings.idle is not code\nfn grind(settings: \
                    &GrindSettings) {\n    let GrindSettings { apart, .. } = settings;\n    work(settings\n        .beans);\n}\n\
                    #[cfg(test)]\nmod tests { fn a() { settings.idle } }\n";
    let library = [(PathBuf::new(), settings.to_owned()), (PathBuf::new(), "settings.idle of something else".into())];
    let flags = ["beans", "idle", "apart", "absent"].map(str::to_owned);
    assert_eq!(dead_flags("grind", &flags, "context.settings(", &library), ["idle", "absent"]);
    assert_eq!(dead_flags("grind", &flags, "args.beans args.idle args.apart", &library), ["absent"]);
}

/// What can be set is a flag, or the help says how a file sets it.
#[test]
fn every_setting_is_in_the_help() {
    use prune::commands::{
        analyze, bench, compare, convert, cut, demo, fetch, generate_settings, grow, merge, methods, run, sample,
        teach_settings,
    };
    use prune::settings::{SECTIONS, keys};
    let known: [(&str, &[&str]); 16] = [
        ("analyze", keys::<analyze::AnalyzeSettings>()),
        ("cut", keys::<cut::CutSettings>()),
        ("generate", keys::<generate_settings::GenerateSettings>()),
        ("teach", keys::<teach_settings::TeachSettings>()),
        ("grow", keys::<grow::GrowSettings>()),
        ("heal", keys::<prune::heal::HealSettings>()),
        ("merge", keys::<merge::MergeSettings>()),
        ("convert", keys::<convert::ConvertSettings>()),
        ("eval", keys::<prune::eval::settings::EvalSettings>()),
        ("compare", keys::<compare::CompareSettings>()),
        ("run", keys::<run::RunSettings>()),
        ("sample", keys::<sample::SampleSettings>()),
        ("bench", keys::<bench::BenchSettings>()),
        ("fetch", keys::<fetch::FetchSettings>()),
        ("demo", keys::<demo::DemoSettings>()),
        ("methods", keys::<methods::MethodsSettings>()),
    ];
    for command in commands() {
        let Some((name, keys)) = known.iter().find(|(name, _)| *name == command.get_name()) else {
            assert!(["status", "doctor", "completions"].contains(&command.get_name()), "{}", command.get_name());
            continue;
        };
        assert!(*name == "run" || SECTIONS.contains(name), "{name} has no section in a file");
        let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for key in *keys {
            let is_flag = command.get_arguments().any(|arg| arg.get_id() == *key);
            assert!(is_flag || after.contains(key), "prune {name} --help says nothing of the setting {key}");
        }
    }
    let sections = SECTIONS.iter().filter(|section| !["drop", "repair"].contains(*section));
    assert_eq!(sections.count(), known.len() - 1);
}
