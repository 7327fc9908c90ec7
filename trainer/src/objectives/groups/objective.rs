//! Groups as an objective: the clipped surrogate of `surrogate.rs` over a batch of groups.
//!
//! `batch_size` counts groups, `epochs` the passes over them: the log-probs of the sampling policy stay as they are, so that later
//! passes have ratios of their own. The sampler's log-probs of a response are those of its whole prompt; a prompt is therefore never
//! cut: a response is cut from the right to what `max_length` leaves, and a group whose prompt leaves nothing is skipped.

use selfplay_model::{Decoder, Gradients};

use super::data::{CutGroups, GroupData, LogProbList};
use super::reference::TokenPass;
use super::surrogate::{Surrogate, TokenLogProbs};
use super::token_group::{GroupResponse, TokenGroup};
use crate::batch::{micro_batches, pack_responses};
use crate::context::{LengthRemedy, check_context};
use crate::fingerprint::Fingerprint;
use crate::objectives::pairs::check_vocabulary;
use crate::objectives::{AnchorPolicy, BatchReport, Example, Examples, Objective, Part, ReadsPolicies};
use crate::training::{Preparation, TrainRun, TrainSummary};
use crate::zero::with_passes;
use crate::{TrainError, TrainSettings};

/// Training on groups of responses with one of the losses over groups.
///
/// The decoder must hold the weights that the iteration starts from, also when a run resumes: log-probs that responses do not bring
/// are computed with them.
pub struct GroupObjective {
    groups: GroupData,
    settings: TrainSettings,
    reference: AnchorPolicy,
    surrogate: Surrogate,
    cut: Option<CutGroups>,
}

/// A response of a part of a batch.
#[derive(Clone, Copy)]
struct Member<'a> {
    /// Its group's place in the batch.
    place: usize,
    group: &'a TokenGroup,
    response: &'a GroupResponse,
}

impl GroupObjective {
    /// Groups to train on, and how.
    pub fn new(groups: impl Into<GroupData>, settings: &TrainSettings) -> Self {
        let groups = groups.into();
        let (below, above) = settings.clip_range();
        let surrogate = Surrogate { below, above, kl_weight: settings.kl_weight() };
        let (settings, reference) = (settings.clone(), AnchorPolicy::Start);
        Self { groups, settings, reference, surrogate, cut: None }
    }

    /// Names the policy that the divergence is taken from.
    #[must_use]
    pub fn with_reference(mut self, reference: AnchorPolicy) -> Self {
        self.reference = reference;
        self
    }

    /// Multiplies the divergence's weight.
    #[must_use]
    pub fn with_kl_factor(mut self, factor: f64) -> Self {
        self.surrogate.kl_weight *= factor;
        self
    }

    /// Cuts the groups to `max_length`, once.
    fn cut(&mut self) -> Result<(), TrainError> {
        if self.cut.is_some() {
            return Ok(());
        }
        let (limit, before) = (self.settings.max_length, self.groups.len());
        let first = self.groups.first_name().unwrap_or_default().to_owned();
        let cut = self.groups.cut(limit);
        let skipped = cut.skipped;
        if skipped > 0 {
            tracing::warn!(
                "{skipped} of {before} groups left out: their prompts have max_length = {limit} tokens or more"
            );
        }
        if self.groups.is_empty() && before > 0 {
            return Err(TrainError::Data {
                problem: format!(
                    "the prompts of all {before} groups have max_length = {limit} tokens or more (the first is {first})"
                ),
                want: "a higher train.max_length: a group's prompt is not cut".into(),
            });
        }
        self.cut = Some(cut);
        Ok(())
    }

    /// Whether the divergence is from a policy that is not the starting one.
    fn other_reference(&self) -> Option<&str> {
        match &self.reference {
            AnchorPolicy::Other(name) if self.surrogate.kl_weight != 0.0 => Some(name),
            _ => None,
        }
    }

    /// That the decoder can read every group.
    fn check_groups(&self, decoder: &Decoder) -> Result<(), TrainError> {
        (0..self.groups.len()).try_for_each(|index| check_group(decoder, &self.groups.get(index)?))
    }

