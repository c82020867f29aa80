//! Products of pairs in bf16 by AMX, where a processor has it: one instruction adds a tile of 16 rows by 16 pairs times
//! 16 pairs by 16 columns to 256 sums in f32, ten times as fast as registers do. The instructions are written out, as
//! the compiler has no stable name for them.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

use std::arch::asm;
use std::arch::x86_64::{__cpuid_count, __get_cpuid_max, _xgetbv};
use std::sync::OnceLock;

use super::{Pairs, Target};
use crate::ops::simd;

/// Rows, columns and pairs of a tile.
const SIDE: usize = 16;
/// Rows and columns that are summed at one time: two tiles by two.
const BLOCK: usize = 2 * SIDE;
/// Pairs of the depth that are summed before the sums go to memory.
const DEPTH: usize = 512;

/// Whether the processor can and the system lets it.
pub(super) fn serves() -> bool {
    static SERVES: OnceLock<bool> = OnceLock::new();
    *SERVES.get_or_init(|| simd::has_avx512() && has_instructions() && is_permitted())
}

fn has_instructions() -> bool {
    let (bf16, tiles) = (1 << 22, 1 << 24);
    __get_cpuid_max(0).0 >= 7 && __cpuid_count(7, 0).edx & (bf16 | tiles) == bf16 | tiles
}

/// Whether the system keeps tiles, and keeps them for this process: Linux wants to be asked once.
fn is_permitted() -> bool {
    const REQUEST: libc::c_long = 0x1023;
    const TILES: libc::c_long = 18;
    #[target_feature(enable = "xsave")]
    fn kept() -> u64 {
        // SAFETY: the system uses it, asked before
        unsafe { _xgetbv(0) }
    }
    let (config, data) = (1 << 17, 1 << TILES);
    if !std::is_x86_feature_detected!("xsave") || __cpuid_count(1, 0).ecx & (1 << 27) == 0 {
        return false;
    }
    // SAFETY: the processor can, just asked
    let kept = unsafe { kept() };
    // SAFETY: a request that takes two numbers
    kept & (config | data) == config | data && unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILES) } == 0
}

/// The shapes of the eight tiles, as the processor reads them: 0 to 3 hold sums, 4 and 5 rows of the left factor, 6 and
/// 7 columns of the right.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Shapes {
    /// `rows` and `columns` of sums, up to [`BLOCK`] each, and `pairs` of the depth.
    fn new(rows: usize, columns: usize, pairs: usize) -> Self {
        let halves = |all: usize| [all.min(SIDE), all.saturating_sub(SIDE)];
        let (rows, columns) = (halves(rows), halves(columns));
        let mut shapes = Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };
        let mut set = |tile: usize, rows: usize, columns: usize| {
            // a tile without any of either is one that is not there
            if rows > 0 && columns > 0 {
                (shapes.rows[tile], shapes.row_bytes[tile]) = (rows as u8, 4 * columns as u16);
            }
        };
        for half in 0..2 {
            set(4 + half, rows[half], pairs);
            set(6 + half, pairs, columns[half]);
            for (other, columns) in columns.into_iter().enumerate() {
                set(2 * half + other, rows[half], columns);
            }
        }
        shapes
    }

    fn load(&self) {
        // SAFETY: the machine can, which all of this module's callers have asked; the shapes are within its limits
        unsafe { asm!("ldtilecfg [{}]", in(reg) self, options(nostack, preserves_flags, readonly)) };
    }
}

/// One block of sums: where its factors and it begin, and the bytes from row to row.
struct Step {
    left: *const u32,
    left_bytes: usize,
    /// Both of the columns' tiles, whose rows lie one behind the other.
    right: [*const u32; 2],
    /// Tiles of the depth.
    count: usize,
    to: *mut f32,
    to_bytes: usize,
    add: bool,
}

/// A kernel from what loads the sums, what clears them, what takes a tile of the depth, and what stores the sums.
macro_rules! kernel {
    ($name:ident, [$($load:literal)*], [$($clear:literal)*], [$($take:literal)*], [$($store:literal)*]) => {
        /// # Safety
        /// The shapes of all tiles that it uses are loaded, and the block is inside the factors and the output, which
        /// is set where it is added to.
        unsafe fn $name(step: &Step) {
            let second = |bytes: usize| SIDE * bytes;
            // SAFETY: the caller's word
            unsafe {
                asm!(
                    "test {add}, {add}",
                    "jz 2f",
                    $($load,)*
                    "jmp 3f",
                    "2:",
                    $($clear,)*
                    "3:",
                    $($take,)*
                    "add {left}, 64",
                    "add {below}, 64",
                    "add {right}, 1024",
                    "add {beside}, 1024",
                    "dec {count}",
                    "jnz 3b",
                    $($store,)*
                    left = inout(reg) step.left => _,
                    below = inout(reg) step.left.wrapping_byte_add(second(step.left_bytes)) => _,
                    left_bytes = in(reg) step.left_bytes,
                    right = inout(reg) step.right[0] => _,
                    beside = inout(reg) step.right[1] => _,
                    line = in(reg) 64_usize,
                    count = inout(reg) step.count => _,
                    to = in(reg) step.to,
                    to_below = in(reg) step.to.wrapping_byte_add(second(step.to_bytes)),
                    to_bytes = in(reg) step.to_bytes,
                    add = in(reg) u64::from(step.add),
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                    options(nostack),
                );
            }
        }
    };
}

