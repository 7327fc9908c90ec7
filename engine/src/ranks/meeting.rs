//! How the ranks of a launch find each other in the run's folder, which all of them must see.
//!
//! Rank 0 makes `RUN/ranks/`, locks and clears it. Every other rank says hello there, again where its file is gone. Once all have come,
//! rank 0 leaves the token, `launch.json`, which names each process: a rank that finds itself in it has met the others, and what a
//! killed launch left behind is never taken for them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::patience::Patience;
use super::rank::Rank;
use super::rank_state::{RankIdentity, hear, tell};
use crate::error::EngineError;
use crate::process::file_lock::FileLock;
use crate::run::ranks_place::{LaunchPlace, RanksPlace};
use crate::signals::StopFlag;

/// `launch.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LaunchToken {
    /// By rank.
    ranks: Vec<RankIdentity>,
}

/// A launch whose ranks have met.
#[derive(Debug)]
pub(super) struct Met {
    pub(super) identity: RankIdentity,
    /// By rank.
    pub(super) ranks: Vec<RankIdentity>,
    pub(super) launch: LaunchPlace,
    /// Rank 0's, held while the launch works.
    pub(super) lock: Option<FileLock>,
}

/// Where and for how long.
pub(super) struct Appointment<'a> {
    pub(super) rank: &'a Rank,
    /// The run's folder.
    pub(super) run: &'a Path,
    pub(super) place: &'a RanksPlace,
    pub(super) timeout: Duration,
    pub(super) stop: &'a StopFlag,
}

