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

/// Whether loops written for AVX-512 may run.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(crate) fn has_avx512() -> bool {
    detected() == (true, true)
}

/// The vector units that the loops use on this machine; `None` where they run as compiled for the least of its kind.
#[must_use]
pub(crate) fn vector_units() -> Option<&'static str> {
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
pub(crate) fn vectorized<R>(work: impl FnOnce() -> R) -> R {
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
pub(crate) fn sum2<T: Copy>(a: &[f32], b: &[T], term: impl Fn(f32, T) -> f32) -> f32 {
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

/// Each of `xs` · b, to the bit as [`dot`] has it; one sum alone waits for its own additions.
#[inline(always)]
pub(crate) fn dots<const N: usize>(xs: [&[f32]; N], b: &[f32]) -> [f32; N] {
    let (b, b_rest) = b.as_chunks::<LANES>();
    let xs = xs.map(|x| x.as_chunks::<LANES>());
    let mut lanes = [[0f32; LANES]; N];
    for (at, b) in b.iter().enumerate() {
        for (lanes, (x, _)) in lanes.iter_mut().zip(&xs) {
            for (lane, (x, b)) in lanes.iter_mut().zip(x[at].iter().zip(b)) {
                *lane += x * b;
            }
        }
    }
    let mut sums = lanes.map(|lanes| join(lanes, |a, b| a + b));
    for (sum, (_, x_rest)) in sums.iter_mut().zip(&xs) {
        let mut rest = 0f32;
        x_rest.iter().zip(b_rest).for_each(|(x, b)| rest += x * b);
        *sum += rest;
    }
    sums
}

/// Asks for the line of the cache that `data[at]` is in, if there is one.
#[inline(always)]
pub(crate) fn prefetch<T>(data: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(place) = data.get(at) {
        // SAFETY: a hint, which reads nothing
        unsafe {
            std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(std::ptr::from_ref(place).cast())
        };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (data, at);
}

/// Asks for all lines of the cache that the numbers `columns` of a row are in.
#[inline(always)]
pub(crate) fn prefetch_row<T>(row: &[T], columns: &std::ops::Range<usize>) {
    for column in columns.clone().step_by(LINE / size_of::<T>()) {
        prefetch(row, column);
    }
}

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Side of the squares that [`transpose`] turns at once.
pub(crate) const SQUARE: usize = 16;

/// Writes `rows` rows of `width` numbers, `from_stride` apart, as columns of `to`, whose rows are `to_stride` apart.
pub(crate) fn transpose(
    from: &[f32],
    from_stride: usize,
    (rows, width): (usize, usize),
    to: &mut [f32],
    to_stride: usize,
) {
    let (mut done, mut turned) = (0, width);
    #[cfg(target_arch = "x86_64")]
    if detected().1 {
        (done, turned) = (rows / SQUARE * SQUARE, width / SQUARE * SQUARE);
        for row in (0..done).step_by(SQUARE) {
            for column in (0..turned).step_by(SQUARE) {
                let (from, to) = (&from[row * from_stride + column..], &mut to[column * to_stride + row..]);
                // SAFETY: the machine has AVX-512, just asked.
                unsafe { x86::transpose_square(from, from_stride, to, to_stride) };
            }
        }
    }
    // what is left: below the squares, and beside them
    for (rows, columns) in [(done..rows, 0..width), (0..done, turned..width)] {
        for row in rows {
            for column in columns.clone() {
                to[column * to_stride + row] = from[row * from_stride + column];
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::SQUARE;

    /// Sixteen rows of sixteen numbers as columns: pairs, fours, and then whole quarters of the registers change
    /// places.
    #[target_feature(enable = "avx512f")]
    pub(super) fn transpose_square(from: &[f32], from_stride: usize, to: &mut [f32], to_stride: usize) {
        let last = SQUARE - 1;
        assert!(from.len() >= last * from_stride + SQUARE && to.len() >= last * to_stride + SQUARE);
        // SAFETY: the last row's end is inside, just asked
        let rows: [__m512; SQUARE] =
            std::array::from_fn(|row| unsafe { _mm512_loadu_ps(from.as_ptr().add(row * from_stride)) });
        let mut pairs = [_mm512_setzero_ps(); SQUARE];
        for at in (0..SQUARE).step_by(2) {
            pairs[at] = _mm512_unpacklo_ps(rows[at], rows[at + 1]);
            pairs[at + 1] = _mm512_unpackhi_ps(rows[at], rows[at + 1]);
        }
        // quarter q of fours[4g + c] is column 4q + c of rows 4g..4g + 4
        let mut fours = [_mm512_setzero_ps(); SQUARE];
        for at in (0..SQUARE).step_by(4) {
            for half in 0..2 {
                let (a, b) = (_mm512_castps_pd(pairs[at + half]), _mm512_castps_pd(pairs[at + half + 2]));
                fours[at + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                fours[at + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
            }
        }
        let even = |a, b| _mm512_shuffle_f32x4::<0x88>(a, b);
        let odd = |a, b| _mm512_shuffle_f32x4::<0xdd>(a, b);
        for c in 0..4 {
            let (low_even, high_even) = (even(fours[c], fours[4 + c]), even(fours[8 + c], fours[12 + c]));
            let (low_odd, high_odd) = (odd(fours[c], fours[4 + c]), odd(fours[8 + c], fours[12 + c]));
            let columns = [
                (c, even(low_even, high_even)),
                (4 + c, even(low_odd, high_odd)),
                (8 + c, odd(low_even, high_even)),
                (12 + c, odd(low_odd, high_odd)),
            ];
            for (column, values) in columns {
                // SAFETY: as above
                unsafe { _mm512_storeu_ps(to.as_mut_ptr().add(column * to_stride), values) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_turns() {
        for (rows, width) in [(1_usize, 1_usize), (3, 40), (16, 16), (17, 33), (32, 128), (50, 15), (128, 130)] {
            let (from_stride, to_stride) = (width + 3, rows + 2);
            let from: Vec<f32> = (0..(rows - 1) * from_stride + width).map(|i| i as f32).collect();
            let mut to = vec![-1f32; width * to_stride];
            transpose(&from, from_stride, (rows, width), &mut to, to_stride);
            for (place, found) in to.iter().enumerate() {
                let (column, row) = (place / to_stride, place % to_stride);
                let expected = if row < rows { from[row * from_stride + column] } else { -1.0 };
                assert_eq!(*found, expected, "{rows}x{width} at {row}, {column}");
            }
        }
    }

    #[test]
    fn dot_of_every_length() {
        for len in 0..100 {
            let a: Vec<f32> = (0..len).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..len).map(|i| (i as f32 * 1.3).cos()).collect();
            let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            assert!((f64::from(vectorized(|| dot(&a, &b))) - exact).abs() < 1e-5);
            assert_eq!(vectorized(|| dot(&a, &b)).to_bits(), dot(&a, &b).to_bits());
            let both = vectorized(|| dots([&a, &b, &a], &b));
            assert_eq!(both.map(f32::to_bits), [&a, &b, &a].map(|x| dot(x, &b).to_bits()));
        }
    }
}
