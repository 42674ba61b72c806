use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, chown, lchown, symlink};
use std::os::unix::net::UnixListener;
use std::process::Command;

use super::*;

/// `nobody`: somebody else.
const OTHER: u32 = 65_534;

/// Only root can make what others would have made.
fn needs_root() {
    assert_eq!(
        at::user(),
        0,
        "only root can make files of another user: `sudo -E env PATH=\"$PATH\" cargo test -p tracer --lib disk`"
    );
}

/// A folder in which everybody can make files, as `/tmp` is if `sticky`.
fn shared(sticky: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mode = if sticky { 0o1777 } else { 0o777 };
    fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
    folder
}

fn planted(target: &Path, link: &Path) {
    symlink(target, link).unwrap();
    lchown(link, Some(OTHER), Some(OTHER)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// All ways to write a file.
type Way = fn(&Path) -> io::Result<()>;
const WAYS: [(&str, Way); 4] = [
    ("new", |path| create_new(path)?.write_all(b"ours")),
    ("overwritten", |path| match overwrite(path)? {
        Target::File(mut file) | Target::Stream(mut file) => file.write_all(b"ours"),
    }),
    ("replaced", |path| replace(path, b"ours")),
    ("public", |path| replace_public(path, b"ours")),
];

#[test]
fn no_way_leads_through_a_link_at_the_file_itself() {
    for (way, write) in WAYS {
        for sticky in [true, false] {
            let folder = shared(sticky);
            let victim = folder.path().join("victim");
            fs::write(&victim, "theirs").unwrap();
            for target in [victim.clone(), folder.path().join("not-there")] {
                let path = folder.path().join("out");
                let _ = fs::remove_file(&path);
                symlink(&target, &path).unwrap();
                let result = write(&path);
                assert_eq!(fs::read(&victim).unwrap(), b"theirs", "{way}");
                assert!(!folder.path().join("not-there").exists(), "{way}");
                // What is replaced is the link; all else says no.
                let replaces = way == "replaced" || way == "public";
                assert_eq!(result.is_ok(), replaces, "{way}: {result:?}");
                assert_eq!(path.symlink_metadata().unwrap().is_symlink(), !replaces);
            }
        }
    }
}

#[test]
fn no_way_leads_through_a_folder_that_somebody_planted() {
    needs_root();
    for (way, write) in WAYS {
        for sticky in [true, false] {
            let (folder, victim) = (shared(sticky), tempfile::tempdir().unwrap());
            let link = folder.path().join("link");
            planted(victim.path(), &link);
            let error = write(&link.join("out")).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{way}: {error}");
            assert!(
                error.to_string().contains("symbolic link of user 65534"),
                "{error}"
            );
            assert!(names(victim.path()).is_empty(), "{way}");
            // Nor further down, nor through one that leads to it, nor up again.
            fs::create_dir(victim.path().join("sub")).unwrap();
            let inner = tempfile::tempdir().unwrap();
            let ours = inner.path().join("ours");
            symlink(&link, &ours).unwrap();
            for path in [link.join("sub/out"), ours.join("out"), link.join("../out")] {
                write(&path).unwrap_err();
            }
            assert_eq!(names(victim.path()), ["sub"], "{way}");
            assert!(Folder::make(&link.join("new")).is_err());
            assert_eq!(names(victim.path()), ["sub"], "{way}");
        }
    }
}

#[test]
fn a_folder_that_somebody_put_there_leads_nowhere_else() {
    needs_root();
    let (folder, victim) = (shared(true), tempfile::tempdir().unwrap());
    let theirs = folder.path().join("theirs");
    fs::create_dir(&theirs).unwrap();
    chown(&theirs, Some(OTHER), Some(OTHER)).unwrap();
    planted(victim.path(), &theirs.join("events"));
    for (way, write) in WAYS {
        write(&theirs.join("events/out")).unwrap_err();
        assert!(names(victim.path()).is_empty(), "{way}");
        // In it, files can be made: that is what was asked for.
        let path = theirs.join(way);
        write(&path).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().uid(), 0);
    }
    assert!(Folder::make(&theirs.join("events/host=a")).is_err());
    assert!(names(victim.path()).is_empty());
}

#[test]
fn links_of_this_user_and_of_a_users_own_folder_are_followed() {
    let (folder, real) = (shared(true), tempfile::tempdir().unwrap());
    symlink(real.path(), folder.path().join("mine")).unwrap();
    create_new(&folder.path().join("mine/a")).unwrap();
    assert_eq!(names(real.path()), ["a"]);
    needs_root();
    // `sudo tracer record -o ~/data/a.rec`, where ~/data is a link to a larger disk.
    let homes = tempfile::tempdir().unwrap();
    let home = homes.path().join("other");
    fs::DirBuilder::new().mode(0o755).create(&home).unwrap();
    chown(&home, Some(OTHER), Some(OTHER)).unwrap();
    planted(real.path(), &home.join("data"));
    create_new(&home.join("data/b")).unwrap();
    assert_eq!(names(real.path()), ["a", "b"]);
    // What leads in a circle ends.
    symlink("round", folder.path().join("round")).unwrap();
    let error = create_new(&folder.path().join("round/a")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
}

#[test]
fn no_draft_is_written_into_what_was_there() {
    let (folder, victim) = (shared(true), tempfile::tempdir().unwrap());
    let target = victim.path().join("victim");
    fs::write(&target, "theirs").unwrap();
    let hidden = |number: u64| {
        folder
            .path()
            .join(format!(".out.{:012x}.unfinished", number >> 16))
    };
    symlink(&target, hidden(1 << 16)).unwrap();
    symlink(victim.path().join("not-there"), hidden(2 << 16)).unwrap();
    fs::write(hidden(3 << 16), "theirs").unwrap();
    let mut number = 0;
    let mut guessed = || {
        number += 1;
        number << 16
    };
    let around = Folder::open(folder.path()).unwrap();
    let mut draft = Draft::new(around, OsStr::new("out"), OWNER, &mut guessed).unwrap();
    draft.write_all(b"ours").unwrap();
    assert_eq!(mode(&hidden(4 << 16)), 0o600);
    draft.place().unwrap();
    assert_eq!(fs::read(folder.path().join("out")).unwrap(), b"ours");
    assert_eq!(fs::read(&target).unwrap(), b"theirs");
    assert_eq!(names(victim.path()), ["victim"]);
    assert_eq!(fs::read(hidden(3 << 16)).unwrap(), b"theirs");
}

#[test]
fn a_folder_that_is_swapped_meanwhile_changes_nothing() {
    let (folder, victim) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (out, moved) = (folder.path().join("out"), folder.path().join("moved"));
    fs::create_dir(&out).unwrap();
    let mut draft = Draft::beside(&out.join("a")).unwrap();
    fs::rename(&out, &moved).unwrap();
    symlink(victim.path(), &out).unwrap();
    draft.write_all(b"ours").unwrap();
    draft.place().unwrap();
    assert_eq!(fs::read(moved.join("a")).unwrap(), b"ours");
    assert!(names(victim.path()).is_empty());
}

#[test]
fn a_long_name_has_a_draft_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("é".repeat(127));
    replace(&path, b"ours").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"ours");
    assert_eq!(names(folder.path()).len(), 1);
}

