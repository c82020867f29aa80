//! Texts that say the same again and again, as damaged models do.

/// Tokens that a repeated suffix has at least.
const SHORTEST: usize = 12;
/// Times that it says the same at least.
const TIMES: usize = 3;

/// Where a text begins to repeat what it ends with: at its second saying. `None` where its end is no repetition, which
/// says the same at least three times and has at least twelve tokens.
#[must_use]
pub fn repeats_from(said: &[u32]) -> Option<usize> {
    let n = said.len();
    (1..=n / TIMES).find_map(|period| {
        let matches = (period..n).rev().take_while(|at| said[*at] == said[at - period]).count();
        let span = matches + period;
        (span >= SHORTEST.max(TIMES * period)).then(|| n - matches)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_text_repeats_itself() {
        let told: Vec<u32> = (0..40).collect();
        let ending = |unit: &[u32], times: usize| [&told[..], &unit.repeat(times)].concat();
        assert_eq!(repeats_from(&told), None);
        assert_eq!(repeats_from(&[]), None);
        // eleven tokens are too few, twelve are enough; the first saying still says something
        assert_eq!(repeats_from(&ending(&[7], 11)), None);
        assert_eq!(repeats_from(&ending(&[7], 12)), Some(41));
        assert_eq!(repeats_from(&ending(&[50, 51, 52, 53, 54, 55], 2)), None);
        assert_eq!(repeats_from(&ending(&[50, 51, 52, 53, 54, 55], 3)), Some(46));
        // cut off within a saying
        assert_eq!(repeats_from(&[&ending(&[50, 51, 52, 53], 3)[..], &[50, 51]].concat()), Some(44));
        // what came before the end does not count
        assert_eq!(repeats_from(&[&[7; 30][..], &told].concat()), None);
    }
}
