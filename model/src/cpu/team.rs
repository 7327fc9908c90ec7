//! A team of threads for short loops.
//!
//! A decoding step is hundreds of loops of some hundred microseconds with a few microseconds of serial work between
//! them. A general pool puts its threads to sleep in these gaps, and waking one takes as long as a small loop. Here the
//! helpers look for the next loop for [`PATIENCE`] before they sleep, and the calling thread works along; a loop that
//! ends before a helper has come does not wait for it.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long a helper looks for work before it sleeps. Longer than what lies between two loops of a step, short
/// against the time that another process could use.
const PATIENCE: Duration = Duration::from_micros(200);

/// In [`Team::state`]: the loop takes helpers. Below it: helpers inside; above it: the loop's number.
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
const ROUND: u64 = 1 << 32;

/// A loop's body with its lifetime left out: it is only called between opening and the end of closing.
type Body = *const (dyn Fn(usize) + Sync);

/// Threads that run loops together with the calling thread.
struct Team {
    state: AtomicU64,
    /// A caller has the team.
    taken: AtomicBool,
    body: UnsafeCell<Option<Body>>,
    tasks: AtomicUsize,
    next: AtomicUsize,
    /// Helpers that sleep, or are about to.
    sleeping: AtomicUsize,
    helpers: OnceLock<Vec<Thread>>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `body` is written by the caller that has taken the team while the loop is closed and nobody is inside, and read
// by helpers that entered an open loop; entering and opening are one atomic word.
unsafe impl Sync for Team {}
// SAFETY: as above; the body itself is `Sync`.
unsafe impl Send for Team {}

thread_local! {
    /// This thread is inside a loop of the team.
    static WORKING: Cell<bool> = const { Cell::new(false) };
}

/// What became of a loop that was offered to the team.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Offer {
    /// All its tasks ran.
    Done,
    /// Another thread's loop has the team.
    Taken,
    /// The caller is inside a loop of the team already.
    Nested,
}

/// Runs `body` for every index of `0..tasks` on the team's threads and the caller's.
///
/// # Panics
/// As `body` does, after all threads have left the loop.
pub(super) fn offer(tasks: usize, body: &(dyn Fn(usize) + Sync)) -> Offer {
    static TEAM: OnceLock<&'static Team> = OnceLock::new();
    TEAM.get_or_init(|| Team::start(rayon::current_num_threads().saturating_sub(1))).offer(tasks, body)
}

