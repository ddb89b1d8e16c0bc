//! Whatever is wrong is said in one line on standard error that names the thing, with an exit code
//! that is not 0.

use crate::{metactl, text};

/// Runs and expects one line of complaint.
fn complaint(arguments: &[&str], code: i32) -> String {
    let output = metactl(arguments);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
    assert!(said.starts_with("metactl: "), "{arguments:?}: {said}");
    said
}

#[test]
fn a_line_that_makes_no_sense_is_answered_with_one_that_does() {
    for (arguments, names) in [
        (&[][..], "a command is missing"),
        (&["frobnicate"], "'frobnicate'"),
        (&["get"], "<KEY>"),
        (&["get", "k", "--limit", "-1"], "-1"),
        (&["bench", "put", "--keys", "random"], "random"),
        (&["snapshot", "restore", "file"], "--data-dir"),
        (&["--timeout", "soon", "status"], "soon"),
    ] {
        let said = complaint(arguments, 2);
        assert!(said.contains(names), "{arguments:?}: {said}");
    }
}

#[test]
fn values_out_of_their_range_are_named_with_it() {
    for (arguments, names) in [
        (&["bench", "put", "--key-bytes", "3"][..], "--key-bytes 3: from 8 to 1024"),
        (&["bench", "put", "--key-space", "0"], "--key-space must be at least 1"),
        (&["bench", "put", "--key-bytes", "8", "--key-space", "99999999"], "--key-space 99999999"),
        (&["bench", "put", "--clients", "0"], "--clients must be at least 1"),
        (&["bench", "put", "--rate", "0"], "--rate 0"),
        (&["bench", "put", "--total", "0"], "--total must be at least 1"),
        (&["bench", "put", "--duration", "-1"], "-1"),
        (&["bench", "put", "--value-bytes", "2000000"], "--value-bytes 2000000"),
        (&["bench", "watch", "--value-bytes", "7"], "--value-bytes 7: from 8"),
        (&["bench", "watch", "--watchers", "0"], "--watchers 0"),
        (&["dev", "--members", "0"], "--members 0: from 1 to 9"),
        (&["dev", "--metastore", "/no/such/server"], "/no/such/server: no such program"),
        (&["--timeout", "0", "status"], "--timeout 0"),
        (&["--endpoints", "x", "status"], "endpoint \"x\": a port number is missing"),
        (&["--endpoints", "https://a:1", "get", "k"], "https needs a CA"),
        (&["--cacert", "/no/ca", "get", "k"], "/no/ca: No such file"),
        (&["--cert", "/c", "get", "k"], "--cert needs --cacert"),
        (&["--endpoints", "x", "bench", "put"], "endpoint \"x\""),
    ] {
        let output = metactl(arguments);
        let said = text(&output.stderr);
        assert!(!output.status.success(), "{arguments:?}");
        assert_eq!(said.lines().count(), 1, "{arguments:?}: {said}");
        assert!(said.contains(names), "{arguments:?}: {said}");
    }
}

#[test]
fn an_endpoint_nobody_listens_on_is_named() {
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    for command in [&["get", "k"][..], &["put", "k", "v"], &["bench", "put"], &["members"]] {
        let arguments = [&["--timeout", "0.2", "--endpoints", &nobody][..], command].concat();
        let said = complaint(&arguments, 1);
        assert!(said.contains(&nobody) && said.contains("cannot be reached"), "{said}");
    }
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("noise"), vec![7; 5000]).unwrap();
    std::fs::write(path("empty"), b"").unwrap();
    // What etcd's own snapshot is: a bbolt file.
    let mut bbolt = vec![0; 4096];
    bbolt[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
    std::fs::write(path("bbolt"), bbolt).unwrap();
    for (name, says) in [
        ("noise", "not a MetaStore snapshot"),
        ("empty", "cut short"),
        ("bbolt", "an etcd database file"),
        ("missing", "No such file"),
    ] {
        let file = path(name);
        let target = path("data");
        let status = ["snapshot", "status", &file];
        let restore = ["snapshot", "restore", &file, "--data-dir", &target];
        for arguments in [&status[..], &restore] {
            let said = complaint(arguments, 1);
            assert!(said.contains(&file) && said.contains(says), "{said}");
        }
        assert!(!std::path::Path::new(&target).exists());
    }
    for kind in ["wal", "snapshot"] {
        let missing = path("missing");
        assert!(complaint(&["inspect", kind, &missing], 1).contains(&missing));
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    for arguments in [&["--help"][..], &["bench", "put", "--help"], &["--version"]] {
        let output = metactl(arguments);
        assert!(output.status.success() && output.stderr.is_empty());
        assert!(text(&output.stdout).contains("metactl"));
    }
}

#[test]
fn a_reader_who_leaves_early_is_no_failure() {
    use std::process::{Command, Stdio};
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("saved");
    let mut state = member::state::State::from_parts(
        member::state::StateParts::new_cluster(&[]),
        member::state::Limits::default(),
    )
    .unwrap();
    let pieces: Vec<_> = member::state::portable::write(&state.publish(), 9, "test").collect();
    std::fs::write(&file, pieces.concat()).unwrap();
    // A pipe whose reading end is closed before the program starts.
    let mut reader = Command::new("true").stdin(Stdio::piped()).spawn().unwrap();
    let pipe = reader.stdin.take().unwrap();
    reader.wait().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_metactl"))
        .args(["snapshot", "status", file.to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(pipe)
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}
