//! Who is alive, judged from what ranks tell of themselves: pure, with the time given.
//!
//! Clocks of machines are never compared: a rank is silent when what it tells has not changed for so long by the reader's own clock.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::rank_state::{Activity, RankState};

/// How many times as long a rank may take for what tells nothing in between (loading, saving, evaluating).
const QUIET_TIMES: u32 = 10;

/// What is known of a rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RankHealth {
    /// It gets on, or waits.
    Well,
    /// It has left by itself.
    Left,
    /// Its process has ended without a word.
    Gone,
    /// It has told nothing new for so long.
    Silent(Duration),
}

/// What a reader remembers of the ranks that it looks at.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: BTreeMap<usize, Seen>,
}

#[derive(Debug)]
struct Seen {
    state: RankState,
    /// When its beat last changed.
    beat_at: Instant,
    /// When anything else last changed.
    moved_at: Instant,
}

impl Watch {
    /// Takes in what a rank tells now.
    pub(super) fn look(&mut self, state: RankState, now: Instant) {
        match self.seen.get_mut(&state.identity.rank) {
            Some(seen) => {
                if seen.state.beat != state.beat || seen.state.identity != state.identity {
                    seen.beat_at = now;
                }
                let moment = |state: &RankState| (state.moved, state.activity, state.stage.clone());
                if moment(&seen.state) != moment(&state) {
                    seen.moved_at = now;
                }
                seen.state = state;
            }
            None => {
                let rank = state.identity.rank;
                self.seen.insert(rank, Seen { state, beat_at: now, moved_at: now });
            }
        }
    }

    /// What a rank told last.
    pub(super) fn last(&self, rank: usize) -> Option<&RankState> {
        self.seen.get(&rank).map(|seen| &seen.state)
    }

    /// How a rank is, if `patience` is as long as one may take between two signs of getting on. A rank that was never seen is well.
    pub(super) fn health(&self, rank: usize, patience: Duration, now: Instant) -> RankHealth {
        let Some(Seen { state, beat_at, moved_at }) = self.seen.get(&rank) else { return RankHealth::Well };
        if state.ending.is_some() {
            return RankHealth::Left;
        }
        if state.identity.is_gone() {
            return RankHealth::Gone;
        }
        let (unheard, unmoved) = (now.duration_since(*beat_at), now.duration_since(*moved_at));
        let most = match state.activity {
            Activity::Working => patience,
            Activity::Quiet => patience.saturating_mul(QUIET_TIMES),
            Activity::Waiting => Duration::MAX,
        };
        if unheard > patience {
            RankHealth::Silent(unheard)
        } else if unmoved > most {
            RankHealth::Silent(unmoved)
        } else {
            RankHealth::Well
        }
    }

    /// For how long all of `world` ranks have waited for each other without any of them moving; `None` where one does not wait.
    pub(super) fn all_wait(&self, world: usize, now: Instant) -> Option<Duration> {
        let mut since = None;
        for rank in 0..world {
            let seen = self.seen.get(&rank)?;
            if seen.state.activity != Activity::Waiting || seen.state.ending.is_some() {
                return None;
            }
            since = since.max(Some(seen.moved_at));
        }
        since.map(|since| now.duration_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::super::rank::Rank;
    use super::super::rank_state::{RankEnding, RankIdentity};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn state(rank: usize, beat: u64, moved: u64, activity: Activity) -> RankState {
        let identity = RankIdentity::of(&Rank { rank, world: 2, ..Rank::ALONE });
        RankState { identity, beat, moved, stage: "train".into(), activity, signal: None, ending: None }
    }

    #[test]
    fn a_rank_is_silent_when_its_process_or_its_main_thread_stands_still() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::default();
        assert_eq!(watch.health(1, PATIENCE, at(0)), RankHealth::Well);
        let mut told = state(1, 1, 1, Activity::Working);
        let mut tell = |watch: &mut Watch, beat, moved, activity, seconds| {
            (told.beat, told.moved, told.activity) = (beat, moved, activity);
            watch.look(told.clone(), at(seconds));
        };
        tell(&mut watch, 1, 1, Activity::Working, 0);
        // The process lives, its main thread does not get on.
        tell(&mut watch, 2, 1, Activity::Working, 50);
        assert_eq!(watch.health(1, PATIENCE, at(59)), RankHealth::Well);
        assert_eq!(watch.health(1, PATIENCE, at(61)), RankHealth::Silent(Duration::from_secs(61)));
        tell(&mut watch, 3, 2, Activity::Working, 62);
        assert_eq!(watch.health(1, PATIENCE, at(63)), RankHealth::Well);
        // Loading has ten times as long.
        tell(&mut watch, 4, 2, Activity::Quiet, 64);
        tell(&mut watch, 5, 2, Activity::Quiet, 600);
        assert_eq!(watch.health(1, PATIENCE, at(640)), RankHealth::Well);
        tell(&mut watch, 6, 2, Activity::Quiet, 660);
        assert_eq!(watch.health(1, PATIENCE, at(665)), RankHealth::Silent(Duration::from_secs(601)));
        // Whoever waits may wait, while its process lives.
        tell(&mut watch, 7, 2, Activity::Waiting, 666);
        tell(&mut watch, 8, 2, Activity::Waiting, 2000);
        assert_eq!(watch.health(1, PATIENCE, at(2059)), RankHealth::Well);
        assert_eq!(watch.health(1, PATIENCE, at(2061)), RankHealth::Silent(Duration::from_secs(61)));
    }

    #[test]
    fn a_rank_that_has_left_is_not_lost_and_one_whose_process_is_gone_is() {
        let now = Instant::now();
        let mut watch = Watch::default();
        let mut left = state(1, 1, 1, Activity::Working);
        left.ending = Some(RankEnding { status: 0, signal: None, message: String::new() });
        watch.look(left, now);
        assert_eq!(watch.health(1, PATIENCE, now + 9 * PATIENCE), RankHealth::Left);
        let mut gone = state(0, 1, 1, Activity::Working);
        // No process has this number.
        gone.identity.pid = u32::MAX;
        watch.look(gone, now);
        if cfg!(target_os = "linux") {
            assert_eq!(watch.health(0, PATIENCE, now), RankHealth::Gone);
        }
    }

    #[test]
    fn all_that_wait_are_counted_from_the_last_that_moved() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = Watch::default();
        watch.look(state(0, 1, 1, Activity::Waiting), at(0));
        assert_eq!(watch.all_wait(2, at(9)), None);
        watch.look(state(1, 1, 1, Activity::Waiting), at(5));
        assert_eq!(watch.all_wait(2, at(9)), Some(Duration::from_secs(4)));
        watch.look(state(1, 2, 1, Activity::Working), at(10));
        assert_eq!(watch.all_wait(2, at(19)), None);
    }
}
