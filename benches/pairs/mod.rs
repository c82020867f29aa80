//! Ours against a reference, in one process and in turns: criterion's statistics for each, and the ratio of both.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark fails where it unwraps, and says what it found"
)]

use std::time::{Duration, Instant};

use criterion::Criterion;

/// Turns that each side gets for the ratio.
const TURNS: usize = 15;

/// Measures `ours` and `reference`, which do the same work, and prints how many times as fast ours is.
pub(crate) fn pair<A, B>(
    criterion: &mut Criterion,
    (name, reference_name): (&str, &str),
    mut ours: impl FnMut() -> A,
    mut reference: impl FnMut() -> B,
) {
    let mut group = criterion.benchmark_group(name);
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.bench_function("ours", |bencher| bencher.iter(&mut ours));
    group.bench_function(reference_name, |bencher| bencher.iter(&mut reference));
    group.finish();
    // the better of many turns is what the machine does when nothing else runs
    let (mut best, mut best_reference) = (Duration::MAX, Duration::MAX);
    for _ in 0..TURNS {
        best = best.min(time(&mut ours));
        best_reference = best_reference.min(time(&mut reference));
    }
    let ratio = best_reference.as_secs_f64() / best.as_secs_f64();
    println!("{name}: {ratio:.2} times as fast as {reference_name} ({best:.2?}, {best_reference:.2?})\n");
}

fn time<T>(work: &mut impl FnMut() -> T) -> Duration {
    let started = Instant::now();
    std::hint::black_box(work());
    started.elapsed()
}
