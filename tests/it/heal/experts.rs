//! Mixtures whose experts stay on disk until tokens are sent to them are healed to the same bytes.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use prune::arch::{ModelSpec, Role};
use prune::checkpoint::{ByteSize, Checkpoint};
use prune::heal::{HealSettings, Merge, Quant, Train, Trainer};
use prune::model::{CheckpointingPolicy, LoadOptions, Model, ModelOptions, Residency};
use prune::progress::Silent;
use prune::weights::lora::{Adapters, LoraSettings};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use crate::fixture::{Llama, random};
use crate::heal::gradients::agrees_with_differences;
use crate::heal::model::{open_as, shake, write_random};

fn config(patch: &Value) -> Map<String, Value> {
    let mut config = Llama { layers: 3, ..Llama::default() }.config();
    config.extend(patch.as_object().unwrap().clone());
    config
}

/// Experts one by one, beside one for all tokens, in two tensors by rows, by columns and with biases.
fn families() -> [(&'static str, Map<String, Value>); 4] {
    let few = json!({"num_experts": 20, "num_experts_per_tok": 3, "num_local_experts": 20});
    let of = |patch: Value| {
        let mut config = config(&few);
        config.extend(patch.as_object().unwrap().clone());
        config
    };
    [
        ("mixtral", of(json!({"model_type": "mixtral"}))),
        (
            "qwen2_moe",
            of(json!({
                "model_type": "qwen2_moe", "moe_intermediate_size": 12, "shared_expert_intermediate_size": 10,
                "mlp_only_layers": [0],
            })),
        ),
        ("granitemoe", of(json!({"model_type": "granitemoe"}))),
        ("gpt_oss", of(json!({"model_type": "gpt_oss", "sliding_window": 8}))),
    ]
}

fn open(dir: &Path, settings: &HealSettings, residency: Residency) -> Model {
    let model = open_as(dir, settings, residency);
    assert_eq!(model.residency(), residency);
    model
}

/// Every trained number after three steps, and the losses.
fn healed(dir: &Path, settings: &HealSettings, residency: Residency, keep: usize) -> (Vec<f64>, Vec<Vec<f32>>) {
    let rows: Vec<Vec<u32>> = vec![(0..23).map(|i| i * 7 % 61).collect(), (0..14).map(|i| (i * i + 3) % 61).collect()];
    let model = open(dir, settings, residency);
    let mut trainer = Trainer::new(&model, None, settings, CheckpointingPolicy::on(&Device::Cpu, keep)).unwrap();
    shake(trainer.parameters(), 1);
    let losses = (0..3).map(|_| trainer.step(&rows).unwrap().loss).collect();
    let numbers = trainer.parameters().iter().map(|(_, tensor)| tensor.flatten_all().unwrap().to_vec1().unwrap());
    (losses, numbers.collect())
}

/// Adapters, DoRA, four bits, dropout, whole layers: no number depends on where experts are, nor on what passes keep.
#[test]
fn experts_on_disk_change_no_number() {
    for (family, config) in families() {
        let dir = tempfile::tempdir().unwrap();
        write_random(dir.path(), &config);
        let plain = HealSettings { rank: 3.into(), target: "all-linear".parse().unwrap(), ..HealSettings::default() };
        // experts in one tensor are adapted without dropout
        let experts = HealSettings { target: "mlp".parse().unwrap(), dropout: 0.0, ..plain.clone() };
        for settings in [
            HealSettings { quant: Quant::None, ..experts.clone() },
            HealSettings { quant: Quant::Nf4, ..experts },
            HealSettings { quant: Quant::None, dropout: 0.2, ..plain.clone() },
            HealSettings { quant: Quant::Nf4, dropout: 0.0, ..plain.clone() },
            HealSettings { quant: Quant::None, dora: true, dropout: 0.0, ..plain.clone() },
            HealSettings { quant: Quant::Nf4, dora: true, dropout: 0.1, ..plain.clone() },
            HealSettings { quant: Quant::None, train: Train::Last(1), dropout: 0.0, ..plain.clone() },
        ] {
            let expected = healed(dir.path(), &settings, Residency::Resident, 3);
            for keep in [0, 3] {
                let found = healed(dir.path(), &settings, Residency::ExpertsStreamed, keep);
                assert_eq!(found, expected, "{family} {settings:?}");
            }
        }
    }
}

/// Of experts that lie in two tensors: a step along the gradient of an adapter changes the loss as the gradient says.
#[test]
fn adapters_of_stacked_experts_have_slopes() {
    for (family, mut config) in families().into_iter().skip(2) {
        // a step may change which experts are chosen, which no gradient knows of: here all are
        config.extend(json!({"num_local_experts": 4, "num_experts_per_tok": 4}).as_object().unwrap().clone());
        let dir = tempfile::tempdir().unwrap();
        write_random(dir.path(), &config);
        let target = "mlp".parse().unwrap();
        let settings = HealSettings {
            quant: Quant::None,
            rank: 3.into(),
            alpha: Some(5.0),
            target,
            dropout: 0.0,
            ..HealSettings::default()
        };
        let model = open(dir.path(), &settings, Residency::Resident);
        let trainer = Trainer::new(&model, None, &settings, CheckpointingPolicy::on(&Device::Cpu, 1)).unwrap();
        let parameters = trainer.parameters();
        assert_eq!(parameters.len(), 3 * 2 * 2, "{family}");
        shake(parameters, 2);
        let rows: Vec<Vec<u32>> = vec![(0..23).map(|i| i * 7 % 61).collect(), vec![5, 9]];
        let (_, found, _) = trainer.gradients(&rows).unwrap();
        let loss = || {
            let (sums, _, targets) = trainer.gradients(&rows).unwrap();
            sums.loss / targets as f64
        };
        for (name, parameter) in parameters {
            agrees_with_differences(&format!("{family}: {name}"), parameter, &found[name], &loss);
        }
    }
}

/// Their adapters written and read are the same, by PEFT's names for parameters, and merged they give the same losses.
#[test]
fn adapters_of_stacked_experts_are_written_read_and_merged() {
    for (family, config) in families().into_iter().skip(2) {
        let dir = tempfile::tempdir().unwrap();
        write_random(dir.path(), &config);
        let checkpoint = Arc::new(Checkpoint::open_dir(dir.path()).unwrap());
        let spec = ModelSpec::from_config(&checkpoint.config).unwrap();
        let within = if family == "gpt_oss" { "mlp" } else { "block_sparse_moe" };
        for (targets, layers, modules, parameters) in [
            (
                "experts.gate_up_proj,down_proj,q_proj",
                None,
                json!(["q_proj"]),
                json!(["experts.down_proj", "experts.gate_up_proj"]),
            ),
            (
                "mlp",
                Some("1"),
                json!([]),
                json!([
                    format!("model.layers.1.{within}.experts.down_proj"),
                    format!("model.layers.1.{within}.experts.gate_up_proj")
                ]),
            ),
            ("gate_up_proj", None, json!([]), json!(["experts.gate_up_proj"])),
        ] {
            let settings = LoraSettings {
                rank: 3,
                dropout: 0.0,
                targets: targets.parse().unwrap(),
                layers_to_transform: layers.map(|layers| layers.parse().unwrap()),
                ..LoraSettings::default()
            };
            let mut adapters = Adapters::new(&spec, &settings, 3, &Device::Cpu).unwrap();
            assert_eq!(adapters.parameters() as u64, Adapters::count(&spec, &settings).unwrap());
            for (at, adapter) in adapters.modules.values_mut().enumerate() {
                let own = random(&mut ChaCha8Rng::seed_from_u64(at as u64), "b".into(), adapter.b.dims(), Dtype::F32);
                let numbers = crate::fixture::to_f32(Dtype::F32, &own.bytes);
                adapter.b = (Tensor::from_vec(numbers, adapter.b.dims(), &Device::Cpu).unwrap() * 0.3).unwrap();
            }
            let out = tempfile::tempdir().unwrap();
            adapters.write(out.path(), &spec, "model").unwrap();
            let written: Value =
                serde_json::from_slice(&std::fs::read(out.path().join("adapter_config.json")).unwrap()).unwrap();
            assert_eq!(
                (&written["target_modules"], &written["target_parameters"]),
                (&modules, &parameters),
                "{family}"
            );
            let index = prune::checkpoint::Index::open_file(&out.path().join("adapter_model.safetensors")).unwrap();
            let at = format!("base_model.model.model.layers.1.{within}.experts");
            let both = targets != "gate_up_proj";
            assert_eq!(index.tensors.contains_key(&format!("{at}.base_layer.lora_A.weight")), both);
            assert_eq!(index.tensors[&format!("{at}.lora_A.weight")].shape, [60, if both { 24 } else { 16 }]);
            let read = Adapters::open(out.path(), &spec, &Device::Cpu).unwrap();
            let numbers = |adapters: &Adapters| -> Vec<((usize, Role), Vec<f32>)> {
                let own = adapters.modules.iter().flat_map(|(at, own)| [(*at, &own.a), (*at, &own.b)]);
                own.map(|(at, tensor)| (at, tensor.flatten_all().unwrap().to_vec1().unwrap())).collect()
            };
            assert_eq!(numbers(&read), numbers(&adapters), "{family} {targets}");
            let merge = Merge { adapters: Some(&adapters), ..Merge::default() };
            let merged = Arc::new(merge.blueprint(&checkpoint, &spec, ByteSize(1 << 30), &Silent).unwrap());
            let rows = vec![(0..40).map(|i| (i * 7 + 1) % 61).collect::<Vec<u32>>()];
            let loss = |checkpoint: Arc<Checkpoint>, adapters: Option<Adapters>| {
                let load_options = LoadOptions { adapters: adapters.map(Arc::new), ..LoadOptions::default() };
                let options = ModelOptions { load_options, ..ModelOptions::default() };
                Model::open(checkpoint, &options, &Silent).unwrap().loss(&rows, "loss", &Silent).unwrap().mean()
            };
            let (plain, adapted) = (loss(checkpoint.clone(), None), loss(checkpoint.clone(), Some(read)));
            let merged = loss(Arc::new(merged.open().unwrap()), None);
            assert!((plain - adapted).abs() > 1e-3, "{family} {targets}: {plain} {adapted}");
            assert!((merged - adapted).abs() < 1e-5, "{family} {targets}: {merged} {adapted}");
        }
    }
}

/// What PEFT cannot do with parameters is refused beforehand.
#[test]
fn what_parameters_do_not_take_is_refused() {
    let [.., (_, config)] = families();
    let spec = ModelSpec::from_config(&config).unwrap();
    let plain = LoraSettings { dropout: 0.0, ..LoraSettings::default() };
    assert_eq!(plain.modules(&spec).unwrap().len(), 3 * 2);
    for (settings, word) in [
        (LoraSettings { dropout: 0.1, ..plain.clone() }, "--dropout 0"),
        (LoraSettings { dora: true, ..plain.clone() }, "--dora"),
        (LoraSettings { targets: "experts.3".parse().unwrap(), ..plain }, "gate_up_proj, down_proj"),
    ] {
        let said = settings.modules(&spec).unwrap_err().to_string();
        assert!(said.contains(word), "{said}");
    }
}
