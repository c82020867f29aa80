//! Inks for curves without an order, and what stands for each ink on a dark page.

use colorous::VIRIDIS;

use super::canvas::{BLACK, Color, GRAY, PALE, WHITE};

/// An ink on white paper, and the one that stands for it on dark paper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ink {
    pub(super) light: Color,
    pub(super) dark: Color,
}

/// Letters, lines and paper of every figure.
const PAPER: [Ink; 4] = [
    Ink { light: BLACK, dark: [233, 236, 240] },
    Ink { light: GRAY, dark: [156, 164, 175] },
    Ink { light: PALE, dark: [48, 54, 61] },
    Ink { light: WHITE, dark: [19, 22, 27] },
];

/// Kinds of things, told apart by the colour-blind too (after Okabe and Ito), each at least 4.5 to 1 against its paper.
const KINDS: [Ink; 5] = [
    Ink { light: [0, 96, 170], dark: [108, 182, 255] },
    Ink { light: [190, 70, 0], dark: [255, 158, 94] },
    Ink { light: [0, 118, 90], dark: [80, 212, 168] },
    Ink { light: [150, 60, 130], dark: [226, 160, 216] },
    Ink { light: [92, 92, 100], dark: [178, 184, 192] },
];

/// Steps of an order, at most as many as [`steps`] tells apart.
pub(super) const STEPS: usize = 7;

/// Ink of the kind of place `index`; they repeat after five.
pub(super) fn kind(index: usize) -> Ink {
    KINDS[index % KINDS.len()]
}

/// Ink of step `index` of `count`, of at most [`STEPS`] of them: from purple to green, on dark paper from teal to
/// yellow.
pub(super) fn step(index: usize, count: usize) -> Ink {
    let last = (STEPS - 1) as f64;
    let place = index as f64 / count.saturating_sub(1).max(1) as f64;
    let part = (place * last).round().clamp(0.0, last) / last;
    let at = |part: f64| {
        let color = VIRIDIS.eval_continuous(part);
        [color.r, color.g, color.b]
    };
    Ink { light: at(0.58 * part), dark: at(0.42 + 0.58 * part) }
}

/// Every ink that a dark page replaces.
pub(super) fn replaced() -> impl Iterator<Item = Ink> {
    PAPER.into_iter().chain(KINDS).chain((0..STEPS).map(|index| step(index, STEPS)))
}

/// Whether it is one of letters, lines or paper, which every figure has.
pub(super) fn is_paper(ink: Ink) -> bool {
    PAPER.contains(&ink)
}

/// As CSS and SVG write it.
pub(super) fn hex([r, g, b]: Color) -> String {
    format!("#{r:02X}{g:02X}{b:02X}")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Contrast of two colours as WCAG 2 defines it, 1 to 21.
    pub(in super::super) fn contrast(a: Color, b: Color) -> f64 {
        let linear = |part: u8| {
            let part = f64::from(part) / 255.0;
            if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        let light = |[r, g, b]: Color| 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
        let (a, b) = (light(a), light(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn inks_stand_out_on_their_paper() {
        let paper = PAPER[3];
        let on_paper = |ink: Ink| contrast(ink.light, paper.light).min(contrast(ink.dark, paper.dark));
        for ink in PAPER[..2].iter().chain(&KINDS) {
            assert!(on_paper(*ink) >= 4.5, "{ink:?} {}", on_paper(*ink));
        }
        for index in 0..STEPS {
            assert!(on_paper(step(index, STEPS)) >= 3.0, "{index} {}", on_paper(step(index, STEPS)));
        }
        assert!((contrast([0; 3], [255; 3]) - 21.0).abs() < 1e-9);
    }

    #[test]
    fn every_ink_is_replaced_by_one() {
        let mut light: Vec<Color> = replaced().map(|ink| ink.light).collect();
        let count = light.len();
        light.sort_unstable();
        light.dedup();
        assert_eq!(light.len(), count);
        // fewer steps than there are take their inks from the same row
        for count in 1..=STEPS {
            assert!((0..count).all(|index| replaced().any(|ink| ink == step(index, count))));
        }
        assert_eq!(hex([0, 96, 170]), "#0060AA");
    }
}
