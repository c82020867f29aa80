//! Making a GGUF file of a checkpoint: names, config and tokenizer as llama.cpp has them, numbers in the type that is
//! asked for.
//!
//! Source: `convert_hf_to_gguf.py` of llama.cpp. `metadata` says what the config says, `tokenizer` the vocabulary,
//! `stored` which type a tensor gets and its blocks, by candle's quantizers.

mod metadata;
mod stored;
mod tokenizer;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

use crate::arch::{ModelSpec, RopeScaling};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::gguf::{FAMILIES, Family, GgufFile, GgufTensor, is_router, kind_named, llama3};
use crate::progress::Progress;
use crate::weights::Numbers;
use crate::{Context, Error, Result};

pub use stored::{STORED, StoredAs};

/// What the file is called.
const NAME: &str = "model.gguf";

/// Where the numbers of a tensor come from.
#[derive(Debug)]
enum From {
    /// A tensor of the checkpoint; of so many heads, whose halves go between each other.
    Tensor(String, Option<usize>),
    /// Of each expert a tensor of the checkpoint.
    Experts(Vec<String>),
    /// Of each matrix of a tensor of the checkpoint the half of this number.
    Half(String, usize),
    /// These.
    Made(Vec<f32>),
}

/// A GGUF file to be written, decided in full.
#[derive(Debug)]
pub struct Export {
    source: Arc<Checkpoint>,
    file: GgufFile,
    from: Vec<From>,
    /// Matrices whose rows are no whole blocks of the type asked for.
    odd: usize,
}

impl Export {
    /// What becomes of `source`, which is the model `spec` and is called `name`, with its matrices in the type
    /// `stored`.
    ///
    /// # Errors
    /// Request: a family or a switch that llama.cpp does not have or this program has no names for, a tokenizer
    /// that llama.cpp has no name for. Work: a broken tokenizer, a tensor that is missing.
    pub fn new(source: &Arc<Checkpoint>, spec: &ModelSpec, stored: &StoredAs, name: &str) -> Result<Self> {
        let family = family(spec)?;
        metadata::check(spec, family)?;
        let mut pairs = metadata::pairs(name, spec, family, stored)?;
        pairs.extend(tokenizer::pairs(&source.source.dir, spec)?);
        let (mut tensors, mut from, mut odd) = (Vec::new(), Vec::new(), 0);
        let mut add = |name: &str, shape: Vec<usize>| -> Result<()> {
            if let Some((ours, expert)) = family.expert(name) {
                let count = spec.experts.map_or(0, |experts| experts.count);
                if expert == 0 {
                    let shape = [vec![count], shape].concat();
                    let kind = stored.kind(&shape, false);
                    odd += usize::from(kind.name != stored.kind_of(false).name);
                    from.push(From::Experts(family.of_experts(&ours, count).unwrap_or_default()));
                    tensors.push(GgufTensor { name: ours, shape, kind });
                }
                return Ok(());
            }
            if let (Some(halves), [count, rows, width]) = (family.halves(name), &shape[..]) {
                for (at, ours) in halves.into_iter().enumerate() {
                    let shape = vec![*count, rows / 2, *width];
                    let kind = stored.kind(&shape, false);
                    odd += usize::from(kind.name != stored.kind_of(false).name);
                    from.push(From::Half(name.to_owned(), at));
                    tensors.push(GgufTensor { name: ours, shape, kind });
                }
                return Ok(());
            }
            let ours = family.ours(name).ok_or_else(|| Error::request(format!("llama.cpp has no name for {name}")))?;
            let is_head = name == spec.head_tensor(source);
            let shape = family.our_shape(&ours, shape);
            let kind = if is_router(&ours) { f32_kind()? } else { stored.kind(&shape, is_head) };
            odd += usize::from(shape.len() > 1 && !is_router(&ours) && kind.name != stored.kind_of(is_head).name);
            let heads = family.permuted(&ours, (spec.heads, spec.kv_heads));
            tensors.push(GgufTensor { name: ours, shape, kind });
            from.push(From::Tensor(name.to_owned(), heads));
            Ok(())
        };
        let table = vec![spec.vocab_size, spec.hidden_size];
        let (embedding, head) = (spec.embedding_tensor(source), spec.head_tensor(source));
        add(embedding, table.clone())?;
        for layer in 0..spec.layers {
            for tensor in spec.layer_tensors(layer) {
                add(&tensor.name, tensor.shape)?;
            }
        }
        add(&spec.final_norm_tensor(), vec![spec.hidden_size])?;
        if head != embedding {
            add(head, table)?;
        }
        for (name, numbers) in rotations(spec)? {
            tensors.push(GgufTensor { name: name.to_owned(), shape: vec![numbers.len()], kind: f32_kind()? });
            from.push(From::Made(numbers));
        }
        let file = GgufFile::new(NAME, &pairs, tensors, None)?;
        Ok(Self { source: source.clone(), file, from, odd })
    }

