//! One careful caller of any etcd v3 endpoint.
//!
//! It exists so that nobody in this repository writes a retry loop of their own. The promises:
//!
//! * **Every call ends.** Connecting, calling, retrying and buffering have limits with names; see
//!   [`Config`] and [`RetryPolicy`].
//! * **A write is never sent twice.** It is repeated only if no byte of it left the process. When its
//!   answer was lost the error says so: [`Error::outcome_unknown`].
//! * **A watch neither repeats nor loses events** across reconnects, or says that it cannot go on.
//! * **Errors keep etcd's code and message**; see [`Error`].
//!
//! TLS is spoken with members whose endpoint says `https`; see [`Tls`]. Authentication by password is
//! not in this version.
//!
//! ```no_run
//! use client::{Client, Config, Get, KeyRange, Put};
//!
//! # async fn example() -> client::Result<()> {
//! let client = Client::new(Config::new(["127.0.0.1:2379", "127.0.0.1:22379"]))?;
//! client.put(Put::new("greeting", "hello")).await?;
//! let all = client.get(Get::new(KeyRange::prefix("gree"))).await?;
//! assert_eq!(all.count, 1);
//!
//! // One member in particular:
//! for member in client.each() {
//!     println!("{}: revision {:?}", member.endpoint(), member.status().await?.header);
//! }
//! # Ok(()) }
//! ```
//!
//! [`raw`] is for load generators: unary calls whose bytes were prepared beforehand. [`tuning`] is for
//! whoever plans timings: what all members observe, in the planner's words.

mod call;
mod cluster;
mod config;
mod endpoint;
mod error;
mod kv;
mod lease;
mod link;
mod maintenance;
pub mod raw;
mod tls;
pub mod tuning;
mod watch;

use std::sync::Arc;

pub use config::{
    ANSWER_BYTES_MAX, CONNECTION_WINDOW_BYTES, Config, ENDPOINTS_MAX, RetryPolicy,
    STREAM_REQUESTS_MAX, STREAM_WINDOW_BYTES,
};
pub use error::{Error, Result};
pub use kv::{Delete, Get, KeyRange, Op, Put, Txn, When};
pub use lease::LeaseKeeper;
pub use maintenance::Snapshot;
/// The messages that calls take and return.
pub use proto;
pub use tls::Tls;
pub use tonic::Code;
pub use watch::{Watch, WatchOf};

use call::{Caller, Route};

/// A handle to a cluster. Clones share the connections, one to each endpoint, made on demand.
#[derive(Clone, Debug)]
pub struct Client {
    route: Route,
}

impl Client {
    /// Checks the configuration; connects to nothing yet.
    pub fn new(config: Config) -> Result<Self> {
        let caller = Arc::new(Caller::new(config)?);
        Ok(Client { route: Route { caller, only: None } })
    }

    /// The same client held to one endpoint, by its place in the configuration.
    ///
    /// # Panics
    /// If there are not that many endpoints.
    pub fn at(&self, index: usize) -> Self {
        assert!(index < self.route.caller.links.len(), "no endpoint number {index}");
        Client { route: Route { caller: Arc::clone(&self.route.caller), only: Some(index) } }
    }

    /// One client for each endpoint, in the configuration's order.
    pub fn each(&self) -> impl Iterator<Item = Client> + '_ {
        (0..self.route.caller.links.len()).map(|index| self.at(index))
    }

    /// The endpoint of a client held to one, else all, as given.
    pub fn endpoint(&self) -> String {
        let links = &self.route.caller.links;
        match self.route.only {
            Some(index) => links[index].endpoint.text.clone(),
            None => {
                let all: Vec<&str> = links.iter().map(|link| &link.endpoint.text[..]).collect();
                all.join(",")
            }
        }
    }
}
