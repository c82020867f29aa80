//! Undoing a tokenisation that stands in texts, as the reference does it.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

/// Undoes WikiText's tokenisation; the reference does it to C4 too.
pub(super) fn detokenize(text: &str) -> String {
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
}
