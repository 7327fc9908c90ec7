//! Several of one program at work: rows go to whichever is free, answers come back in the rows' order.
//!
//! Each process belongs to a thread that lives as long as the pool, because the kernel ends a process with the thread that started it.
//! A process is started with the first row that it is asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use selfplay_client::{JsonRequest, Process, Reply, UserProgram};
use selfplay_records::Candidates;
use selfplay_records::shown::quoted;
use serde_json::Value;

use super::question::{question, question_fields};
use super::settings::CommandSettings;
use crate::kept_answers::{KeptAnswers, asked};
use crate::{CompareProgress, ScoreError};

/// How often a call looks whether it is to stop.
const TICK: Duration = Duration::from_millis(100);
/// How long a second line is waited for after a program's first answer: one that writes more than it is asked does so at once.
const AFTER_FIRST: Duration = Duration::from_millis(100);
/// The same after a call's last row.
const AFTER_LAST: Duration = Duration::from_millis(100);

/// How a line is read as the answer to a row.
pub(super) type ReadAnswer<T> = fn(&[u8], &Candidates) -> Result<T, String>;

/// Processes of one program.
pub(super) struct Pool {
    program: UserProgram,
    workers: Vec<Worker>,
    kept: KeptAnswers,
}

/// A thread with at most one process.
struct Worker {
    tasks: Option<Sender<RowTask>>,
    thread: Option<JoinHandle<()>>,
}

/// What a worker is to do.
struct RowTask {
    work: PoolWork,
    called_off: Arc<AtomicBool>,
    done: Sender<Done>,
}

enum PoolWork {
    /// Ask about a row.
    Ask { index: usize, prompt_id: String, line: Vec<u8> },
    /// See that nothing was answered that was not asked.
    Settle,
}

/// What a worker has done.
struct Done {
    worker: usize,
    /// The row and its answer; `None` where there is none: a question that was called off, or nothing unasked.
    answer: Result<Option<(usize, Vec<u8>)>, ScoreError>,
}

impl Pool {
    /// As many workers as the settings want, whose answers are kept; nothing is started yet.
    ///
    /// # Errors
    /// No threads.
    pub(super) fn new(
        program: UserProgram,
        settings: &CommandSettings,
        kept: KeptAnswers,
    ) -> Result<Self, ScoreError> {
        let mut pool = Self { program, workers: Vec::new(), kept };
        for number in 0..settings.concurrency {
            let (tasks, queue) = channel();
            let hand = Hand {
                number,
                program: pool.program.clone(),
                patience: Duration::from_secs_f64(settings.timeout_s),
                retries: settings.retries,
                process: None,
            };
            let thread = thread::Builder::new().name(format!("{} {number}", pool.program.key()));
            let thread = thread.spawn(move || hand.work(&queue)).map_err(|error| {
                ScoreError::Command(pool.program.failure(None, format!("no thread to ask it from: {error}")))
            })?;
            pool.workers.push(Worker { tasks: Some(tasks), thread: Some(thread) });
        }
        Ok(pool)
    }

    /// What the program answers to each row, in order; after a stop by `progress`, of the rows at the front that were answered. It
    /// is not asked about rows whose answers were kept.
    ///
    /// # Errors
    /// A program that ends early, is silent, or does not answer as `read` wants it.
    pub(super) fn ask<T>(
        &self,
        rows: &[Candidates],
        read: ReadAnswer<T>,
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<T>, ScoreError> {
        let (done, replies) = channel();
        let mut call = PooledCall {
            pool: self,
            called_off: Arc::new(AtomicBool::new(false)),
            done,
            replies,
            free: (0..self.workers.len()).rev().collect(),
            used: vec![false; self.workers.len()],
        };
        let answers = call.all(rows, read, progress);
        call.finish();
        answers
    }
}

impl Pool {
    fn read<T>(&self, read: ReadAnswer<T>, line: &[u8], row: &Candidates) -> Result<T, ScoreError> {
        read(line, row).map_err(|problem| {
            let prompt_id = Some(row.prompt.prompt_id.as_str());
            ScoreError::Command(self.program.failure(prompt_id, problem))
        })
    }

