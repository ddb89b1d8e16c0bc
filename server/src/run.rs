//! A member's life once it has booted: serve, say so, keep house, and go in good order.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use crate::api::Shared;
use crate::compaction;
use crate::config::{Config, Url};
use crate::door::Door;
use crate::serve::{self, Content, Listener, ServeOptions};
use crate::shutdown::{TRANSFER_TIMEOUT, hand_over, notify_systemd, signalled, stopped};

/// Serves clients until a signal comes or `stop` is turned true elsewhere, which is how the node says
/// that it cannot go on. Afterwards no client is connected any more and the node may be stopped.
pub fn run<D: Door>(
    config: &Config,
    listeners: Vec<Listener>,
    shared: &Arc<Shared<D>>,
    stop: &watch::Sender<bool>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let urls: Vec<_> = listeners
        .iter()
        .filter(|listener| listener.content() != Content::Control)
        .flat_map(|listener| listener.urls().iter().cloned())
        .collect();
    let serving = serve::serve(listeners, shared, ServeOptions::of(config))?;
    let end = runtime.block_on(async {
        let door = shared.door.clone();
        tokio::spawn(tell_when_ready(door.clone(), urls, stop.subscribe()));
        tokio::spawn(compaction::run(door.clone(), config.auto_compaction, stop.subscribe()));
        let mut stopping = stop.subscribe();
        tokio::select! {
            signal = signalled() => {
                tracing::info!(signal = signal?, "received signal; shutting down");
                notify_systemd("STOPPING=1");
                // How it went has been logged; the member goes in any case.
                drop(hand_over(&door, TRANSFER_TIMEOUT).await);
            }
            () = stopped(&mut stopping) => notify_systemd("STOPPING=1"),
        }
        Ok(())
    });
    stop.send_replace(true);
    serving.join();
    shared.fanout.stop();
    end
}

/// Waits for a leader, then tells log and systemd that clients are welcome.
async fn tell_when_ready<D: Door>(door: D, urls: Vec<Url>, mut stopping: watch::Receiver<bool>) {
    let mut leaders = door.leader_changes();
    let leader_known =
        async { leaders.wait_for(|leadership| leadership.leader.is_some()).await.is_ok() };
    let is_ready = tokio::select! {
        is_known = leader_known => is_known,
        () = stopped(&mut stopping) => false,
    };
    if !is_ready {
        return;
    }
    for url in &urls {
        tracing::info!(address = %url, "ready to serve client requests");
        if url.is_tls() {
            tracing::info!(address = %url, "serving client traffic securely");
        } else {
            tracing::warn!(
                address = %url,
                "serving client traffic insecurely; this is strongly discouraged!"
            );
        }
    }
    notify_systemd("READY=1");
}
