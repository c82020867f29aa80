//! How small a model is to become, and how many layers that takes: known from names and shapes, before any work.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::names::Stack;
use super::stack_config::layer_count;
use crate::arch::{ARCHITECTURES, ModelSpec};
use crate::checkpoint::{ByteSize, Checkpoint};
use crate::{Context, Error, Result};

/// What is counted of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantity {
    /// Numbers stored.
    Parameters,
    /// Bytes of tensors.
    Bytes,
    /// Bytes of the keys and values of one token, two for each number.
    KvBytes,
    /// Bytes of weights that a generated token reads, of which there are so many times fewer: what bounds its speed.
    Speed,
}

/// Every quantity by its name, with an example.
const QUANTITIES: [(&str, Quantity, &str); 4] = [
    ("params", Quantity::Parameters, "params=5B"),
    ("bytes", Quantity::Bytes, "bytes=4GiB"),
    ("kv-bytes", Quantity::KvBytes, "kv-bytes=64KiB"),
    ("speed", Quantity::Speed, "speed=1.5"),
];

/// The fastest that a model can be asked to be; with one layer left hardly any is so fast.
const FASTEST: f64 = 1e4;

/// The most that a model may have of something: `params=5B`, `bytes=4GiB`, `kv-bytes=64KiB`; or how many times faster
/// it is to generate, `speed=1.5`, as far as the weights that a token reads tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    text: String,
    quantity: Quantity,
    limit: Limit,
}

/// How much there may be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    /// So many.
    Most(u64),
    /// The whole model's, so many times less.
    Times(f64),
}

impl Limit {
    /// Of a model that has `whole` as it is.
    fn most(self, whole: u64) -> u64 {
        match self {
            Self::Most(most) => most,
            Self::Times(times) => (whole as f64 / times) as u64,
        }
    }
}

impl Target {
    /// The smallest number of layers without which `model` is within the target, whichever of the layers `allowed` they
    /// are.
    ///
    /// # Errors
    /// Request: the model is within it as it is, or cannot come within it; says what can be reached. Keys and values of
    /// a family that is not known.
    pub fn layers(&self, model: &Checkpoint, allowed: &Range<usize>) -> Result<usize> {
        let sizes = self.quantity.sizes(model).context(|| self.text.clone())?;
        let whole: u64 = sizes.beside + sizes.layers.iter().sum::<u64>();
        let most = self.limit.most(whole);
        if whole <= most {
            let has = self.quantity.told(whole, whole);
            return Err(Error::request(format!(
                "{}: the model has {has} as it is, there is nothing to drop",
                self.text
            )));
        }
        let mut own = sizes.layers[allowed.clone()].to_vec();
        // the largest stay, at worst
        own.sort_unstable();
        let may_go = own.len().min(sizes.layers.len().saturating_sub(1));
        let mut left = whole;
        for (gone, size) in own[..may_go].iter().enumerate() {
            left -= size;
            if left <= most {
                return Ok(gone + 1);
            }
        }
        Err(Error::request(format!(
            "{}: cannot be met; what comes nearest is {}, without {may_go} of {} layers",
            self.text,
            self.quantity.told(left, whole),
            sizes.layers.len()
        )))
    }
}

/// What the layers have of a quantity, and all else.
struct Sizes {
    layers: Vec<u64>,
    beside: u64,
}

impl Quantity {
    fn sizes(self, model: &Checkpoint) -> Result<Sizes> {
        let layers = layer_count(&model.config)?;
        if self == Self::KvBytes {
            let spec = ModelSpec::from_config(&model.config)?;
            let numbers = match spec.latent {
                // what readers keep
                Some(latent) => latent.kv_rank + latent.rotated,
                None => 2 * spec.kv_heads * spec.head_dim,
            };
            let token = 2 * numbers as u64;
            let of = |layer| if spec.has_attention(layer) { token } else { 0 };
            return Ok(Sizes { layers: (0..layers).map(of).collect(), beside: 0 });
        }
        let stack = Stack::of(model)?;
        let mut sizes = Sizes { layers: vec![0; layers], beside: 0 };
        for entry in model.index.tensors.values() {
            let size = match self {
                Self::Parameters => entry.shape.iter().map(|size| *size as u64).product(),
                _ => entry.len,
            };
            match stack.within(&entry.name) {
                Some((layer, _)) => sizes.layers[layer] += size,
                // of a table of its own a token reads a row
                None if self == Self::Speed && is_embedding(&entry.name) && !is_tied(model)? => {}
                None => sizes.beside += size,
            }
        }
        Ok(sizes)
    }

    /// As a target says it, of a model that has `whole` as it is.
    fn told(self, size: u64, whole: u64) -> String {
        let name = QUANTITIES.iter().find(|(_, own, _)| *own == self).map_or("", |(name, ..)| name);
        match self {
            // so that what is said can be asked for
            Self::Speed => format!("{name}={}", (1e4 * whole as f64 / size.max(1) as f64).floor() / 1e4),
            _ => format!("{name}={size}"),
        }
    }
}

/// Whether the embedding is the head as well.
fn is_tied(model: &Checkpoint) -> Result<bool> {
    let spec = ModelSpec::from_config(&model.config)?;
    Ok(spec.head_tensor(&model.index) == spec.embedding)
}