    /// The file's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.file.size()
    }

    /// Bytes of its tensors.
    #[must_use]
    pub fn data(&self) -> u64 {
        self.file.data()
    }

    /// Tensors in the file.
    #[must_use]
    pub fn tensors(&self) -> usize {
        self.file.tensors.len()
    }

    /// Matrices in another type than was asked for: their rows are no whole blocks of that.
    #[must_use]
    pub fn odd(&self) -> usize {
        self.odd
    }

    /// Writes the file into `dir`, some rows of a tensor in memory at a time, of heads that are permuted a tensor.
    ///
    /// # Errors
    /// Work: the disk is full, a tensor that cannot be read, a number that is not finite. Interrupted.
    pub fn write(&self, dir: &Path, progress: &dyn Progress) -> Result<()> {
        let mut from = self.from.iter();
        self.file.write(dir, progress, |tensor, file| {
            let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(|error| Error::work(error.to_string()));
            match from.next() {
                Some(From::Made(numbers)) => put(bytemuck::cast_slice(numbers)),
                Some(From::Tensor(name, heads)) => {
                    let place = || format!("tensor {name}");
                    let entry = self.source.entry(name)?;
                    let numbers = Numbers::open(&self.source, entry, &tensor.shape).context(place)?;
                    match heads {
                        Some(heads) => {
                            let whole = permuted(&numbers.whole(candle_core::DType::F32)?, *heads)?;
                            put(&stored::blocks(&whole, tensor.kind).context(place)?)
                        }
                        None => numbers.pieces(|_, piece| put(&stored::blocks(&piece, tensor.kind).context(place)?)),
                    }
                }
                Some(From::Experts(names)) => names.iter().try_for_each(|name| {
                    let place = || format!("tensor {name}");
                    let numbers = Numbers::open(&self.source, self.source.entry(name)?, &tensor.shape[1..]);
                    let numbers = numbers.context(place)?;
                    numbers.pieces(|_, piece| put(&stored::blocks(&piece, tensor.kind).context(place)?))
                }),
                Some(From::Half(name, at)) => {
                    let place = || format!("tensor {name}");
                    let entry = self.source.entry(name)?;
                    let numbers = Numbers::open(&self.source, entry, &entry.shape).context(place)?;
                    numbers.pieces(|_, piece| {
                        let rows = piece.dim(1)? / 2;
                        let half = piece.narrow(1, at * rows, rows)?.contiguous()?;
                        put(&stored::blocks(&half, tensor.kind).context(place)?)
                    })
                }
                None => Err(Error::work("more tensors than were decided")),
            }
        })
    }
}

fn f32_kind() -> Result<&'static crate::checkpoint::gguf::Kind> {
    kind_named("F32").ok_or_else(|| Error::work("no F32"))
}

/// The family that llama.cpp takes the model for.
fn family(spec: &ModelSpec) -> Result<&'static Family> {
    let name = match spec.model_type.as_str() {
        // Llama in all but their configs
        "mistral" | "internlm3" => "llama",
        name => name,
    };
    FAMILIES.iter().find(|family| family.model_type == name).ok_or_else(|| {
        let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
        Error::request(format!(
            "model_type {:?} is not written as GGUF; known are mistral, internlm3, {}",
            spec.model_type,
            known.join(", ")
        ))
    })
}

/// The halves of each head between each other: row `s·e/2 + j` of a head goes to `2·j + s`.
fn permuted(tensor: &Tensor, heads: usize) -> Result<Tensor> {
    let shape = tensor.dims().to_vec();
    let rows = shape.first().copied().unwrap_or(0);
    let width: usize = shape.iter().skip(1).product();
    let parts = tensor.reshape((heads, 2, rows / heads / 2, width))?.transpose(1, 2)?;
    Ok(parts.contiguous()?.reshape(shape)?)
}

/// Divisors of rotations that llama.cpp reads as tensors.
fn rotations(spec: &ModelSpec) -> Result<Vec<(&'static str, Vec<f32>)>> {
    let narrow = |numbers: &[f64]| numbers.iter().map(|number| *number as f32).collect::<Vec<f32>>();
    Ok(match &spec.rope.scaling {
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_positions } => {
            let ramp = (*factor, *low_freq_factor, *high_freq_factor, *original_max_positions as u64);
            vec![("rope_freqs.weight", narrow(&llama3(spec.rope.theta, spec.rope.rotary_dim, ramp)))]
        }
        RopeScaling::LongRope { short, long, .. } => {
            vec![("rope_factors_long.weight", narrow(long)), ("rope_factors_short.weight", narrow(short))]
        }
        _ => Vec::new(),
    })
}
