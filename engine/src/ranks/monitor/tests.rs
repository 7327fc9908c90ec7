use super::super::rank::Rank;
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

#[test]
fn whoever_waits_for_a_rank_that_a_signal_has_stopped_is_ended_with_the_signal_s_status() {
    let folder = tempfile::tempdir().unwrap();
    let ranks = [identity(0), identity(1)];
    let (monitor, launch, pulse) = monitor(folder.path(), 0, &ranks);
    let shared = Arc::clone(&monitor.shared);
    shared.setup.stop.serve_launcher();
    pulse.enter("train");
    pulse.moved();
    let mut told = state(&ranks[1], 1, Activity::Working);
    let signal = Some("SIGTERM".to_owned());
    told.ending = Some(RankEnding { status: 75, signal, message: String::new() });
    tell(&launch.state(1), &told).unwrap();
    until(|| shared.lock().stopped_without);
    assert_eq!(monitor.trouble(), None, "it is no failure");
    // The thread itself must not end the process of this test.
    monitor.close(ended());
    assert_eq!(shared.overdue(), None, "it has a while to leave by itself");
    shared.lock().stopped_without = Instant::now().checked_sub(2 * GRACE);
    assert_eq!(shared.overdue(), None, "whoever computes sees the signal by itself");
    pulse.wait();
    let Overdue { ending, said } = shared.overdue().unwrap();
    assert_eq!((ending.status, ending.signal.as_deref()), (75, Some("SIGTERM")));
    assert!(said.unwrap().starts_with("stopped by SIGTERM"));
}
