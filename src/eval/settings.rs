//! What the user can choose.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::gen_kwargs::GenKwargs;
use super::shard::EvalShard;
use super::ways::AnswerWay;
use crate::collective::{RANK_TIMEOUT, check_rank_timeout, is_patient};
use crate::data::TextSplit;
use crate::{Error, Result};

/// A version of lm-evaluation-harness whose every figure is wanted, oddities included.
///
/// Without one, prompts are those of 0.4.13, tokens what `tokenizer.json` says, which the model was trained with, and
/// log-probabilities are in f32 whatever the weights' type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compat {
    /// The version of the paper: no beginning-of-sequence token, f32 log-probabilities.
    #[serde(rename = "lm-eval-0.4.0")]
    V0_4_0,
    /// Tokens as `AutoTokenizer` of transformers 5 makes them, which for some models are not `tokenizer.json`'s, and
    /// log-probabilities rounded to the model's own type, so that a bf16 model has ties, which the first choice wins.
    #[serde(rename = "lm-eval-0.4.13")]
    V0_4_13,
}

/// Whether questions go through the model's chat template, and which of several that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected true, false or the name of a chat template")]
pub enum ChatTemplate {
    /// The only one or the default one, or none.
    Applied(bool),
    /// The one of that name.
    Named(String),
}

impl FromStr for ChatTemplate {
    type Err = Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Infallible> {
        Ok(text.parse().map_or_else(|_| Self::Named(text.to_owned()), Self::Applied))
    }
}

/// Settings of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSettings {
    /// Model: a directory or a hub id.
    pub model: Option<String>,
    /// Adapter on top of it, in PEFT's files.
    pub adapter: Option<PathBuf>,
    /// Tasks and groups: `mmlu`, `mmlu_stem`, `mmlu_anatomy`, `boolq`, `c4`, `text:FILE`…
    pub tasks: Vec<String>,
    /// Folder of task files in lm-evaluation-harness's YAML, whose names `tasks` may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub include_path: Option<PathBuf>,
    /// Examples in front of each question; each task's own number when absent (5 for MMLU and GSM8K, 8 for
    /// `gsm8k_cot` and `gsm8k_cot_llama`, else 0).
    pub few_shot: Option<usize>,
    /// Folder (or, for a single task, file) with the data; the hub and its cache when absent.
    pub data_dir: Option<PathBuf>,
    /// How a plain text file of `text:FILE` is cut into documents.
    pub text_split: TextSplit,
    /// The model's chat template, by which each question becomes a conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apply_chat_template: Option<ChatTemplate>,
    /// Whether examples are turns of that conversation, which is the rule, or stand in one message with the question.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fewshot_as_multiturn: Option<bool>,
    /// What the system says, in front of the task's description; without a template it is text like that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_instruction: Option<String>,
    /// How questions with choices are asked: `ranked` when absent, `token`, `chain`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ways: Vec<AnswerWay>,
    /// First questions of each task: a number, or a share when below 1.
    pub limit: Option<f64>,
    /// How answers are generated, over what the tasks say: `temperature=0.8,do_sample=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gen_kwargs: Option<String>,
    /// Runs the programs that the model writes for tasks of programs, or writes them without a score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_code: Option<bool>,
    /// What runs them; `python3` when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub python: Option<PathBuf>,
    /// Version of the reference to equal in everything.
    pub compat: Option<Compat>,
    /// Forces or forbids the tokenizer's beginning-of-sequence token.
    pub bos: Option<bool>,
    /// Longest input in tokens; the model's own context when absent.
    pub max_length: Option<usize>,
    /// Scores MMLU, BoolQ and C4 the way the scripts of arXiv 2403.17887 do.
    pub paper: bool,
    /// Seed of the examples.
    pub seed: u64,
    /// Directory for results and samples.
    pub out: Option<PathBuf>,
    /// Results of another run to compare with, question by question: a results file, or a directory with one.
    pub against: Option<PathBuf>,
    /// Which share of the passes is answered here: `1/3` is the first of three.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shard: Option<EvalShard>,
    /// Directories in which the shares of this evaluation were answered, to be put together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub merge: Vec<PathBuf>,
    /// Replaces existing results.
    pub force: bool,
    /// Seconds after which another process of the same evaluation that nothing is heard of is taken for dead.
    #[serde(skip_serializing_if = "is_patient")]
    pub rank_timeout: u64,
    /// Where it computes: `auto`, `cpu`, `cuda`, `cuda:1`.
    pub device: Option<String>,
    /// What products with weights are computed in: `auto`, `bf16`, `f32`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Cap on memory, such as `8GiB`.
    pub memory: Option<String>,
    /// Tokens of a pass at most, unless one request alone is longer; what suits model and memory when absent.
    pub pass_tokens: Option<usize>,
    /// Says what would be done and stops.
    pub dry_run: bool,
}

