//! Recipes and files of settings.

use std::fs;
use std::path::Path;

use prune::arch::ModelSpec;
use prune::commands::analyze::AnalyzeSettings;
use prune::commands::convert::ConvertSettings;
use prune::commands::cut::CutSettings;
use prune::commands::generate_settings::GenerateSettings;
use prune::commands::grow::GrowSettings;
use prune::commands::run::{Compute, Recipe};
use prune::commands::teach_settings::TeachSettings;
use prune::eval::settings::EvalSettings;
use prune::heal::HealSettings;
use prune::settings::resolve;
use rand::Rng as _;
use toml::Table;

use super::super::bytes;
use super::super::case::Rng;
use super::{Feed, small};

const RECIPE: &str = r#"# a job
model = "stories260K"
caveat = "small"

[drop]
layers = [1, 2]
fractions = [0.25]
given = ["1-2", "3"]
strategies = ["similarity", "deepest"]
keep = "adapters"

[analyze]
data = "held-out.jsonl"
samples = 150
packing = "packed"

[heal]
data = "train.jsonl"
eval_data = "held-out.jsonl"
seq_len = 256
rank = 16
target = "all-linear"
rank_pattern = { "q_proj" = 4, "^model.layers.0" = 2 }
steps = 150
batch = 8
lr = 3e-3
warmup = 20

[eval]
tasks = ["boolq", "text:held-out.jsonl"]
limit = 100

[bench]
[cut]
max_shard_size = "5GB"
allow_unsliced = ["a.b"]
[grow]
after = "1"
by = "mean"
"#;

const SETTINGS: &str = "samples = 150\nseq_len = 256\nlayers = 2\nmetric = \"angular\"\nforce = true\nlr = 1e-3\n\
    tasks = [\"boolq\"]\n\
    target = \"mlp\"\nsteps = 5\ntrain = \"lora\"\nquant = \"nf4\"\nlimit = 0.5\n\
    model = \"a\"\nmax_shard_size = \"1GiB\"\n";

const WORDS: &[&str] = &[
    "[heal]\n",
    "[[heal]]\n",
    "[a.b]\n",
    "= ",
    "inf",
    "-inf",
    "nan",
    "1979-05-27",
    "0x7f",
    "1_000",
    "'''",
    "\"\\u0000\"",
    "true",
    "[]",
    "{}",
    "{ a = 1 }",
    "model = 3\n",
    "steps = -1\n",
    "lr = inf\n",
    "rank = 9999999999\n",
    "drop = 1\n",
    "a.b.c = 1\n",
    ".",
    "\n[eval]\n",
];

fn broken(rng: &mut Rng, good: &str) -> Vec<u8> {
    let mut lines: Vec<&str> = good.lines().collect();
    for _ in 0..rng.random_range(0..3) {
        let (at, to) = (rng.random_range(0..lines.len()), rng.random_range(0..lines.len()));
        match rng.random_range(0..3) {
            0 => lines.swap(at, to),
            1 if lines.len() > 1 => drop(lines.remove(at)),
            _ => lines.insert(to, lines[at]),
        }
    }
    let mut text = lines.join("\n").into_bytes();
    if rng.random_ratio(4, 5) {
        bytes::change(rng, &mut text, WORDS);
    }
    text
}

/// `--config`.
pub(super) fn settings(dir: &Path) -> Feed {
    let path = dir.join("settings.toml");
    let spec = ModelSpec::from_config(&small().config()).unwrap();
    Box::new(move |case| {
        let good = if case.rng.random() { RECIPE } else { SETTINGS };
        fs::write(&path, broken(&mut case.rng, good)).unwrap();
        let path = Some(path.as_path());
        if let Some(settings) = case.heard(resolve::<HealSettings>("heal", path, Table::new())) {
            case.heard(settings.check());
            let (settled, said) = settings.settled(256);
            said.iter().for_each(|said| case.message(&prune::shown::shown_message(said)));
            case.heard(settled.lora(&spec));
            let _ = (settled.rates(), settled.shape(), settled.deciding(), settled.written());
        }
        if let Some(settings) = case.heard(resolve::<EvalSettings>("eval", path, Table::new())) {
            case.heard(settings.check());
        }
        case.heard(resolve::<AnalyzeSettings>("analyze", path, Table::new()));
        case.heard(resolve::<CutSettings>("cut", path, Table::new()));
        if let Some(settings) = case.heard(resolve::<GenerateSettings>("generate", path, Table::new())) {
            case.heard(settings.check());
            let _ = settings.deciding();
        }
        if let Some(settings) = case.heard(resolve::<TeachSettings>("teach", path, Table::new())) {
            case.heard(settings.check());
        }
        case.heard(resolve::<ConvertSettings>("convert", path, Table::new()));
        case.heard(resolve::<GrowSettings>("grow", path, Table::new()));
    })
}

/// A recipe, with something set on the command line.
pub(super) fn recipe(dir: &Path) -> Feed {
    let path = dir.join("recipe.toml");
    Box::new(move |case| {
        fs::write(&path, broken(&mut case.rng, RECIPE)).unwrap();
        let mut set = case.pick(&["heal.steps=10", "drop.layers=[1,2]", "caveat=\"x\"", "model=a"]).as_bytes().to_vec();
        bytes::change(&mut case.rng, &mut set, WORDS);
        let set = if case.rng.random() { vec![String::from_utf8_lossy(&set).into_owned()] } else { Vec::new() };
        let Some(recipe) = case.heard(Recipe::read(&path, &set, &Compute::default())) else { return };
        let layers = case.rng.random_range(1..40);
        if let Some(wanted) = case.heard(recipe.drop.wanted(layers)) {
            for cut in wanted {
                case.heard(cut.which.as_much(layers));
            }
        }
    })
}
