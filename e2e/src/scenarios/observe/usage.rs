//! A cluster in use: beside a writer somebody reads, watches, holds leases and lets others run out, so that
//! every panel has something to show.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Result;
use client::{Client, Config, Delete, Get, KeyRange, Put, Txn, WatchOf};

/// Between two rounds.
const PAUSE: Duration = Duration::from_millis(250);
/// For one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Of leases that nobody keeps alive.
const SHORT_LEASE_S: i64 = 2;
const LONG_LEASE_S: i64 = 60;

/// Users, as long as this is there.
pub(super) struct Usage {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Usage {
    /// Begins.
    pub(super) fn start(config: &Config) -> Result<Usage> {
        let config = config.clone().request_timeout(ANSWER_LIMIT);
        config.check()?;
        let stop = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&stop);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::spawn(move || {
            runtime.block_on(async {
                while !over.load(Ordering::Relaxed) {
                    // A cluster in trouble is what this is for: whatever fails begins anew.
                    let _ = round_after_round(&config, &over).await;
                    tokio::time::sleep(PAUSE).await;
                }
            });
        });
        Ok(Usage { stop, thread: Some(thread) })
    }
}

impl Drop for Usage {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

async fn round_after_round(config: &Config, over: &AtomicBool) -> client::Result<()> {
    let client = Client::new(config.clone())?;
    let mut watch = client.watch(WatchOf::new(KeyRange::prefix("used/"))).await?;
    let kept = client.lease_grant(LONG_LEASE_S, 0).await?.id;
    let keeper = client.lease_keep_alive(kept).await?;
    let mut round = 0_u64;
    while !over.load(Ordering::Relaxed) {
        let key = format!("used/{}", round % 100);
        round += 1;
        let let_go = client.lease_grant(SHORT_LEASE_S, 0).await?.id;
        client.put(Put::new(key.clone(), "1").lease(let_go)).await?;
        client.put(Put::new("used/kept", "1").lease(kept)).await?;
        let Ok(told) = tokio::time::timeout(ANSWER_LIMIT, watch.next()).await else { break };
        told?;
        client.get(Get::new(key.as_str())).await?;
        client.get(Get::new(KeyRange::prefix("used/")).serializable()).await?;
        client.txn(Txn::new().then(Put::new("used/txn", key.clone()))).await?;
        client.delete(Delete::new("used/txn")).await?;
        tokio::time::sleep(PAUSE).await;
    }
    drop(keeper);
    Ok(())
}
