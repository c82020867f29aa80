//! Mixtures of experts beyond what every family is held to: streamed, adapted, trained, and what is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use prune::arch::{ModelSpec, Role};
use prune::checkpoint::Checkpoint;
use prune::model::{Batch, Budget, LoadOptions, Model, ModelOptions, Placement, Residency};
use prune::progress::Silent;
use prune::weights::lora::{Adapters, LoraSettings, Targets};
use serde_json::{Map, Value, json};

use super::cases::weights;
use super::forward::Last;
use crate::fixture::desk::Desk;
use crate::fixture::{write_json, write_weights};

fn config(patch: Value) -> Map<String, Value> {
    let mut config = json!({
        "model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"], "hidden_size": 32,
        "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "num_hidden_layers": 4, "vocab_size": 64, "max_position_embeddings": 256, "num_experts": 6,
        "num_experts_per_tok": 2, "moe_intermediate_size": 16, "norm_topk_prob": true, "tie_word_embeddings": false,
        "bos_token_id": 1, "eos_token_id": 2,
    });
    config.as_object_mut().unwrap().extend(patch.as_object().unwrap().clone());
    config.as_object().unwrap().clone()
}

/// Twenty experts a layer, large enough that four layers and two are told apart.
fn twenty() -> Map<String, Value> {
    config(json!({"num_experts": 20, "num_experts_per_tok": 4, "moe_intermediate_size": 64}))
}

pub(crate) fn write(dir: &Path, config: &Map<String, Value>) -> ModelSpec {
    let spec = ModelSpec::from_config(config).unwrap();
    let table = vec![spec.vocab_size, spec.hidden_size];
    let mut shapes =
        vec![("model.embed_tokens.weight".to_owned(), table.clone()), ("lm_head.weight".to_owned(), table)];
    shapes.extend(spec.end_tensors());
    shapes.extend((0..spec.layers).flat_map(|layer| spec.layer_tensors(layer)).map(|own| (own.name, own.shape)));
    fs::create_dir_all(dir).unwrap();
    write_json(&dir.join("config.json"), &Value::Object(config.clone()));
    let tensors: Vec<_> = shapes.into_iter().map(|(name, shape)| weights(7, name, shape)).collect();
    write_weights(dir, &tensors, 1);
    spec
}

pub(super) fn stream(model: &Model, ids: &[&[u32]]) -> Vec<f32> {
    let mut last = Last(None);
    model.run(&[Batch::sequences(ids).unwrap()], &mut last, "test", &Silent).unwrap();
    last.0.unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

pub(super) fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|at| (at * 7 + 3) % 64).collect()
}

/// Where memory is short the layers are read one after the other, then their experts when tokens are sent to them, to
/// the same bytes; with four-bit weights as well.
#[test]
fn twenty_experts_are_streamed_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let spec = write(dir.path(), &twenty());
    let checkpoint = Arc::new(Checkpoint::open_dir(dir.path()).unwrap());
    let places: Vec<usize> = (0..spec.layers).collect();
    for four_bit in [None, Some(true)] {
        let load_options = LoadOptions { four_bit, ..LoadOptions::default() };
        let options = ModelOptions { load_options, ..ModelOptions::default() };
        // less and less, down to what holds no expert
        let mut least = BTreeMap::new();
        let mut ways = Vec::new();
        for cap in std::iter::once(88 << 20).chain((0..1200).map(|step| (66 << 20) - (step << 11))) {
            let options = ModelOptions { budget: Budget::new(Some(cap)), ..options.clone() };
            let Ok(found) = Placement::new(&checkpoint, &spec, &places, &options) else { break };
            ways.push((found.residency, found.weight_bytes));
            least.insert(found.weight_bytes, options);
        }
        ways.dedup();
        let [resident, streamed, experts, by_expert] =
            [Residency::Resident, Residency::Streamed, Residency::ExpertsStreamed, Residency::StreamedByExpert];
        assert_eq!(ways.iter().map(|way| way.0).collect::<Vec<_>>(), [resident, streamed, experts, by_expert]);
        assert!(ways.windows(2).all(|pair| pair[0].1 > pair[1].1), "{ways:?}");
        let models: Vec<Model> = ways
            .iter()
            .map(|(residency, bytes)| {
                let model = Model::open(checkpoint.clone(), &least[bytes], &Silent).unwrap();
                assert_eq!((model.residency(), model.weight_bytes()), (*residency, *bytes));
                model
            })
            .collect();
        for count in [1, 7, 90] {
            let ids = ids(count);
            for streamed in &models[1..] {
                assert_eq!(stream(&models[0], &[&ids]), stream(streamed, &[&ids]), "{count} tokens");
            }
        }
    }
}

