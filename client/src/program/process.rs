//! One program at work: its three streams, each on a thread of its own, so that neither side can wait for the other for ever.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use selfplay_records::shown::quoted;

use super::{CommandFailure, UserProgram};

/// Bytes of an answer at most: a table of 800 × 800 numbers.
const LONGEST_ANSWER: u64 = 16 << 20;
/// Bytes of a line on standard error that are read as one.
const LONGEST_REMARK: u64 = 4 << 10;
/// Lines on standard error that messages quote.
const LAST_WORDS: usize = 3;
/// Answers that may wait to be read: there should be one.
const WAITING: usize = 4;
/// How often a wait looks whether it is called off.
const TICK: Duration = Duration::from_millis(20);
/// How long a program may take to end by itself once its input has ended.
const FAREWELL: Duration = Duration::from_secs(2);

/// What came on the program's standard output.
enum Heard {
    /// A line.
    Line(Vec<u8>),
    /// What stood before the end, without a line end.
    Torn(Vec<u8>),
    /// A line that is too long to be an answer.
    TooLong,
}

/// How a question ended.
pub enum Reply {
    /// A line that may be the answer.
    Answer(Vec<u8>),
    /// The program ended, or closed its output. What it did is told.
    Ended(String),
    /// Nothing in the time that an answer may take.
    Silent,
    /// A line longer than any answer.
    TooLong,
    /// The question was called off.
    CalledOff,
}

/// A program that runs. Dropped, it is ended with everything that it started.
pub struct Process {
    child: Child,
    questions: Option<Sender<Vec<u8>>>,
    heard: Receiver<Heard>,
    remarks: Arc<Mutex<VecDeque<String>>>,
    threads: Vec<JoinHandle<()>>,
    has_answered: bool,
    /// Whether its end was waited for: then its number may be another's.
    is_gone: bool,
}

impl Process {
    /// Starts the program. The thread that calls this must outlive the process: the kernel ends it with that thread.
    pub fn start(program: &UserProgram) -> Result<Self, Box<CommandFailure>> {
        let mut child = program.start()?;
        let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (questions, lines) = channel();
        let (said, heard) = sync_channel(WAITING);
        let remarks = Arc::new(Mutex::new(VecDeque::new()));
        let mut process = Self {
            child,
            questions: Some(questions),
            heard,
            remarks: Arc::clone(&remarks),
            threads: Vec::new(),
            has_answered: false,
            is_gone: false,
        };
        if let (Some(stdin), Some(stdout), Some(stderr)) = streams {
            let key = program.key();
            process.with_thread(program, move || send_questions(stdin, &lines))?;
            process.with_thread(program, move || hear_answers(stdout, &said))?;
            process.with_thread(program, move || pass_remarks(stderr, key, &remarks))?;
        }
        Ok(process)
    }

