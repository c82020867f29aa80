//! Adapters on every family: PEFT's names, and merged into the weights they are what they were beside them.

use std::sync::Arc;

use candle_core::Device;
use prune::checkpoint::{ByteSize, Checkpoint, Index};
use prune::heal::Merge;
use prune::model::{Batch, LoadOptions, Model, ModelOptions};
use prune::progress::Silent;
use prune::weights::lora::{Adapters, LoraSettings, Targets};

use super::cases::{Case, cases, read};
use super::forward::{Last, worst};

fn adapters(case: &Case) -> Adapters {
    let settings = LoraSettings { rank: 2, targets: Targets::AllLinear, ..LoraSettings::default() };
    let mut adapters = Adapters::new(&case.spec(), &settings, 3, &Device::Cpu).unwrap();
    for adapter in adapters.modules.values_mut() {
        adapter.b = (adapter.b.ones_like().unwrap() * 0.02).unwrap();
    }
    adapters
}

#[test]
fn merged_adapters_are_what_they_were_beside_the_weights() {
    for (name, case) in cases() {
        let dir = tempfile::tempdir().unwrap();
        case.write(dir.path());
        let checkpoint = Arc::new(Checkpoint::open_dir(dir.path()).unwrap());
        let (spec, adapters) = (case.spec(), Arc::new(adapters(&case)));
        let merge = Merge { adapters: Some(&adapters), ..Merge::default() };
        let merged = Arc::new(merge.blueprint(&checkpoint, &spec, ByteSize(1 << 30), &Silent).unwrap());
        let merged = Arc::new(merged.open().unwrap());
        let stream = |checkpoint: &Arc<Checkpoint>, adapters: Option<&Arc<Adapters>>| {
            let load_options = LoadOptions { adapters: adapters.cloned(), ..LoadOptions::default() };
            let options = ModelOptions { load_options, ..ModelOptions::default() };
            let model = Model::open(checkpoint.clone(), &options, &Silent).unwrap();
            let mut last = Last(None);
            model.run(&[Batch::sequences(&[&case.ids]).unwrap()], &mut last, "test", &Silent).unwrap();
            last.0.unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let [plain, beside, within] =
            [stream(&checkpoint, None), stream(&checkpoint, Some(&adapters)), stream(&merged, None)];
        let scale = beside.iter().fold(1f32, |most, x| most.max(x.abs()));
        assert!(worst(&plain, &beside) > 1e-3 * scale, "{name}: the adapters do next to nothing");
        let apart = worst(&beside, &within) / scale;
        assert!(apart <= 2e-5, "{name}: off by {apart}");
    }
}

/// Latent attention's projections, by PEFT's names.
#[test]
fn adapters_of_latent_attention_have_its_names() {
    let shared = ["kv_a_proj_with_mqa", "kv_b_proj", "o_proj"];
    for (name, own) in [("deepseek_v3", &["q_a_proj", "q_b_proj"][..]), ("deepseek_v2-lite", &["q_proj"])] {
        let spec = read::<Case>(name).spec();
        let named: Vec<String> = [own, &shared].concat().into_iter().map(str::to_owned).collect();
        let expected: Vec<String> = named.iter().map(|module| format!("model.layers.2.self_attn.{module}")).collect();
        for targets in [Targets::Attention, Targets::Modules(named)] {
            let modules = targets.modules(&spec).unwrap();
            let of_layer: Vec<String> =
                modules.into_iter().filter(|(layer, ..)| *layer == 2).map(|(.., path)| path).collect();
            assert_eq!(of_layer, expected, "{name}");
        }
    }
}

/// Modules that are not called as Llama's are.
#[test]
fn adapters_of_gpt_neox_have_its_names() {
    let case: Case = read("gpt_neox");
    let dir = tempfile::tempdir().unwrap();
    adapters(&case).write(dir.path(), &case.spec(), "model").unwrap();
    let index = Index::open_file(&dir.path().join("adapter_model.safetensors")).unwrap();
    let modules = ["attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"];
    for module in modules {
        for (part, rank_at) in [("lora_A", 0), ("lora_B", 1)] {
            let name = format!("base_model.model.gpt_neox.layers.2.{module}.{part}.weight");
            assert_eq!(index.tensors[&name].shape[rank_at], 2, "{name}");
        }
    }
    assert_eq!(index.tensors.len(), 4 * 4 * 2);
    let read = Adapters::open(dir.path(), &case.spec(), &Device::Cpu).unwrap();
    assert_eq!(read.modules.len(), 16);
}
