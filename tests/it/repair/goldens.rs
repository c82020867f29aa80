//! Repairs against independent PyTorch code on the demo's model: golden/methods/README.md, sections 8 and 14.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use prune::model::{Loss, Model, Residency};
use prune::progress::Silent;
use prune::repair::{Found, RepairTask, Repaired, fit, repair};
use prune::surgery::Cut;
use serde_json::Value;

use super::{cut_of, model};
use crate::fixture::material::shared;

pub(super) struct Material {
    pub(super) golden: Value,
    inputs: Value,
    /// The demo's model in f32: the reference rounds no weight that it makes.
    model: tempfile::TempDir,
}

pub(super) fn material(name: &str) -> Option<Material> {
    let path = shared(&format!("golden/methods/{name}"))?;
    let demo = shared("demo/model")?;
    let read = |path: &Path| -> Value { serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() };
    let model = tempfile::tempdir().unwrap();
    std::fs::copy(demo.join("config.json"), model.path().join("config.json")).unwrap();
    let tensors = candle_core::safetensors::load(demo.join("model.safetensors"), &Device::Cpu).unwrap();
    let wide = tensors.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(DType::F32).unwrap()));
    let wide: HashMap<String, Tensor> = wide.collect();
    candle_core::safetensors::save(&wide, model.path().join("model.safetensors")).unwrap();
    Some(Material { golden: read(&path), inputs: read(&path.with_file_name("inputs.json")), model })
}

impl Material {
    pub(super) fn dir(&self) -> &Path {
        self.model.path()
    }

    pub(super) fn ids(&self, name: &str) -> Vec<Vec<u32>> {
        serde_json::from_value(self.inputs[name]["ids"].clone()).unwrap()
    }

    /// The repair `name` of the demo's model without `drop`.
    fn repaired(&self, name: &str, drop: &str, sequences: &[Vec<u32>], judging: &[bool]) -> (Cut, Repaired) {
        self.repaired_to(None, name, drop, sequences, judging)
    }

    /// The same with a map of the rank `rank`.
    fn repaired_to(
        &self,
        rank: Option<usize>,
        name: &str,
        drop: &str,
        sequences: &[Vec<u32>],
        judging: &[bool],
    ) -> (Cut, Repaired) {
        let (source, cut) = cut_of(self.model.path(), drop, Some("per-layer"));
        let whole = model(source, Residency::Resident);
        let pruned = model(Arc::new(cut.blueprint().open().unwrap()), Residency::Streamed);
        // the reference leaves first tokens out of refit's sums only
        let first = name != "refit";
        let task = RepairTask {
            whole: &whole,
            cut: &pruned,
            plan: cut.plan(),
            changed: false,
            sequences,
            judging,
            first,
            keeps: true,
            rank,
            training: None,
            spill: None,
            state: None,
        };
        let repaired = fit(repair(name).unwrap(), &task, &Silent).unwrap();
        (cut, repaired)
    }
}

/// The model that `step` of the changes makes.
fn stepped(cut: &Cut, repaired: &Repaired, step: f64) -> Model {
    let blueprint = Arc::new(cut.blueprint().with(repaired.changes(step)).unwrap());
    model(Arc::new(blueprint.open().unwrap()), Residency::Resident)
}

fn loss(model: &Model, ids: &[Vec<u32>]) -> f64 {
    model.loss(ids, "loss", &Silent).unwrap().mean()
}

fn near(what: &str, found: f64, expected: &Value, most: f64, relative: bool) {
    let expected = expected.as_f64().unwrap();
    let difference = (found - expected).abs() / if relative { expected.abs() } else { 1.0 };
    assert!(difference <= most, "{what}: {found}, expected {expected}: off by {difference:.2e}");
}

