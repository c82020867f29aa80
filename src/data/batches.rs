//! Which samples share a pass.

/// Samples in passes of at most `max_tokens` tokens, in order: each pass takes samples while they fit, and a sample
/// longer than `max_tokens` stands alone. There is no padding, so nothing is gained by sorting.
pub fn group(lengths: &[usize], max_tokens: usize) -> Vec<Vec<usize>> {
    let mut passes: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0_usize;
    for (sample, &length) in lengths.iter().enumerate() {
        match passes.last_mut() {
            Some(pass) if length.saturating_add(tokens) <= max_tokens => pass.push(sample),
            _ => {
                passes.push(vec![sample]);
                tokens = 0;
            }
        }
        tokens = tokens.saturating_add(length);
    }
    passes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pass_is_filled_in_order() {
        assert_eq!(group(&[3, 3, 4, 9, 1, 1], 7), [vec![0, 1], vec![2], vec![3], vec![4, 5]]);
        assert_eq!(group(&[5, 5], 0), [vec![0], vec![1]]);
        assert!(group(&[], 7).is_empty());
    }

    proptest! {
        #[test]
        fn every_sample_is_in_one_pass_that_fits(lengths in prop::collection::vec(0_usize..50, 0..60), max in 0_usize..100) {
            let passes = group(&lengths, max);
            let flat: Vec<usize> = passes.iter().flatten().copied().collect();
            prop_assert_eq!(flat, (0..lengths.len()).collect::<Vec<_>>());
            for pair in passes.windows(2) {
                let tokens: usize = pair[0].iter().map(|&i| lengths[i]).sum();
                prop_assert!(tokens <= max || pair[0].len() == 1);
                prop_assert!(tokens + lengths[pair[1][0]] > max, "the next sample would have fitted");
            }
        }
    }
}
