//! The one place where selfplay writes files: whole or not at all, and still there after a power cut.
//!
//! A file is written to a sibling `.NAME.tmp-PID`, fsynced, renamed over its name, and its folder is fsynced; a
//! folder is made whole in such a sibling first. Logs ([`AppendLog`]) grow line by line and lose a torn last line
//! when they are opened again. `clippy.toml` bans the standard library's own ways everywhere else.
//!
//! Every write, fsync, create, link, truncate and rename here is one *operation* of `fault.rs`, so that tests
//! can fill the disk or kill the process at each of them.
//!
//! Longer than other files, as everything that the ban points to has to stand in this one.
//!
//! Past 400 lines because every way to write, and every fault that is tried on it, should be found in one place.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::WriteError;
use crate::fault::operation;
use crate::temporaries::{hold, temporary_sibling};

pub use crate::temporaries::{number_writer, remove_leftovers, remove_temporaries, remove_unheld};

/// Bytes gathered before one write to the file.
const BUFFER_BYTES: usize = 256 * 1024;

/// How [`link_or_copy`] shared a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// Both names are the same file: no bytes were written.
    Linked,
    /// The bytes were copied, because the two names lie on different file systems or hard links are refused.
    Copied,
}

/// Writes the file `path` through `fill`; the old file stays as it was unless everything succeeded.
///
/// The folder of `path` must exist. A symbolic link is followed, so that it still points at the file afterwards.
///
/// # Errors
/// What `fill` or the file system said; `InvalidInput` where `path` is a device, a pipe or has no file name, and
/// `IsADirectory` where it is a folder.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), WriteError> {
    let failed = WriteError::at(path, "write");
    let target = self::target(path).map_err(failed)?;
    let temporary = temporary_sibling(&target).map_err(failed)?;
    // The lock lives until the name is the target's: see `temporaries`.
    let result = fill_file(&temporary, fill, Durability::Disk).map_err(failed).and_then(|lock| {
        rename(&temporary, &target).map_err(WriteError::at(path, "rename")).map(|()| drop(lock))
    });
    if result.is_err() {
        // The first error is the one to tell; a temporary that stays behind is removed by the next command.
        let _ = std::fs::remove_file(&temporary);
        return result;
    }
    sync_folder(parent(&target)).map_err(failed)
}

/// Writes `bytes` as the whole file `path` without waiting for the disk: for what other processes read while this one lives (signs
/// of life), and what a power cut may lose. A disk that is busy with a checkpoint does not hold it up.
///
/// # Errors
/// As [`write()`].
pub fn publish(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let failed = WriteError::at(path, "write");
    let temporary = temporary_sibling(path).map_err(failed)?;
    let filled = fill_file(&temporary, |sink| sink.write_all(bytes), Durability::Process);
    let result = filled.and_then(|lock| rename(&temporary, path).map(|()| drop(lock))).map_err(failed);
    if result.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

/// Makes the file `path` with `bytes` unless a file of that name is there; whether it was made. Of several processes that try at the
/// same time one succeeds, on network file systems too. Like [`publish`] it does not wait for the disk, and a kill in the middle
/// leaves an empty file.
///
/// # Errors
/// The error of the file system.
#[allow(clippy::disallowed_methods)] // This is the file that the ban points to.
pub fn create_new(path: &Path, bytes: &[u8]) -> Result<bool, WriteError> {
    let failed = WriteError::at(path, "make");
    operation().map_err(failed)?;
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => CountedFile(file).write_all(bytes).map(|()| true).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(failed(error)),
    }
}

/// Writes `bytes` as the whole file `path`, as [`write()`] does.
///
/// # Errors
/// As [`write()`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    write(path, |sink| sink.write_all(bytes))
}

/// Makes the folder `path` whole: `fill` gets an empty temporary sibling, every file in it is fsynced, and the
/// sibling is renamed to `path`.
///
/// # Errors
/// `AlreadyExists` where `path` is there, as a [`WriteError`] turned into `E`; else what `fill` or the file system
/// said. The temporary sibling is removed then.
pub fn write_dir<E: From<WriteError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    if path.symlink_metadata().is_ok() {
        let there = io::Error::new(io::ErrorKind::AlreadyExists, "it is there already");
        return Err(WriteError::at(path, "write")(there).into());
    }
    make_dir(path, fill, |temporary| rename(temporary, path))
}

/// As [`write_dir`], but a folder that is there is replaced, and stays as it was unless everything succeeded.
///
/// # Errors
/// `NotADirectory` where `path` is something else than a folder; else what `fill` or the file system said.
pub fn replace_dir<E: From<WriteError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    match path.symlink_metadata() {
        Ok(found) if !found.is_dir() => {
            let other = io::Error::new(io::ErrorKind::NotADirectory, "it is there and is not a folder");
            Err(WriteError::at(path, "write")(other).into())
        }
        Ok(_) => make_dir(path, fill, |temporary| exchange(temporary, path)),
        Err(_) => make_dir(path, fill, |temporary| rename(temporary, path)),
    }
}

