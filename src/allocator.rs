//! Memory for everything: small pieces from an allocator made for many threads, tensors from the C library's.
//!
//! A training step makes the same few hundred tensors again and again. The C library finds the closest fit among what
//! is free, so that they fit into little more than the largest sum alive at one time; told to keep its pages, it does
//! not fault fresh ones for every step either. Allocators that sort by size classes and threads are faster where pieces
//! are small, and take up to twice the memory where they are not.

use std::alloc::{GlobalAlloc, Layout, System};

use mimalloc::MiMalloc;

/// The allocator of the program.
pub(crate) struct Allocator;

/// Bytes from which on a piece comes from the C library.
const LARGE: usize = 8 << 10;

/// Their alignment: no vector of a tensor lies in two cache lines. The C library is asked for so much more, and not to
/// align, because then what was freed does not fit what is asked for next.
const ALIGNMENT: usize = 64;
/// What the C library aligns by itself.
const HEADER: usize = 16;

/// What the C library is asked for; `None` where a piece does not come from there.
fn large(layout: Layout) -> Option<Layout> {
    if layout.size() < LARGE || layout.align() > ALIGNMENT {
        return None;
    }
    Layout::from_size_align(layout.size().checked_add(ALIGNMENT)?, HEADER).ok()
}

/// The first aligned place after `start`, which the distance stands before.
///
/// # Safety
/// `start` is null or the start of what [`large`] asked for.
unsafe fn aligned(start: *mut u8) -> *mut u8 {
    if start.is_null() {
        return start;
    }
    let distance = ALIGNMENT - start.addr() % ALIGNMENT;
    // SAFETY: the piece is longer by `ALIGNMENT`, and the distance is between `HEADER` and that
    unsafe {
        let piece = start.add(distance);
        piece.cast::<usize>().sub(1).write(distance);
        piece
    }
}

// SAFETY: a piece goes back to where it came from, which its layout alone decides, and both are allocators.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on
        unsafe { large(layout).map_or_else(|| MiMalloc.alloc(layout), |large| aligned(System.alloc(large))) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above
        unsafe {
            large(layout).map_or_else(|| MiMalloc.alloc_zeroed(layout), |large| aligned(System.alloc_zeroed(large)))
        }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: as above; `aligned` has written the distance
        unsafe {
            match large(layout) {
                None => MiMalloc.dealloc(piece, layout),
                Some(large) => System.dealloc(piece.sub(piece.cast::<usize>().sub(1).read()), large),
            }
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above; both pieces hold the bytes that are copied
        unsafe {
            let new = Layout::from_size_align_unchecked(size, layout.align());
            if large(layout).is_none() && large(new).is_none() {
                return MiMalloc.realloc(piece, layout, size);
            }
            let moved = self.alloc(new);
            if !moved.is_null() {
                moved.copy_from_nonoverlapping(piece, size.min(layout.size()));
                self.dealloc(piece, layout);
            }
            moved
        }
    }
}

/// Tells the C library to keep its pages, and to serve all threads from one place, so that what one of them gave back
/// fits what another asks for. Says whether it will.
pub(crate) fn set_up() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    return settle(&|parameter, value| {
        // SAFETY: sets a number of the allocator
        unsafe { libc::mallopt(parameter, value) == 1 }
    });
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    true
}

/// What no version of the C library's `mallopt` is known to refuse, and what says the same where one does: the border
/// from which on pieces are mapped, which versions before 2.36 have no larger than 32 MiB.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn settle(mallopt: &dyn Fn(i32, i32) -> bool) -> bool {
    let is_whole = mallopt(libc::M_MMAP_MAX, 0)
        || [i32::MAX, 32 << 20].into_iter().any(|border| mallopt(libc::M_MMAP_THRESHOLD, border));
    let is_kept = mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    mallopt(libc::M_ARENA_MAX, 1) && is_whole && is_kept
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes on both sides of the border.
    const SIZES: [usize; 7] = [1, 100, LARGE - 1, LARGE, LARGE + 1, 100_000, 5_000_000];

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn every_version_of_the_c_library_is_told() {
        use std::cell::RefCell;
        let told = |refused: &[(i32, i32)]| {
            let asked = RefCell::new(Vec::new());
            let kept = settle(&|parameter, value| {
                asked.borrow_mut().push((parameter, value));
                !refused.contains(&(parameter, value))
            });
            (kept, asked.into_inner())
        };
        let borders = [i32::MAX, 32 << 20].map(|border| (libc::M_MMAP_THRESHOLD, border));
        let (kept, asked) = told(&[]);
        assert!(kept && asked.len() == 3 && asked[0] == (libc::M_MMAP_MAX, 0));
        // one that has none of the first, and only small borders
        let (kept, asked) = told(&[(libc::M_MMAP_MAX, 0), borders[0]]);
        assert!(kept && asked[1..3] == borders);
        assert!(!told(&[(libc::M_MMAP_MAX, 0), borders[0], borders[1]]).0);
        assert!(!told(&[(libc::M_ARENA_MAX, 1)]).0 && !told(&[(libc::M_TRIM_THRESHOLD, i32::MAX)]).0);
        assert!(set_up());
    }

    #[test]
    fn pieces_keep_their_bytes_wherever_they_move() {
        for align in [1, 8, 64, 128] {
            for (from, to) in SIZES.into_iter().flat_map(|from| SIZES.map(|to| (from, to))) {
                let (old, new) =
                    (Layout::from_size_align(from, align).unwrap(), Layout::from_size_align(to, align).unwrap());
                // SAFETY: each piece is written, read and freed within its size, with the layout that it has then
                unsafe {
                    let piece = Allocator.alloc(old);
                    assert!(!piece.is_null() && piece.addr() % align == 0);
                    assert!(from < LARGE || piece.addr() % ALIGNMENT == 0);
                    (0..from).for_each(|at| piece.add(at).write((at * 7 % 251) as u8));
                    let piece = Allocator.realloc(piece, old, to);
                    assert!(!piece.is_null() && piece.addr() % align == 0);
                    assert!((0..from.min(to)).all(|at| piece.add(at).read() == (at * 7 % 251) as u8));
                    (0..to).for_each(|at| piece.add(at).write(1));
                    Allocator.dealloc(piece, new);
                    let zeros = Allocator.alloc_zeroed(new);
                    assert!((0..to).all(|at| zeros.add(at).read() == 0));
                    Allocator.dealloc(zeros, new);
                }
            }
        }
    }

    #[test]
    fn threads_free_what_others_asked_for() {
        let pieces: Vec<Vec<usize>> = std::thread::scope(|scope| {
            let make = |thread: usize| move || (0..200).map(|len| vec![thread; len * 97]).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(make(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        for (index, piece) in pieces.iter().enumerate() {
            assert_eq!(piece.len(), index % 200 * 97);
            assert!(piece.iter().all(|number| *number == index / 200));
        }
    }
}