#[test]
fn refit_of_every_projection() {
    let Some(material) = material("refit.json") else { return };
    let text = material.ids("train_rows");
    let held = [material.ids("rows"), material.ids("other_rows")].concat();
    let judging: Vec<bool> = (0..text.len()).map(|row| row % 4 == 0).collect();
    let cases = material.golden["cases"].as_array().unwrap();
    let drops = ["9-12", "4,9,11,13", "8-13", "attn:8-10,mlp:12"];
    assert_eq!(cases.len(), drops.len());
    for (case, drop) in cases.iter().zip(drops) {
        let (cut, repaired) = material.repaired("refit", drop, &text, &judging);
        let Found::Projections(steps) = &repaired.found else { panic!("{drop}: no projections") };
        let expected = case["chosen"]["steps"].as_array().unwrap();
        assert_eq!(steps.len(), expected.len(), "{drop}");
        for (step, expected) in steps.iter().zip(expected) {
            let at = format!("{drop}: layer {} {}", step.layer, step.sublayer.name());
            let own = 2 * step.layer + usize::from(step.sublayer.name() == "mlp");
            assert_eq!(expected["sublayer"].as_u64(), Some(own as u64), "{at}");
            assert_eq!(expected["alpha"].as_f64(), step.ridge, "{at}");
            near(&at, step.before, &expected["check_sq"], 1e-5, true);
            near(&at, step.difference, &expected["dW_sq"], 1e-5, true);
            let after: Vec<f64> = step.after.iter().map(|(_, left)| *left).collect();
            let names = ["0.001", "0.01", "0.1", "1.0", "10.0"];
            assert_eq!(after.len(), names.len());
            for (left, name) in after.iter().zip(names) {
                near(&format!("{at} {name}"), *left, &expected["after_sq"][name], 1e-5, true);
            }
        }
        let steps = case["eta"].as_object().unwrap();
        let mut best = (f64::INFINITY, 0.0);
        for (eta, expected) in steps {
            let step: f64 = eta.parse().unwrap();
            let judged = Loss::total(repaired.losses_at(step)).mean();
            near(&format!("{drop}, step {eta}, judging"), judged, &expected["judge_loss"], 1e-5, false);
            let held = loss(&stepped(&cut, &repaired, step), &held);
            near(&format!("{drop}, step {eta}, held"), held, &expected["held_loss"], 1e-5, false);
            let judged = expected["judge_loss"].as_f64().unwrap();
            best = if judged < best.0 { (judged, step) } else { best };
        }
        assert_eq!((steps.len(), repaired.step), (5, best.1), "{drop}");
    }
}

#[test]
fn repairs_at_a_seam() {
    let Some(material) = material("repairs.json") else { return };
    let (fitting, other) = (material.ids("rows"), material.ids("other_rows"));
    let text = [fitting.clone(), other.clone()].concat();
    let judging: Vec<bool> = (0..text.len()).map(|row| row >= fitting.len()).collect();
    let near_dense = |losses: &[Loss]| {
        near("dense", Loss::total(losses).mean(), &material.golden["dense_loss_other"], 2e-6, false);
    };
    for (block, drop) in material.golden["blocks"].as_array().unwrap().iter().zip(["9-12", "8-11"]) {
        for (name, key) in [("fold-plain", "T"), ("fold", "T_ridge"), ("scale", "scale"), ("joint", "joint")] {
            let (cut, repaired) = material.repaired(name, drop, &text, &judging);
            let expected = &block["repairs"][key];
            let Found::Seams(seams) = &repaired.found else { panic!("{name}: no seams") };
            assert_eq!((seams.len(), repaired.step), (1, 1.0));
            let at = format!("{drop} {name}");
            near(&at, seams[0].explained, &expected["r2_fit"], 1e-6, false);
            near(&at, seams[0].explained_other, &expected["r2_other"], 1e-6, false);
            match name {
                "scale" => near(&at, seams[0].scale, &block["scale"], 1e-6, false),
                "joint" => near(&at, seams[0].scale, &block["joint_alpha"], 1e-6, false),
                _ => assert_eq!(seams[0].scale, 1.0),
            }
            near_dense(&repaired.whole);
            near(&at, Loss::total(repaired.losses_at(0.0)).mean(), &block["repairs"]["cut"]["loss_other"], 2e-6, false);
            near(&at, Loss::total(repaired.losses_at(1.0)).mean(), &expected["loss_other"], 5e-6, false);
            // the checkpoint that is made scores as the streams did
            near(&at, loss(&stepped(&cut, &repaired, 1.0), &other), &expected["loss_other"], 5e-6, false);
        }
    }
}

