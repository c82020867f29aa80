//! `prune heal`.

use std::path::PathBuf;

use clap::Args;
use prune::Result;
use prune::commands::heal;
use serde::Serialize;

use super::compute::ComputeArgs;
use super::{Context, heal_text};

/// What rows may hold.
const FORMS: [&str; 6] = ["auto", "text", "messages", "sharegpt", "alpaca", "prompt-completion"];

/// Fine-tunes a cut model with QLoRA: frozen four-bit weights, LoRA adapters
#[derive(Args, Serialize)]
#[command(after_help = "Examples:
  prune heal ./llama-24 --data c4.jsonl -o healed                    the paper's recipe
  prune heal ./llama-24 --data c4.jsonl --eval-data val.jsonl --rank 8 --steps 500 -o healed
  prune heal ./llama-24 --data c4.jsonl --eval-data val.jsonl --quant none -o healed
                                                                     nothing lost to four bits
  prune heal ./llama-24 --data c4.jsonl --rank 4..12 --layers-to-transform 8-23 -o healed
                                                                     ranks rise with depth
  prune heal ./llama-24 --data c4.jsonl --train lm-head+last3 --quant none -o healed
  prune heal ./llama-36 --data c4.jsonl --layers-to-transform inserted -o healed
                                                                     only what prune grow put in
  prune heal ./llama-24 --data c4.jsonl --teacher ./llama -o healed  learn from the uncut model
  prune heal ./llama-24 --data c4.jsonl --teacher ./llama --divergence jsd --jsd-beta 0.1 -o healed
  prune heal ./llama-24 --data c4.jsonl --teacher ./llama --hidden-states seam -o healed
                                                                     its streams as well
  prune heal ./llama-24 --data c4.jsonl --teacher ./llama --divergence jsd --on-policy 0.5 -o healed
                                                                     half of it written by itself
  prune heal ./llama-24 --data chat.jsonl --eval-data chat-val.jsonl -o healed
                                                                     conversations: learns the answers
  prune heal ./llama-24 --data c4.jsonl --data code.jsonl --weights 3,1 -o healed
                                                                     three of four sequences of C4
  prune heal ./llama-24 --data c4.jsonl --eval-data val.jsonl --eval-tasks boolq -o healed
                                                                     asked as it learns (--best-by accuracy)
  prune heal ./llama-24 --data c4.jsonl --dry-run                    memory, disk and time
