//! The process that tries the kernels: this program again, bounded in time, ended with all that it started.
//!
//! It ends by itself when this process does, since its standard input closes then.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use selfplay_client::{has_exited, kill_group};
use selfplay_records::shown::quoted;

use super::trial_here::FLAG;
use super::verdict::HopperVerdict;
use crate::error::Result;

/// A trial's time: on a GPU the work takes some ten seconds, starting and the processor's share included.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// Between two looks.
const TICK: Duration = Duration::from_millis(20);

/// How long a killed process is waited for: a driver may take its time with a kernel that hangs.
const BURIAL: Duration = Duration::from_secs(5);

/// Of either stream at most; the rest is read and dropped.
const MOST_BYTES: u64 = 1 << 18;

/// A program, its arguments and its time.
#[derive(Clone, Debug)]
pub(super) struct TrialProcess {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) limit: Duration,
}

impl TrialProcess {
    /// This program, on a device by its name.
    ///
    /// # Errors
    /// A system that does not say where the program is.
    pub(super) fn of_this_program(device_name: &str) -> io::Result<Self> {
        // The very file that runs, also where another has taken its name since.
        let program = match cfg!(target_os = "linux") {
            true => PathBuf::from("/proc/self/exe"),
            false => std::env::current_exe()?,
        };
        let arguments = ["--device", device_name, "doctor", FLAG].map(OsString::from).to_vec();
        Ok(Self { program, arguments, limit: LIMIT })
    }

    /// Runs it to its end, or to the end of its time. The inner error says why there is no verdict.
    ///
    /// # Errors
    /// What `watch` says; the process is ended then.
    pub(super) fn run(
        &self,
        watch: &mut dyn FnMut() -> Result<()>,
    ) -> Result<std::result::Result<HopperVerdict, String>> {
        let spawned = Command::new(&self.program)
            .args(&self.arguments)
            .env("SELFPLAY_LAUNCHER", "none")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => return Ok(Err(format!("could not be started: {error}"))),
        };
        // Open as long as this process lives, or this function works.
        let _input = child.stdin.take();
        let output = child.stdout.take().map(listen);
        let errors = child.stderr.take().map(listen);
        let until = Instant::now() + self.limit;
        let ended = loop {
            if has_exited(&child) {
                break Ok(true);
            }
            if let Err(error) = watch() {
                break Err(error);
            }
            if Instant::now() >= until {
                break Ok(false);
            }
            thread::sleep(TICK);
        };
        kill_group(&child);
        let status = bury(child);
        if !ended? {
            return Ok(Err(format!("had not ended after {} s", self.limit.as_secs_f64())));
        }
        let words = heard(errors);
        Ok(match status {
            Some(status) if status.success() => HopperVerdict::read(&heard(output))
                .map_err(|problem| format!("gave no whole verdict ({problem})")),
            Some(status) => Err(format!("ended with {status}{}", last_words(&words))),
            None => Err("was lost".to_owned()),
        })
    }
}

/// Reads a stream to its end on a thread of its own: the child never waits for somebody to read.
fn listen(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (tell, heard) = channel();
    let work = move || {
        let mut bytes = Vec::new();
        let _ = stream.by_ref().take(MOST_BYTES).read_to_end(&mut bytes);
        let _ = tell.send(bytes);
        let _ = io::copy(&mut stream, &mut io::sink());
    };
    // Where no thread can be had nothing is heard.
    let _ = thread::Builder::new().spawn(work);
    heard
}

/// What was said, once its writers have ended.
fn heard(stream: Option<Receiver<Vec<u8>>>) -> String {
    let bytes = stream.and_then(|stream| stream.recv_timeout(BURIAL).ok()).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last line, for a message.
fn last_words(text: &str) -> String {
    match text.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => format!(": {}", quoted(line.trim())),
        None => String::new(),
    }
}