/// Whether any family calls its embedding so.
fn is_embedding(name: &str) -> bool {
    ARCHITECTURES.iter().any(|row| name.ends_with(row.embedding))
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let known = QUANTITIES.map(|(.., example)| example).join(", ");
        let fault = || Error::request(format!("target {text:?}: expected one of {known}"));
        let (name, size) = text.split_once('=').ok_or_else(fault)?;
        let found = QUANTITIES.iter().find(|(known, ..)| *known == name.trim());
        let (_, quantity, _) = found.ok_or_else(fault)?;
        let limit = match quantity {
            Quantity::Parameters => Limit::Most(count(size.trim()).ok_or_else(fault)?),
            Quantity::Speed => match size.trim().parse::<f64>() {
                Ok(times) if times > 1.0 && times <= FASTEST => Limit::Times(times),
                _ => return Err(Error::request(format!("target {text:?}: expected more than 1, such as speed=1.5"))),
            },
            _ => Limit::Most(size.parse::<ByteSize>().context(|| format!("target {name}"))?.0),
        };
        Ok(Self { text: text.to_owned(), quantity: *quantity, limit })
    }
}

/// `5B`, `1.5B`, `100M`, `20k`, or all digits.
fn count(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" => 1,
        "k" => 1000,
        "m" => 1_000_000,
        "b" | "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        _ => return None,
    };
    let count = match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor)?,
        Err(_) => (number.parse::<f64>().ok()? * factor as f64) as u64,
    };
    (1..u64::MAX).contains(&count).then_some(count)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Target {
    /// As it was written.
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written() {
        for (text, most) in [
            ("params=5B", 5_000_000_000),
            ("params=1.5b", 1_500_000_000),
            ("params=100M", 100_000_000),
            ("params=12345", 12345),
            ("bytes=4GiB", 4 << 30),
            ("bytes=500MB", 500_000_000),
            ("kv-bytes=64KiB", 64 << 10),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.limit, target.to_string()), (Limit::Most(most), text.to_owned()));
            let json = serde_json::to_string(&target).unwrap();
            assert_eq!(serde_json::from_str::<Target>(&json).unwrap(), target);
        }
        for text in [
            "",
            "5B",
            "params",
            "params=",
            "params=0",
            "params=5X",
            "params=-1",
            "bytes=1e3",
            "speed=1",
            "speed=nan",
            "speed=x",
            "kv=1",
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert_eq!(error.exit_code(), 2, "{text}: {error}");
        }
    }

    #[test]
    fn the_fewest_layers_that_reach_it() {
        let dir = tempfile::tempdir().unwrap();
        crate::pico::write(dir.path()).unwrap();
        let model = Checkpoint::open_dir(dir.path()).unwrap();
        let sizes = Quantity::Parameters.sizes(&model).unwrap();
        let (layer, whole) = (sizes.layers[0], sizes.beside + sizes.layers.iter().sum::<u64>());
        assert!(sizes.layers.iter().all(|own| *own == layer) && sizes.layers.len() == 4);
        let layers = |most: u64, allowed: Range<usize>| {
            format!("params={most}").parse::<Target>().unwrap().layers(&model, &allowed)
        };
        for (most, expected) in [(whole - 1, 1), (whole - layer, 1), (whole - layer - 1, 2), (whole - 3 * layer, 3)] {
            assert_eq!(layers(most, 0..4).unwrap(), expected, "{most}");
        }
        let error = layers(whole, 0..4).unwrap_err().to_string();
        assert!(error.contains("nothing to drop"), "{error}");
        for (most, allowed, least) in [(whole - 3 * layer - 1, 0..4, whole - 3 * layer), (1, 1..3, whole - 2 * layer)] {
            let error = layers(most, allowed).unwrap_err();
            let can = error.to_string().contains(&format!("params={least},"));
            assert!(error.exit_code() == 2 && can, "{error}");
            // what it says can be reached
            layers(least, 0..4).unwrap();
        }
        // keys and values go with the layers alone
        let spec = ModelSpec::from_config(&model.config).unwrap();
        let token = 4 * spec.kv_heads * spec.head_dim;
        let target: Target = format!("kv-bytes={}", 3 * token).parse().unwrap();
        assert_eq!(target.layers(&model, &(0..4)).unwrap(), 1);
    }

    #[test]
    fn as_much_faster_as_a_token_reads_less() {
        let dir = tempfile::tempdir().unwrap();
        crate::pico::write(dir.path()).unwrap();
        let model = Checkpoint::open_dir(dir.path()).unwrap();
        let sizes = Quantity::Speed.sizes(&model).unwrap();
        let spec = ModelSpec::from_config(&model.config).unwrap();
        // the head and the final norm, not the table of the embedding
        assert_eq!(sizes.beside, 4 * (spec.vocab_size * spec.hidden_size + spec.hidden_size) as u64);
        let whole = sizes.beside + sizes.layers.iter().sum::<u64>();
        let of = |times: f64| format!("speed={times}").parse::<Target>().unwrap().layers(&model, &(0..4));
        let without = |n: u64| whole as f64 / (whole - n * sizes.layers[0]) as f64;
        for n in 1..4 {
            assert_eq!(of(without(n) - 1e-6).unwrap(), n as usize);
        }
        assert_eq!(of(without(1) + 1e-6).unwrap(), 2);
        let error = of(1000.0).unwrap_err().to_string();
        let nearest = error.split("nearest is speed=").nth(1).unwrap().split(',').next().unwrap();
        assert_eq!(of(nearest.parse().unwrap()).unwrap(), 3, "{error}");
    }
}
