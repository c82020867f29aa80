//! Adapters as PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};

use super::config::Config;
use super::read::{PREFIX, read};
use super::settings::last;
use super::{Adapters, LayerList, Targets, base, stacked};
use crate::arch::{ModelSpec, Role};
use crate::checkpoint::{Checkpoint, Index, read_json, write_new};
use crate::files::meant;
use crate::{Context, Error, Result};

/// The file of an adapter's settings.
const CONFIG: &str = "adapter_config.json";
/// The file of its tensors.
const WEIGHTS: &str = "adapter_model.safetensors";
/// The files of an adapter directory.
pub(crate) const ADAPTER_FILES: [&str; 2] = [CONFIG, WEIGHTS];

/// The release whose config is written.
const PEFT_VERSION: &str = "0.21.2";

impl Adapters {
    /// The adapter in `dir`, made by PEFT or by [`Adapters::write`], for the model `spec`. Tensors are widened to f32,
    /// as PEFT does.
    ///
    /// # Errors
    /// Request: no adapter there, one of a kind that is not supported, or one made for another model (names the first
    /// layer, module or shape that differs). Work: broken files.
    pub fn open(dir: &Path, spec: &ModelSpec, device: &Device) -> Result<Self> {
        Ok(open(dir, spec, device)?.0)
    }

    /// [`Adapters::open`] for the model `checkpoint`, whose history is asked as well: an adapter for single layers of
    /// the model it was cut from fits by its shapes and is for other layers.
    ///
    /// # Errors
    /// As [`Adapters::open`]; also an adapter for single layers of another model.
    pub fn open_for(dir: &Path, checkpoint: &Checkpoint, spec: &ModelSpec, device: &Device) -> Result<Self> {
        let (adapters, config) = open(dir, spec, device)?;
        if config.names_layers() {
            base::check(config.base_model_name_or_path.as_deref(), checkpoint, spec)
                .context(|| dir.join(CONFIG).display().to_string())?;
        }
        Ok(adapters)
    }

    /// Writes both files into `dir`. `base` is the model the adapter belongs to, as PEFT's users will look for it.
    ///
    /// # Errors
    /// Request: an adapter that is more than [`Adapters::check_plain`] lets through. Work: a file that cannot be
    /// written.
    pub fn write(&self, dir: &Path, spec: &ModelSpec, base: &str) -> Result<()> {
        self.check_plain()?;
        let config =
            serde_json::to_string_pretty(&self.config(spec, base)).map_err(|error| Error::work(error.to_string()))?;
        write_new(&dir.join(CONFIG), config)?;
        write_new(&dir.join(WEIGHTS), self.serialize(spec)?)
    }

