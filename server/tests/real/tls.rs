//! TLS with real processes: who is let in, what strangers can hold up, and files that rotate while
//! somebody writes.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Client, Config, Get, KeyRange, Put, RetryPolicy, Tls, WatchOf};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::cluster::{Cluster, PATIENCE, Setup, free_port, until};
use crate::manners::page;

/// Longest wait for an answer that should not come.
const SOON: Duration = Duration::from_secs(2);

pub(crate) type Ca = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signed")
}

/// A certificate and its key, PEM.
pub(crate) fn leaf(ca: &Ca, names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().expect("a key");
    (params.signed_by(&key, ca).expect("signed").pem(), key.serialize_pem())
}

pub(crate) const HOSTS: &[&str] = &["localhost", "127.0.0.1", "::1"];

/// Files as a Kubernetes volume has them: behind a link that is swapped.
pub(crate) struct Volume {
    dir: tempfile::TempDir,
    versions: usize,
}

impl Volume {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let mut volume = Volume { dir: tempfile::tempdir().expect("directory"), versions: 0 };
        volume.swap(files);
        for (name, _) in files {
            let (to, link) = (Path::new("..data").join(name), volume.path(name));
            std::os::unix::fs::symlink(to, link).expect("linked");
        }
        volume
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn swap(&mut self, files: &[(&str, &str)]) {
        self.versions += 1;
        let version = self.path(&format!("..{}", self.versions));
        std::fs::create_dir(&version).expect("made");
        for (name, text) in files {
            std::fs::write(version.join(name), text).expect("written");
        }
        let temporary = self.path("..data_tmp");
        std::os::unix::fs::symlink(&version, &temporary).expect("linked");
        std::fs::rename(temporary, self.path("..data")).expect("swapped");
    }
}

pub(crate) fn identity(volume: &mut Volume, ca: &str, own: &(String, String)) {
    volume.swap(&[("ca", ca), ("cert", &own.0), ("key", &own.1)]);
}

pub(crate) fn server_flags(volume: &Volume, prefix: &str, is_mutual: bool) -> Vec<String> {
    let flag = |name: &str, file: &str| format!("--{prefix}{name}={}", volume.path(file).display());
    let mut flags = vec![flag("cert-file", "cert"), flag("key-file", "key")];
    if is_mutual {
        flags.push(flag("trusted-ca-file", "ca"));
        flags.push(format!("--{prefix}client-cert-auth"));
    }
    flags
}

fn client(endpoint: &str, tls: Tls) -> Client {
    Client::new(Config::new([endpoint.to_owned()]).tls(tls)).expect("a client")
}

/// Whether a client gets no answer, whatever it is told.
async fn is_shut_out(endpoint: &str, tls: Option<Tls>) -> bool {
    let mut config = Config::new([endpoint.to_owned()])
        .request_timeout(SOON)
        .connect_timeout(SOON)
        .retry(RetryPolicy::never());
    if let Some(tls) = tls {
        config = config.tls(tls);
    }
    Client::new(config).expect("a client").status().await.is_err()
}

