//! `str.isspace`, `strip`, `capitalize`, `re.split(r"\s+")`.

/// White space as Python sees it: Unicode's, and the four information separators.
pub(in crate::eval) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// `text.strip()`.
pub(in crate::eval) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `text.rstrip()`.
pub(in crate::eval) fn rstrip(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `len(re.split(r"\s+", text))`: white space at an end makes an empty word.
pub(in crate::eval) fn words(text: &str) -> usize {
    let mut runs = 0;
    let mut inside = false;
    for c in text.chars() {
        let space = is_space(c);
        runs += usize::from(space && !inside);
        inside = space;
    }
    runs + 1
}

/// `text.capitalize()`: the first character in title case, all others in lower case.
pub(in crate::eval) fn capitalize(text: &str) -> String {
    let Some(first) = text.chars().next() else { return String::new() };
    // lowered as a whole: a final sigma depends on what precedes it
    let lower = text.to_lowercase();
    let skip = first.to_lowercase().map(char::len_utf8).sum();
    let mut result = title(first);
    result.push_str(lower.get(skip..).unwrap_or_default());
    result
}

/// Title case of one character; Rust has only upper case, which differs for the digraphs, the Georgian letters and
/// the characters that become several.
fn title(c: char) -> String {
    match c {
        'Ǆ'..='ǆ' => "ǅ".to_owned(),
        'Ǉ'..='ǉ' => "ǈ".to_owned(),
        'Ǌ'..='ǌ' => "ǋ".to_owned(),
        'Ǳ'..='ǳ' => "ǲ".to_owned(),
        'ა'..='ჿ' => c.to_string(),
        _ => {
            let mut upper = c.to_uppercase();
            upper.next().into_iter().chain(upper.flat_map(char::to_lowercase)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_space() {
        assert_eq!(strip("\u{1c}\u{1f} \n a b\u{85}\u{a0}\u{2003}"), "a b");
        assert_eq!(rstrip(" a\u{1d}"), " a");
        assert_eq!(strip("\u{200b}a"), "\u{200b}a");
    }

    #[test]
    fn words_counts_the_empty_ones_at_the_ends() {
        assert_eq!(words(" Short page .\n"), 5);
        assert_eq!(words(""), 1);
        assert_eq!(words("one"), 1);
        assert_eq!(words("one\u{1c}two \t three"), 3);
    }

    #[test]
    fn capitalize_as_python() {
        for (text, expected) in [
            ("", ""),
            ("THEY begin", "They begin"),
            ("the man", "The man"),
            ("ßA", "Ssa"),
            ("ǆungla", "ǅungla"),
            ("éCOLE", "École"),
            ("ΟΔΟΣ", "Οδος"),
            ("[header] How", "[header] how"),
        ] {
            assert_eq!(capitalize(text), expected);
        }
    }
}
