//! Steps that a GPU draws from by itself, begun without a wait; those that only decode, and small ones with prompts in them, as
//! captured graphs: one call starts all kernels of a step, instead of a call for each.
//!
//! Such steps are filled up to one of a few sizes. A size's first steps run kernel by kernel, over the same memory and in the same
//! shapes as those that follow, a later one is captured, the others are replayed: the tokens do not tell which. What changes
//! from step to step (ids, positions, pages, draws and their rules) lies in one buffer that is written before. Other steps run
//! kernel by kernel; their kernels are started while the step before runs, and take the GPU longer than the host
//! (`launch_time.rs`), so that the GPU sees no gap either.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;

use candle_core::{DType, Result, Tensor, bail};

use super::Decoder;
use super::device_step::DeviceStep;
use super::inference::check_pages;
use super::launch_time::small_step_tokens;
use super::rotary::RotaryTables;
use super::step_inputs::{InputSizes, StepInputs};
use super::step_queue::{StepCounts, StepQueue};
use crate::gpu::{Gpu, GpuMechanism, Graph};
use crate::kv_cache::{KvCache, PagedRow};
use crate::ops::attention::Attention;
use crate::ops::draw::{DrawPlaces, Drawn, RowDraw};
use crate::ops::embedding::embedding_at;
use crate::ops::paged_attention::{DeviceTables, PagedStep, PartResults, StepTables, TableCapacity};
use crate::ops::rows::RowIndex;

/// Sizes of steps with prompts that are kept at most: each has some memory, and there may be very many.
const MOST_MIXED_SIZES: usize = 128;
/// Positions that rotary tables are made for at once: longer ones are made when a row comes near, and all captures anew.
const ROTARY_POSITIONS: usize = 1 << 15;

/// The steps that were captured, and those that are under way, for one decoder and one cache.
#[derive(Default)]
pub struct DecodeGraphs {
    /// The first to go: what is under way uses the rest.
    queue: StepQueue,
    steps: HashMap<InputSizes, FilledStep>,
    /// By the number of parts, common to all steps.
    results: HashMap<usize, PartResults>,
    rotary: Option<Arc<RotaryTables>>,
    /// The decoder's [`small_step_tokens`].
    small_step_tokens: Option<usize>,
    /// Why nothing is captured any more.
    refused: Option<String>,
    replayed: usize,
}

/// One size.
struct FilledStep {
    inputs: StepInputs,
    step: PagedStep<'static>,
    /// As many as tokens are picked for their logits; which they are is on the device.
    wanted: Vec<usize>,
    draws: DrawPlaces,
    /// How often it has run kernel by kernel.
    runs: usize,
    graph: Option<Graph>,
}

impl FilledStep {
    fn new(gpu: &Gpu, sizes: InputSizes, results: PartResults) -> Result<Self> {
        let inputs = StepInputs::new(gpu, sizes)?;
        let tables = DeviceTables::at(inputs.tables()?, sizes.tables, results);
        Ok(Self {
            step: PagedStep::prepared(sizes.tables.tokens(), tables),
            wanted: vec![0; sizes.wanted],
            draws: DrawPlaces::new(gpu, inputs.draws()?, sizes.draws)?,
            inputs,
            runs: 0,
            graph: None,
        })
    }
}

impl DecodeGraphs {
    /// One that captures nothing: every step runs kernel by kernel, for comparison.
    pub fn off() -> Self {
        Self { refused: Some("switched off".to_owned()), ..Self::default() }
    }

    /// An empty one in the place of this, for another cache. Steps that are under way are waited for and forgotten.
    #[must_use]
    pub fn renewed(&mut self) -> Self {
        self.queue.discard();
        let queue = std::mem::take(&mut self.queue);
        Self { refused: self.refused.clone(), queue, replayed: self.replayed, ..Self::default() }
    }

    /// The tokens of the oldest step that was begun and not finished, in the order of its draws; `None` in the place of a row
    /// of logits that are not finite. Waits for that step alone.
    ///
    /// # Errors
    /// No such step; the error of the device.
    pub fn finish(&mut self) -> Result<Vec<Option<Drawn>>> {
        self.queue.finish()
    }

    /// Waits for all steps that were begun, and forgets what they drew.
    pub fn discard(&mut self) {
        self.queue.discard();
    }

    /// How long the host has waited for steps so far.
    pub fn waited(&self) -> Duration {
        self.queue.waited()
    }

    /// How steps were begun so far.
    pub fn counts(&self) -> StepCounts {
        StepCounts { replayed: self.replayed, ..self.queue.counts() }
    }

    /// How long the GPU has had nothing to do between steps so far, by its own clock.
    pub fn device_idle(&self) -> Duration {
        self.queue.idle()
    }

    /// Steps that were replayed.
    pub(crate) fn replayed(&self) -> usize {
        self.replayed
    }

