//! Cuts and growths: every kept byte is the source's under its new name, the config describes the layers that stayed,
//! whatever is wrong is refused with nothing left behind, and a killed cut leaves nothing that looks finished.

mod families;
mod grown;
mod history;
mod killed;
mod places;
mod refused;
mod whole;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use prune::checkpoint::Checkpoint;
use prune::commands::cut::{CutReport, CutSettings, cut};
use prune::progress::Silent;

/// Settings to cut `model` into `out`.
fn settings(model: &Path, out: &Path) -> CutSettings {
    CutSettings {
        model: Some(model.to_str().unwrap().to_owned()),
        out: Some(out.to_owned()),
        verify: true,
        ..CutSettings::default()
    }
}

/// Drops `layers` (as `--drop` reads them) from `model`.
fn drop_layers(model: &Path, layers: &str, out: &Path) -> CutReport {
    cut(&CutSettings { drop: Some(layers.to_owned()), ..settings(model, out) }, &Silent).unwrap()
}

fn open(dir: &Path) -> Checkpoint {
    Checkpoint::open_dir(dir).unwrap()
}

/// Every file under `dir` with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(name, bytes)| (path.join(name), bytes)));
        } else {
            found.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
        }
    }
    found
}

/// Names in `dir`.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}