    /// The bytes of `adapter_model.safetensors`.
    ///
    /// # Errors
    /// Work: tensors that cannot be read.
    pub fn serialize(&self, spec: &ModelSpec) -> Result<Vec<u8>> {
        let mut tensors = Vec::new();
        for ((layer, role), adapter) in &self.modules {
            let path = match role.is_stacked() {
                true => stacked::module(spec, *layer, *role, |role| self.modules.contains_key(&(*layer, role))),
                false => path(spec, *layer, *role),
            };
            let (a, b) = stacked::to_file(adapter)?;
            tensors.push((format!("{PREFIX}{path}.lora_A.weight"), bytes(&a)?, a.dims().to_vec()));
            tensors.push((format!("{PREFIX}{path}.lora_B.weight"), bytes(&b)?, b.dims().to_vec()));
            if let Some(m) = &adapter.magnitude {
                tensors.push((format!("{PREFIX}{path}.lora_magnitude_vector"), bytes(m)?, m.dims().to_vec()));
            }
        }
        let views = tensors.iter().map(|(name, bytes, shape)| {
            Ok::<_, safetensors::SafeTensorError>((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        });
        let views: Vec<_> =
            views.collect::<std::result::Result<_, _>>().map_err(|error| Error::work(error.to_string()))?;
        let metadata = Some([("format".to_owned(), "pt".to_owned())].into());
        safetensors::serialize(views, metadata).map_err(|error| Error::work(error.to_string()))
    }

    /// `adapter_config.json`: the keys of PEFT, sorted.
    fn config(&self, spec: &ModelSpec, base: &str) -> Value {
        let layers = self.settings.layers_to_transform.as_ref();
        let of = |stacked: bool| {
            let own = self.modules.keys().filter(move |(_, role)| role.is_stacked() == stacked);
            match targets(spec, layers, own) {
                Targets::Modules(names) => names,
                _ => Vec::new(),
            }
        };
        let parameters = of(true);
        let whole = |value: f64| if value.fract() == 0.0 { json!(value as i64) } else { json!(value) };
        let alphas: Map<String, Value> =
            self.settings.alpha_pattern.iter().map(|(name, alpha)| (name.to_owned(), whole(alpha))).collect();
        json!({
            "alpha_pattern": alphas,
            "auto_mapping": null,
            "base_model_name_or_path": base,
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": layers,
            "lora_alpha": whole(self.settings.alpha()),
            "lora_dropout": self.settings.dropout,
            "modules_to_save": null,
            "peft_type": "LORA",
            "peft_version": PEFT_VERSION,
            "r": self.settings.rank,
            "rank_pattern": self.settings.rank_pattern,
            "revision": null,
            "target_modules": of(false),
            "target_parameters": if parameters.is_empty() { Value::Null } else { json!(parameters) },
            "task_type": "CAUSAL_LM",
            "use_dora": self.settings.dora,
            "use_rslora": self.settings.rslora,
        })
    }
}

/// What to say of a `dir` that holds no adapter.
fn no_adapter(dir: &Path) -> Error {
    let place = dir.display();
    let inside = dir.join("adapter");
    Error::request(match () {
        () if !dir.exists() => format!("{place}: no such directory{}", meant(dir)),
        () if !dir.is_dir() => format!("{place}: not a directory, expected one with {CONFIG}"),
        () if inside.join(CONFIG).exists() => {
            format!("{place}: no adapter, but it holds one: name {}", inside.display())
        }
        () if dir.join("config.json").exists() => format!("{place}: a model, not an adapter (it has no {CONFIG})"),
        () => format!("{place}: no adapter in PEFT's files (it has no {CONFIG})"),
    })
}

fn open(dir: &Path, spec: &ModelSpec, device: &Device) -> Result<(Adapters, Config)> {
    let place = || dir.join(CONFIG).display().to_string();
    if !dir.join(CONFIG).exists() {
        return Err(no_adapter(dir));
    }
    let keys: Map<String, Value> = read_json(&dir.join(CONFIG))?;
    let config = serde_json::from_value::<Config>(Value::Object(keys.clone()))
        .map_err(|error| Error::work(error.to_string()))
        .and_then(|config| config.check(&keys).map(|()| config))
        .context(place)?;
    config.rule().and_then(|_| config.settings().strengths().map(|_| ())).context(place)?;
    let weights = dir.join(WEIGHTS);
    if !weights.exists() && dir.join("adapter_model.bin").exists() {
        let dir = dir.display();
        return Err(Error::request(format!(
            "{dir}: holds adapter_model.bin, which can run code when opened; save it as safetensors first"
        )));
    }
    let adapters = read(&config, Index::open_file(&weights)?, spec, device).context(|| weights.display())?;
    Ok((adapters, config))
}

/// Names of `modules`, sorted: the last part where every layer has one, of those in `layers` if it names some, else the
/// whole path. Of tensors that hold all experts, for which PEFT asks no `layers_to_transform`, every layer must.
pub(super) fn targets<'a>(
    spec: &ModelSpec,
    layers: Option<&LayerList>,
    modules: impl Iterator<Item = &'a (usize, Role)> + Clone,
) -> Targets {
    // experts share their last parts: such a name stands for all modules that end so
    let chosen: BTreeSet<&(usize, Role)> = modules.clone().collect();
    let mut everywhere: BTreeMap<String, bool> = BTreeMap::new();
    if modules.clone().any(|(_, role)| role.expert().is_some()) {
        let all: Vec<usize> = layers.map_or_else(|| (0..spec.layers).collect(), |layers| layers.iter().collect());
        for (layer, (role, path)) in
            all.into_iter().flat_map(|layer| spec.linear_modules(layer).into_iter().map(move |own| (layer, own)))
        {
            *everywhere.entry(last(&path).to_owned()).or_insert(true) &= chosen.contains(&(layer, role));
        }
    }
    let everywhere: BTreeSet<String> = everywhere.into_iter().filter(|(_, all)| *all).map(|(name, _)| name).collect();
    let most = layers.map_or(spec.layers, |layers| layers.iter().len());
    let everywhere = |role: Role| match role.expert() {
        None if role.is_stacked() => modules.clone().filter(|(_, other)| *other == role).count() == spec.layers,
        None => modules.clone().filter(|(_, other)| *other == role).count() == most,
        Some(_) => everywhere.contains(last(&spec.module(role))),
    };
    let name = |(layer, role): &(usize, Role)| match everywhere(*role) {
        true if role.is_stacked() => stacked::name(*role).to_owned(),
        true => last(&spec.module(*role)).to_owned(),
        false => path(spec, *layer, *role),
    };
    let names: BTreeSet<String> = modules.clone().map(name).collect();
    Targets::Modules(names.into_iter().collect())
}

/// `model.layers.3.mlp.up_proj`.
fn path(spec: &ModelSpec, layer: usize, role: Role) -> String {
    if let Some((_, path)) = spec.stacked_parameters(layer).into_iter().find(|(own, _)| *own == role) {
        return path;
    }
    let name = spec.layer_tensor(layer, role).name;
    name.strip_suffix(".weight").unwrap_or(&name).to_owned()
}

fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?.iter().flat_map(|value| value.to_le_bytes()).collect())
}
