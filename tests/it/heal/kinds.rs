//! Every kind of adapter that PEFT saves: `eval --adapter` and `merge` give the model that the dense formula gives.

mod refused;

use std::collections::BTreeMap;
use std::fs;

use safetensors::Dtype;
use serde_json::{Value, json};

use crate::fixture::desk::{Desk, read};
use crate::fixture::{Head, Llama, Named, write_json, write_safetensors, write_weights};
use crate::heal::shared::tensors;

const E: &str = "model.embed_tokens";
const H: &str = "lm_head";

/// Tensors of a model by name.
type Dense = BTreeMap<String, (Vec<usize>, Vec<f64>)>;

/// Numbers of a tensor of an adapter, a formula of its name.
fn numbers(name: &str, count: usize) -> Vec<f64> {
    let seed = name.bytes().fold(7u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let value = |i: usize| (f64::from(seed % 1000) + 1.7 * i as f64).sin() * 0.3;
    let round = |value: f64| f64::from(value as f32);
    (0..count).map(|i| round(if name.contains("magnitude") { 1.0 + value(i) } else { value(i) })).collect()
}

fn named(name: &str, shape: &[usize]) -> Named {
    let bytes = numbers(name, shape.iter().product()).iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
    Named { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec(), bytes }
}

/// An adapter of rank 2 and alpha 6, and the model that it makes.
struct Case {
    model: Llama,
    config: Value,
    tensors: Vec<(String, Vec<usize>)>,
    dense: Dense,
    unties: bool,
}

impl Case {
    fn new(model: Llama, config: Value) -> Self {
        let values = |named: Named| {
            let values =
                named.bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect();
            (named.name, (named.shape, values))
        };
        let mut dense: Dense = model.tensors().into_iter().map(values).collect();
        if model.head == Head::Tied {
            dense.insert(format!("{H}.weight"), dense[&format!("{E}.weight")].clone());
        }
        Self { model, config, tensors: Vec::new(), dense, unties: false }
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Vec<f64> {
        self.tensors.push((format!("base_model.model.{name}"), shape.to_vec()));
        numbers(&format!("base_model.model.{name}"), shape.iter().product())
    }

    /// W + scale · B·A, with magnitudes m / ‖·‖ times that.
    fn low_rank(mut self, path: &str, (rank, scale): (usize, f64), magnitude: bool) -> Self {
        let (shape, _) = self.dense[&format!("{path}.weight")].clone();
        let (rows, columns) = (shape[0], shape[1]);
        let embedding = path == E;
        // for the embedding, PEFT's A is over the vocabulary and B over the width
        let (a, b) = match embedding {
            true => (
                self.tensor(&format!("{path}.lora_embedding_B"), &[columns, rank]),
                self.tensor(&format!("{path}.lora_embedding_A"), &[rank, rows]),
            ),
            false => (
                self.tensor(&format!("{path}.lora_A.weight"), &[rank, columns]),
                self.tensor(&format!("{path}.lora_B.weight"), &[rows, rank]),
            ),
        };
        let m = magnitude.then(|| self.tensor(&format!("{path}.lora_magnitude_vector"), &[rows]));
        let weight = &mut self.dense.get_mut(&format!("{path}.weight")).unwrap().1;
        for row in 0..rows {
            for column in 0..columns {
                for r in 0..rank {
                    let product = match embedding {
                        true => a[column * rank + r] * b[r * rows + row],
                        false => a[r * columns + column] * b[row * rank + r],
                    };
                    weight[row * columns + column] += scale * product;
                }
            }
            if let Some(m) = &m {
                let row_of = &mut weight[row * columns..][..columns];
                let norm = row_of.iter().map(|x| x * x).sum::<f64>().sqrt();
                row_of.iter_mut().for_each(|x| *x *= m[row] / norm);
            }
        }
        self
    }

    /// On every layer, scale 3.
    fn everywhere(self, part: &str) -> Self {
        (0..self.model.layers)
            .fold(self, |case, layer| case.low_rank(&format!("model.layers.{layer}.{part}"), (2, 3.0), false))
    }

    /// A tensor that is saved whole, under `saved`.
    fn whole(mut self, tensor: &str, saved: &str) -> Self {
        let shape = self.dense[tensor].0.clone();
        let values = self.tensor(saved, &shape);
        self.dense.get_mut(tensor).unwrap().1 = values;
        self
    }

    fn rows(mut self, path: &str, ids: &[usize]) -> Self {
        let width = self.model.hidden;
        let trained = self.tensor(&format!("{path}.token_adapter.trainable_tokens_delta"), &[ids.len(), width]);
        let weight = &mut self.dense.get_mut(&format!("{path}.weight")).unwrap().1;
        for (place, id) in ids.iter().enumerate() {
            weight[id * width..][..width].copy_from_slice(&trained[place * width..][..width]);
        }
        self
    }

    /// What became of the embedding became of the head.
    fn tied(mut self) -> Self {
        self.dense.insert(format!("{H}.weight"), self.dense[&format!("{E}.weight")].clone());
        self
    }

    /// Embedding and head are two from here on.
    fn untied(mut self) -> Self {
        self.unties = true;
        self
    }

    fn write(&self, desk: &Desk) {
        self.model.write(&desk.path("base"));
        let dense = |(name, (shape, values)): (&String, &(Vec<usize>, Vec<f64>))| {
            let bytes = values.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
            Named { name: name.clone(), dtype: Dtype::F32, shape: shape.clone(), bytes }
        };
        Llama { head: Head::Own, ..self.model.clone() }.write(&desk.path("dense"));
        write_weights(&desk.path("dense"), &self.dense.iter().map(dense).collect::<Vec<_>>(), 1);
        let mut config = json!({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 6});
        config.as_object_mut().unwrap().extend(self.config.as_object().unwrap().clone());
        let dir = desk.path("adapter");
        fs::create_dir_all(&dir).unwrap();
        write_json(&dir.join("adapter_config.json"), &config);
        let tensors: Vec<Named> = self.tensors.iter().map(|(name, shape)| named(name, shape)).collect();
        write_safetensors(&dir.join("adapter_model.safetensors"), &tensors);
    }

    fn check(&self, what: &str) {
        let desk = Desk::new();
        self.write(&desk);
        let expected = loss(&desk, "dense");
        let plain = loss(&desk, "base");
        assert!((expected - plain).abs() > 1e-4, "{what}: changes nothing");
        let read_with = loss(&desk, "base --adapter adapter");
        assert!((read_with - expected).abs() < 1e-5, "{what}: {read_with}, by hand {expected}");
        desk.json("merge base --adapter adapter -o merged --json");
        let merged = loss(&desk, "merged");
        assert!((merged - expected).abs() < 1e-5, "{what}: merged {merged}, by hand {expected}");
        let ties = read(&desk.path("merged/config.json"))["tie_word_embeddings"] == json!(true);
        assert_eq!(ties, self.model.head == Head::Tied && !self.unties, "{what}");
        for (name, tensor) in tensors(desk.path("merged/model.safetensors")) {
            let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
            let far =
                values.iter().zip(&self.dense[&name].1).map(|(x, y)| (f64::from(*x) - y).abs()).fold(0.0, f64::max);
            assert!(far < 1e-6, "{what}: {name} is {far} off");
        }
    }
}

fn loss(desk: &Desk, model: &str) -> f64 {
    let report = desk.json(&format!("eval {model} --tasks text:text.jsonl --json"));
    let figures = report["figures"].as_array().unwrap();
    figures.iter().find(|figure| figure["metric"] == "loss").unwrap()["value"].as_f64().unwrap()
}

fn own() -> Llama {
    Llama { layers: 3, ..Llama::default() }
}

fn tied() -> Llama {
    Llama { head: Head::Tied, ..own() }
}

const Q: &str = "self_attn.q_proj";

#[test]
fn updates_of_the_blocks() {
    let q = |layer: usize| format!("model.layers.{layer}.{Q}");
    let patterns = json!({
        "target_modules": [Q], "rank_pattern": {"layers\\.[12]\\..*": 4},
        "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 10, ".*\\.layers\\.(0|1)\\..*(q|v)_proj$": 8,
        "q_proj": 2},
    });
    let case = Case::new(own(), patterns);
    case.low_rank(&q(0), (2, 5.0), false)
        .low_rank(&q(1), (4, 2.0), false)
        .low_rank(&q(2), (4, 0.5), false)
        .check("patterns");
    let some = json!({"target_modules": ["q_proj"], "layers_to_transform": [0, 2], "fan_in_fan_out": true});
    Case::new(own(), some).low_rank(&q(0), (2, 3.0), false).low_rank(&q(2), (2, 3.0), false).check("some layers");
    let but =
        json!({"target_modules": ".*q_proj", "exclude_modules": ["layers.1.self_attn.q_proj"], "bias": "lora_only"});
    Case::new(own(), but).low_rank(&q(0), (2, 3.0), false).low_rank(&q(2), (2, 3.0), false).check("all but some");
    let dora = json!({"target_modules": ["q_proj", "down_proj"], "use_dora": true, "use_rslora": true});
    let scale = (2, 6.0 / 2f64.sqrt());
    let case = (0..3).fold(Case::new(own(), dora), |case, layer| {
        case.low_rank(&q(layer), scale, true).low_rank(&format!("model.layers.{layer}.mlp.down_proj"), scale, true)
    });
    case.check("DoRA");
}

#[test]
fn updates_of_embedding_and_head() {
    let strength = (2, 3.0);
    let head = || json!({"target_modules": ["q_proj", "lm_head"]});
    let case = Case::new(own(), head()).everywhere(Q).whole("lm_head.weight", "lm_head.base_layer.weight");
    case.low_rank(H, strength, false).check("head");
    let embedding = || json!({"target_modules": ["q_proj", "embed_tokens"]});
    let case = Case::new(own(), embedding()).everywhere(Q).low_rank(E, strength, false);
    case.check("embedding");
    Case::new(tied(), head()).everywhere(Q).low_rank(H, strength, false).untied().check("tied, head");
    Case::new(tied(), embedding()).everywhere(Q).low_rank(E, strength, false).untied().check("tied, embedding");
    let dora = json!({"target_modules": ["lm_head"], "use_dora": true});
    Case::new(own(), dora).low_rank(H, strength, true).check("DoRA on the head");
}

#[test]
fn rows_of_some_tokens() {
    let tokens = |ids: Value| json!({"target_modules": ["q_proj"], "trainable_token_indices": ids});
    Case::new(own(), tokens(json!([5, 9]))).everywhere(Q).rows(E, &[5, 9]).check("tokens");
    let both = json!({"embed_tokens": [5], "lm_head": [4, 9]});
    Case::new(own(), tokens(both.clone())).everywhere(Q).rows(E, &[5]).rows(H, &[4, 9]).check("tokens of both");
    Case::new(tied(), tokens(json!([5, 9]))).everywhere(Q).rows(E, &[5, 9]).tied().check("tied, tokens");
    Case::new(tied(), tokens(both)).everywhere(Q).rows(E, &[5]).rows(H, &[4, 9]).untied().check("tied, tokens of both");
}

#[test]
fn tensors_saved_whole() {
    let saves = |names: &[&str]| json!({"target_modules": ["q_proj"], "modules_to_save": names});
    let weight = |path: &str| format!("{path}.weight");
    let same = |case: Case, path: &str| case.whole(&weight(path), &weight(path));
    let mut norms = Case::new(own(), saves(&["norm"])).everywhere(Q);
    for layer in 0..3 {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            norms = same(norms, &format!("model.layers.{layer}.{norm}"));
        }
    }
    same(norms, "model.norm").check("norms");
    same(Case::new(own(), saves(&["lm_head"])).everywhere(Q), H).check("head");
    same(Case::new(own(), saves(&["layers.1.mlp.up_proj"])).everywhere(Q), "model.layers.1.mlp.up_proj")
        .check("a layer");
    same(Case::new(tied(), saves(&["embed_tokens"])).everywhere(Q), E).untied().check("tied, embedding");
    same(Case::new(tied(), saves(&["lm_head"])).everywhere(Q), H).untied().check("tied, head");
    // nothing names it
    same(Case::new(own(), saves(&[])).everywhere(Q), E).check("embedding beside");
    same(Case::new(tied(), saves(&[])).everywhere(Q), E).tied().check("tied, embedding beside");
    // in four bits the head stays as it is
    let desk = Desk::new();
    same(Case::new(own(), saves(&["lm_head"])).everywhere(Q), H).write(&desk);
    desk.json("merge base --adapter adapter -o four --save-4bit --json");
    let head = &tensors(desk.path("four/model.safetensors"))["lm_head.weight"];
    let first: Vec<f32> = head.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(f64::from(first[3]), numbers("base_model.model.lm_head.weight", 4)[3]);
    let said = desk.json("sample base --adapter adapter --prompt w3 --tokens 4 --json");
    assert!(said["continuations"].is_array() || said.is_object(), "{said}");
}

