//! `snapshot restore`: a saved state becomes the data directory of a new member of a new cluster.
//!
//! Run once for each member of the new cluster, with the same file and `--initial-cluster`, it gives
//! each a directory with the same beginning: the flags and what follows from them are those of
//! `etcdutl snapshot restore`. The directory appears under its name when it is complete, or not at
//! all.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use client::proto::log::Member;
use member::state::portable::{PortableError, PortableReader};
use member::state::snapshot::Restore as Chunks;
use member::state::{Limits, StateParts, Values};
use member::wal::{Identity, LogOptions};
use member::{Recovery, identity};

use crate::files::Files;
use crate::snapshot::{read_pieces, sync_parent};

const PEER_URL_DEFAULT: &str = "http://localhost:2380";

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The saved file
    path: PathBuf,
    /// The directory to make; if it exists it must be empty
    #[arg(long)]
    data_dir: PathBuf,
    /// Name of this member
    #[arg(long, default_value = "default")]
    name: String,
    /// All members of the new cluster, as NAME=URL,… (default: this member alone)
    #[arg(long, value_name = "NAME=URL,...")]
    initial_cluster: Option<String>,
    /// Where the others reach this member, as in the new cluster
    #[arg(long, value_name = "URL,...", default_value = PEER_URL_DEFAULT)]
    initial_advertise_peer_urls: String,
    /// Tells clusters with the same members apart
    #[arg(long, default_value = "etcd-cluster")]
    initial_cluster_token: String,
    /// Go on so many revisions later, so that what clients have seen since never repeats
    #[arg(long, default_value_t = 0, value_name = "REVISIONS")]
    bump_revision: u64,
    /// End all watches of before (required with --bump-revision)
    #[arg(long)]
    mark_compacted: bool,
    /// Do not insist on the checksum over the whole file; its parts must still hold
    #[arg(long)]
    skip_hash_check: bool,
    /// Do nothing if the directory holds a member already, instead of refusing
    #[arg(long)]
    if_absent: bool,
}

impl Restore {
    pub(crate) fn run(&self, json: bool, out: &mut dyn Write) -> Result<()> {
        if self.mark_compacted != (self.bump_revision > 0) {
            bail!("--bump-revision and --mark-compacted need each other");
        }
        let (identity, members) = self.new_cluster()?;
        if self.if_absent && self.data_dir.join("member").is_dir() {
            let shown = self.data_dir.display();
            if json {
                let row = serde_json::json!({ "data_dir": shown.to_string(), "restored": false });
                writeln!(out, "{row}")?;
            } else {
                writeln!(out, "{shown}: holds a member already, nothing was restored")?;
            }
            return Ok(());
        }
        self.check_target()?;
        let mut parts = self.read()?;
        if self.bump_revision > 0 {
            let bumped = i64::try_from(self.bump_revision)
                .ok()
                .and_then(|bump| parts.applied.revision.checked_add(bump));
            let bumped = bumped.with_context(|| {
                format!("--bump-revision {}: beyond all revisions", self.bump_revision)
            })?;
            parts.applied.revision = bumped;
            parts.applied.compact_revision = bumped;
        }
        parts.set_members(members);
        let revision = parts.applied.revision;
        self.write(identity, parts)?;
        let shown = self.data_dir.display();
        let Identity { cluster_id, member_id } = identity;
        if json {
            let row = serde_json::json!({
                "data_dir": shown.to_string(),
                "cluster": format!("{cluster_id:x}"),
                "member": format!("{member_id:x}"),
                "revision": revision,
            });
            writeln!(out, "{row}")?;
        } else {
            writeln!(
                out,
                "{shown}: member {member_id:x} of cluster {cluster_id:x}, revision {revision}"
            )?;
        }
        Ok(())
    }

