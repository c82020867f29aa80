//! Several texts at a time, token after token.

use std::collections::BTreeSet;
use std::sync::Arc;

use candle_core::{D, Tensor};

use super::{Cache, Ended, Model};
use crate::{Error, Result};

/// A text to go on with.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Which one it is.
    pub(crate) item: usize,
    /// Its tokens.
    pub(crate) prompt: Vec<u32>,
    /// New tokens at most.
    pub(crate) most: usize,
}

/// A text that grows.
#[derive(Debug)]
pub(crate) struct Growing {
    pub(crate) wanted: Wanted,
    /// The new tokens; one that ends the text is not among them.
    pub(crate) said: Vec<u32>,
    cache: Cache,
}

/// Who chooses tokens and takes texts.
pub(crate) trait Speaker {
    /// The next token of each text, by its logits `[n, v]`.
    ///
    /// # Errors
    /// Whatever is wrong; it ends all.
    fn choose(&mut self, texts: &[Growing], logits: &Tensor) -> Result<Vec<u32>>;

    /// Whether a text, which has a new token, goes on.
    ///
    /// # Errors
    /// As above.
    fn goes_on(&mut self, text: &Growing) -> Result<bool>;

    /// A text is over.
    ///
    /// # Errors
    /// As above.
    fn is_over(&mut self, text: Growing, ended: Ended) -> Result<()>;
}

/// How texts are put together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Together<'a> {
    /// Texts at a time; the next one comes as soon as one is over.
    pub(crate) most: usize,
    /// Tokens that end every text.
    pub(crate) ends: &'a [u32],
    /// Whether a text's numbers are the same, on a CPU, whatever goes through a layer beside it: prompts are then read
    /// one by one, and rows are few enough that each is multiplied by itself.
    pub(crate) alike: bool,
    /// Tokens that all prompts begin with, which are read once; fewer than any prompt has.
    pub(crate) shared: usize,
}

/// How many tokens all of `prompts` begin with, less than any of them has; none where there is one.
pub(crate) fn shared(prompts: &[Wanted]) -> usize {
    let [first, others @ ..] = prompts else { return 0 };
    let same = |other: &Wanted| first.prompt.iter().zip(&other.prompt).take_while(|(a, b)| a == b).count();
    let all = others.iter().map(same).min().unwrap_or(0);
    prompts.iter().map(|own| own.prompt.len().saturating_sub(1)).min().unwrap_or(0).min(all)
}

impl Model {
    /// Continues each of `wanted`, as many tokens as it says at most, until one that ends it or until `speaker` says
    /// that it is enough.
    ///
    /// # Errors
    /// Request: an empty prompt, no tokens asked for. Work: logits that are not finite, what `speaker` and
    /// [`Model::extend`] find. Interrupted.
    pub(crate) fn generate_each(
        &self,
        wanted: &mut dyn Iterator<Item = Wanted>,
        together: Together<'_>,
        speaker: &mut dyn Speaker,
    ) -> Result<()> {
        let (mut growing, mut new) = (Vec::<Growing>::new(), Vec::<Vec<u32>>::new());
        let mut begun: Option<Arc<Cache>> = None;
        loop {
            while growing.len() < together.most
                && let Some(wanted) = wanted.next()
            {
                if wanted.prompt.is_empty() || wanted.most == 0 {
                    return Err(Error::request("nothing to generate: a prompt and at least one new token are needed"));
                }
                let capacity = wanted.prompt.len().saturating_add(wanted.most);
                let cache = match &begun {
                    _ if together.shared == 0 => Cache::new(self, capacity)?,
                    Some(begun) => Cache::after(begun, self, capacity)?,
                    None => {
                        let mut first = Cache::new(self, together.shared)?;
                        self.extend(&mut first, &wanted.prompt[..together.shared])?;
                        Cache::after(begun.insert(Arc::new(first)), self, capacity)?
                    }
                };
                new.push(wanted.prompt[cache.ids().len()..].to_vec());
                growing.push(Growing { wanted, said: Vec::new(), cache });
            }
            if growing.is_empty() {
                return Ok(());
            }
            let mut caches: Vec<&mut Cache> = growing.iter_mut().map(|text| &mut text.cache).collect();
            let ids: Vec<&[u32]> = new.iter().map(Vec::as_slice).collect();
            let streams = self.extend_each(&mut caches, &ids, together.alike)?;
            let last = streams.into_iter().map(|x| x.narrow(0, x.dim(0)? - 1, 1));
            let last = Tensor::cat(&last.collect::<candle_core::Result<Vec<_>>>()?, 0)?;
            let tokens = speaker.choose(&growing, &self.logits_of(&last, together.alike)?)?;
            new.clear();
            for (mut text, token) in std::mem::take(&mut growing).into_iter().zip(tokens) {
                if together.ends.contains(&token) {
                    speaker.is_over(text, Ended::EndOfText)?;
                    continue;
                }
                text.said.push(token);
                if !speaker.goes_on(&text)? {
                    speaker.is_over(text, Ended::EndOfText)?;
                } else if text.said.len() < text.wanted.most {
                    new.push(vec![token]);
                    growing.push(text);
                } else {
                    speaker.is_over(text, Ended::Length)?;
                }
            }
        }
    }