impl Team {
    /// A team of `helpers` threads, which live as long as the process.
    fn start(helpers: usize) -> &'static Self {
        let team: &'static Self = Box::leak(Box::new(Self {
            state: AtomicU64::new(0),
            taken: AtomicBool::new(false),
            body: UnsafeCell::new(None),
            tasks: AtomicUsize::new(0),
            next: AtomicUsize::new(0),
            sleeping: AtomicUsize::new(0),
            helpers: OnceLock::new(),
            panic: Mutex::new(None),
        }));
        let threads = (0..helpers).filter_map(|n| {
            // A thread that the system refuses is missing, no more.
            thread::Builder::new().name(format!("team-{n}")).spawn(|| team.help()).ok()
        });
        // Only the first call sets it, and this is the first.
        let _ = team.helpers.set(threads.map(|handle| handle.thread().clone()).collect());
        team
    }

    fn offer(&self, tasks: usize, body: &(dyn Fn(usize) + Sync)) -> Offer {
        if WORKING.get() {
            return Offer::Nested;
        }
        if self.taken.swap(true, Ordering::Acquire) {
            return Offer::Taken;
        }
        // SAFETY: the team is taken, closed, and nobody is inside: no other thread looks at the body. Its lifetime is
        // left out until `close` has seen the last helper leave.
        unsafe {
            *self.body.get() = Some(std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Body>(body));
        }
        self.tasks.store(tasks, Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
        // Rounds start over after 2³² loops.
        let round = (self.state.load(Ordering::Relaxed) & !INSIDE & !OPEN).wrapping_add(ROUND);
        self.state.store(round | OPEN, Ordering::SeqCst);
        // Either a helper that lies down sees the open loop, or it is seen here.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            self.helpers.get().into_iter().flatten().for_each(Thread::unpark);
        }
        let own = catch_unwind(AssertUnwindSafe(|| self.work(body)));
        self.close();
        let others = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.taken.store(false, Ordering::Release);
        if let Some(payload) = own.err().or(others) {
            resume_unwind(payload);
        }
        Offer::Done
    }

    /// Takes tasks until there are none.
    fn work(&self, body: &(dyn Fn(usize) + Sync)) {
        WORKING.set(true);
        let _guard = Leave;
        let tasks = self.tasks.load(Ordering::Relaxed);
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            body(task);
        }
    }

    /// Lets no more helpers in and waits for those inside.
    fn close(&self) {
        self.next.fetch_max(usize::MAX / 2, Ordering::Relaxed);
        self.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut looks = 0u32;
        while self.state.load(Ordering::Acquire) & INSIDE > 0 {
            looks = looks.wrapping_add(1);
            // A helper that the system has stopped inside may need this very core.
            if looks.is_multiple_of(64) { thread::yield_now() } else { spin_loop() }
        }
    }

    /// A helper's life.
    fn help(&self) {
        /// No loop's number.
        const NONE: u64 = u64::MAX;
        let mut seen = NONE;
        loop {
            let state = self.await_round(seen);
            seen = state / ROUND;
            if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                // Closed meanwhile, or another helper was faster: look again at the same loop.
                seen = NONE;
                continue;
            }
            // SAFETY: inside an open loop, which the caller does not leave before this helper has left.
            let result = unsafe {
                (*self.body.get()).map(|body| catch_unwind(AssertUnwindSafe(|| self.work(&*body))))
            };
            if let Some(Err(payload)) = result {
                self.next.fetch_max(usize::MAX / 2, Ordering::Relaxed);
                let mut first = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                match *first {
                    None => *first = Some(payload),
                    // A payload whose drop panics would end this thread inside the loop.
                    Some(_) => std::mem::forget(payload),
                }
            }
            self.state.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// The state of an open loop that is not round `seen`.
    fn await_round(&self, seen: u64) -> u64 {
        let is_new = |state: u64| state & OPEN > 0 && state / ROUND != seen;
        loop {
            let started = Instant::now();
            while started.elapsed() < PATIENCE {
                for _ in 0..32 {
                    let state = self.state.load(Ordering::Acquire);
                    if is_new(state) {
                        return state;
                    }
                    spin_loop();
                }
                // Whoever else wants this core goes first.
                thread::yield_now();
            }
            self.sleeping.fetch_add(1, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            let state = self.state.load(Ordering::SeqCst);
            if !is_new(state) {
                thread::park();
            }
            self.sleeping.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Marks the thread as outside again, also when a task panics.
struct Leave;

impl Drop for Leave {
    fn drop(&mut self) {
        WORKING.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once_whatever_the_helpers_do() {
        let team = Team::start(3);
        for round in 0..20_000usize {
            let tasks = round % 17;
            let hits: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            let body = |task: usize| {
                hits[task].fetch_add(1, Ordering::Relaxed);
            };
            assert_eq!(team.offer(tasks, &body), Offer::Done);
            assert!(hits.iter().all(|hit| hit.load(Ordering::Relaxed) == 1), "round {round}");
        }
    }

    #[test]
    fn helpers_that_sleep_are_woken() {
        let team = Team::start(1);
        for _ in 0..5 {
            thread::sleep(PATIENCE * 20);
            // Two tasks that wait for each other: the caller alone would never end.
            let met = std::sync::Barrier::new(2);
            let meet = |_| {
                met.wait();
            };
            assert_eq!(team.offer(2, &meet), Offer::Done);
        }
    }

    #[test]
    fn a_loop_inside_a_loop_and_a_second_caller_are_told_so() {
        let team = Team::start(1);
        let nested = Mutex::new(Vec::new());
        team.offer(1, &|_| nested.lock().unwrap().push(team.offer(1, &|_| ())));
        assert_eq!(*nested.lock().unwrap(), [Offer::Nested]);
        let (first, second) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
        thread::scope(|scope| {
            scope.spawn(|| {
                team.offer(1, &|_| {
                    first.wait();
                    second.wait();
                })
            });
            first.wait();
            assert_eq!(team.offer(1, &|_| ()), Offer::Taken);
            second.wait();
        });
        assert_eq!(team.offer(1, &|_| ()), Offer::Done);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let team = Team::start(2);
        for bad in 0..8 {
            let run = || team.offer(8, &|task| assert_ne!(task, bad, "task of a test"));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err(), "task {bad}");
            assert_eq!(team.offer(8, &|_| ()), Offer::Done);
        }
    }
}
