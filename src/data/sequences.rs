//! The sequences of a measurement: the first of a source, or a random sample of it.

use std::collections::BTreeMap;

use rand::RngCore;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::chat::unanswered;
use super::chunk;
use super::documents::Documents;
use super::pack::{Carry, Packer, Packing, Sequence, Shape, Tally, length};
use super::separate::Ends;
use super::source::{Document, TextSource};
use super::tokenizer::Tokenizer;
use crate::progress::{Progress, Unit};
use crate::{Error, Result};

/// Which sequences to make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct SequenceOptions {
    /// How many; all that the source has by default.
    pub samples: Option<usize>,
    /// Of which shape.
    pub shape: Shape,
    /// Without a seed the documents are taken in the source's order, and reading stops when there are enough. With one
    /// they are taken in a random order: every document of the source is read and draws a random number, and those
    /// with the smallest numbers are used, smallest first. The same seed gives the same sequences.
    pub seed: Option<u64>,
}

/// Token sequences in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequences {
    /// The ids of each sequence, or, where documents do not see each other, of each document's part of a sequence.
    pub rows: Vec<Vec<u32>>,
    /// What became of the text.
    pub tally: Tally,
}

impl Sequences {
    /// Reads `source` and makes `options.samples` sequences of it, or as many as it has. Whether the model allows
    /// `tally.longest` tokens is the caller's to check.
    ///
    /// # Errors
    /// [`Error::Request`] for options that contradict each other; [`Error::Work`] when the source is broken or makes
    /// no sequence at all; [`Error::Interrupted`].
    pub fn read(
        source: &TextSource,
        tokenizer: &Tokenizer,
        options: &SequenceOptions,
        progress: &dyn Progress,
    ) -> Result<Self> {
        options.shape.check()?;
        if options.samples == Some(0) {
            return Err(Error::request("0 samples were asked for, expected 1 or more"));
        }
        progress.begin(&format!("reading {}", source.name()), source.bytes(), Unit::Bytes);
        let ends = Ends::new(&options.shape, tokenizer, source.chat().is_some())?;
        let mut reading = Reading { documents: source.documents(), tokenizer, ends, options, progress, shown: 0 };
        let packer = match options.seed {
            None => reading.in_order(),
            Some(seed) => reading.at_random(seed),
        }?;
        progress.end();
        reading.documents.passed_over().notes().iter().for_each(|note| progress.warn(note));
        let sequences = Self::collect(packer, options.samples);
        let tally = &sequences.tally;
        if sequences.rows.is_empty() && tally.unanswered > 0 {
            return Err(unanswered(source, options.shape.seq_len));
        }
        if sequences.rows.is_empty() {
            return Err(Error::work(format!(
                "{}: too little text: {} documents, {} of them empty, {} shorter than {} tokens, {} tokens in all for sequences of {}",
                source.name(),
                tally.documents,
                tally.empty,
                tally.short,
                options.shape.min_tokens,
                tally.dropped_tokens,
                options.shape.seq_len
            )));
        }
        Ok(sequences)
    }

    /// How many sequences `source` makes, and whether that is guessed from its first `bytes` bytes.
    ///
    /// # Errors
    /// As [`Sequences::read`].
    pub fn count(source: &TextSource, tokenizer: &Tokenizer, shape: &Shape, bytes: u64) -> Result<(u64, bool)> {
        shape.check()?;
        let ends = Ends::new(shape, tokenizer, source.chat().is_some())?;
        let (mut packer, mut documents) = (Packer::new(*shape, 0, Carry::default()), source.documents());
        while documents.bytes_read() < bytes {
            let chunk = chunk::read(&mut documents, usize::MAX, shape.skips_empty())?;
            if chunk.is_empty() {
                return Ok((packer.tally.sequences, false));
            }
            for (document, tokens) in chunk.iter().zip(chunk::encode(tokenizer, ends, &chunk, shape.skips_empty())?) {
                if chunk::has_text(document) || !shape.skips_empty() {
                    packer.take(tokens);
                }
            }
            packer.ready().clear();
        }
        let (read, all) = (documents.bytes_read().max(1) as f64, source.bytes() as f64);
        Ok(((packer.tally.sequences as f64 * (all / read).max(1.0)).round() as u64, true))
    }

