//! From a row of a data set to a text whose every token is predicted.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};

use super::python::{strip, words};
use super::questions::text;
use super::source::Fields;
use crate::Result;

/// A text to predict, and the size of what it was made from, which perplexities are divided by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// What is predicted.
    pub text: String,
    /// Words before any tidying, white space at an end making an empty one.
    pub words: usize,
    /// UTF-8 bytes before any tidying.
    pub bytes: usize,
}

impl Text {
    fn new(original: &str, text: String) -> Self {
        Self { text, words: words(original), bytes: original.len() }
    }
}

pub(super) fn wikitext(row: &Fields) -> Result<Text> {
    let page = text(row, "page")?;
    Ok(Text::new(page, detokenize(page)))
}

pub(super) fn c4(row: &Fields) -> Result<Text> {
    let text = text(row, "text")?;
    Ok(Text::new(text, detokenize(text)))
}

pub(super) fn plain(row: &Fields) -> Result<Text> {
    let text = text(row, "text")?;
    Ok(Text::new(text, text.to_owned()))
}

/// The pages of WikiText's own files, which hold all of them in one text: a page starts at a title of one `=`.
pub(super) fn pages(text: &str) -> Vec<String> {
    let mut pages = Vec::new();
    let mut page: Vec<&str> = Vec::new();
    for line in text.split('\n') {
        let title = line.replace("= = =", "===").replace("= =", "==");
        let title = strip(&title);
        if title.starts_with("= ") && title.ends_with(" =") {
            let whole = page.join("\n");
            if !strip(&whole).is_empty() {
                pages.push(whole);
            }
            page.clear();
        }
        page.push(line);
    }
    pages.push(page.join("\n"));
    pages
}

/// The reference's JSON reader takes C4's time stamps for dates, which its hashes show.
pub(super) fn prepare_c4(mut row: Fields) -> Result<Fields> {
    let stamp = row.get("timestamp").and_then(Value::as_str);
    let date = stamp.and_then(|stamp| stamp.strip_suffix('Z')).and_then(|stamp| stamp.split_once('T'));
    if let Some((day, time)) = date {
        let date = format!("{day} {time}");
        row.insert("timestamp".to_owned(), json!(date));
    }
    Ok(row)
}

/// Undoes WikiText's tokenisation; the reference does it to C4 too.
fn detokenize(text: &str) -> String {
    const BEFORE: [(&str, &str); 9] = [
        (" @-@ ", "-"),
        (" @,@ ", ","),
        (" @.@ ", "."),
        (" : ", ": "),
        (" ; ", "; "),
        (" . ", ". "),
        (" ! ", "! "),
        (" ? ", "? "),
        (" , ", ", "),
    ];
    const AFTER: [(&str, &str); 8] = [
        ("= = = =", "===="),
        ("= = =", "==="),
        ("= =", "=="),
        (" \u{b0} ", "\u{b0}"),
        (" \n", "\n"),
        ("\n ", "\n"),
        (" N ", " 1 "),
        (" 's", "'s"),
    ];
    // the class is Python's \s; each rule is tried from left to right with the same preferences as there
    static PAIRS: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
        const RULES: [(&str, &str); 6] = [
            (r"/' [0-9]/", "/'[0-9]/"),
            (r"\([\s\x1c-\x1f]*([^\)]*?)[\s\x1c-\x1f]*\)", "(${1})"),
            (r"\[[\s\x1c-\x1f]*([^\]]*?)[\s\x1c-\x1f]*\]", "[${1}]"),
            (r"\{[\s\x1c-\x1f]*([^}]*?)[\s\x1c-\x1f]*\}", "{${1}}"),
            (r#""[\s\x1c-\x1f]*([^"]*?)[\s\x1c-\x1f]*""#, "\"${1}\""),
            (r"'[\s\x1c-\x1f]*([^']*?)[\s\x1c-\x1f]*'", "'${1}'"),
        ];
        RULES.iter().filter_map(|(rule, with)| Some((Regex::new(rule).ok()?, *with))).collect()
    });
    let substitute = |text: String, (rule, with): &(Regex, &'static str)| match rule.replace_all(&text, *with) {
        Cow::Borrowed(_) => text,
        Cow::Owned(replaced) => replaced,
    };
    let replace = |text: String, (from, to): &(&str, &str)| text.replace(from, to);
    let text = PAIRS.iter().take(1).fold(text.replace("s '", "s'"), substitute);
    let text = BEFORE.iter().fold(text, replace);
    let text = PAIRS.iter().skip(1).fold(text, substitute);
    AFTER.iter().fold(text, replace)
}

#[cfg(test)]
mod tests {
    use sha2::Digest;

    use super::*;

    #[test]
    fn detokenize_as_the_reference() {
        for (text, expected) in [
            (" \n = = Fish = = \n ", "\n== Fish ==\n"),
            ("the dogs ' 3 @.@ 5 ( a b ) [ c ] { d }", "the dogs' 3.5 (a b) [c] {d}"),
            ("\" lantern \" the clerk 's , N . end ( 4 \u{b0} C )", "\"lantern\" the clerk's, N. end (4\u{b0}C)"),
            ("( a ( b ) c ) ' ' x ' y", "(a ( b) c ) '' x ' y"),
            ("N N a N N b", "N 1 a 1 N b"),
            ("/' 7/ x", "/'[0-9]/ x"),
            ("(\u{1c}a\u{1d})", "(a)"),
        ] {
            assert_eq!(detokenize(text), expected);
        }
    }

    /// The digest is of what the reference's own function makes of the 62 pages.
    #[test]
    fn all_of_wikitext() {
        let Some(path) = crate::material::shared("data/wikitext2/wiki.test.raw") else { return };
        let text = std::fs::read_to_string(path).unwrap();
        let pages = pages(&text);
        assert_eq!(pages.len(), 62);
        let tidy: Vec<String> = pages.iter().map(|page| detokenize(page)).collect();
        let digest = format!("{:x}", sha2::Sha256::digest(tidy.join("\0")));
        assert_eq!(digest, "b0ae50e166add20959a5406d9b3c99fe1f23819ec0a10149047149434fb85d81");
    }

    #[test]
    fn time_stamps_become_dates() {
        let row = json!({"timestamp": "2019-04-25T12:57:54Z", "text": "t"});
        let Value::Object(row) = row else { panic!("an object") };
        assert_eq!(prepare_c4(row).unwrap()["timestamp"], "2019-04-25 12:57:54");
    }
}
