//! What a tokenizer takes of memory, told from its files before they are built.
//!
//! A vocabulary takes many times its file: each token stands in several tables, each merge is built three times on the
//! way to one, and a Unigram model keeps a table for every letter. What is counted here is more than the tokenizers
//! crate was measured to take, for the shapes of files at which it takes most.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::checkpoint::ByteSize;
use crate::files::{self, Bound};
use crate::{Error, Result};

/// A part of the files whose values cost alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Tokens with their ids.
    Vocabulary,
    /// Tokens with their likelihoods: the vocabulary of a Unigram model.
    Pieces,
    Merges,
    /// Tokens with their flags, of which one automaton is made.
    Added,
    /// Tokens that are keys, and are added.
    Named,
    Rest,
}

/// What was found in a part, or what each of it takes: values, bytes of text in them, bytes of keys.
type Amounts = [u64; 3];

/// Bytes that each takes while the files are read, and of these from then on.
const COSTS: [(Part, Amounts, Amounts); 6] = [
    (Part::Vocabulary, [500, 3, 3], [180, 2, 2]),
    (Part::Pieces, [170, 370, 4], [60, 370, 0]),
    (Part::Merges, [250, 4, 4], [40, 0, 0]),
    (Part::Added, [100, 165, 4], [100, 100, 0]),
    (Part::Named, [500, 165, 165], [100, 100, 100]),
    (Part::Rest, [250, 300, 4], [50, 100, 0]),
];

/// Files beside `tokenizer.json`, and what is in them.
const BESIDE: [(&str, Part); 3] = [
    ("tokenizer_config.json", Part::Added),
    ("special_tokens_map.json", Part::Added),
    ("added_tokens.json", Part::Named),
];

/// Bytes that the tokenizer in `directory` takes once it is read, where reading it takes no more than `room`. Files
/// that are missing or broken count for nothing: [`super::Tokenizer::open`] says what is wrong with them.
///
/// # Errors
/// [`Error::Request`]: reading it takes more.
pub(crate) fn tokenizer_memory(directory: &Path, room: u64) -> Result<u64> {
    let path = directory.join("tokenizer.json");
    let length = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
    let mut counted = Counted::default();
    // a file that is too long by itself is not read to be counted
    if length <= room.min(Bound::TOKENIZER.bytes) {
        counted.add(&path, Bound::TOKENIZER, Place::File);
        BESIDE.iter().for_each(|(name, part)| {
            counted.add(&directory.join(name), Bound::RECORD, Place::In(*part));
        });
    }
    let (reading, held) = counted.cost();
    let reading = reading.saturating_add(2 * length);
    if reading > room && length <= Bound::TOKENIZER.bytes {
        return Err(Error::request(format!(
            "{}: reading this tokenizer of {} takes up to {} of memory, allowed are {}: free some, or allow more with \
             --memory",
            path.display(),
            ByteSize(length),
            ByteSize(reading),
            ByteSize(room)
        )));
    }
    Ok(held)
}

/// What there is of each part, in the order of [`COSTS`].
#[derive(Default)]
struct Counted([Amounts; COSTS.len()]);

impl Counted {
    /// Counts a file, as far as it is JSON.
    fn add(&mut self, path: &Path, bound: Bound, place: Place) {
        if let Ok(text) = files::json_text(path, bound) {
            let count = Count { place, counted: self };
            // what is wrong with it ends the reading of the tokenizer at the same place
            let _ = count.deserialize(&mut serde_json::Deserializer::from_slice(&text));
        }
    }

    fn of(&mut self, part: Part) -> &mut Amounts {
        let place = COSTS.iter().position(|(known, ..)| *known == part);
        &mut self.0[place.unwrap_or(COSTS.len() - 1)]
    }

    /// Bytes that all of it takes: while it is read, and from then on.
    fn cost(&self) -> (u64, u64) {
        let cost = |found: &Amounts, each: &Amounts| found.iter().zip(each).map(|(found, each)| found * each).sum();
        let sums =
            self.0.iter().zip(&COSTS).map(|(found, (_, reading, held))| (cost(found, reading), cost(found, held)));
        sums.fold((0, 0), |all, one: (u64, u64)| (all.0 + one.0, all.1 + one.1))
    }
}

/// Where in a file a value stands.
#[derive(Clone, Copy)]
enum Place {
    /// It is the whole `tokenizer.json`.
    File,
    /// It is what that says of its model.
    Model,
    In(Part),
}

