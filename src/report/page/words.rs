//! Numbers and names as the page writes them.

use super::super::run::{Score, ScoreColumn, Variant};
use super::cuts::Way;
use crate::plan::{DropSize, ranges};

/// What stands where nothing was measured.
pub(super) const ABSENT: &str = "–";

/// Digits after the point that show two digits of `error`, or four of `value` where there is none.
fn digits(value: f64, error: Option<f64>) -> usize {
    let (number, shown) = match error {
        Some(error) if error > 0.0 && error.is_finite() => (error, 2),
        Some(_) => return 4,
        None => (value.abs(), 4),
    };
    let size = if number > 0.0 { number.log10().floor() } else { 0.0 };
    (f64::from(shown) - 1.0 - size).clamp(0.0, 6.0) as usize
}

/// `0.806`, with `digits` after the point; large numbers shortened.
fn fixed(value: f64, digits: usize) -> String {
    match value {
        value if value.is_nan() => "not a number".to_owned(),
        value if value.is_infinite() => if value > 0.0 { "∞" } else { "−∞" }.to_owned(),
        value if value.abs() >= 1e7 => format!("{value:.3e}"),
        value => format!("{value:.digits$}").replace('-', "−"),
    }
}

/// `0.806 ± 0.020`: the error with two digits, the value to the same place.
pub(super) fn with_error(value: f64, error: Option<f64>) -> String {
    let digits = digits(value, error);
    match error {
        Some(error) if value.is_finite() => format!("{} ± {}", fixed(value, digits), fixed(error, digits)),
        _ => fixed(value, digits),
    }
}

/// The same with its sign: `+0.056 ± 0.029`.
pub(super) fn signed(value: f64, error: Option<f64>) -> String {
    let sign = if value > 0.0 { "+" } else { "" };
    format!("{sign}{}", with_error(value, error))
}

/// A figure with its error.
pub(super) fn score(score: Option<Score>) -> String {
    score.map_or_else(|| ABSENT.to_owned(), |score| with_error(score.value, score.stderr))
}

