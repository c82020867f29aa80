//! GGUF, the file of llama.cpp: one file, or several of one model, that hold tensors, config, tokenizer and chat
//! template.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>, versions 2 and 3, little-endian. `header` reads
//! what a file says, bounded by its length; `kinds` is the table of types in which tensors are stored, `blocks` and
//! `packed` make numbers of them; `families` says which architectures are which of transformers, `config` makes a
//! `config.json` of the metadata and `tokenizer` a `tokenizer.json`; `unpacked` puts these where the files beside a
//! model's weights are looked for; `file` writes one.
//!
//! candle reads GGUF as well. Its reader is not used here: it keeps no order and the last of two equal keys, takes
//! thirty-two bytes for each of an array of bytes, divides by an alignment of zero, and knows no IQ4 types. Its
//! decoders are used where they are bit for bit those of the `gguf` package (`kinds`). Its tokenizer is not: it takes
//! every name it does not know for GPT-2's, SmolLM's too, and lets SentencePiece be.
//!
//! # Add a family
//! A row of [`FAMILIES`](families::FAMILIES).

mod blocks;
mod config;
mod families;
mod file;
mod header;
mod indexed;
mod kinds;
mod merges;
mod opened;
mod packed;
mod pre;
mod rope;
mod tokenizer;
mod unpacked;
mod value;

pub(crate) use families::{FAMILIES, Family, is_router, layer};
pub(crate) use file::{GgufFile, GgufTensor, MetaValue};
pub(crate) use header::Pair;
pub(crate) use kinds::{KINDS, Kind, kind_named};
pub(crate) use opened::Gguf;
pub(super) use opened::{in_dir, is_gguf, open, split};
pub(super) use packed::Packed;
pub(crate) use pre::Pre;
pub(crate) use rope::llama3;
pub(crate) use value::Value;
