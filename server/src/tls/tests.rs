//! Files that rotate, files that are wrong, and who is let in.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

use super::*;
use crate::config::TlsProtocol;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
}

/// A certificate and its key, PEM.
fn leaf(
    ca: &Ca,
    cn: &str,
    names: &[&str],
    change: impl FnOnce(&mut CertificateParams),
) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(rcgen::DnType::CommonName, cn);
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    change(&mut params);
    let key = KeyPair::generate().expect("a key");
    (params.signed_by(&key, ca).expect("signed").pem(), key.serialize_pem())
}

struct Files {
    dir: TempDir,
    files: TlsFiles,
}

impl Files {
    fn new(ca: &Ca, own: &(String, String)) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let path = |name: &str| dir.path().join(name);
        let protocol = TlsProtocol { has_12: true, has_13: true, suites: None };
        let files = TlsFiles {
            cert: path("cert"),
            key: path("key"),
            dial: None,
            trusted_ca: Some(path("ca")),
            crl: None,
            allowed_cns: Vec::new(),
            allowed_hostnames: Vec::new(),
            check_caller_names: true,
            protocol,
        };
        let files = Self { dir, files };
        files.write("ca", ca.pem());
        files.write("cert", &own.0);
        files.write("key", &own.1);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).expect("written");
    }

    fn load(&self) -> Arc<Tls> {
        Tls::load(Scope::Peer, &self.files, &Arc::new(Metrics::new())).expect("good files")
    }

    fn refusal(&self) -> String {
        let tls = Tls::load(Scope::Peer, &self.files, &Arc::new(Metrics::new()));
        tls.expect_err("refused")
            .to_string()
            .replace(&format!("{}/", self.dir.path().display()), "")
    }
}

fn own(ca: &Ca) -> (String, String) {
    leaf(ca, "m1", &["m1.test"], |_| {})
}

/// Both halves of a handshake; whether each side is content.
async fn shake(server: &Tls, client: &Tls, host: &str) -> (bool, Result<(), String>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let connecting = async {
        let mut stream =
            client.connect(near, host, Speaks::Http2).await.map_err(|e| e.to_string())?;
        // In TLS 1.3 the server's verdict on the client comes with the first bytes.
        let mut first = [0];
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut first).await;
        read.map(drop).map_err(|error| error.to_string())
    };
    let accepting = async {
        let mut stream = server.accept(far, "a test").await?;
        let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await;
        let _ = tokio::io::AsyncWriteExt::flush(&mut stream).await;
        Some(())
    };
    let (connected, accepted) = tokio::join!(connecting, accepting);
    (accepted.is_some(), connected)
}

#[test]
fn what_cannot_be_used_is_named_with_what_is_wrong() {
    let ca = ca("ca");
    let good = own(&ca);
    let files = Files::new(&ca, &good);
    files.load();
    files.write("key", own(&ca).1);
    assert_eq!(files.refusal(), "key: not the key of the certificate");
    files.write("key", "x");
    assert!(files.refusal().starts_with("key: no private key in PEM"), "{}", files.refusal());
    files.write("key", &good.1);
    files.write("cert", &good.0[..good.0.len() / 2]);
    assert!(files.refusal().starts_with("cert: "), "{}", files.refusal());
    files.write("cert", "");
    assert_eq!(files.refusal(), "cert: no certificate in PEM");
    files.write("cert", &good.0);
    files.write("ca", "");
    assert_eq!(files.refusal(), "ca: no certificate in PEM");
    std::fs::remove_file(files.path("ca")).expect("removed");
    assert_eq!(files.refusal(), "ca: no such file or directory");
    files.write("ca", vec![b'x'; (1 << 20) + 1]);
    assert_eq!(files.refusal(), "ca: more than 1048576 bytes");
}

#[tokio::test]
async fn a_rotated_certificate_and_ca_hold_for_the_next_handshake() {
    let (old, new) = (ca("old"), ca("new"));
    let server = Files::new(&old, &own(&old));
    let client = Files::new(&old, &own(&old));
    let (serving, dialling) = (server.load(), client.load());
    assert_eq!(shake(&serving, &dialling, "m1.test").await, (true, Ok(())));
    assert!(!serving.refresh().expect("nothing new"));
    // Both trust both, then each gets its new certificate, then the old CA goes.
    let bundle = old.pem() + &new.pem();
    for step in 0..3 {
        for (files, tls) in [(&server, &serving), (&client, &dialling)] {
            match step {
                0 => files.write("ca", &bundle),
                1 => {
                    let (cert, key) = own(&new);
                    files.write("cert", cert);
                    files.write("key", key);
                }
                _ => files.write("ca", new.pem()),
            }
            assert!(tls.refresh().expect("good files"));
            assert_eq!(shake(&serving, &dialling, "m1.test").await, (true, Ok(())), "step {step}");
        }
    }
    let stranger = Files::new(&old, &own(&old)).load();
    let (accepted, connected) = shake(&serving, &stranger, "m1.test").await;
    assert!(!accepted && connected.is_err(), "the old CA is trusted no more");
}

