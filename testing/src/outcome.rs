//! What a run of the real program said.

use std::process::Command;
use std::time::{Duration, Instant};

/// A program that has ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status; `None` after a signal.
    pub status: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Wall-clock time.
    pub took: Duration,
}

impl Outcome {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        let started = Instant::now();
        let output = command.output().unwrap();
        Self { took: started.elapsed(), ..output.into() }
    }

    /// Status 0.
    ///
    /// # Panics
    /// Another status, as for the other checks.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.status, Some(0), "{}", self.stderr);
        self
    }

    /// Status 2 within seconds, one message on standard error that holds all of `words`.
    #[track_caller]
    pub fn refused(self, words: &[&str]) -> Self {
        assert!(self.took < Duration::from_secs(20), "took {:?}", self.took);
        self.ended_with(2, words)
    }

    /// Status 1 and one message on standard error that holds all of `words`.
    #[track_caller]
    pub fn failed(self, words: &[&str]) -> Self {
        self.ended_with(1, words)
    }

    /// As after `kill -9`, or a fault that ends the process.
    #[track_caller]
    pub fn killed(self) -> Self {
        assert_eq!(self.status, None, "{}", self.stderr);
        self
    }

    /// This status and one message on standard error that holds all of `words`.
    #[track_caller]
    pub fn ended_with(self, status: i32, words: &[&str]) -> Self {
        assert_eq!(self.status, Some(status), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        let messages = self.stderr.lines().filter(|line| line.starts_with("selfplay: ")).count();
        assert_eq!(messages, 1, "{}", self.stderr);
        assert!(!self.stderr.contains("panicked") && !self.stderr.contains("defect"), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in: {}", self.stderr);
        }
        self
    }
}

impl From<std::process::Output> for Outcome {
    /// A process whose time nobody took.
    fn from(output: std::process::Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: Duration::ZERO,
        }
    }
}
