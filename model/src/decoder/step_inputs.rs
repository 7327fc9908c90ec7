//! All that a step is told from outside (draws, tokens, tables), in one piece of a GPU's memory: one copy brings it there.

use candle_core::{DType, Result, Tensor};

use super::device_step::DeviceStep;
use crate::gpu::Gpu;
use crate::ops::draw::{NO_SOURCE, fill_table, table_words};
use crate::ops::paged_attention::{StepTables, TableCapacity};

/// The size that so many rows or tokens are filled up to: at most an eighth more.
fn filled_up(count: usize) -> usize {
    count.next_multiple_of((count.next_power_of_two() / 16).max(1))
}

/// How much of each there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct InputSizes {
    pub(super) draws: usize,
    /// Tokens that are picked for their logits; none where all are wanted.
    pub(super) wanted: usize,
    pub(super) tables: TableCapacity,
}

impl InputSizes {
    /// The sizes that a step is filled up to, so that few of them are captured.
    pub(super) fn filled_up(step: &DeviceStep, tables: TableCapacity) -> Self {
        let tokens = filled_up(step.ids.len());
        let tables = tables.rounded(tokens);
        match step.only_decodes() {
            true => Self { draws: tokens, wanted: 0, tables },
            false => {
                Self { draws: filled_up(step.draws.len()), wanted: filled_up(step.logit_rows.len()), tables }
            }
        }
    }

    /// Where each begins among the words: the table of draws, ids, the draws of the step before that give them, the tokens
    /// picked for their logits, the tables of attention; and their number. The first has numbers of 8 bytes.
    fn starts(&self) -> [usize; 6] {
        let tokens = self.tables.tokens();
        let sizes = [table_words(self.draws), tokens, tokens, self.wanted, self.tables.words()];
        let mut starts = [0; 6];
        for (i, size) in sizes.into_iter().enumerate() {
            starts[i + 1] = starts[i] + size;
        }
        starts
    }

    /// Words of all together.
    pub(super) fn words(&self) -> usize {
        self.starts()[5]
    }

    /// Fills the words for a step that is no larger; what is left of a size does nothing.
    pub(super) fn fill(&self, words: &mut [u32], step: &DeviceStep, tables: &StepTables) -> Result<()> {
        if !self.tables.holds(&tables.capacity()) {
            candle_core::bail!("tables of {:?} where {:?} fit", tables.capacity(), self.tables)
        }
        let [draws, ids, source, wanted, first_table, end] = self.starts();
        fill_table(&mut words[draws..ids], step.draws, step.logit_rows.len())?;
        let (given, filled) = words[ids..source].split_at_mut(step.ids.len());
        given.copy_from_slice(step.ids);
        filled.fill(0);
        let sources = &mut words[source..wanted];
        sources.fill(NO_SOURCE);
        for fed in step.fed {
            sources[fed.place] = fed.draw as u32;
        }
        let picked = &mut words[wanted..first_table];
        picked.fill(0);
        for (word, &row) in picked.iter_mut().zip(step.logit_rows) {
            *word = row as u32;
        }
        tables.fill(&self.tables, &mut words[first_table..end]);
        Ok(())
    }
}

/// Their memory on a GPU.
pub(super) struct StepInputs {
    pub(super) words: Tensor,
    pub(super) sizes: InputSizes,
}

impl StepInputs {
    /// Memory that is yet to be written.
    pub(super) fn new(gpu: &Gpu, sizes: InputSizes) -> Result<Self> {
        Ok(Self { words: gpu.unwritten(sizes.words(), DType::U32)?, sizes })
    }

    fn part(&self, part: usize) -> Result<Tensor> {
        let starts = self.sizes.starts();
        self.words.narrow(0, starts[part], starts[part + 1] - starts[part])
    }

    /// The table of draws.
    pub(super) fn draws(&self) -> Result<Tensor> {
        self.part(0)
    }

    /// The tokens \[t].
    pub(super) fn ids(&self) -> Result<Tensor> {
        self.part(1)
    }

    /// Of each token, the draw of the step before that gives it \[t].
    pub(super) fn source(&self) -> Result<Tensor> {
        self.part(2)
    }

    /// The tokens picked for their logits.
    pub(super) fn wanted(&self) -> Result<Tensor> {
        self.part(3)
    }

    /// The tables of attention.
    pub(super) fn tables(&self) -> Result<Tensor> {
        self.part(4)
    }
}

#[cfg(test)]
mod tests {
    use super::filled_up;

    #[test]
    fn sizes_are_few_and_near() {
        let sizes: std::collections::BTreeSet<usize> = (1..=2048).map(filled_up).collect();
        assert!(sizes.len() < 80, "{}", sizes.len());
        for rows in 1..=2048usize {
            let filled = filled_up(rows);
            assert!(filled >= rows && filled as f64 <= rows as f64 * 1.125 + 1.0, "{rows}: {filled}");
        }
        assert_eq!([1, 9, 17, 500, 512, 513].map(filled_up), [1, 9, 18, 512, 512, 576]);
        assert_eq!([1000, 1024, 1025, 2000, 2048].map(filled_up), [1024, 1024, 1152, 2048, 2048]);
    }
}