    fn pass<'a>(&self, policy: &'a str, run: &'a TrainRun<'_>, folder: &'a std::path::Path) -> TokenPass<'a> {
        TokenPass {
            policy,
            micro_batch_tokens: self.settings.micro_batch_tokens.or_standard(),
            folder,
            stop: run.stop,
            collective: run.collective,
        }
    }
}

impl ReadsPolicies for GroupObjective {
    fn has_other_anchors(&self) -> bool {
        self.other_reference().is_some()
    }

    fn load_anchors<E: From<TrainError>>(
        &mut self,
        run: &TrainRun<'_>,
        load: &mut dyn FnMut(&str) -> Result<Decoder, E>,
    ) -> Result<Preparation, E> {
        self.cut()?;
        let Some(name) = self.other_reference().map(str::to_owned) else { return Ok(Preparation::Complete) };
        let folder = run.folder.join("reference");
        let pass = self.pass(&name, run, &folder);
        let values = match pass.read_all(&self.groups)? {
            Some(values) => values,
            None if (run.stop)() => return Ok(Preparation::Stopped),
            None => {
                let mut decoder = load(&name)?;
                self.check_groups(&decoder)?;
                let taken = with_passes(&mut decoder, run.collective, |decoder, collective| {
                    TokenPass { collective, ..pass }.log_probs(decoder, &self.groups)
                });
                match taken? {
                    Some(values) => values,
                    None => return Ok(Preparation::Stopped),
                }
            }
        };
        self.groups.fill_all(LogProbList::Reference, &values)?;
        Ok(Preparation::Complete)
    }
}

/// That the decoder can read a group.
fn check_group(decoder: &Decoder, group: &TokenGroup) -> Result<(), TrainError> {
    let lists = group.responses.iter().map(|response| &response.ids[..]);
    check_vocabulary(decoder, &group.name, lists.chain([&group.prompt[..]]))?;
    let longest = group.responses.iter().map(|response| response.ids.len()).max().unwrap_or(0);
    let length = group.prompt.len() + longest;
    check_context(
        decoder,
        &group.name,
        length,
        length.saturating_sub(1),
        LengthRemedy::Key("train.max_length"),
    )
}

impl Objective for GroupObjective {
    fn settings(&self) -> &TrainSettings {
        &self.settings
    }

    fn check(&mut self, decoder: &mut Decoder, _seed: u64) -> Result<(), TrainError> {
        if let Some(name) = self.groups.first_incomplete() {
            let want = "a prompt and two responses or more, each of one token or more";
            return Err(TrainError::example(name, "an incomplete group", want));
        }
        self.cut()?;
        self.check_groups(decoder)
    }

    fn prepare(&mut self, decoder: &Decoder, run: &TrainRun<'_>) -> Result<Preparation, TrainError> {
        if let Some(name) = self.other_reference()
            && !self.groups.have(LogProbList::Reference)
        {
            return Err(TrainError::AnchorNotLoaded { policy: name.to_owned() });
        }
        if self.groups.have(LogProbList::Old) {
            return Ok(Preparation::Complete);
        }
        let folder = run.folder.join("reference");
        match self.pass("", run, &folder).log_probs(decoder, &self.groups)? {
            None => Ok(Preparation::Stopped),
            Some(values) => {
                self.groups.fill_all(LogProbList::Old, &values)?;
                Ok(Preparation::Complete)
            }
        }
    }

    fn examples(&self) -> &dyn Examples {
        &self.groups
    }

    fn fingerprint(&self) -> Result<String, TrainError> {
        let mut hash = Fingerprint::new();
        hash.bytes(b"groups").real(self.surrogate.kl_weight);
        for index in 0..self.groups.len() {
            let group = self.groups.get(index)?;
            group.fingerprint(&mut hash);
            for response in &group.responses {
                hash.real(response.advantage);
                for list in [&response.old, &response.reference] {
                    hash.number(list.as_ref().map_or(0, |list| list.len() as u64 + 1));
                    list.iter().flatten().for_each(|&value| {
                        hash.real(value.into());
                    });
                }
            }
        }
        Ok(hash.hex())
    }