    /// Sizes that were captured.
    pub(crate) fn captured(&self) -> usize {
        self.steps.values().filter(|step| step.graph.is_some()).count()
    }

    /// Memory for the results of parts, which all steps of this capacity share.
    fn results(&mut self, gpu: &Gpu, capacity: &TableCapacity, attention: &Attention) -> Result<PartResults> {
        Ok(match self.results.entry(capacity.parts()) {
            Entry::Occupied(results) => results.get().clone(),
            Entry::Vacant(place) => place.insert(PartResults::new(gpu, capacity, attention)?).clone(),
        })
    }

    /// The rotary tables of a step. Graphs know them by their addresses: they are made once, for every position of the model that
    /// a row comes near.
    fn rotary(&mut self, decoder: &Decoder, rows: &[PagedRow]) -> Result<Arc<RotaryTables>> {
        let positions = rows.iter().map(|row| row.context + row.new_tokens).max().unwrap_or(0);
        if let Some(rotary) = self.rotary.as_ref().filter(|rotary| rotary.positions() >= positions) {
            return Ok(rotary.clone());
        }
        self.steps.clear();
        let ahead =
            positions.next_power_of_two().max(ROTARY_POSITIONS).min(decoder.architecture.max_positions);
        let rotary = decoder.rotary(ahead.max(positions))?;
        self.rotary = Some(rotary.clone());
        Ok(rotary)
    }
}

impl Decoder {
    /// Begins a step of many running sequences on a GPU and the draws from its logits, and waits for nothing:
    /// [`DecodeGraphs::finish`] gives the tokens. The same as [`Decoder::forward_paged`], [`Decoder::logits`] and
    /// [`crate::ops::draw::draw`] in one, with tokens of the step before among its own. `graphs` must have seen no other decoder
    /// or cache.
    ///
    /// # Errors
    /// What the three say; a token of a step that was not begun just before.
    pub fn begin_step(
        &self,
        step: &DeviceStep,
        cache: &mut KvCache,
        graphs: &mut DecodeGraphs,
    ) -> Result<()> {
        let Some(gpu) = Gpu::at(&self.device)? else { bail!("tokens are drawn by a GPU here") };
        check_pages(step.ids, step.rows, cache)?;
        if let Some(id) = step.ids.iter().find(|&&id| id as usize >= self.architecture.vocab_size) {
            bail!("token id {id} is outside the vocabulary of {}", self.architecture.vocab_size)
        }
        if let Some(row) = step.logit_rows.iter().find(|&&row| row >= step.ids.len()) {
            bail!("logits of token {row} of {}", step.ids.len())
        }
        let Some(attention) = self.blocks.first().map(|block| &block.attention.heads) else {
            bail!("a model without blocks")
        };
        let tables = PagedStep::new(step.rows).gpu_tables(attention, self.dtype)?;
        let small = graphs.small_step_tokens;
        let small =
            small.unwrap_or_else(|| small_step_tokens(&self.architecture, self.dtype.size_in_bytes()));
        graphs.small_step_tokens = Some(small);
        let draws_any = !step.draws.is_empty() && !step.logit_rows.is_empty();
        match step.only_decodes() || (draws_any && step.ids.len() <= small) {
            true => self.begin_filled(&gpu, step, &tables, cache, graphs),
            false => self.begin_by_kernels(&gpu, step, &tables, cache, graphs),
        }
    }

    /// One token of each row, and the next one drawn from its logits, on a GPU: [`Decoder::begin_step`] and
    /// [`DecodeGraphs::finish`] in one. `ids` \[n] and `draws` \[n] belong to the `n` rows in order.
    ///
    /// # Errors
    /// A row with more than one token; what the two say.
    pub fn decode_and_draw(
        &self,
        ids: &[u32],
        rows: &[PagedRow],
        draws: &[RowDraw],
        cache: &mut KvCache,
        graphs: &mut DecodeGraphs,
    ) -> Result<Vec<Option<Drawn>>> {
        let logit_rows: Vec<usize> = (0..rows.len()).collect();
        let step = DeviceStep { ids, fed: &[], rows, logit_rows: &logit_rows, draws };
        if !step.only_decodes() {
            bail!("a decode step has one token and one draw for each row")
        }
        self.begin_step(&step, cache, graphs)?;
        graphs.finish()
    }