#[test]
fn what_is_no_file_is_refused_or_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    assert!(overwrite(&socket).is_err());
    assert!(overwrite(folder.path()).is_err());
    assert!(replace(folder.path(), b"").is_err());
    assert!(matches!(
        overwrite(Path::new("/dev/null")).unwrap(),
        Target::Stream(_)
    ));
    replace(Path::new("/dev/null"), b"x").unwrap();
    // A link in /dev, which root would replace by a file.
    for path in ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/1"] {
        assert!(stream(Path::new(path)).unwrap().is_some(), "{path}");
        assert!(matches!(overwrite(Path::new(path)).unwrap(), Target::Stream(_)));
    }
    assert!(stream(Path::new("/dev/fd/99999")).is_err());
    for path in ["", "/", "..", "a/.."] {
        assert!(create_new(Path::new(path)).is_err(), "{path}");
    }
}

#[test]
fn a_pipe_that_somebody_planted_gets_nothing() {
    let own = shared(true);
    let path = own.path().join("pipe");
    fifo(&path);
    let reader = std::thread::spawn({
        let path = path.clone();
        move || {
            let mut text = String::new();
            File::open(path).unwrap().read_to_string(&mut text).unwrap();
            text
        }
    });
    replace(&path, b"ours").unwrap();
    assert_eq!(reader.join().unwrap(), "ours");
    needs_root();
    lchown(&path, Some(OTHER), Some(OTHER)).unwrap();
    // Nobody reads: it would hang if it opened it.
    for sticky in [true, false] {
        let mode = if sticky { 0o1777 } else { 0o777 };
        fs::set_permissions(own.path(), Permissions::from_mode(mode)).unwrap();
        for error in [overwrite(&path).unwrap_err(), replace(&path, b"").unwrap_err()] {
            assert!(
                error.to_string().contains("pipe or device of user 65534"),
                "{error}"
            );
        }
        assert!(check(&path).is_err());
    }
    assert!(create_new(&path).is_err());
}