kernel!(
    two_by_two,
    [
        "tileloadd tmm0, [{to} + {to_bytes}]"
        "tileloadd tmm1, [{to} + {to_bytes} + 64]"
        "tileloadd tmm2, [{to_below} + {to_bytes}]"
        "tileloadd tmm3, [{to_below} + {to_bytes} + 64]"
    ],
    ["tilezero tmm0" "tilezero tmm1" "tilezero tmm2" "tilezero tmm3"],
    [
        "tileloadd tmm4, [{left} + {left_bytes}]"
        "tileloadd tmm6, [{right} + {line}]"
        "tdpbf16ps tmm0, tmm4, tmm6"
        "tileloadd tmm7, [{beside} + {line}]"
        "tdpbf16ps tmm1, tmm4, tmm7"
        "tileloadd tmm5, [{below} + {left_bytes}]"
        "tdpbf16ps tmm2, tmm5, tmm6"
        "tdpbf16ps tmm3, tmm5, tmm7"
    ],
    [
        "tilestored [{to} + {to_bytes}], tmm0"
        "tilestored [{to} + {to_bytes} + 64], tmm1"
        "tilestored [{to_below} + {to_bytes}], tmm2"
        "tilestored [{to_below} + {to_bytes} + 64], tmm3"
    ]
);

kernel!(
    one_by_two,
    ["tileloadd tmm0, [{to} + {to_bytes}]" "tileloadd tmm1, [{to} + {to_bytes} + 64]"],
    ["tilezero tmm0" "tilezero tmm1"],
    [
        "tileloadd tmm4, [{left} + {left_bytes}]"
        "tileloadd tmm6, [{right} + {line}]"
        "tdpbf16ps tmm0, tmm4, tmm6"
        "tileloadd tmm7, [{beside} + {line}]"
        "tdpbf16ps tmm1, tmm4, tmm7"
    ],
    [
        "tilestored [{to} + {to_bytes}], tmm0"
        "tilestored [{to} + {to_bytes} + 64], tmm1"
        "# {to_below}"
    ]
);

kernel!(
    two_by_one,
    ["tileloadd tmm0, [{to} + {to_bytes}]" "tileloadd tmm2, [{to_below} + {to_bytes}]"],
    ["tilezero tmm0" "tilezero tmm2"],
    [
        "tileloadd tmm4, [{left} + {left_bytes}]"
        "tileloadd tmm6, [{right} + {line}]"
        "tdpbf16ps tmm0, tmm4, tmm6"
        "tileloadd tmm5, [{below} + {left_bytes}]"
        "tdpbf16ps tmm2, tmm5, tmm6"
    ],
    ["tilestored [{to} + {to_bytes}], tmm0" "tilestored [{to_below} + {to_bytes}], tmm2"]
);

kernel!(
    one_by_one,
    ["tileloadd tmm0, [{to} + {to_bytes}]"],
    ["tilezero tmm0"],
    [
        "tileloadd tmm4, [{left} + {left_bytes}]"
        "tileloadd tmm6, [{right} + {line}]"
        "tdpbf16ps tmm0, tmm4, tmm6"
    ],
    ["tilestored [{to} + {to_bytes}], tmm0" "# {to_below}"]
);

/// [`super::narrow::multiply`] where this module [`serves`] and there is a depth.
pub(super) fn multiply(out: &mut Target, left: Pairs, right: &[u32], distance: usize, add: bool) {
    assert!(serves() && out.rows == left.rows && (!add || out.is_set()) && left.depth > 0);
    assert!(out.columns == 0 || (out.columns - 1) / SIDE * distance + left.depth * SIDE <= right.len());
    for start in (0..left.depth).step_by(DEPTH) {
        let pairs = DEPTH.min(left.depth - start);
        let whole = pairs - pairs % SIDE;
        if whole > 0 {
            sum(out, left, (right, distance), (start, whole / SIDE, SIDE), add || start > 0);
        }
        if pairs > whole {
            sum(out, left, (right, distance), (start + whole, 1, pairs - whole), add || start + whole > 0);
        }
    }
    // SAFETY: no tile is used any more, and all of the output was written
    unsafe {
        asm!("tilerelease", options(nostack, nomem, preserves_flags));
        out.set();
    }
}

/// The sums over `count` times `pairs` of the depth from `start` on.
fn sum(
    out: &Target,
    left: Pairs,
    (right, distance): (&[u32], usize),
    (start, count, pairs): (usize, usize, usize),
    add: bool,
) {
    let mut loaded = None;
    for row in (0..out.rows).step_by(BLOCK) {
        let rows = BLOCK.min(out.rows - row);
        for column in (0..out.columns).step_by(BLOCK) {
            let columns = BLOCK.min(out.columns - column);
            let shapes = Shapes::new(rows, columns, pairs);
            if loaded != Some(shapes) {
                shapes.load();
                loaded = Some(shapes);
            }
            let first = right.as_ptr().wrapping_add(column / SIDE * distance + start * SIDE);
            let step = Step {
                left: left.data.as_ptr().wrapping_add(row * left.stride + start),
                left_bytes: 4 * left.stride,
                right: [first, first.wrapping_add(distance)],
                count,
                to: out.data.wrapping_add(row * out.row_stride + column),
                to_bytes: 4 * out.row_stride,
                add,
            };
            // SAFETY: the shapes are loaded, and rows, columns and depth are inside all three, asked by the caller
            unsafe {
                match (rows > SIDE, columns > SIDE) {
                    (true, true) => two_by_two(&step),
                    (false, true) => one_by_two(&step),
                    (true, false) => two_by_one(&step),
                    (false, false) => one_by_one(&step),
                }
            }
        }
    }
}
