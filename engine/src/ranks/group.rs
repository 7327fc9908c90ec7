//! All that the loop needs of the ranks, in one value; of a process by itself it does nothing and costs nothing. How ranks come to a
//! piece of work is in `group/coming.rs`, how they come to the same kernels in `group/kernels.rs`.

mod coming;
mod kernels;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use candle_core::Device;
use selfplay_trainer::collective::Collective;

use super::claimants::Claimants;
use super::claims::{Claims, ShardTask, Taken};
use super::collective::CollectiveBackend;
use super::meeting::{Appointment, Met};
use super::monitor::{Monitor, MonitorSetup};
use super::parting::{PARTING, Parting};
use super::patience::Patience;
use super::pulse::Pulse;
use super::rank::Rank;
use super::rank_state::{RankEnding, RankIdentity, tell};
use super::shared_work::{NumberedWork, SharedWork};
use super::watched_collective::WatchedCollective;
use crate::error::{EngineError, Result};
use crate::process::file_lock::FileLock;
use crate::recipe::{RanksSection, TrainOn};
use crate::run::dir::RunDir;
use crate::run::ranks_place::{LaunchPlace, RanksPlace};
use crate::signals::{StopFlag, StopSignal};

/// This process and the ranks that it works with.
pub(crate) struct Ranks {
    rank: Rank,
    together: Option<Together>,
}

/// What a launch of several ranks has.
struct Together {
    settings: RanksSection,
    run: RunDir,
    /// Whether this process made the run's folder.
    made_run: bool,
    place: RanksPlace,
    launch: LaunchPlace,
    ranks: Vec<RankIdentity>,
    pulse: Arc<Pulse>,
    monitor: Monitor,
    stop: StopFlag,
    collective: Mutex<Option<Arc<dyn Collective>>>,
    /// Number of the newest shared work that this rank has told or taken up.
    work: Mutex<u64>,
    claimants: Mutex<Claimants>,
    /// Whether rank 0 has seen that all others are ready.
    all_are_ready: AtomicBool,
    /// Rank 0's, of the meeting place.
    lock: Mutex<Option<FileLock>>,
}

impl Ranks {
    /// A process by itself.
    pub(crate) fn alone() -> Arc<Self> {
        Arc::new(Self { rank: Rank::ALONE, together: None })
    }

    /// Meets the other ranks in the run's folder; the process's own rank says whether there are any. The collective is there before
    /// any work, so that what it lacks shows at once.
    ///
    /// # Errors
    /// A binary without the collective, a folder that not all ranks see or in which another launch works; a signal.
    pub(crate) fn meet(settings: &RanksSection, run: &RunDir, device: &Device) -> Result<Arc<Self>> {
        let rank = Rank::of_process().clone();
        if !rank.several() {
            return Ok(Self::alone());
        }
        let backend = match settings.train_on {
            TrainOn::All => Some(CollectiveBackend::find(&rank, device)?),
            TrainOn::First => None,
        };
        let stop = StopFlag::of_process()
            .map_err(|source| EngineError::failure(format!("signal handlers: {source}")))?;
        stop.serve_launcher();
        let made_run = rank.is_first() && !run.root().exists();
        let place = RanksPlace::of(run.root());
        place.refuse_foreign()?;
        let timeout = settings.timeout();
        let appointment = Appointment { rank: &rank, run: run.root(), place: &place, timeout, stop: &stop };
        let met = appointment.keep();
        if met.is_err() {
            remove_empty(run, made_run);
        }
        let Met { identity, ranks, launch, lock } = met?;
        let pulse = Arc::new(Pulse::new());
        let setup = MonitorSetup {
            identity,
            ranks: ranks.clone(),
            launch: launch.clone(),
            timeout,
            interval: settings.interval(),
            stop: stop.clone(),
            advice: kept(run),
        };
        let monitor = match Monitor::start(setup, Arc::clone(&pulse)) {
            Ok(monitor) => monitor,
            Err(error) => {
                leave_no_trace(&place, lock, run, made_run);
                return Err(error);
            }
        };
        let together = Together {
            settings: settings.clone(),
            run: run.clone(),
            made_run,
            place,
            launch,
            ranks,
            pulse,
            monitor,
            stop,
            collective: Mutex::new(None),
            work: Mutex::new(0),
            claimants: Mutex::default(),
            all_are_ready: AtomicBool::new(false),
            lock: Mutex::new(lock),
        };
        let group = Arc::new(Self { rank, together: Some(together) });
        let started = backend.map_or(Ok(()), |backend| group.join(backend, device));
        if started.is_err() {
            group.end(&started);
        }
        started.map(|()| group)
    }

