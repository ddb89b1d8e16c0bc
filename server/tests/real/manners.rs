//! What Kubernetes asks of a member: probes while the log is replayed, and stepping down before it is
//! stopped.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use client::Client;
use proto::admin::LogLevelRequest;
use proto::admin::admin_client::AdminClient;
use tonic::Code;
use tonic::transport::Endpoint;

use crate::cluster::{Cluster, PATIENCE, Setup, free_port, until};

/// Status and body of a page; `None`: nobody answers.
pub(crate) fn page(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// Exit code and what was said.
fn pre_stop(data_dir: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_metastore"))
        .args(["pre-stop", "--timeout", "60s"])
        .env_clear()
        .env("ETCD_DATA_DIR", data_dir)
        .output()
        .expect("the binary starts");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("UTF-8"))
}

pub(crate) async fn leader(client: &Client) -> usize {
    until("a leader", || async {
        for (n, member) in client.each().enumerate() {
            let Ok(status) = member.status().await else { continue };
            if status.leader != 0 && status.header.is_some_and(|h| h.member_id == status.leader) {
                return Some(n);
            }
        }
        None
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pre_stop_moves_the_leadership_and_removes_nobody() {
    let mut cluster = Cluster::start_with(3, &Setup::default().calm()).await;
    let client = cluster.client();
    let old = leader(&client).await;
    let dir = cluster.members[old].data_dir();
    let socket = dir.join("member/control.sock");
    let mode = std::fs::metadata(&socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let (code, said) = pre_stop(&dir);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("leads now"), "{said}");
    let new = leader(&client).await;
    assert_ne!(new, old);
    let (code, said) = pre_stop(&dir);
    assert_eq!((code, said.as_str()), (Some(0), "pre-stop: this member does not lead\n"));
    assert_eq!(client.members().await.expect("members").members.len(), 3);
    cluster.accepts_writes().await;

    assert_eq!(cluster.members[old].terminate(), Some(0));
    assert!(!socket.exists(), "it goes with the member");
    let (code, said) = pre_stop(&dir);
    assert_eq!(code, Some(1));
    assert!(said.contains("no member runs on this data directory"), "{said}");
    cluster.members[old].launch();
    cluster.members[old].ready().await;
    // A socket that kill -9 left behind is in nobody's way.
    cluster.members[old].kill();
    assert!(socket.exists());
    cluster.members[old].launch();
    cluster.members[old].ready().await;
    let quiet = (old + 1..old + 3).map(|n| n % 3).find(|n| *n != new).unwrap_or(old);
    assert_eq!(pre_stop(&cluster.members[quiet].data_dir()).0, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_voter_has_nobody_to_hand_over_to() {
    let cluster = Cluster::start(1).await;
    let (code, said) = pre_stop(&cluster.members[0].data_dir());
    assert_eq!((code, said.as_str()), (Some(0), "pre-stop: there is no other voter\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_not_up_yet_is_alive_and_not_ready() {
    // A peer that takes calls and never answers: whoever asks it whether the cluster runs waits.
    let silent = TcpListener::bind("127.0.0.1:0").expect("bound");
    let metrics = free_port();
    let flags = vec![format!("--listen-metrics-urls=http://127.0.0.1:{metrics}")];
    let mut cluster = Cluster::plan(1, &Setup { flags, ..Setup::default() });
    let member = &mut cluster.members[0];
    let peer = silent.local_addr().expect("bound");
    member.initial_cluster = format!("{},silent=http://{peer}", member.initial_cluster);
    member.launch();
    let address = format!("127.0.0.1:{metrics}");
    let (status, body) = until("the first page", || async { page(&address, "/readyz") }).await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("replaying the log"), "{body}");
    assert_eq!(page(&address, "/livez"), Some((200, "ok\n".to_owned())));
    assert_eq!(page(&address, "/metrics").map(|(status, _)| status), Some(200));
    // Once it is up it waits for a leader, which one of two will never be: alive all the same.
    until("the member's own pages", || async {
        let (status, body) = page(&address, "/readyz")?;
        (status == 503 && body.contains("[-]linearizable_read")).then_some(())
    })
    .await;
    assert_eq!(page(&address, "/livez"), Some((200, "ok\n".to_owned())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_address_of_either_family_means_every_address() {
    if TcpListener::bind("[::1]:0").is_err() {
        return;
    }
    let (client, peer, metrics) = (free_port(), free_port(), free_port());
    let flags = vec![
        format!("--listen-client-urls=http://[::]:{client}"),
        format!("--listen-peer-urls=http://[::]:{peer}"),
        format!("--listen-metrics-urls=http://[::]:{metrics}"),
        format!("--initial-advertise-peer-urls=http://[::1]:{peer}"),
        format!("--initial-cluster={{name}}=http://[::1]:{peer}"),
    ];
    let cluster = Cluster::start_with(1, &Setup { flags, ..Setup::default() }).await;
    for host in ["127.0.0.1", "[::1]"] {
        for (port, path) in [(client, "/health"), (peer, "/members"), (metrics, "/readyz")] {
            let address = format!("{host}:{port}");
            until(&format!("{address}{path}"), || async {
                page(&address, path).filter(|(status, _)| *status == 200).map(drop)
            })
            .await;
        }
    }
    drop(cluster);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_much_is_logged_can_be_changed_while_a_member_runs() {
    const GOODBYE: &str = "received signal; shutting down";
    let mut cluster = Cluster::start(1).await;
    let url = format!("http://{}", cluster.members[0].endpoint());
    let channel = Endpoint::from_shared(url).expect("a URL").connect().await.expect("connected");
    let mut admin = AdminClient::new(channel);
    let mut told = async |level: &str| {
        let answer = admin.log_level(LogLevelRequest { level: level.to_owned() }).await;
        answer.map(|answer| answer.into_inner().level).map_err(|status| status.code())
    };
    assert_eq!(told("").await.as_deref(), Ok("info"));
    assert_eq!(told("loud").await, Err(Code::InvalidArgument));
    assert_eq!(told("debug").await.as_deref(), Ok("debug"));
    assert_eq!(told("error").await.as_deref(), Ok("error"));
    assert_eq!(cluster.members[0].terminate(), Some(0));
    let said = cluster.members[0].said();
    assert!(said.contains("the level of the log was changed"), "{said}");
    assert!(!said.contains(GOODBYE), "an error at least, and nothing less: {said}");

    cluster.members[0].launch();
    cluster.members[0].ready().await;
    assert_eq!(cluster.members[0].terminate(), Some(0));
    assert!(cluster.members[0].said().contains(GOODBYE), "until it restarts");
}