impl Default for EvalSettings {
    fn default() -> Self {
        Self {
            model: None,
            adapter: None,
            tasks: Vec::new(),
            include_path: None,
            few_shot: None,
            data_dir: None,
            text_split: TextSplit::default(),
            apply_chat_template: None,
            fewshot_as_multiturn: None,
            system_instruction: None,
            ways: Vec::new(),
            limit: None,
            gen_kwargs: None,
            run_code: None,
            python: None,
            compat: None,
            bos: None,
            max_length: None,
            paper: false,
            seed: 1234,
            out: None,
            against: None,
            shard: None,
            merge: Vec::new(),
            force: false,
            rank_timeout: RANK_TIMEOUT,
            device: None,
            dtype: None,
            memory: None,
            pass_tokens: None,
            dry_run: false,
        }
    }
}

/// Tasks that the paper's scripts know.
const PAPER: [&str; 3] = ["mmlu", "boolq", "c4"];

impl EvalSettings {
    /// Looks for what can never work.
    ///
    /// # Errors
    /// A request for which there is no sense, its flag named.
    pub fn check(&self) -> Result<()> {
        let sound = |limit: f64| limit > 0.0 && limit.is_finite() && (limit < 1.0 || limit.fract() == 0.0);
        if let Some(limit) = self.limit.filter(|limit| !sound(*limit)) {
            return Err(Error::request(format!(
                "--limit {limit}: expected a number of questions, or a share between 0 and 1"
            )));
        }
        if self.max_length == Some(0) {
            return Err(Error::request("--max-length 0: at least one token has to fit"));
        }
        if self.pass_tokens == Some(0) {
            return Err(Error::request("--pass-tokens 0: at least one token has to fit"));
        }
        check_rank_timeout(self.rank_timeout)?;
        let text = self.tasks.iter().any(|name| name.starts_with("text:"));
        if self.text_split != TextSplit::default() && !text {
            return Err(Error::request("--text-split cuts the text of a task text:FILE; there is none"));
        }
        if self.paper {
            let strange = self.tasks.iter().find(|name| {
                !name.starts_with("text:")
                    && !PAPER.iter().any(|known| name.as_str() == *known || name.starts_with("mmlu_"))
            });
            if let Some(name) = strange {
                return Err(Error::request(format!("--paper: the paper scores {}, not {name}", PAPER.join(", "))));
            }
            if self.compat.is_some() {
                return Err(Error::request("--paper and --compat exclude each other"));
            }
        }
        if self.paper && !self.ways.is_empty() {
            return Err(Error::request("--paper and --ways exclude each other"));
        }
        let is_chat = self.chat_template().is_some();
        if self.fewshot_as_multiturn == Some(true) && !is_chat {
            return Err(Error::request(
                "--fewshot-as-multiturn: turns are --apply-chat-template's, which is not given",
            ));
        }
        let of_chat = [("--apply-chat-template", is_chat), ("--system-instruction", self.system_instruction.is_some())];
        let old = [("--paper", self.paper), ("--compat lm-eval-0.4.0", self.compat == Some(Compat::V0_4_0))];
        if let (Some((flag, _)), Some((old, _))) =
            (of_chat.iter().find(|(_, given)| *given), old.iter().find(|(_, given)| *given))
        {
            return Err(Error::request(format!("{flag}: {old} knows no conversations")));
        }
        self.kwargs()?;
        if let Some(python) = self.python.as_deref().filter(|_| self.run_code != Some(true)) {
            return Err(Error::request(format!(
                "--python {}: it is for --run-code, which is not given",
                python.display()
            )));
        }
        if self.run_code == Some(false) && self.out.is_none() {
            return Err(Error::request(
                "--run-code false: programs are written to be run elsewhere; --out says where to",
            ));
        }
        let (shares, merges) = (self.shard.is_some(), !self.merge.is_empty());
        for (is_wrong, fault) in [
            (shares && merges, "--shard answers a share, and --merge puts all of them together: one at a time"),
            (shares && self.against.is_some(), "--against: a share has no figures to compare; give it with --merge"),
            ((shares || merges) && self.out.is_none(), "--shard and --merge keep what they find: --out says where"),
        ] {
            if is_wrong {
                return Err(Error::request(fault));
            }
        }
        let file = self.data_dir.as_deref().filter(|path| self.tasks.len() > 1 && path.is_file());
        if let Some(file) = file {
            return Err(Error::request(format!("--data-dir {}: one file can serve one task only", file.display())));
        }
        Ok(())
    }

