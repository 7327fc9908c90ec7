//! Pairs of uneven lengths, as token ids alone: the trainer's unit tests make pairs of their own type of them.

/// A prompt with two responses.
pub struct PairIds {
    /// What error messages call it.
    pub name: String,
    /// 3 to 6 ids below 23.
    pub prompt: Vec<u32>,
    /// Repeats 25, which `rejected` never has; ends with 2.
    pub chosen: Vec<u32>,
    /// Ids from 26 to 30; ends with 2.
    pub rejected: Vec<u32>,
}

/// So many of them.
pub fn pair_ids(count: u32) -> Vec<PairIds> {
    (0..count)
        .map(|i| PairIds {
            name: format!("pair {i}"),
            prompt: (0..3 + i % 4).map(|t| 3 + (i * 7 + t * 5) % 20).collect(),
            chosen: (0..2 + i % 5).map(|_| 25).chain([2]).collect(),
            rejected: (0..1 + i % 3).map(|t| 26 + (i + t) % 5).chain([2]).collect(),
        })
        .collect()
}
