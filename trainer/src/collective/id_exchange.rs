//! How the ranks of a GPU's library come to know each other: rank 0 makes an id, and all others get it through a file, a socket,
//! or another collective.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use selfplay_records::atomic;

use super::{Collective, from_first};
use crate::TrainError;

/// Bytes of an id.
pub const ID_BYTES: usize = 128;

/// What all ranks are to have.
pub type RankId = [u8; ID_BYTES];

/// Brings rank 0's id to all ranks.
pub trait IdExchange {
    /// The id that rank 0 has given; `own` is rank 0's, and `None` on others. All ranks have it when rank 0 returns.
    ///
    /// # Errors
    /// Not all ranks came in time, or the way to them is closed.
    fn exchange(&self, rank: usize, world: usize, own: Option<RankId>) -> Result<RankId, TrainError>;
}

fn failed(problem: String) -> TrainError {
    TrainError::Exchange { library: "the ranks' id", problem }
}

/// Tries until there is a value, or the time is over.
fn until<T>(
    deadline: Instant,
    late: impl Fn() -> String,
    mut attempt: impl FnMut() -> Result<Option<T>, TrainError>,
) -> Result<T, TrainError> {
    loop {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            return Err(failed(late()));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Through files that all ranks see.
///
/// Files of an earlier run may lie there, so every rank says hello with a word of its own, and takes an id only from a file that
/// repeats this word: `NAME.1` has rank 1's word, and then the id that it has taken; `NAME` has rank 0's id and the words of all.
#[derive(Clone, Debug)]
pub struct ExchangeFile {
    /// A file in a folder that is there.
    pub path: PathBuf,
    /// How long ranks wait for each other.
    pub patience: Duration,
}

impl ExchangeFile {
    fn hello(&self, rank: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{rank}"));
        name.into()
    }

    fn lead(&self, world: usize, id: RankId) -> Result<RankId, TrainError> {
        let (deadline, digits) = (Instant::now() + self.patience, hex(&id));
        let mut written = None;
        let late = || format!("not all of the {world} ranks came to {}", self.path.display());
        until(deadline, late, || {
            let mut words = Vec::new();
            let mut all_have = true;
            for rank in 1..world {
                let Some(text) = read(&self.hello(rank))? else { return Ok(None) };
                let mut parts = text.split_whitespace();
                words.push(parts.next().unwrap_or_default().to_owned());
                all_have &= parts.next() == Some(&digits);
            }
            if written.as_ref() != Some(&words) {
                write(&self.path, &format!("{digits}\n{}\n", words.join("\n")))?;
                written = Some(words);
            }
            Ok(all_have.then_some(()))
        })?;
        for path in (1..world).map(|rank| self.hello(rank)).chain([self.path.clone()]) {
            // What stays is of no use to anyone, and does no harm.
            let _ = std::fs::remove_file(path);
        }
        Ok(id)
    }

    fn follow(&self, rank: usize) -> Result<RankId, TrainError> {
        let deadline = Instant::now() + self.patience;
        let word = format!("{:016x}", RandomState::new().build_hasher().finish());
        write(&self.hello(rank), &word)?;
        let late = || format!("rank 0 has not written {} for rank {rank}", self.path.display());
        let id = until(deadline, late, || {
            let Some(text) = read(&self.path)? else { return Ok(None) };
            let mut lines = text.lines();
            let id = lines.next().and_then(from_hex);
            Ok(id.filter(|_| lines.nth(rank - 1) == Some(&word)))
        })?;
        write(&self.hello(rank), &format!("{word} {}", hex(&id)))?;
        Ok(id)
    }
}

impl IdExchange for ExchangeFile {
    fn exchange(&self, rank: usize, world: usize, own: Option<RankId>) -> Result<RankId, TrainError> {
        match own {
            Some(id) if world == 1 => Ok(id),
            Some(id) => self.lead(world, id),
            None => self.follow(rank),
        }
    }
}

/// Through a socket that rank 0 listens on. A launcher may hold MASTER_PORT itself: take the port behind it then.
#[derive(Clone, Debug)]
pub struct ExchangeSocket {
    /// Rank 0's host: MASTER_ADDR.
    pub host: String,
    /// A free port there.
    pub port: u16,
    /// How long ranks wait for each other.
    pub patience: Duration,
}

/// What a rank says first, before its number.
const GREETING: &[u8; 12] = b"selfplay-id\n";

impl ExchangeSocket {
    fn lead(&self, world: usize, id: RankId) -> Result<RankId, TrainError> {
        let refused = |e: std::io::Error| failed(format!("{}:{}: {e}", self.host, self.port));
        let listener = TcpListener::bind((self.host.as_str(), self.port))
            .or_else(|_| TcpListener::bind(("0.0.0.0", self.port)))
            .map_err(refused)?;
        listener.set_nonblocking(true).map_err(refused)?;
        let deadline = Instant::now() + self.patience;
        let mut came = vec![false; world];
        came[0] = true;
        let late = || format!("not all of the {world} ranks came to {}:{}", self.host, self.port);
        until(deadline, late, || {
            while let Ok((stream, _)) = listener.accept() {
                // Whoever says something else is no rank of ours.
                if let Ok(rank) = give(stream, &id)
                    && let Some(came) = came.get_mut(rank)
                {
                    *came = true;
                }
            }
            Ok(came.iter().all(|came| *came).then_some(()))
        })?;
        Ok(id)
    }

    fn follow(&self, rank: usize) -> Result<RankId, TrainError> {
        let deadline = Instant::now() + self.patience;
        let late = || format!("rank {rank} got no id from {}:{}", self.host, self.port);
        until(deadline, late, || {
            let take = || -> std::io::Result<RankId> {
                let mut stream = TcpStream::connect((self.host.as_str(), self.port))?;
                stream.set_read_timeout(Some(ANSWER))?;
                stream.write_all(GREETING)?;
                stream.write_all(&(rank as u64).to_le_bytes())?;
                let mut id = [0u8; ID_BYTES];
                stream.read_exact(&mut id)?;
                stream.write_all(b"k")?;
                Ok(id)
            };
            // Rank 0 may come later.
            Ok(take().ok())
        })
    }
}

/// How long a peer may take to say one thing.
const ANSWER: Duration = Duration::from_secs(5);

/// Gives a rank the id, and returns which one it was, once it has it.
fn give(mut stream: TcpStream, id: &RankId) -> std::io::Result<usize> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(ANSWER))?;
    let (mut greeting, mut rank, mut taken) = ([0u8; 12], [0u8; 8], [0u8; 1]);
    stream.read_exact(&mut greeting)?;
    stream.read_exact(&mut rank)?;
    if greeting != *GREETING {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    stream.write_all(id)?;
    stream.read_exact(&mut taken)?;
    Ok(u64::from_le_bytes(rank) as usize)
}

impl IdExchange for ExchangeSocket {
    fn exchange(&self, rank: usize, world: usize, own: Option<RankId>) -> Result<RankId, TrainError> {
        match own {
            Some(id) if world == 1 => Ok(id),
            Some(id) => self.lead(world, id),
            None => self.follow(rank),
        }
    }
}

/// Through ranks that know each other already: those of MPI.
pub struct Through<'a>(pub &'a dyn Collective);

