//! The shell: one member of a cluster as a process.
//!
//! The rooms below decide; this one carries out. It reads the settings, owns the sockets, the files
//! and the clock, turns requests into commands and views into answers, and keeps everything that
//! belongs to an operating system out of the core.
//!
//! A request's way: [`serve`] accepts the connection and hands it to one of several client threads,
//! [`api`] decodes and checks it and knocks at the [`door`], behind which the node proposes, waits
//! and answers; [`http`] serves the plain pages beside it.

pub mod api;
pub mod backend;
pub mod boot;
mod compaction;
pub mod config;
pub mod disk;
pub mod door;
#[cfg(test)]
mod fake;
pub mod fanout;
mod figures;
pub mod http;
mod inbox;
mod leases;
mod membership;
pub mod metrics;
pub mod node;
mod observe;
pub mod peers;
pub mod pre_stop;
pub mod propose;
mod renewals;
pub mod run;
mod seldom;
pub mod serve;
mod shutdown;
pub mod start;
mod strangers;
pub mod telemetry;
mod tickets;
pub mod tls;
mod tuning;
mod values;
pub mod version;
mod vitals;