impl Appointment<'_> {
    /// Meets the others.
    ///
    /// # Errors
    /// Ranks that do not come in time, run another version or count otherwise; a folder in which another launch works; a signal.
    pub(super) fn keep(&self) -> Result<Met, EngineError> {
        match self.rank.is_first() {
            true => self.receive(),
            false => self.come(),
        }
    }

    /// Rank 0. Where the others do not come it takes the place away again, as long as it has the lock.
    fn receive(&self) -> Result<Met, EngineError> {
        let Some(lock) = self.place.occupy()? else {
            return Err(EngineError::InUse { directory: self.run.to_path_buf() });
        };
        match self.gather() {
            Ok(met) => Ok(Met { lock: Some(lock), ..met }),
            Err(error) => {
                self.place.remove(lock);
                Err(error)
            }
        }
    }

    /// Rank 0's wait for the others, in the place that it has locked.
    fn gather(&self) -> Result<Met, EngineError> {
        let identity = RankIdentity::of(self.rank);
        self.place.clear()?;
        let mut ranks: Vec<Option<RankIdentity>> = vec![None; self.rank.world];
        ranks[0] = Some(identity.clone());
        self.until(|| {
            for (number, found) in ranks.iter_mut().enumerate() {
                let hello: Option<RankIdentity> = hear(&self.place.hello(number));
                if found.is_none()
                    && let Some(other) = hello.filter(|other| !other.is_gone())
                {
                    self.check(&identity, &other)?;
                    *found = Some(other);
                }
            }
            Ok(ranks.iter().all(Option::is_some))
        })?
        .map_err(|seconds| self.nobody_came(&identity, &ranks, seconds))?;
        let ranks: Vec<RankIdentity> = ranks.into_iter().flatten().collect();
        let launch = self.place.launch(&identity.nonce);
        launch.create()?;
        tell(&self.place.token(), &LaunchToken { ranks: ranks.clone() })?;
        Ok(Met { identity, ranks, launch, lock: None })
    }

    /// Every other rank.
    fn come(&self) -> Result<Met, EngineError> {
        let identity = RankIdentity::of(self.rank);
        let hello = self.place.hello(self.rank.rank);
        let mut met = None;
        self.until(|| {
            let token = hear::<LaunchToken>(&self.place.token());
            met = token.filter(|token| token.ranks.get(identity.rank) == Some(&identity));
            if met.is_none()
                && self.place.is_there()
                && hear::<RankIdentity>(&hello).as_ref() != Some(&identity)
            {
                // Rank 0 may be clearing the folder.
                let _ = tell(&hello, &identity);
            }
            Ok(met.is_some())
        })?
        .map_err(|seconds| self.nobody_there(&identity, seconds))?;
        let ranks = met.map(|token| token.ranks).unwrap_or_default();
        let name = ranks.first().map(|first| first.nonce.clone()).unwrap_or_default();
        let _ = std::fs::remove_file(&hello);
        Ok(Met { identity, ranks, launch: self.place.launch(&name), lock: None })
    }

    /// Looks again and again; the inner error is the time after which nobody was there.
    fn until(
        &self,
        mut is_there: impl FnMut() -> Result<bool, EngineError>,
    ) -> Result<Result<(), Duration>, EngineError> {
        let (start, mut patience) = (Instant::now(), Patience::default());
        while !is_there()? {
            if let Some(signal) = self.stop.requested() {
                let kept = "nothing was begun; the same command begins again".to_owned();
                return Err(EngineError::Stopped { signal, kept });
            }
            if start.elapsed() > self.timeout {
                return Ok(Err(start.elapsed()));
            }
            std::thread::sleep(patience.step());
        }
        Ok(Ok(()))
    }

    fn check(&self, own: &RankIdentity, other: &RankIdentity) -> Result<(), EngineError> {
        if other.world != own.world {
            return Err(EngineError::input(format!(
                "{} counts {} ranks and rank 0 ({}) {}; all have to be started by one launcher",
                other.name(),
                other.world,
                own.host,
                own.world
            )));
        }
        if other.version != own.version {
            return Err(EngineError::input(format!(
                "{} is selfplay {} and rank 0 ({}) {}; all ranks have to run the same program",
                other.name(),
                other.version,
                own.host,
                own.version
            )));
        }
        Ok(())
    }

    fn nobody_came(
        &self,
        own: &RankIdentity,
        ranks: &[Option<RankIdentity>],
        waited: Duration,
    ) -> EngineError {
        let absent = ranks.iter().enumerate().filter(|(_, rank)| rank.is_none());
        let absent: Vec<String> = absent.map(|(number, _)| number.to_string()).collect();
        let there: Vec<String> = ranks.iter().flatten().map(RankIdentity::name).collect();
        EngineError::failure(format!(
            "{}: of {} ranks that {} started, {} did not come within {:.0} s (ranks.timeout); here are {}. All must see this folder \
             under this path: it has to lie on a file system that their machines share with {}",
            self.folder().display(),
            self.rank.world,
            self.rank.launcher,
            absent.join(", "),
            waited.as_secs_f64(),
            there.join(", "),
            own.host
        ))
    }

    fn nobody_there(&self, own: &RankIdentity, waited: Duration) -> EngineError {
        let folder = self.folder();
        let first =
            self.rank.master.as_ref().map_or_else(String::new, |host| format!(", which is on {host}"));
        let waited = format!("{:.0} s (ranks.timeout)", waited.as_secs_f64());
        let token: Option<LaunchToken> = hear(&self.place.token());
        if let Some(other) = token.and_then(|token| token.ranks.into_iter().next()) {
            return EngineError::input(format!(
                "{}: within {waited} rank 0 left no token for this launch; there is one of another launch, on {}: end that one, or \
                 name another folder with -o",
                folder.display(),
                other.host
            ));
        }
        EngineError::input(format!(
            "{}: {} saw no token of rank 0{first} there within {waited}. All ranks must see the run's folder under the same path: it has \
             to lie on a file system that {} shares with rank 0's machine",
            folder.display(),
            own.name(),
            own.host
        ))
    }

    fn folder(&self) -> PathBuf {
        std::path::absolute(self.place.root()).unwrap_or_else(|_| self.place.root().to_path_buf())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::run::dir::make_folder;

    /// Each rank's end of a meeting; a rank may be told to meet elsewhere.
    fn meet(places: &[&Path], timeout: Duration) -> Vec<Result<Met, EngineError>> {
        let world = places.len();
        thread::scope(|scope| {
            let ranks: Vec<_> = places
                .iter()
                .enumerate()
                .map(|(number, &run)| {
                    scope.spawn(move || {
                        let rank = Rank { rank: number, world, ..Rank::ALONE };
                        let place = RanksPlace::of(run);
                        let stop = StopFlag::default();
                        Appointment { rank: &rank, run, place: &place, timeout, stop: &stop }.keep()
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    #[test]
    fn ranks_meet_whatever_an_earlier_launch_left() {
        let run = tempfile::tempdir().unwrap();
        let place = RanksPlace::of(run.path());
        make_folder(&place.launch("old").claims("iteration_01")).unwrap();
        make_folder(place.root()).unwrap();
        selfplay_records::atomic::write_bytes(&place.lock(), b"").unwrap();
        let old = |rank| RankIdentity {
            pid: u32::MAX,
            ..RankIdentity::of(&Rank { rank, world: 3, ..Rank::ALONE })
        };
        tell(&place.token(), &LaunchToken { ranks: (0..3).map(old).collect() }).unwrap();
        tell(&place.hello(1), &old(1)).unwrap();
        let met = meet(&[run.path(); 3], Duration::from_secs(20));
        let met: Vec<Met> = met.into_iter().map(Result::unwrap).collect();
        for (number, one) in met.iter().enumerate() {
            assert_eq!((one.identity.rank, &one.ranks), (number, &met[0].ranks));
            assert_eq!(one.launch, met[0].launch);
        }
        assert!(!place.launch("old").claims("iteration_01").exists() && met[0].lock.is_some());
        // A second launch is refused while this one works.
        let rank = Rank { rank: 0, world: 3, ..Rank::ALONE };
        let (stop, timeout) = (StopFlag::default(), Duration::from_secs(1));
        let second = Appointment { rank: &rank, run: run.path(), place: &place, timeout, stop: &stop };
        assert!(matches!(second.keep().unwrap_err(), EngineError::InUse { .. }));
    }

    #[test]
    fn a_folder_that_is_not_shared_is_named_with_the_hosts() {
        let (here, there) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let met = meet(&[here.path(), there.path()], Duration::from_millis(300));
        let texts: Vec<String> = met.into_iter().map(|end| end.unwrap_err().to_string()).collect();
        let host = super::super::rank::host_name();
        assert!(texts[0].contains("1 did not come") && texts[0].contains(&host), "{}", texts[0]);
        assert!(texts[1].contains("rank 1") && texts[1].contains(&host), "{}", texts[1]);
        for (text, folder) in texts.iter().zip([here.path(), there.path()]) {
            assert!(text.contains("share") && text.contains(&folder.display().to_string()), "{text}");
        }
    }
}
