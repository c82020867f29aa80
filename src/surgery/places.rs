//! Which layer of the source stands at which place of the new stack.

use std::collections::BTreeMap;

/// The new stack, from the embedding up, and where each layer of the source went.
#[derive(Clone, Debug)]
pub(super) struct Places {
    layers: Vec<usize>,
    of: BTreeMap<usize, Vec<usize>>,
    is_whole: bool,
}

impl Places {
    /// The stack of the source's `layers`, of which it has `all`.
    pub(super) fn new(layers: &[usize], all: usize) -> Self {
        let mut of: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (place, layer) in layers.iter().enumerate() {
            of.entry(*layer).or_default().push(place);
        }
        Self { layers: layers.to_vec(), of, is_whole: layers.iter().copied().eq(0..all) }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }

    /// The source's layer at each place.
    pub(super) fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// The places of `layer`, ascending; none where it is dropped.
    pub(super) fn of(&self, layer: usize) -> &[usize] {
        self.of.get(&layer).map_or(&[], Vec::as_slice)
    }

    /// Whether it is the source's stack as it was.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_go_to_none_one_or_several_places() {
        let places = Places::new(&[0, 2, 2, 1], 4);
        assert_eq!((places.of(2), places.of(1), places.of(3), places.len()), (&[1, 2][..], &[3][..], &[][..], 4));
        assert!(!places.is_whole() && Places::new(&[0, 1], 2).is_whole() && !Places::new(&[0, 1], 3).is_whole());
    }
}