    /// Logits of `x`; `alike`, so few rows at a time that each is multiplied by itself.
    fn logits_of(&self, x: &Tensor, alike: bool) -> Result<Tensor> {
        let rows = x.dim(0)?;
        if !alike || rows <= Self::ALIKE {
            return self.logits(x);
        }
        let parts = (0..rows).step_by(Self::ALIKE).map(|row| {
            let part = x.narrow(0, row, Self::ALIKE.min(rows - row))?;
            self.logits(&part)
        });
        Ok(Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)?)
    }
}

/// The likeliest token of each text by `logits` `[n, v]`, those that stand in it already made less likely by `penalty`,
/// which divides their logits, and multiplies those that are negative (arXiv 1909.05858).
///
/// # Errors
/// The device's.
pub(crate) fn likeliest_of(texts: &[Growing], logits: &Tensor, penalty: Option<f64>) -> Result<Vec<u32>> {
    let Some(penalty) = penalty else { return Ok(logits.argmax(D::Minus1)?.to_vec1::<u32>()?) };
    let logits = logits.to_vec2::<f32>()?.into_iter();
    let tokens = |text: &Growing| -> BTreeSet<u32> { text.wanted.prompt.iter().chain(&text.said).copied().collect() };
    Ok(logits.zip(texts).map(|(logits, text)| likeliest(logits, tokens(text), penalty as f32)).collect())
}

/// Logits `[v]` of a text's next token by `penalty`, as [`likeliest_of`] has it.
///
/// # Errors
/// The device's.
pub(crate) fn penalized(text: &Growing, logits: &Tensor, penalty: Option<f64>) -> Result<Tensor> {
    let Some(penalty) = penalty else { return Ok(logits.clone()) };
    let mut numbers = logits.to_vec1::<f32>()?;
    let tokens: BTreeSet<u32> = text.wanted.prompt.iter().chain(&text.said).copied().collect();
    penalize(&mut numbers, tokens, penalty as f32);
    Ok(Tensor::from_vec(numbers, logits.shape(), logits.device())?)
}

fn penalize(logits: &mut [f32], text: BTreeSet<u32>, penalty: f32) {
    for token in text {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// The token of the largest logit once those in `text` are penalized; the first of several.
fn likeliest(mut logits: Vec<f32>, text: BTreeSet<u32>, penalty: f32) -> u32 {
    penalize(&mut logits, text, penalty);
    (1..logits.len()).fold(0, |best, token| if logits[token] > logits[best] { token } else { best }) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes the likeliest tokens.
    struct Likeliest(Vec<Vec<u32>>);

    impl Speaker for Likeliest {
        fn choose(&mut self, texts: &[Growing], logits: &Tensor) -> Result<Vec<u32>> {
            likeliest_of(texts, logits, None)
        }

        fn goes_on(&mut self, _text: &Growing) -> Result<bool> {
            Ok(true)
        }

        fn is_over(&mut self, text: Growing, _ended: Ended) -> Result<()> {
            self.0[text.wanted.item] = text.said;
            Ok(())
        }
    }

    #[test]
    fn what_all_begin_with_is_read_once() {
        let dir = tempfile::tempdir().unwrap();
        crate::pico::write(dir.path()).unwrap();
        let checkpoint = Arc::new(crate::checkpoint::Checkpoint::open_dir(dir.path()).unwrap());
        let model = Model::open(checkpoint, &crate::model::ModelOptions::default(), &crate::progress::Silent).unwrap();
        let begin: Vec<u32> = (0..9).map(|at| (at * 7 + 1) % 64).collect();
        let prompts = [vec![3], vec![5, 6, 7], vec![3, 9], vec![3]];
        let prompts = prompts.into_iter().enumerate().map(|(item, own)| {
            let prompt = [begin.clone(), own].concat();
            Wanted { item, prompt, most: 6 }
        });
        let prompts: Vec<Wanted> = prompts.collect();
        assert_eq!((shared(&prompts), shared(&prompts[..1]), shared(&[])), (9, 0, 0));
        assert_eq!(shared(&[prompts[0].clone(), prompts[3].clone()]), 9, "one token is left to read");
        let said = |shared: usize| {
            let mut speaker = Likeliest(vec![Vec::new(); prompts.len()]);
            let together = Together { most: 3, ends: &[], alike: false, shared };
            model.generate_each(&mut prompts.clone().into_iter(), together, &mut speaker).unwrap();
            speaker.0
        };
        let apart = said(0);
        assert!(apart.iter().all(|said| said.len() == 6));
        for shared in [1, 5, 9] {
            assert_eq!(said(shared), apart, "{shared}");
        }
    }

    #[test]
    fn what_was_said_is_less_likely_once() {
        let logits = vec![-1.0, 3.0, 2.5, 1.0, -0.5];
        assert_eq!(likeliest(logits.clone(), [].into(), 2.0), 1);
        assert_eq!(likeliest(logits.clone(), [1, 9].into(), 1.1), 1);
        assert_eq!(likeliest(logits.clone(), [1, 4].into(), 1.25), 2);
        assert_eq!(likeliest(logits, [1, 2].into(), 3.0), 1, "the first of 1.0, 0.83, 1.0");
        assert_eq!(likeliest(vec![-1.0, -2.0], [0].into(), 3.0), 1);
    }
}