    /// The line that was answered to a row before, if it was kept.
    fn kept_answer(&self, row: &Candidates) -> Result<Option<String>, ScoreError> {
        if !self.kept.is_on() {
            return Ok(None);
        }
        Ok(self.kept.find(&kept_question(row))?.and_then(|line| line.as_str().map(str::to_owned)))
    }

    fn keep(&self, row: &Candidates, line: &[u8]) -> Result<(), ScoreError> {
        // A line that was read is text.
        match std::str::from_utf8(line) {
            Ok(line) if self.kept.is_on() => self.kept.keep(&kept_question(row), &line.into()),
            _ => Ok(()),
        }
    }
}

fn kept_question(row: &Candidates) -> JsonRequest {
    asked("command", Value::Object(question_fields(row)))
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.tasks = None);
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// One call of [`Pool::ask`].
struct PooledCall<'a> {
    pool: &'a Pool,
    called_off: Arc<AtomicBool>,
    done: Sender<Done>,
    replies: Receiver<Done>,
    /// Workers with nothing to do.
    free: Vec<usize>,
    /// Workers that were asked anything.
    used: Vec<bool>,
}

impl PooledCall<'_> {
    fn all<T>(
        &mut self,
        rows: &[Candidates],
        read: ReadAnswer<T>,
        progress: &mut CompareProgress<'_>,
    ) -> Result<Vec<T>, ScoreError> {
        let mut answers: Vec<Option<T>> = Vec::with_capacity(rows.len());
        for row in rows {
            let kept = self.pool.kept_answer(row)?;
            answers.push(kept.map(|line| self.pool.read(read, line.as_bytes(), row)).transpose()?);
        }
        let mut open =
            (0..rows.len()).filter(|&place| answers[place].is_none()).collect::<Vec<_>>().into_iter();
        let mut answered = rows.len() - open.len();
        while answered < rows.len() {
            if progress(answered).is_break() {
                return Ok(answers.into_iter().map_while(|answer| answer).collect());
            }
            while let Some(&worker) = self.free.last()
                && let Some(index) = open.next()
            {
                self.free.pop();
                let row = &rows[index];
                let prompt_id = row.prompt.prompt_id.clone();
                self.give(worker, PoolWork::Ask { index, prompt_id, line: question(row) })?;
            }
            if let Some((index, line)) = self.reply()? {
                let row = &rows[index];
                answers[index] = Some(self.pool.read(read, &line, row)?);
                self.pool.keep(row, &line)?;
                answered += 1;
            }
        }
        self.settle()?;
        let _ = progress(answered);
        Ok(answers.into_iter().flatten().collect())
    }

    fn give(&mut self, worker: usize, work: PoolWork) -> Result<(), ScoreError> {
        self.used[worker] = true;
        let task = RowTask { work, called_off: Arc::clone(&self.called_off), done: self.done.clone() };
        let sent = self.pool.workers[worker].tasks.as_ref().is_some_and(|tasks| tasks.send(task).is_ok());
        if sent { Ok(()) } else { Err(self.lost()) }
    }

    /// The next answer, if one comes soon.
    fn reply(&mut self) -> Result<Option<(usize, Vec<u8>)>, ScoreError> {
        match self.replies.recv_timeout(TICK) {
            Ok(done) => {
                self.free.push(done.worker);
                done.answer
            }
            Err(RecvTimeoutError::Timeout) => {
                let is_lost = |worker: &Worker| worker.thread.as_ref().is_none_or(JoinHandle::is_finished);
                if self.pool.workers.iter().any(is_lost) { Err(self.lost()) } else { Ok(None) }
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.lost()),
        }
    }

    /// Sees that no process wrote more than it was asked.
    fn settle(&mut self) -> Result<(), ScoreError> {
        let used: Vec<usize> = self.free.iter().copied().filter(|&worker| self.used[worker]).collect();
        self.free.retain(|worker| !used.contains(worker));
        for worker in used {
            self.give(worker, PoolWork::Settle)?;
        }
        while self.free.len() < self.pool.workers.len() {
            self.reply()?;
        }
        Ok(())
    }

    /// Calls off what is still asked: those processes are ended.
    fn finish(&mut self) {
        self.called_off.store(true, Ordering::Relaxed);
        while self.free.len() < self.pool.workers.len() {
            match self.replies.recv_timeout(TICK * 20) {
                Ok(done) => self.free.push(done.worker),
                Err(_) => return,
            }
        }
    }

    fn lost(&self) -> ScoreError {
        ScoreError::Command(self.pool.program.failure(None, "a thread that asks it has ended".to_owned()))
    }
}