impl Place {
    fn part(self) -> Part {
        if let Self::In(part) = self { part } else { Part::Rest }
    }

    /// The place of what stands behind `key` here.
    fn below(self, key: &str) -> Self {
        match (self, key) {
            (Self::File, "model") => Self::Model,
            (Self::File, "added_tokens") => Self::In(Part::Added),
            (Self::Model, "vocab") => Self::In(Part::Vocabulary),
            (Self::Model, "merges") => Self::In(Part::Merges),
            (place, _) => Self::In(place.part()),
        }
    }
}

/// Counts one value and all that is in it.
struct Count<'a> {
    place: Place,
    counted: &'a mut Counted,
}

impl Count<'_> {
    fn value(self, bytes: usize) {
        let [values, text, _] = self.counted.of(self.place.part());
        *values += 1;
        *text += bytes as u64;
    }

    fn inside(&mut self, place: Place) -> Count<'_> {
        Count { place, counted: self.counted }
    }
}

impl<'de> DeserializeSeed<'de> for Count<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Count<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.value(0);
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.value(0);
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.value(0);
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        self.value(0);
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        self.value(0);
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.value(text.len());
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut access: A) -> Result<(), A::Error> {
        let place = match self.place {
            Place::In(Part::Vocabulary) => Place::In(Part::Pieces),
            place => Place::In(place.part()),
        };
        while access.next_element_seed(self.inside(place))?.is_some() {}
        self.inside(place).value(0);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut access: A) -> Result<(), A::Error> {
        while let Some(key) = access.next_key::<String>()? {
            let [_, _, keys] = self.counted.of(self.place.part());
            *keys += key.len() as u64;
            let place = self.place.below(&key);
            access.next_value_seed(self.inside(place))?;
        }
        self.value(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_cost() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        let cost = || {
            let mut counted = Counted::default();
            counted.add(&directory.path().join("tokenizer.json"), Bound::TOKENIZER, Place::File);
            counted.0
        };
        write(
            "tokenizer.json",
            r#"{"added_tokens":[{"id":1,"content":"<s>"}],"x":[null,1.5,true,-1],
                "model":{"type":"BPE","vocab":{"a":0,"bc":1},"merges":[["a","bc"],"a a"]}}"#,
        );
        let (vocabulary, pieces, merges) = ([3, 0, 3], [0, 0, 0], [5, 6, 0]);
        let (added, named, rest) = ([4, 3, 9], [0, 0, 0], [8, 3, 12 + 5 + 1 + 4 + 5 + 6]);
        assert_eq!(cost(), [vocabulary, pieces, merges, added, named, rest]);
        write("tokenizer.json", r#"{"model":{"vocab":[["a",-1.5],["bc",-2]]}}"#);
        assert_eq!(cost()[..2], [[0, 0, 0], [7, 3, 0]]);
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_built() {
        let directory = tempfile::tempdir().unwrap();
        let memory = |room| tokenizer_memory(directory.path(), room);
        assert_eq!(memory(0).unwrap(), 0);
        let tokens: Vec<String> = (0..10_000).map(|id| format!("\"t{id}\":{id}")).collect();
        let text = format!("{{\"model\":{{\"vocab\":{{{}}}}}}}", tokens.join(","));
        std::fs::write(directory.path().join("tokenizer.json"), &text).unwrap();
        assert!((1 << 20..4 << 20).contains(&memory(6 << 20).unwrap()));
        for room in [1000, 4 << 20] {
            let message = memory(room).unwrap_err().to_string();
            assert!(message.contains("tokenizer.json: reading this tokenizer of ") && message.contains("--memory"));
        }
        // tokens of the other files are added to it
        let names: Vec<String> = (0..10_000).map(|id| format!("\"added{id}\":{id}")).collect();
        std::fs::write(directory.path().join("added_tokens.json"), format!("{{{}}}", names.join(","))).unwrap();
        assert!(memory(6 << 20).is_err() && memory(64 << 20).is_ok());
        // what is broken is counted as far as it goes, and said by the one who reads it
        std::fs::write(directory.path().join("tokenizer.json"), &text[..text.len() / 2]).unwrap();
        std::fs::remove_file(directory.path().join("added_tokens.json")).unwrap();
        assert!(memory(6 << 20).unwrap() > 500_000 && memory(1 << 20).is_err());
    }
}