    /// A step of one of a few sizes: it is captured.
    fn begin_filled(
        &self,
        gpu: &Gpu,
        begun: &DeviceStep,
        tables: &StepTables,
        cache: &KvCache,
        graphs: &mut DecodeGraphs,
    ) -> Result<()> {
        let Some(attention) = self.blocks.first().map(|block| &block.attention.heads) else {
            bail!("a model without blocks")
        };
        let rotary = graphs.rotary(self, begun.rows)?;
        let sizes = InputSizes::filled_up(begun, tables.capacity());
        let results = graphs.results(gpu, &sizes.tables, attention)?;
        let mixed = graphs.steps.keys().filter(|kept| kept.wanted > 0);
        let has_room = sizes.wanted == 0 || mixed.count() < MOST_MIXED_SIZES;
        let mut passing;
        let (step, is_kept) = match graphs.steps.entry(sizes) {
            Entry::Occupied(step) => (step.into_mut(), true),
            Entry::Vacant(place) if has_room => (place.insert(FilledStep::new(gpu, sizes, results)?), true),
            Entry::Vacant(_) => {
                passing = FilledStep::new(gpu, sizes, results)?;
                (&mut passing, false)
            }
        };
        let sent = graphs.queue.send(gpu, &step.inputs, begun, tables)?;
        let run = |step: &FilledStep| {
            let x = self.embedded(gpu, &step.inputs, sizes.tables.tokens())?;
            let index = step.inputs.wanted()?;
            let picked = (sizes.wanted > 0).then(|| RowIndex::uploaded(&step.wanted, index));
            let hidden = self.paged_layers(x, &step.step, &rotary, picked.as_ref(), cache)?;
            self.draw_from(gpu, &hidden, &step.draws)
        };
        // Sizes of steps with prompts are many, and some of them are seen but once or twice.
        let runs_before = if sizes.wanted == 0 { 1 } else { 2 };
        let captures = graphs.refused.is_none() && !GpuMechanism::CapturedSteps.is_left_out();
        if step.graph.is_none() && step.runs >= runs_before && is_kept && captures {
            match gpu.capture(|| run(step)) {
                Ok(graph) => step.graph = Some(graph),
                Err(error) => {
                    tracing::warn!("steps are not captured: {error}");
                    graphs.refused = Some(error.to_string());
                }
            }
        }
        match &step.graph {
            Some(graph) => {
                graph.replay()?;
                graphs.replayed += 1;
            }
            None => {
                run(step)?;
                graphs.queue.started_by_kernels(&sent);
            }
        }
        step.runs += 1;
        graphs.queue.push(gpu, sent, Some(step.draws.drawn()), sizes.draws, begun.draws.len())
    }

    /// A step that takes the GPU longer than its launches take the host: its kernels are started one by one.
    fn begin_by_kernels(
        &self,
        gpu: &Gpu,
        begun: &DeviceStep,
        tables: &StepTables,
        cache: &KvCache,
        graphs: &mut DecodeGraphs,
    ) -> Result<()> {
        let Some(attention) = self.blocks.first().map(|block| &block.attention.heads) else {
            bail!("a model without blocks")
        };
        let rotary = graphs.rotary(self, begun.rows)?;
        let (capacity, draws) = (tables.capacity(), begun.draws.len());
        // While all tokens are wanted, none is picked.
        let picked = Some(begun.logit_rows).filter(|rows| rows.len() < begun.ids.len());
        let wanted = picked.map_or(0, <[usize]>::len);
        let inputs = StepInputs::new(gpu, InputSizes { draws, wanted, tables: capacity })?;
        let results = PartResults::new(gpu, &capacity, attention)?;
        let device_tables = DeviceTables::at(inputs.tables()?, capacity, results);
        let step = PagedStep::prepared(capacity.tokens(), device_tables);
        let sent = graphs.queue.send(gpu, &inputs, begun, tables)?;
        let x = self.embedded(gpu, &inputs, capacity.tokens())?;
        let index = inputs.wanted()?;
        let picked = picked.map(|rows| RowIndex::uploaded(rows, index));
        let hidden = self.paged_layers(x, &step, &rotary, picked.as_ref(), cache)?;
        if draws == 0 {
            graphs.queue.started_by_kernels(&sent);
            return graphs.queue.push(gpu, sent, None, 0, 0);
        }
        let places = DrawPlaces::new(gpu, inputs.draws()?, draws)?;
        self.draw_from(gpu, &hidden, &places)?;
        graphs.queue.started_by_kernels(&sent);
        graphs.queue.push(gpu, sent, Some(places.drawn()), draws, draws)
    }

    /// The embedded tokens of a step.
    fn embedded(&self, gpu: &Gpu, inputs: &StepInputs, count: usize) -> Result<Tensor> {
        let scale = self.architecture.embedding_scale;
        embedding_at(gpu, self.weights().value(self.embedding), &inputs.ids()?, count, scale)
    }

    fn draw_from(&self, gpu: &Gpu, hidden: &Tensor, draws: &DrawPlaces) -> Result<()> {
        let logits = self.logits(hidden)?;
        debug_assert_eq!(logits.dtype(), DType::F32);
        draws.draw(gpu, &logits)
    }
}
