//! Coming and going in good order: signals, the word to systemd, handing the leadership over.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::door::{Door, NodeStatus};

/// How long a transfer of the leadership may take before the member goes anyway.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);

/// Waits until the member stops. The other end going away means the same.
pub(crate) async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|is_stopping| *is_stopping).await;
}

/// Waits for SIGTERM or SIGINT and tells which came.
pub(crate) async fn signalled() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
    }
}

/// Gives the leadership away, if this member has it and somebody can take it, so that the others need
/// not wait for an election timeout.
pub(crate) async fn hand_over<D: Door>(door: &D) {
    let Some(to) = successor(&door.status()) else { return };
    match tokio::time::timeout(TRANSFER_TIMEOUT, door.move_leader(to)).await {
        Ok(Ok(())) => tracing::info!(to = format!("{to:x}"), "leadership transferred"),
        Ok(Err(error)) => tracing::warn!(%error, "leadership not transferred"),
        Err(_) => tracing::warn!("leadership not transferred in time"),
    }
}

/// The voter that has most of the log, among those that answer.
fn successor(status: &NodeStatus) -> Option<u64> {
    let candidates = status.peers.iter().filter(|peer| peer.reachable && !peer.is_learner);
    let best = candidates.max_by_key(|peer| peer.match_index)?;
    status.is_leader.then_some(best.member_id)
}

/// Tells systemd, if it started us with `Type=notify`.
pub(crate) fn notify_systemd(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = notify(&path.to_string_lossy(), state) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Sends one datagram. A name with "@" in front is one of Linux's abstract sockets.
fn notify(path: &str, state: &str) -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::SocketAddr;
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::door::PeerStatus;

    #[test]
    fn the_voter_with_most_of_the_log_succeeds() {
        let peer = |member_id, match_index| PeerStatus {
            member_id,
            match_index,
            reachable: true,
            is_learner: false,
        };
        let mut status = NodeStatus {
            is_leader: true,
            peers: vec![
                peer(1, 5),
                peer(2, 9),
                PeerStatus { reachable: false, ..peer(3, 10) },
                PeerStatus { is_learner: true, ..peer(4, 10) },
            ],
            ..NodeStatus::default()
        };
        assert_eq!(successor(&status), Some(2));
        status.is_leader = false;
        assert_eq!(successor(&status), None, "only a leader has something to hand over");
        status.is_leader = true;
        status.peers.clear();
        assert_eq!(successor(&status), None);
    }

    #[test]
    fn systemd_gets_one_datagram() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        notify(path.to_str().expect("UTF-8"), "READY=1").expect("sent");
        let mut buf = [0; 32];
        let received = socket.recv(&mut buf).expect("received");
        assert_eq!(&buf[..received], b"READY=1");
    }
}