impl IdExchange for Through<'_> {
    fn exchange(&self, _rank: usize, _world: usize, own: Option<RankId>) -> Result<RankId, TrainError> {
        let own: Vec<f64> = own.iter().flatten().map(|&byte| f64::from(byte)).collect();
        let bytes: Vec<u8> = from_first(self.0, &own)?.into_iter().map(|byte| byte as u8).collect();
        RankId::try_from(bytes).map_err(|bytes| failed(format!("rank 0 gave {} bytes", bytes.len())))
    }
}

fn hex(id: &RankId) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<RankId> {
    let digits = text.as_bytes();
    let mut id = [0u8; ID_BYTES];
    if digits.len() != 2 * ID_BYTES {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

/// A file's text; `None` where there is none yet.
fn read(path: &Path) -> Result<Option<String>, TrainError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(TrainError::io(path)(e)),
    }
}

fn write(path: &Path, text: &str) -> Result<(), TrainError> {
    Ok(atomic::write_bytes(path, text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::super::Threads;
    use super::*;

    const ID: RankId = {
        let mut id = [0u8; ID_BYTES];
        let mut place = 0;
        while place < ID_BYTES {
            id[place] = (place * 7 % 256) as u8;
            place += 1;
        }
        id
    };

    /// All ranks exchange at once, the first one last.
    fn on_ranks(world: usize, exchange: impl Fn(usize, Option<RankId>) -> Result<RankId, TrainError> + Sync) {
        thread::scope(|scope| {
            let exchange = &exchange;
            let ranks: Vec<_> = (0..world)
                .rev()
                .map(|rank| scope.spawn(move || exchange(rank, (rank == 0).then_some(ID))))
                .collect();
            for rank in ranks {
                assert!(rank.join().unwrap().unwrap() == ID);
            }
        });
    }

    #[test]
    fn a_file_brings_the_id_also_where_another_run_left_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let file = ExchangeFile { path: folder.path().join("id"), patience: Duration::from_secs(20) };
        // Of a run that ended in the middle: an id, a hello, and one that took another id.
        write(&file.path, &format!("{}\nold\nold\n", hex(&[9; ID_BYTES]))).unwrap();
        write(&file.hello(1), "old").unwrap();
        write(&file.hello(2), &format!("old {}", hex(&[9; ID_BYTES]))).unwrap();
        on_ranks(3, |rank, own| file.exchange(rank, 3, own));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        on_ranks(1, |rank, own| file.exchange(rank, 1, own));
    }

    #[test]
    fn a_rank_that_does_not_come_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = ExchangeFile { path: folder.path().join("id"), patience: Duration::from_millis(60) };
        assert!(file.exchange(0, 2, Some(ID)).unwrap_err().to_string().contains("2 ranks"));
        assert!(file.exchange(1, 2, None).unwrap_err().to_string().contains("rank 1"));
    }

    #[test]
    fn a_socket_brings_the_id_and_strangers_do_not_matter() {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let patience = Duration::from_secs(20);
        let socket = ExchangeSocket { host: "127.0.0.1".into(), port, patience };
        on_ranks(3, |rank, own| {
            if rank == 2 {
                // Whoever knocks before us.
                for _ in 0..200 {
                    if let Ok(mut stranger) = TcpStream::connect(("127.0.0.1", port)) {
                        let _ = stranger.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n");
                        break;
                    }
                    thread::sleep(Duration::from_millis(5));
                }
            }
            socket.exchange(rank, 3, own)
        });
    }

    #[test]
    fn another_collective_brings_the_id() {
        let ranks: Vec<_> = Threads::group(2).into_iter().map(std::sync::Mutex::new).collect();
        on_ranks(2, |rank, own| {
            let own_rank = ranks[rank].lock().unwrap();
            Through(&*own_rank).exchange(rank, 2, own)
        });
    }
}
