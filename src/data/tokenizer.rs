//! Text to token ids and back, as the checkpoint's `tokenizer.json` says.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::models::ModelWrapper;
use tokenizers::{Encoding, PostProcessor, PostProcessorWrapper, Tokenizer as Inner};

use super::guard::fenced;
use super::special::{Declared, missing};
use super::windows::{self, Neighbors};
use crate::files::{self, Bound};
use crate::{Error, Result, interrupt};

/// Which special tokens an encoded text gets. Special tokens written inside the text count in all three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Special {
    /// Those that the tokenizer adds by itself: BOS for Llama and Mistral, none for Qwen2.
    #[default]
    Default,
    /// None: `add_special_tokens=False`.
    None,
    /// As [`Special::Default`], and BOS in front where the tokenizer leaves it out.
    Always,
}

/// Whose tokenizer it is when `tokenizer.json` and transformers 5 disagree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rules {
    /// `tokenizer.json` decides: what the model was trained with, what transformers 4 gives and what
    /// `PreTrainedTokenizerFast` of transformers 5 gives.
    #[default]
    File,
    /// As `AutoTokenizer` of transformers 5, which for `tokenizer_class` `LlamaTokenizer`, `Qwen2Tokenizer` and
    /// `GPT2Tokenizer` keeps the vocabulary and builds the rest anew: other ids for some texts (Llama 2: those that
    /// start with a space). For comparing with numbers made that way.
    Transformers5,
}

/// A checkpoint's tokenizer.
///
/// `add_bos_token` and `add_eos_token` of `tokenizer_config.json` count for nothing beside `tokenizer.json`, as in
/// transformers 5: its post-processor holds what they led to. Special tokens that it lacks and the other files declare
/// are added as transformers adds them. Truncation, padding and dropout stored in it are switched off: they are left
/// over from somebody's training.
pub struct Tokenizer {
    /// All of it but what puts special tokens around a text.
    pub(super) inner: Inner,
    around: Option<PostProcessorWrapper>,
    neighbors: Neighbors,
    path: PathBuf,
    bos: Option<u32>,
    eos: Option<u32>,
    pad: Option<u32>,
    vocabulary: Option<u64>,
    max_length: Option<usize>,
    named: Map<String, Value>,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({})", self.path.display())
    }
}

