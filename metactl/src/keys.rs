//! `get`, `put`, `del` and `watch`, for a quick try. etcdctl does all of it and more.

use std::io::Write;

use anyhow::Result;
use bytes::Bytes;
use clap::Args;
use client::proto::mvccpb::event::EventType;
use client::{Client, Delete, KeyRange, WatchOf};

#[derive(Debug, Args)]
pub(crate) struct Get {
    key: String,
    /// All keys that begin so
    #[arg(long)]
    prefix: bool,
    /// At most so many keys
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    limit: u32,
    /// As of this revision
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    revision: i64,
    /// From the asked member's own state, which may lag
    #[arg(long)]
    serializable: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Put {
    key: String,
    value: String,
}

#[derive(Debug, Args)]
pub(crate) struct Del {
    key: String,
    /// All keys that begin so
    #[arg(long)]
    prefix: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Watch {
    key: String,
    /// All keys that begin so
    #[arg(long)]
    prefix: bool,
    /// From this revision on (default: from now on)
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    revision: i64,
}

fn range(key: &str, prefix: bool) -> KeyRange {
    if prefix { KeyRange::prefix(key.to_owned()) } else { KeyRange::from(key) }
}

/// A key or value on a line of its own, with whatever is no text made visible.
fn line(out: &mut dyn Write, bytes: &Bytes) -> Result<()> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(|c: char| c.is_control()) => writeln!(out, "{text}")?,
        _ => writeln!(out, "{}", bytes.escape_ascii())?,
    }
    Ok(())
}

impl Get {
    pub(crate) async fn run(&self, client: &Client, out: &mut dyn Write) -> Result<()> {
        let mut get = client::Get::new(range(&self.key, self.prefix))
            .limit(i64::from(self.limit))
            .revision(self.revision);
        if self.serializable {
            get = get.serializable();
        }
        for kv in client.get(get).await?.kvs {
            line(out, &kv.key)?;
            line(out, &kv.value)?;
        }
        Ok(())
    }
}

impl Put {
    pub(crate) async fn run(&self, client: &Client, out: &mut dyn Write) -> Result<()> {
        client.put(client::Put::new(self.key.clone(), self.value.clone())).await?;
        writeln!(out, "OK")?;
        Ok(())
    }
}

impl Del {
    pub(crate) async fn run(&self, client: &Client, out: &mut dyn Write) -> Result<()> {
        let answer = client.delete(Delete::new(range(&self.key, self.prefix))).await?;
        writeln!(out, "{}", answer.deleted)?;
        Ok(())
    }
}

impl Watch {
    pub(crate) async fn run(&self, client: &Client, out: &mut dyn Write) -> Result<()> {
        let of = WatchOf::new(range(&self.key, self.prefix)).start_revision(self.revision);
        let mut watch = client.watch(of).await?;
        loop {
            let response = tokio::select! {
                response = watch.next() => response?,
                interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
            };
            for event in response.events {
                let kind = event.r#type();
                let Some(kv) = event.kv else { continue };
                writeln!(out, "{}", if kind == EventType::Delete { "DELETE" } else { "PUT" })?;
                line(out, &kv.key)?;
                if kind == EventType::Put {
                    line(out, &kv.value)?;
                }
            }
            out.flush()?;
        }
    }
}
