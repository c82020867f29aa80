//! Python's regular expressions: `re.findall`, and `re.sub` with nothing.

use fancy_regex::{Captures, Regex};

/// A compiled expression.
#[derive(Debug)]
pub(in crate::eval) struct Pattern(Regex);

/// What `re.findall` has for a match: its text, the text of the only group, or those of all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::eval) enum Found {
    One(String),
    Several(Vec<String>),
}

impl Found {
    /// The text, or the first of the groups' that is not empty.
    pub(in crate::eval) fn first(&self) -> &str {
        match self {
            Self::One(text) => text,
            Self::Several(groups) => groups.iter().find(|group| !group.is_empty()).map_or("", String::as_str),
        }
    }
}

impl Pattern {
    /// The expression that Python means by `source`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(in crate::eval) fn new(source: &str) -> Result<Self, String> {
        Regex::new(&translated(source)?).map(Self).map_err(|error| error.to_string())
    }

    /// An expression in this crate's own dialect, which has classes of letters that Python's has not.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(in crate::eval) fn native(source: &str) -> Result<Self, String> {
        Regex::new(source).map(Self).map_err(|error| error.to_string())
    }

    /// `re.findall`.
    ///
    /// # Errors
    /// An expression that takes too many steps for the text.
    pub(in crate::eval) fn find_all(&self, text: &str) -> Result<Vec<Found>, String> {
        let group = |captures: &Captures<'_>, place: usize| {
            captures.get(place).map(|group| group.as_str().to_owned()).unwrap_or_default()
        };
        let mut all = Vec::new();
        self.each(text, &mut |captures| {
            all.push(match captures.len() {
                groups @ ..=2 => Found::One(group(captures, groups - 1)),
                groups => Found::Several((1..groups).map(|place| group(captures, place)).collect()),
            });
        })?;
        Ok(all)
    }

    /// `re.split`, of an expression without groups.
    ///
    /// # Errors
    /// As [`Pattern::find_all`].
    pub(in crate::eval) fn split(&self, text: &str) -> Result<Vec<String>, String> {
        let (mut parts, mut from) = (Vec::new(), 0);
        self.each(text, &mut |captures| {
            if let Some(whole) = captures.get(0) {
                parts.push(text[from..whole.start()].to_owned());
                from = whole.end();
            }
        })?;
        parts.push(text[from..].to_owned());
        Ok(parts)
    }

    /// `re.sub(pattern, "", text)`.
    ///
    /// # Errors
    /// As [`Pattern::find_all`].
    pub(in crate::eval) fn without(&self, text: &str) -> Result<String, String> {
        let (mut kept, mut from) = (String::with_capacity(text.len()), 0);
        self.each(text, &mut |captures| {
            if let Some(whole) = captures.get(0) {
                kept.push_str(&text[from..whole.start()]);
                from = whole.end();
            }
        })?;
        kept.push_str(&text[from..]);
        Ok(kept)
    }

    /// Every match from left to right: an empty one may stand right behind another, but not at the place of an empty
    /// one (Python since 3.7).
    fn each(&self, text: &str, see: &mut dyn FnMut(&Captures<'_>)) -> Result<(), String> {
        let (mut from, mut last_empty) = (0, None);
        while from <= text.len() {
            let found = self.0.captures_from_pos(text, from).map_err(|error| error.to_string())?;
            let Some((captures, whole)) = found.and_then(|found| found.get(0).map(|whole| (found, whole))) else {
                break;
            };
            let (start, end) = (whole.start(), whole.end());
            let is_empty = start == end;
            if is_empty && last_empty == Some(start) {
                from = text[start..].chars().next().map_or(text.len() + 1, |letter| start + letter.len_utf8());
                continue;
            }
            see(&captures);
            last_empty = is_empty.then_some(start);
            from = end;
        }
        Ok(())
    }
}

/// Signs that mean something outside of a class.
const SIGNS: &str = r"\.+*?()|[]{}^$";
/// Letters that mean something behind a backslash.
const LETTERS: &str = "AbBdDsSwWnrtfvaxuU";