async fn metric(port: u16, line: &str) -> Option<String> {
    let (_, text) = page(&format!("127.0.0.1:{port}"), "/metrics")?;
    text.lines().find_map(|have| have.strip_prefix(line)).map(|rest| rest.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_find_tls_where_the_url_says_so_and_plain_text_beside_it() {
    let (ca, other) = (ca("ca"), ca("other"));
    let own = leaf(&ca, HOSTS);
    let volume = Volume::new(&[("ca", &ca.pem()), ("cert", &own.0), ("key", &own.1)]);
    let mut flags = server_flags(&volume, "", false);
    let (both, plain, secure) = (free_port(), free_port(), free_port());
    flags.push(format!(
        "--listen-client-urls=https://127.0.0.1:{secure},http://127.0.0.1:{plain},\
         http://127.0.0.1:{both},https://127.0.0.1:{both}"
    ));
    let setup = Setup { client_tls: true, flags, ..Setup::default() };
    let cluster = Cluster::start_with(1, &setup).await;
    let tls = || Tls::new(ca.pem());
    for port in [secure, both] {
        let put = client(&format!("https://127.0.0.1:{port}"), tls()).put(Put::new("k", "v")).await;
        put.unwrap_or_else(|error| panic!("{port}: {error}"));
    }
    for port in [plain, both] {
        let client = Client::new(Config::new([format!("http://127.0.0.1:{port}")])).expect("made");
        assert_eq!(client.get(Get::new("k")).await.expect("get").count, 1, "{port}");
        let (status, _) = page(&format!("127.0.0.1:{port}"), "/version").expect("a page");
        assert_eq!(status, 200);
    }
    let endpoint = format!("https://127.0.0.1:{secure}");
    assert!(is_shut_out(&endpoint, Some(Tls::new(other.pem()))).await);
    assert!(is_shut_out(&format!("http://127.0.0.1:{secure}"), None).await);
    assert!(is_shut_out(&endpoint, Some(tls().server_name("elsewhere"))).await);
    client(&endpoint, tls().server_name("localhost")).status().await.expect("let in");
    let said = cluster.members[0].said();
    assert!(said.contains("serving client traffic securely"), "{said}");
    assert!(said.contains("scheme is HTTP while key and cert files are present"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_certificate_of_the_right_ca_no_client_comes_in() {
    let (ca, other) = (ca("ca"), ca("other"));
    let own = leaf(&ca, HOSTS);
    let volume = Volume::new(&[("ca", &ca.pem()), ("cert", &own.0), ("key", &own.1)]);
    let metrics = free_port();
    let mut flags = server_flags(&volume, "", true);
    flags.push(format!("--listen-metrics-urls=http://127.0.0.1:{metrics}"));
    let setup = Setup { client_tls: true, flags, ..Setup::default() };
    let cluster = Cluster::start_with(1, &setup).await;
    let endpoint = format!("https://{}", cluster.members[0].endpoint());
    let tls = || Tls::new(ca.pem());
    let (cert, key) = leaf(&ca, &["someone"]);
    let friend = client(&endpoint, tls().identity(cert, key));
    friend.put(Put::new("k", "v")).await.expect("let in");
    assert!(is_shut_out(&endpoint, Some(tls())).await, "no certificate");
    let (cert, key) = leaf(&other, &["someone"]);
    assert!(is_shut_out(&endpoint, Some(tls().identity(cert, key))).await, "another CA");
    for reason in ["no_certificate", "unknown_ca"] {
        let line = format!(
            "metastore_tls_handshake_failures_total{{reason=\"{reason}\",scope=\"client\"}}"
        );
        until(reason, || async { (metric(metrics, &line).await? != "0").then_some(()) }).await;
    }
    let line = "metastore_tls_certificate_expiry_seconds{scope=\"client\"}";
    assert!(metric(metrics, line).await.is_some());
    // Probes have no certificate.
    for path in ["/livez", "/readyz", "/health"] {
        let (status, _) = page(&format!("127.0.0.1:{metrics}"), path).expect("a page");
        assert_eq!(status, 200, "{path}");
    }
    friend.put(Put::new("k", "v2")).await.expect("nobody else was disturbed");
}

/// Three members with mutual TLS on all sides, and what it takes to be their client.
struct Secured {
    cluster: Cluster,
    volume: Volume,
    metrics: Vec<u16>,
}

impl Secured {
    async fn start(ca: &Ca) -> Self {
        let own = leaf(ca, HOSTS);
        let volume = Volume::new(&[("ca", &ca.pem()), ("cert", &own.0), ("key", &own.1)]);
        let mut flags = server_flags(&volume, "", true);
        flags.extend(server_flags(&volume, "peer-", true));
        let setup = Setup { client_tls: true, peer_tls: true, flags, ..Setup::default() };
        let mut cluster = Cluster::plan(3, &setup.calm());
        let mut metrics = Vec::new();
        for member in &mut cluster.members {
            let port = free_port();
            member.setup.flags.push(format!("--listen-metrics-urls=http://127.0.0.1:{port}"));
            metrics.push(port);
            member.launch();
        }
        for member in &cluster.members {
            member.ready().await;
        }
        Self { cluster, volume, metrics }
    }

    fn client(&self, tls: Tls) -> Client {
        let endpoints =
            self.cluster.members.iter().map(|member| format!("https://{}", member.endpoint()));
        Client::new(Config::new(endpoints).tls(tls)).expect("a client")
    }

    async fn reloads(&self, scope: &str) -> u64 {
        let line = format!("metastore_tls_reloads_total{{result=\"ok\",scope=\"{scope}\"}}");
        let mut least = u64::MAX;
        for port in &self.metrics {
            let count = metric(*port, &line).await.and_then(|count| count.parse().ok());
            least = least.min(count.unwrap_or(0));
        }
        least
    }

    /// Waits until every member has taken a rotation up on both sides.
    async fn have_reloaded(&self, times: u64) {
        until("a reload", || async {
            let done = self.reloads("client").await >= times && self.reloads("peer").await >= times;
            done.then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_ca_rotate_under_a_writer_and_nothing_fails() {
    let (old, new) = (ca("old"), ca("new"));
    let bundle = old.pem() + &new.pem();
    let mut secured = Secured::start(&old).await;
    let own = |ca: &Ca| leaf(ca, &["client"]);
    let (cert, key) = own(&old);
    let before = secured.client(Tls::new(bundle.clone()).identity(cert, key));
    let mut watch = before.watch(WatchOf::new(KeyRange::prefix("w"))).await.expect("a watch");

    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (client, stop) = (before.clone(), Arc::clone(&stop));
        async move {
            let mut count = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                count += 1;
                client.put(Put::new("w", count.to_string())).await.expect("no write fails");
            }
            count
        }
    });

    // First all trust both, then all get new certificates, then the old CA goes.
    let first = leaf(&old, HOSTS);
    identity(&mut secured.volume, &bundle, &first);
    secured.have_reloaded(1).await;
    let second = leaf(&new, HOSTS);
    identity(&mut secured.volume, &bundle, &second);
    secured.have_reloaded(2).await;
    // New connections of old and new clients, over the new certificate.
    for ca in [&old, &new] {
        let (cert, key) = own(ca);
        let fresh = secured.client(Tls::new(new.pem()).identity(cert, key));
        fresh.put(Put::new("fresh", "x")).await.expect("let in while both are trusted");
    }
    identity(&mut secured.volume, &new.pem(), &second);
    secured.have_reloaded(3).await;

    stop.store(true, Ordering::Relaxed);
    let written = writer.await.expect("the writer ends");
    let found = before.get(Get::new("w")).await.expect("the old connection stands");
    assert_eq!(found.kvs[0].version as u64, written, "no write is lost or made twice");
    let mut seen = 0;
    while seen < written {
        let events = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time");
        seen += events.expect("the old watch goes on").events.len() as u64;
    }
    assert_eq!(seen, written);

    let (cert, key) = own(&old);
    let endpoint = format!("https://{}", secured.cluster.members[0].endpoint());
    assert!(is_shut_out(&endpoint, Some(Tls::new(bundle).identity(cert, key))).await, "the old CA");
    // A member that comes back makes all its connections anew.
    secured.cluster.members[2].kill();
    secured.cluster.members[2].launch();
    secured.cluster.members[2].ready().await;
    let (cert, key) = own(&new);
    let after = secured.client(Tls::new(new.pem()).identity(cert, key));
    until("a write", || async { after.put(Put::new("w", "last")).await.ok() }).await;
    until("the last value on the member that came back", || async {
        let got = after.at(2).get(Get::new("w").serializable()).await.ok()?;
        (got.kvs.first()?.value == "last").then_some(())
    })
    .await;

    // What cannot be used changes nothing.
    secured.volume.swap(&[("ca", "half"), ("cert", &second.0), ("key", &first.1)]);
    let line = "metastore_tls_reloads_total{result=\"failed\",scope=\"client\"}";
    until("a refused reload", || metric(secured.metrics[0], line)).await;
    let (cert, key) = own(&new);
    let late = secured.client(Tls::new(new.pem()).identity(cert, key));
    late.put(Put::new("late", "x")).await.expect("the last good files stay in use");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_the_certificate_of_another_host_is_not_let_in() {
    let ca = ca("ca");
    let own = leaf(&ca, HOSTS);
    let volume = Volume::new(&[("ca", &ca.pem()), ("cert", &own.0), ("key", &own.1)]);
    // It answers under its right name, and calls under a name none of its URLs has.
    let other = leaf(&ca, &["elsewhere"]);
    let disguise = Volume::new(&[("cert", &other.0), ("key", &other.1)]);
    let flags = server_flags(&volume, "peer-", true);
    let mut cluster = Cluster::plan(3, &Setup { peer_tls: true, flags, ..Setup::default() });
    let flag = |name: &str, file: &str| format!("--{name}={}", disguise.path(file).display());
    let odd = [flag("peer-client-cert-file", "cert"), flag("peer-client-key-file", "key")];
    cluster.members[2].setup.flags.extend(odd);
    for member in &mut cluster.members {
        member.launch();
    }
    cluster.members[0].ready().await;
    until("a refusal", || async {
        let refused = "good for none of its URLs";
        cluster.members[..2].iter().any(|member| member.said().contains(refused)).then_some(())
    })
    .await;
}

/// Raises this process's limit of descriptors; children have it, too.
fn many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("up to the maximum");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_silent_connections_and_garbage_keep_nobody_out() {
    const SILENT: usize = 1_200;
    many_descriptors();
    let ca = ca("ca");
    let mut secured = Secured::start(&ca).await;
    let (client_port, peer_port) =
        (secured.cluster.members[0].endpoint(), secured.cluster.members[0].peer_endpoint());
    let connect = |to: &str| TcpStream::connect(to).expect("connected");
    let mut silent: Vec<TcpStream> = Vec::new();
    for number in 0..SILENT {
        let mut stream = connect(if number % 2 == 0 { &client_port } else { &peer_port });
        // Some begin and stop in the middle; some say what is not TLS at all.
        let words: &[u8] = match number % 7 {
            0 => b"\x16\x03\x01\x02\x00\x01",
            1 => b"GET / HTTP/1.1\r\n\r\n",
            2 => b"\0metastore control\n\x16\x03",
            _ => b"",
        };
        // It may have been hung up on already.
        let _ = stream.write_all(words);
        silent.push(stream);
    }
    let (cert, key) = leaf(&ca, &["client"]);
    let tls = Tls::new(ca.pem()).identity(cert, key);
    let among_them = client(&format!("https://{client_port}"), tls.clone());
    until("a put", || async { among_them.put(Put::new("k", "v")).await.ok() }).await;
    // A member whose connections all are new finds its way through, too.
    secured.cluster.members[1].kill();
    secured.cluster.members[1].launch();
    secured.cluster.members[1].ready().await;
    let all = secured.client(tls);
    until("another", || async { all.put(Put::new("k", "v2")).await.ok() }).await;
    // The peer port keeps 256 of its 600.
    let is_closed = |mut stream: &TcpStream| {
        stream.set_nonblocking(true).expect("set");
        let read = stream.read(&mut [0; 64]);
        !read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    until("most to be closed", || async {
        let at_peers = silent.iter().skip(1).step_by(2);
        (at_peers.filter(|stream| is_closed(stream)).count() >= SILENT / 2 - 300).then_some(())
    })
    .await;
}