    fn join(&self, backend: CollectiveBackend, device: &Device) -> Result<()> {
        let Some(together) = &self.together else { return Ok(()) };
        together.pulse.enter("the start of the collective");
        // It waits for all of them.
        together.monitor.need_all(true);
        let started = backend.start(&self.rank, &together.launch, device, together.settings.timeout())?;
        together.monitor.need_all(false);
        let watched = WatchedCollective::new(started, Arc::clone(&together.pulse));
        *together.collective.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(watched));
        Ok(())
    }

    /// Whether there are others.
    pub(crate) fn several(&self) -> bool {
        self.together.is_some()
    }

    /// Whether this process owns the folder and the screen.
    pub(crate) fn is_first(&self) -> bool {
        self.rank.is_first()
    }

    /// Its number, from 0.
    pub(crate) fn rank(&self) -> usize {
        self.rank.rank
    }

    /// How many there are.
    pub(crate) fn world(&self) -> usize {
        self.rank.world
    }

    /// Whether all ranks train, and not rank 0 alone.
    pub(crate) fn train_together(&self) -> bool {
        self.together.as_ref().is_some_and(|together| together.settings.train_on == TrainOn::All)
    }

    /// The collective that trains; `None` where one rank does.
    pub(crate) fn collective(&self) -> Option<Arc<dyn Collective>> {
        self.together.as_ref()?.collective.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins a stage, for what is said of a rank that stands still.
    pub(crate) fn enter(&self, stage: &str) {
        if let Some(together) = &self.together {
            together.pulse.enter(stage);
        }
    }

    /// The main thread has got on.
    pub(crate) fn moved(&self) {
        if let Some(together) = &self.together {
            together.pulse.moved();
        }
    }

    /// An error where another rank has failed, or one is lost that the work needs.
    ///
    /// # Errors
    /// That one.
    pub(crate) fn check(&self) -> Result<()> {
        match self.together.as_ref().and_then(|together| together.monitor.trouble()) {
            Some(trouble) => Err(trouble.error()),
            None => Ok(()),
        }
    }

    /// Rank 0 has all ranks work on something.
    ///
    /// # Errors
    /// A lost rank that this work needs; a file that cannot be written.
    pub(crate) fn announce(&self, work: SharedWork) -> Result<()> {
        let Some(together) = self.together.as_ref().filter(|_| self.is_first()) else { return Ok(()) };
        if !matches!(work, SharedWork::Begun | SharedWork::Finished) {
            self.await_ready(together)?;
        }
        together.monitor.need_all(matches!(work, SharedWork::Training { .. }));
        self.check()?;
        let mut number = together.work.lock().unwrap_or_else(PoisonError::into_inner);
        *number += 1;
        tell(&together.launch.work(), &NumberedWork { number: *number, work })
    }

    /// Before the first work that is shared: waits until all other ranks are ready or lost, so that one with another recipe ends the launch
    /// before anything is made.
    fn await_ready(&self, together: &Together) -> Result<()> {
        if together.all_are_ready.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let mut patience = Patience::default();
        let is_ready =
            |rank: usize| together.launch.ready(rank).exists() || together.monitor.lost().contains(&rank);
        while !(1..self.rank.world).all(is_ready) {
            self.pause(&mut patience)?;
        }
        together.pulse.moved();
        Ok(())
    }

    /// Work that needs all ranks is done.
    pub(crate) fn spare(&self) {
        if let Some(together) = &self.together {
            together.monitor.need_all(false);
        }
    }

    /// Waits a moment for other ranks.
    ///
    /// # Errors
    /// Another rank's failure; a signal.
    pub(crate) fn pause(&self, patience: &mut Patience) -> Result<()> {
        let Some(together) = &self.together else { return Ok(()) };
        self.check()?;
        if let Some(signal) = together.stop.requested() {
            return Err(EngineError::Stopped { signal, kept: kept(&together.run) });
        }
        // It waits until it enters a stage or gets on.
        together.pulse.wait();
        std::thread::sleep(patience.step());
        Ok(())
    }

    /// Waits a moment for a signal or a failure that has ended the work of all ranks and that this one has not heard of yet.
    pub(crate) fn settle(&self) {
        let Some(together) = &self.together else { return };
        let start = Instant::now();
        while start.elapsed() < PARTING && together.stop.requested().is_none() && self.check().is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The claims of a list of shards, which has a name of its own in the launch; `None` of a process by itself.
    pub(crate) fn claims(&self, of: &str) -> Option<Claims> {
        let launch = &self.together.as_ref()?.launch;
        Some(Claims::new(launch.claims(of), self.rank.rank))
    }

    /// Where ranks leave for each other what nobody needs after the launch; `None` of a process by itself.
    pub(crate) fn shared_folder(&self, of: &str) -> Option<PathBuf> {
        Some(self.together.as_ref()?.launch.shared(of))
    }

    /// Takes a shard, also that of a rank that is lost.
    ///
    /// # Errors
    /// When claims cannot be read or made.
    pub(crate) fn take(
        &self,
        claims: &Claims,
        task: ShardTask,
        left: impl IntoIterator<Item = usize>,
    ) -> Result<Taken> {
        let Some(together) = &self.together else { return Ok(Taken::Nothing) };
        let mut claimants = together.claimants.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = together.settings.stale_after();
        claims.take(task, left, &mut |shard, rank| {
            claimants.is_lost(shard, rank, &together.launch, &together.ranks, patience)
        })
    }

    /// Where another rank than 0 notes what it has done; `None` of rank 0.
    pub(crate) fn own_events(&self) -> Option<PathBuf> {
        let together = self.together.as_ref().filter(|_| !self.is_first())?;
        Some(together.launch.events(self.rank.rank))
    }

    /// The files in which the other ranks note what they have done, by rank.
    pub(crate) fn others_events(&self) -> Vec<(usize, PathBuf)> {
        let Some(together) = self.together.as_ref().filter(|_| self.is_first()) else { return Vec::new() };
        (1..self.rank.world).map(|rank| (rank, together.launch.events(rank))).collect()
    }

    /// How this rank ends, given how its own work has. One that a signal has stopped when nothing was left to do ends as rank 0 does, with
    /// the run finished: rank 0 may have come to the end before it heard of the signal.
    pub(crate) fn settled(&self, outcome: Result<()>) -> Result<()> {
        let Some(together) = self.together.as_ref().filter(|_| !self.is_first()) else { return outcome };
        match outcome {
            Err(error) if error.signal().is_some() => {
                together.pulse.enter("the end");
                together.pulse.wait();
                match together.parting(self.rank.rank).is_finished(PARTING) {
                    true => Ok(()),
                    false => Err(error),
                }
            }
            outcome => outcome,
        }
    }

    /// Tells the others how this rank ends. Rank 0 waits for them and takes the meeting place away. Returns the signal by which another
    /// rank had left when this one came to its end, so that the collective could not be ended in order: a launcher takes that for a
    /// failure whatever the status.
    pub(crate) fn end<T>(&self, outcome: &Result<T>) -> Option<StopSignal> {
        let together = self.together.as_ref()?;
        let ending = match outcome {
            Ok(_) => RankEnding { status: 0, signal: None, message: String::new() },
            Err(error) => RankEnding {
                status: error.exit_status(),
                signal: error.signal().map(|signal| signal.name().to_owned()),
                message: error.to_string(),
            },
        };
        if outcome.is_ok() && self.is_first() {
            // Where it cannot be told the others see that this rank has ended.
            let _ = self.announce(SharedWork::Finished);
        }
        let collective = together.collective.lock().unwrap_or_else(PoisonError::into_inner).take();
        let parting = together.parting(self.rank.rank);
        let mut left_by = None;
        if let Some(collective) = collective {
            together.pulse.enter("the end");
            if outcome.is_ok() && parting.all_come() {
                // It waits for all of them.
                together.monitor.need_all(true);
                drop(collective);
                together.monitor.need_all(false);
            } else {
                // To end it is to wait for all ranks, of which some may not come.
                std::mem::forget(collective);
                left_by = parting.stopped_by().filter(|_| outcome.is_ok());
            }
        }
        let is_stopped = ending.signal.is_some();
        // Of another rank than 0 a trouble that nobody has told is the loss of rank 0.
        let first_is_lost = together.monitor.trouble().is_some_and(|trouble| !trouble.is_told);
        let is_told = together.monitor.close(ending);
        if self.is_first() {
            parting.await_others();
            let lock = together.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
            leave_no_trace(&together.place, lock, &together.run, together.made_run);
        } else if outcome.is_err() && is_told && !first_is_lost {
            // What a signal stops may have a large checkpoint to write first.
            parting.await_first(if is_stopped { together.settings.timeout() } else { PARTING });
        }
        left_by
    }
}

impl Drop for Ranks {
    /// A rank that never came to its end: a defect, which others must hear of too.
    fn drop(&mut self) {
        if self.together.as_ref().is_some_and(|together| together.monitor.is_open()) {
            self.end::<()>(&Err(EngineError::failure("it ended by a defect")));
        }
    }
}

impl Together {
    /// This rank, about to leave.
    fn parting(&self, rank: usize) -> Parting<'_> {
        Parting { rank, ranks: &self.ranks, launch: &self.launch, monitor: &self.monitor }
    }
}

/// Says after a failure or a stop what was kept.
fn kept(run: &RunDir) -> String {
    format!("everything finished is kept, go on with: selfplay resume {}", run.root().display())
}

/// Takes the meeting place away, which whoever has its lock does, and a run's folder that was made for nothing else.
fn leave_no_trace(place: &RanksPlace, lock: Option<FileLock>, run: &RunDir, made_run: bool) {
    if let Some(lock) = lock {
        place.remove(lock);
    }
    remove_empty(run, made_run);
}

/// Removes a run's folder that this process made and that nothing is in.
fn remove_empty(run: &RunDir, made_run: bool) {
    if made_run {
        // Fails where anything is in it.
        let _ = std::fs::remove_dir(run.root());
    }
}

/// Removes what a killed launch left in a run's folder that one process works in now.
///
/// # Errors
/// [`EngineError::InUse`] where a launch is at work.
pub(crate) fn remove_leftovers(run: &Path) -> Result<()> {
    RanksPlace::of(run).remove_leftovers(run)
}
