//! Which text is measured on, and how it becomes sequences: the same flags for the commands that measure.

use clap::Args;
use serde::Serialize;

/// Flags of commands that measure on a sample of text, beside its name and its size.
#[derive(Args, Serialize)]
pub(super) struct TextArgs {
    /// Field of the rows that holds the text; several are joined: prompt+completion [default: text]
    #[arg(long, value_name = "NAME")]
    text_field: Option<String>,
    /// How a plain text file is cut into documents [default: document, the whole file]
    #[arg(long, value_name = "HOW", value_parser = ["document", "lines", "paragraphs"])]
    text_split: Option<String>,
    /// A row that cannot be read is an error, or passed over and counted [default: error]
    #[arg(long, value_name = "WHAT", value_parser = ["error", "skip"])]
    on_bad_row: Option<String>,
    /// Tokens of a sequence at most [default: 2048, or the model's context]
    #[arg(long, value_name = "T")]
    seq_len: Option<usize>,
    /// Sequences: one a document, or documents joined and cut [default: document]
    #[arg(long, value_name = "HOW", value_parser = ["document", "packed"])]
    packing: Option<String>,
    /// What stands between documents; auto: EOS between packed ones where the tokenizer adds neither BOS nor EOS
    /// [default: auto]
    #[arg(long, value_name = "WHICH", value_parser = ["auto", "eos", "bos", "none"])]
    separator: Option<String>,
    /// Whether a packed document sees those before it in its sequence, or itself only, its positions from 0
    /// [default: across]
    #[arg(long, value_name = "HOW", value_parser = ["across", "within"])]
    attention: Option<String>,
}
