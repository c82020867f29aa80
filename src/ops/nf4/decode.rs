//! From codes to numbers: a table of 16 looked up eight weights at a time where the processor can.

use super::Nf4Weight;

/// A block's 16 values: code times scale, one rounding each.
type Table = [f32; 16];

impl Nf4Weight {
    /// Weights `begin..begin + out.len()` in row-major order, as f32. Any range; fastest when `begin` is at a block.
    pub fn decode(&self, begin: usize, out: &mut [f32]) {
        let mut at = begin;
        let mut out = out;
        while !out.is_empty() {
            let block = at / self.block;
            let len = ((block + 1) * self.block - at).min(out.len());
            let (now, rest) = out.split_at_mut(len);
            let scale = self.scale(block);
            let table = self.codes.map(|code| code * scale);
            if at % 2 == 0 {
                decode_pairs(&self.packed[at / 2..], &table, now);
            } else {
                now[0] = table[usize::from(self.packed[at / 2] & 15)];
                decode_pairs(&self.packed[at / 2 + 1..], &table, &mut now[1..]);
            }
            at += len;
            out = rest;
        }
    }
}

/// Decodes from the high half of the first byte on.
fn decode_pairs(packed: &[u8], table: &Table, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        let fast = out.len() / 16 * 16;
        let (now, rest) = out.split_at_mut(fast);
        // SAFETY: the processor has AVX2
        unsafe { avx2::decode(&packed[..fast / 2], table, now) };
        return decode_portable(&packed[fast / 2..], table, rest);
    }
    decode_portable(packed, table, out);
}

fn decode_portable(packed: &[u8], table: &Table, out: &mut [f32]) {
    for (pair, byte) in out.chunks_mut(2).zip(packed) {
        pair[0] = table[usize::from(byte >> 4)];
        if let Some(second) = pair.get_mut(1) {
            *second = table[usize::from(byte & 15)];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::*;

    use super::Table;

    /// Sixteen weights from each eight bytes of `packed`; `out` holds as many, a multiple of 16.
    #[target_feature(enable = "avx2")]
    pub(super) fn decode(packed: &[u8], table: &Table, out: &mut [f32]) {
        // SAFETY: the table is 16 floats long
        let (low, high) = unsafe { (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(8))) };
        let mask = _mm_set1_epi8(15);
        for (bytes, out) in packed.chunks_exact(8).zip(out.chunks_exact_mut(16)) {
            // SAFETY: eight bytes are read, the length of the chunk
            let bytes = unsafe { _mm_loadl_epi64(bytes.as_ptr().cast()) };
            let first = _mm_and_si128(_mm_srli_epi16::<4>(bytes), mask);
            let second = _mm_and_si128(bytes, mask);
            let codes = _mm_unpacklo_epi8(first, second);
            let a = lookup(_mm256_cvtepu8_epi32(codes), low, high);
            let b = lookup(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(codes)), low, high);
            // SAFETY: two times eight floats are written, the length of the chunk
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), a);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), b);
            }
        }
    }

    /// Entry `code` of the 16 in `low` and `high`: both halves are looked up by the lower three bits, the fourth chooses.
    #[target_feature(enable = "avx2")]
    fn lookup(codes: __m256i, low: __m256, high: __m256) -> __m256 {
        let fourth = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
        _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, codes), _mm256_permutevar8x32_ps(high, codes), fourth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_agree() {
        let packed: Vec<u8> = (0..=255).collect();
        let table: Table = std::array::from_fn(|code| code as f32 * 1.25 - 7.0);
        for len in [0, 1, 2, 15, 16, 17, 63, 64, 511, 512] {
            let (mut a, mut b) = (vec![0.0; len], vec![1.0; len]);
            decode_pairs(&packed, &table, &mut a);
            decode_portable(&packed, &table, &mut b);
            assert_eq!(a, b);
        }
    }
}