/// Names that carry the adapter's own.
#[test]
fn named_adapters() {
    let mut case = Case::new(own(), json!({"target_modules": ["q_proj"]})).everywhere(Q);
    let desk = Desk::new();
    case.write(&desk);
    let expected = loss(&desk, "base --adapter adapter");
    let tensors: Vec<Named> = case
        .tensors
        .iter()
        .map(|(name, shape)| Named { name: name.replace(".weight", ".default.weight"), ..named(name, shape) })
        .collect();
    write_safetensors(&desk.path("adapter/adapter_model.safetensors"), &tensors);
    assert_eq!(loss(&desk, "base --adapter adapter"), expected);
    for (from, to) in [("base_model.model.", ""), (".lora_A.", ".lora_A.mine."), ("self_attn", "attention")] {
        let tensors: Vec<Named> = case
            .tensors
            .iter()
            .map(|(name, shape)| Named { name: name.replace(from, to), ..named(name, shape) })
            .collect();
        write_safetensors(&desk.path("adapter/adapter_model.safetensors"), &tensors);
        desk.refused("eval base --adapter adapter --tasks text:text.jsonl", 2, &["adapter_model.safetensors"]);
    }
    case.config = json!({});
}

/// An adapter for some layers of the uncut model fits a cut one by its shapes, and is for other layers.
#[test]
fn layers_of_the_uncut_model() {
    let desk = Desk::new();
    let case = |base: &str| {
        let config = json!({
            "target_modules": ["q_proj"], "layers_to_transform": [1], "base_model_name_or_path": base,
        });
        Case::new(own(), config).low_rank(&format!("model.layers.1.{Q}"), (2, 3.0), false)
    };
    case("base").write(&desk);
    desk.json("cut base --drop 0 -o small --json");
    loss(&desk, "base --adapter adapter");
    let refused = ["adapter_config.json", "single layers of"];
    for words in ["eval small --adapter adapter --tasks text:text.jsonl", "merge small --adapter adapter -o m"] {
        desk.refused(words, 2, &refused);
    }
    case("org/base").write(&desk);
    desk.refused("sample small --adapter adapter --prompt w3 --tokens 2", 2, &refused);
    desk.refused("heal small --adapter adapter --data text.jsonl --seq-len 8 --steps 1 -o h", 2, &refused);
    // one for the cut
    case("small").write(&desk);
    desk.json("merge small --adapter adapter -o merged --json");
    // another depth, nothing cut
    case("small").write(&desk);
    desk.refused("eval base --adapter adapter --tasks text:text.jsonl", 2, &["2 layers", "has 3"]);
}

