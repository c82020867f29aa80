//! Writing a cut or a growth: side files, weights, config, history, model card.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Cut, card, grown_card, sources};
use crate::Result;
use crate::checkpoint::{sha256, write_new};
use crate::progress::{Progress, Silent};
use crate::provenance::{self, Provenance};

impl Cut {
    /// Writes the whole checkpoint into `dir`, which is empty. `settings` are those that decide its bytes; they go into
    /// `prune.json`. With `hash`, the source's weight files are hashed whole for it.
    ///
    /// # Errors
    /// Work: a file that cannot be read or written, a hub cache whose files are not what the hub says. Interrupted.
    pub fn write(&self, dir: &Path, settings: &Value, hash: bool, progress: &dyn Progress) -> Result<()> {
        let history = self.history(settings, hash, progress)?;
        self.write_weights(dir, progress)?;
        let source_card = self.blueprint().source().model_card()?;
        write_new(&dir.join(provenance::FILE), history.to_json()?)?;
        let card = if self.is_growth() { grown_card::card } else { card::card };
        write_new(&dir.join(crate::card::FILE), card(self, &history, source_card.as_deref()))
    }

    /// The source's history and this step.
    fn history(&self, settings: &Value, hash: bool, progress: &dyn Progress) -> Result<Provenance> {
        let (source, plan) = (self.blueprint().source(), self.plan());
        let model = &plan.planned_for;
        let mut history = Provenance::of(&source.source.dir, model, progress);
        let files = sources::files(source, hash, progress)?;
        let mut step = json!({
            "step": if self.is_growth() { "grow" } else { "cut" },
            "version": env!("CARGO_PKG_VERSION"),
            "source": model,
            "files": files,
            "dropped": plan.dropped(),
            "why": plan.why,
            "notations": plan.notations(),
            "settings": settings,
            "config": self.edits(),
            "parameters": self.parameters(),
            "bytes": self.bytes(),
        });
        // what a list of dropped layers does not say
        if !plan.only_drops_layers() {
            step["stack"] = json!(plan.placeless_stack());
            let name = |file: &Path| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let hashes = plan.files().into_iter().map(|file| Ok((name(file), json!(sha256(file, &Silent)?))));
            step["stored"] = Value::Object(hashes.collect::<Result<_>>()?);
        }
        if self.is_growth() {
            step["inserted"] = json!(plan.inserted());
        }
        if let Some(repair) = self.repair() {
            step["repair"] = repair.clone();
        }
        let step: Map<String, Value> = step.as_object().cloned().unwrap_or_default();
        history.push_stack(step, &plan.stack);
        Ok(history)
    }
}