#[tokio::test]
async fn a_bad_new_file_leaves_the_good_old_one_in_use() {
    let ca = ca("ca");
    let files = Files::new(&ca, &own(&ca));
    let tls = files.load();
    let client = Files::new(&ca, &own(&ca)).load();
    let expired = leaf(&ca, "m1", &["m1.test"], |params| {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    });
    let early =
        leaf(&ca, "m1", &["m1.test"], |params| params.not_before = date_time_ymd(3000, 1, 1));
    for (cert, key) in [("half".to_owned(), "half".to_owned()), expired, early] {
        files.write("cert", cert);
        files.write("key", key);
        tls.refresh().expect_err("not usable");
        assert_eq!(shake(&tls, &client, "m1.test").await, (true, Ok(())));
    }
    let (cert, key) = own(&ca);
    files.write("cert", cert);
    tls.refresh().expect_err("half of the pair");
    files.write("key", key);
    assert!(tls.refresh().expect("the whole pair"));
}

#[tokio::test]
async fn a_swapped_symbolic_link_is_a_new_content() {
    let ca = ca("ca");
    let files = Files::new(&ca, &own(&ca));
    let volume = |name: &str, (cert, key): (String, String)| {
        let dir = files.path(name);
        std::fs::create_dir(&dir).expect("made");
        for (file, text) in [("cert", cert), ("key", key), ("ca", ca.pem())] {
            std::fs::write(dir.join(file), text).expect("written");
        }
        dir
    };
    let link = |to: &Path| {
        let temporary = files.path("..data_tmp");
        std::os::unix::fs::symlink(to, &temporary).expect("linked");
        std::fs::rename(&temporary, files.path("..data")).expect("swapped");
    };
    link(&volume("1", own(&ca)));
    for name in ["cert", "key", "ca"] {
        std::fs::remove_file(files.path(name)).expect("removed");
        std::os::unix::fs::symlink(files.path("..data").join(name), files.path(name))
            .expect("linked");
    }
    let tls = files.load();
    assert!(!tls.refresh().expect("the same"));
    link(&volume("2", own(&ca)));
    assert!(tls.refresh().expect("the new ones"));
}

#[tokio::test]
async fn who_has_no_certificate_or_another_ca_or_another_name_is_refused() {
    let (ca, other) = (ca("ca"), ca("other"));
    let mut files = Files::new(&ca, &own(&ca));
    let server = files.load();
    let refused = |reason: &str| {
        server.metrics.tls_handshake_failures.with_label_values(&["peer", reason]).get()
    };
    let stranger = Files::new(&other, &own(&other));
    stranger.write("ca", ca.pem());
    let (accepted, connected) = shake(&server, &stranger.load(), "m1.test").await;
    assert!(!accepted && connected.is_err());
    assert_eq!(refused("unknown_ca"), 1);
    let friend = Files::new(&ca, &own(&ca)).load();
    let (_, connected) = shake(&server, &friend, "m2.test").await;
    assert!(connected.expect_err("another host").contains("not valid for name"));
    assert_eq!(refused("refused_by_peer"), 1);

    files.files.allowed_cns = vec!["m1".to_owned()];
    let server = files.load();
    assert_eq!(shake(&server, &friend, "m1.test").await, (true, Ok(())));
    let guest = Files::new(&ca, &leaf(&ca, "guest", &["m1.test"], |_| {})).load();
    let (accepted, connected) = shake(&server, &guest, "m1.test").await;
    assert!(!accepted && connected.is_err());
    files.files.allowed_cns = Vec::new();
    files.files.allowed_hostnames = vec!["m1.test".to_owned()];
    assert!(shake(&files.load(), &guest, "m1.test").await.0, "its name is allowed");
    files.files.allowed_hostnames = vec!["m2.test".to_owned()];
    assert!(!shake(&files.load(), &friend, "m1.test").await.0);
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_in_either_direction() {
    let ca = ca("ca");
    let serial = SerialNumber::from(77);
    let revoked = leaf(&ca, "m2", &["m1.test"], |p| p.serial_number = Some(serial.clone()));
    let list = CertificateRevocationListParams {
        this_update: date_time_ymd(2020, 1, 1),
        next_update: date_time_ymd(2200, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: serial,
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&ca).expect("signed");
    let mut files = Files::new(&ca, &own(&ca));
    files.files.crl = Some(files.path("crl"));
    files.write("crl", list.pem().expect("PEM"));
    let careful = files.load();
    let bad = Files::new(&ca, &revoked).load();
    assert!(!shake(&careful, &bad, "m1.test").await.0);
    assert!(shake(&bad, &careful, "m1.test").await.1.is_err());
    let good = Files::new(&ca, &own(&ca)).load();
    assert_eq!(shake(&careful, &good, "m1.test").await, (true, Ok(())));
    // As etcd has it.
    files.write("crl", list.der());
    assert!(careful.refresh().expect("a list in DER"));
    assert!(!shake(&careful, &bad, "m1.test").await.0);
}

#[test]
fn a_certificate_speaks_for_its_hosts_and_one_without_names_for_all() {
    let ca = ca("ca");
    let fits_hosts = |names: &[&str], hosts: &[&str]| {
        use rustls::pki_types::pem::PemObject as _;
        let (pem, _) = leaf(&ca, "m1", names, |_| {});
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        fits(&certificate, hosts.iter().copied())
    };
    assert!(fits_hosts(&["*.demo.ns.svc"], &["demo-0.demo.ns.svc"]));
    assert!(fits_hosts(&["a", "127.0.0.1"], &["x", "127.0.0.1"]));
    assert!(fits_hosts(&["::1"], &["::1"]));
    assert!(!fits_hosts(&["demo-0.demo.ns.svc"], &["demo-1.demo.ns.svc"]));
    assert!(!fits_hosts(&["127.0.0.1"], &["127.0.0.2"]));
    assert!(!fits_hosts(&["a"], &[]));
    assert!(fits_hosts(&[], &["anything"]));
}
