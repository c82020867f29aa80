//! Adapters as PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::settings::{by_pattern, is_named, last, scale};
use super::{Adapter, Adapters, LoraSettings, Targets, matrix};
use crate::arch::{ModelSpec, Role};
use crate::checkpoint::{Index, read_json};
use crate::{Context, Error, Result};

/// The file of an adapter's settings.
const CONFIG: &str = "adapter_config.json";
/// The file of its tensors.
const WEIGHTS: &str = "adapter_model.safetensors";
/// The files of an adapter directory.
pub const ADAPTER_FILES: [&str; 2] = [CONFIG, WEIGHTS];

/// What PEFT puts before the path of a module.
const PREFIX: &str = "base_model.model.";
/// The release whose config is written.
const PEFT_VERSION: &str = "0.21.2";

/// Keys of `adapter_config.json` that make the adapter something else than B·A on linear layers.
const UNSUPPORTED: [&str; 14] = [
    "alora_invocation_tokens",
    "arrow_config",
    "exclude_modules",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
];

/// The keys of `adapter_config.json` that are read; the others are informative or listed in [`UNSUPPORTED`].
#[derive(Deserialize)]
struct Config {
    peft_type: String,
    #[serde(default)]
    task_type: Option<String>,
    #[serde(default = "eight")]
    r: usize,
    #[serde(default = "eight_f64")]
    lora_alpha: f64,
    #[serde(default)]
    lora_dropout: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    bias: Option<String>,
    target_modules: TargetModules,
    #[serde(default)]
    layers_to_transform: Option<Layers>,
    #[serde(default)]
    rank_pattern: BTreeMap<String, usize>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
    #[serde(default)]
    init_lora_weights: Value,
}

/// PEFT's own defaults.
fn eight() -> usize {
    8
}

fn eight_f64() -> f64 {
    8.0
}