#[test]
fn files_of_others_are_not_overwritten() {
    needs_root();
    let folder = shared(true);
    let path = folder.path().join("out");
    fs::write(&path, "theirs").unwrap();
    chown(&path, Some(OTHER), Some(OTHER)).unwrap();
    let error = overwrite(&path).unwrap_err().to_string();
    assert!(error.contains("belongs to user 65534"), "{error}");
    assert!(check(&path).is_err());
    assert!(create_new(&path).is_err());
    assert_eq!(fs::read(&path).unwrap(), b"theirs");
    // What replaces it is another file, and ours.
    let mut old = File::open(&path).unwrap();
    replace(&path, b"ours").unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o7777), (0, 0o600));
    let mut text = String::new();
    old.read_to_string(&mut text).unwrap();
    assert_eq!(text, "theirs");
}

#[test]
fn who_could_read_the_old_file_cannot_read_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let mut reader = File::open(&path).unwrap();
    let Target::File(mut file) = overwrite(&path).unwrap() else {
        panic!("a stream")
    };
    file.write_all(b"new").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), mode(&path)), ("old", 0o600));
    // One that only its owner could read is emptied.
    let before = fs::metadata(&path).unwrap().ino();
    let Target::File(_) = overwrite(&path).unwrap() else {
        panic!("a stream")
    };
    let after = fs::metadata(&path).unwrap();
    assert_eq!((after.ino(), after.len()), (before, 0));
    fs::hard_link(&path, folder.path().join("other")).unwrap();
    assert!(
        overwrite(&path)
            .unwrap_err()
            .to_string()
            .contains("several names")
    );
}

/// In a process of its own, since the umask is one for all threads.
#[test]
fn modes_are_the_same_under_any_umask() {
    const CHILD: &str = "TRACER_TEST_UMASK";
    if let Ok(folder) = std::env::var(CHILD) {
        let folder = Path::new(&folder);
        for (way, write) in WAYS {
            let path = folder.join(way);
            write(&path).unwrap();
            assert_eq!(mode(&path), if way == "public" { 0o644 } else { 0o600 }, "{way}");
        }
        let deep = folder.join("a/b/c");
        Folder::make(&deep).unwrap();
        for path in [&deep, deep.parent().unwrap(), &folder.join("a")] {
            assert_eq!(mode(path), 0o700, "{}", path.display());
        }
        return;
    }
    for umask in ["000", "022", "077", "277", "777"] {
        let folder = tempfile::tempdir().unwrap();
        let own = std::env::current_exe().unwrap();
        let output = Command::new("sh")
            .args([
                "-c",
                "umask $0; exec \"$1\" --exact disk::tests::modes_are_the_same_under_any_umask",
                umask,
            ])
            .arg(own)
            .env(CHILD, folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && said.contains("1 passed"),
            "{umask}: {said}"
        );
    }
}

#[test]
fn a_folder_of_ones_own_is_no_link_and_nobody_elses() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join(".cache/tracer");
    // It is made for its owner only.
    Folder::own(&cache, true).unwrap();
    assert_eq!((mode(&cache), mode(&home.path().join(".cache"))), (0o700, 0o700));
    let around = Folder::own(&cache, false).unwrap();
    fs::DirBuilder::new()
        .mode(0o700)
        .create(cache.join("folder"))
        .unwrap();
    symlink("nowhere", cache.join("link")).unwrap();
    fifo(&cache.join("pipe"));
    fs::write(cache.join("open"), "").unwrap();
    fs::set_permissions(cache.join("open"), Permissions::from_mode(0o666)).unwrap();
    for name in ["folder", "link", "pipe", "open"] {
        assert!(around.read_own(OsStr::new(name)).is_err(), "{name}");
    }
    fs::set_permissions(&cache, Permissions::from_mode(0o777)).unwrap();
    assert!(Folder::own(&cache, false).is_err());
    needs_root();
    fs::remove_dir_all(&cache).unwrap();
    // Whoever owns the home of this user's HOME is somebody else, and chose where it leads.
    let victim = tempfile::tempdir().unwrap();
    planted(victim.path(), &cache);
    assert!(Folder::own(&cache, true).is_err());
    fs::remove_file(&cache).unwrap();
    chown(home.path().join(".cache"), Some(OTHER), Some(OTHER)).unwrap();
    assert!(Folder::own(&cache, true).is_err());
    assert!(names(victim.path()).is_empty());
    assert!(!cache.exists());
}
