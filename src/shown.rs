//! Text as a person may see it. Names of tensors, keys, models and files come from strangers: a character that steers a
//! terminal, turns the direction of writing or begins a line is shown by its number instead.

use std::borrow::Cow;
use std::path::{Display, Path};

/// Most characters of a message: half a screen.
const MOST: usize = 1000;

/// A path as it is seen from the current directory, where it lies below that.
#[must_use]
pub(crate) fn from_here(path: &Path) -> Display<'_> {
    let here = std::env::current_dir().ok();
    let below = here.and_then(|here| path.strip_prefix(here).ok()).filter(|below| below.file_name().is_some());
    below.unwrap_or(path).display()
}

/// A text within a line: nothing in it has an effect but to be seen.
#[must_use]
pub fn shown(text: &str) -> Cow<'_, str> {
    escaped(text, is_unseen)
}

/// A text of several lines, which may have tabs in them.
#[must_use]
pub fn shown_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_unseen(c) && c != '\n' && c != '\t')
}

/// A text of several lines in which colours are set: `ESC [ 38 ; 5 ; 9 m`.
#[must_use]
pub fn shown_colors(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let mut seen = shown_lines(parts.next().unwrap_or_default()).into_owned();
    for part in parts {
        let end = part.find(|c: char| !c.is_ascii_digit() && c != ';').filter(|end| part[*end..].starts_with('m'));
        seen.push_str(if end.is_some() { "\u{1b}[" } else { "\\u{1b}[" });
        seen.push_str(&shown_lines(part));
    }
    seen
}

/// A message in a line and no longer than a screen: what is too long loses its middle.
#[must_use]
pub fn shown_message(text: &str) -> Cow<'_, str> {
    let text = shown(text);
    if text.len() <= MOST || text.chars().count() <= MOST {
        return text;
    }
    let place = |chars: usize| text.char_indices().nth(chars).map_or(text.len(), |(at, _)| at);
    let (start, end) = (place(MOST / 2), place(text.chars().count() - MOST / 2 + 1));
    Cow::Owned(format!("{}…{}", &text[..start], &text[end..]))
}

/// JSON text in which such characters stand by their number, as JSON allows inside texts.
#[must_use]
pub fn shown_json(json: &str) -> Cow<'_, str> {
    let is_odd = |c: char| is_unseen(c) && c != '\n';
    if !json.contains(is_odd) {
        return Cow::Borrowed(json);
    }
    let mut seen = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match is_odd(c) {
            true => seen.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}"))),
            false => seen.push(c),
        }
    }
    Cow::Owned(seen)
}

fn escaped(text: &str, is_odd: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&is_odd) {
        return Cow::Borrowed(text);
    }
    let mut seen = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            c if !is_odd(c) => seen.push(c),
            '\n' | '\r' | '\t' => seen.extend(c.escape_default()),
            c => seen.extend(c.escape_unicode()),
        }
    }
    Cow::Owned(seen)
}

/// Control characters (C0, DEL, C1), line and paragraph separators, marks that turn the direction of writing, tags, and
/// what XML has no place for.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{fffe}' | '\u{ffff}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ODD: &str = "a\u{1b}[2J\u{7}b\rc\nd\u{202e}e\u{9b}f\u{2028}g\u{7f}h\u{2066}";

    #[test]
    fn what_steers_is_shown_by_its_number() {
        let expected = "a\\u{1b}[2J\\u{7}b\\rc\\nd\\u{202e}e\\u{9b}f\\u{2028}g\\u{7f}h\\u{2066}";
        assert_eq!(shown(ODD), expected);
        assert_eq!(shown_message(ODD), expected);
        assert_eq!(shown(expected), expected);
        assert_eq!(shown_lines("a\n\tb\u{9b}"), "a\n\tb\\u{9b}");
        for plain in ["", "Grüße, 你好, שלום, ±0.1 · █▄ 🦀", "C:\\dir\\u{1b}"] {
            assert!(matches!(shown(plain), Cow::Borrowed(same) if same == plain));
        }
    }

    #[test]
    fn colors_are_set_and_nothing_else() {
        let text = "\u{1b}[38;5;9mred\u{1b}[0m\n\u{1b}[2J\u{1b}]0;x\u{7}\u{1b}[1\u{1b}[m";
        let expected = "\u{1b}[38;5;9mred\u{1b}[0m\n\\u{1b}[2J\\u{1b}]0;x\\u{7}\\u{1b}[1\u{1b}[m";
        assert_eq!(shown_colors(text), expected);
    }

    #[test]
    fn a_message_fits_a_screen() {
        let long = format!("{}{}{}", "a".repeat(3000), "ä".repeat(10_000), "z".repeat(3000));
        let short = shown_message(&long);
        assert_eq!(short.chars().count(), MOST);
        assert!(short.starts_with("aaa") && short.ends_with("zzz") && short.contains('…'));
        assert_eq!(shown_message(&short), short);
        assert_eq!(shown_message(&"ä".repeat(MOST)), "ä".repeat(MOST));
    }

    #[test]
    fn json_says_the_same() {
        let value = serde_json::json!({ ODD: [ODD, "\u{e0041}"] });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let seen = shown_json(&text);
        assert!(!seen.contains(|c| is_unseen(c) && c != '\n'), "{seen}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&seen).unwrap(), value);
    }
}
