//! The thread of a rank that tells the others that it is alive, and looks whether they are: rank 0 at all, every other at rank 0.
//!
//! The main thread asks it between two pieces of work. Where it cannot ask, as it stands in a call that a lost rank will never answer,
//! the monitor ends the process: no rank outlives its launch.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::pulse::Pulse;
use super::rank_state::{RankEnding, RankIdentity, RankState, hear, tell};
use super::watch::{RankHealth, Watch};
use crate::console::terminal;
use crate::error::EngineError;
use crate::run::ranks_place::LaunchPlace;
use crate::signals::{StopFlag, StopSignal};

/// Between two looks at the others, so that a failure and a signal are known everywhere at once.
const LOOK: Duration = Duration::from_millis(250);
/// The same for every rank that is looked at: rank 0 of many does not flood the file system.
const LOOK_OF_EACH: Duration = Duration::from_millis(5);

/// How long the main thread has to leave by itself once a rank is lost or has failed.
const GRACE: Duration = Duration::from_secs(5);

/// Why a launch has to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RankTrouble {
    pub(super) message: String,
    /// The status to leave with.
    pub(super) status: u8,
    /// Whether another rank has printed it.
    pub(super) is_told: bool,
}

impl RankTrouble {
    /// As the error of the main thread.
    pub(super) fn error(&self) -> EngineError {
        match (self.is_told, self.status) {
            (true, status) => EngineError::EndedElsewhere { status },
            (false, 2) => EngineError::input(self.message.clone()),
            (false, _) => EngineError::failure(self.message.clone()),
        }
    }
}

/// What a monitor is made of.
pub(super) struct MonitorSetup {
    pub(super) identity: RankIdentity,
    /// All ranks of the launch, by rank.
    pub(super) ranks: Vec<RankIdentity>,
    pub(super) launch: LaunchPlace,
    /// `ranks.timeout`.
    pub(super) timeout: Duration,
    /// Between two signs of life.
    pub(super) interval: Duration,
    pub(super) stop: StopFlag,
    /// What to do after a failure: the line that names `resume`.
    pub(super) advice: String,
}

/// The monitor of this rank.
pub(super) struct Monitor {
    shared: Arc<MonitorShared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct MonitorShared {
    setup: MonitorSetup,
    pulse: Arc<Pulse>,
    found: Mutex<Findings>,
    woken: Condvar,
}

/// What the monitor's thread and the main thread know together.
#[derive(Debug, Default)]
struct Findings {
    trouble: Option<(RankTrouble, Instant)>,
    /// Ranks that do not get on, and what to say of them.
    lost: BTreeMap<usize, String>,
    /// Whether the work cannot go on without any of them.
    needs_all: bool,
    /// How this rank ends.
    ending: Option<RankEnding>,
}

impl Findings {
    fn put(&mut self, trouble: RankTrouble, now: Instant) {
        if self.trouble.is_none() {
            self.trouble = Some((trouble, now));
        }
    }

