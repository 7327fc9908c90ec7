//! Seconds and memory by iteration and stage, from the events.

use super::super::model::{CostStage, IterationCost};
use crate::run::events::{Event, EventLine};

/// Iterations 0 (the starting policy) to `iterations` that have any.
pub(super) fn of(lines: &[EventLine], iterations: usize) -> Vec<IterationCost> {
    let mut costs: Vec<IterationCost> =
        (0..=iterations).map(|iteration| IterationCost { iteration, ..IterationCost::default() }).collect();
    for line in lines {
        let (iteration, stage, seconds) = match line.event {
            Event::Sampled { iteration, seconds, .. } => (iteration, CostStage::Sampling, seconds),
            Event::ScoringDrained { iteration, seconds } => (iteration, CostStage::Scoring, seconds),
            Event::Paired { iteration, seconds, .. } => (iteration, CostStage::Pairing, seconds),
            Event::Trained { iteration, seconds, .. } => (iteration, CostStage::Training, seconds),
            Event::Evaluated { iteration, seconds } => (iteration, CostStage::Evaluation, seconds),
            Event::Scored { iteration, busy_seconds, .. } => {
                if let Some(cost) = costs.get_mut(iteration) {
                    cost.scorer_seconds += busy_seconds;
                }
                continue;
            }
            Event::Started { .. }
            | Event::LogProbsCompared { .. }
            | Event::Finished { .. }
            | Event::Stopped { .. } => continue,
        };
        let Some(cost) = costs.get_mut(iteration) else { continue };
        // Other ranks' seconds pass beside those of the first.
        let seconds = if line.rank.is_some() { 0.0 } else { seconds };
        *cost.seconds.entry(stage).or_default() += seconds;
        if let Some(bytes) = line.peak_bytes {
            let most = cost.peak_bytes.entry(stage).or_default();
            *most = bytes.max(*most);
        }
    }
    costs.retain(|cost| !cost.seconds.is_empty());
    costs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_add_up_over_processes_and_memory_is_the_most() {
        let line = |peak_bytes, event| EventLine { time: 0.0, peak_bytes, rank: None, event };
        let trained = |seconds| Event::Trained { iteration: 1, steps: 2, seconds };
        let lines = [
            line(Some(5), Event::Evaluated { iteration: 0, seconds: 1.0 }),
            line(Some(9), trained(2.0)),
            line(Some(7), trained(3.5)),
            line(None, Event::Scored { iteration: 1, shard: 0, prompts: 1, busy_seconds: 0.25 }),
            line(None, Event::Evaluated { iteration: 7, seconds: 1.0 }),
        ];
        let costs = of(&lines, 3);
        assert_eq!(costs.iter().map(|one| one.iteration).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(costs[1].seconds[&CostStage::Training], 5.5);
        assert_eq!((costs[1].peak_bytes[&CostStage::Training], costs[1].scorer_seconds), (9, 0.25));
    }
}