/// Gives the file `from` the second name `to`: a hard link, or an atomic copy where links cannot be made.
///
/// A linked file must not be appended to, as both names would grow: logs are to be copied with [`copy`].
///
/// # Errors
/// `AlreadyExists` where `to` is there; else the error of the file system.
pub fn link_or_copy(from: &Path, to: &Path) -> Result<Shared, WriteError> {
    let failed = WriteError::at(to, "link or copy to");
    operation().map_err(failed)?;
    match std::fs::hard_link(from, to) {
        Ok(()) => sync_folder(parent(to)).map(|()| Shared::Linked).map_err(failed),
        Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
            Err(failed(error))
        }
        // EXDEV, EPERM (no hard links here), EMLINK: a copy serves as well.
        Err(_) => copy(from, to).map(|()| Shared::Copied),
    }
}

/// Copies the file `from` to `to`, as [`write()`] writes.
///
/// # Errors
/// As [`write()`], and what reading `from` said.
pub fn copy(from: &Path, to: &Path) -> Result<(), WriteError> {
    let mut source = File::open(from).map_err(WriteError::at(from, "read"))?;
    write(to, |sink| io::copy(&mut source, sink).map(drop))
}

/// Makes the folder `path` and those above it; no error where it is there.
///
/// # Errors
/// The error of the file system.
pub fn create_dir_all(path: &Path) -> Result<(), WriteError> {
    if path.is_dir() {
        return Ok(());
    }
    operation()
        .and_then(|()| std::fs::create_dir_all(path))
        .and_then(|()| sync_folder(parent(path)))
        .map_err(WriteError::at(path, "make the folder"))
}

/// A log that grows by whole lines (`metrics.jsonl`, `events.jsonl`), or by records of bytes.
///
/// ```text
/// line\n line\n li          a process killed here leaves a torn line …
/// line\n line\n             … which the next open removes
/// ```
#[derive(Debug)]
pub struct AppendLog {
    path: PathBuf,
    file: CountedFile,
    /// Length in bytes of the whole lines; a write that failed half-way is cut back to it.
    length: u64,
}

impl AppendLog {
    /// Opens the log at `path`, made where it is absent, and removes a torn last line. A link is not followed.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn open(path: &Path) -> Result<Self, WriteError> {
        Self::open_whole(path, None).map_err(WriteError::at(path, "open"))
    }

    /// As [`AppendLog::open`], for a log of binary records: its first `length` bytes stay, whoever calls knows that they are whole.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn open_at(path: &Path, length: u64) -> Result<Self, WriteError> {
        Self::open_whole(path, Some(length)).map_err(WriteError::at(path, "open"))
    }

    /// With the whole lines, or with `length` bytes.
    #[allow(clippy::disallowed_methods)] // This is the file that the ban points to.
    fn open_whole(path: &Path, length: Option<u64>) -> io::Result<Self> {
        let absent = path.symlink_metadata().is_err();
        operation()?;
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        // A log belongs to its folder: what a link points to would lose its end.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW);
        let mut file = options.open(path)?;
        if !file.metadata()?.is_file() {
            // A pipe that nobody reads takes some lines, and then waits for ever.
            let what = "it is a pipe, a socket or a device, which keeps no log";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let whole = match length {
            Some(length) => length,
            None => whole_lines(&mut file)?,
        };
        let length = whole.min(file.metadata()?.len());
        if length < file.metadata()?.len() {
            operation()?;
            file.set_len(length)?;
        }
        if absent {
            sync_folder(parent(path))?;
        }
        Ok(Self { path: path.to_path_buf(), file: CountedFile(file), length })
    }

    /// Appends `line` and a line end in one write. Not fsynced: see [`AppendLog::sync`].
    ///
    /// # Errors
    /// `InvalidInput` where `line` holds a line end; else the error of the file system, the log then being as before.
    pub fn append_line(&mut self, line: &str) -> Result<(), WriteError> {
        let failed = WriteError::at(&self.path, "write");
        if line.contains('\n') {
            let message = "a log's line cannot hold a line end";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, message)));
        }
        self.append(format!("{line}\n").as_bytes())
    }

    /// Appends a record's bytes in one write. Not fsynced: see [`AppendLog::sync`].
    ///
    /// # Errors
    /// The error of the file system, the log then being as before.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if let Err(error) = self.file.write_all(bytes) {
            // Part of the record may be there; the next open would cut it as well, should this fail.
            let _ = self.file.0.set_len(self.length);
            return Err(WriteError::at(&self.path, "write")(error));
        }
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Waits until the lines are on the disk.
    ///
    /// # Errors
    /// The error of the file system.
    pub fn sync(&self) -> Result<(), WriteError> {
        operation().and_then(|()| self.file.0.sync_data()).map_err(WriteError::at(&self.path, "write"))
    }
}