    /// How answers are generated, over what the tasks say.
    ///
    /// # Errors
    /// Request: `gen_kwargs` that are none.
    pub fn kwargs(&self) -> Result<Option<GenKwargs>> {
        self.gen_kwargs.as_deref().map(GenKwargs::parse).transpose()
    }

    /// The chat template that is applied, if one is: the one of that name, or the model's default one.
    #[must_use]
    pub fn chat_template(&self) -> Option<Option<&str>> {
        match self.apply_chat_template.as_ref()? {
            ChatTemplate::Applied(applied) => applied.then_some(None),
            ChatTemplate::Named(name) => Some(Some(name)),
        }
    }

    /// Whether examples are turns of their own.
    #[must_use]
    pub fn is_multiturn(&self) -> bool {
        self.fewshot_as_multiturn.unwrap_or(self.chat_template().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_and_versions_are_refused() {
        let settings: EvalSettings =
            toml::from_str("model = \"m\"\ntasks = [\"boolq\"]\ncompat = \"lm-eval-0.4.0\"").unwrap();
        assert_eq!((settings.compat, settings.seed), (Some(Compat::V0_4_0), 1234));
        for (text, template) in [("true", Some(None)), ("false", None), ("\"chatml\"", Some(Some("chatml")))] {
            let settings: EvalSettings = toml::from_str(&format!("apply_chat_template = {text}")).unwrap();
            assert_eq!((settings.chat_template(), settings.is_multiturn()), (template, template.is_some()));
            let flag: ChatTemplate = text.trim_matches('"').parse().unwrap();
            assert_eq!(settings.apply_chat_template, Some(flag));
        }
        let error = toml::from_str::<EvalSettings>("apply_chat_template = 3").unwrap_err();
        assert!(error.message().contains("expected true, false or the name of a chat template"), "{error}");
        assert!(toml::from_str::<EvalSettings>("modle = \"m\"").is_err());
        assert!(toml::from_str::<EvalSettings>("compat = \"lm-eval-0.4.7\"").is_err());
    }

    #[test]
    fn senseless_requests_name_their_flag() {
        let settings = EvalSettings { tasks: vec!["boolq".into()], ..EvalSettings::default() };
        settings.check().unwrap();
        for (wrong, flag) in [
            (EvalSettings { limit: Some(0.0), ..settings.clone() }, "--limit"),
            (EvalSettings { limit: Some(1.5), ..settings.clone() }, "--limit"),
            (EvalSettings { limit: Some(f64::NAN), ..settings.clone() }, "--limit"),
            (EvalSettings { max_length: Some(0), ..settings.clone() }, "--max-length"),
            (EvalSettings { rank_timeout: 0, ..settings.clone() }, "rank_timeout"),
            (EvalSettings { paper: true, tasks: vec!["piqa".into()], ..settings.clone() }, "--paper"),
            (EvalSettings { paper: true, compat: Some(Compat::V0_4_0), ..settings.clone() }, "--paper"),
            (EvalSettings { fewshot_as_multiturn: Some(true), ..settings.clone() }, "--fewshot-as-multiturn"),
            (EvalSettings { paper: true, system_instruction: Some("s".into()), ..settings.clone() }, "--paper"),
            (
                EvalSettings {
                    apply_chat_template: Some(ChatTemplate::Applied(true)),
                    compat: Some(Compat::V0_4_0),
                    ..settings.clone()
                },
                "--apply-chat-template",
            ),
        ] {
            let error = wrong.check().unwrap_err();
            assert!(error.to_string().contains(flag), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
    }
}
