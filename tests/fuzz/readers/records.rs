//! Plans, analyses, histories, and what is typed.

use std::fs;
use std::path::Path;

use prune::checkpoint::ByteSize;
use prune::commands::analyze::{AnalyzeSettings, analyze};
use prune::importance::Analysis;
use prune::plan::{Place, Plan, PlannedFor, parse_drop};
use prune::provenance::{FILE, Provenance};
use prune::weights::lora::Targets;
use rand::Rng as _;
use serde_json::{Map, Value, json};

use super::super::{bytes, json as values};
use super::{Feed, small};
use crate::fixture::Llama;

fn model(layers: usize) -> PlannedFor {
    PlannedFor { id: "org/name".into(), revision: None, fingerprint: "0123456789abcdef".into(), layers }
}

/// A plan.
pub(super) fn plan(dir: &Path) -> Feed {
    let path = dir.join("plan.json");
    let good = serde_json::to_value(Plan::block(model(9), 3, 4).unwrap()).unwrap();
    Box::new(move |case| {
        fs::write(&path, values::changed(&mut case.rng, &good)).unwrap();
        let Some(plan) = case.heard(Plan::read(&path)) else { return };
        case.heard(plan.check());
        case.heard(plan.check_for(&model(9)));
        let _ = plan.notations();
        if plan.kept().len() + plan.dropped().len() < plan.planned_for.layers {
            case.fault("layers are lost");
        }
        let again = dir_of(&path).join("again.json");
        fs::write(&again, plan.to_json().unwrap()).unwrap();
        if case.heard(Plan::read(&again)) != Some(plan) {
            case.fault("what was read is not what is written");
        }
    })
}

fn dir_of(path: &Path) -> &Path {
    path.parent().unwrap()
}

/// An analysis of one text or of two, planned from again, drawn and cut by.
pub(super) fn analysis(dir: &Path) -> Feed {
    let path = dir.join("analysis.json");
    let place = dir.join("model");
    Llama { layers: 4, ..small() }.write(&place);
    let text = |name: &str, rows: &str| {
        fs::write(dir.join(name), rows).unwrap();
        dir.join(name).display().to_string()
    };
    let texts = [
        text("text.jsonl", "{\"text\": \"w3 w4 w5 w6\"}\n{\"text\": \"w7 w3 w9\"}\n"),
        text("other.jsonl", "{\"text\": \"w9 w9 w8\"}\n{\"text\": \"w5\"}\n{\"text\": \"w4 w8 w3 w3\"}\n"),
    ];
    let good = [1, 2].map(|count| -> Value {
        let settings = AnalyzeSettings {
            model: Some(place.display().to_string()),
            data: texts[..count].to_vec(),
            layers: Some(2),
            out: Some(dir.join(format!("analysis-{count}"))),
            ..AnalyzeSettings::default()
        };
        analyze(&settings, &prune::progress::Silent).unwrap();
        let written = dir.join(format!("analysis-{count}/analysis.json"));
        serde_json::from_slice(&fs::read(written).unwrap()).unwrap()
    });
    Box::new(move |case| {
        let good = &good[usize::from(case.is_one_in(2))];
        fs::write(&path, values::changed(&mut case.rng, good)).unwrap();
        case.heard(Plan::read(&path));
        let Some(analysis) = case.heard(Analysis::read(&path)) else { return };
        let _ = analysis.to_csv();
        case.heard(analysis.to_json());
        let metrics = ["angular", "cosine", "block-influence", "relative-magnitude"];
        let out = case.is_one_in(16).then(|| case.fresh().join("out"));
        let settings = AnalyzeSettings {
            from: Some(path.clone()),
            metric: case.pick(&metrics).to_owned(),
            layers: Some(case.rng.random_range(0..6)),
            protect_first: case.rng.random_range(0..3),
            out,
            ..AnalyzeSettings::default()
        };
        case.listen(|progress| analyze(&settings, progress)).map(|report| report.text(false));
    })
}

/// `prune.json`.
pub(super) fn history(dir: &Path) -> Feed {
    let dir = dir.to_owned();
    let mut good = Provenance::new(model(6));
    good.push_stack(
        Map::from_iter([("step".to_owned(), json!("cut")), ("dropped".to_owned(), json!([2, 3]))]),
        &[0, 1, 4, 5].map(Place::of),
    );
    let good = serde_json::to_value(good).unwrap();
    Box::new(move |case| {
        fs::write(dir.join(FILE), values::changed(&mut case.rng, &good)).unwrap();
        let Some(Some(mut history)) = case.heard(Provenance::read(&dir, 4)) else { return };
        history.push_stack(Map::new(), &[0, 3].map(Place::of));
        case.heard(history.to_json());
    })
}

/// Layers, sizes, targets, as they stand on a command line.
pub(super) fn words(_: &Path) -> Feed {
    Box::new(|case| {
        let good = case.pick(&[
            "21-28,30",
            "9,attn:7,mlp:3-5",
            "0",
            "1..=3, 7",
            "5GB",
            "2.5 GiB",
            "q_proj,layers.3.mlp.up_proj",
            "all-linear",
        ]);
        let mut text = good.as_bytes().to_vec();
        bytes::change(&mut case.rng, &mut text, &["-", "..", "..=", "e", "GiB", "TB", "99999999999999999999", ","]);
        let text = String::from_utf8_lossy(&text).into_owned();
        let layers = [1, 8, 32, 1 << 16][case.rng.random_range(0..4)];
        if let Some(dropped) = case.heard(parse_drop(&text, layers)) {
            case.heard(Plan::drop_named(model(layers), &dropped));
        }
        case.heard(text.parse::<ByteSize>()).map(|size| size.to_string());
        case.heard(text.parse::<Targets>()).map(|targets| targets.to_string());
    })
}
