//! How what a card is of is opened, and made again.

use std::fmt::Write;

use super::{Kind, MadeFrom, called, on_hub, pinned, quoted};

impl MadeFrom<'_> {
    /// How it is opened, in Python and here.
    #[must_use]
    pub fn usage(&self) -> String {
        let mut text =
            String::from("## Usage\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n");
        let base = if on_hub(self.parent).is_some() { called(self.parent) } else { "MODEL".to_owned() };
        match self.kind {
            Kind::Adapter => {
                _ = write!(
                    text,
                    "from peft import PeftModel\n\nmodel = AutoModelForCausalLM.from_pretrained(\"{base}\", \
                     dtype=\"auto\")\nmodel = PeftModel.from_pretrained(model, \"ADAPTER\")\ntokenizer = \
                     AutoTokenizer.from_pretrained(\"{base}\")\n```\n\nMODEL is the model it was trained on, {}, and \
                     ADAPTER this directory.",
                    self.lost()
                );
                if let Some(again) = self.again("MODEL").filter(|_| self.is_cut() && on_hub(self.parent).is_none()) {
                    _ = write!(text, " `{again}` makes it, unless it was trained since.");
                }
                text.push_str(
                    " Put into its weights, by `prune merge MODEL --adapter ADAPTER -o DIR`, it needs no PEFT.\n",
                );
            }
            Kind::Gguf(file) => {
                text = format!(
                    "## Usage\n\nllama.cpp, Ollama and LM Studio read `{file}`, and so does transformers where it knows the \
                     family:\n\n```sh\nllama-cli -m {file} -p TEXT\n```\n\n```python\nfrom transformers import \
                     AutoModelForCausalLM, AutoTokenizer\n\nmodel = AutoModelForCausalLM.from_pretrained(\"DIR\", \
                     gguf_file=\"{file}\")\ntokenizer = AutoTokenizer.from_pretrained(\"DIR\", \
                     gguf_file=\"{file}\")\n```\n\nDIR is this directory, or its name on the hub. `prune sample DIR \
                     --prompt TEXT` lets it speak, `prune eval DIR --tasks NAMES` scores it.\n"
                );
            }
            Kind::Model | Kind::FourBit if self.history.has_seam_maps() => {
                text =
                    "## Usage\n\n`seam_maps` in `config.json` says which layers have a linear map behind them: `prune \
                        sample` and `prune eval` know them. No other program knows these maps, nor its `model_type`.\n"
                        .to_owned();
            }
            Kind::Model | Kind::FourBit if self.history.format() == Some("per-layer") => {
                text = String::from(
                    "## Usage\n\n`per_layer_config` in `config.json` says which parts layers lack. `prune sample DIR \
                     --prompt TEXT` lets the model speak, `prune eval DIR --tasks NAMES` scores it. transformers reads \
                     the key, but its models do not leave parts out yet: do not open it there.\n",
                );
            }
            Kind::Model | Kind::FourBit => {
                let trusted = if self.history.format() == Some("nas") { ", trust_remote_code=True" } else { "" };
                _ = write!(
                    text,
                    "\nmodel = AutoModelForCausalLM.from_pretrained(\"DIR\", dtype=\"auto\"{trusted})\ntokenizer = \
                     AutoTokenizer.from_pretrained(\"DIR\")\n```\n\nDIR is this directory, or its name on the hub. \
                     `prune sample DIR --prompt TEXT` lets it speak, `prune eval DIR --tasks NAMES` scores it.\n"
                );
            }
        }
        text
    }

    /// The command that takes the same away from the first model; `None` where it takes more than a list.
    #[must_use]
    pub fn again(&self, out: &str) -> Option<String> {
        let gone = self.history.gone().to_string().replace(", ", ",");
        let format = self.history.format().map(|format| format!(" --format {format}")).unwrap_or_default();
        let command = format!("prune cut {} --drop {gone}{format} -o {out}", quoted(&pinned(&self.history.origin)));
        (!self.history.is_rebuilt() && self.history.repairs().next().is_none()).then_some(command)
    }
}
