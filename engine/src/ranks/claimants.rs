//! What a rank knows of those that have shards: whose shard may be taken over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::rank_state::{RankIdentity, RankState, hear};
use super::watch::{RankHealth, Watch};
use crate::run::ranks_place::LaunchPlace;

/// The ranks that have shards, as far as this rank has looked at them.
#[derive(Default)]
pub(super) struct Claimants {
    watch: Watch,
    /// When claims without a name were first seen, by shard.
    nameless: BTreeMap<usize, Instant>,
}

impl Claimants {
    /// Whether the rank that has a shard does not get on with it; `rank` is `None` where a kill came between making a claim and
    /// writing it. `ranks` are those of the launch.
    pub(super) fn is_lost(
        &mut self,
        shard: usize,
        rank: Option<usize>,
        launch: &LaunchPlace,
        ranks: &[RankIdentity],
        patience: Duration,
    ) -> bool {
        let now = Instant::now();
        let Some(rank) = rank else {
            let since = *self.nameless.entry(shard).or_insert(now);
            return now.duration_since(since) > patience;
        };
        let state: Option<RankState> = hear(&launch.state(rank));
        if let Some(state) = state.filter(|state| ranks.get(rank) == Some(&state.identity)) {
            self.watch.look(state, now);
        }
        !matches!(self.watch.health(rank, patience, now), RankHealth::Well)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rank::Rank;
    use super::super::rank_state::{Activity, tell};
    use super::*;
    use crate::run::ranks_place::RanksPlace;

    const PATIENCE: Duration = Duration::from_millis(40);

    #[test]
    fn shards_of_the_silent_and_of_nobody_are_lost_and_those_of_the_lively_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let launch = RanksPlace::of(folder.path()).launch("test");
        launch.create().unwrap();
        let identity = |rank| RankIdentity::of(&Rank { rank, world: 2, ..Rank::ALONE });
        let ranks = [identity(0), identity(1)];
        let told = |moved| RankState {
            identity: ranks[1].clone(),
            beat: moved,
            moved,
            stage: "sample".into(),
            activity: Activity::Working,
            signal: None,
            ending: None,
        };
        let mut claimants = Claimants::default();
        let mut is_lost = |shard, rank| claimants.is_lost(shard, rank, &launch, &ranks, PATIENCE);
        tell(&launch.state(1), &told(1)).unwrap();
        assert!(!is_lost(0, Some(1)) && !is_lost(1, None));
        std::thread::sleep(2 * PATIENCE);
        tell(&launch.state(1), &told(2)).unwrap();
        assert!(!is_lost(0, Some(1)), "it gets on");
        assert!(is_lost(1, None), "a claim that nobody has written a name into");
        assert!(!is_lost(2, None), "each such claim has its own time");
        std::thread::sleep(2 * PATIENCE);
        assert!(is_lost(0, Some(1)), "it has told nothing new");
    }
}
