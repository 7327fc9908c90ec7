//! Decode steps on a GPU as captured graphs: one call starts all kernels of a step, instead of a call for each.
//!
//! Steps in which every row has one new token are filled up to one of a few sizes. A size's first step runs kernel by
//! kernel, over the same memory and in the same shapes as those that follow, the second is captured, the others are
//! replayed: the tokens do not tell which. What changes from step to step (ids, positions, pages, draws and their rules) lies
//! in buffers that are written before.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::{DType, Result, Tensor, bail};

use super::Decoder;
use super::inference::check_pages;
use super::rotary::RotaryTables;
use crate::gpu::{Gpu, Graph};
use crate::kv_cache::{KvCache, PagedRow};
use crate::ops::draw::{DrawPlaces, Drawn, RowDraw};
use crate::ops::embedding::embedding_at;
use crate::ops::paged_attention::{DeviceTables, PagedStep, PartResults, TableCapacity};

/// The steps that were captured, for one decoder and one cache.
#[derive(Default)]
pub struct DecodeGraphs {
    steps: HashMap<TableCapacity, DecodeStep>,
    /// By the number of parts, common to all steps.
    results: HashMap<usize, PartResults>,
    rotary: Option<Arc<RotaryTables>>,
    /// Why nothing is captured any more.
    refused: Option<String>,
    replayed: usize,
    last_wait: Duration,
}

/// One size.
struct DecodeStep {
    ids: Tensor,
    step: PagedStep<'static>,
    draws: DrawPlaces,
    /// Whether it has run kernel by kernel.
    has_run: bool,
    graph: Option<Graph>,
}

impl DecodeGraphs {
    /// One that captures nothing: every step runs kernel by kernel, for comparison.
    pub fn off() -> Self {
        Self { refused: Some("switched off".to_owned()), ..Self::default() }
    }

    /// An empty one in the place of this, for another cache.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self { refused: self.refused.clone(), ..Self::default() }
    }

    /// How long the last step waited for the GPU.
    pub fn last_wait(&self) -> Duration {
        self.last_wait
    }

    /// Steps that were replayed.
    pub(crate) fn replayed(&self) -> usize {
        self.replayed
    }

    /// Sizes that were captured.
    pub(crate) fn captured(&self) -> usize {
        self.steps.values().filter(|step| step.graph.is_some()).count()
    }
}

/// The size that so many rows are filled up to: at most an eighth more.
fn filled_up(rows: usize) -> usize {
    rows.next_multiple_of((rows.next_power_of_two() / 16).max(1))
}

impl Decoder {
    /// One token of each row, and the next one drawn from its logits, on a GPU: [`Decoder::forward_paged`],
    /// [`Decoder::logits`] and [`crate::ops::draw::draw`] in one. `ids` \[n] and `draws` \[n] belong to the `n` rows in
    /// order. `graphs` must have seen no other decoder or cache.
    ///
    /// # Errors
    /// A row with more than one token; what the three say.
    pub fn decode_and_draw(
        &self,
        ids: &[u32],
        rows: &[PagedRow],
        draws: &[RowDraw],
        cache: &mut KvCache,
        graphs: &mut DecodeGraphs,
    ) -> Result<Vec<Option<Drawn>>> {
        let Some(gpu) = Gpu::at(&self.device)? else { bail!("decode steps are captured on a GPU alone") };
        check_pages(ids, rows, cache)?;
        if draws.len() != rows.len() || rows.iter().any(|row| row.new_tokens != 1) {
            bail!("a decode step has one token and one draw for each row")
        }
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.architecture.vocab_size) {
            bail!("token id {id} is outside the vocabulary of {}", self.architecture.vocab_size)
        }
        let Some(attention) = self.blocks.first().map(|block| &block.attention.heads) else {
            bail!("a model without blocks")
        };
        // Graphs know the tables by their addresses: they are made once, for every position of the model that a row comes near.
        let positions = rows.iter().map(|row| row.context + 1).max().unwrap_or(0);
        if graphs.rotary.as_ref().is_none_or(|rotary| rotary.positions() < positions) {
            graphs.steps.clear();
            let ahead = positions.next_power_of_two().max(4096).min(self.architecture.max_positions);
            graphs.rotary = Some(self.rotary(ahead.max(positions))?);
        }
        let Some(rotary) = graphs.rotary.clone() else { bail!("no rotary tables") };

        let tables = PagedStep::new(rows).gpu_tables(attention, self.dtype)?;
        let capacity = tables.capacity().rounded(filled_up(rows.len()));
        let results = match graphs.results.entry(capacity.parts()) {
            Entry::Occupied(results) => results.get().clone(),
            Entry::Vacant(place) => place.insert(PartResults::new(&gpu, &capacity, attention)?).clone(),
        };
        let step = match graphs.steps.entry(capacity) {
            Entry::Occupied(step) => step.into_mut(),
            Entry::Vacant(place) => place.insert(DecodeStep {
                ids: gpu.upload(&vec![0; capacity.tokens()])?,
                step: PagedStep::prepared(
                    capacity.tokens(),
                    DeviceTables::new(&gpu, &tables, capacity, results)?,
                ),
                draws: DrawPlaces::new(&gpu, capacity.tokens())?,
                has_run: false,
                graph: None,
            }),
        };
        let Some(uploaded) = step.step.tables() else { bail!("a step without tables") };
        uploaded.update(&gpu, &tables)?;
        let mut filled = ids.to_vec();
        filled.resize(capacity.tokens(), 0);
        step.ids.slice_set(&gpu.upload(&filled)?, 0, 0)?;
        step.draws.put(&gpu, draws, capacity.tokens())?;

        let run = |step: &DecodeStep| self.decode_step(&gpu, step, &rotary, cache);
        if step.graph.is_none() && step.has_run && graphs.refused.is_none() {
            match gpu.capture(|| run(step)) {
                Ok(graph) => step.graph = Some(graph),
                Err(error) => {
                    tracing::warn!("decode steps are not captured: {error}");
                    graphs.refused = Some(error.to_string());
                }
            }
        }
        match &step.graph {
            Some(graph) => {
                graph.replay()?;
                graphs.replayed += 1;
            }
            None => run(step)?,
        }
        step.has_run = true;
        let started = Instant::now();
        let drawn = step.draws.read(draws.len());
        graphs.last_wait = started.elapsed();
        drawn
    }

    fn decode_step(
        &self,
        gpu: &Gpu,
        step: &DecodeStep,
        rotary: &RotaryTables,
        cache: &KvCache,
    ) -> Result<()> {
        let count = step.ids.elem_count();
        let scale = self.architecture.embedding_scale;
        let x = embedding_at(gpu, self.weights().value(self.embedding), &step.ids, count, scale)?;
        let hidden = self.paged_layers(x, &step.step, rotary, None, cache)?;
        let logits = self.logits(&hidden)?;
        debug_assert_eq!(logits.dtype(), DType::F32);
        step.draws.draw(gpu, &logits)
    }
}

#[cfg(test)]
mod tests {
    use super::filled_up;

    #[test]
    fn sizes_are_few_and_near() {
        let sizes: std::collections::BTreeSet<usize> = (1..=1024).map(filled_up).collect();
        assert!(sizes.len() < 70, "{}", sizes.len());
        for rows in 1..=1024usize {
            let filled = filled_up(rows);
            assert!(filled >= rows && filled as f64 <= rows as f64 * 1.125 + 1.0, "{rows}: {filled}");
        }
        assert_eq!([1, 9, 17, 500, 512, 513].map(filled_up), [1, 9, 18, 512, 512, 576]);
    }
}
