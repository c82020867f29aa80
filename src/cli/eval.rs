//! `prune eval`.

use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::commands::eval;
use prune::eval::settings::ChatTemplate;
use prune::eval::shard::EvalShard;
use serde::Serialize;

use super::Context;
use super::compute::ComputeArgs;

/// Scores a model on MMLU, BoolQ, GSM8K and others, and its loss on text, in the figures of lm-evaluation-harness
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune eval ./llama-24 --tasks mmlu,boolq -o results                 data from the hub
  prune eval ./llama-24 --tasks mmlu --data-dir ./mmlu --limit 20     local data, 20 of each
  prune eval ./llama-24 --include-path ./tasks --tasks rivers         own tasks, as lm-eval's YAML files have them
  prune eval ./llama-24 --tasks boolq --ways ranked,token             does it still say what it ranks first?
  prune eval ./llama-24 --tasks text:validation.jsonl                 mean token loss on any text
  prune eval ./llama-it --tasks boolq --apply-chat-template           a chat model, asked in conversations
  prune eval ./llama-24 --tasks boolq --against dense/results -o out  difference to that run
  prune eval ./llama-24 --tasks boolq --shard 1/2 -o one              a share of the questions
  prune eval ./llama-24 --tasks boolq --merge one two -o results      all shares together

Processes that torchrun, srun or mpirun starts share the questions and write what one would.")]
pub(crate) struct EvalArgs {
    /// Model: a directory, a GGUF file or a hub id (org/name, org/name@revision, org/name:Q4_K_M)
    #[arg(required_unless_present = "config")]
    model: Option<String>,
    /// Adapter on top of the model, in PEFT's files
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Tasks and groups, separated by commas: mmlu, mmlu_stem, boolq, hellaswag, arc_easy, arc_challenge, piqa,
    /// winogrande, openbookqa, commonsense_qa, truthfulqa_mc1, truthfulqa_mc2, race, copa, rte, cb, lambada_openai,
    /// gsm8k, gsm8k_cot, gsm8k_cot_zeroshot, gsm8k_cot_llama, ifeval, humaneval, humaneval_64, mbpp, nq_open,
    /// triviaqa, mmlu_pro, bbh_fewshot, bbh_zeroshot, bbh_cot_fewshot, bbh_cot_zeroshot, wikitext, c4, text:FILE...
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required_unless_present = "config")]
    tasks: Vec<String>,
    /// Folder of tasks in lm-evaluation-harness's YAML files, to be named in --tasks
    #[arg(long, value_name = "DIR")]
    include_path: Option<PathBuf>,
    /// Examples in front of each question [default: 5 for MMLU and GSM8K, 8 for gsm8k_cot, else 0]
    #[arg(long, value_name = "N")]
    few_shot: Option<usize>,
    /// Ask in conversations by the model's chat template, or by that of its templates that is called NAME
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "true")]
    apply_chat_template: Option<ChatTemplate>,
    /// Examples as turns of the conversation; false: in one message with the question [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    fewshot_as_multiturn: Option<bool>,
    /// What the system says in front; without a chat template it is text like the task's own description
    #[arg(long, value_name = "TEXT")]
    system_instruction: Option<String>,
    /// Folder with the data, or for a single task the file [default: the hub and its cache]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How a plain text file of text:FILE is cut into documents [default: document, the whole file]
    #[arg(long, value_name = "HOW", value_parser = ["document", "lines", "paragraphs"])]
    text_split: Option<String>,
    /// How questions with choices are asked, to see whether a model can still say what it ranks first: ranked, the
    /// likeliest choice; token, one token that names it; chain, a text that ends in it [default: ranked]
    #[arg(long, value_name = "WAYS", value_delimiter = ',', value_parser = ["ranked", "token", "chain"])]
    ways: Vec<String>,
    /// First questions of each task: a number, or a share when below 1
    #[arg(long, value_name = "N")]
    limit: Option<f64>,
    /// How answers are generated, over what the tasks say: temperature=0.8,top_p=0.95,max_gen_toks=512, or JSON
    #[arg(long, value_name = "KWARGS")]
    gen_kwargs: Option<String>,
    /// Run the programs that the model writes for humaneval and mbpp; false: write them to be run elsewhere
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    run_code: Option<bool>,
    /// Python that runs them [default: python3]
    #[arg(long, value_name = "FILE")]
    python: Option<PathBuf>,
    /// Equal a version of lm-evaluation-harness in everything, oddities included
    #[arg(long, value_name = "VERSION", value_parser = ["lm-eval-0.4.0", "lm-eval-0.4.13"])]
    compat: Option<String>,
    /// Force or forbid the tokenizer's beginning-of-sequence token
    #[arg(long, value_name = "BOOL")]
    bos: Option<bool>,
    /// Longest input in tokens [default: the model's context]
    #[arg(long, value_name = "T")]
    max_length: Option<usize>,
    /// Score MMLU, BoolQ and C4 the way the scripts of arXiv 2403.17887 do
    #[arg(long)]
    paper: bool,
    /// Seed of the few-shot examples and of drawn answers [default: 1234]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Directory for results and samples; a stopped run goes on there
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Results of another run to compare with, question by question
    #[arg(long, value_name = "RESULTS")]
    against: Option<PathBuf>,
    /// Answer a share of the questions here: 1/3 is the first of three, each in an --out of its own
    #[arg(long, value_name = "I/N")]
    shard: Option<EvalShard>,
    /// Put the shares in these directories together, the other settings being the same
    #[arg(long, value_name = "DIR", num_args = 1..)]
    merge: Vec<PathBuf>,
    /// Replace results that prune made before; files of others are never touched
    #[arg(long)]
    force: bool,
    /// Of several processes that score together (torchrun, srun): seconds after which one that nothing is heard of is
    /// taken for dead [default: 60]
    #[arg(long, value_name = "S")]
    rank_timeout: Option<u64>,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeArgs,
    /// Tokens of a pass at most [default: what suits model and memory]
    #[arg(long, value_name = "T")]
    pass_tokens: Option<usize>,
    /// Say what would be done and what it takes, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &EvalArgs, context: &Context) -> Result<()> {
    let settings = context.settings("eval", args)?;
    let report = eval::eval(&settings, &context.bars)?;
    match &report.group {
        // process 0 tells it
        Some(group) if group.members.rank > 0 => Ok(()),
        _ => context.output.report(&report, || report.text()),
    }
}
