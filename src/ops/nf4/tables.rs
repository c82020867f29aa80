//! The sixteen codes of a weight and the 256 codes of a scale.

/// Weights that share one scale.
pub const BLOCK: usize = 64;
/// Scales that share one scale of their own, under double quantisation.
pub const SCALE_BLOCK: usize = 256;

/// NF4's codes: quantiles of a normal distribution, scaled to [-1, 1], with an exact zero (QLoRA, arXiv 2305.14314,
/// appendix E; the values are bitsandbytes').
pub const CODES: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The code nearest to zero: what an empty block and the padding of an odd count hold.
pub(super) const ZERO_CODE: u8 = 7;

/// What separates code i from code i+1. A value on a threshold takes the lower code.
pub(super) const THRESHOLDS: [f32; 15] = {
    let mut thresholds = [0.0; 15];
    let mut index = 0;
    while index < 15 {
        thresholds[index] = (CODES[index] + CODES[index + 1]) / 2.0;
        index += 1;
    }
    thresholds
};

/// bitsandbytes' signed dynamic map (`create_dynamic_map`): seven decades with ever more steps, ascending. It has +1
/// and not -1; zero is code 127.
#[must_use]
pub fn dynamic_map() -> [f32; 256] {
    // slot 0 stays zero; the pairs fill the 254 slots after the one
    let mut map = [0.0_f32; 256];
    map[1] = 1.0;
    let mut next = 2;
    for decade in 0..7 {
        let steps = 1_usize << decade;
        let factor = 10.0_f64.powi(decade - 6) as f32;
        for step in 0..steps {
            let mean = (linspace(step, steps) + linspace(step + 1, steps)) / 2.0;
            map[next] = factor * mean;
            map[next + 1] = -(factor * mean);
            next += 2;
        }
    }
    map.sort_by(f32::total_cmp);
    map
}

/// Point `index` of `steps + 1` evenly spaced ones from 0.1 to 1, rounded as `torch.linspace` rounds: once, from the
/// nearer end.
fn linspace(index: usize, steps: usize) -> f32 {
    let step = (1.0_f32 - 0.1) / steps as f32;
    if index < steps.div_ceil(2) {
        step.mul_add(index as f32, 0.1)
    } else {
        (-step).mul_add((steps - index) as f32, 1.0)
    }
}

/// The dynamic map's code for `x` in [-1, 1], by bitsandbytes' own search (`dQuantize` in its CUDA kernels): the
/// nearest code, ties away from the side of the search.
pub(super) fn nearest_scale_code(map: &[f32; 256], x: f32) -> u8 {
    let (mut pivot, mut lower, mut upper) = (127_usize, 0_usize, 255_usize);
    let mut step = 64;
    while step > 0 {
        if x > map[pivot] {
            lower = pivot;
            pivot += step;
        } else {
            upper = pivot;
            pivot -= step;
        }
        step /= 2;
    }
    let nearest = if x > map[pivot] {
        if x > (map[upper] + map[pivot]) * 0.5 { upper } else { pivot }
    } else if x < (map[lower] + map[pivot]) * 0.5 {
        lower
    } else {
        pivot
    };
    nearest as u8
}
