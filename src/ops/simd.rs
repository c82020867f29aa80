//! Plain loops, compiled for the vector units that the machine turns out to have.

/// Whether the machine has what `medium` and `wide` below enable.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn detected() -> (bool, bool) {
    let medium = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
    let wide = std::is_x86_feature_detected!("avx512f")
        && std::is_x86_feature_detected!("avx512bw")
        && std::is_x86_feature_detected!("avx512dq")
        && std::is_x86_feature_detected!("avx512vl");
    (medium, wide)
}

/// The vector units that the loops use on this machine; `None` where they run as compiled for the least of its kind.
#[must_use]
pub fn vector_units() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    match detected() {
        (true, true) => return Some("AVX-512"),
        (true, false) => return Some("AVX2"),
        (false, _) => {}
    }
    cfg!(target_arch = "aarch64").then_some("NEON")
}

/// Runs `work` compiled for the widest vectors of this machine. Everything in `work` that is to profit must be inlined
/// into it, so helpers that it calls carry `#[inline(always)]`.
#[inline(always)]
pub(crate) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn wide<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        #[target_feature(enable = "avx2,fma")]
        fn medium<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        let (medium_here, wide_here) = detected();
        if medium_here && wide_here {
            // SAFETY: the machine has every feature that `wide` enables, just asked.
            return unsafe { wide(work) };
        }
        if medium_here {
            // SAFETY: the machine has every feature that `medium` enables, just asked.
            return unsafe { medium(work) };
        }
    }
    work()
}

/// Numbers that a vectorised sum keeps apart: four AVX-512 registers' worth would not be faster.
const LANES: usize = 32;

/// The lanes joined pairwise.
#[inline(always)]
fn join(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        let (low, high) = lanes.split_at_mut(width);
        for (low, high) in low.iter_mut().zip(high) {
            *low = join(*low, *high);
        }
        width /= 2;
    }
    lanes[0]
}

/// The largest number of `a`, -infinity if there is none; NaN is passed over.
#[inline(always)]
pub(crate) fn max(a: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = a.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, a) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, *a);
        }
    }
    rest.iter().fold(join(lanes, larger), |max, a| larger(max, *a))
}

/// Replaces each number by `change` of it and returns the sum of what stands there now, summed in lanes.
#[inline(always)]
pub(crate) fn change_and_sum(a: &mut [f32], change: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, rest) = a.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (lane, a) in lanes.iter_mut().zip(chunk) {
            *a = change(*a);
            *lane += *a;
        }
    }
    let mut sum = 0f32;
    for a in rest {
        *a = change(*a);
        sum += *a;
    }
    join(lanes, |a, b| a + b) + sum
}

/// Σ term(a_i, b_i), summed in lanes: the order does not depend on the machine.
#[inline(always)]
pub(crate) fn sum2(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for (lane, (a, b)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane += term(*a, *b);
        }
    }
    let mut rest = 0f32;
    for (a, b) in a_rest.iter().zip(b_rest) {
        rest += term(*a, *b);
    }
    join(lanes, |a, b| a + b) + rest
}

/// a · b.
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum2(a, b, |a, b| a * b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_of_every_length() {
        for len in 0..100 {
            let a: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..len).map(|i| (i as f32 * 1.3).cos()).collect();
            let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((f64::from(vectorised(|| dot(&a, &b))) - exact).abs() < 1e-5);
            assert_eq!(vectorised(|| dot(&a, &b)).to_bits(), dot(&a, &b).to_bits());
        }
    }
}
