//! The outlines of letters, for pictures made of dots.

use std::sync::LazyLock;

use ab_glyph::{Font, FontRef, InvalidFont, PxScale, ScaleFont, point};
use epaint_default_fonts::UBUNTU_LIGHT;

use crate::{Error, Result};

static FONT: LazyLock<Result<FontRef<'static>, InvalidFont>> = LazyLock::new(|| FontRef::try_from_slice(UBUNTU_LIGHT));

/// Height of capitals and digits, for one unit of a font's size.
pub(super) const CAPITALS: f64 = 0.69;

/// The font, so large that its em is `size`.
fn scaled(size: f64) -> Result<(impl ScaleFont<&'static FontRef<'static>>, PxScale)> {
    let font = FONT.as_ref().map_err(|_| Error::work("the built-in font is broken"))?;
    let scale = font.pt_to_px_scale(size as f32 * 0.75).unwrap_or(PxScale::from(size as f32));
    Ok((font.as_scaled(scale), scale))
}

/// Width of a text whose font's em is `size`, in the same unit.
pub(super) fn width(text: &str, size: f64) -> f64 {
    let Ok((font, _)) = scaled(size) else { return 0.0 };
    let mut width = 0.0;
    let mut before = None;
    for letter in text.chars().map(|letter| font.glyph_id(letter)) {
        width += before.map_or(0.0, |before| font.kern(before, letter)) + font.h_advance(letter);
        before = Some(letter);
    }
    f64::from(width)
}

/// Calls `draw` with the place of every dot that a text covers and how much of it, 0 to 1. The text starts at `start`,
/// on its base line.
///
/// # Errors
/// Those of `draw`.
pub(super) fn dots(
    text: &str,
    size: f64,
    start: (f64, f64),
    mut draw: impl FnMut((i32, i32), f64) -> Result<()>,
) -> Result<()> {
    let (font, scale) = scaled(size)?;
    let mut x = start.0 as f32;
    let mut before = None;
    for letter in text.chars().map(|letter| font.glyph_id(letter)) {
        x += before.map_or(0.0, |before| font.kern(before, letter));
        let glyph = letter.with_scale_and_position(scale, point(x, start.1 as f32));
        if let Some(outline) = font.outline_glyph(glyph) {
            let corner = outline.px_bounds().min;
            let mut result = Ok(());
            outline.draw(|across, down, cover| {
                if result.is_ok() && cover > 0.0 {
                    let dot = (corner.x as i32 + across as i32, corner.y as i32 + down as i32);
                    result = draw(dot, f64::from(cover.min(1.0)));
                }
            });
            result?;
        }
        x += font.h_advance(letter);
        before = Some(letter);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_stand_on_their_line() {
        let (mut left, mut right, mut top, mut bottom) = (i32::MAX, i32::MIN, i32::MAX, i32::MIN);
        dots("H0", 100.0, (10.0, 200.0), |(x, y), _| {
            (left, right) = (left.min(x), right.max(x));
            (top, bottom) = (top.min(y), bottom.max(y));
            Ok(())
        })
        .unwrap();
        let width = width("H0", 100.0);
        assert!(left >= 10 && f64::from(right) <= 10.0 + width && f64::from(right - left) > 0.8 * width);
        assert!((f64::from(200 - top) - 100.0 * CAPITALS).abs() < 3.0, "{top}");
        assert!((199..=202).contains(&bottom), "{bottom}");
    }
}
