//! The promises of the crate's front page, kept against members that refuse, hang, lie and die.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::time::Duration;

mod fake;
mod retry;
mod watch;

/// Far longer than anything here takes: a promise that is broken by silence is a failed test too.
const PATIENCE: Duration = Duration::from_secs(30);

/// What has to come, or the test fails.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it did not come")
}
