//! From codes to numbers: a table of 16 looked up eight weights at a time where the processor can.

use std::ops::Range;

use super::Nf4Weight;
use crate::ops::simd::prefetch;

/// Runs whose codes are asked for ahead: a row of a weight is too far from the next for the processor to guess.
const AHEAD: usize = 8;

/// A block's 16 values: code times scale, one rounding each.
type Table = [f32; 16];

impl Nf4Weight {
    /// Weights `begin..begin + out.len()` in row-major order, as f32. Any range; fastest when `begin` is at a block.
    pub fn decode(&self, begin: usize, out: &mut [f32]) {
        let len = out.len();
        self.decode_runs(Runs { begin, len, step: 0, count: 1 }, len, out);
    }

    /// The part where `rows` and `columns` meet, in rows `stride` apart.
    pub(super) fn decode_part(&self, rows: Range<usize>, columns: Range<usize>, stride: usize, out: &mut [f32]) {
        let begin = rows.start * self.columns + columns.start;
        let runs = Runs { begin, len: columns.len(), step: self.columns, count: rows.len() };
        self.decode_runs(runs, stride, out);
    }

    fn decode_runs(&self, runs: Runs, stride: usize, out: &mut [f32]) {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2") {
                // SAFETY: the machine has AVX2 and AVX-512F, just asked
                return unsafe { x86::wide(self, runs, stride, out) };
            }
            if is_x86_feature_detected!("avx2") {
                // SAFETY: the machine has AVX2, just asked
                return unsafe { x86::medium(self, runs, stride, out) };
            }
        }
        self.by_blocks(runs, stride, out, |_, _, _| 0);
    }

    /// Decodes block by block: `fast` writes as many numbers as it likes from the high half of the first byte on, and
    /// says how many; the rest is done here. Inlined, so that all of it is compiled for what `fast` needs.
    #[inline(always)]
    fn by_blocks(&self, runs: Runs, stride: usize, out: &mut [f32], fast: impl Fn(&[u8], &Table, &mut [f32]) -> usize) {
        let Runs { begin, len, step, count } = runs;
        // a division takes as long as half a block
        let blocks = step.is_multiple_of(self.block).then(|| (begin / self.block, step / self.block));
        for (run, out) in out.chunks_mut(stride.max(1)).take(count).enumerate() {
            let mut at = begin + run * step;
            let mut block = blocks.map_or_else(|| at / self.block, |(first, step)| first + run * step);
            let mut out = &mut out[..len];
            prefetch(&self.packed, (at + AHEAD * step) / 2);
            while !out.is_empty() {
                let len = ((block + 1) * self.block - at).min(out.len());
                let (now, rest) = out.split_at_mut(len);
                let scale = self.scale(block);
                let table = self.codes.map(|code| code * scale);
                let odd = at % 2;
                if odd == 1 {
                    now[0] = table[usize::from(self.packed[at / 2] & 15)];
                }
                let (packed, now) = (&self.packed[(at + odd) / 2..], &mut now[odd..]);
                let done = fast(packed, &table, now);
                decode_portable(&packed[done / 2..], &table, &mut now[done..]);
                (at, block, out) = (at + len, block + 1, rest);
            }
        }
    }
}

/// Runs of `len` weights in row-major order, the first from `begin` on, the next each `step` further on.
#[derive(Clone, Copy)]
struct Runs {
    begin: usize,
    len: usize,
    step: usize,
    count: usize,
}

#[inline(always)]
fn decode_portable(packed: &[u8], table: &Table, out: &mut [f32]) {
    for (pair, byte) in out.chunks_mut(2).zip(packed) {
        pair[0] = table[usize::from(byte >> 4)];
        if let Some(second) = pair.get_mut(1) {
            *second = table[usize::from(byte & 15)];
        }
    }
}

