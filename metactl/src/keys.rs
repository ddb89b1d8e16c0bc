//! `get`, `put`, `del` and `watch`, for a quick try. etcdctl does all of it and more.
//!
//! With `--json` each answer, and each event of a watch, is one line.

use std::io::Write;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use clap::Args;
use client::proto::mvccpb::KeyValue;
use client::proto::mvccpb::event::EventType;
use client::{Client, Delete, KeyRange, WatchOf};
use serde_json::{Map, Value, json};

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

/// Bytes as a member of a JSON object: text under the name itself, all else in Base64 under
/// `NAME_base64`, so that nothing is guessed and nothing lost.
fn member(object: &mut Map<String, Value>, name: &str, bytes: &Bytes) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert(name.to_owned(), text.into()),
        Err(_) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes).into()),
    };
}

fn pair(kv: &KeyValue, with_value: bool) -> Map<String, Value> {
    let mut object = Map::new();
    member(&mut object, "key", &kv.key);
    if with_value {
        member(&mut object, "value", &kv.value);
        object.insert("create_revision".to_owned(), kv.create_revision.into());
        object.insert("version".to_owned(), kv.version.into());
        object.insert("lease".to_owned(), kv.lease.into());
    }
    object.insert("mod_revision".to_owned(), kv.mod_revision.into());
    object
}

impl Get {
    pub(crate) async fn run(&self, client: &Client, json: bool, out: &mut dyn Write) -> Result<()> {
        let mut get = client::Get::new(range(&self.key, self.prefix))
            .limit(i64::from(self.limit))
            .revision(self.revision);
        if self.serializable {
            get = get.serializable();
        }
        let answer = client.get(get).await?;
        if json {
            let pairs: Vec<_> = answer.kvs.iter().map(|kv| pair(kv, true)).collect();
            let revision = answer.header.map_or(0, |header| header.revision);
            let row = json!({ "revision": revision, "count": answer.count, "kvs": pairs });
            writeln!(out, "{row}")?;
            return Ok(());
        }
        for kv in answer.kvs {
            line(out, &kv.key)?;
            line(out, &kv.value)?;
        }
        Ok(())
    }
}

impl Put {
    pub(crate) async fn run(&self, client: &Client, json: bool, out: &mut dyn Write) -> Result<()> {
        let answer = client.put(client::Put::new(self.key.clone(), self.value.clone())).await?;
        if json {
            let revision = answer.header.map_or(0, |header| header.revision);
            writeln!(out, "{}", json!({ "revision": revision }))?;
        } else {
            writeln!(out, "OK")?;
        }
        Ok(())
    }
}

impl Del {
    pub(crate) async fn run(&self, client: &Client, json: bool, out: &mut dyn Write) -> Result<()> {
        let answer = client.delete(Delete::new(range(&self.key, self.prefix))).await?;
        if json {
            let revision = answer.header.map_or(0, |header| header.revision);
            writeln!(out, "{}", json!({ "revision": revision, "deleted": answer.deleted }))?;
        } else {
            writeln!(out, "{}", answer.deleted)?;
        }
        Ok(())
    }
}

impl Watch {
    pub(crate) async fn run(&self, client: &Client, json: bool, out: &mut dyn Write) -> Result<()> {
        // A watch waits for a cluster as long as it takes; whoever typed a wrong address wants to know.
        client.status().await?;
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
                if json {
                    let mut row = pair(&kv, kind == EventType::Put);
                    row.insert("type".to_owned(), kind.as_str_name().into());
                    writeln!(out, "{}", Value::Object(row))?;
                    continue;
                }
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
