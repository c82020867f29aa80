//! Results of two evaluations, compared, added to, found again.

use std::fs;
use std::path::{Path, PathBuf};

use prune::commands::compare::{CompareSettings, compare};
use prune::commands::eval::eval;
use prune::eval::settings::EvalSettings;
use prune::progress::Silent;
use rand::Rng as _;

use super::super::json as values;
use super::{Feed, Files, small};

/// The only folder in `dir`.
fn folder(dir: &Path) -> PathBuf {
    let mut folders = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    folders.next().unwrap()
}

/// `results_*.json` and `samples_*.jsonl`.
pub(super) fn results(dir: &Path) -> Feed {
    let (model, data, text) = (dir.join("model"), dir.join("data"), dir.join("text.jsonl"));
    small().write(&model);
    fs::create_dir(&data).unwrap();
    fs::write(&text, "{\"text\": \"w3 w4 w5 w6\"}\n{\"text\": \"w7 w3 w9\"}\n").unwrap();
    let rows =
        (0..4).map(|row| format!("{{\"question\": \"w{row}\", \"passage\": \"w3 w4\", \"label\": {}}}\n", row % 2));
    fs::write(data.join("validation.jsonl"), rows.collect::<String>()).unwrap();
    let out = dir.join("scores");
    let settings = EvalSettings {
        model: Some(model.display().to_string()),
        tasks: vec!["boolq".to_owned(), format!("text:{}", text.display())],
        data_dir: Some(data),
        out: Some(out.clone()),
        ..EvalSettings::default()
    };
    eval(&settings, &Silent).unwrap();
    let (place, good) = (folder(&out), dir.join("good"));
    fs::create_dir(&good).unwrap();
    let files = Files::of(&place);
    files.good.iter().for_each(|(name, bytes)| fs::write(good.join(name), bytes).unwrap());
    let names: Vec<String> = files.good.keys().filter(|name| !name.starts_with('.')).cloned().collect();
    Box::new(move |case| {
        let name = &names[case.rng.random_range(0..names.len())];
        let broken = if name.ends_with(".jsonl") {
            values::lines(&mut case.rng, &files.good[name])
        } else {
            values::changed(&mut case.rng, &files.json(name))
        };
        files.replace(&[(name, broken)]);
        let (from, to) = if case.rng.random() { (&good, &files.dir) } else { (&files.dir, &good) };
        let sides = CompareSettings { from: Some(from.clone()), to: Some(to.clone()) };
        case.listen(|progress| compare(&sides, progress)).map(|report| report.text());
        if case.is_one_in(6) {
            // what is there is told or added to
            let again = EvalSettings { dry_run: true, ..settings.clone() };
            case.listen(|progress| eval(&again, progress));
            let against =
                EvalSettings { dry_run: true, out: None, against: Some(files.dir.clone()), ..settings.clone() };
            case.listen(|progress| eval(&against, progress));
        }
    })
}