    /// Takes the sequences out; those beyond `samples`, which the last document may have made, leave the tally too.
    fn collect(mut packer: Packer, samples: Option<usize>) -> Self {
        packer.drop_rest();
        let mut sequences: Vec<Sequence> = packer.ready().drain(..).collect();
        let mut tally = packer.tally;
        let over = sequences.split_off(sequences.len().min(samples.unwrap_or(usize::MAX)));
        for sequence in &over {
            tally.sequences -= 1;
            tally.tokens -= length(sequence) as u64;
            tally.dropped_tokens += length(sequence) as u64;
        }
        Self { rows: sequences.concat(), tally }
    }
}

/// A source being read.
struct Reading<'a> {
    documents: Documents,
    tokenizer: &'a Tokenizer,
    ends: Ends,
    options: &'a SequenceOptions,
    progress: &'a dyn Progress,
    shown: u64,
}

impl Reading<'_> {
    fn chunk(&mut self, most: usize) -> Result<Vec<Document>> {
        let chunk = chunk::read(&mut self.documents, most, self.options.shape.skips_empty())?;
        let read = self.documents.bytes_read();
        self.progress.advance(read - self.shown);
        self.shown = read;
        Ok(chunk)
    }

    fn encode(&self, chunk: &[Document]) -> Result<Vec<Vec<u32>>> {
        chunk::encode(self.tokenizer, self.ends, chunk, self.options.shape.skips_empty())
    }

    /// Whether a document is to be used, counting it.
    fn usable(&self, document: &Document, tally: &mut Tally) -> bool {
        tally.documents += 1;
        let usable = chunk::has_text(document) || !self.options.shape.skips_empty();
        tally.empty += u64::from(!usable);
        usable
    }

    fn in_order(&mut self) -> Result<Packer> {
        let mut packer = Packer::new(self.options.shape, 0, Carry::default());
        let wanted = self.options.samples.unwrap_or(usize::MAX);
        loop {
            // for few samples of many documents, not a whole chunk
            let chunk = self.chunk(wanted.saturating_sub(packer.ready().len()).max(16))?;
            if chunk.is_empty() {
                return Ok(packer);
            }
            for (document, tokens) in chunk.iter().zip(self.encode(&chunk)?) {
                if self.usable(document, &mut packer.tally) {
                    packer.take(tokens);
                }
                if packer.ready().len() >= wanted {
                    return Ok(packer);
                }
            }
        }
    }

    /// The documents with the smallest random numbers, as few as give enough sequences. Which ones these are does not
    /// depend on the order in which they are met, so tokenising a whole chunk at once changes nothing.
    fn at_random(&mut self, seed: u64) -> Result<Packer> {
        let shape = self.options.shape;
        if shape.packing == Packing::RunClm {
            return Err(Error::request("packing as run_clm does it follows the order of the text: leave the seed out"));
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut chosen = Chosen::new(&shape, self.options.samples);
        let mut tally = Tally::default();
        loop {
            let chunk = self.chunk(usize::MAX)?;
            if chunk.is_empty() {
                break;
            }
            let mut candidates = Vec::new();
            for document in chunk {
                let key = (random.next_u64(), tally.documents);
                if self.usable(&document, &mut tally) && chosen.wants(key) {
                    candidates.push((key, document));
                }
            }
            let (keys, documents): (Vec<_>, Vec<_>) = candidates.into_iter().unzip();
            for (key, tokens) in keys.into_iter().zip(self.encode(&documents)?) {
                chosen.offer(key, tokens);
            }
        }
        let mut packer = Packer::new(shape, 0, Carry::default());
        packer.tally = tally;
        for Beginning { tokens, length } in chosen.documents.into_values() {
            packer.take_beginning(tokens, length);
        }
        packer.tally.short += chosen.short;
        Ok(packer)
    }
}

/// A document's tokens: all, or where a sequence takes no more of them the first `seq_len`.
struct Beginning {
    tokens: Vec<u32>,
    length: usize,
}

