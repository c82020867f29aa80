//! The layer lists people type: `21-28,30`.

use std::collections::BTreeSet;

use crate::{Error, Result};

/// Layers named by `text`: a comma list of single layers (`30`), inclusive ranges (`21-28`, `21..=28`) and half-open
/// ranges (`21..29`), 0-based, for a model of `layers` layers.
///
/// # Errors
/// A request error that quotes the part that is no layer or range, is empty, repeats a layer or leaves the model.
pub fn parse_drop(text: &str, layers: usize) -> Result<BTreeSet<usize>> {
    let mut named = BTreeSet::new();
    for part in text.split(',') {
        let part = part.trim();
        let (first, end) = bounds(part).ok_or_else(|| {
            Error::request(format!(
                "`{part}` in `{text}` is no layer or range; write for example 30, 21-28, 21..=28 or 21..29"
            ))
        })?;
        if first >= end {
            return Err(Error::request(format!("the range `{part}` names no layer")));
        }
        if end > layers {
            return Err(Error::request(format!(
                "`{part}` names layer {}, but the model has {layers} layers (0..={})",
                end - 1,
                layers.saturating_sub(1)
            )));
        }
        for layer in first..end {
            if !named.insert(layer) {
                return Err(Error::request(format!("`{text}` names layer {layer} twice")));
            }
        }
    }
    Ok(named)
}

/// First layer and the one after the last.
fn bounds(part: &str) -> Option<(usize, usize)> {
    let number = |text: &str| -> Option<usize> {
        let text = text.trim();
        // `parse` would accept a sign
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    if let Some((first, last)) = part.split_once("..=").or_else(|| part.split_once('-')) {
        return Some((number(first)?, number(last)?.checked_add(1)?));
    }
    if let Some((first, end)) = part.split_once("..") {
        return Some((number(first)?, number(end)?));
    }
    let layer = number(part)?;
    Some((layer, layer.checked_add(1)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ranges;
    use super::*;

    #[test]
    fn every_way_to_write_a_range() {
        let expected: BTreeSet<usize> = (21..=28).collect();
        for text in ["21-28", "21..=28", "21..29", " 21 - 28 ", "21-24,25,26..=28", "28,27,21-26"] {
            assert_eq!(parse_drop(text, 32).unwrap(), expected, "{text}");
        }
        assert_eq!(parse_drop("0,31", 32).unwrap(), [0, 31].into());
    }

    #[test]
    fn faults_are_quoted() {
        for (text, word) in [
            ("", "`` in `` is no layer"),
            ("21-", "`21-` in"),
            ("a", "`a` in `a`"),
            ("-3", "`-3` in"),
            ("+3", "`+3` in"),
            ("1,,2", "`` in `1,,2`"),
            ("3..3", "`3..3` names no layer"),
            ("28-21", "`28-21` names no layer"),
            ("32", "names layer 32, but the model has 32 layers (0..=31)"),
            ("0-18446744073709551614", "names layer 18446744073709551614"),
            ("0-18446744073709551615", "is no layer or range"),
            ("1-3,3", "names layer 3 twice"),
        ] {
            let error = parse_drop(text, 32).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(word), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "[-0-9., =x]{0,24}|\\PC{0,16}", layers in 0usize..200) {
            if let Ok(named) = parse_drop(&text, layers) {
                prop_assert!(named.iter().all(|layer| *layer < layers));
            }
        }

        #[test]
        fn what_we_print_is_what_we_read(named in proptest::collection::btree_set(0usize..64, 1..40)) {
            prop_assert_eq!(parse_drop(&ranges(named.iter().copied()), 64).unwrap(), named);
        }
    }
}