impl Tokenizer {
    /// Opens `tokenizer.json` of a checkpoint directory with what the files beside it declare.
    ///
    /// # Errors
    /// [`Error::Request`] when there is no `tokenizer.json`, [`Error::Work`] when it or a file beside it is broken.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self> {
        Self::open_as(directory, Rules::File)
    }

    /// [`Tokenizer::open`] by other rules.
    ///
    /// # Errors
    /// As [`Tokenizer::open`].
    pub fn open_as(directory: impl AsRef<Path>, rules: Rules) -> Result<Self> {
        let directory = directory.as_ref();
        let path = directory.join("tokenizer.json");
        if !path.exists() {
            return Err(missing(directory));
        }
        let bytes = files::json_text(&path, Bound::TOKENIZER)?;
        if rules == Rules::File {
            return Self::new(bytes, Declared::read(directory, None)?, path);
        }
        let mut file = match serde_json::from_slice(&bytes) {
            Ok(file @ Value::Object(_)) => file,
            Ok(_) => return Err(Error::work(format!("{}: not a tokenizer: no JSON object", path.display()))),
            Err(error) => return Err(Error::work(format!("{}: not a tokenizer: {error}", path.display()))),
        };
        drop(bytes);
        let declared = Declared::read(directory, Some(&mut file))?;
        let text = file.to_string();
        drop(file);
        Self::new(text.into_bytes(), declared, path)
    }

    fn new(json: Vec<u8>, declared: Declared, path: PathBuf) -> Result<Self> {
        let broken = |fault: String| {
            let fault: String = fault.lines().next().unwrap_or_default().chars().take(200).collect();
            Error::work(format!("{}: not a tokenizer that can be read: {fault}", path.display()))
        };
        type Built = (Inner, Option<PostProcessorWrapper>, Declared);
        let build = move || -> tokenizers::Result<Built> {
            let mut inner = Inner::from_bytes(json)?;
            inner.with_truncation(None)?;
            inner.with_padding(None);
            without_dropout(&mut inner);
            inner.set_encode_special_tokens(declared.split_special);
            declared.add_to(&mut inner)?;
            let around = inner.get_post_processor().cloned();
            inner.with_post_processor(None::<PostProcessorWrapper>);
            Ok((inner, around, declared))
        };
        // many long tokens take minutes
        let built = interrupt::apart(|| fenced(build))?;
        let (inner, around, declared) = built.map_err(broken)?.map_err(|error| broken(error.to_string()))?;
        let id = |content: &Option<String>, fallback| content.as_ref().and_then(|c| inner.token_to_id(c)).or(fallback);
        Ok(Self {
            bos: id(&declared.bos, declared.ids.bos),
            eos: id(&declared.eos, declared.ids.eos),
            pad: id(&declared.pad, declared.ids.pad),
            vocabulary: declared.vocabulary,
            max_length: declared.max_length,
            named: declared.named,
            inner,
            around,
            neighbors: Neighbors::default(),
            path,
        })
    }

    /// The ids of `text`: what `tokenizer(text).input_ids` is in transformers.
    ///
    /// # Errors
    /// [`Error::Work`] when the tokenizer fails or gives an id that the model has no embedding for;
    /// [`Error::Request`] for [`Special::Always`] without a BOS token; [`Error::Interrupted`] in a long text.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        let encoded = fenced(|| self.ids(text, special != Special::None));
        let fault =
            |error: tokenizers::Error| interrupt::check().err().unwrap_or_else(|| self.fault(&error.to_string()));
        let mut ids = encoded.map_err(|fault| self.fault(&fault))?.map_err(fault)?;
        if special == Special::Always {
            let bos = self.bos.ok_or_else(|| Error::request(format!("{}: has no BOS token", self.path.display())))?;
            if ids.first() != Some(&bos) {
                ids.insert(0, bos);
            }
        }
        self.within_vocabulary(ids)
    }

    /// Refuses an id that the model has no embedding for.
    pub(super) fn within_vocabulary(&self, ids: Vec<u32>) -> Result<Vec<u32>> {
        match ids.iter().find(|id| self.vocabulary.is_some_and(|size| u64::from(**id) >= size)) {
            None => Ok(ids),
            Some(id) => {
                let token = self.inner.id_to_token(*id).unwrap_or_default();
                let size = self.vocabulary.unwrap_or_default();
                Err(self.fault(&format!("token {id} ({token:?}) lies outside the model's vocabulary of {size}")))
            }
        }
    }

    /// The ids of `text`, with the special tokens that the tokenizer puts around a text if `special`. A long one is
    /// seen through windows.
    fn ids(&self, text: &str, special: bool) -> tokenizers::Result<Vec<u32>> {
        if text.len() <= windows::WINDOW {
            let encoding = self.inner.encode_fast(text, false)?;
            return Ok(self.surround(encoding, special)?.get_ids().to_vec());
        }
        let head = self.inner.encode_fast("a", false)?;
        let plain = head.get_ids().to_vec();
        let whole = self.surround(head, special)?;
        let whole = whole.get_ids();
        let before = whole.windows(plain.len().max(1)).position(|part| part == plain);
        let before =
            before.ok_or("it puts something else than single tokens around a text, so no long one can be read")?;
        let mut ids = whole[..before].to_vec();
        windows::add_ids(&self.inner, &self.neighbors, text, &mut ids)?;
        ids.extend_from_slice(&whole[before + plain.len()..]);
        Ok(ids)
    }

    fn surround(&self, encoding: Encoding, special: bool) -> tokenizers::Result<Encoding> {
        match &self.around {
            Some(around) => around.process(encoding, None, special),
            None => Ok(encoding),
        }
    }

    /// The text of `ids`, without the special tokens if `skip_special`.
    ///
    /// # Errors
    /// [`Error::Work`] when the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        let decoded = fenced(|| self.inner.decode(ids, skip_special));
        decoded.map_err(|fault| self.fault(&fault))?.map_err(|error| self.fault(&error.to_string()))
    }

    /// The named special tokens, by name: `bos_token` and its like.
    pub(super) fn special_tokens(&self) -> &Map<String, Value> {
        &self.named
    }

    /// The token that starts a text, if the tokenizer has one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, if the tokenizer has one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The token that fills up batches, if the tokenizer has one.
    pub fn pad(&self) -> Option<u32> {
        self.pad
    }

    /// Whether the model has an embedding for a token, as far as its configuration tells.
    pub(super) fn has_embedding(&self, id: u32) -> bool {
        self.vocabulary.is_none_or(|size| u64::from(id) < size)
    }

    /// Tokens with those added to the base vocabulary: `len(tokenizer)`.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// `model_max_length` of `tokenizer_config.json` in tokens, where it is set to a length.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// The content of a token.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    pub(super) fn fault(&self, message: &str) -> Error {
        Error::work(format!("{}: {message}", self.path.display()))
    }
}