/// The documents with the smallest keys whose worth reaches what is needed.
struct Chosen {
    shape: Shape,
    needed: usize,
    worth: usize,
    documents: BTreeMap<(u64, u64), Beginning>,
    short: u64,
}

impl Chosen {
    fn new(shape: &Shape, samples: Option<usize>) -> Self {
        let each = if shape.packing == Packing::Document { 1 } else { shape.seq_len };
        let needed = samples.map_or(usize::MAX, |samples| samples.saturating_mul(each));
        Self { shape: *shape, needed, worth: 0, documents: BTreeMap::new(), short: 0 }
    }

    fn worth_of(packing: Packing, document: &Beginning) -> usize {
        if packing == Packing::Document { 1 } else { document.length }
    }

    /// Whether a document with this key could be among those with the smallest.
    fn wants(&self, key: (u64, u64)) -> bool {
        self.worth < self.needed || self.documents.last_key_value().is_none_or(|(largest, _)| key < *largest)
    }

    fn offer(&mut self, key: (u64, u64), mut tokens: Vec<u32>) {
        let (packing, length) = (self.shape.packing, tokens.len());
        if packing == Packing::Document {
            if length < self.shape.min_tokens {
                self.short += 1;
                return;
            }
            if length > self.shape.seq_len {
                tokens.truncate(self.shape.seq_len);
                tokens.shrink_to_fit();
            }
        }
        let document = Beginning { tokens, length };
        self.worth += Self::worth_of(packing, &document);
        self.documents.insert(key, document);
        while let Some(largest) = self.documents.last_entry() {
            let without = self.worth - Self::worth_of(packing, largest.get());
            if without < self.needed {
                break;
            }
            self.worth = without;
            largest.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::separate::{Attention, Separator};
    use super::super::source::SourceOptions;
    use super::super::tokenizer::tests::{bytes, without_bos};
    use super::*;
    use crate::progress::Silent;

    /// A source of these documents, and the tokenizer that makes every byte a token after one BOS.
    fn source(texts: &[String]) -> (tempfile::TempDir, TextSource) {
        let directory = tempfile::tempdir().unwrap();
        let lines: Vec<String> = texts.iter().map(|text| serde_json::json!({ "text": text }).to_string()).collect();
        let path = directory.path().join("a.jsonl");
        std::fs::write(&path, lines.join("\n")).unwrap();
        let source = TextSource::open(&path, &SourceOptions::default()).unwrap();
        (directory, source)
    }

    fn texts(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("{i:04}{}", "x".repeat(i % 7))).collect()
    }

    fn read(texts: &[String], samples: Option<usize>, packing: Packing, seed: Option<u64>) -> Result<Sequences> {
        let (_directory, source) = source(texts);
        let options = SequenceOptions { samples, shape: Shape { seq_len: 8, packing, ..Shape::default() }, seed };
        Sequences::read(&source, &bytes(), &options, &Silent)
    }

    /// The documents' numbers, which are their first four characters.
    fn numbers(sequences: &Sequences) -> Vec<String> {
        sequences.rows.iter().map(|row| bytes().decode(&row[1..5], true).unwrap()).collect()
    }

    #[test]
    fn the_first_documents_in_order() {
        let mut documents = texts(600);
        documents[1] = " \n".to_owned();
        let read = read(&documents, Some(300), Packing::Document, None).unwrap();
        assert_eq!((read.rows.len(), read.tally.documents, read.tally.empty), (300, 301, 1));
        assert_eq!(numbers(&read)[..3], ["0000", "0002", "0003"]);
        assert_eq!(read.rows[5].len(), 8);
        assert_eq!(read.tally.tokens, read.rows.iter().map(|row| row.len() as u64).sum::<u64>());
    }

    #[test]
    fn a_seed_chooses_evenly_and_always_the_same() {
        let documents = texts(1000);
        let one = read(&documents, Some(100), Packing::Document, Some(1)).unwrap();
        assert_eq!(one, read(&documents, Some(100), Packing::Document, Some(1)).unwrap());
        let other = numbers(&read(&documents, Some(100), Packing::Document, Some(2)).unwrap());
        assert_ne!(numbers(&one), other);
        // fewer samples are the first of more samples
        assert_eq!(read(&documents, Some(40), Packing::Document, Some(1)).unwrap().rows, one.rows[..40]);
        let mean = numbers(&one).iter().map(|n| n.parse::<f64>().unwrap()).sum::<f64>() / 100.0;
        assert!((mean - 500.0).abs() < 4.0 * 1000.0 / 12_f64.sqrt() / 10.0, "mean {mean} of 0..1000");
        assert_eq!((one.tally.documents, one.tally.sequences), (1000, 100));
    }

    #[test]
    fn a_seed_passes_over_documents_that_are_too_short() {
        let mut documents = texts(400);
        documents.iter_mut().step_by(2).for_each(String::clear);
        let read = read(&documents, Some(150), Packing::Document, Some(3)).unwrap();
        assert!(numbers(&read).iter().all(|n| n.parse::<u32>().unwrap() % 2 == 1));
        assert_eq!((read.rows.len(), read.tally.empty), (150, 200));
    }

    #[test]
    fn the_threads_do_not_change_the_choice() {
        let documents = texts(2000);
        let with = |threads: usize, packing| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| read(&documents, Some(200), packing, Some(9)).unwrap())
        };
        for packing in [Packing::Document, Packing::Packed] {
            assert_eq!(with(1, packing), with(5, packing));
        }
    }

    #[test]
    fn packed_samples_are_the_start_of_one_permutation() {
        let documents = texts(500);
        let all = read(&documents, None, Packing::Packed, Some(7)).unwrap();
        let some = read(&documents, Some(50), Packing::Packed, Some(7)).unwrap();
        assert_eq!((some.rows.len(), &some.rows[..]), (50, &all.rows[..50]));
        let total: usize = documents.iter().map(|text| text.len() + 1).sum();
        assert_eq!(all.rows.len(), total / 8);
        assert_eq!(all.tally.dropped_tokens, total as u64 % 8);
        assert_eq!(read(&documents, Some(50), Packing::Packed, None).unwrap().tally.sequences, 50);
    }

    #[test]
    fn packed_documents_end_with_eos_where_the_tokenizer_adds_nothing() {
        let (_directory, source) = source(&["abcd".to_owned(), "efgh".to_owned(), "i".to_owned()]);
        let tokenizer = without_bos();
        let eos = tokenizer.eos().unwrap();
        let read = |separator, attention, seq_len| {
            let shape = Shape { seq_len, packing: Packing::Packed, separator, attention, ..Shape::default() };
            let options = SequenceOptions { shape, ..SequenceOptions::default() };
            Sequences::read(&source, &tokenizer, &options, &Silent).unwrap().rows
        };
        let text = |rows: Vec<Vec<u32>>| -> Vec<String> {
            rows.iter().map(|row| tokenizer.decode(row, false).unwrap()).collect()
        };
        let rows = read(Separator::Auto, Attention::Across, 12);
        assert_eq!((rows[0][4], rows[0][9], rows[0][11]), (eos, eos, eos));
        assert_eq!(text(rows), ["abcd</s>efgh</s>i</s>"]);
        assert_eq!(text(read(Separator::None, Attention::Across, 9)), ["abcdefghi"]);
        assert_eq!(text(read(Separator::Bos, Attention::Across, 12)), ["<s>abcd<s>efgh<s>i"]);
        assert_eq!(text(read(Separator::Auto, Attention::Within, 12)), ["abcd</s>", "efgh</s>", "i</s>"]);
    }

    #[test]
    fn errors_say_what_there_was() {
        let empty = read(&["".to_owned(), " ".to_owned()], None, Packing::Document, None).unwrap_err();
        assert!(matches!(&empty, Error::Work(m) if m.contains("2 documents, 2 of them empty")), "{empty}");
        let little = read(&["abc".to_owned()], None, Packing::Packed, Some(1)).unwrap_err().to_string();
        assert!(little.contains("4 tokens in all for sequences of 8"), "{little}");
        assert!(read(&texts(3), Some(0), Packing::Packed, None).unwrap_err().to_string().contains("0 samples"));
        assert!(read(&texts(3), Some(1), Packing::RunClm, Some(1)).unwrap_err().to_string().contains("run_clm"));
    }
}