/// Sixteen weights from each eight bytes.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::super::Nf4Weight;
    use super::Runs;

    /// The table is one register, and a lookup one instruction.
    #[target_feature(enable = "avx512f,avx2")]
    pub(super) fn wide(weight: &Nf4Weight, runs: Runs, stride: usize, out: &mut [f32]) {
        weight.by_blocks(runs, stride, out, |packed, table, out| {
            // SAFETY: the table is 16 floats long
            let table = unsafe { _mm512_loadu_ps(table.as_ptr()) };
            let (out, _) = out.as_chunks_mut::<16>();
            for (bytes, out) in packed.as_chunks::<8>().0.iter().zip(out.iter_mut()) {
                let values = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes(*bytes)), table);
                // SAFETY: 16 floats are written, the length of the chunk
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) };
            }
            16 * out.len()
        });
    }

    /// The table is two registers: both are looked up by the lower three bits of a code, the fourth chooses.
    #[target_feature(enable = "avx2")]
    pub(super) fn medium(weight: &Nf4Weight, runs: Runs, stride: usize, out: &mut [f32]) {
        weight.by_blocks(runs, stride, out, |packed, table, out| {
            // SAFETY: the table is 16 floats long
            let (low, high) = unsafe { (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(8))) };
            let (out, _) = out.as_chunks_mut::<16>();
            for (bytes, out) in packed.as_chunks::<8>().0.iter().zip(out.iter_mut()) {
                let codes = codes(*bytes);
                let a = lookup(_mm256_cvtepu8_epi32(codes), low, high);
                let b = lookup(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(codes)), low, high);
                // SAFETY: two times eight floats are written, the length of the chunk
                unsafe {
                    _mm256_storeu_ps(out.as_mut_ptr(), a);
                    _mm256_storeu_ps(out.as_mut_ptr().add(8), b);
                }
            }
            16 * out.len()
        });
    }

    /// The sixteen codes of eight bytes, a byte each.
    #[target_feature(enable = "avx2")]
    fn codes(bytes: [u8; 8]) -> __m128i {
        let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(bytes));
        let mask = _mm_set1_epi8(15);
        let first = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
        _mm_unpacklo_epi8(first, _mm_and_si128(bytes, mask))
    }

    #[target_feature(enable = "avx2")]
    fn lookup(codes: __m256i, low: __m256, high: __m256) -> __m256 {
        let fourth = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes), fourth)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::super::Scales;
    use super::*;

    #[test]
    fn all_ways_agree() {
        for (block, columns) in [(64, 512), (64, 97), (16, 40), (4, 30), (6, 31)] {
            let rows = 3_usize;
            let packed: Vec<u8> = (0..(rows * columns).div_ceil(2)).map(|i| (i * 37 % 256) as u8).collect();
            let scales: Vec<f32> = (0..(rows * columns).div_ceil(block)).map(|i| i as f32 * 0.37 + 0.1).collect();
            let codes = std::array::from_fn(|code| code as f32 * 1.25 - 7.0);
            let number = |at: usize| {
                let byte = packed[at / 2];
                let code = if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
                (f32::from(code) * 1.25 - 7.0) * scales[at / block]
            };
            let weight = Nf4Weight::new(
                packed.clone(),
                Scales::Plain(scales.clone()),
                codes,
                block,
                (rows, columns),
                DType::F32,
            )
            .unwrap();
            for (begin, len) in [(0, 0), (0, 1), (1, 1), (0, 64), (3, 64), (5, 83), (17, 16), (0, rows * columns)] {
                let len = len.min(rows * columns - begin);
                let expected: Vec<f32> = (begin..begin + len).map(number).collect();
                let mut found = vec![f32::NAN; len];
                weight.decode(begin, &mut found);
                assert_eq!(found, expected, "{block} {columns} {begin}");
            }
            for (rows, part) in [(0..3, 0..columns), (1..3, 5..21), (0..2, columns - 9..columns), (2..3, 0..1)] {
                let stride = part.len() + 3;
                let expected: Vec<f32> = rows
                    .clone()
                    .flat_map(|row| (0..stride).map(move |at| (row, at)))
                    .map(|(row, at)| if at < part.len() { number(row * columns + part.start + at) } else { -1.0 })
                    .collect();
                let same = |name: &str, decode: &dyn Fn(&mut [f32])| {
                    let mut found = vec![-1.0; rows.len() * stride];
                    decode(&mut found);
                    assert_eq!(found, expected, "{name} {block} {columns} {rows:?} {part:?}");
                };
                same("any", &|found| weight.decode_part(rows.clone(), part.clone(), stride, found));
                let begin = rows.start * columns + part.start;
                let runs = Runs { begin, len: part.len(), step: columns, count: rows.len() };
                same("plain", &|found| weight.by_blocks(runs, stride, found, |_, _, _| 0));
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: the machine has AVX2, just asked
                    same("medium", &|found| unsafe { x86::medium(&weight, runs, stride, found) });
                }
            }
        }
    }
}