/// Waits for a process that has ended or was killed; one that does not go is left to a thread.
fn bury(mut child: Child) -> Option<std::process::ExitStatus> {
    let until = Instant::now() + BURIAL;
    while Instant::now() < until {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => thread::sleep(TICK),
            Err(_) => return None,
        }
    }
    let _ = thread::Builder::new().spawn(move || child.wait());
    None
}

/// A shell in the place of the program.
#[cfg(test)]
pub(super) fn stand_in(script: &str, limit: Duration) -> TrialProcess {
    let arguments = ["-c", script].map(OsString::from).to_vec();
    TrialProcess { program: "sh".into(), arguments, limit }
}

#[cfg(test)]
mod tests {
    use super::super::verdict::verdict_of_speeds;
    use super::*;
    use crate::error::EngineError;

    fn run(script: &str, limit: Duration) -> std::result::Result<HopperVerdict, String> {
        stand_in(script, limit).run(&mut || Ok(())).unwrap()
    }

    const ENOUGH: Duration = Duration::from_secs(20);

    #[test]
    fn a_whole_verdict_alone_is_one() {
        let verdict = verdict_of_speeds(|_| 1.25);
        let text = serde_json::to_string(&verdict).unwrap();
        assert_eq!(run(&format!("echo noise >&2; echo '{text}'"), ENOUGH), Ok(verdict));
        for (script, word) in [
            ("true", "no whole verdict"),
            ("echo garbage", "no whole verdict"),
            (&*format!("echo '{}'", &text[..40]), "no whole verdict"),
            (&*format!("echo '{text}'; echo '{text}'"), "no whole verdict"),
            // Longer than anybody reads.
            ("yes | head -c 3000000", "no whole verdict"),
            (&*format!("echo '{text}'; echo first >&2; echo 'device gone' >&2; exit 3"), "device gone"),
            (&*format!("echo '{text}'; kill -SEGV $$"), "signal"),
        ] {
            let problem = run(script, ENOUGH).unwrap_err();
            assert!(problem.contains(word), "{script}: {problem}");
        }
        let none = TrialProcess { program: "/nowhere/program".into(), arguments: Vec::new(), limit: ENOUGH };
        assert!(none.run(&mut || Ok(())).unwrap().unwrap_err().contains("could not be started"));
    }

    /// A kernel that hangs: the process is ended with what it has started, and whoever holds its output is not waited for.
    #[test]
    fn what_does_not_end_is_ended_with_its_group() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("child");
        let script = format!("trap '' TERM; sleep 300 & echo $! > {}; wait; sleep 300", file.display());
        let start = Instant::now();
        let problem = run(&script, Duration::from_millis(400)).unwrap_err();
        assert!(problem.contains("had not ended after 0.4 s") && start.elapsed() < ENOUGH, "{problem}");
        let pid = std::fs::read_to_string(&file).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        // Ended, buried or not: whose child it is now does that.
        let is_gone = || state().rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'));
        while !is_gone() && start.elapsed() < ENOUGH {
            thread::sleep(TICK);
        }
        assert!(is_gone(), "{}", state());
    }

    #[test]
    fn it_ends_where_whoever_waits_is_stopped() {
        let start = Instant::now();
        let mut looks = 0;
        let mut watch = || {
            looks += 1;
            if looks < 3 { Ok(()) } else { Err(EngineError::failure("stop")) }
        };
        let error = stand_in("sleep 300", Duration::from_secs(300)).run(&mut watch).unwrap_err();
        assert!(error.to_string() == "stop" && start.elapsed() < ENOUGH, "{error}");
    }

    /// The process's own end: its input closes with the process that waits for it.
    #[test]
    fn its_input_is_open_as_long_as_it_is_waited_for() {
        let problem = run("read line; echo ended >&2; exit 4", Duration::from_millis(300)).unwrap_err();
        assert!(problem.contains("had not ended"), "{problem}");
    }
}
