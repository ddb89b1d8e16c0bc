//! Whatever is wrong is said in one line on standard error that names the thing, with an exit code
//! that is not 0.

use crate::{NOBODY, metactl, text};

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
        (&["bench", "put", "--value-bytes", "100000000"], "--value-bytes 100000000: from 0"),
        (&["bench", "put", "--value-bytes", "20000000"], "more than 1 GiB would be under way"),
        (&["bench", "put", "--zipf-exponent", "1"], "--zipf-exponent: only with --keys zipf"),
        (&["bench", "put", "--keys", "zipf", "--zipf-exponent", "0"], "--zipf-exponent 0: above 0"),
        (&["bench", "put", "--keys", "zipf", "--zipf-exponent", "nan"], "--zipf-exponent NaN"),
        (&["bench", "mixed", "--ratio", "0:0"], "READS:WRITES expected, each from 1"),
        (&["bench", "mixed", "--ratio", "many"], "'many' for '--ratio <READS:WRITES>'"),
        (&["bench", "range", "--keys-per-range", "0"], "--keys-per-range 0: from 1"),
        (&["bench", "range", "--keys-per-range", "30", "--prefix"], "with --prefix a power of ten"),
        (&["bench", "range", "--prefix"], "more than 2000000 keys would be under way"),
        (&["bench", "txn", "--key-space", "100000000"], "--key-space 100000000: at most"),
        (&["bench", "lease", "grant", "--ttl", "0"], "--ttl 0: from 3 to"),
        (&["bench", "lease", "keepalive", "--leases", "0"], "--leases 0: from 1"),
        (
            &["bench", "lease", "keepalive", "--connections", "0"],
            "--connections must be at least 1",
        ),
        (&["bench", "put", "--html", "/no/such/place/x"], "--html /no/such/place/x: No such file"),
        (&["bench", "put", "--duration", "1e300"], "--duration"),
        (&["bench", "watch", "--value-bytes", "7"], "--value-bytes 7: from 8"),
        (&["bench", "watch", "--watchers", "0"], "--watchers 0"),
        (&["bench", "watch", "--idle-watchers", "9999999"], "--idle-watchers 9999999: at most"),
        (&["log-level", ""], "LEVEL is empty: debug, info, warn or error"),
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
    for command in [
        &["get", "k"][..],
        &["put", "k", "v"],
        &["bench", "put"],
        &["bench", "lease", "keepalive"],
        &["bench", "watch"],
        &["members"],
    ] {
        let arguments = [&["--timeout", "2", "--endpoints", NOBODY][..], command].concat();
        let said = complaint(&arguments, 1);
        assert!(said.contains(NOBODY) && said.contains("cannot be reached"), "{said}");
    }
}

#[test]
fn a_load_says_when_one_side_speaks_tls_and_the_other_does_not() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).unwrap();
    let ca = ca.to_str().unwrap();

    let store = crate::store::start();
    let plain = store.address.to_string();
    let said = complaint(&["--endpoints", &plain, "--cacert", ca, "bench", "put"], 1);
    assert!(said.contains(&plain) && said.contains("it may be a plain endpoint"), "{said}");

    let tls = crate::store::start_tls(&made).to_string();
    let said = complaint(&["--endpoints", &tls, "bench", "put"], 1);
    assert!(said.contains(&tls) && said.contains("it speaks TLS (give --cacert"), "{said}");

    // A CA that did not sign the member's certificate.
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(ca, other.cert.pem()).unwrap();
    let said = complaint(&["--endpoints", &tls, "--cacert", ca, "bench", "put"], 1);
    assert!(said.contains(&tls) && said.contains("certificate"), "{said}");
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