/// A token's numbers hang on no other sequence of the batch: its experts are the same, whoever else goes there.
#[test]
fn tokens_do_not_know_who_shares_their_experts() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), &twenty());
    let checkpoint = Arc::new(Checkpoint::open_dir(dir.path()).unwrap());
    let model = Model::open(checkpoint, &ModelOptions::default(), &Silent).unwrap();
    let (own, other) = (ids(30), ids(64));
    let alone = stream(&model, &[&own]);
    let together = stream(&model, &[&own, &other[5..]]);
    assert_eq!(alone, together[..alone.len()]);
}

/// Adapters on the experts that names say, under PEFT's names; the model with them written and read is the same.
#[test]
fn adapters_stand_on_experts() {
    let dir = tempfile::tempdir().unwrap();
    let spec = write(&dir.path().join("model"), &config(json!({"mlp_only_layers": [1]})));
    let modules = |targets: &str| targets.parse::<Targets>().unwrap().modules(&spec);
    let named = modules("mlp.experts.3.down_proj").unwrap();
    let expected: Vec<_> = [0, 2, 3].map(|layer| (layer, Role::ExpertDown(3))).to_vec();
    assert_eq!(named.iter().map(|(layer, role, _)| (*layer, *role)).collect::<Vec<_>>(), expected);
    assert_eq!(named[0].2, "model.layers.0.mlp.experts.3.down_proj");
    assert_eq!(modules("mlp").unwrap().len(), 3 * 6 * 3 + 3);
    assert!(modules("gate").unwrap_err().to_string().contains("target gate"), "the router takes no adapter");

    for targets in ["mlp.experts.3.down_proj", "down_proj", "all-linear"] {
        let settings = LoraSettings { rank: 2, targets: targets.parse().unwrap(), ..LoraSettings::default() };
        let mut adapters = Adapters::new(&spec, &settings, 3, &Device::Cpu).unwrap();
        for adapter in adapters.modules.values_mut() {
            adapter.b = (adapter.b.ones_like().unwrap() * 0.1).unwrap();
        }
        let out = dir.path().join(targets);
        fs::create_dir(&out).unwrap();
        adapters.write(&out, &spec, "model").unwrap();
        let read = Adapters::open(&out, &spec, &Device::Cpu).unwrap();
        assert_eq!(read.modules.keys().collect::<Vec<_>>(), adapters.modules.keys().collect::<Vec<_>>(), "{targets}");
        let checkpoint = Arc::new(Checkpoint::open_dir(&dir.path().join("model")).unwrap());
        let streams = [None, Some(adapters), Some(read)].map(|adapters| {
            let load_options = LoadOptions { adapters: adapters.map(Arc::new), ..LoadOptions::default() };
            let options = ModelOptions { load_options, ..ModelOptions::default() };
            stream(&Model::open(checkpoint.clone(), &options, &Silent).unwrap(), &[&ids(40)])
        });
        assert!(streams[0] != streams[1] && streams[1] == streams[2], "{targets}");
    }
}

