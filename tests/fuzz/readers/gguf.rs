//! GGUF files: what their metadata and tensor infos say, and their bytes.

use std::path::Path;

use candle_core::Device;
use prune::arch::ModelSpec;
use prune::checkpoint::Checkpoint;
use prune::commands::convert::{ConvertSettings, convert};
use prune::commands::cut::{CutSettings, cut};
use prune::data::{Special, Tokenizer};
use rand::Rng as _;

use super::super::bytes;
use super::super::case::Rng;
use super::{Feed, Files};
use crate::fixture::gguf::{Gguf, list, plain, text};

const NAME: &str = "m.gguf";

/// Numbers that sizes, counts and places are set to.
const ODD: [u64; 12] = [0, 1, 2, 7, 31, 32, 255, 1 << 20, 1 << 31, 1 << 40, 1 << 63, u64::MAX];

/// A small Llama with a tokenizer of pieces.
fn llama() -> Gguf {
    let tokens = ["<unk>", "<s>", "</s>", "<0x61>", "a", "b", "\u{2581}", "ab", "\u{2581}a", "c"];
    let kinds = [2_i32, 3, 3, 6, 1, 1, 1, 1, 1, 4];
    let mut file = Gguf::default()
        .text("general.architecture", "llama")
        .u32("llama.block_count", 2)
        .u32("llama.context_length", 64)
        .u32("llama.embedding_length", 8)
        .u32("llama.feed_forward_length", 8)
        .u32("llama.attention.head_count", 2)
        .u32("llama.attention.head_count_kv", 1)
        .u32("llama.rope.dimension_count", 4)
        .f32("llama.rope.freq_base", 10000.0)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5)
        .text("tokenizer.ggml.model", "llama")
        .list("tokenizer.ggml.tokens", 8, &tokens.map(text))
        .list("tokenizer.ggml.token_type", 5, &kinds.map(|kind| kind.to_le_bytes().to_vec()))
        .list("tokenizer.ggml.scores", 6, &[0.0_f32; 10].map(|score| score.to_le_bytes().to_vec()))
        .u32("tokenizer.ggml.bos_token_id", 1)
        .u32("tokenizer.ggml.eos_token_id", 2)
        .text("tokenizer.chat_template", "{{ messages[0]['content'] }}")
        .numbers("token_embd.weight", &[8, 10])
        .numbers("output_norm.weight", &[8]);
    for layer in 0..2 {
        let sizes: [(&str, &[u64]); 9] = [
            ("attn_norm", &[8]),
            ("attn_q", &[8, 8]),
            ("attn_k", &[8, 4]),
            ("attn_v", &[8, 4]),
            ("attn_output", &[8, 8]),
            ("ffn_norm", &[8]),
            ("ffn_gate", &[8, 8]),
            ("ffn_up", &[8, 8]),
            ("ffn_down", &[8, 8]),
        ];
        for (module, sizes) in sizes {
            file = file.numbers(&format!("blk.{layer}.{module}.weight"), sizes);
        }
    }
    file
}

fn odd(rng: &mut Rng) -> u64 {
    ODD[rng.random_range(0..ODD.len())]
}

/// A change of what the file says.
fn change(rng: &mut Rng, file: &mut Gguf) {
    let pair = rng.random_range(0..file.pairs.len());
    let tensor = rng.random_range(0..file.tensors.len());
    match rng.random_range(0..12) {
        0 => file.claims[rng.random_range(0..2)] = Some(odd(rng)),
        1 => drop(file.pairs.remove(pair)),
        2 => file.pairs[pair].1 = rng.random_range(0..14),
        3 => file.pairs[pair].2 = odd(rng).to_le_bytes()[..rng.random_range(1..9)].to_vec(),
        4 => {
            let value = &mut file.pairs[pair].2;
            let at = rng.random_range(0..value.len().max(1));
            if let Some(byte) = value.get_mut(at) {
                *byte = rng.random();
            }
        }
        5 => {
            let twice = file.pairs[pair].clone();
            file.pairs.push(twice);
        }
        6 => {
            let depth = rng.random_range(1..40);
            let nested = (0..depth).fold(list(4, &[]), |inner, _| list(9, &[inner]));
            file.pairs.push(("x".to_owned(), 9, nested));
        }
        7 => {
            let sizes = &mut file.tensors[tensor].sizes;
            let at = rng.random_range(0..sizes.len());
            sizes[at] = odd(rng);
        }
        8 => file.tensors[tensor].kind = rng.random_range(0..45),
        9 => file.tensors[tensor].offset = Some(odd(rng)),
        10 => {
            let name =
                ["blk.1.x.weight", "blk.99999999999999999999.attn_q.weight", "", "output.weight", "rope_freqs.weight"];
            file.tensors[tensor].name = name[rng.random_range(0..name.len())].to_owned();
        }
        _ => *file = Gguf { alignment: [8, 32, 64][rng.random_range(0..3)], ..file.clone() },
    }
}

/// A file with some changes; what opens is read, tokenized, cut and converted.
pub(super) fn gguf(dir: &Path) -> Feed {
    let good = [llama(), plain("gpt2", 3)];
    let files = Files::of(dir);
    Box::new(move |case| {
        let mut file = good[usize::from(case.is_one_in(3))].clone();
        for _ in 0..case.rng.random_range(1..4) {
            if !file.tensors.is_empty() && !file.pairs.is_empty() {
                change(&mut case.rng, &mut file);
            }
        }
        let mut whole = file.bytes();
        if case.is_one_in(4) {
            bytes::change(&mut case.rng, &mut whole, &[]);
        }
        if case.is_one_in(8) {
            whole.truncate(case.rng.random_range(0..=whole.len()));
        }
        files.replace(&[(NAME, whole)]);
        let path = files.dir.join(NAME);
        let Some(checkpoint) = case.heard(Checkpoint::open_dir(&path)) else { return };
        for entry in checkpoint.tensors.values() {
            // what a file holds is no more than some kilobytes
            match case.heard(checkpoint.read(entry)) {
                Some(bytes) if bytes.len() as u64 != entry.len => case.fault("a tensor of another length"),
                _ => {}
            }
            case.heard(checkpoint.load_f32(&entry.name, &entry.shape, &Device::Cpu));
        }
        if let Some(spec) = case.heard(ModelSpec::from_config(&checkpoint.config)) {
            case.heard(spec.check(&checkpoint));
        }
        if checkpoint.source.dir.join("tokenizer.json").exists()
            && let Some(tokenizer) = case.heard(Tokenizer::open(&checkpoint.source.dir))
        {
            case.heard(tokenizer.encode("ab a <s>\u{e9}", Special::Default));
        }
        let model = Some(path.display().to_string());
        let out = Some(files.dir.join("out"));
        let settings =
            CutSettings { model: model.clone(), deepest: Some(1), out, force: true, ..CutSettings::default() };
        case.listen(|progress| cut(&CutSettings { dry_run: true, ..settings }, progress));
        let settings =
            ConvertSettings { model, to: Some("gguf".to_owned()), dry_run: true, ..ConvertSettings::default() };
        case.listen(|progress| convert(&settings, progress));
    })
}