/// A list of names, or a regular expression over whole paths.
#[derive(Deserialize)]
#[serde(untagged)]
enum TargetModules {
    Names(Vec<String>),
    Pattern(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Layers {
    One(usize),
    Some(Vec<usize>),
}

impl Config {
    /// Refuses what is not plain LoRA.
    fn check(&self, keys: &Map<String, Value>) -> Result<()> {
        let refuse = |reason: String| Err(Error::request(reason));
        if self.peft_type != "LORA" {
            return refuse(format!("peft_type is {}, expected LORA", self.peft_type));
        }
        if let Some(task) = self.task_type.as_deref().filter(|task| *task != "CAUSAL_LM") {
            return refuse(format!("task_type is {task}, expected CAUSAL_LM"));
        }
        let empty = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        if let Some(key) = UNSUPPORTED.iter().find(|key| keys.get(**key).is_some_and(|value| !empty(value))) {
            return refuse(format!("{key} is set; only plain LoRA on linear layers is supported"));
        }
        if let Some(bias) = self.bias.as_deref().filter(|bias| *bias != "none") {
            return refuse(format!("bias is {bias}, expected none: trained biases are not supported"));
        }
        // these say how A and B began; the others (pissa, olora, loftq, ...) also changed the base
        let harmless = ["gaussian", "eva", "orthogonal"];
        match &self.init_lora_weights {
            Value::String(init) if !harmless.contains(&init.as_str()) => refuse(format!(
                "init_lora_weights is {init}, which changes the base model too; convert the adapter to plain LoRA in PEFT \
                 first (save_pretrained with path_initial_model_for_weight_conversion)"
            )),
            _ => Ok(()),
        }
    }

    /// The modules that must have tensors; `None` when a regular expression names them.
    fn expected(&self, spec: &ModelSpec) -> Option<BTreeSet<(usize, Role)>> {
        let TargetModules::Names(names) = &self.target_modules else { return None };
        let layer_counts = |layer: &usize| match &self.layers_to_transform {
            None => true,
            Some(Layers::One(one)) => layer == one,
            Some(Layers::Some(some)) => some.is_empty() || some.contains(layer),
        };
        let modules = (0..spec.layers).filter(layer_counts).flat_map(|layer| {
            let modules = spec.linear_modules(layer).into_iter();
            modules
                .filter(|(_, path)| names.iter().any(|name| is_named(path, name)))
                .map(move |(role, _)| (layer, role))
        });
        Some(modules.collect())
    }
}

impl Adapters {
    /// The adapter in `dir`, made by PEFT or by [`Adapters::write`], for the model `spec`. Tensors are widened to f32, as
    /// PEFT does.
    ///
    /// # Errors
    /// Request: no adapter there, one that is more than plain LoRA, or one made for another model (names the first layer,
    /// module or shape that differs). Work: broken files.
    pub fn open(dir: &Path, spec: &ModelSpec, device: &Device) -> Result<Self> {
        let keys: Map<String, Value> = read_json(&dir.join(CONFIG))?;
        let config = serde_json::from_value::<Config>(Value::Object(keys.clone()))
            .map_err(|error| Error::work(error.to_string()))
            .and_then(|config| config.check(&keys).map(|()| config))
            .context(|| dir.join(CONFIG).display().to_string())?;
        let weights = dir.join(WEIGHTS);
        if !weights.exists() && dir.join("adapter_model.bin").exists() {
            let dir = dir.display();
            return Err(Error::request(format!(
                "{dir}: holds adapter_model.bin, which can run code when opened; save it as safetensors first"
            )));
        }
        let index = Index::open_file(&weights)?;
        read(&config, &index, spec, device).context(|| weights.display())
    }

    /// Writes both files into `dir`. `base` is the model the adapter belongs to, as PEFT's users will look for it.
    ///
    /// # Errors
    /// Work: a file that cannot be written.
    pub fn write(&self, dir: &Path, spec: &ModelSpec, base: &str) -> Result<()> {
        let config =
            serde_json::to_string_pretty(&self.config(spec, base)).map_err(|error| Error::work(error.to_string()))?;
        let path = dir.join(CONFIG);
        std::fs::write(&path, config).map_err(|error| Error::io(&path, &error))?;
        let path = dir.join(WEIGHTS);
        std::fs::write(&path, self.serialise(spec)?).map_err(|error| Error::io(&path, &error))
    }

    /// The bytes of `adapter_model.safetensors`.
    ///
    /// # Errors
    /// Work: tensors that cannot be read.
    pub fn serialise(&self, spec: &ModelSpec) -> Result<Vec<u8>> {
        let mut tensors = Vec::new();
        for ((layer, role), adapter) in &self.modules {
            let path = path(spec, *layer, *role);
            tensors.push((format!("{PREFIX}{path}.lora_A.weight"), bytes(&adapter.a)?, adapter.a.dims()));
            tensors.push((format!("{PREFIX}{path}.lora_B.weight"), bytes(&adapter.b)?, adapter.b.dims()));
        }
        let views = tensors.iter().map(|(name, bytes, shape)| {
            Ok::<_, safetensors::SafeTensorError>((name, TensorView::new(Dtype::F32, shape.to_vec(), bytes)?))
        });
        let views: Vec<_> =
            views.collect::<std::result::Result<_, _>>().map_err(|error| Error::work(error.to_string()))?;
        let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
        safetensors::serialize(views, metadata).map_err(|error| Error::work(error.to_string()))
    }

    /// `adapter_config.json`: the keys of PEFT, sorted. A role that only some layers have is named by whole paths.
    fn config(&self, spec: &ModelSpec, base: &str) -> Value {
        let everywhere = |role: Role| (0..spec.layers).all(|layer| self.modules.contains_key(&(layer, role)));
        let name = |(layer, role): &(usize, Role)| match everywhere(*role) {
            true => last(role.module()).to_owned(),
            false => path(spec, *layer, *role),
        };
        let targets: BTreeSet<String> = self.modules.keys().map(name).collect();
        let whole = |value: f64| if value.fract() == 0.0 { json!(value as i64) } else { json!(value) };
        let alphas: Map<String, Value> =
            self.settings.alpha_pattern.iter().map(|(name, alpha)| (name.clone(), whole(*alpha))).collect();
        json!({
            "alpha_pattern": alphas,
            "auto_mapping": null,
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": null,
            "lora_alpha": whole(self.settings.alpha()),
            "lora_dropout": self.settings.dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "peft_version": PEFT_VERSION,
            "r": self.settings.rank,
            "rank_pattern": self.settings.rank_pattern,
            "revision": null,
            "target_modules": targets,
            "task_type": "CAUSAL_LM",
            "use_dora": false,
            "use_rslora": self.settings.rslora,
        })
    }
}

/// `model.layers.3.mlp.up_proj`.
fn path(spec: &ModelSpec, layer: usize, role: Role) -> String {
    let name = spec.layer_tensor(layer, role).name;
    name.strip_suffix(".weight").unwrap_or(&name).to_owned()
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn read(config: &Config, index: &Index, spec: &ModelSpec, device: &Device) -> Result<Adapters> {
    let paths: BTreeMap<String, (usize, Role)> = (0..spec.layers)
        .flat_map(|layer| spec.linear_modules(layer).into_iter().map(move |(role, path)| (path, (layer, role))))
        .collect();
    let mut modules = BTreeMap::new();
    for name in index.tensors.keys() {
        let path = name
            .strip_prefix(PREFIX)
            .and_then(|name| name.strip_suffix(".lora_A.weight").or_else(|| name.strip_suffix(".lora_B.weight")));
        let Some(path) = path else {
            return Err(Error::request(format!("tensor {name} is not part of a plain LoRA adapter")));
        };
        let Some(module) = paths.get(path) else { return Err(misfit(spec, path)) };
        if name.ends_with(".lora_A.weight") {
            modules.insert(*module, adapter(config, index, spec, *module, path, device)?);
        } else {
            index.entry(&format!("{PREFIX}{path}.lora_A.weight"))?;
        }
    }
    if let Some(expected) = config.expected(spec)
        && let Some((layer, role)) = expected.iter().find(|module| !modules.contains_key(module))
    {
        let last = modules.keys().next_back().map_or(0, |(layer, _)| *layer);
        let path = path(spec, *layer, *role);
        return Err(Error::request(format!(
            "there is no adapter for {path}: the adapter ends at layer {last}, the model has {} layers; was it made for \
             another cut of the model?",
            spec.layers
        )));
    }
    let targets = match &config.target_modules {
        TargetModules::Names(names) => names.clone(),
        TargetModules::Pattern(_) => {
            let names: BTreeSet<&str> = modules.keys().map(|(_, role)| last(role.module())).collect();
            names.into_iter().map(str::to_owned).collect()
        }
    };
    let settings = LoraSettings {
        rank: config.r,
        alpha: Some(config.lora_alpha),
        dropout: config.lora_dropout,
        rslora: config.use_rslora,
        targets: Targets::Modules(targets),
        rank_pattern: config.rank_pattern.clone(),
        alpha_pattern: config.alpha_pattern.clone(),
    };
    Ok(Adapters { settings, modules })
}

fn adapter(
    config: &Config,
    index: &Index,
    spec: &ModelSpec,
    (layer, role): (usize, Role),
    path: &str,
    device: &Device,
) -> Result<Adapter> {
    let (outputs, inputs) = matrix(spec, layer, role);
    let (a, b) = (format!("{PREFIX}{path}.lora_A.weight"), format!("{PREFIX}{path}.lora_B.weight"));
    let rank = by_pattern(&config.rank_pattern, path, config.r);
    let fits = |name: &str, expected: [usize; 2]| match &index.entry(name)?.shape[..] {
        found if found == expected => Ok(()),
        found => Err(Error::request(format!(
            "{name} has shape {found:?}, expected {expected:?} for rank {rank} on this model's {path}; was the adapter \
             made for another model?"
        ))),
    };
    fits(&a, [rank, inputs])?;
    fits(&b, [outputs, rank])?;
    let alpha = by_pattern(&config.alpha_pattern, path, config.lora_alpha);
    Ok(Adapter {
        a: index.load_f32(&a, &[rank, inputs], device)?,
        b: index.load_f32(&b, &[outputs, rank], device)?,
        scale: scale(alpha, rank, config.use_rslora),
    })
}

/// Why no module of the model is called `path`.
fn misfit(spec: &ModelSpec, path: &str) -> Error {
    let layer = path.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    Error::request(match layer {
        Some(layer) if layer >= spec.layers => format!(
            "the adapter has a layer {layer}, the model has {} layers; was it made for the uncut model?",
            spec.layers
        ),
        _ => format!("the adapter has a module {path}, which the model does not have as a linear layer of a block"),
    })
}