/// A checkpoint that is not what its config says: the tensor is named.
#[test]
fn what_a_mixture_lacks_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let spec = write(dir.path(), &config(json!({})));
    let all: Vec<_> = (0..spec.layers).flat_map(|layer| spec.layer_tensors(layer)).collect();
    let without = |name: &str| {
        let mut index = prune::checkpoint::Index::open_dir(dir.path()).unwrap();
        index.tensors.remove(name).unwrap();
        spec.check(&index).unwrap_err().to_string()
    };
    assert!(all.iter().any(|tensor| tensor.name == "model.layers.2.mlp.gate.weight"));
    for name in ["model.layers.2.mlp.gate.weight", "model.layers.3.mlp.experts.5.up_proj.weight"] {
        let said = without(name);
        assert!(said.starts_with(&format!("tensor {name} is missing")) && !said.contains('\n'), "{said}");
    }
    let index = prune::checkpoint::Index::open_dir(dir.path()).unwrap();
    for (patch, tensor) in [
        (json!({"num_experts": 8}), "model.layers.0.mlp.gate.weight has shape [6, 32]"),
        (json!({"num_experts": 4}), "model.layers.0.mlp.gate.weight has shape [6, 32]"),
        (json!({"moe_intermediate_size": 12}), "model.layers.0.mlp.experts.0.gate_proj.weight has shape [16, 32]"),
        (json!({"mlp_only_layers": [2]}), "model.layers.2.mlp.gate_proj.weight is missing"),
    ] {
        let said = ModelSpec::from_config(&config(patch)).unwrap().check(&index).unwrap_err().to_string();
        assert!(said.contains(tensor), "{said}");
    }
    for (patch, said) in [
        (json!({"num_experts_per_tok": 7}), "num_experts_per_tok is 7, expected at most num_experts, 6"),
        (json!({"num_experts": 5000}), "num_experts is 5000, expected at most 4096"),
        (json!({"num_experts": 0}), "num_experts is 0"),
        (json!({"mlp_only_layers": ["a"]}), "mlp_only_layers is \"a\""),
        (json!({"norm_topk_prob": 1}), "norm_topk_prob is 1"),
    ] {
        let error = ModelSpec::from_config(&config(patch)).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

/// A gpt-oss of random weights, streamed as resident; adapters on its attention and on its experts.
#[test]
fn gpt_oss_is_streamed_and_healed() {
    let desk = Desk::new();
    let mut config = config(json!({
        "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "num_local_experts": 4, "sliding_window": 8,
        "intermediate_size": 16,
    }));
    config.shift_remove("moe_intermediate_size");
    config.shift_remove("num_experts");
    let spec = write(&desk.path("moe"), &config);
    assert_eq!(spec.windows, [Some(8), None, Some(8), None]);
    assert!(matches!(&spec.rope.scaling, prune::arch::RopeScaling::Yarn { factor: 32.0, truncate: false, .. }));
    let checkpoint = Arc::new(Checkpoint::open_dir(&desk.path("moe")).unwrap());
    for four_bit in [None, Some(true)] {
        let ways = [Residency::Resident, Residency::Streamed, Residency::ExpertsStreamed, Residency::StreamedByExpert];
        let streams = ways.map(|residency| {
            let load_options = LoadOptions { four_bit, ..LoadOptions::default() };
            let options = ModelOptions { load_options, residency: Some(residency), ..ModelOptions::default() };
            stream(&Model::open(checkpoint.clone(), &options, &Silent).unwrap(), &[&ids(60), &ids(7)])
        });
        assert!(streams.iter().all(|own| *own == streams[0]));
    }
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(desk.path("model").join(file), desk.path("moe").join(file)).unwrap();
    }
    let healed = "heal moe --data text.jsonl --steps 2 --batch 2 --seq-len 16 --rank 2";
    desk.refused(&format!("{healed} --target mlp -o a"), 2, &["lie in one tensor", "--dropout 0"]);
    for line in [
        &*format!("{healed} --target attention -o a"),
        &*format!("{healed} --target mlp --dropout 0 -o e"),
        "heal moe --data text.jsonl --steps 1 --batch 2 --seq-len 16 --adapter e/adapter --dropout 0 -o f",
        "merge moe --adapter e/adapter -o g",
        &*format!("{healed} --quant none --train lm-head+last1 -o b"),
        "cut moe --drop 1-2 --repair streamline --data text.jsonl -o c",
        "cut moe --drop mlp:3,attn:1 --format zeros --verify -o d",
        "sample moe --prompt the --tokens 5",
    ] {
        let output = desk.run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The commands: what works on layers works on mixtures, and what works on one output projection is refused at once.
#[test]
fn commands_on_a_mixture() {
    let desk = Desk::new();
    write(&desk.path("moe"), &config(json!({"num_hidden_layers": 5})));
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(desk.path("model").join(file), desk.path("moe").join(file)).unwrap();
    }
    for (line, word) in [
        ("cut moe --drop 1 --repair refit --data text.jsonl -o a", "experts with one each"),
        ("cut moe --drop 1 --repair scale --data text.jsonl -o a", "experts with one each"),
        ("cut moe --drop 1 --repair average -o a", "not merged"),
        ("grow moe --after 1 --by mean -o a", "no mean"),
        ("grow moe --after 1 --by lesa -o a", "no mean"),
    ] {
        desk.refused(line, 2, &[word]);
        desk.refused(&format!("{line} --dry-run"), 2, &[word]);
    }
    let analysis = desk.json("analyze moe --data text.jsonl --samples 6 --layers 1 -o analysis --json");
    assert!(analysis.is_object());
    let healed = "--data text.jsonl --steps 2 --batch 2 --seq-len 16 --rank 2";
    for (target, out) in [("attention", "a"), ("mlp.experts.2.down_proj", "b"), ("mlp", "c")] {
        let output = desk.run(&format!("heal moe {healed} --target {target} -o {out}"));
        assert!(output.status.success(), "{target}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let output = desk.run(&format!("heal moe {healed} --quant none --train lm-head+last1 -o d"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in [
        "cut moe --drop 1-2 --repair streamline --data text.jsonl -o e",
        "grow moe --after 1 --by copy -o f",
        "cut moe --drop mlp:3 --format zeros --verify -o g",
    ] {
        let output = desk.run(line);
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
