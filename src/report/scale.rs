//! Round numbers along an axis.

/// Step between the labels of items that are `cell` pixels apart, so that labels keep `room` pixels between them.
pub(super) fn label_step(cell: f64, room: f64) -> usize {
    let steps = (0..).flat_map(|power| [1, 2, 5].map(|digit| digit * 10usize.pow(power)));
    steps.take(18).find(|step| *step as f64 * cell >= room).unwrap_or(1_000_000)
}

/// Round numbers that cover `low` to `high` in about `count` steps, the first at most `low`, the last at least `high`.
pub(super) fn round_numbers(low: f64, high: f64, count: usize) -> Vec<f64> {
    let span = if high > low { high - low } else { low.abs().max(1.0) * 0.1 };
    let raw = span / count.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|digit| digit * power).find(|step| *step >= raw * 0.999);
    let step = step.unwrap_or(power);
    let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil().max((low / step).floor() + 1.0));
    let places = (last - first).min(1000.0) as usize;
    (0..=places).map(|place| (first + place as f64) * step).collect()
}

/// Powers of ten between `low` and `high`, both above zero; with twice and five times them where that gives few.
pub(super) fn powers(low: f64, high: f64) -> Vec<f64> {
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let digits: &[f64] = if powers.clone().count() > 4 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let step = powers.clone().count() / 9 + 1;
    let numbers = powers.step_by(step).flat_map(|power| digits.iter().map(move |digit| digit * 10f64.powi(power)));
    numbers.filter(|number| (low..=high).contains(number)).collect()
}

/// Those numbers as labels, all with the digits their distance needs.
pub(super) fn labels(numbers: &[f64]) -> Vec<String> {
    let step = numbers.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    let digits = if step.is_finite() && step > 0.0 { (-step.log10()).ceil().clamp(0.0, 12.0) as usize } else { 2 };
    numbers
        .iter()
        .map(|number| format!("{:.digits$}", if number.abs() < step * 1e-6 { 0.0 } else { *number }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_have_room() {
        assert_eq!([72.0, 20.0, 8.0, 3.0, 0.1].map(|cell| label_step(cell, 26.0)), [1, 2, 5, 10, 500]);
    }

    #[test]
    fn powers_of_ten() {
        assert_eq!(powers(1.6, 30.0), [2.0, 5.0, 10.0, 20.0]);
        assert_eq!(powers(0.5, 200_000.0), [1.0, 10.0, 100.0, 1e3, 1e4, 1e5]);
        assert!(powers(1e-300, 1e300).len() <= 10);
    }

    #[test]
    fn round_and_covering() {
        assert_eq!(labels(&round_numbers(0.03, 0.41, 5)), ["0.0", "0.1", "0.2", "0.3", "0.4", "0.5"]);
        assert_eq!(labels(&round_numbers(0.0, 1.0, 5)), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(&round_numbers(-3.0, 12.0, 3)), ["-5", "0", "5", "10", "15"]);
        for (low, high) in [(0.2, 0.2), (0.0, 0.0), (-5.0, -5.0), (1e-9, 2e-9), (0.0, 1e9), (3.0, 1.0)] {
            let numbers = round_numbers(low, high, 5);
            assert!(
                numbers.len() >= 2 && numbers[0] <= low + 1e-12 && numbers[numbers.len() - 1] >= high.min(low) - 1e-12
            );
        }
    }
}
