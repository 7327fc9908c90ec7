//! The thread of a rank that tells the others that it is alive, and looks whether they are: rank 0 at all, every other at rank 0.
//!
//! The main thread asks it between two pieces of work. Where it cannot ask, as it stands in a call that a lost rank will never answer,
//! or one that has left after a signal, the monitor ends the process: no rank outlives its launch.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::own_time::OwnTime;
use super::pulse::Pulse;
use super::rank_state::{Activity, RankEnding, RankIdentity, RankState, hear, tell};
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
    /// Since when a rank is away that a signal has stopped.
    stopped_without: Option<Instant>,
    /// Whether the work cannot go on without any of them.
    needs_all: bool,
    /// How this rank ends.
    ending: Option<RankEnding>,
    ending_is_told: bool,
}

impl Findings {
    fn put(&mut self, trouble: RankTrouble) {
        self.trouble.get_or_insert_with(|| (trouble, Instant::now()));
    }

    /// Lost ranks end the work that needs all of them.
    fn weigh_losses(&mut self) {
        if self.needs_all && !self.lost.is_empty() {
            let message = self.lost.values().cloned().collect::<Vec<_>>().join("; ");
            self.put(RankTrouble { message, status: 1, is_told: false });
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
        found.weigh_losses();
    }

    /// Ranks that do not get on.
    pub(super) fn lost(&self) -> Vec<usize> {
        self.shared.lock().lost.keys().copied().collect()
    }

    /// Whether the thread has not ended yet.
    pub(super) fn is_open(&self) -> bool {
        self.shared.lock().ending.is_none()
    }

    /// Tells how this rank ends, and ends the thread. Returns whether it could be told.
    pub(super) fn close(&self, ending: RankEnding) -> bool {
        self.shared.lock().ending.get_or_insert(ending);
        self.shared.woken.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic of it has been reported by the hook.
            let _ = thread.join();
        }
        self.shared.lock().ending_is_told
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
        let mut own_time = OwnTime::new(look, now);
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
                let is_written = self.tell(beat, ending.clone());
                self.lock().ending_is_told = is_written && ending.is_some();
                told = Some((now, signal));
            }
            if ending.is_some() {
                return;
            }
            self.look(&mut watch, own_time.at(now));
            self.leave_if_stuck();
            let found = self.lock();
            if found.ending.is_none() {
                // Woken by an ending, or the time is over: either way round again.
                let _ = self.woken.wait_timeout(found, look);
            }
        }
    }

    /// Writes this rank's state; returns whether that succeeded. A file that cannot be written now may be written at the next beat; if
    /// none can, the others see it.
    fn tell(&self, beat: u64, ending: Option<RankEnding>) -> bool {
        let state = self.state(beat, ending);
        let written = tell(&self.setup.launch.state(self.setup.identity.rank), &state);
        if let Err(error) = &written {
            tracing::debug!("signs of life: {error}");
        }
        written.is_ok()
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

    /// Looks at the others, at a time of [`OwnTime`].
    fn look(&self, watch: &mut Watch, now: Instant) {
        let own = self.setup.identity.rank;
        let is_watched = |one: &&RankIdentity| (one.rank == 0) != (own == 0);
        let watched = self.setup.ranks.iter().filter(is_watched);
        // Read before anything is locked, which the main thread would wait for.
        let told: Vec<(&RankIdentity, Option<RankState>)> =
            watched.map(|one| (one, hear(&self.setup.launch.state(one.rank)))).collect();
        let mut found = self.lock();
        for (identity, state) in told {
            if let Some(state) = state.filter(|state| state.identity == *identity) {
                self.heed(&state, &mut found);
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
                found.put(RankTrouble { message: what, status: 1, is_told: false });
            }
        }
        found.weigh_losses();
        if own == 0 {
            watch.look(self.state(0, None), now);
            let waited = watch.all_wait(self.setup.ranks.len(), now);
            if let Some(seconds) = waited.filter(|&waited| waited > self.setup.timeout.saturating_mul(2)) {
                let message =
                    format!("all ranks have waited for each other for {:.0} s", seconds.as_secs_f64());
                found.put(RankTrouble { message, status: 1, is_told: false });
            }
        }
    }

    /// A signal that another rank was sent, or how it has ended.
    fn heed(&self, state: &RankState, found: &mut Findings) {
        let of_ending = state.ending.as_ref().and_then(|ending| ending.signal.as_deref());
        let signal = state.signal.as_deref().or(of_ending);
        if let Some(signal) = signal.and_then(StopSignal::by_name) {
            self.setup.stop.raise(signal);
            if state.ending.is_some() {
                found.stopped_without.get_or_insert_with(Instant::now);
            }
            return;
        }
        if let Some(ending) = state.ending.as_ref().filter(|ending| ending.status != 0) {
            let message = format!("{} failed: {}", state.identity.name(), ending.message);
            // Rank 0 has the screen: what it ends with is there.
            let is_told = state.identity.rank == 0;
            found.put(RankTrouble { message, status: ending.status, is_told });
        }
    }

    /// What the process is to end with, where its main thread has not ended it in time.
    fn overdue(&self) -> Option<Overdue> {
        let found = self.lock();
        let advice = &self.setup.advice;
        if let Some((trouble, since)) = &found.trouble
            && since.elapsed() > GRACE
        {
            let RankTrouble { message, status, is_told } = trouble.clone();
            let ending = RankEnding { status, signal: None, message: message.clone() };
            return Some(Overdue { ending, said: (!is_told).then(|| format!("{message}\n  {advice}")) });
        }
        // Whoever computes comes to see the signal; whoever waits for a rank that is away never does.
        let waits = self.pulse.read().1.activity == Activity::Waiting;
        let is_late = found.stopped_without.is_some_and(|since| since.elapsed() > GRACE);
        let signal = self.setup.stop.requested().filter(|_| waits && is_late)?;
        let message = EngineError::Stopped { signal, kept: advice.clone() }.to_string();
        let name = Some(signal.name().to_owned());
        let ending = RankEnding { status: signal.exit_status(), signal: name, message: message.clone() };
        Some(Overdue { ending, said: (self.setup.identity.rank == 0).then_some(message) })
    }

    /// Ends the process where its main thread has not done so in time.
    fn leave_if_stuck(&self) {
        let Some(Overdue { ending, said }) = self.overdue() else { return };
        let status = i32::from(ending.status);
        self.tell(u64::MAX, Some(ending));
        if let Some(said) = said {
            terminal::error_line(&said);
        }
        // Not `exit`, whose handlers may wait for the main thread.
        // SAFETY: ends the process; files are whole or absent at every moment.
        unsafe { libc::_exit(status) }
    }
}

/// How the monitor ends the process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Overdue {
    ending: RankEnding,
    /// What is printed; nothing where rank 0 has the word.
    said: Option<String>,
}

/// A rank of which nothing but its coming is known.
fn unheard(identity: RankIdentity) -> RankState {
    RankState {
        identity,
        beat: 0,
        moved: 0,
        stage: "the start".to_owned(),
        activity: Activity::Quiet,
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
mod tests;
