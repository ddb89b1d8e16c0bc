//! Watchers of keys that nobody writes: what they cost a server while others are served.
//!
//! Each watches a key of its own, many on one stream as etcd's clients do it, so that a hundred
//! thousand of them need few connections.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::BytesMut;
use client::raw::{Method, StreamReceiver, StreamSender};
use tokio::sync::oneshot;

use super::load::dial;
use super::requests::{self, Watched};
use crate::cli::Target;

/// Watchers of one stream that may wait for the server to take them on.
const UNANSWERED_MAX: usize = 1000;
/// Longest wait for the server to take on one of them.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// They stay until this is dropped.
pub(crate) struct IdleWatchers {
    _stay: oneshot::Sender<()>,
}

impl IdleWatchers {
    /// Returns when the servers have taken on all of them, one stream on each connection.
    pub(crate) fn gather(target: &Target, watchers: usize, connections: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("the idle watchers' runtime")?;
        let connections = connections.clamp(1, watchers);
        let streams = runtime.block_on(async {
            let endpoints = &target.endpoints;
            let endpoints: Vec<String> = (0..connections)
                .map(|connection| endpoints[connection % endpoints.len()].clone())
                .collect();
            let mut opening = tokio::task::JoinSet::new();
            for (number, connection) in
                dial(&endpoints, target.tls.as_ref()).await?.into_iter().enumerate()
            {
                const METHOD: Method = Method::new("/etcdserverpb.Watch/Watch");
                let wire = connection.stream(&METHOD).await?;
                let keys = (number..watchers).step_by(connections);
                drop(opening.spawn(open(wire, keys)));
            }
            let mut streams = Vec::with_capacity(connections);
            while let Some(stream) = opening.join_next().await {
                streams.push(stream??);
            }
            Ok::<_, anyhow::Error>(streams)
        })?;
        for (sender, mut receiver) in streams {
            drop(runtime.spawn(async move {
                // Held, or the stream would end.
                let _sender = sender;
                while let Ok(Some(_)) = receiver.next().await {}
            }));
        }
        let (stay, left) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("idle-watchers".into());
        // Detached: it ends when this is dropped, and holds nothing that must be closed.
        drop(thread.spawn(move || drop(runtime.block_on(left)))?);
        Ok(IdleWatchers { _stay: stay })
    }
}

/// Opens the watchers of one stream.
async fn open(
    (mut sender, mut receiver): (StreamSender, StreamReceiver),
    mut keys: impl ExactSizeIterator<Item = usize>,
) -> Result<(StreamSender, StreamReceiver)> {
    let mut frames = BytesMut::new();
    let mut unanswered = 0;
    while unanswered > 0 || keys.len() > 0 {
        for key in keys.by_ref().take(UNANSWERED_MAX - unanswered) {
            requests::put_watch(&mut frames, key as u64);
            unanswered += 1;
        }
        if !frames.is_empty() {
            sender.send(frames.split().freeze())?;
        }
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, receiver.next())
            .await
            .map_err(|_| anyhow!("an idle watcher was not taken on within {ANSWER_TIMEOUT:?}"))??
            .context("the server ended a watch stream")?;
        match requests::watched(&answer) {
            Watched::Created => unanswered -= 1,
            Watched::Canceled(reason) => bail!("an idle watcher was canceled: {reason}"),
            Watched::Other => {}
        }
    }
    Ok((sender, receiver))
}
