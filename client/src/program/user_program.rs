//! The words of a recipe as a program that can be started.

use std::env;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use selfplay_records::Kind;

use super::failure::CommandFailure;

/// A program that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserProgram {
    key: &'static str,
    words: Vec<String>,
}

impl UserProgram {
    /// The program that the first word names: a path, or a name that is looked up in PATH.
    ///
    /// # Errors
    /// There is none, or it cannot be executed.
    pub fn find(key: &'static str, words: &[String]) -> Result<Self, Box<CommandFailure>> {
        let program = Self { key, words: words.to_vec() };
        let first = words.first().map_or("", String::as_str);
        let problem = if first.contains('/') {
            match Path::new(first).metadata() {
                Ok(file) if file.is_dir() => Some("is a folder; the first word is a program".to_owned()),
                Ok(_) if is_executable(Path::new(first)) => None,
                Ok(_) => Some(format!("cannot be executed: chmod +x {first}, or put its interpreter first")),
                Err(error) => Some(format!("no such program ({error})")),
            }
        } else {
            in_path(first)
                .is_none()
                .then(|| "no such program in PATH; the first word is a program".to_owned())
        };
        match problem {
            None => Ok(program),
            Some(problem) => Err(program.absent(problem)),
        }
    }

    /// The key that names it.
    pub fn key(&self) -> &'static str {
        self.key
    }

    /// Its first word.
    pub fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Starts it, with pipes to its three streams, in a process group of its own.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start(&self) -> Result<Child, Box<CommandFailure>> {
        let (first, rest) =
            self.words.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
        let mut command = Command::new(first);
        command.args(rest).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        // Python keeps what it prints to a pipe to itself, and nobody could wait for an answer.
        if env::var_os("PYTHONUNBUFFERED").is_none() {
            command.env("PYTHONUNBUFFERED", "1");
        }
        end_with_parent(&mut command);
        command.spawn().map_err(|error| match error.raw_os_error() {
            Some(libc::ENOEXEC) => {
                self.absent("is no program: a script begins with #! and its interpreter".to_owned())
            }
            Some(libc::ENOENT | libc::EACCES | libc::ENOTDIR | libc::ELOOP) => {
                self.absent(format!("cannot be started: {error}"))
            }
            _ => self.failure(None, format!("cannot be started: {error}")),
        })
    }

    fn absent(&self, problem: String) -> Box<CommandFailure> {
        Box::new(CommandFailure { kind: Kind::Input, ..*self.failure(None, problem) })
    }

    /// A message about it.
    pub fn failure(&self, prompt_id: Option<&str>, problem: String) -> Box<CommandFailure> {
        Box::new(CommandFailure {
            key: self.key,
            program: self.words.join(" "),
            prompt_id: prompt_id.map(str::to_owned),
            problem,
            kind: Kind::Machine,
            last_words: Vec::new(),
        })
    }
}

/// The file that a name without a slash starts.
fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file() && is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o111 != 0)
}

/// Has the kernel end the child with the thread that starts it, also where that is killed. Elsewhere than on Linux the end of its
/// standard input must do.
#[cfg(target_os = "linux")]
fn end_with_parent(command: &mut Command) {
    let parent = std::process::id();
    let arrange = move || {
        let (signal, unused) = (libc::SIGKILL as libc::c_ulong, 0 as libc::c_ulong);
        // SAFETY: two system calls without memory of ours; both may be made between fork and exec.
        let (arranged, now) =
            unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, signal, unused, unused, unused), libc::getppid()) };
        if arranged == -1 {
            return Err(io::Error::last_os_error());
        }
        // The parent was gone before that: nobody would ever end the child.
        if u32::try_from(now) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing, takes no lock and makes system calls alone.
    unsafe { command.pre_exec(arrange) };
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent(_: &mut Command) {}