    fn with_thread(
        &mut self,
        program: &UserProgram,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<(), Box<CommandFailure>> {
        let thread = thread::Builder::new()
            .name(program.key().to_owned())
            .spawn(work)
            .map_err(|error| program.failure(None, format!("no thread to talk to it from: {error}")))?;
        self.threads.push(thread);
        Ok(())
    }

    /// Whether it has answered anything.
    pub fn has_answered(&self) -> bool {
        self.has_answered
    }

    /// Sends a line and waits for one; `called_off` ends the wait.
    pub fn ask(&mut self, line: Vec<u8>, patience: Duration, called_off: &AtomicBool) -> Reply {
        self.send(line);
        self.hear(patience, called_off)
    }

    /// Sends a line. Where the program has ended, its output tells.
    pub fn send(&self, line: Vec<u8>) {
        let _ = self.questions.as_ref().map(|questions| questions.send(line));
    }

    /// Waits for a line; `called_off` ends the wait.
    pub fn hear(&mut self, patience: Duration, called_off: &AtomicBool) -> Reply {
        let until = Instant::now() + patience;
        let mut ended_at = None;
        loop {
            if called_off.load(Ordering::Relaxed) {
                return Reply::CalledOff;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.heard.recv_timeout(left.min(TICK)) {
                Ok(Heard::Line(line)) => {
                    self.has_answered = true;
                    return Reply::Answer(line);
                }
                Ok(Heard::Torn(line)) if is_json(&line) => {
                    self.has_answered = true;
                    return Reply::Answer(line);
                }
                Ok(Heard::TooLong) => return Reply::TooLong,
                Ok(Heard::Torn(_)) | Err(RecvTimeoutError::Disconnected) => {
                    return Reply::Ended(self.ending());
                }
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Reply::Silent,
                // What it started may hold its output open; what it wrote itself comes at once.
                Err(RecvTimeoutError::Timeout) if has_exited(&self.child) => {
                    if ended_at.get_or_insert_with(Instant::now).elapsed() > FAREWELL / 10 {
                        return Reply::Ended(self.ending());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// A line that no question was asked for and that is there, or comes within `patience`.
    pub fn unasked(&self, patience: Duration) -> Option<String> {
        let heard = match self.heard.try_recv() {
            Err(TryRecvError::Empty) if !patience.is_zero() => self.heard.recv_timeout(patience).ok(),
            heard => heard.ok(),
        };
        match heard {
            Some(Heard::Line(line) | Heard::Torn(line)) => Some(quoted(&String::from_utf8_lossy(&line))),
            Some(Heard::TooLong) => Some("a line that is too long".to_owned()),
            None => None,
        }
    }

    /// Whether it has ended, or will once it is waited for.
    pub fn has_ended(&self) -> bool {
        self.is_gone || has_exited(&self.child)
    }

    /// Whether it was seen to end by itself and well: with status 0.
    pub fn has_left(&mut self) -> bool {
        self.is_gone && self.child.wait().is_ok_and(|status| status.success())
    }

    /// The last lines on its standard error.
    pub fn last_words(&self) -> Vec<String> {
        if self.is_gone {
            // They are there, and its reader may not have got to them.
            wait_until(FAREWELL / 10, || self.threads.iter().all(JoinHandle::is_finished));
        }
        self.remarks.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// What the program did whose output has ended.
    pub fn ending(&mut self) -> String {
        wait_until(FAREWELL / 4, || has_exited(&self.child));
        if !has_exited(&self.child) {
            return "closed its standard output without an answer".to_owned();
        }
        self.end();
        match self.child.wait() {
            Ok(status) => format!("ended without an answer ({status})"),
            Err(error) => format!("ended without an answer ({error})"),
        }
    }

    /// Ends it with what it has started.
    fn end(&mut self) {
        if !self.is_gone {
            kill_group(&self.child);
            let _ = self.child.wait();
            self.is_gone = true;
        }
        self.questions = None;
    }

    /// Ends its input, and waits a little for it to end by itself.
    pub fn take_leave(&mut self) {
        self.questions = None;
        wait_until(FAREWELL, || self.is_gone || has_exited(&self.child));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        // A reader may wait for room for a line that nobody takes: that ends with the receiver.
        drop(std::mem::replace(&mut self.heard, channel().1));
        // What the program started may have left its group, and hold the streams: no reason to wait.
        wait_until(FAREWELL / 10, || self.threads.iter().all(JoinHandle::is_finished));
    }
}

fn wait_until(most: Duration, is_over: impl Fn() -> bool) {
    let until = Instant::now() + most;
    while !is_over() && Instant::now() < until {
        thread::sleep(Duration::from_millis(2));
    }
}

fn send_questions(mut stdin: ChildStdin, lines: &Receiver<Vec<u8>>) {
    for line in lines {
        if stdin.write_all(&line).and_then(|()| stdin.flush()).is_err() {
            return;
        }
    }
}

fn hear_answers(stdout: ChildStdout, said: &SyncSender<Heard>) {
    let mut stdout = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let read = stdout.by_ref().take(LONGEST_ANSWER + 1).read_until(b'\n', &mut line);
        let heard = match read {
            Ok(0) | Err(_) => return,
            Ok(_) if line.last() == Some(&b'\n') => Heard::Line(line.trim_ascii_end().to_vec()),
            Ok(_) if line.len() as u64 > LONGEST_ANSWER => Heard::TooLong,
            Ok(_) => Heard::Torn(line),
        };
        // An empty line says nothing.
        let is_empty =
            matches!(&heard, Heard::Line(line) | Heard::Torn(line) if line.trim_ascii_start().is_empty());
        let is_last = !matches!(heard, Heard::Line(_));
        if (!is_empty && said.send(heard).is_err()) || is_last {
            return;
        }
    }
}

fn pass_remarks(stderr: ChildStderr, key: &str, kept: &Mutex<VecDeque<String>>) {
    let mut stderr = BufReader::new(stderr);
    loop {
        let mut line = Vec::new();
        match stderr.by_ref().take(LONGEST_REMARK).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = quoted(String::from_utf8_lossy(&line).trim_end());
        if text.is_empty() {
            continue;
        }
        tracing::info!("{key}: {text}");
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == LAST_WORDS {
            kept.pop_front();
        }
        kept.push_back(text);
    }
}

fn is_json(line: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(line).is_ok()
}

/// Whether the child has ended; it is not waited for.
pub fn has_exited(child: &Child) -> bool {
    // SAFETY: `info` is a plain structure that the call fills in, and zeroes are a value of it.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` outlives the call.
    let status = unsafe { libc::waitid(libc::P_PID, child.id(), &mut info, flags) };
    // SAFETY: `waitid` has filled it in, or left the zeroes.
    status == -1 || unsafe { info.si_pid() } != 0
}

/// Ends a program that leads a group, with everything that it started in it. The program was not waited for yet.
pub fn kill_group(child: &Child) {
    if let Ok(group) = libc::pid_t::try_from(child.id()) {
        // SAFETY: a system call without memory of ours. The child leads the group of its own number and has not been waited for, so that
        // the number is nobody else's.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}
