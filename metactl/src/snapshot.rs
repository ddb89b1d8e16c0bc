//! `snapshot save` and `snapshot status`: the portable file of a whole state.
//!
//! A file gets its name only when it has come in completely, its checksums hold and it is on the
//! disk. Nothing that exists is overwritten.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use client::Client;
use member::state::portable::{PORTABLE_VERSION, PortableReader, PortableStatus};
use serde_json::json;

use crate::restore::Restore;

/// Files are read in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Save the state of the first endpoint that can be reached
    Save(Save),
    /// Check a saved file and show what it holds
    Status(Status),
    /// Make the data directory of a new member of a new cluster from a saved file
    Restore(Restore),
}

#[derive(Debug, Args)]
pub(crate) struct Save {
    /// The file to make
    path: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// The file
    path: PathBuf,
}

impl Save {
    pub(crate) async fn run(&self, client: &Client, json: bool, out: &mut dyn Write) -> Result<()> {
        let shown = self.path.display();
        if self.path.exists() {
            bail!("{shown}: exists already; it is not overwritten");
        }
        let mut part = self.path.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let mut file = file.with_context(|| part.display().to_string())?;
        let saved = receive(client, &mut file).await.and_then(|status| {
            file.sync_all().with_context(|| part.display().to_string())?;
            // A link fails if the name has been taken in the meantime; a rename would replace.
            fs::hard_link(&part, &self.path).with_context(|| shown.to_string())?;
            Ok(status)
        });
        // Whatever happened, it is of no use any more under this name.
        let removed = fs::remove_file(&part).with_context(|| part.display().to_string());
        let status = saved?;
        removed?;
        sync_parent(&self.path)?;
        say(&self.path, &status, json, out)
    }
}

async fn receive(client: &Client, file: &mut File) -> Result<PortableStatus> {
    let mut snapshot = client.snapshot().await?;
    let mut reader = PortableReader::new();
    while let Some((piece, _)) = snapshot.next().await? {
        reader.push(&piece, &mut |_| Ok(())).context("what the server sent")?;
        file.write_all(&piece).context("writing the snapshot")?;
    }
    reader.finish().context("what the server sent")
}

impl Status {
    pub(crate) fn run(&self, json: bool, out: &mut dyn Write) -> Result<()> {
        let mut reader = PortableReader::new();
        read_pieces(&self.path, &mut |piece| Ok(reader.push(piece, &mut |_| Ok(()))?))?;
        let status = reader.finish().with_context(|| self.path.display().to_string())?;
        say(&self.path, &status, json, out)
    }
}

/// Hands over a file piece by piece; errors name it.
pub(crate) fn read_pieces(path: &Path, each: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let named = || path.display().to_string();
    let mut file = File::open(path).with_context(named)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece).with_context(named)? {
            0 => return Ok(()),
            bytes => each(&piece[..bytes]).with_context(named)?,
        }
    }
}

/// Makes the name of a file or directory durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .with_context(|| parent.display().to_string())
}

fn say(path: &Path, status: &PortableStatus, json: bool, out: &mut dyn Write) -> Result<()> {
    let PortableStatus { header, hash, total_bytes } = status;
    if json {
        let row = json!({
            "path": path.display().to_string(),
            "hash": format!("{hash:x}"),
            "revision": header.revision,
            "keys": header.keys,
            "bytes": total_bytes,
            "index": header.index,
            "term": header.term,
            "cluster": format!("{:x}", header.cluster_id),
            "created_by": header.created_by,
            "format": PORTABLE_VERSION,
        });
        writeln!(out, "{row}")?;
        return Ok(());
    }
    writeln!(out, "{}: whole, {total_bytes} bytes", path.display())?;
    writeln!(out, "  hash       {hash:x}")?;
    writeln!(out, "  revision   {}", header.revision)?;
    writeln!(out, "  live keys  {}", header.keys)?;
    writeln!(out, "  raft       index {}, term {}", header.index, header.term)?;
    writeln!(out, "  cluster    {:x}", header.cluster_id)?;
    writeln!(out, "  written by {}, format {PORTABLE_VERSION}", header.created_by)?;
    Ok(())
}
