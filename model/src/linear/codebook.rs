//! Codes and what they mean: the nearest of ascending levels, and the 256 levels of eight bits that bitsandbytes calls dynamic
//! (Dettmers, arXiv 1511.04561; block-wise: arXiv 2110.02861).

/// The 256 levels of eight bits, ascending: for each power of ten from 10⁻⁶ to 1, the middles of equal parts of \[0.1, 1], and
/// 0 and 1. With signs they are 2⁰ to 2⁶ parts and their middles of either sign; without, 2¹ to 2⁷ parts.
pub fn dynamic_map(signed: bool) -> Vec<f32> {
    let mut levels = vec![0.0f32, 1.0];
    for power in 0..7i32 {
        let parts = 1usize << (power + i32::from(!signed));
        // As torch's linspace in f32: from the nearer end, each border rounded once.
        let step = (1.0f32 - 0.1) / parts as f32;
        let border = |i: usize| match i < parts.div_ceil(2) {
            true => step.mul_add(i as f32, 0.1),
            false => step.mul_add(-((parts - i) as f32), 1.0),
        };
        let factor = 10f64.powi(power - 6) as f32;
        for part in 0..parts {
            let middle = factor * ((border(part) + border(part + 1)) / 2.0);
            levels.push(middle);
            if signed {
                levels.push(-middle);
            }
        }
    }
    levels.sort_by(f32::total_cmp);
    levels
}

/// Between each two neighbours of ascending levels, where the nearer one changes.
pub fn limits(levels: &[f32]) -> Vec<f32> {
    levels.windows(2).map(|pair| (pair[0] + pair[1]) / 2.0).collect()
}

/// The place of the nearest level; of two that are as near, the lower.
pub(super) fn nearest(limits: &[f32], value: f32) -> u8 {
    limits.partition_point(|limit| value > *limit) as u8
}