/// The same in this crate's dialect.
fn translated(source: &str) -> Result<String, String> {
    let letters: Vec<char> = source.chars().collect();
    let has_lines = source.split("(?").skip(1).any(|rest| {
        rest.chars().take_while(char::is_ascii_alphabetic).any(|flag| flag == 'm') && !rest.starts_with('P')
    });
    let mut out = String::with_capacity(source.len() + 8);
    let (mut at, mut in_class) = (0, false);
    while let Some(&letter) = letters.get(at) {
        at += 1;
        match letter {
            '\\' => {
                let Some(&next) = letters.get(at) else { return Err("it ends in a backslash".to_owned()) };
                at += 1;
                match next {
                    'Z' if !in_class => out.push_str(r"\z"),
                    '0' => out.push_str(r"\x00"),
                    _ if next.is_ascii_digit() || LETTERS.contains(next) => out.extend(['\\', next]),
                    _ if next.is_ascii_alphabetic() => return Err(format!(r"\{next} means nothing")),
                    _ if SIGNS.contains(next) || in_class && "-&~".contains(next) => out.extend(['\\', next]),
                    _ => out.push(next),
                }
            }
            '[' if !in_class => {
                in_class = true;
                out.push('[');
                if letters.get(at) == Some(&'^') {
                    out.push('^');
                    at += 1;
                }
                if letters.get(at) == Some(&']') {
                    out.push_str(r"\]");
                    at += 1;
                }
            }
            ']' if in_class => {
                in_class = false;
                out.push(']');
            }
            '[' | '&' | '~' if in_class => out.extend(['\\', letter]),
            '$' if !in_class && !has_lines => out.push_str(r"(?=\n?\z)"),
            '{' if !in_class => {
                let rest: String = letters[at..].iter().take_while(|next| **next != '}').collect();
                let is_closed = letters.get(at + rest.chars().count()) == Some(&'}');
                let is_count = |text: &str| text.chars().all(|digit| digit.is_ascii_digit());
                match rest.split_once(',') {
                    _ if !is_closed || rest.is_empty() => out.push_str(r"\{"),
                    None if is_count(&rest) => out.push('{'),
                    Some((low, high)) if is_count(low) && is_count(high) => {
                        out.push_str(if low.is_empty() { "{0" } else { "{" });
                    }
                    _ => out.push_str(r"\{"),
                }
            }
            _ => out.push(letter),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(texts: &[&str]) -> Vec<Found> {
        texts.iter().map(|text| Found::One((*text).to_owned())).collect()
    }

    /// Expected values are those of Python 3.12.
    #[test]
    fn matches_are_pythons() {
        for (pattern, text, expected) in [
            (r"#### (\-?[0-9\.\,]+)", "#### 1,000. #### -7", one(&["1,000.", "-7"])),
            (r"(?<=answer is )(.*?)(?=\.)", "the answer is no. The answer is yes.", one(&["no", "yes"])),
            (r"\\boxed{(.*)}", r"\boxed{42}", one(&["42"])),
            (r"a*", "baa", one(&["", "aa", ""])),
            (r"\d$", "7\n", one(&["7"])),
            (r"\d\Z", "7\n", vec![]),
            (r"(?m)^\w$", "a\nb\n", one(&["a", "b"])),
            (r"[][a]+", "[a]x", one(&["[a]"])),
            (r"x{,2}y", "xxxy", one(&["xxy"])),
            (r"(\w)\1", "hello", one(&["l"])),
            (r"[a&&b]+", "a&b", one(&["a&b"])),
            (r"\<b\>", "a <b> c", one(&["<b>"])),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().find_all(text), Ok(expected), "{pattern}");
        }
        let tuples = Pattern::new("(-?[$0-9.,]{2,})|(-?[0-9]+)").unwrap().find_all("12 or 7").unwrap();
        let tuple = |first: &str, second: &str| Found::Several(vec![first.to_owned(), second.to_owned()]);
        assert_eq!(tuples, [tuple("12", ""), tuple("", "7")]);
    }

    #[test]
    fn what_matches_is_taken_out() {
        for (pattern, text, expected) in [
            (r"(?s).*#### ", "a\n#### b #### 7.", "7."),
            (r"\.$", "7.", "7"),
            (r"\.$", "7.\n", "7\n"),
            (",", "1,000,000", "1000000"),
            (r"\$", "$5", "5"),
        ] {
            assert_eq!(Pattern::new(pattern).unwrap().without(text).unwrap(), expected, "{pattern}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for pattern in ["(", "[a", r"\y", "a\\", "*", "(?a)x"] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
        // takes more steps than there are particles
        let slow = Pattern::new(r"(?:(?=x)x|x)*(?:(?=x)x|x)*(?:(?=x)x|x)*y\b(?!z)").unwrap();
        assert!(slow.find_all(&"x".repeat(5000)).is_err());
    }
}
