//! What of a healing's settings cannot be, whatever the model.

use super::accuracy::BestBy;
use super::choices::{MergeOnto, Quant, Train};
use super::settings::HealSettings;
use crate::collective::check_rank_timeout;
use crate::{Error, Result};

impl HealSettings {
    /// Refuses what cannot be done, whatever the model.
    ///
    /// # Errors
    /// Request: names the setting, what it is and what was expected.
    pub fn check(&self) -> Result<()> {
        for (name, value) in [
            ("steps", self.steps),
            ("batch", self.batch),
            ("pass_tokens", self.pass_tokens),
            ("save_every", self.save_every),
            ("eval_samples", self.eval_samples),
        ] {
            if value == 0 {
                return Err(Error::request(format!("{name} is 0, expected 1 or more")));
            }
        }
        for (name, value, from, below) in [
            ("lr", self.lr, 0.0, f64::INFINITY),
            ("warmup", self.warmup(), 0.0, f64::INFINITY),
            ("beta1", self.beta1, 0.0, 1.0),
            ("beta2", self.beta2, 0.0, 1.0),
            ("eps", self.eps, 0.0, f64::INFINITY),
            ("weight_decay", self.weight_decay, 0.0, f64::INFINITY),
            ("clip", self.clip, 0.0, f64::INFINITY),
            ("teacher_weight", self.teacher_weight, 0.0, 1.0 + f64::EPSILON),
            ("temperature", self.temperature, f64::MIN_POSITIVE, f64::INFINITY),
        ] {
            if !(from..below).contains(&value) {
                return Err(Error::request(format!("{name} is {value}, expected from {from} to below {below}")));
            }
        }
        check_rank_timeout(self.rank_timeout)?;
        self.check_weights()?;
        self.check_distilling()?;
        if self.train != Train::Lora && self.adapter.is_some() {
            return Err(Error::request("adapter goes with train = \"lora\""));
        }
        if self.dora && self.train != Train::Lora {
            return Err(Error::request("dora goes with train = \"lora\""));
        }
        match (self.train, &self.layers_to_transform) {
            (Train::Last(_), Some(_)) => {
                return Err(Error::request("layers_to_transform goes with train = \"lora\" or \"layers\""));
            }
            (Train::Layers, None) => {
                return Err(Error::request(
                    "train = \"layers\": which? name them with layers_to_transform, such as 8-15, or inserted",
                ));
            }
            _ => {}
        }
        if self.train != Train::Lora && self.adapter_only {
            return Err(Error::request(format!("train = \"{}\" makes no adapter: leave adapter_only out", self.train)));
        }
        if self.merge_onto == MergeOnto::Quantized {
            if self.quant == Quant::None {
                return Err(Error::request(
                    "merge_onto = \"quantized\" goes with quant = \"nf4\": nothing else is quantized",
                ));
            }
            if self.adapter_only {
                return Err(Error::request("adapter_only merges nothing: leave merge_onto out"));
            }
        }
        if let Some(patience) = self.patience
            && (patience == 0 || self.eval_every == 0 || self.eval_data.is_none())
        {
            return Err(Error::request(
                "patience is a number of validations: 1 or more, with eval_data and eval_every",
            ));
        }
        if !self.eval_tasks.is_empty() && self.eval_data.is_none() {
            return Err(Error::request("eval_tasks are asked at validations: name a text for those with --eval-data"));
        }
        let goes_with_tasks = [
            ("eval_include_path", self.eval_include_path.is_some()),
            ("eval_data_dir", self.eval_data_dir.is_some()),
            ("eval_limit", self.eval_limit.is_some()),
            ("eval_few_shot", self.eval_few_shot.is_some()),
            ("best_by = \"accuracy\"", self.best_by == BestBy::Accuracy),
        ];
        if let Some((name, _)) = goes_with_tasks.iter().find(|(_, given)| *given && self.eval_tasks.is_empty()) {
            return Err(Error::request(format!("{name} goes with eval_tasks: nothing else asks questions")));
        }
        if self.reference.is_some() && self.eval_data.is_none() {
            return Err(Error::request("reference is measured on eval_data: name a text with --eval-data"));
        }
        self.unspread().check()
    }

    fn check_weights(&self) -> Result<()> {
        let (weights, texts) = (self.weights.len(), self.data.len());
        if weights > 0 && weights != texts {
            return Err(Error::request(format!(
                "weights has {weights} numbers, data {texts} texts: expected one each"
            )));
        }
        if let Some(weight) = self.weights.iter().find(|weight| !(**weight > 0.0 && weight.is_finite())) {
            let fault = "expected numbers above 0; a text that is not wanted is left out of data";
            return Err(Error::request(format!("weights: {weight}: {fault}")));
        }
        if weights == 1 {
            return Err(Error::request("weights are for several texts: name more with --data, or leave them out"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_settings_are_named() {
        for (text, name) in [
            ("steps = 0", "steps"),
            ("rank_timeout = 0", "rank_timeout"),
            ("rank_timeout = 1000000", "604800"),
            ("lr = -1.0", "lr"),
            ("lr = nan", "lr"),
            ("beta1 = 1.0", "beta1"),
            ("teacher_weight = 1.5", "teacher_weight"),
            ("temperature = 0.0", "temperature"),
            ("rank = 0", "rank"),
            ("train = \"layers\"", "layers_to_transform"),
            ("train = \"layers\"\nlayers_to_transform = 1\ndora = true", "dora"),
            ("train = \"lm-head+last1\"\nlayers_to_transform = \"inserted\"", "layers_to_transform"),
            ("dropout = 1.0", "dropout"),
            ("train = \"lm-head+last2\"\nadapter_only = true", "adapter_only"),
            ("quant = \"none\"\nmerge_onto = \"quantized\"", "merge_onto"),
            ("adapter_only = true\nmerge_onto = \"quantized\"", "merge_onto"),
            ("reference = \"m\"", "eval-data"),
            ("data = [\"a\", \"b\"]\nweights = [1]", "1 numbers, data 2 texts"),
            ("data = [\"a\", \"b\"]\nweights = [1, 0]", "weights: 0"),
            ("data = [\"a\", \"b\"]\nweights = [1, -2.5]", "weights: -2.5"),
            ("data = [\"a\", \"b\"]\nweights = [1, nan]", "weights: NaN"),
            ("data = \"a\"\nweights = [2]", "several texts"),
            ("patience = 2", "eval_data"),
            ("eval_tasks = [\"boolq\"]", "--eval-data"),
            ("eval_limit = 5", "eval_limit goes with eval_tasks"),
            ("best_by = \"accuracy\"", "goes with eval_tasks"),
            ("patience = 0\neval_data = \"v\"", "1 or more"),
            ("patience = 2\neval_data = \"v\"\neval_every = 0", "eval_every"),
        ] {
            let error = toml::from_str::<HealSettings>(text).unwrap().check().unwrap_err();
            assert!(error.to_string().contains(name) && error.exit_code() == 2, "{error}");
        }
        HealSettings { teacher_weight: 1.0, clip: 0.0, ..HealSettings::default() }.check().unwrap();
    }
}
