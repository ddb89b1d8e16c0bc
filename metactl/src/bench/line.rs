//! One connection of a load, made again when it is lost.
//!
//! As etcd's clients do it: the endpoint it belongs to is asked first, then the others without
//! waiting; only a round of all that failed is followed by a pause.

use std::time::{Duration, Instant};

use client::Tls;
use client::raw::Connection;

use super::load::{Pace, Shared};

/// Longest wait for one endpoint.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a round of all endpoints, and before a connection is made again that has just been made.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// A connection that lived shorter says little for its endpoint: the next is asked first.
const STOOD: Duration = Duration::from_secs(1);

/// A connection and where to have it from; shared by all who send over it.
#[derive(Debug)]
pub(crate) struct Line {
    /// The one it belongs to first.
    endpoints: Vec<String>,
    tls: Option<Tls>,
    standing: tokio::sync::Mutex<Standing>,
}

#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) connection: Connection,
    /// How often it was made anew.
    pub(crate) made: u64,
    since: Instant,
    /// The endpoint's place in the line's list.
    at: usize,
}

impl Line {
    /// Connects to the first of the endpoints, or with `any` to the first that can be reached; no
    /// deadline.
    pub(crate) async fn dial(
        endpoints: Vec<String>,
        tls: Option<Tls>,
        any: bool,
    ) -> client::Result<Self> {
        let (mut at, last) = (0, if any { endpoints.len() - 1 } else { 0 });
        let connection = loop {
            match Connection::dial_with(&endpoints[at], tls.as_ref()).await {
                Ok(connection) => break connection,
                Err(error) if at == last => return Err(error),
                Err(_) => at += 1,
            }
        };
        let standing = Standing { connection, made: 0, since: Instant::now(), at };
        Ok(Line { endpoints, tls, standing: tokio::sync::Mutex::new(standing) })
    }

    /// What stands now.
    pub(crate) async fn standing(&self) -> Standing {
        self.standing.lock().await.clone()
    }

    /// What stands after the connection of that number was lost: another's new one, or one made
    /// now. `None`: the stage is over before there is any.
    pub(crate) async fn again(&self, lost: u64, pace: &Pace, shared: &Shared) -> Option<Standing> {
        // Whoever comes first dials for all.
        let mut standing = self.standing.lock().await;
        let first = if standing.since.elapsed() < STOOD { standing.at + 1 } else { 0 };
        if standing.made == lost && first > 0 {
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        while standing.made == lost {
            if pace.is_over() || shared.stopped() {
                return None;
            }
            match self.round(first, shared).await {
                Some((connection, at)) => {
                    *standing = Standing { connection, made: lost + 1, since: Instant::now(), at };
                    shared.reached();
                }
                None => tokio::time::sleep(ROUND_PAUSE).await,
            }
        }
        Some(standing.clone())
    }

    /// The first endpoint that can be reached, from number `first` on.
    async fn round(&self, first: usize, shared: &Shared) -> Option<(Connection, usize)> {
        let count = self.endpoints.len();
        for at in (0..count).map(|turn| (first + turn) % count) {
            let endpoint = &self.endpoints[at];
            let dialling = Connection::dial_with(endpoint, self.tls.as_ref());
            let reason = match tokio::time::timeout(DIAL_TIMEOUT, dialling).await {
                Ok(Ok(connection)) => return Some((connection, at)),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("{endpoint}: cannot be reached within {DIAL_TIMEOUT:?}"),
            };
            shared.unreachable(reason);
        }
        None
    }
}
