//! One evaluation on several processes: each answers its share of the passes, which are planned alike everywhere, and
//! what all have kept is put together to the same bytes as if one had done it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Which share of an evaluation a process does: `2/3` is the second of three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EvalShard {
    /// Which, from 1 on.
    number: usize,
    /// Of how many.
    count: usize,
}

impl EvalShard {
    /// Which, from 1 on.
    #[must_use]
    pub fn number(&self) -> usize {
        self.number
    }

    /// Of how many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether pass `pass` is one of its own. Neighbours cost about the same, so that shares do.
    #[must_use]
    pub fn has(&self, pass: usize) -> bool {
        pass % self.count == self.number - 1
    }
}

impl FromStr for EvalShard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers =
            text.split_once('/').and_then(|(number, count)| Some((number.parse().ok()?, count.parse().ok()?)));
        match numbers {
            Some((number, count)) if (1..=count).contains(&number) => Ok(Self { number, count }),
            _ => Err(format!("{text:?}: expected i/n, such as 1/3 for the first of three")),
        }
    }
}

impl TryFrom<String> for EvalShard {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<EvalShard> for String {
    fn from(shard: EvalShard) -> Self {
        shard.to_string()
    }
}

impl fmt::Display for EvalShard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_all_of_it_and_each_once() {
        let shards: Vec<EvalShard> = (1..=3).map(|number| format!("{number}/3").parse().unwrap()).collect();
        for pass in 0..20 {
            assert_eq!(shards.iter().filter(|shard| shard.has(pass)).count(), 1);
        }
        assert_eq!(shards[1].to_string(), "2/3");
        for wrong in ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", ""] {
            assert!(wrong.parse::<EvalShard>().unwrap_err().contains("i/n"), "{wrong}");
        }
    }
}
