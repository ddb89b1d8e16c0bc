//! Real processes of the `metastore` binary, as a user starts them: one member and three, through our
//! own client and through bare stubs, and killed with SIGKILL under load.

mod bytes;
mod cluster;
mod facts;
mod formats;
mod kills;
mod manners;
mod metrics;
mod plans;
#[path = "../shared/ports.rs"]
mod ports;
mod refusals;
mod tls;
mod traces;
mod values;
