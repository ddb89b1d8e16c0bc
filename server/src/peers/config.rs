//! What the transport is told at its start, and how it says that something cannot be.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::config::{PeerCompression, Url};
use crate::tls::Tls;

/// Who this member is and how it speaks to others.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// The cluster.
    pub cluster_id: u64,
    /// This member.
    pub member_id: u64,
    /// Differs between two boots of this member.
    pub boot_id: u64,
    /// This program's version.
    pub version: String,
    /// Where to listen (`--listen-peer-urls`).
    pub listen_urls: Vec<Url>,
    /// The timing in force, now and later.
    pub timing: PeerTiming,
    /// Sizes and rates.
    pub limits: PeerLimits,
    /// How what is sent is compressed, for peers that read it.
    pub compression: PeerCompression,
    /// Find out whether a peer whose connection closes is gone, and report it.
    pub crash_hints: bool,
    /// What is needed to speak TLS, for the URLs that ask for it.
    pub tls: Option<Arc<Tls>>,
    /// Added to the wall clock that is told to peers; not 0 only in tests of alerts.
    pub wall_clock_offset_us: i64,
}

/// Sizes and rates of the transport.
#[derive(Clone, Debug)]
pub struct PeerLimits {
    /// Largest message taken from a peer. Every member's largest append must fit.
    pub frame_bytes_max: usize,
    /// Messages waiting for one peer on the append connection.
    pub queue_messages_max: usize,
    /// The same in bytes.
    pub queue_bytes_max: usize,
    /// Between two probes of each peer, whatever the heartbeat interval is.
    pub probe_interval: Duration,
    /// Snapshots sent at one time.
    pub snapshots_sending_max: usize,
    /// Rate of one snapshot, as it is sent; `None`: as fast as it goes.
    pub snapshot_bytes_per_second: Option<u64>,
}

impl Default for PeerLimits {
    fn default() -> Self {
        PeerLimits {
            frame_bytes_max: 16 << 20,
            queue_messages_max: 4_096,
            queue_bytes_max: 64 << 20,
            probe_interval: Duration::from_millis(25),
            snapshots_sending_max: 2,
            snapshot_bytes_per_second: None,
        }
    }
}

/// The timing the transport goes by. It can be set while the transport runs.
#[derive(Clone, Debug)]
pub struct PeerTiming(Arc<AtomicU64>);

impl PeerTiming {
    /// Timing with this election timeout.
    pub fn new(election_timeout: Duration) -> Self {
        let timing = PeerTiming(Arc::default());
        timing.set_election_timeout(election_timeout);
        timing
    }

    /// Puts another election timeout in force.
    pub fn set_election_timeout(&self, election_timeout: Duration) {
        let us = u64::try_from(election_timeout.as_micros()).unwrap_or(u64::MAX);
        self.0.store(us, Ordering::Relaxed);
    }

    pub(super) fn election_timeout(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

/// Where a member is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The member.
    pub id: u64,
    /// Its peer URLs, tried in turn.
    pub urls: Vec<String>,
}

/// Why the transport cannot start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeersError {
    /// A listener cannot be bound.
    #[error("cannot listen for peers on {url}: {why}")]
    Bind {
        /// Where.
        url: String,
        /// What the system says.
        why: String,
    },
    /// Members speak over TCP.
    #[error("cannot listen for peers on {url}: only http:// and https:// are spoken")]
    Scheme {
        /// Where.
        url: String,
    },
    /// TLS is asked for, and there is no certificate.
    #[error("cannot listen for peers on {url}: no certificate is given")]
    NoCertificate {
        /// Where.
        url: String,
    },
    /// No thread, or no runtime on it.
    #[error("cannot start the peer transport: {why}")]
    Thread {
        /// What the system says.
        why: String,
    },
}

impl PeersError {
    pub(super) fn bind(url: &Url, error: &std::io::Error) -> Self {
        // Without the number which Rust adds to the system's words.
        let why = error.to_string();
        let why = why.split(" (os error").next().unwrap_or_default().to_lowercase();
        PeersError::Bind { url: url.to_string(), why }
    }

    pub(super) fn thread(error: &std::io::Error) -> Self {
        PeersError::Thread { why: error.to_string() }
    }
}

/// Why a question to the leader has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// There is no connection: the question has not been asked.
    #[error("not connected to member {0:x}")]
    NotConnected(u64),
    /// No answer in time. It may have been asked.
    #[error("no answer from member {0:x} in time")]
    Timeout(u64),
    /// The connection broke, or the peer refused. It may have been asked.
    #[error("member {id:x}: {why}")]
    Failed {
        /// The peer.
        id: u64,
        /// What happened.
        why: String,
    },
}
