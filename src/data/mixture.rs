//! The sequences of several sources in given shares.

use super::pack::Shape;
use super::position::Position;
use super::source::TextSource;
use super::stream::{StreamOptions, TrainStream};
use super::tokenizer::Tokenizer;
use super::{PassedOver, Sequences};
use crate::{Error, Result};

/// 2^64 over the golden ratio, odd: its multiples are spread as evenly over 0..2^64 as any number's.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Which source each sequence of a mixture comes from. Sequence `n` depends on seed and weights alone, so that a
/// mixture can be taken up anywhere: at `u + n/φ`, modulo 1, of a line on which each source has its share, `u` from the
/// seed. Every stretch then holds each source's share to within a few sequences, and over the seeds exactly.
#[derive(Clone, Debug, PartialEq)]
pub struct Shares {
    /// Where each source's part ends.
    ends: Vec<f64>,
    start: u64,
}

impl Shares {
    /// Of sources that weigh `weights`, which are above 0.
    #[must_use]
    pub fn new(weights: &[f64], seed: u64) -> Self {
        // the largest first divided away: no sum of numbers is infinite
        let largest = weights.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let total: f64 = weights.iter().map(|weight| weight / largest).sum();
        let mut sum = 0.0;
        let ends = weights.iter().map(|weight| {
            sum += weight / largest / total;
            sum
        });
        // SplitMix64's finalizer: neighbouring seeds begin far apart
        let mut start = seed.wrapping_add(STEP);
        start = (start ^ (start >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        start = (start ^ (start >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Self { ends: ends.collect(), start: start ^ (start >> 31) }
    }

    /// The source of sequence `n`.
    #[must_use]
    pub fn source(&self, n: u64) -> usize {
        let at = self.start.wrapping_add(n.wrapping_mul(STEP)) as f64 / 2f64.powi(64);
        self.ends.iter().position(|end| at < *end).unwrap_or(self.ends.len() - 1)
    }

    /// Sequences of each source among the first `count`.
    #[must_use]
    pub fn counts(&self, count: u64) -> Vec<u64> {
        let mut counts = vec![0; self.ends.len()];
        (0..count).for_each(|n| counts[self.source(n)] += 1);
        counts
    }
}

/// A source of a mixture, and what its documents become.
#[derive(Clone, Debug)]
pub struct Ingredient {
    /// The source.
    pub source: TextSource,
    /// The shape of its sequences.
    pub shape: Shape,
    /// How much it weighs, above 0.
    pub weight: f64,
}

/// An endless, resumable stream of the sequences of one source or several. One that is over begins again by itself.
pub struct TextMixture {
    streams: Vec<TrainStream>,
    shares: Shares,
    taken: u64,
}

impl TextMixture {
    /// Opens the streams of `ingredients`, at `position` if there is one; `changed` as `TrainStream::on_changed`.
    ///
    /// # Errors
    /// As [`TrainStream::new`]; Work for a position of other sources.
    pub fn new(
        ingredients: &[Ingredient],
        tokenizer: &Tokenizer,
        (window, seed): (usize, u64),
        position: Option<Position>,
        changed: bool,
    ) -> Result<Self> {
        let (mut own, mut taken) = (vec![None; ingredients.len()], 0);
        if let Some(mut position) = position {
            let beside = std::mem::take(&mut position.beside);
            if beside.len() + 1 != ingredients.len() {
                let (then, now) = (beside.len() + 1, ingredients.len());
                return Err(Error::work(format!("the saved place is in {then} sources, there are {now}; begin anew")));
            }
            taken = std::mem::take(&mut position.taken);
            own = std::iter::once(position).chain(beside).map(Some).collect();
        }
        let open = if changed { TrainStream::on_changed } else { TrainStream::new };
        let streams = ingredients.iter().zip(own).map(|(ingredient, position)| {
            let options = StreamOptions { shape: ingredient.shape, window, seed };
            open(&ingredient.source, tokenizer, options, position)
        });
        let weights: Vec<f64> = ingredients.iter().map(|ingredient| ingredient.weight).collect();
        Ok(Self { streams: streams.collect::<Result<_>>()?, shares: Shares::new(&weights, seed), taken })
    }

    /// The next `count` sequences; where documents do not see each other, a row for each document's part of them.
    ///
    /// # Errors
    /// As [`TrainStream::take`].
    pub fn take(&mut self, tokenizer: &Tokenizer, count: usize) -> Result<Vec<Vec<u32>>> {
        if let [stream] = &mut self.streams[..] {
            return stream.take(tokenizer, count);
        }
        let mut rows = Vec::new();
        for _ in 0..count {
            let source = self.shares.source(self.taken);
            rows.extend(self.streams[source].take(tokenizer, 1)?);
            self.taken += 1;
        }
        Ok(rows)
    }

    /// Where the next sequence stands.
    #[must_use]
    pub fn position(&self) -> Position {
        let mut own = self.streams.iter().map(|stream| stream.position().clone());
        let first = own.next().unwrap_or_default();
        Position { beside: own.collect(), taken: self.taken, ..first }
    }

    /// What gave no document in one pass over each source.
    pub fn passed_over(&self) -> impl Iterator<Item = &PassedOver> {
        self.streams.iter().map(TrainStream::passed_over)
    }
}

/// What a source gives to a mixture.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Share {
    /// The source's name.
    pub source: String,
    /// Its part of all sequences.
    pub share: f64,
    /// Sequences that are taken of it.
    pub taken: u64,
    /// Sequences that it has; guessed from its first part where it is large.
    pub sequences: u64,
    /// Whether that is guessed.
    pub is_guessed: bool,
    /// Times that it is passed over.
    pub passes: f64,
}

/// Bytes of a source that are read to tell how many sequences it has.
const LOOKED_AT: u64 = 8 << 20;

/// What each of `ingredients` gives to the first `count` sequences of a mixture with `seed`.
///
/// # Errors
/// Those of the sources.
pub fn shares(ingredients: &[Ingredient], tokenizer: &Tokenizer, seed: u64, count: u64) -> Result<Vec<Share>> {
    let weights: Vec<f64> = ingredients.iter().map(|ingredient| ingredient.weight).collect();
    let mixed = Shares::new(&weights, seed);
    // a stretch of the line holds its share: no need to walk a billion steps
    const WALKED: u64 = 1 << 22;
    let starts = std::iter::once(0.0).chain(mixed.ends.iter().copied());
    let parts: Vec<f64> = mixed.ends.iter().zip(starts).map(|(end, start)| end - start).collect();
    let taken = match count {
        0..=WALKED => mixed.counts(count),
        _ => parts.iter().map(|part| (part * count as f64).round() as u64).collect(),
    };
    let all = ingredients.iter().zip(parts).zip(taken).map(|((ingredient, share), taken)| {
        let Ingredient { source, shape, .. } = ingredient;
        let (sequences, is_guessed) = Sequences::count(source, tokenizer, shape, LOOKED_AT)?;
        let passes = taken as f64 / sequences.max(1) as f64;
        Ok(Share { source: source.name().to_owned(), share, taken, sequences, is_guessed, passes })
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::super::pack::Packing;
    use super::super::source::SourceOptions;
    use super::super::tokenizer::tests::bytes;
    use super::*;

    #[test]
    fn every_stretch_has_its_shares_and_all_seeds_have_them_exactly() {
        for weights in [&[3.0, 1.0][..], &[1.0, 1.0], &[0.2, 0.5, 0.3], &[1000.0, 1.0], &[1e300, 3e300], &[5.0]] {
            let total: f64 = weights.iter().map(|weight| weight / 1e3).sum();
            let mut firsts = vec![0.0; weights.len()];
            for seed in 0..400 {
                let shares = Shares::new(weights, seed);
                firsts[shares.source(0)] += 1.0 / 400.0;
                let (mut counts, mut worst) = (vec![0u64; weights.len()], 0f64);
                for n in 0..2000 {
                    counts[shares.source(n)] += 1;
                    for (count, weight) in counts.iter().zip(weights) {
                        worst = worst.max((*count as f64 - (n + 1) as f64 * weight / 1e3 / total).abs());
                    }
                }
                assert!(worst < 5.0, "{weights:?} {seed}: {worst}");
                assert_eq!(counts, shares.counts(2000));
            }
            for (first, weight) in firsts.iter().zip(weights) {
                let share = weight / 1e3 / total;
                assert!((first - share).abs() < 4.0 * (share * (1.0 - share) / 400.0).sqrt() + 1e-12, "{firsts:?}");
            }
        }
    }

    /// Sources of `counts` documents, each of which says whose it is.
    fn sources(counts: &[usize]) -> (tempfile::TempDir, Vec<Ingredient>) {
        let dir = tempfile::tempdir().unwrap();
        let of = |(at, count): (usize, &usize)| {
            let path = dir.path().join(format!("{at}.jsonl"));
            let row = |n| serde_json::json!({"text": format!("{at}{n:05}")}).to_string() + "\n";
            std::fs::write(&path, (0..*count).map(row).collect::<String>()).unwrap();
            let source = TextSource::open(&path, &SourceOptions::default()).unwrap();
            let shape = Shape { seq_len: 8, packing: Packing::Document, ..Shape::default() };
            Ingredient { source, shape, weight: (at * 2 + 1) as f64 }
        };
        let all = counts.iter().enumerate().map(of).collect();
        (dir, all)
    }

    #[test]
    fn a_resumed_mixture_goes_on_where_it_stopped_and_small_sources_come_again() {
        let ((_dir, all), tokenizer) = (sources(&[40, 3]), bytes());
        for window in [1, 4, 100] {
            let open = |position| TextMixture::new(&all, &tokenizer, (window, 5), position, false).unwrap();
            let mut whole = open(None);
            let (mut positions, mut rows) = (Vec::new(), Vec::new());
            for _ in 0..40 {
                positions.push(serde_json::to_string(&whole.position()).unwrap());
                rows.extend(whole.take(&tokenizer, 3).unwrap());
            }
            let of_second = rows.iter().filter(|row| bytes().decode(&row[1..2], true).unwrap() == "1").count();
            assert!((86..=94).contains(&of_second), "three of four: {of_second} of 120");
            for (at, position) in positions.iter().enumerate().step_by(7) {
                let mut resumed = open(Some(serde_json::from_str(position).unwrap()));
                assert_eq!(resumed.take(&tokenizer, 3).unwrap(), rows[3 * at..3 * at + 3]);
            }
            let told = shares(&all, &tokenizer, 5, 120).unwrap();
            assert_eq!((told[1].taken as usize, told[1].sequences, told[1].is_guessed), (of_second, 3, false));
            assert!((told[1].passes - of_second as f64 / 3.0).abs() < 1e-12 && told[0].passes < 1.0);
            let one =
                TextMixture::new(&all[..1], &tokenizer, (window, 5), serde_json::from_str(&positions[9]).ok(), false);
            assert!(one.err().unwrap().to_string().contains("in 2 sources, there are 1"));
        }
    }

    #[test]
    fn one_source_is_its_stream() {
        let ((_dir, all), tokenizer) = (sources(&[9]), bytes());
        let mut mixture = TextMixture::new(&all, &tokenizer, (4, 5), None, false).unwrap();
        let options = StreamOptions { shape: all[0].shape, window: 4, seed: 5 };
        let mut stream = TrainStream::new(&all[0].source, &tokenizer, options, None).unwrap();
        assert_eq!(mixture.take(&tokenizer, 30).unwrap(), stream.take(&tokenizer, 30).unwrap());
        assert_eq!(serde_json::to_value(mixture.position()).unwrap(), serde_json::to_value(stream.position()).unwrap());
    }
}
