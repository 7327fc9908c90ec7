//! How the ranks of a launch part, so that none waits for one that will not come.
//!
//! To end a collective in order (MPI's finalize) is to wait for all ranks in a call that nothing ends. So each rank tells first that
//! it has come to its end, and rank 0 then tells whether all have. Where one is lost nobody ends the collective: the processes end
//! as they are.
//!
//! After a failure or a signal rank 0 ends first, as it has the last word, and launchers kill what is left when one of their processes
//! leaves with a status that is not 0.
//!
//! A signal to one rank and the end of the run may cross. So a rank that is stopped does not leave before rank 0 has told how the work
//! ends: where it is finished there is nothing to stop, and all end in order.

use std::time::{Duration, Instant};

use super::monitor::Monitor;
use super::patience::Patience;
use super::rank_state::{RankEnding, RankIdentity, RankState, hear, tell};
use super::shared_work::{NumberedWork, SharedWork};
use crate::run::ranks_place::LaunchPlace;
use crate::signals::StopSignal;

/// How long rank 0 waits for the others to leave before it takes the meeting place away, and they for it after a failure.
pub(super) const PARTING: Duration = Duration::from_secs(10);

/// A rank that is about to leave.
pub(super) struct Parting<'a> {
    /// This rank.
    pub(super) rank: usize,
    /// All of them, by rank.
    pub(super) ranks: &'a [RankIdentity],
    pub(super) launch: &'a LaunchPlace,
    pub(super) monitor: &'a Monitor,
}