/// A file whose writes are counted as operations.
#[derive(Debug)]
pub(crate) struct CountedFile(File);

impl Write for CountedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        operation()?;
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// What a written file outlives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durability {
    /// A power cut: it is fsynced.
    Disk,
    /// The process.
    Process,
}

#[allow(clippy::disallowed_methods)] // This is the file that the ban points to.
fn fill_file(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    durability: Durability,
) -> io::Result<File> {
    operation()?;
    let file = File::create(path)?;
    hold(&file);
    let mut sink = BufWriter::with_capacity(BUFFER_BYTES, CountedFile(file));
    let filled = fill(&mut sink).and_then(|()| sink.flush());
    // Taken apart rather than dropped: dropping would try to write the rest of a file that failed.
    let (file, _unwritten) = sink.into_parts();
    filled?;
    if durability == Durability::Disk {
        operation()?;
        file.0.sync_all()?;
    }
    Ok(file.0)
}

fn make_dir<E: From<WriteError>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<(), E>,
    publish: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), E> {
    let failed = WriteError::at(path, "write");
    let temporary = temporary_sibling(path).map_err(failed)?;
    if temporary.symlink_metadata().is_ok() {
        // A process of the same number was killed here: in a container every main process is number 1.
        std::fs::remove_dir_all(&temporary).map_err(failed)?;
    }
    let build = || -> Result<(), E> {
        operation().and_then(|()| std::fs::create_dir(&temporary)).map_err(failed)?;
        let lock = File::open(&temporary).map_err(failed)?;
        hold(&lock);
        fill(&temporary)?;
        sync_tree(&temporary).map_err(failed)?;
        publish(&temporary).map_err(WriteError::at(path, "rename"))?;
        Ok(())
    };
    let result = build();
    // After an exchange the temporary name holds the old folder; after a failure, what was made so far.
    if temporary.symlink_metadata().is_ok() {
        let _ = std::fs::remove_dir_all(&temporary);
    }
    result?;
    Ok(sync_folder(parent(path)).map_err(failed)?)
}

/// Fsyncs every file and folder from `folder` down, contents first.
fn sync_tree(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            operation()?;
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    operation()?;
    match File::open(folder)?.sync_all() {
        // Some network file systems have no fsync of folders; there is no other way to ask for it.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(())
        }
        result => result,
    }
}

#[allow(clippy::disallowed_methods)] // This is the file that the ban points to.
fn rename(from: &Path, to: &Path) -> io::Result<()> {
    operation()?;
    std::fs::rename(from, to)
}

/// Swaps two names in one step, so that no moment has neither folder.
#[cfg(target_os = "linux")]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (from, to) = (text(a)?, text(b)?);
    operation()?;
    // SAFETY: both pointers are NUL-terminated and outlive the call.
    let status = unsafe {
        libc::renameat2(libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), libc::RENAME_EXCHANGE)
    };
    if status == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // The file system cannot exchange.
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => set_aside(a, b),
        _ => Err(error),
    }
}

/// Where names cannot be exchanged: see [`set_aside`].
#[cfg(not(target_os = "linux"))]
fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    set_aside(a, b)
}

/// Puts `a` in `b`'s place in three renames; a crash between them leaves `b` under `.NAME.old`.
fn set_aside(a: &Path, b: &Path) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(b.file_name().unwrap_or_default());
    name.push(".old");
    let aside = b.with_file_name(name);
    rename(b, &aside)?;
    if let Err(error) = rename(a, b) {
        rename(&aside, b)?;
        return Err(error);
    }
    rename(&aside, a)
}

/// The file that [`write()`] makes or replaces for `path`: links are followed, and a link to a file that is not there
/// yet means that file.
///
/// # Errors
/// As [`write()`], of `path`.
pub fn target(path: &Path) -> io::Result<PathBuf> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder, expected a file"))
        }
        // Renaming over /dev/stdout or a pipe would replace it with a file.
        Ok(found) if !found.is_file() => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is not a regular file and cannot be replaced whole",
        )),
        Ok(_) if path.is_symlink() => path.canonicalize(),
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => {
            // Relative to the link's folder; `join` takes an absolute one as it is. A circle of links is another error.
            target(&parent(path).join(std::fs::read_link(path)?))
        }
        Err(error) if path.is_symlink() => Err(error),
        _ => Ok(path.to_path_buf()),
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Length in bytes up to and with the last line end.
fn whole_lines(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    let mut block = [0_u8; 4096];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        // At most 4096, so the cast cannot cut.
        let part = &mut block[..(end - start) as usize];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(part)?;
        if let Some(last) = part.iter().rposition(|&byte| byte == b'\n') {
            return Ok(start + last as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

#[cfg(test)]
mod tests;
