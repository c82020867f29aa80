//! Filters of BIG-Bench Hard's tasks (lm-evaluation-harness 0.4.13, `tasks/bbh/zeroshot/utils.py`, `word2number` 1.1).

use std::sync::LazyLock;

use crate::eval::python::Pattern;

/// The choices in the text of a question: `(A) one` and so on, up to the next bracket or line.
pub(super) fn choices(input: &str) -> Vec<String> {
    static CHOICE: LazyLock<Option<Pattern>> = LazyLock::new(|| Pattern::new(r"\([A-Z]\)([^\n^(]*)").ok());
    let found = CHOICE.as_ref().and_then(|choice| choice.find_all(input).ok()).unwrap_or_default();
    found.into_iter().map(|found| found.first().to_owned()).collect()
}

/// The words of a list to be sorted, in the order in which the response last says them.
///
/// # Errors
/// A question without a list; a response that takes too many steps.
pub(super) fn sorted_words(input: &str, response: &str) -> Result<String, String> {
    let list = input.split("List:").nth(1).ok_or("field input has no List:")?;
    let words: Vec<String> = list.split_whitespace().map(|word| format!(r"\b{word}\b")).collect();
    let found = Pattern::new(&words.join("|"))?.find_all(response)?;
    let mut ordered: Vec<String> = Vec::new();
    for word in found.into_iter().map(|found| found.first().to_owned()).rev() {
        if !ordered.contains(&word) {
            ordered.push(word);
        }
    }
    ordered.reverse();
    Ok(ordered.join(" "))
}

/// Words of a number, a suffix of which may be left out within.
const TENS: &str = "(?:twen|thir|for|fif|six|seven|nine)";
const UNITS: &str = "zero|one|two|three|four|five";
const LARGE: &str = "ten|eleven|twelve|fourteen|hundred|thousand|(?:m|b|tr)illion";

/// The first number written in English words, in digits.
///
/// # Errors
/// A response that takes too many steps.
pub(super) fn number_in_words(response: &str) -> Result<Option<String>, String> {
    static NUMBER: LazyLock<Result<Pattern, String>> = LazyLock::new(|| {
        let whole = format!("{UNITS}|{TENS}(?:teen|ty)");
        let parts = format!("{UNITS}|{TENS}(?:|teen|ty)|eight(?:een|y)|{LARGE}");
        Pattern::new(&format!(
            "((?:(?:{whole}|eight(?:|een|y)|{LARGE})(?:{parts}|[^\\S\r\n]|,|and|&)+)?\
             (?:{whole}|eight(?:een|y)|{LARGE}))"
        ))
    });
    let found = NUMBER.as_ref().map_err(Clone::clone)?.find_all(&response.to_lowercase())?;
    Ok(found.first().and_then(|found| number(found.first())).map(|number| number.to_string()))
}

const NUMBERS: &[(&str, u64)] = &[
    ("zero", 0),
    ("one", 1),
    ("two", 2),
    ("three", 3),
    ("four", 4),
    ("five", 5),
    ("six", 6),
    ("seven", 7),
    ("eight", 8),
    ("nine", 9),
    ("ten", 10),
    ("eleven", 11),
    ("twelve", 12),
    ("thirteen", 13),
    ("fourteen", 14),
    ("fifteen", 15),
    ("sixteen", 16),
    ("seventeen", 17),
    ("eighteen", 18),
    ("nineteen", 19),
    ("twenty", 20),
    ("thirty", 30),
    ("forty", 40),
    ("fifty", 50),
    ("sixty", 60),
    ("seventy", 70),
    ("eighty", 80),
    ("ninety", 90),
    ("hundred", 100),
    ("thousand", 1000),
    ("million", 1_000_000),
    ("billion", 1_000_000_000),
];

/// `word_to_num`; nothing where that stops with an error.
fn number(text: &str) -> Option<u64> {
    let text = text.replace('-', " ");
    let known = |word: &str| NUMBERS.iter().find(|(name, _)| *name == word).map(|(_, number)| *number);
    let words: Vec<u64> = text.split_whitespace().filter_map(known).collect();
    let place = |number: u64| {
        let mut all = words.iter().enumerate().filter(|(_, word)| **word == number).map(|(place, _)| place);
        let first = all.next();
        if all.next().is_some() { Err(()) } else { Ok(first) }
    };
    let scales = [1_000_000_000, 1_000_000, 1000];
    let places = [place(scales[0]).ok()?, place(scales[1]).ok()?, place(scales[2]).ok()?];
    let known: Vec<usize> = places.iter().flatten().copied().collect();
    if words.is_empty() || known.windows(2).any(|pair| pair[0] > pair[1]) {
        return None;
    }
    if let [one] = words[..] {
        return Some(one);
    }
    let (mut sum, mut from) = (0_u64, 0);
    for (scale, place) in scales.into_iter().zip(places) {
        if let Some(place) = place {
            sum = sum.checked_add(formed(&words[from..place])?.checked_mul(scale)?)?;
            from = place + 1;
        }
    }
    // where a thousand ends the number, word2number counts what follows the million once more
    let behind = places.into_iter().rev().flatten().find(|place| place + 1 != words.len());
    let rest = match behind {
        Some(place) => formed(&words[place + 1..])?,
        None if known.is_empty() => formed(&words)?,
        None => 0,
    };
    sum.checked_add(rest)
}

/// The number of up to four words in front of a thousand or the like.
fn formed(words: &[u64]) -> Option<u64> {
    Some(match *words {
        [] => return None,
        [a, b, c, d] => a * b + c + d,
        [a, b, c] => a * b + c,
        [a, b] if words.contains(&100) => a * b,
        [a, b] => a + b,
        [first, ..] => first,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values are those of word2number 1.1 and of the harness's filters.
    #[test]
    fn numbers_in_words() {
        for (said, expected) in [
            ("I have twenty-three fruits", Some("20")),
            ("There are Two hundred and five of them", Some("205")),
            ("one thousand two hundred thirty four", Some("1234")),
            ("three", Some("3")),
            ("nothing", None),
            ("seventeen items, not eight", Some("17")),
            ("two million three thousand", Some("2004003")),
            // a word with a comma is none
            ("two million, three thousand", Some("5000")),
        ] {
            assert_eq!(number_in_words(said).unwrap().as_deref(), expected, "{said}");
        }
    }

    #[test]
    fn words_and_choices() {
        let input = "Sort the following words alphabetically: List: oven costume counterpart";
        let said = "oven? costume, counterpart oven costumes";
        assert_eq!(sorted_words(input, said).unwrap(), "costume counterpart oven");
        assert!(sorted_words("none", said).is_err());
        assert_eq!(choices("Which?\nOptions:\n(A) one two\n(B) 3"), [" one two", " 3"]);
    }
}
