//! Scores of every block, as pictures and tables take them.

use colorous::VIRIDIS;

/// Scores of all blocks: row n-1 holds the blocks of n layers, entry l the one that starts at layer l. Scores of single
/// layers are one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Triangle {
    /// The scores.
    pub rows: Vec<Vec<f64>>,
    /// First layer of the best block of each row, where there is one.
    pub best: Vec<Option<usize>>,
    /// The n of the plan.
    pub chosen: Option<usize>,
    /// The layers the plan drops.
    pub dropped: Vec<usize>,
    /// The highest scores go first: similarities.
    pub highest_first: bool,
}

impl Triangle {
    /// Layers of the model, L.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.rows.first().map_or(0, Vec::len)
    }

    /// Whether these are scores of single layers.
    #[must_use]
    pub(crate) fn is_single(&self) -> bool {
        self.rows.len() == 1
    }

    /// Whether entry `l` of row `n`-1 is to be marked: the best block, or a single layer that the plan drops.
    #[must_use]
    pub(crate) fn is_marked(&self, n: usize, l: usize) -> bool {
        if self.is_single() && !self.dropped.is_empty() { self.dropped.contains(&l) } else { self.best(n) == Some(l) }
    }

    /// Row `n`-1 shifted and scaled to [0, 1], 0 what goes first; a row of equal scores is all 0. Scores that are not
    /// finite stay outside.
    #[must_use]
    pub(crate) fn rescaled(&self, n: usize) -> Vec<f64> {
        let Some(row) = self.rows.get(n - 1) else { return Vec::new() };
        let finite = || row.iter().copied().filter(|value| value.is_finite());
        let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        let (zero, span) = if self.highest_first { (high, low - high) } else { (low, high - low) };
        let place = |value: &f64| if span == 0.0 { 0.0 } else { ((value - zero) / span).clamp(0.0, 1.0) };
        row.iter().map(place).collect()
    }

    /// First layer of the best block of `n` layers.
    #[must_use]
    pub fn best(&self, n: usize) -> Option<usize> {
        self.best.get(n - 1).copied().flatten()
    }

    /// Rows worth a picture: those with more than one block, or the only one.
    #[must_use]
    pub(crate) fn shown_rows(&self) -> usize {
        self.rows.iter().filter(|row| row.len() > 1).count().max(self.rows.len().min(1))
    }
}

/// Colour of a rescaled score: yellow goes first, purple last. The steps look equally large, on a screen, in grey and
/// to the colour-blind.
pub(super) fn color(rescaled: f64) -> [u8; 3] {
    let color = VIRIDIS.eval_continuous(1.0 - rescaled.clamp(0.0, 1.0));
    [color.r, color.g, color.b]
}

/// Whether black reads better than white on `color`.
pub(super) fn takes_black([r, g, b]: [u8; 3]) -> bool {
    0.299 * f64::from(r) + 0.587 * f64::from(g) + 0.114 * f64::from(b) > 140.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_span_the_unit_interval() {
        let mut triangle =
            Triangle { rows: vec![vec![2.0, 4.0, 3.0], vec![5.0, 5.0], vec![1.0]], ..Triangle::default() };
        assert_eq!(triangle.rescaled(1), [0.0, 1.0, 0.5]);
        assert_eq!(triangle.rescaled(2), [0.0, 0.0]);
        assert_eq!((triangle.layers(), triangle.shown_rows()), (3, 2));
        assert!(triangle.rescaled(9).is_empty());
        triangle.rows[0][1] = f64::INFINITY;
        assert_eq!((triangle.rescaled(1)[0], triangle.rescaled(1)[2]), (0.0, 1.0));
        triangle.rows[0][1] = 4.0;
        triangle.highest_first = true;
        assert_eq!(triangle.rescaled(1), [1.0, 0.0, 0.5]);
    }

    #[test]
    fn yellow_goes_first() {
        let ([r, g, b], [r1, g1, b1]) = (color(0.0), color(1.0));
        assert!(r > 200 && g > 200 && b < 60 && takes_black([r, g, b]));
        assert!(r1 < 90 && g1 < 20 && b1 > 70 && !takes_black([r1, g1, b1]));
    }
}