/// A worker's thread.
struct Hand {
    number: usize,
    program: UserProgram,
    patience: Duration,
    retries: usize,
    process: Option<Process>,
}

impl Hand {
    fn work(mut self, queue: &Receiver<RowTask>) {
        for task in queue {
            let answer = match task.work {
                PoolWork::Ask { index, prompt_id, line } => self
                    .ask(&prompt_id, &line, &task.called_off)
                    .map(|answer| answer.map(|answer| (index, answer))),
                PoolWork::Settle => self.settle(AFTER_LAST, None, None).map(|()| None),
            };
            // A call that has ended takes no replies.
            let _ = task.done.send(Done { worker: self.number, answer });
        }
        if let Some(process) = &mut self.process {
            process.take_leave();
        }
    }

    /// The line that the program answers to a line; `None` where the question was called off.
    fn ask(
        &mut self,
        prompt_id: &str,
        line: &[u8],
        called_off: &AtomicBool,
    ) -> Result<Option<Vec<u8>>, ScoreError> {
        self.settle(Duration::ZERO, Some(prompt_id), None)?;
        let mut asked = 0;
        loop {
            let mut process = match self.process.take() {
                Some(process) if !process.has_ended() => process,
                // One that ended between two rows was asked nothing.
                _ => Process::start(&self.program)?,
            };
            let is_new = !process.has_answered();
            asked += 1;
            let problem = match process.ask(line.to_vec(), self.patience, called_off) {
                Reply::Answer(answer) => {
                    self.process = Some(process);
                    if is_new {
                        self.settle(AFTER_FIRST, Some(prompt_id), Some(&answer))?;
                    }
                    return Ok(Some(answer));
                }
                Reply::CalledOff => return Ok(None),
                Reply::TooLong => {
                    let problem = "answered with a line of more than 16 MiB".to_owned();
                    return Err(self.failed(prompt_id, problem, &process));
                }
                // It had answered and left while this row was on its way: it was asked nothing either.
                Reply::Ended(_) if !is_new && process.has_left() => {
                    asked -= 1;
                    continue;
                }
                Reply::Ended(what) => what,
                Reply::Silent => format!(
                    "no answer within {} s; it is to answer each row before it reads the next, and to flush its standard \
                     output (timeout_s bounds the wait)",
                    self.patience.as_secs_f64()
                ),
            };
            if asked > self.retries {
                let times = if asked == 1 { String::new() } else { format!("; asked {asked} times") };
                return Err(self.failed(prompt_id, problem + &times, &process));
            }
            let key = self.program.key();
            tracing::warn!("{key}: prompt_id {prompt_id:?}: {problem}; it is started anew and asked again");
        }
    }

    /// That the process has written nothing that was not asked, beside its `answer` to a row.
    fn settle(
        &self,
        patience: Duration,
        prompt_id: Option<&str>,
        answer: Option<&[u8]>,
    ) -> Result<(), ScoreError> {
        let Some(line) = self.process.as_ref().and_then(|process| process.unasked(patience)) else {
            return Ok(());
        };
        let first = answer.map_or(String::new(), |answer| quoted(&String::from_utf8_lossy(answer)) + " and ");
        let problem = format!(
            "wrote more lines than it was asked rows: {first}{line}; one line a row is wanted, and nothing else on standard output"
        );
        Err(ScoreError::Command(self.program.failure(prompt_id, problem)))
    }

    fn failed(&self, prompt_id: &str, problem: String, process: &Process) -> ScoreError {
        let mut failure = self.program.failure(Some(prompt_id), problem);
        failure.last_words = process.last_words();
        ScoreError::Command(failure)
    }
}