    /// Lost ranks end the work that needs all of them.
    fn weigh_losses(&mut self, now: Instant) {
        if self.needs_all && !self.lost.is_empty() {
            let message = self.lost.values().cloned().collect::<Vec<_>>().join("; ");
            self.put(RankTrouble { message, status: 1, is_told: false }, now);
        }
    }
}

impl Monitor {
    /// Starts the thread, which tells and looks at once.
    ///
    /// # Errors
    /// When no thread can be started.
    pub(super) fn start(setup: MonitorSetup, pulse: Arc<Pulse>) -> Result<Self, EngineError> {
        let shared = Arc::new(MonitorShared { setup, pulse, found: Mutex::default(), woken: Condvar::new() });
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("ranks".to_owned())
            .spawn(move || of_thread.run())
            .map_err(|source| EngineError::failure(format!("the monitor of the ranks: {source}")))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Why the launch has to end, where it has.
    pub(super) fn trouble(&self) -> Option<RankTrouble> {
        self.shared.lock().trouble.as_ref().map(|(trouble, _)| trouble.clone())
    }

    /// From here on the work needs all ranks, or can do without some.
    pub(super) fn need_all(&self, all: bool) {
        let mut found = self.shared.lock();
        found.needs_all = all;
        found.weigh_losses(Instant::now());
    }

    /// Ranks that do not get on.
    pub(super) fn lost(&self) -> Vec<usize> {
        self.shared.lock().lost.keys().copied().collect()
    }

    /// Whether the thread has not ended yet.
    pub(super) fn is_open(&self) -> bool {
        self.shared.lock().ending.is_none()
    }

    /// Tells how this rank ends, and ends the thread.
    pub(super) fn close(&self, ending: RankEnding) {
        self.shared.lock().ending.get_or_insert(ending);
        self.shared.woken.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of it has been reported by the hook.
            let _ = thread.join();
        }
    }
}

impl MonitorShared {
    fn lock(&self) -> MutexGuard<'_, Findings> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut watch = Watch::default();
        let now = Instant::now();
        for identity in &self.setup.ranks {
            watch.look(unheard(identity.clone()), now);
        }
        let look = LOOK.max(LOOK_OF_EACH * self.setup.identity.world as u32).min(self.setup.interval);
        let mut beat = 0;
        let mut told: Option<(Instant, Option<StopSignal>)> = None;
        loop {
            let (ending, signal, now) =
                (self.lock().ending.clone(), self.setup.stop.requested(), Instant::now());
            let is_due = told.is_none_or(|(at, of)| {
                now.duration_since(at) >= self.setup.interval || of != signal || ending.is_some()
            });
            if is_due {
                beat += 1;
                self.tell(beat, ending.clone());
                told = Some((now, signal));
            }
            if ending.is_some() {
                return;
            }
            self.look(&mut watch, now);
            self.leave_if_stuck();
            let found = self.lock();
            if found.ending.is_none() {
                // Woken by an ending, or the time is over: either way round again.
                let _ = self.woken.wait_timeout(found, look);
            }
        }
    }

    /// Writes this rank's state. A file that cannot be written now may be written at the next beat; if none can, the others see it.
    fn tell(&self, beat: u64, ending: Option<RankEnding>) {
        let state = self.state(beat, ending);
        if let Err(error) = tell(&self.setup.launch.state(self.setup.identity.rank), &state) {
            tracing::debug!("signs of life: {error}");
        }
    }

    fn state(&self, beat: u64, ending: Option<RankEnding>) -> RankState {
        let (moved, at) = self.pulse.read();
        RankState {
            identity: self.setup.identity.clone(),
            beat,
            moved,
            stage: at.stage,
            activity: at.activity,
            signal: self.setup.stop.requested().map(|signal| signal.name().to_owned()),
            ending,
        }
    }

    /// Looks at the others.
    fn look(&self, watch: &mut Watch, now: Instant) {
        let own = self.setup.identity.rank;
        let watched: Vec<&RankIdentity> = match own {
            0 => self.setup.ranks.iter().filter(|one| one.rank != 0).collect(),
            _ => self.setup.ranks.iter().filter(|one| one.rank == 0).collect(),
        };
        let mut found = self.lock();
        for identity in watched {
            let state: Option<RankState> = hear(&self.setup.launch.state(identity.rank));
            if let Some(state) = state.filter(|state| state.identity == *identity) {
                self.heed(&state, &mut found, now);
                watch.look(state, now);
            }
            let health = watch.health(identity.rank, self.setup.timeout, now);
            let stage = watch.last(identity.rank).map_or_else(String::new, |state| state.stage.clone());
            let Some(what) = describe(&health, identity, &stage) else {
                found.lost.remove(&identity.rank);
                continue;
            };
            if own == 0 {
                if found.lost.insert(identity.rank, what.clone()).is_none() && !found.needs_all {
                    terminal::line(&format!("warning: {what}"));
                }
            } else {
                found.put(RankTrouble { message: what, status: 1, is_told: false }, now);
            }
        }
        found.weigh_losses(now);
        if own == 0 {
            watch.look(self.state(0, None), now);
            let waited = watch.all_wait(self.setup.ranks.len(), now);
            if let Some(seconds) = waited.filter(|&waited| waited > self.setup.timeout.saturating_mul(2)) {
                let message =
                    format!("all ranks have waited for each other for {:.0} s", seconds.as_secs_f64());
                found.put(RankTrouble { message, status: 1, is_told: false }, now);
            }
        }
    }