/// BPE dropout makes the ids random.
fn without_dropout(inner: &mut Inner) {
    if let ModelWrapper::BPE(bpe) = inner.get_model()
        && bpe.dropout.is_some()
    {
        let mut bpe = bpe.clone();
        bpe.dropout = None;
        inner.with_model(bpe);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};
    use tokenizers::pre_tokenizers::byte_level::ByteLevel;

    use super::*;

    /// Every byte one token, one BOS in front.
    fn json() -> Value {
        let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
        alphabet.sort_unstable();
        let mut vocabulary: serde_json::Map<String, Value> =
            alphabet.iter().enumerate().map(|(id, letter)| (letter.to_string(), (id + 2).into())).collect();
        vocabulary.insert("<s>".to_owned(), 0.into());
        vocabulary.insert("</s>".to_owned(), 1.into());
        let flags =
            json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
        let token = |id: u32, content: &str| {
            let mut token = flags.clone();
            token["id"] = id.into();
            token["content"] = content.into();
            token
        };
        let template = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}});
        json!({"version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [token(0, "<s>"), token(1, "</s>")],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "post_processor": template,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []}})
    }

    fn open(tokenizer: &Value, files: &[(&str, Value)]) -> Result<Tokenizer> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        for (name, value) in files {
            std::fs::write(directory.path().join(name), value.to_string()).unwrap();
        }
        Tokenizer::open(directory.path())
    }

    /// The tokenizer of this room's tests.
    pub(in super::super) fn bytes() -> Tokenizer {
        open(&json(), &[]).unwrap()
    }

    /// [`bytes`] with BOS and EOS of which it adds neither.
    pub(in super::super) fn without_bos() -> Tokenizer {
        let mut tokenizer = json();
        tokenizer["post_processor"] = Value::Null;
        open(&tokenizer, &[("tokenizer_config.json", json!({"bos_token": "<s>", "eos_token": "</s>"}))]).unwrap()
    }

    #[test]
    fn special_tokens_as_asked() {
        let settings = json!({"bos_token": "<s>", "eos_token": "</s>"});
        let tokenizer = open(&json(), &[("tokenizer_config.json", settings)]).unwrap();
        assert_eq!(
            (tokenizer.bos(), tokenizer.eos(), tokenizer.pad(), tokenizer.vocab_size()),
            (Some(0), Some(1), None, 258)
        );
        let plain = tokenizer.encode("a</s>", Special::None).unwrap();
        assert_eq!((plain.len(), plain[1]), (2, 1));
        assert_eq!(tokenizer.encode("a</s>", Special::Default).unwrap(), [&[0], &plain[..]].concat());
        assert_eq!(tokenizer.encode("a</s>", Special::Always).unwrap(), [&[0], &plain[..]].concat());
        assert_eq!(tokenizer.decode(&[0, plain[0], 1], true).unwrap(), "a");
        assert_eq!(tokenizer.decode(&[0, plain[0], 1], false).unwrap(), "<s>a</s>");
        assert_eq!(tokenizer.encode("é", Special::None).unwrap().len(), 2);
    }

    #[test]
    fn bos_is_put_in_front_only_when_asked() {
        let mut tokenizer = json();
        tokenizer["post_processor"] = Value::Null;
        let with =
            open(&tokenizer, &[("tokenizer_config.json", json!({"bos_token": "<s>", "add_bos_token": true}))]).unwrap();
        assert!(with.encode("", Special::Default).unwrap().is_empty());
        assert_eq!(with.encode("", Special::Always).unwrap(), [0]);
        assert_eq!(with.encode("<s>", Special::Always).unwrap(), [0]);
        let without = open(&tokenizer, &[]).unwrap();
        assert!(matches!(without.encode("a", Special::Always), Err(Error::Request(m)) if m.contains("no BOS")));
    }

    #[test]
    fn leftovers_of_training_are_switched_off() {
        let mut tokenizer = json();
        tokenizer["truncation"] =
            json!({"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0});
        tokenizer["padding"] = json!({"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 1, "pad_type_id": 0, "pad_token": "</s>"});
        tokenizer["model"]["dropout"] = json!(0.9);
        tokenizer["model"]["vocab"]["ab"] = 258.into();
        tokenizer["model"]["merges"] = json!(["a b"]);
        let tokenizer = open(&tokenizer, &[]).unwrap();
        for _ in 0..20 {
            assert_eq!(tokenizer.encode("abababab", Special::Default).unwrap(), [0, 258, 258, 258, 258]);
        }
    }

    #[test]
    fn missing_special_tokens_are_added_behind_the_vocabulary() {
        let files = |vocabulary: u32| {
            [
                ("tokenizer_config.json", json!({"pad_token": "<pad>", "eos_token": "</s>"})),
                ("config.json", json!({"vocab_size": vocabulary})),
            ]
        };
        let tokenizer = open(&json(), &files(259)).unwrap();
        assert_eq!((tokenizer.pad(), tokenizer.vocab_size()), (Some(258), 259));
        assert_eq!(tokenizer.encode("<pad>", Special::None).unwrap(), [258]);
        let outside = open(&json(), &files(258)).unwrap();
        let message = outside.encode("a<pad>", Special::None).unwrap_err().to_string();
        assert!(message.contains("token 258 (\"<pad>\") lies outside the model's vocabulary of 258"), "{message}");
        assert!(outside.encode("a", Special::None).is_ok());
    }

    #[test]
    fn special_tokens_in_the_text_can_be_plain_text() {
        let tokenizer = open(&json(), &[("tokenizer_config.json", json!({"split_special_tokens": true}))]).unwrap();
        assert_eq!(tokenizer.encode("<s>", Special::None).unwrap().len(), 3);
    }

    #[test]
    fn a_missing_tokenizer_tells_how_to_make_one() {
        let directory = tempfile::tempdir().unwrap();
        let message = |directory: &Path| Tokenizer::open(directory).unwrap_err().to_string();
        assert!(message(directory.path()).ends_with("tokenizer.json: no such file; a checkpoint needs its tokenizer"));
        std::fs::write(directory.path().join("tokenizer.model"), "").unwrap();
        let with_model = message(directory.path());
        assert!(with_model.contains("tokenizer.model alone cannot be read") && with_model.contains("save_pretrained"));
        assert!(message(&directory.path().join("no")).contains("no such directory"));
        std::fs::write(directory.path().join("tokenizer.json"), "{\"version\": 1}").unwrap();
        let broken = Tokenizer::open(directory.path()).unwrap_err();
        assert!(matches!(&broken, Error::Work(m) if m.contains("tokenizer.json: not a tokenizer")), "{broken}");
    }
}