    fn accumulate(&mut self, part: Part<'_>, grads: &mut Gradients) -> Result<BatchReport, TrainError> {
        let groups: Vec<TokenGroup> =
            part.examples().map(|index| self.groups.get(index)).collect::<Result<_, _>>()?;
        let members: Vec<Member<'_>> = part
            .places
            .iter()
            .zip(&groups)
            .flat_map(|(&place, group)| {
                group.responses.iter().map(move |response| Member { place, group, response })
            })
            .collect();
        let lengths: Vec<usize> = members
            .iter()
            .map(|Member { group, response, .. }| group.prompt.len() + response.ids.len())
            .collect();
        let mut report = BatchReport {
            logp_chosen: Some(0.0),
            kl: Some(0.0),
            clipped: Some(0.0),
            tokens: groups.iter().map(TokenGroup::tokens).sum(),
            ..BatchReport::default()
        };
        let micros = micro_batches(&lengths, part.memory.tokens(self.settings.micro_batch_tokens));
        for (number, micro) in micros.iter().enumerate() {
            grads.set_last(number + 1 == micros.len());
            let own: Vec<Member<'_>> = micro.iter().map(|&member| members[member]).collect();
            let items =
                own.iter().map(|Member { group, response, .. }| (&group.prompt[..], &response.ids[..]));
            let packed = pack_responses(items);
            let (rows, targets) = (&packed.targets.rows, &packed.targets.targets);
            let decoder = part.decoder;
            let tape = decoder.forward_train(&packed.batch, part.memory.plan(decoder, &packed.batch)?)?;
            // A token's derivative needs its own log-prob alone: those that are known are decided.
            let mut shares = Vec::new();
            let mut derivatives = |known: &[f32]| {
                let mut slopes = vec![0f32; known.len()];
                shares.clear();
                for (&member, span) in own.iter().zip(&packed.spans) {
                    let there = span.start.min(known.len())..span.end.min(known.len());
                    let slopes = &mut slopes[there.clone()];
                    shares.push(self.of_response(&part, member, &known[there], slopes));
                }
                candle_core::Result::Ok(slopes)
            };
            let d_hidden =
                decoder.token_log_probs_pass(tape.hidden(), rows, targets, grads, &mut derivatives)?;
            report = shares.into_iter().fold(report, BatchReport::plus);
            if report.not_finite.is_some() {
                report.loss = f64::NAN;
                return Ok(report);
            }
            decoder.backward(tape, &d_hidden, grads)?;
        }
        Ok(report)
    }

    fn summary(&self, _run: &TrainRun<'_>) -> Result<TrainSummary, TrainError> {
        let CutGroups { truncated, skipped } = self.cut.unwrap_or_default();
        Ok(TrainSummary { examples: self.groups.len(), truncated, skipped, ..TrainSummary::default() })
    }
}

impl GroupObjective {
    /// A response's share of the batch's numbers, and the derivative by each of its log-probs.
    fn of_response(
        &self,
        part: &Part<'_>,
        member: Member<'_>,
        log_probs: &[f32],
        slopes: &mut [f32],
    ) -> BatchReport {
        let Member { place, group, response } = member;
        // Of the batch's mean over groups, the group's over responses.
        let of_batch = 1.0 / (part.batch.len().max(1) * group.responses.len().max(1)) as f64;
        let share = of_batch / response.ids.len().max(1) as f64;
        let old = response.old.as_deref().unwrap_or_default();
        let reference = response.reference.as_deref().unwrap_or(old);
        let (mut loss, mut sum, mut kl, mut clipped) = (0.0, 0.0, 0.0, 0usize);
        for (token, (&log_prob, slope)) in log_probs.iter().zip(slopes).enumerate() {
            let policy = f64::from(log_prob);
            let at = |list: &[f32]| list.get(token).map_or(policy, |&value| f64::from(value));
            let token = TokenLogProbs { policy, old: at(old), reference: at(reference) };
            let one = self.surrogate.of(token, response.advantage);
            loss += one.value;
            sum += policy;
            kl += one.kl;
            clipped += usize::from(one.is_clipped);
            *slope = (share * one.slope) as f32;
        }
        let is_finite = loss.is_finite() && sum.is_finite();
        BatchReport {
            loss: share * loss,
            logp_chosen: Some(of_batch * sum),
            kl: Some(share * kl),
            clipped: Some(share * clipped as f64),
            not_finite: (!is_finite).then_some(place),
            ..BatchReport::default()
        }
    }
}
