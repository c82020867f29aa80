//! What a healing leaves: the state to go on from, the log, the record of one that is done.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use prune::Error;
use prune::checkpoint::{Origin, Workplace};
use prune::commands::heal::heal as run_healing;
use prune::data::Packing;
use prune::heal::{self, HealSettings, Line, TrainerState, WorkDir};
use prune::ops::Optimizer;
use prune::progress::Silent;
use rand::Rng as _;
use safetensors::Dtype;
use serde_json::{Map, json};

use super::super::case::Rng;
use super::super::{json as values, tensors};
use super::{Feed, Files, small};
use crate::fixture::impatient::Impatient;

/// `state.safetensors`, `settings.json`, `measured.json`, `log.jsonl`.
pub(super) fn state(dir: &Path) -> Feed {
    let out = dir.join("out");
    let deciding = Map::from_iter([
        ("lr".to_owned(), json!(0.1)),
        ("version".to_owned(), json!("1")),
        ("model_is".to_owned(), json!("m")),
    ]);
    let open = move |out: &Path| {
        let place = Arc::new(Workplace::open(out, &Origin::program("heal"))?);
        WorkDir::open(place, &deciding, false, false)
    };
    let parameters = || -> Vec<(String, Tensor)> {
        let tensor =
            |name: &str, size: usize| (name.to_owned(), Tensor::zeros((size, 2), DType::F32, &Device::Cpu).unwrap());
        vec![tensor("a", 3), tensor("b", 2)]
    };
    let optimizer = || Optimizer::new(HealSettings::default().adam());
    let work = open(&out).unwrap();
    let mut moved = optimizer();
    moved.begin_step();
    for (name, values) in parameters() {
        moved.update(&name, &values, &values.ones_like().unwrap(), 1e-3, 1.0).unwrap();
    }
    work.save(&TrainerState { step: 3, tokens: 70, ..TrainerState::default() }, &parameters(), &moved).unwrap();
    work.save_best(&parameters()).unwrap();
    work.save_known(&serde_json::from_value(json!({"a": []})).unwrap()).unwrap();
    let mut log = heal::Journal::open(work.path(), None, heal::BestBy::Loss).unwrap();
    for step in 1..4 {
        log.add(Line::Validation { step, val_loss: 2.5, accuracies: None }).unwrap();
    }
    let place = work.path().to_owned();
    drop((work, log));
    let files = Files::of(&place);
    Box::new(move |case| {
        let name = case.pick(&[
            "state.safetensors",
            "state.safetensors",
            "best.safetensors",
            "settings.json",
            "measured.json",
            "log.jsonl",
        ]);
        let broken = match name.rsplit('.').next() {
            Some("safetensors") => broken_state(&mut case.rng, &files.good[name]),
            Some("jsonl") => values::lines(&mut case.rng, &files.good[name]),
            _ => values::changed(&mut case.rng, &files.json(name)),
        };
        files.replace(&[(name, broken)]);
        case.heard(WorkDir::peek(&out));
        let _ = WorkDir::size(&out);
        let Some(work) = case.heard(open(&out)) else { return };
        case.heard(work.known());
        let (parameters, mut optimizer) = (parameters(), optimizer());
        let found = case.heard(work.restore(&parameters, &mut optimizer));
        case.heard(work.restore_best(&parameters));
        if let Some(log) =
            case.heard(heal::Journal::open(&place, found.flatten().map(|place| place.step), heal::BestBy::Loss))
        {
            let _ = log.best();
            let _ = log.trainer_state(&HealSettings::default());
        }
    })
}

/// The state of a healing, its tensors or the JSON among them broken.
fn broken_state(rng: &mut Rng, good: &[u8]) -> Vec<u8> {
    let mut all = tensors::named(good);
    match all.iter_mut().find(|tensor| tensor.dtype == Dtype::U8).filter(|_| rng.random()) {
        Some(place) => {
            place.bytes = values::changed(rng, &serde_json::from_slice(&place.bytes).unwrap());
            place.shape = vec![place.bytes.len()];
            tensors::whole(&all)
        }
        None => tensors::changed(rng, &all),
    }
}

/// `heal.json`, of a healing that is given again.
pub(super) fn healed(dir: &Path) -> Feed {
    let (model, text, out) = (dir.join("model"), dir.join("text.jsonl"), dir.join("out"));
    small().write(&model);
    fs::write(&text, "{\"text\": \"w3 w4 w5 w6 w3 w4\"}\n{\"text\": \"w7 w3 w9 w8 w9 w3\"}\n".repeat(8)).unwrap();
    let text = text.display().to_string();
    let settings = HealSettings {
        model: Some(model.display().to_string()),
        eval_data: Some(text.clone()),
        data: vec![text],
        steps: 1,
        batch: 1,
        seq_len: Some(4),
        out: Some(out.clone()),
        ..HealSettings::default()
    };
    run_healing(&settings, &Silent).unwrap();
    let files = Files::of(&out);
    Box::new(move |case| {
        files.replace(&[("heal.json", values::changed(&mut case.rng, &files.json("heal.json")))]);
        case.listen(|progress| run_healing(&settings, progress));
    })
}

/// A healing that goes on from a state in which anything may stand.
pub(super) fn resumed(dir: &Path) -> Feed {
    let (model, text, out) = (dir.join("model"), dir.join("text.jsonl"), dir.join("out"));
    small().write(&model);
    fs::write(&text, "{\"text\": \"w3 w4 w5 w6 w3 w4\"}\n{\"text\": \"w7 w3 w9 w8 w9 w3\"}\n".repeat(8)).unwrap();
    let settings = HealSettings {
        model: Some(model.display().to_string()),
        data: vec![text.display().to_string()],
        packing: Some(Packing::Packed),
        steps: 3,
        batch: 1,
        seq_len: Some(4),
        out: Some(out.clone()),
        adapter_only: true,
        ..HealSettings::default()
    };
    let impatient = Impatient::default();
    let stopped = impatient.interrupt.run(|| run_healing(&settings, &impatient));
    assert!(matches!(stopped, Err(Error::Interrupted)));
    let files = Files::of(&WorkDir::place(&out));
    Box::new(move |case| {
        let name =
            case.pick(&["state.safetensors", "state.safetensors", "state.safetensors", "log.jsonl", "measured.json"]);
        let broken = match name.rsplit('.').next() {
            Some("safetensors") => broken_state(&mut case.rng, &files.good[name]),
            Some("jsonl") => values::lines(&mut case.rng, &files.good[name]),
            _ => values::changed(&mut case.rng, &json!({"a": [{"sum": 1.5, "tokens": 3}]})),
        };
        let out = case.fresh().join("out");
        let work = WorkDir::place(&out);
        fs::create_dir(&work).unwrap();
        files.good.iter().for_each(|(name, bytes)| fs::write(work.join(name), bytes).unwrap());
        fs::write(work.join(name), broken).unwrap();
        let settings = HealSettings { out: Some(out), ..settings.clone() };
        case.listen(|progress| run_healing(&settings, progress));
    })
}