    /// The founders, and who among them this is.
    fn new_cluster(&self) -> Result<(Identity, Vec<Member>)> {
        let alone = || {
            let urls = self.initial_advertise_peer_urls.split(',');
            let all: Vec<String> = urls.map(|url| format!("{}={url}", self.name)).collect();
            all.join(",")
        };
        let cluster = self.initial_cluster.clone().unwrap_or_else(alone);
        let founders = parse_cluster(&cluster)?;
        let Some(own) = founders.get(&self.name) else {
            bail!("--initial-cluster {cluster}: has no member {:?}", self.name);
        };
        let mut advertised: Vec<String> = Vec::new();
        for url in self.initial_advertise_peer_urls.split(',') {
            advertised.push(peer_url("--initial-advertise-peer-urls", url)?);
        }
        advertised.sort();
        if *own != advertised {
            bail!(
                "--initial-cluster has {}={}, --initial-advertise-peer-urls has {}",
                self.name,
                own.join(","),
                advertised.join(",")
            );
        }
        let members: Vec<Member> = founders
            .iter()
            .map(|(name, urls)| Member {
                id: identity::member_id(urls, &self.initial_cluster_token),
                name: name.clone(),
                peer_urls: urls.clone(),
                ..Member::default()
            })
            .collect();
        let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
        let identity = Identity {
            cluster_id: identity::cluster_id(&ids),
            member_id: identity::member_id(own, &self.initial_cluster_token),
        };
        Ok((identity, members))
    }

    fn check_target(&self) -> Result<()> {
        let named = || self.data_dir.display().to_string();
        match fs::read_dir(&self.data_dir) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(named),
            Ok(mut entries) => match entries.next() {
                None => Ok(()),
                Some(_) => bail!("{}: not empty; nothing was changed", named()),
            },
        }
    }

    fn read(&self) -> Result<StateParts> {
        let mut reader = PortableReader::new();
        let mut chunks = Chunks::new();
        let mut ignored_sum = false;
        read_pieces(&self.path, &mut |piece| {
            if ignored_sum {
                return Ok(());
            }
            match reader.push(piece, &mut |chunk| Ok(chunks.push(chunk)?)) {
                Err(PortableError::Sum) if self.skip_hash_check => {
                    ignored_sum = true;
                    Ok(())
                }
                pushed => Ok(pushed?),
            }
        })?;
        let named = || self.path.display().to_string();
        if !ignored_sum {
            reader.finish().with_context(named)?;
        }
        chunks.finish().with_context(named)
    }

    /// Fills a directory beside the target and gives it the target's name when it is complete.
    fn write(&self, identity: Identity, parts: StateParts) -> Result<()> {
        let named = || self.data_dir.display().to_string();
        let mut part = self.data_dir.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let parent = part.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(parent) = parent {
            fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        }
        if self.if_absent && part.is_dir() {
            // Of a run that was killed; whoever restores where there is nothing yet restores again.
            fs::remove_dir_all(&part).with_context(|| part.display().to_string())?;
        }
        DirBuilder::new().mode(0o700).create(&part).with_context(|| part.display().to_string())?;
        let files = Files::new_directory(&part);
        let recovery = Recovery {
            log: LogOptions {
                salt_seed: std::hash::RandomState::new().build_hasher().finish(),
                ..LogOptions::default()
            },
            limits: Limits::default(),
            log_entries_kept: 0,
            log_bytes_kept: 0,
            values: Values::default(),
        };
        let made = member::bootstrap(files.clone(), files, identity, parts, &recovery)
            .with_context(named)
            // Fails, rather than replaces, if something has appeared there.
            .and_then(|()| fs::rename(&part, &self.data_dir).with_context(named));
        if made.is_err() {
            // Only what this run has made.
            drop(fs::remove_dir_all(&part));
        }
        made?;
        sync_parent(&self.data_dir)
    }
}

/// Members and their URLs out of `NAME=URL,NAME=URL`; a name may stand there more than once.
fn parse_cluster(text: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut seen = Vec::new();
    for part in text.split(',') {
        let Some((name, url)) = part.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            bail!("--initial-cluster {text}: {part:?} is not NAME=URL");
        };
        let url = peer_url("--initial-cluster", url)?;
        if seen.contains(&url) {
            bail!("--initial-cluster {text}: {url} is given twice");
        }
        seen.push(url.clone());
        members.entry(name.to_owned()).or_default().push(url);
    }
    for urls in members.values_mut() {
        urls.sort();
    }
    Ok(members)
}

