use std::io;
use std::process::Command;

use super::*;

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_failing_write_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    write_bytes(&path, b"old").unwrap();
    let result = write(&path, |sink| {
        sink.write_all(b"new")?;
        Err(io::Error::other("stopped"))
    });
    let error = result.unwrap_err();
    assert_eq!(error.to_string(), format!("{}: cannot write: stopped", path.display()));
    assert_eq!(read(&path), "old");
    assert_eq!(names(folder.path()), ["a.txt"]);
    write_bytes(&path, b"new").unwrap();
    assert_eq!(read(&path), "new");
}

#[test]
fn links_are_followed_and_odd_targets_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    write_bytes(&file, b"old").unwrap();
    std::os::unix::fs::symlink("file", &link).unwrap();
    write_bytes(&link, b"new").unwrap();
    assert!(link.is_symlink());
    assert_eq!(read(&file), "new");
    // A link to a file that is not there yet stays a link as well.
    let (later, chain) = (folder.path().join("later"), folder.path().join("chain"));
    create_dir_all(&folder.path().join("inner")).unwrap();
    std::os::unix::fs::symlink("inner/later", &later).unwrap();
    std::os::unix::fs::symlink("later", &chain).unwrap();
    write_bytes(&chain, b"made").unwrap();
    assert!(later.is_symlink() && chain.is_symlink());
    assert_eq!(read(&folder.path().join("inner/later")), "made");
    let circle = folder.path().join("circle");
    std::os::unix::fs::symlink("circle", &circle).unwrap();
    assert!(write_bytes(&circle, b"").is_err() && circle.is_symlink());
    assert_eq!(write_bytes(folder.path(), b"").unwrap_err().source.kind(), io::ErrorKind::IsADirectory);
    assert_eq!(
        write_bytes(Path::new("/dev/null"), b"").unwrap_err().source.kind(),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(write_bytes(Path::new("/"), b"").unwrap_err().source.kind(), io::ErrorKind::IsADirectory);
    let absent = folder.path().join("no/such/file");
    assert_eq!(write_bytes(&absent, b"").unwrap_err().source.kind(), io::ErrorKind::NotFound);
}

fn fill(folder: &Path, text: &str) -> Result<(), WriteError> {
    create_dir_all(&folder.join("inner"))?;
    write_bytes(&folder.join("inner/a"), text.as_bytes())?;
    write_bytes(&folder.join("b"), text.as_bytes())
}

fn stopped(path: &Path) -> WriteError {
    WriteError::at(path, "stop")(io::Error::other("stopped"))
}

#[test]
fn a_folder_appears_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy");
    let failed = write_dir(&path, |temporary| {
        fill(temporary, "half")?;
        assert!(!path.exists());
        Err::<(), _>(stopped(&path))
    });
    assert_eq!(failed.unwrap_err().action, "stop");
    assert!(names(folder.path()).is_empty());

    write_dir(&path, |temporary| fill(temporary, "one")).unwrap();
    let again = write_dir(&path, |temporary| fill(temporary, "two"));
    assert_eq!(again.unwrap_err().source.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(read(&path.join("inner/a")), "one");

    let failed = replace_dir(&path, |_| Err::<(), _>(stopped(&path)));
    assert!(failed.is_err());
    assert_eq!(read(&path.join("b")), "one");
    replace_dir(&path, |temporary| write_bytes(&temporary.join("c"), b"three")).unwrap();
    assert_eq!(names(&path), ["c"]);
    assert_eq!(names(folder.path()), ["policy"]);
}

#[test]
fn where_names_cannot_be_exchanged_three_renames_serve() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    write_dir(&a, |temporary| fill(temporary, "new")).unwrap();
    write_dir(&b, |temporary| fill(temporary, "old")).unwrap();
    set_aside(&a, &b).unwrap();
    assert_eq!((read(&a.join("b")), read(&b.join("b"))), ("old".to_owned(), "new".to_owned()));
    assert_eq!(names(folder.path()), ["a", "b"]);
}

