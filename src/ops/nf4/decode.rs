//! From codes to numbers: a table of 16 looked up eight weights at a time where the processor can.

use super::Nf4Weight;

/// A block's 16 values: code times scale, one rounding each.
type Table = [f32; 16];

impl Nf4Weight {
    /// Weights `begin..begin + out.len()` in row-major order, as f32. Any range; fastest when `begin` is at a block.
    pub fn decode(&self, begin: usize, out: &mut [f32]) {
        let pairs = fastest();
        let mut at = begin;
        let mut out = out;
        while !out.is_empty() {
            let block = at / self.block;
            let len = ((block + 1) * self.block - at).min(out.len());
            let (now, rest) = out.split_at_mut(len);
            let scale = self.scale(block);
            let table = self.codes.map(|code| code * scale);
            if at.is_multiple_of(2) {
                pairs(&self.packed[at / 2..], &table, now);
            } else {
                now[0] = table[usize::from(self.packed[at / 2] & 15)];
                pairs(&self.packed[at / 2 + 1..], &table, &mut now[1..]);
            }
            at += len;
            out = rest;
        }
    }
}

/// Decodes from the high half of the first byte on.
type Pairs = fn(&[u8], &Table, &mut [f32]);

/// The fastest way on this machine.
fn fastest() -> Pairs {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx2") {
            return |packed, table, out| {
                let fast = out.len() / 16;
                // SAFETY: the machine has AVX2 and AVX-512F, just asked
                unsafe { x86::wide(&packed[..fast * 8], table, &mut out[..fast * 16]) };
                decode_portable(&packed[fast * 8..], table, &mut out[fast * 16..]);
            };
        }
        if is_x86_feature_detected!("avx2") {
            return |packed, table, out| {
                let fast = out.len() / 16;
                // SAFETY: the machine has AVX2, just asked
                unsafe { x86::medium(&packed[..fast * 8], table, &mut out[..fast * 16]) };
                decode_portable(&packed[fast * 8..], table, &mut out[fast * 16..]);
            };
        }
    }
    decode_portable
}

fn decode_portable(packed: &[u8], table: &Table, out: &mut [f32]) {
    for (pair, byte) in out.chunks_mut(2).zip(packed) {
        pair[0] = table[usize::from(byte >> 4)];
        if let Some(second) = pair.get_mut(1) {
            *second = table[usize::from(byte & 15)];
        }
    }
}

/// Sixteen weights from each eight bytes of `packed`; `out` holds as many, a multiple of 16.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Table;

    /// The table is one register, and a lookup one instruction.
    #[target_feature(enable = "avx512f,avx2")]
    pub(super) fn wide(packed: &[u8], table: &Table, out: &mut [f32]) {
        // SAFETY: the table is 16 floats long
        let table = unsafe { _mm512_loadu_ps(table.as_ptr()) };
        for (bytes, out) in packed.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<16>().0) {
            let values = _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(codes(*bytes)), table);
            // SAFETY: 16 floats are written, the length of the chunk
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) };
        }
    }

    /// The table is two registers: both are looked up by the lower three bits of a code, the fourth chooses.
    #[target_feature(enable = "avx2")]
    pub(super) fn medium(packed: &[u8], table: &Table, out: &mut [f32]) {
        // SAFETY: the table is 16 floats long
        let (low, high) = unsafe { (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(8))) };
        for (bytes, out) in packed.as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<16>().0) {
            let codes = codes(*bytes);
            let a = lookup(_mm256_cvtepu8_epi32(codes), low, high);
            let b = lookup(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(codes)), low, high);
            // SAFETY: two times eight floats are written, the length of the chunk
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), a);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), b);
            }
        }
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
    use super::*;

    #[test]
    fn all_ways_agree() {
        let packed: Vec<u8> = (0..=255).collect();
        let table: Table = std::array::from_fn(|code| code as f32 * 1.25 - 7.0);
        for len in [0, 1, 2, 15, 16, 17, 63, 64, 511, 512] {
            let (mut a, mut b) = (vec![0.0; len], vec![1.0; len]);
            fastest()(&packed, &table, &mut a);
            decode_portable(&packed, &table, &mut b);
            assert_eq!(a, b);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                let fast = len / 16 * 16;
                let mut c = vec![2.0; fast];
                // SAFETY: the machine has AVX2, just asked
                unsafe { x86::medium(&packed[..fast / 2], &table, &mut c) };
                assert_eq!(c, b[..fast]);
            }
        }
    }
}
