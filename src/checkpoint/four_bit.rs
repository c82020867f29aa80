//! Names of four-bit weights, as bitsandbytes saves them: `P.weight` holds the codes, and beside it lie
//! `P.weight.absmax` and its like.

use super::{Entry, Index};

/// Ends of the names that lie beside a four-bit weight. The last two hold its settings, and mark it.
const PARTS: [&str; 6] = [
    ".absmax",
    ".quant_map",
    ".nested_absmax",
    ".nested_quant_map",
    ".quant_state.bitsandbytes__nf4",
    ".quant_state.bitsandbytes__fp4",
];

impl Index {
    /// The settings of the four-bit weight `name` (`….weight`); `None` when it is not stored in four bits.
    #[must_use]
    pub fn four_bit_state(&self, name: &str) -> Option<&Entry> {
        PARTS[4..].iter().find_map(|ending| self.tensors.get(&format!("{name}{ending}")))
    }
}

/// The four-bit weight that tensor `name` is a part of: `….weight` for `….weight.absmax`; `None` for other tensors.
#[must_use]
pub(crate) fn four_bit_owner(name: &str) -> Option<&str> {
    PARTS.iter().find_map(|ending| name.strip_suffix(ending))
}

#[cfg(test)]
mod tests {
    use super::four_bit_owner;

    #[test]
    fn parts_belong_to_their_weight() {
        assert_eq!(four_bit_owner("a.weight.absmax"), Some("a.weight"));
        assert_eq!(four_bit_owner("a.weight.nested_absmax"), Some("a.weight"));
        assert_eq!(four_bit_owner("a.weight.quant_state.bitsandbytes__nf4"), Some("a.weight"));
        assert_eq!(four_bit_owner("a.weight"), None);
    }
}