#[test]
fn sharing_links_and_refuses_what_is_there() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let (from, to, copied) =
        (folder.path().join("from"), folder.path().join("to"), folder.path().join("copied"));
    write_bytes(&from, b"text").unwrap();
    assert_eq!(link_or_copy(&from, &to).unwrap(), Shared::Linked);
    assert_eq!(from.metadata().unwrap().ino(), to.metadata().unwrap().ino());
    assert_eq!(link_or_copy(&from, &to).unwrap_err().source.kind(), io::ErrorKind::AlreadyExists);
    copy(&from, &copied).unwrap();
    assert_ne!(from.metadata().unwrap().ino(), copied.metadata().unwrap().ino());
    assert_eq!(read(&copied), "text");
    let absent = folder.path().join("absent");
    assert_eq!(link_or_copy(&absent, &copied).unwrap_err().source.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_torn_line_is_cut_and_whole_ones_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.jsonl");
    let long = "x".repeat(10_000);
    // What is on the disk, and what is left after opening it and appending "z".
    let cases = [
        (String::new(), "z\n".to_owned()),
        ("torn".to_owned(), "z\n".to_owned()),
        (long.clone(), "z\n".to_owned()),
        ("a\nb\n".to_owned(), "a\nb\nz\n".to_owned()),
        ("a\nb\nto".to_owned(), "a\nb\nz\n".to_owned()),
        (format!("a\n{long}"), "a\nz\n".to_owned()),
        (format!("{long}\n{long}"), format!("{long}\nz\n")),
    ];
    for (before, after) in cases {
        write_bytes(&path, before.as_bytes()).unwrap();
        let mut log = AppendLog::open(&path).unwrap();
        log.append_line("z").unwrap();
        log.sync().unwrap();
        assert_eq!(read(&path), after);
    }
    let link = folder.path().join("link.jsonl");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(AppendLog::open(&link).is_err());
    let mut log = AppendLog::open(&path).unwrap();
    assert_eq!(log.append_line("two\nlines").unwrap_err().source.kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn temporaries_are_known_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let ours = [".a.jsonl.tmp-12", ".policy.tmp-3"];
    let others = ["a.tmp-12", ".a.tmp-", ".a.tmp-1x", ".tmp-5", ".hidden"];
    write_bytes(&folder.path().join(ours[0]), b"").unwrap();
    create_dir_all(&folder.path().join(ours[1]).join("inner")).unwrap();
    for name in others {
        write_bytes(&folder.path().join(name), b"").unwrap();
    }
    assert_eq!(remove_temporaries(folder.path()).unwrap(), 2);
    let mut left = others.map(str::to_owned);
    left.sort();
    assert_eq!(names(folder.path()), left);
    assert_eq!(remove_temporaries(&folder.path().join("absent")).unwrap(), 0);
}

const CHILD: &str = "SELFPLAY_TEST_FOLDER";

/// The child of the two tests below: not a test of its own.
#[test]
fn faulty_child() {
    let Some(folder) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let work = || -> Result<(), WriteError> {
        write_bytes(&folder.join("file"), b"new")?;
        replace_dir(&folder.join("dir"), |temporary| fill(temporary, "new"))?;
        AppendLog::open(&folder.join("log"))?.append_line("new")
    };
    match work() {
        Ok(()) => std::process::exit(0),
        Err(error) if error.source.kind() == io::ErrorKind::StorageFull => std::process::exit(3),
        Err(_) => std::process::exit(4),
    }
}

/// Runs the child under each fault until one comes too late; hands over its folder and exit status each time.
fn under_faults(kind: &str, survived: impl Fn(&Path, Option<i32>)) {
    for number in 1..100 {
        let folder = tempfile::tempdir().unwrap();
        write_bytes(&folder.path().join("file"), b"old").unwrap();
        write_dir(&folder.path().join("dir"), |temporary| fill(temporary, "old")).unwrap();
        write_bytes(&folder.path().join("log"), b"old\n").unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "atomic::tests::faulty_child", "--nocapture"])
            .env(CHILD, folder.path())
            .env("SELFPLAY_FAULT", format!("{kind}:{number}"))
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        if status.success() {
            assert!(number > 15, "the child has more operations than {number}");
            return;
        }
        survived(folder.path(), status.code());
        let file = read(&folder.path().join("file"));
        assert!(["old", "new"].contains(&file.as_str()), "{kind}:{number}: {file:?}");
        let dir = ["b", "inner/a"].map(|name| read(&folder.path().join("dir").join(name)));
        assert!(
            [["old", "old"], ["new", "new"]].iter().any(|whole| dir == *whole),
            "{kind}:{number}: {dir:?}"
        );
        remove_temporaries(folder.path()).unwrap();
        assert_eq!(names(folder.path()), ["dir", "file", "log"], "{kind}:{number}");
        AppendLog::open(&folder.path().join("log")).unwrap();
        assert!(["old\n", "old\nnew\n"].contains(&read(&folder.path().join("log")).as_str()));
    }
    panic!("the child never ended");
}

#[test]
fn a_full_disk_at_any_operation_leaves_whole_files() {
    under_faults("enospc", |folder, code| {
        assert_eq!(code, Some(3));
        // Removing needs no space: nothing temporary is left but by a failure after the last rename.
        assert_eq!(names(folder), ["dir", "file", "log"]);
    });
}

#[test]
fn a_kill_at_any_operation_leaves_whole_files() {
    under_faults("kill", |_, code| assert_eq!(code, None));
}

#[test]
fn of_several_makers_of_a_file_one_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("claim");
    let made: usize = std::thread::scope(|scope| {
        let makers: Vec<_> = (0..8_u8)
            .map(|number| {
                let path = &path;
                scope.spawn(move || usize::from(create_new(path, &[number]).unwrap()))
            })
            .collect();
        makers.into_iter().map(|maker| maker.join().unwrap()).sum()
    });
    assert_eq!(made, 1);
    assert_eq!(std::fs::read(&path).unwrap().len(), 1);
    assert!(create_new(&folder.path().join("absent/claim"), b"").is_err());
}

#[test]
fn what_is_published_is_whole_and_leaves_no_temporary() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.json");
    for text in ["first", "second, longer", "3"] {
        publish(&path, text.as_bytes()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    assert!(publish(&folder.path().join("absent/state.json"), b"").is_err());
}

#[test]
fn a_pipe_is_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.jsonl");
    let name = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: the name is a C string; a pipe is made in a folder of this test.
    assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    let error = AppendLog::open(&path).unwrap_err();
    assert_eq!(error.source.kind(), io::ErrorKind::InvalidInput);
}
