//! The promises of the crate's front page, kept against members that refuse, hang, lie and die.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod fake;
mod retry;
mod watch;