impl Parting<'_> {
    /// Waits until all ranks have come to their end, or one is known not to come; says whether all have, the same on all that hear
    /// it. The monitor must still be open.
    pub(super) fn all_come(&self) -> bool {
        if self.rank == 0 {
            return self.gather();
        }
        // Where it cannot be told rank 0 sees that this rank leaves.
        tell(&self.launch.at_end(self.rank), &self.rank).is_ok() && self.hear_of_all()
    }

    /// Rank 0's part of it.
    fn gather(&self) -> bool {
        let mut patience = Patience::default();
        let others = 1..self.ranks.len();
        let all = loop {
            let is_lost = self.monitor.trouble().is_some() || !self.monitor.lost().is_empty();
            if is_lost {
                break false;
            }
            if others.clone().all(|rank| self.launch.at_end(rank).exists()) {
                break true;
            }
            if others.clone().any(|rank| self.ending_of(rank).is_some()) {
                break false;
            }
            std::thread::sleep(patience.step());
        };
        tell(&self.launch.parting(), &all).is_ok() && all
    }

    /// That of the others.
    fn hear_of_all(&self) -> bool {
        let mut patience = Patience::default();
        loop {
            if let Some(all) = hear(&self.launch.parting()) {
                return all;
            }
            if self.monitor.trouble().is_some() || self.ending_of(0).is_some() {
                return false;
            }
            std::thread::sleep(patience.step());
        }
    }

    /// Whether rank 0 has come to the end of the run, of another rank that a signal has stopped: waits until rank 0 has told of the end or
    /// how it leaves, `most` at most.
    pub(super) fn is_finished(&self, most: Duration) -> bool {
        let (start, mut patience) = (Instant::now(), Patience::default());
        loop {
            let told: Option<NumberedWork> = hear(&self.launch.work());
            if told.is_some_and(|told| told.work == SharedWork::Finished) {
                return true;
            }
            if let Some(ending) = self.ending_of(0) {
                return ending.status == 0;
            }
            if self.monitor.trouble().is_some() || start.elapsed() >= most {
                return false;
            }
            std::thread::sleep(patience.step());
        }
    }

    /// The signal by which another rank has left.
    pub(super) fn stopped_by(&self) -> Option<StopSignal> {
        let others = (0..self.ranks.len()).filter(|&rank| rank != self.rank);
        others.filter_map(|rank| StopSignal::by_name(&self.ending_of(rank)?.signal?)).next()
    }

    /// How a rank has told that it ends.
    pub(super) fn ending_of(&self, rank: usize) -> Option<RankEnding> {
        hear::<RankState>(&self.launch.state(rank))?.ending
    }

    /// Waits until rank 0's process has ended, where that can be seen from here, and else until it has told how it ends; `most` at
    /// most.
    pub(super) fn await_first(&self, most: Duration) {
        let (start, mut patience) = (Instant::now(), Patience::default());
        let Some(first) = self.ranks.first() else { return };
        let is_there = || match first.is_here() {
            true => !first.is_gone(),
            false => hear::<RankState>(&self.launch.state(0)).is_some_and(|state| state.ending.is_none()),
        };
        while start.elapsed() < most && is_there() {
            std::thread::sleep(patience.step());
        }
    }

    /// Waits until the other ranks have told how they end, or will not.
    pub(super) fn await_others(&self) {
        let (start, mut patience) = (Instant::now(), Patience::default());
        let lost = self.monitor.lost();
        let is_away = |other: &RankIdentity| {
            lost.contains(&other.rank) || self.ending_of(other.rank).is_some() || other.is_gone()
        };
        while start.elapsed() < PARTING && !self.ranks.iter().skip(1).all(is_away) {
            std::thread::sleep(patience.step());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::super::monitor::MonitorSetup;
    use super::super::pulse::Pulse;
    use super::super::rank::Rank;
    use super::super::rank_state::Activity;
    use super::*;
    use crate::run::ranks_place::RanksPlace;
    use crate::signals::StopFlag;

    fn identities() -> Vec<RankIdentity> {
        (0..3).map(|rank| RankIdentity::of(&Rank { rank, world: 3, ..Rank::ALONE })).collect()
    }

    fn monitor(launch: &LaunchPlace, ranks: &[RankIdentity], rank: usize) -> Monitor {
        let setup = MonitorSetup {
            identity: ranks[rank].clone(),
            ranks: ranks.to_vec(),
            launch: launch.clone(),
            timeout: Duration::from_millis(400),
            interval: Duration::from_millis(10),
            stop: StopFlag::default(),
            advice: String::new(),
        };
        Monitor::start(setup, Arc::new(Pulse::new())).unwrap()
    }

    /// What each of these ranks of three learns; the others never come.
    fn part(launch: &LaunchPlace, ranks: &[RankIdentity], coming: &[usize]) -> Vec<bool> {
        thread::scope(|scope| {
            let all: Vec<_> = coming
                .iter()
                .map(|&rank| {
                    scope.spawn(move || {
                        let monitor = monitor(launch, ranks, rank);
                        let all = Parting { rank, ranks, launch, monitor: &monitor }.all_come();
                        monitor.close(RankEnding { status: 0, signal: None, message: String::new() });
                        all
                    })
                })
                .collect();
            all.into_iter().map(|one| one.join().unwrap()).collect()
        })
    }

    fn place() -> (tempfile::TempDir, LaunchPlace) {
        let folder = tempfile::tempdir().unwrap();
        let launch = RanksPlace::of(folder.path()).launch("test");
        launch.create().unwrap();
        (folder, launch)
    }

    #[test]
    fn all_learn_that_all_come_and_nobody_waits_for_a_lost_one() {
        let (_folder, launch) = place();
        assert_eq!(part(&launch, &identities(), &[2, 0, 1]), [true; 3]);

        // Rank 2 has told nothing since it came.
        let (_folder, launch) = place();
        let start = Instant::now();
        assert_eq!(part(&launch, &identities(), &[0, 1]), [false; 2]);
        assert!(start.elapsed() > Duration::from_millis(300) && start.elapsed() < Duration::from_secs(8));

        // It has left in another way, which is known at once.
        let (_folder, launch) = place();
        let ranks = identities();
        let ending = Some(RankEnding { status: 75, signal: Some("SIGTERM".into()), message: String::new() });
        let (identity, activity) = (ranks[2].clone(), Activity::Quiet);
        let state =
            RankState { identity, beat: 1, moved: 1, stage: "train".into(), activity, signal: None, ending };
        tell(&launch.state(2), &state).unwrap();
        assert_eq!(part(&launch, &ranks, &[0, 1]), [false; 2]);
    }

    #[test]
    fn a_signal_that_crosses_the_end_of_the_run_stops_nothing() {
        let done = RankEnding { status: 0, signal: None, message: String::new() };
        let (_folder, launch) = place();
        let ranks = identities();
        let all = thread::scope(|scope| {
            let others = [1, 2].map(|rank| {
                let (launch, ranks, done) = (&launch, &ranks, &done);
                scope.spawn(move || {
                    let monitor = monitor(launch, ranks, rank);
                    let parting = Parting { rank, ranks, launch, monitor: &monitor };
                    // Rank 1 is stopped by a signal, and rank 0 has not told of the end yet.
                    let come =
                        (rank == 2 || parting.is_finished(Duration::from_secs(8))) && parting.all_come();
                    monitor.close(done.clone());
                    come
                })
            });
            thread::sleep(Duration::from_millis(100));
            let monitor = monitor(&launch, &ranks, 0);
            tell(&launch.work(), &NumberedWork { number: 3, work: SharedWork::Finished }).unwrap();
            let parting = Parting { rank: 0, ranks: &ranks, launch: &launch, monitor: &monitor };
            let own = parting.all_come();
            assert_eq!(parting.stopped_by(), None);
            monitor.close(done.clone());
            let [one, two] = others.map(|other| other.join().unwrap());
            [own, one, two]
        });
        assert_eq!(all, [true; 3]);
    }

    #[test]
    fn one_that_is_stopped_leaves_with_rank_0_or_where_that_says_nothing() {
        let (_folder, launch) = place();
        let ranks = identities();
        let monitor = monitor(&launch, &ranks, 1);
        let parting = Parting { rank: 1, ranks: &ranks, launch: &launch, monitor: &monitor };
        tell(&launch.work(), &NumberedWork { number: 3, work: SharedWork::Begun }).unwrap();
        assert!(!parting.is_finished(Duration::from_millis(50)));
        let ending = Some(RankEnding { status: 75, signal: Some("SIGTERM".into()), message: String::new() });
        let (identity, activity) = (ranks[0].clone(), Activity::Quiet);
        let state =
            RankState { identity, beat: 1, moved: 1, stage: "train".into(), activity, signal: None, ending };
        tell(&launch.state(0), &state).unwrap();
        let start = Instant::now();
        assert!(!parting.is_finished(Duration::from_secs(8)) && start.elapsed() < Duration::from_secs(5));
        assert_eq!(parting.stopped_by().map(StopSignal::name), Some("SIGTERM"));
        monitor.close(RankEnding { status: 75, signal: None, message: String::new() });
    }

    #[test]
    fn others_stay_until_the_process_of_rank_0_is_gone() {
        let (_folder, launch) = place();
        let mut ranks = identities();
        let monitor = monitor(&launch, &ranks, 1);
        let mut child = std::process::Command::new("sleep").arg("0.3").spawn().unwrap();
        ranks[0].pid = child.id();
        let start = Instant::now();
        Parting { rank: 1, ranks: &ranks, launch: &launch, monitor: &monitor }
            .await_first(Duration::from_secs(8));
        assert!(start.elapsed() < Duration::from_secs(6));
        assert!(!cfg!(target_os = "linux") || start.elapsed() >= Duration::from_millis(250));
        child.wait().unwrap();
        monitor.close(RankEnding { status: 0, signal: None, message: String::new() });
    }
}
