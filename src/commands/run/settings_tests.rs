//! `configs/README.md`: every setting of a recipe, made from the structs that read them.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::sections::OWN;
use super::{Drop, Repairs};
use crate::commands::analyze::AnalyzeSettings;
use crate::commands::bench::BenchSettings;
use crate::commands::cut::CutSettings;
use crate::eval::settings::EvalSettings;
use crate::heal::HealSettings;

const INTRODUCTION: &str = "\
# Recipes

`prune run RECIPE.toml -o DIR` takes a model through all of it; the files beside this one are recipes. A recipe names the model
(`model = \"org/name\"` or a directory), may say a `caveat`, which stands at the head of the report and in the files of its
figures, and has a section for each command. Without `[repair]`, `[heal]`, `[eval]` or `[bench]` that is not done. Any setting
is changed from the command line: `--set heal.steps=200`. The same file serves the single commands: `prune heal cut --config FILE`.
";

const CLOSING: &str = "
This file is made from the program's source: `PRUNE_WRITE_SETTINGS=1 cargo test --release --lib settings_tests` writes it anew.
";

/// Fields of `pub struct name` in a source file, with what their documentation says.
fn fields(source: &str, name: &str) -> Vec<(String, String)> {
    let (_, body) = source.split_once(&format!("pub struct {name} {{\n")).unwrap();
    let (body, _) = body.split_once("\n}").unwrap();
    let (mut fields, mut told) = (Vec::new(), Vec::new());
    for line in body.lines().map(str::trim) {
        if let Some(line) = line.strip_prefix("///") {
            told.push(line.trim());
        } else if let Some((field, _)) = line.strip_prefix("pub ").and_then(|line| line.split_once(':')) {
            fields.push((field.to_owned(), told.join(" ").replace('|', "\\|")));
            told.clear();
        }
    }
    fields
}

fn section<T: Default + Serialize>(name: &str, file: &str, of: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = std::fs::read_to_string(root.join(file)).unwrap();
    let defaults = serde_json::to_value(T::default()).unwrap();
    let own = OWN.iter().find(|(section, _)| *section == name).map_or(&[][..], |(_, own)| own);
    // what [repair] says holds for every cut
    let elsewhere = if name == "cut" {
        let repairs = serde_json::to_value(Repairs::default()).unwrap();
        let mut keys: Vec<String> = repairs.as_object().unwrap().keys().cloned().collect();
        keys.push("repair".to_owned());
        keys
    } else {
        Vec::new()
    };
    let mut table = format!("\n## `[{name}]`\n\n| setting | default | |\n|---|---|---|\n");
    for (field, told) in fields(&source, of) {
        if own.contains(&field.as_str()) || elsewhere.contains(&field) {
            continue;
        }
        let default = match defaults.get(&field) {
            None | Some(Value::Null) => String::new(),
            Some(value) => format!("`{value}`"),
        };
        table += &format!("| `{field}` | {default} | {} |\n", left_out(&told).trim_end_matches('.'));
    }
    table
}

/// What a struct calls `None` is a setting that is not there.
fn left_out(told: &str) -> String {
    ["is", "takes", "leaves"]
        .iter()
        .fold(told.to_owned(), |told, verb| told.replace(&format!("`None` {verb}"), &format!("left out it {verb}")))
}

#[test]
fn every_setting_is_told() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/README.md");
    let sections = [
        section::<Drop>("drop", "src/commands/run/drop.rs", "Drop"),
        section::<AnalyzeSettings>("analyze", "src/commands/analyze_settings.rs", "AnalyzeSettings"),
        section::<CutSettings>("cut", "src/commands/cut_settings.rs", "CutSettings"),
        section::<Repairs>("repair", "src/commands/run/repairs.rs", "Repairs"),
        section::<HealSettings>("heal", "src/heal/settings.rs", "HealSettings"),
        section::<EvalSettings>("eval", "src/eval/settings.rs", "EvalSettings"),
        section::<BenchSettings>("bench", "src/commands/bench.rs", "BenchSettings"),
    ];
    let made = format!("{INTRODUCTION}{}{CLOSING}", sections.concat());
    if std::env::var_os("PRUNE_WRITE_SETTINGS").is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(made == written, "configs/README.md is not what the settings say: PRUNE_WRITE_SETTINGS=1 writes it anew");
}