    /// A signal that another rank was sent, or how it has ended.
    fn heed(&self, state: &RankState, found: &mut Findings, now: Instant) {
        let of_ending = state.ending.as_ref().and_then(|ending| ending.signal.as_deref());
        let signal = state.signal.as_deref().or(of_ending);
        if let Some(signal) = signal.and_then(StopSignal::by_name) {
            self.setup.stop.raise(signal);
            return;
        }
        if let Some(ending) = state.ending.as_ref().filter(|ending| ending.status != 0) {
            let message = format!("{} failed: {}", state.identity.name(), ending.message);
            // Rank 0 has the screen: what it ends with is there.
            let is_told = state.identity.rank == 0;
            found.put(RankTrouble { message, status: ending.status, is_told }, now);
        }
    }

    /// Ends the process where its main thread has not done so in time.
    fn leave_if_stuck(&self) {
        let trouble = match &self.lock().trouble {
            Some((trouble, since)) if since.elapsed() > GRACE => trouble.clone(),
            _ => return,
        };
        let message = format!("{}\n  {}", trouble.message, self.setup.advice);
        let ending = RankEnding { status: trouble.status, signal: None, message: trouble.message };
        self.tell(u64::MAX, Some(ending));
        if !trouble.is_told {
            terminal::error_line(&message);
        }
        // Not `exit`, whose handlers may wait for the main thread.
        // SAFETY: ends the process; files are whole or absent at every moment.
        unsafe { libc::_exit(i32::from(trouble.status)) }
    }
}

/// A rank of which nothing but its coming is known.
fn unheard(identity: RankIdentity) -> RankState {
    RankState {
        identity,
        beat: 0,
        moved: 0,
        stage: "the start".to_owned(),
        activity: super::rank_state::Activity::Quiet,
        signal: None,
        ending: None,
    }
}