/// The folded projection itself, number by number.
#[test]
fn the_folded_projection() {
    let Some(material) = material("repairs.json") else { return };
    let path = shared("golden/methods/repairs.safetensors").unwrap();
    let expected = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let (fitting, other) = (material.ids("rows"), material.ids("other_rows"));
    let text = [fitting.clone(), other].concat();
    let judging: Vec<bool> = (0..text.len()).map(|row| row >= fitting.len()).collect();
    let (cut, repaired) = material.repaired("fold-plain", "9-12", &text, &judging);
    let blueprint = Arc::new(cut.blueprint().with(repaired.changes(1.0)).unwrap());
    let found = blueprint.open().unwrap();
    let found = found.load("model.layers.8.mlp.down_proj.weight", &[128, 352], &Device::Cpu).unwrap();
    let difference = (found - &expected["l9n4.folded_down_proj.T"]).unwrap().abs().unwrap();
    let largest: f32 = difference.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap();
    println!("folded projection: {largest:.2e}");
    assert!(largest < 1e-4, "{largest}");
}

/// Maps of the stream, which no standard file holds: what they explain, what the model loses, the numbers themselves.
#[test]
fn linear_maps_at_a_seam() {
    let Some(material) = material("repairs.json") else { return };
    let path = shared("golden/methods/repairs.safetensors").unwrap();
    let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
    let (fitting, other) = (material.ids("rows"), material.ids("other_rows"));
    let text = [fitting.clone(), other.clone()].concat();
    let judging: Vec<bool> = (0..text.len()).map(|row| row >= fitting.len()).collect();
    let rows = [
        ("operator", None, "M"),
        ("reduced-rank", Some(4), "M_rank4"),
        ("reduced-rank", Some(16), "M_rank16"),
        ("patch", None, "patch_hadamard"),
        ("patch-diagonal", None, "patch_diag"),
    ];
    for (block, (drop, prefix)) in
        material.golden["blocks"].as_array().unwrap().iter().zip([("9-12", "l9n4"), ("8-11", "l8n4")])
    {
        for (name, rank, key) in rows {
            let (cut, repaired) = material.repaired_to(rank, name, drop, &text, &judging);
            let expected = &block["repairs"][key];
            let Found::Seams(seams) = &repaired.found else { panic!("{name}: no seams") };
            let at = format!("{drop} {key}");
            near(&at, seams[0].explained, &expected["r2_fit"], 1e-6, false);
            near(&at, seams[0].explained_other, &expected["r2_other"], 1e-6, false);
            near(&at, Loss::total(repaired.losses_at(1.0)).mean(), &expected["loss_other"], 2e-6, false);
            let maps = repaired.seam_maps();
            let (place, (_, factors)) = maps.first_key_value().unwrap();
            assert_eq!((maps.len(), *place + 1), (1, drop.split('-').next().unwrap().parse().unwrap()));
            if let Some(expected) = tensors.get(&format!("{prefix}.{key}")) {
                // row vectors there, columns here
                let whole = factors[1..].iter().fold(factors[0].clone(), |own, next| next.matmul(&own).unwrap());
                let difference = (whole.t().unwrap() - expected).unwrap().abs().unwrap();
                let largest: f32 = difference.flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap();
                println!("{at}: {largest:.1e}");
                assert!(largest < 2e-5, "{at}: {largest}");
            }
            // the checkpoint that is made scores as the streams did, and others know that they cannot read it
            let cut = cut.repaired(repaired.changes(1.0), Value::Null).unwrap().mapped(maps).unwrap();
            let opened = Arc::new(cut.blueprint().open().unwrap());
            assert_eq!(opened.config["model_type"], "llama-seam-maps");
            near(&at, loss(&model(opened, Residency::Streamed), &other), &expected["loss_other"], 2e-6, false);
        }
    }
}
