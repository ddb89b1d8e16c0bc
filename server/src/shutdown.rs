//! Coming and going in good order: signals, the word to systemd, handing the leadership over.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::door::{Door, NodeStatus, RequestError};

/// How long a transfer of the leadership may take before the member goes anyway.
pub(crate) const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

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

/// What came of giving the leadership away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandedOver {
    /// This member does not lead.
    NotLeader,
    /// There is no other voter.
    NobodyElse,
    /// This one leads now, or is known to.
    To(u64),
}

/// Gives the leadership away, if this member has it, so that the others need not wait for an election
/// timeout: to the voter that has most of the log, and to the next if that one does not take it.
/// Nobody is removed.
pub(crate) async fn hand_over<D: Door>(door: &D, timeout: Duration) -> Result<HandedOver, String> {
    let handing = async {
        let status = door.status();
        if !status.is_leader {
            return Ok(HandedOver::NotLeader);
        }
        if status.peers.iter().all(|peer| peer.is_learner) {
            return Ok(HandedOver::NobodyElse);
        }
        let mut why = "no other voter can be reached".to_owned();
        for to in successors(&status) {
            match door.move_leader(to).await {
                Ok(()) => return Ok(HandedOver::To(door.leadership().leader.unwrap_or(to))),
                Err(RequestError::NotLeader) => return Ok(HandedOver::NotLeader),
                Err(error) => why = format!("member {to:x} did not take it: {error}"),
            }
        }
        Err(why)
    };
    let outcome = tokio::time::timeout(timeout, handing)
        .await
        .unwrap_or_else(|_| Err(format!("nobody else took it within {timeout:?}")));
    match &outcome {
        Ok(HandedOver::To(to)) => tracing::info!(to = format!("{to:x}"), "leadership transferred"),
        Ok(HandedOver::NotLeader | HandedOver::NobodyElse) => {}
        Err(why) => tracing::warn!(why, "leadership not transferred"),
    }
    outcome
}

/// The voters that answer, those with most of the log first.
fn successors(status: &NodeStatus) -> Vec<u64> {
    let candidates = status.peers.iter().filter(|peer| peer.reachable && !peer.is_learner);
    let mut candidates: Vec<_> = candidates.collect();
    candidates.sort_by_key(|peer| std::cmp::Reverse(peer.match_index));
    candidates.into_iter().map(|peer| peer.member_id).collect()
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
    fn the_voters_that_answer_succeed_by_what_they_have_of_the_log() {
        let peer = |member_id, match_index| PeerStatus {
            member_id,
            match_index,
            road: None,
            reachable: true,
            is_learner: false,
        };
        let status = NodeStatus {
            is_leader: true,
            peers: vec![
                peer(1, 5),
                peer(2, 9),
                PeerStatus { reachable: false, ..peer(3, 10) },
                PeerStatus { is_learner: true, ..peer(4, 10) },
            ],
            ..NodeStatus::default()
        };
        assert_eq!(successors(&status), [2, 1]);
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