/// What is said of a rank that does not get on; `None` of one that does.
fn describe(health: &RankHealth, identity: &RankIdentity, stage: &str) -> Option<String> {
    let name = identity.name();
    match health {
        RankHealth::Well | RankHealth::Left => None,
        RankHealth::Gone => {
            Some(format!("{name} has ended without a word in `{stage}`: its process is gone"))
        }
        RankHealth::Silent(since) => {
            Some(format!("{name} has not moved for {:.0} s in `{stage}`", since.as_secs_f64()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::rank::Rank;
    use super::super::rank_state::Activity;
    use super::*;
    use crate::run::ranks_place::RanksPlace;

    const TIMEOUT: Duration = Duration::from_millis(300);

    fn identity(rank: usize) -> RankIdentity {
        RankIdentity::of(&Rank { rank, world: 2, ..Rank::ALONE })
    }

    /// The monitor of one of two ranks in a folder; the other is the test.
    fn monitor(
        folder: &std::path::Path,
        own: usize,
        ranks: &[RankIdentity],
    ) -> (Monitor, LaunchPlace, Arc<Pulse>) {
        let launch = RanksPlace::of(folder).launch("test");
        launch.create().unwrap();
        let pulse = Arc::new(Pulse::new());
        let setup = MonitorSetup {
            identity: ranks[own].clone(),
            ranks: ranks.to_vec(),
            launch: launch.clone(),
            timeout: TIMEOUT,
            interval: Duration::from_millis(10),
            stop: StopFlag::default(),
            advice: String::new(),
        };
        (Monitor::start(setup, Arc::clone(&pulse)).unwrap(), launch, pulse)
    }

    fn until<T>(mut found: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(start.elapsed() < Duration::from_secs(8), "it never came");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn state(identity: &RankIdentity, beat: u64, activity: Activity) -> RankState {
        RankState { beat, activity, stage: "train".into(), ..unheard(identity.clone()) }
    }

    fn ended() -> RankEnding {
        RankEnding { status: 0, signal: None, message: String::new() }
    }

    #[test]
    fn a_rank_that_stands_still_is_named_once_the_work_needs_it() {
        let folder = tempfile::tempdir().unwrap();
        let ranks = [identity(0), identity(1)];
        let (monitor, launch, _pulse) = monitor(folder.path(), 0, &ranks);
        let start = Instant::now();
        // It lives, and its main thread does not get on.
        let mut beat = 0;
        until(|| {
            beat += 1;
            tell(&launch.state(1), &state(&ranks[1], beat, Activity::Working)).unwrap();
            (!monitor.shared.lock().lost.is_empty()).then_some(())
        });
        assert!(start.elapsed() >= TIMEOUT);
        assert_eq!(monitor.trouble(), None, "sampling goes on without it");
        monitor.need_all(true);
        let trouble = monitor.trouble().unwrap();
        assert!(trouble.message.contains(&ranks[1].name()), "{}", trouble.message);
        assert!(trouble.message.contains("has not moved for") && trouble.message.contains("`train`"));
        assert_eq!(trouble.error().exit_status(), 1);
        monitor.close(ended());
        assert_eq!(hear::<RankState>(&launch.state(0)).unwrap().ending, Some(ended()));
    }

    #[test]
    fn a_failure_elsewhere_ends_the_launch_and_a_signal_is_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        let ranks = [identity(0), identity(1)];
        let (first, launch, _pulse) = monitor(folder.path(), 0, &ranks);
        let mut told = state(&ranks[1], 1, Activity::Working);
        told.signal = Some("SIGTERM".into());
        tell(&launch.state(1), &told).unwrap();
        let signal = until(|| first.shared.setup.stop.requested());
        assert_eq!(signal.name(), "SIGTERM");
        told.signal = None;
        told.ending = Some(RankEnding { status: 2, signal: None, message: "a wrong file".into() });
        tell(&launch.state(1), &told).unwrap();
        let trouble = until(|| first.trouble());
        assert!(trouble.message.contains("failed: a wrong file"), "{}", trouble.message);
        assert_eq!(trouble.error().exit_status(), 2);
        first.close(ended());

        // The other way round: what rank 0 ends with is on its screen.
        let (second, launch, _pulse) = monitor(folder.path(), 1, &ranks);
        let mut told = state(&ranks[0], 1, Activity::Working);
        told.ending = Some(RankEnding { status: 1, signal: None, message: "a full disk".into() });
        tell(&launch.state(0), &told).unwrap();
        let trouble = until(|| second.trouble());
        assert!(trouble.is_told);
        assert!(matches!(trouble.error(), EngineError::EndedElsewhere { status: 1 }));
        second.close(ended());
    }

    #[test]
    fn ranks_that_all_wait_for_each_other_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let ranks = [identity(0), identity(1)];
        let (monitor, launch, pulse) = monitor(folder.path(), 0, &ranks);
        pulse.wait();
        let mut beat = 0;
        let trouble = until(|| {
            beat += 1;
            tell(&launch.state(1), &state(&ranks[1], beat, Activity::Waiting)).unwrap();
            monitor.trouble()
        });
        assert!(trouble.message.contains("waited for each other"), "{}", trouble.message);
        monitor.close(ended());
    }
}
