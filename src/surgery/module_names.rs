//! Names of modules in configs: quantisers list modules they left alone (`model.layers.3.mlp.gate`), adapters the ones
//! they touch. Layer numbers in them follow the cut.

use super::names::WORDS;

/// What a name has to do with layers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mention {
    /// Names no particular layer.
    None,
    /// Names this layer, whose number stands at these bytes.
    Layer(usize, std::ops::Range<usize>),
    /// A pattern over layer numbers that cannot be renumbered safely.
    Pattern,
}

/// Looks for `layers.N` in a module name, or for a regular expression that picks layers by number.
pub(super) fn mention(name: &str) -> Mention {
    const WORD: &str = WORDS[0];
    for (at, _) in name.match_indices(WORD) {
        let from = at + WORD.len();
        let rest = &name[from..];
        if let Some(rest) = rest.strip_prefix('.') {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let ends = matches!(rest.as_bytes().get(digits), None | Some(b'.'));
            if let (true, true, Ok(layer)) = (digits > 0, ends, rest[..digits].parse()) {
                return Mention::Layer(layer, from + 1..from + 1 + digits);
            }
        }
        // `layers\.3\.`, `layers.[0-3].`, `layers.(1|2)`: up to the next component
        let rest = rest.trim_start_matches(['\\', '.']);
        let component = rest.split('.').next().unwrap_or(rest);
        if component.bytes().any(|byte| byte.is_ascii_digit() || byte == b'[' || byte == b'(') {
            return Mention::Pattern;
        }
    }
    // where layers go by another word, it stands alone between dots
    let parts = name.split('.').scan(0, |start, part| {
        let at = *start;
        *start += part.len() + 1;
        Some((at, part))
    });
    for (at, part) in parts {
        let from = at + part.len() + 1;
        let number = name.get(from..).and_then(|rest| rest.split('.').next()).unwrap_or_default();
        if WORDS[1..].contains(&part)
            && number.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(layer) = number.parse()
        {
            return Mention::Layer(layer, from..from + number.len());
        }
    }
    Mention::None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_and_patterns_admitted() {
        assert_eq!(mention("model.layers.12.mlp.gate"), Mention::Layer(12, 13..15));
        assert_eq!(mention("layers.0"), Mention::Layer(0, 7..8));
        assert_eq!(mention("transformer.h.3.mlp"), Mention::Layer(3, 14..15));
        assert_eq!(mention("blocks.3"), Mention::Layer(3, 7..8));
        assert_eq!(mention("path.3.h.mlp.h"), Mention::None);
        for name in ["lm_head", "gate_proj", "model.layers.mlp", "re:.*layers.*mlp.gate$", "layers", ""] {
            assert_eq!(mention(name), Mention::None, "{name}");
        }
        for name in [
            r"-:model\.layers\.3\..*",
            "re:model.layers.[0-3].mlp",
            "re:layers.(1|2)",
            "model.layers.3x.y",
            r"layers\.\d+",
        ] {
            let expected = if name.ends_with("d+") { Mention::None } else { Mention::Pattern };
            assert_eq!(mention(name), expected, "{name}");
        }
        assert_eq!(mention(&format!("layers.{}", "9".repeat(40))), Mention::Pattern);
    }
}
