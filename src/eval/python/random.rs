//! CPython's `random.Random(seed).sample`: the order of few-shot examples hangs on it.

use rand_mt::Mt;

/// `random.Random(seed)`.
#[derive(Debug)]
pub(in crate::eval) struct Random(Mt);

impl Random {
    /// Seeded as Python seeds from an integer: its 32-bit digits, the lowest first, are the key.
    pub(in crate::eval) fn new(seed: u64) -> Self {
        let digits = [seed as u32, (seed >> 32) as u32];
        let used = if digits[1] == 0 { 1 } else { 2 };
        Self(Mt::new_with_key(digits.into_iter().take(used)))
    }

    /// Uniform below `n`, by rejection (`_randbelow_with_getrandbits`).
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let draw = self.bits(bits);
            if draw < n {
                return draw;
            }
        }
    }

    /// `getrandbits(count)`, `count` at most 64.
    fn bits(&mut self, count: u32) -> usize {
        let mut next = |count: u32| (self.0.next_u32() >> (32 - count)) as usize;
        if count <= 32 { next(count) } else { next(32) | next(count - 32) << 32 }
    }

    /// Indices that `sample(range(n), k)` draws, in its order; `None` when k > n.
    pub(in crate::eval) fn sample(&mut self, n: usize, k: usize) -> Option<Vec<usize>> {
        if k > n {
            return None;
        }
        let mut set_size = 21;
        if k > 5 {
            set_size += 4usize.pow((3.0 * k as f64).log(4.0).ceil() as u32);
        }
        let mut drawn = Vec::with_capacity(k);
        if n <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            for i in 0..k {
                let j = self.below(n - i);
                drawn.push(pool[j]);
                pool[j] = pool[n - i - 1];
            }
        } else {
            while drawn.len() < k {
                let j = self.below(n);
                if !drawn.contains(&j) {
                    drawn.push(j);
                }
            }
        }
        Some(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sample_is_pythons() {
        let sample = |n, k| Random::new(1234).sample(n, k).unwrap();
        assert_eq!(sample(8, 6), [7, 0, 6, 5, 4, 2]);
        assert_eq!(sample(9427, 6), [7220, 1914, 122, 1485, 572, 1375]);
        assert_eq!(sample(16113, 3), [15834, 12749, 7220]);
        assert!(Random::new(1234).sample(3, 4).is_none());
    }

    #[test]
    fn sample_agrees_with_recorded_draws() {
        let Some(path) = crate::material::shared("golden/eval/python_random_sample.json") else { return };
        let text = std::fs::read_to_string(path).unwrap();
        let recorded: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        for (call, draws) in &recorded {
            let Some(arguments) = call.strip_prefix("sample(range(") else { continue };
            let (n, k) = arguments.trim_end_matches(')').split_once("),").unwrap();
            let drawn = Random::new(1234).sample(n.parse().unwrap(), k.parse().unwrap()).unwrap();
            assert_eq!(serde_json::json!([drawn]), *draws, "{call}");
        }
        let mut random = Random::new(1234);
        let four: Vec<_> = (0..4).map(|_| random.sample(9427, 6).unwrap()).collect();
        assert_eq!(serde_json::json!(four), recorded["sequence: Random(1234), 4 successive sample(range(9427),6)"]);
    }
}
