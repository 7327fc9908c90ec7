//! What of a training's state a rank holds (`train.zero`): ZeRO's three stages (Rajbhandari et al., arXiv 1910.02054), with the
//! bits of plain data parallelism.
//!
//! A trained parameter's numbers are cut into ranges, one for each rank ([`selfplay_model::shares`]). A rank moves its own ranges and no
//! others:
//!
//! | `train.zero` | by rank | whole on every rank |
//! |---|---|---|
//! | 0 | nothing | weights, masters, gradients, optimizer state |
//! | 1 | masters and optimizer state | weights, gradients |
//! | 2 | and gradients | weights |
//! | 3 | and the weights of blocks, embedding and head | norms after the last block, heads of a preference model |
//!
//! What is not trained is whole on every rank, so that over an adapter only the adapter's tensors are cut.
//!
//! # A step
//!
//! 1. Every rank accumulates the gradient of its part of the batch, micro-batch after micro-batch, in one place and without
//!    communication (stage 3 brings weights).
//! 2. Its ranges of the sum over all ranks come from [`Collective::reduce_scatter`](crate::collective::Collective::reduce_scatter), in the order of ranks: in stages 2 and 3
//!    segment by segment in the last micro-batch's backward, right after the segment's gradient is complete, and its memory is
//!    given back. Before the last micro-batch the accumulated gradient is whole: the sum of micro-batches is taken number by
//!    number into the place of the one before, which no other rank can go on with. With one micro-batch to a part a rank never
//!    holds more than a segment's gradient, on a GPU those of two, beside its ranges.
//! 3. The norm is that of all ranks: on a CPU partial sums of 64 Ki numbers, added in the order of tensors as for one rank (ranges
//!    begin where such a partial sum does).
//! 4. The optimizer moves the ranges. In stages 1 and 2 the weights are then gathered, in the dtype of computation.
//!
//! In stage 3 a block's weights are gathered before its forward and again before its backward, and their memory is given back
//! after. On a GPU the next block's gather is begun before the block computes, and runs beside it; and a block's gradients are
//! summed beside the backward of the one below, after which their memory is given back.
//!
//! # Loading and saving
//!
//! In stage 3 a rank may load its own ranges and nothing else ([`LoadOptions::share`](selfplay_model::LoadOptions::share)). Then no rank has all of
//! the model at any time: log-probs before training are passes among the ranks (`passing.rs`), and after it the weights stay with their ranks. Rank 0
//! saves the model ([`Decoder::save`](selfplay_model::Decoder::save)) tensor by tensor, each of which all ranks bring together when it asks
//! for it, while the others wait in [`Decoder::end_division`](selfplay_model::Decoder::end_division). Ranks that have the model whole
//! cut it, and bring it together again at the end; where only some have loaded ranges, all go on as these.
//!
//! # Ranks whose passes differ
//!
//! Ranks may have different numbers of micro-batches, and one may fail in the middle of a pass. So before a pass that
//! exchanges something, ranks say which pass each is about to make, or that it has none (`rendezvous.rs`): those with another
//! one take part in its exchanges without computing. Every call between passes (`lockstep.rs`) waits in the same way until no rank has a pass
//! left.
//!
//! # Memory of a rank
//!
//! Of a rank that has loaded its own ranges it is never more, from the first number read to the last one written. With P trained numbers, n ranks, c bytes of a number that is computed with (4 on a CPU, 2 in bf16), s bytes of optimizer state
//! a number, m = 4 where c < 4 and 0 else (masters), B numbers of the largest block, E of the embedding, H of an own head, and
//! R the numbers outside all of these; M micro-batches to a part; a = 2 on a GPU, where exchanges run beside what is computed, 1 on a CPU:
//!
//! | | weights | masters and state | gradients, f32 |
//! |---|---|---|---|
//! | 0 | c P | (m + s) P | 4 P |
//! | 1 | c P | (m + s) P / n | 4 P |
//! | 2 | c P | (m + s) P / n | 4 P / n + 4 (max(B, E, H) + (a − 1) B) with M = 1; 4 P / n + 4 P else |
//! | 3 | c (P / n + R + max(a B, E, H)) | (m + s) P / n; on a CPU 4 P / n is the weights' own | as 2 |
//!
//! A rank's ranges of the gradients have memory from their sum to the optimizer's step. A tied head is the embedding: its gradient is there from the head's pass to the end of the backward, 4 E more. On a CPU
//! with c = 4 the range that the optimizer moves is the range of the weights: it counts once.
//!
//! # Bytes over the wire, sent by each rank in one step
//!
//! With f = (n − 1) / n and M micro-batches to a part, of F forward and backward passes each (a loss that needs the batch's
//! log-probs first makes one more forward):
//!
//! | | gradients | weights |
//! |---|---|---|
//! | 0 | 2 · 4 P f | 0 |
//! | 1, 2 | 4 P f | c P f |
//! | 3 | 4 P f | M · (2 c P + c H) f: forward and backward of each block, the head, the embedding's forward |
//!
//! With `Mpi` and `Nccl` alike; besides, some numbers before each pass (8 bytes a rank) and the norm's partial sums (8 bytes for
//! each 64 Ki numbers).

mod exchanges;
mod gathered;
mod groups;
mod hooks;
mod lockstep;
mod norm;
mod optimizing;
mod owned;
mod passes;
mod passing;
mod rendezvous;
mod shards;

pub(crate) use gathered::{read_scattered, write_gathered};
pub(crate) use lockstep::Lockstep;
pub(crate) use optimizing::{optimizer_of, state_items, step};
pub(crate) use passing::{are_divided, with_passes};
pub use selfplay_model::shares::largest_share;
pub(crate) use shards::Shards;

#[cfg(test)]
mod tests;