/// A URL that a member can be reached at, or an error that names the flag.
fn peer_url(flag: &str, text: &str) -> Result<String> {
    let address = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(address) = address else {
        bail!("{flag} {text}: must be http://HOST:PORT or https://HOST:PORT");
    };
    client::Config::new([address]).check().with_context(|| flag.to_owned())?;
    Ok(text.trim_end_matches('/').to_owned())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use member::state::{State, portable};
    use std::path::Path;

    /// A portable file with a few keys.
    pub(crate) fn saved(directory: &Path) -> PathBuf {
        let founder = Member { id: 7, name: "old".into(), ..Member::default() };
        let parts = StateParts::new_cluster(&[founder]);
        let mut state = State::from_parts(parts, Limits::default()).unwrap();
        let view = state.publish();
        let path = directory.join("saved");
        let pieces: Vec<_> = portable::write(&view, 9, "test").collect();
        fs::write(&path, pieces.concat()).unwrap();
        path
    }

    pub(crate) fn restore(path: &Path, data_dir: &Path) -> Restore {
        Restore {
            path: path.to_path_buf(),
            data_dir: data_dir.to_path_buf(),
            name: "default".into(),
            initial_cluster: None,
            initial_advertise_peer_urls: PEER_URL_DEFAULT.into(),
            initial_cluster_token: "etcd-cluster".into(),
            bump_revision: 0,
            mark_compacted: false,
            skip_hash_check: false,
            if_absent: false,
        }
    }

    fn recovered(data_dir: &Path) -> member::Booted<Files> {
        let files = Files::new_directory(data_dir);
        let recovery = Recovery {
            log: LogOptions::default(),
            limits: Limits::default(),
            log_entries_kept: 0,
            log_bytes_kept: 0,
            values: Values::default(),
        };
        member::recover(files.clone(), files, None, &recovery, None).unwrap()
    }

    fn failure(restore: &Restore) -> String {
        let error = restore.run(false, &mut Vec::new()).unwrap_err();
        format!("{error:#}")
    }

    #[test]
    fn a_restored_directory_is_a_member_with_the_ids_etcd_would_give_it() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("data");
        restore(&saved(directory.path()), &data_dir).run(false, &mut Vec::new()).unwrap();
        let booted = recovered(&data_dir);
        // As etcd 3.7.3 names them when it is started without any flag.
        assert_eq!(format!("{:x}", booted.identity.member_id), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", booted.identity.cluster_id), "cdf818194e3a8c32");
        let names: Vec<String> =
            booted.state.members().into_iter().map(|member| member.name).collect();
        assert_eq!(names, ["default"]);
    }

    #[test]
    fn members_restored_one_by_one_are_one_cluster() {
        let directory = tempfile::tempdir().unwrap();
        let saved = saved(directory.path());
        let identities: Vec<Identity> = ["a", "b"]
            .into_iter()
            .map(|name| {
                let data_dir = directory.path().join(name);
                let mut restore = restore(&saved, &data_dir);
                restore.name = name.into();
                restore.initial_cluster = Some("a=http://a:1,b=http://b:1".into());
                restore.initial_advertise_peer_urls = format!("http://{name}:1");
                restore.run(false, &mut Vec::new()).unwrap();
                let booted = recovered(&data_dir);
                assert_eq!(booted.state.members().len(), 2);
                booted.identity
            })
            .collect();
        assert_eq!(identities[0].cluster_id, identities[1].cluster_id);
        assert_ne!(identities[0].member_id, identities[1].member_id);
    }

    #[test]
    fn a_bumped_store_goes_on_later_and_without_history() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("data");
        let mut restore = restore(&saved(directory.path()), &data_dir);
        restore.bump_revision = 1000;
        assert!(failure(&restore).contains("need each other"));
        restore.mark_compacted = true;
        restore.run(false, &mut Vec::new()).unwrap();
        let mut booted = recovered(&data_dir);
        let view = booted.state.publish();
        assert_eq!((view.revision(), view.compact_revision()), (1001, 1001));
    }

    #[test]
    fn nothing_is_written_over_what_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let data_dir = directory.path().join("data");
        fs::create_dir(&data_dir).unwrap();
        fs::write(data_dir.join("precious"), "x").unwrap();
        let said = failure(&restore(&saved(directory.path()), &data_dir));
        assert!(said.ends_with("not empty; nothing was changed"), "{said}");
        assert_eq!(fs::read(data_dir.join("precious")).unwrap(), b"x");
    }

    #[test]
    fn a_damaged_file_leaves_no_directory() {
        let directory = tempfile::tempdir().unwrap();
        let (saved, data_dir) = (saved(directory.path()), directory.path().join("data"));
        let whole = fs::read(&saved).unwrap();

        fs::write(&saved, &whole[..whole.len() - 1]).unwrap();
        assert!(failure(&restore(&saved, &data_dir)).contains("cut short"));
        let mut flipped = whole.clone();
        flipped[100] ^= 1;
        fs::write(&saved, &flipped).unwrap();
        assert!(failure(&restore(&saved, &data_dir)).contains("damaged"));
        assert!(!data_dir.exists());

        // Only the sum over everything is wrong.
        let mut unsummed = whole;
        *unsummed.last_mut().unwrap() ^= 1;
        fs::write(&saved, &unsummed).unwrap();
        let mut restore = restore(&saved, &data_dir);
        assert!(failure(&restore).contains("SHA-256"));
        assert!(!data_dir.exists());
        restore.skip_hash_check = true;
        restore.run(false, &mut Vec::new()).unwrap();
        assert!(data_dir.exists());
    }

    #[test]
    fn a_member_that_is_there_already_is_left_alone_if_asked_and_a_killed_run_begins_again() {
        let directory = tempfile::tempdir().unwrap();
        let (saved, data_dir) = (saved(directory.path()), directory.path().join("data"));
        let mut restore = restore(&saved, &data_dir);
        restore.if_absent = true;
        let unfinished = directory.path().join("data.part");
        fs::create_dir_all(unfinished.join("member")).unwrap();
        restore.run(false, &mut Vec::new()).unwrap();
        assert!(!unfinished.exists());
        assert_eq!(recovered(&data_dir).state.members().len(), 1);
        let mut said = Vec::new();
        restore.run(false, &mut said).unwrap();
        assert!(String::from_utf8(said).unwrap().contains("nothing was restored"));
        restore.if_absent = false;
        assert!(failure(&restore).contains("not empty"));
    }

    #[test]
    fn peer_urls_may_be_encrypted_ones() {
        let directory = tempfile::tempdir().unwrap();
        let (saved, data_dir) = (saved(directory.path()), directory.path().join("data"));
        let mut restore = restore(&saved, &data_dir);
        restore.initial_advertise_peer_urls = "https://demo-0.demo-peers:2380".into();
        restore.run(false, &mut Vec::new()).unwrap();
        assert!(data_dir.exists());
    }

    #[test]
    fn a_cluster_that_does_not_fit_is_named() {
        let (saved, data_dir) = (Path::new("unused"), Path::new("unused"));
        for (cluster, says) in [
            ("default", "is not NAME=URL"),
            ("=http://a:1", "is not NAME=URL"),
            ("default=ftp://a:1", "must be http://HOST:PORT"),
            ("default=http://a", "a port number is missing"),
            ("other=http://localhost:2380", "has no member \"default\""),
            ("default=http://localhost:1", "--initial-advertise-peer-urls has"),
            ("default=http://localhost:2380,b=http://localhost:2380", "is given twice"),
        ] {
            let mut restore = restore(saved, data_dir);
            restore.initial_cluster = Some(cluster.into());
            let said = failure(&restore);
            assert!(said.contains(says), "{cluster}: {said}");
        }
    }
}