With --eval-data the uncut model, the cut one and the one that is written are measured on the same tokens.
A run that was stopped goes on when the same command is given again.
Processes that torchrun, srun or mpirun starts share each step and write what one would.
Settings that stand in a file only: beta1, beta2, eps (AdamW); rank_pattern, alpha_pattern (tables: an
expression over modules = their own rank or alpha, as in PEFT).")]
pub(crate) struct HealArgs {
    /// The cut model: a directory or a hub id
    #[arg(required_unless_present = "config")]
    model: Option<String>,
    /// Text to train on: a file (.jsonl, .json, .parquet, .csv, .txt; also .gz, .zst, .bz2, .xz) or a directory of
    /// files (its train split); given again, sequences come from each in turn
    #[arg(long, value_name = "SRC", required_unless_present = "config")]
    data: Vec<String>,
    /// Of several texts, how much of the sequences comes from each, such as 3,1 [default: the same from each]
    #[arg(long, value_name = "W,W", value_delimiter = ',', help_heading = "Text")]
    weights: Vec<f64>,
    /// Directory of the results: adapter, merged model, log, loss curve
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Field of the rows that holds the text; several are joined: prompt+completion [default: text]
    #[arg(long, value_name = "NAME", help_heading = "Text")]
    text_field: Option<String>,
    /// How a plain text file is cut into documents [default: document, the whole file]
    #[arg(long, value_name = "HOW", value_parser = ["document", "lines", "paragraphs"], help_heading = "Text")]
    text_split: Option<String>,
    /// A row that cannot be read is an error, or passed over and counted [default: error]
    #[arg(long, value_name = "WHAT", value_parser = ["error", "skip"], help_heading = "Text")]
    on_bad_row: Option<String>,
    /// What rows hold: a text, or conversations [default: auto, told by the first rows; a text where they have its
    /// field]
    #[arg(long, value_name = "FORM", value_parser = FORMS, help_heading = "Text")]
    form: Option<String>,
    /// Which tokens of conversations are learned and measured [default: answers]
    #[arg(long, value_name = "WHICH", value_parser = ["answers", "all"], help_heading = "Text")]
    loss_on: Option<String>,
    /// Chat template, a file of Jinja [default: the model's own]
    #[arg(long, value_name = "FILE", help_heading = "Text")]
    chat_template: Option<PathBuf>,
    /// Tokens of a sequence at most [default: 2048, or the model's positions if fewer]
    #[arg(long, value_name = "T", help_heading = "Text")]
    seq_len: Option<usize>,
    /// Sequences, to train and to validate: documents joined and cut, or one a document [default: packed,
    /// conversations one each]
    #[arg(long, value_name = "HOW", value_parser = ["document", "packed"], help_heading = "Text")]
    packing: Option<String>,
    /// What stands between documents; auto: EOS between packed ones where the tokenizer adds neither BOS nor EOS
    /// [default: auto]
    #[arg(long, value_name = "WHICH", value_parser = ["auto", "eos", "bos", "none"], help_heading = "Text")]
    separator: Option<String>,
    /// Whether a packed document sees those before it in its sequence, or itself only, its positions from 0
    /// [default: across]
    #[arg(long, value_name = "HOW", value_parser = ["across", "within"], help_heading = "Text")]
    attention: Option<String>,
    /// Sequences are shuffled among so many; 1 keeps the order of the text [default: 8192]
    #[arg(long, value_name = "N", help_heading = "Text")]
    shuffle_window: Option<usize>,
    /// Text to measure losses on: while training, and of the uncut, the cut and the written model; of a directory its
    /// validation split
    #[arg(long, value_name = "SRC", help_heading = "Text")]
    eval_data: Option<String>,
    /// The uncut model, to measure beside the others [default: the teacher, or what the cut model's prune.json names]
    #[arg(long, value_name = "MODEL", help_heading = "Text")]
    reference: Option<String>,
    /// Sequences of the validation text: its first ones [default: 100]
    #[arg(long, value_name = "N", help_heading = "Text")]
    eval_samples: Option<usize>,
    /// Steps between two validations; 0 validates at the end only [default: 100]
    #[arg(long, value_name = "K", help_heading = "Text")]
    eval_every: Option<usize>,
    /// Tasks of questions with choices to ask at each validation, such as boolq,mmlu_stem
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = "Text")]
    eval_tasks: Vec<String>,
    /// Folder of tasks in lm-evaluation-harness's YAML files, to be named in --eval-tasks
    #[arg(long, value_name = "DIR", help_heading = "Text")]
    eval_include_path: Option<PathBuf>,
    /// Folder with their data, or for a single task the file [default: the hub and its cache]
    #[arg(long, value_name = "DIR", help_heading = "Text")]
    eval_data_dir: Option<PathBuf>,
    /// First questions of each task: a number, or a share when below 1
    #[arg(long, value_name = "N", help_heading = "Text")]
    eval_limit: Option<f64>,
    /// Examples in front of each question [default: each task's own number]
    #[arg(long, value_name = "N", help_heading = "Text")]
    eval_few_shot: Option<usize>,
    /// Which validation is the best one, whose parameters are written: that of the lowest loss, or that with the most
    /// right answers [default: loss]
    #[arg(long, value_name = "WHAT", value_parser = ["loss", "accuracy"], help_heading = "Text")]
    best_by: Option<String>,
    /// Stop when so many validations in a row were no better than the best before them [default: never]
    #[arg(long, value_name = "N", help_heading = "Text")]
    patience: Option<usize>,
    /// Write what the last step gave, not what did best in validation
    #[arg(long, help_heading = "Text")]
    keep_last: bool,
    /// What is trained: lora; layers, those of --layers-to-transform whole; or lm-head+lastK [default: lora]
    #[arg(long, value_name = "WHAT", help_heading = "Adapters")]
    train: Option<String>,
    /// Rank of the adapters; 4..12 on a line from the lowest adapted layer to the highest, rounded [default: the
    /// paper's 64]
    #[arg(long, value_name = "R", help_heading = "Adapters")]
    rank: Option<String>,
    /// Strength of the adapters: updates are scaled by alpha over the rank of their layer [default: that rank]
    #[arg(long, value_name = "A", help_heading = "Adapters")]
    alpha: Option<f64>,
    /// Share of the adapters' inputs dropped in training [default: 0.05]
    #[arg(long, value_name = "P", help_heading = "Adapters")]
    dropout: Option<f64>,
    /// Rank-stabilised scaling
    #[arg(long, help_heading = "Adapters")]
    rslora: bool,
    /// A magnitude for each output beside the update (DoRA); on a CPU. --dropout 0 saves a product each way
    #[arg(long, help_heading = "Adapters")]
    dora: bool,
    /// Adapted layers: mlp, attention, all-linear, or module names [default: mlp]
    #[arg(long, value_name = "WHICH", help_heading = "Adapters")]
    target: Option<String>,
    /// Layers that get adapters, or with --train layers are trained whole, such as 8-15,20; inserted: those that prune
    /// grow put in [default: all]
    #[arg(long, value_name = "LAYERS", help_heading = "Adapters")]
    layers_to_transform: Option<String>,
    /// Adapter in PEFT's files to start from
    #[arg(long, value_name = "DIR", help_heading = "Adapters")]
    adapter: Option<PathBuf>,
    /// How the frozen weights are held: nf4 takes a quarter of bf16's memory, but a part of what is learned only makes
    /// up for the rounding and is lost in the merged model; none trains against the weights that are written, where the
    /// memory allows [default: nf4]
    #[arg(long, value_name = "HOW", value_parser = ["nf4", "none"], help_heading = "Adapters")]
    quant: Option<String>,
    /// Keep the scales of four-bit weights in f32 instead of quantising them as well
    #[arg(long, help_heading = "Adapters")]
    plain_scales: bool,
    /// Optimiser steps [default: 5000]
    #[arg(long, value_name = "N", help_heading = "Training")]
    steps: Option<usize>,
    /// Sequences of a step [default: 16]
    #[arg(long, value_name = "B", help_heading = "Training")]
    batch: Option<usize>,
    /// Tokens that go through the model together [default: 512]
    #[arg(long, value_name = "T", help_heading = "Training")]
    pass_tokens: Option<usize>,
    /// Highest learning rate [default: 0.0003]
    #[arg(long, value_name = "LR", help_heading = "Training")]
    lr: Option<f64>,
    /// How it goes after the warm-up [default: cosine]
    #[arg(long, value_name = "HOW", value_parser = ["cosine", "linear", "constant"], help_heading = "Training")]
    schedule: Option<String>,
    /// Steps of the warm-up, or, below 1, its share [default: 100, at most a tenth of the run]
    #[arg(long, value_name = "N", help_heading = "Training")]
    warmup: Option<f64>,
    /// AdamW's weight decay [default: 0]
    #[arg(long, value_name = "W", help_heading = "Training")]
    weight_decay: Option<f64>,
    /// Norm at which gradients are clipped; 0 does not [default: 1]
    #[arg(long, value_name = "NORM", help_heading = "Training")]
    clip: Option<f64>,
    /// Seed of adapters, shuffle and dropout [default: 0]
    #[arg(long, value_name = "SEED", help_heading = "Training")]
    seed: Option<u64>,
    /// The uncut model, to learn from
    #[arg(long, value_name = "MODEL", help_heading = "Training")]
    teacher: Option<String>,
    /// Weight of the divergence from the teacher, 0 to 1 [default: 0.5]
    #[arg(long, value_name = "W", requires = "teacher", help_heading = "Training")]
    teacher_weight: Option<f64>,
    /// Softens teacher's and model's distributions [default: 1]
    #[arg(long, value_name = "T", requires = "teacher", help_heading = "Training")]
    temperature: Option<f64>,
    /// Divergence from the teacher: kl, reverse-kl, or jsd between the two, as in TRL's GKD [default: kl]
    #[arg(long, value_name = "WHICH", value_parser = ["kl", "reverse-kl", "jsd"], help_heading = "Training")]
    divergence: Option<String>,
    /// Of jsd: the weight of the teacher in the mixture, above 0 (towards kl), below 1 (towards reverse-kl)
    /// [default: 0.5]
    #[arg(long, value_name = "B", help_heading = "Training")]
    jsd_beta: Option<f64>,
    /// Hold streams of the model against the teacher's: at the seam, as its prune.json tells, or what enters layers
    /// such as 8,12-14; the mean squared difference joins the loss
    #[arg(long, value_name = "LAYERS", help_heading = "Training")]
    hidden_states: Option<String>,
    /// What that difference is multiplied with [default: 1]
    #[arg(long, value_name = "W", help_heading = "Training")]
    hidden_weight: Option<f64>,
    /// Share of the sequences that the model writes itself, from their beginnings or what conversations ask, and learns
    /// by the divergence from the teacher alone [default: 0]
    #[arg(long, value_name = "SHARE", help_heading = "Training")]
    on_policy: Option<f64>,
    /// Tokens that it writes at most: the first number at the beginning, the second once few of its texts end in
    /// repetitions; or one number [default: 64..512]
    #[arg(long, value_name = "N..M", help_heading = "Training")]
    rollout_tokens: Option<String>,
    /// Of a plain text the first tokens, which it goes on with [default: 32, at most half a sequence]
    #[arg(long, value_name = "N", help_heading = "Training")]
    prompt_tokens: Option<usize>,
    /// Steps between two saved states [default: 100]
    #[arg(long, value_name = "K", help_heading = "Output")]
    save_every: Option<usize>,
    /// Write loss, learning rate, speed and norms of gradients for TensorBoard as well: while it runs in DIR.healing,
    /// then in DIR/tensorboard
    #[arg(long, value_name = "FOR", value_parser = ["tensorboard"], help_heading = "Output")]
    track: Option<String>,
    /// Write the adapter alone, no merged model
    #[arg(long, help_heading = "Output")]
    adapter_only: bool,
    /// Weights the adapter is merged onto: full, the cut model's own, the better ones where it was measured;
    /// quantized, what nf4 left of them, so that what was trained is what is written, rounding error included
    /// [default: full]
    #[arg(long, value_name = "WHICH", value_parser = ["full", "quantized"], help_heading = "Output")]
    merge_onto: Option<String>,
    /// Write the base model in four bits as well
    #[arg(long, help_heading = "Output")]
    save_4bit: bool,
    /// Size of a shard at most [default: 5GB]
    #[arg(long, value_name = "SIZE", help_heading = "Output")]
    max_shard_size: Option<String>,
    /// Go on with an unfinished run although its text has changed since, from the place in it that was reached
    #[arg(long, help_heading = "Output")]
    data_changed: bool,
    /// Forget the state of an unfinished run
    #[arg(long, help_heading = "Output")]
    restart: bool,
    /// Replace a directory that prune made before; files of others are never touched
    #[arg(long)]
    force: bool,
    /// Of several processes that train together (torchrun, srun): seconds after which one that nothing is heard of is
    /// taken for dead [default: 60]
    #[arg(long, value_name = "S")]
    rank_timeout: Option<u64>,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeArgs,
    /// Say what it takes, and stop
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &HealArgs, context: &Context) -> Result<()> {
    let settings = context.settings("heal", args)?;
    let report = heal::heal(&settings, &context.bars)?;
    match &report.group {
        // process 0 tells it
        Some(group) if group.members.rank > 0 => Ok(()),
        _ => context.output.report(&report, || heal_text::text(&report)),
    }
}