/// Sums that the type on disk cannot hold: the tensor is named and nothing is written; a healing keeps its state.
#[test]
fn sums_too_large_for_the_type() {
    let desk = Desk::new();
    let config = json!({"target_modules": ["q_proj"], "lora_alpha": 4e6});
    let mut case = Case::new(Llama { dtype: Dtype::F16, ..own() }, config);
    case.dense = Case::new(own(), json!({})).dense;
    let case = case.everywhere(Q);
    case.write(&desk);
    desk.refused("merge base --adapter adapter -o out", 1, &["q_proj.weight", "too large for f16"]);
    let heal = "heal base --adapter adapter --data text.jsonl --seq-len 8 --batch 1 --steps 1 --lr 1e-9 --quant none";
    let output = desk.run(&format!("{heal} -o healed"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("too large for f16"), "{said}");
    assert!(
        !desk.path("healed").exists() && desk.path("healed.healing/state.safetensors").exists(),
        "{:?}",
        desk.names()
    );
    desk.json(&format!("{heal} --adapter-only -o healed --json"));
    assert!(desk.path("healed/adapter").exists());
}

/// One healing, one model: what it writes as an adapter and what it writes merged, patterns and some layers included;
/// and settings that the adapter overrules are refused.
#[test]
fn healing_goes_on_from_an_adapter() {
    let desk = Desk::new();
    let q = |layer: usize| format!("model.layers.{layer}.{Q}");
    let config = json!({
        "target_modules": ".*\\.[02]\\.self_attn.q_proj", "rank_pattern": {"layers\\.2\\..*": 4, "layers.1.*": 3},
        "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 20},
    });
    let case = Case::new(own(), config).low_rank(&q(0), (2, 10.0), false).low_rank(&q(2), (4, 1.5), false);
    case.write(&desk);
    let heal = "heal base --adapter adapter --data text.jsonl --seq-len 8 --batch 1 --steps 1 --quant none";
    desk.json(&format!("{heal} --lr 1e-12 --warmup 0 -o healed --json"));
    let (before, expected) = (loss(&desk, "base --adapter adapter"), loss(&desk, "dense"));
    assert!((before - expected).abs() < 1e-5);
    assert!((loss(&desk, "base --adapter healed/adapter") - expected).abs() < 1e-5);
    assert!((loss(&desk, "healed/merged") - expected).abs() < 1e-5);
    desk.refused(
        &format!("{heal} --rank 2 --alpha 1 --target mlp --rslora -o x"),
        2,
        &["rank, alpha, target, rslora", "adapter"],
    );
    fs::write(desk.path("heal.toml"), "[heal]\nrank = 64\n").unwrap();
    desk.refused(&format!("{heal} --config heal.toml -o x"), 2, &["heal.toml", "rank", "adapter"]);
}