/// `0.25`: a round number as short as it is.
pub(super) fn short(value: f64) -> String {
    let text = fixed(value, 4);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// `3.22 M`: three digits of a count.
pub(super) fn count(count: u64) -> String {
    let (size, unit) = match count {
        0..1_000 => return count.to_string(),
        1_000..1_000_000 => (1e3, "k"),
        1_000_000..1_000_000_000 => (1e6, "M"),
        _ => (1e9, "B"),
    };
    let value = count as f64 / size;
    let digits = if value >= 99.95 { 0 } else { 1 + usize::from(value < 9.995) };
    format!("{value:.digits$} {unit}")
}

/// Three digits of a rate or a time.
pub(super) fn three(value: f64) -> String {
    let size = if value.abs() > 0.0 && value.is_finite() { value.abs().log10().floor() } else { 0.0 };
    fixed(value, (2.0 - size).clamp(0.0, 6.0) as usize)
}

/// `1 layer`, `4 layers`.
pub(super) fn plural(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}

/// `−25 %`: how far `after` is from `before`; nothing where that cannot be said.
pub(super) fn relative(before: f64, after: f64) -> Option<String> {
    let change = 100.0 * (after / before - 1.0);
    change.is_finite().then(|| format!("{}{change:.0} %", if change >= 0.5 { "+" } else { "" }).replace('-', "−"))
}

/// `a, b and c`.
pub(super) fn list(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A measure's name and what it counts: `MMLU accuracy`.
pub(super) fn measure(measure: &ScoreColumn) -> String {
    let metric = metric(measure);
    if measure.title.eq_ignore_ascii_case(&metric) { metric } else { format!("{} {metric}", measure.title) }
}

/// `acc` in words.
pub(super) fn metric(measure: &ScoreColumn) -> String {
    match measure.metric.as_str() {
        "acc" => "accuracy".to_owned(),
        "acc_norm" => "normalised accuracy".to_owned(),
        other => other.replace('_', " "),
    }
}

/// A block: `9..=12`.
pub(super) fn block(l: usize, n: usize) -> String {
    ranges(l..l + n)
}

/// `3 layers`, `0.5 layers`.
pub(super) fn layers(size: DropSize) -> String {
    format!("{size} layer{}", if size == DropSize::of_layers(1) { "" } else { "s" })
}

/// `similarity`, `similarity + refit`; the dense model's `uncut`.
pub(super) fn way(way: Way<'_>) -> String {
    repaired(way.strategy.unwrap_or("uncut").to_owned(), way.repair)
}

/// `similarity, healed`, `similarity + refit, healed`.
pub(super) fn kind(of: Way<'_>, is_healed: bool) -> String {
    way(of) + if is_healed { ", healed" } else { "" }
}

/// The name of a cut, and of what repaired it.
fn repaired(name: String, repair: Option<&str>) -> String {
    repair.map_or(name.clone(), |repair| format!("{name} + {repair}"))
}

/// What is said of a model that was only cut, or repaired, healed, or both.
pub(super) fn state(repair: Option<&str>, is_healed: bool) -> String {
    match (repair, is_healed) {
        (None, false) => "only cut".to_owned(),
        (None, true) => "healed".to_owned(),
        (Some(repair), false) => format!("repaired by {repair}"),
        (Some(repair), true) => format!("repaired by {repair} and healed"),
    }
}

/// `similarity 9..=12, healed`, `similarity 9..=12 + refit, healed`.
pub(super) fn variant(variant: &Variant) -> String {
    let mut name = variant.strategy.clone().unwrap_or_else(|| "uncut".to_owned());
    if !variant.dropped.is_empty() {
        name = format!("{name} {}", variant.dropped);
    }
    let name = repaired(name, variant.repair.as_deref());
    if variant.is_healed { name + ", healed" } else { name }
}

/// With a capital.
pub(super) fn upper_first(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_show_as_much_as_their_error_allows() {
        assert_eq!(with_error(0.806_37, Some(0.0196)), "0.806 ± 0.020");
        assert_eq!(with_error(0.036_67, Some(0.001_606)), "0.0367 ± 0.0016");
        assert_eq!(with_error(1.0, Some(0.0)), "1.0000 ± 0.0000");
        assert_eq!(with_error(12_345.678, Some(123.4)), "12346 ± 123");
        assert_eq!(with_error(1.784_67, None), "1.785");
        assert_eq!(with_error(f64::NAN, Some(0.1)), "not a number");
        assert_eq!(with_error(f64::INFINITY, None), "∞");
        assert_eq!(with_error(1e200, None), "1.000e200");
        assert_eq!(signed(-0.05, Some(0.012)), "−0.050 ± 0.012");
        assert_eq!(signed(0.05, None), "+0.05000");
        assert_eq!(short(0.25), "0.25");
        assert_eq!((short(0.5), short(0.0), short(10.0)), ("0.5".into(), "0".into(), "10".into()));
    }

    #[test]
    fn counts_and_changes() {
        let counts = [7, 999, 1000, 122_880, 3_219_456, 6_738_415_616, 99_960_000];
        assert_eq!(counts.map(count), ["7", "999", "1.00 k", "123 k", "3.22 M", "6.74 B", "100 M"]);
        assert_eq!([1234.5, 12.34, 0.01234].map(three), ["1234", "12.3", "0.0123"]);
        assert_eq!((relative(4.0, 3.0), relative(2.0, 3.0)), (Some("−25 %".into()), Some("+50 %".into())));
        assert_eq!((relative(1.0, 1.001), relative(0.0, 1.0)), (Some("0 %".into()), None));
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
        assert_eq!((plural(1, "layer"), plural(0, "layer")), ("1 layer".into(), "0 layers".into()));
    }
}
