//! Rows of a step of sampling, as `bench --profile` times them.

use selfplay_model::ops::draw::{DrawRule, RowDraw};
use selfplay_model::{KvCache, PAGE_TOKENS, PagedRow};
use selfplay_sampler::SampleSettings;

use super::{Bench, fault};
use crate::error::Result;

/// Which step of sampling.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StepKind {
    /// A token of every row.
    Decode,
    /// A token of every row but those of one prompt, and this prompt whole.
    Mixed,
    /// Whole prompts.
    Prefill,
}

/// Candidates of some prompts, each halfway through its answer, that share their prompts' pages.
pub(super) struct SharedRows {
    samples: usize,
    pub(super) prompt: usize,
    answered: usize,
    /// Pages of each row, its prompt's first.
    pages: Vec<Vec<u32>>,
    /// Pages in all.
    count: usize,
}

impl SharedRows {
    /// As many as `bench sample` has: prompts of a fifth of `max_tokens`, answers of half of it.
    pub(super) fn of(bench: &Bench) -> Self {
        let samples = SampleSettings::default().num_samples;
        let (prompt, answered) = (bench.max_tokens / 5, bench.max_tokens / 4);
        let (whole, all) = (prompt / PAGE_TOKENS, (prompt + answered + 1).div_ceil(PAGE_TOKENS));
        let mut next = 0u32;
        let mut take = |count: usize| -> Vec<u32> {
            next += count as u32;
            (next - count as u32..next).collect()
        };
        let mut pages: Vec<Vec<u32>> = Vec::with_capacity(bench.rows);
        for row in 0..bench.rows {
            let mut own = if row % samples == 0 { take(whole) } else { pages[row - 1][..whole].to_vec() };
            own.extend(take(all - whole));
            pages.push(own);
        }
        Self { samples, prompt, answered, pages, count: next as usize }
    }

    /// What a step computes: each row's new tokens, its tokens before them, its pages and how many tokens of these are shared.
    pub(super) fn step(&self, step: StepKind, budget: usize) -> Vec<PagedRow<'_>> {
        let row = |pages, new_tokens, context, shared| PagedRow { new_tokens, context, pages, shared };
        let shared = self.prompt / PAGE_TOKENS * PAGE_TOKENS;
        let context = self.prompt + self.answered;
        match step {
            StepKind::Decode => self.pages.iter().map(|pages| row(pages, 1, context, shared)).collect(),
            StepKind::Mixed => {
                let last = (self.pages.len() - 1) / self.samples * self.samples;
                let prompt = row(&self.pages[last], self.prompt, 0, shared);
                let decoding = self.pages[..last].iter().map(|pages| row(pages, 1, context, shared));
                decoding.chain([prompt]).collect()
            }
            StepKind::Prefill => {
                let first_of_each = self.pages.iter().step_by(self.samples);
                let most = (budget / self.prompt).max(1);
                first_of_each.take(most).map(|pages| row(pages, self.prompt, 0, 0)).collect()
            }
        }
    }

    pub(super) fn cache(&self, bench: &Bench) -> Result<KvCache> {
        KvCache::new(&bench.policy, self.count, bench.kv_format, &bench.device).map_err(fault)
    }
}

/// Each row's last token, among all tokens of a step.
pub(super) fn last_tokens(rows: &[PagedRow]) -> Vec<usize> {
    let mut tokens = 0;
    let ends = rows.iter().map(|row| {
        tokens += row.new_tokens;
        tokens - 1
    });
    ends.collect()
}

/// One draw of each row, by top-p at temperature 1.
pub(super) fn draws(rows: usize) -> Vec<RowDraw> {
    let rule = DrawRule { temperature: 1.0, inverse: 1.0, top_k: 0, top_p: 0.9, min_p: 0.0 };
    let row = |row: u32| RowDraw { row, step: 1, sample: row % 5, tag: [row / 5, 0], key: [42, 0], rule };
    (0..rows as u32).map(row).collect()
}
