//! Pieces of files on their way through a few buffers: threads read ahead while what they have read goes on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::thread;

use crate::gpu::StagingBuffer;

/// Reads every one of `pieces` with `threads` threads, and hands it with the buffer that has it to `sink`, on the calling thread
/// and in whatever order they come. The sink gives buffers back through the function that it is handed, this one or earlier ones;
/// it may keep all but one for a while. There are never more buffers than these.
///
/// # Errors
/// The first error of `read` or `sink`; pieces that are being read then are read to their end and dropped.
pub(super) fn stream<P: Sync, E: Send>(
    pieces: &[P],
    buffers: Vec<StagingBuffer>,
    threads: usize,
    read: impl Fn(&P, &mut [u8]) -> Result<(), E> + Sync,
    mut sink: impl FnMut(&P, StagingBuffer, &dyn Fn(StagingBuffer)) -> Result<(), E>,
) -> Result<(), E> {
    let (give_back, free) = mpsc::channel::<StagingBuffer>();
    buffers.into_iter().for_each(|buffer| drop(give_back.send(buffer)));
    let free = Mutex::new(free);
    let next = AtomicUsize::new(0);
    let (full, arrived) = mpsc::channel();
    let work = |full: mpsc::Sender<_>| {
        loop {
            let buffer = free.lock().unwrap_or_else(PoisonError::into_inner).recv();
            // Without buffers to come everything is read, or nobody wants it any more.
            let Ok(mut buffer) = buffer else { return };
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(piece) = pieces.get(place) else { return };
            let outcome = read(piece, buffer.bytes_mut());
            if full.send((piece, outcome.map(|()| buffer))).is_err() {
                return;
            }
        }
    };
    thread::scope(|scope| {
        let (work, full) = (&work, full);
        for _ in 0..threads.clamp(1, pieces.len().max(1)) {
            let full = full.clone();
            scope.spawn(move || work(full));
        }
        // Without readers nothing arrives any more.
        drop(full);
        let mut outcome = Ok(());
        for _ in pieces {
            // A reader that died ends the scope with its panic.
            let Ok((piece, buffer)) = arrived.recv() else { break };
            let gone_on =
                buffer.and_then(|buffer| sink(piece, buffer, &|buffer| drop(give_back.send(buffer))));
            if let Err(error) = gone_on {
                outcome = Err(error);
                break;
            }
        }
        drop(give_back);
        outcome
    })
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::gpu::PlainCopies;

    fn buffers(count: usize) -> Vec<StagingBuffer> {
        (0..count).map(|_| StagingBuffer::new(&PlainCopies, 8).unwrap()).collect()
    }

    fn number(buffer: &StagingBuffer) -> u32 {
        buffer.words()[0]
    }

    #[test]
    fn every_piece_arrives_once_through_few_buffers() {
        let pieces: Vec<u32> = (0..2000).collect();
        for (count, threads, kept) in [(1, 1, 0), (2, 4, 1), (6, 3, 4), (8, 16, 7)] {
            let at_once = AtomicUsize::new(0);
            let read = |piece: &u32, bytes: &mut [u8]| {
                assert!(at_once.fetch_add(1, Ordering::SeqCst) < count.min(threads));
                bytes[..4].copy_from_slice(&piece.to_ne_bytes());
                at_once.fetch_sub(1, Ordering::SeqCst);
                Ok::<_, ()>(())
            };
            let (mut seen, mut held) = (Vec::new(), VecDeque::new());
            let sink = |piece: &u32, buffer: StagingBuffer, free: &dyn Fn(StagingBuffer)| {
                assert_eq!(number(&buffer), *piece);
                seen.push(*piece);
                held.push_back((*piece, buffer));
                while held.len() > kept {
                    let (piece, buffer) = held.pop_front().unwrap();
                    assert_eq!(number(&buffer), piece, "a buffer was written while the sink had it");
                    free(buffer);
                }
                Ok(())
            };
            stream(&pieces, buffers(count), threads, read, sink).unwrap();
            seen.sort_unstable();
            assert_eq!(seen, pieces);
        }
    }

    #[test]
    fn an_error_ends_it_whoever_makes_it() {
        let pieces: Vec<u32> = (0..100).collect();
        let read = |piece: &u32, _: &mut [u8]| if *piece == 40 { Err("read") } else { Ok(()) };
        let forward = |_: &u32, buffer: StagingBuffer, free: &dyn Fn(StagingBuffer)| {
            free(buffer);
            Ok(())
        };
        assert_eq!(stream(&pieces, buffers(3), 2, read, forward), Err("read"));
        let mut seen = 0;
        let sink = |_: &u32, buffer: StagingBuffer, free: &dyn Fn(StagingBuffer)| {
            seen += 1;
            free(buffer);
            if seen == 7 { Err("sink") } else { Ok(()) }
        };
        assert_eq!(stream(&pieces, buffers(3), 2, |_, _| Ok(()), sink), Err("sink"));
        assert_eq!(seen, 7);
        assert_eq!(stream::<u32, ()>(&[], buffers(1), 2, |_, _| Ok(()), |_, _, _| Err(())), Ok(()));
    }
}
