//! From settings and a disk to a running member: founds, joins, recovers, or makes a survivor a
//! cluster of its own.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use member::wal::{self, Disk as _, LogOptions};
use member::{ApplyWorker, Booted, LogWorker, Member, MemberConfig, Recovery, SnapshotPolicy};
use member::{autotune, consensus};
use proto::log::Member as MemberRow;
use state::{Limits, StateParts, Values, View};

use crate::backend::{BackendWriter, Generations};
use crate::config::{ClusterState, Config, texts};
use crate::disk::{DataDir, DataDirError, OsDisk};
use crate::door::Identity;
use crate::figures;
use crate::metrics::Metrics;
use crate::node::{AppliedSink, Fatal, Node, NodeInbound, Parts, SnapshotDoor, addresses};
use crate::peers::{
    PeerLimits, PeerTiming, Peers, PeersConfig, RemoteCluster, check_listen, fetch_members,
};
use crate::propose::{Shared, SharedLimits};
use crate::tls::Tls;
use crate::values::ValueStore;
use crate::{version, vitals};

/// File in the member's directory that says whose it is, by name.
const OWNER: &str = "OWNER";

/// Why a member can not begin. One line, naming the thing.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The data directory can not be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The settings do not fit each other.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// What the disk holds can not be used.
    #[error("data directory {data_dir}: {error}")]
    Recover {
        /// The directory.
        data_dir: String,
        /// Why.
        error: member::BootError,
    },
    /// The directory belongs to someone else.
    #[error(
        "data directory {data_dir} belongs to member {found:?}, not to {name:?}: nothing was changed"
    )]
    ForeignMember {
        /// The directory.
        data_dir: String,
        /// The name in it.
        found: String,
        /// The name given.
        name: String,
    },
    /// The cluster has let this member go.
    #[error(
        "data directory {data_dir}: member {member_id:x} has been removed from cluster \
         {cluster_id:x}; remove the directory and add the member anew"
    )]
    Removed {
        /// The directory.
        data_dir: String,
        /// The member.
        member_id: u64,
        /// The cluster.
        cluster_id: u64,
    },
    /// The cluster to join does not answer.
    #[error("cannot fetch cluster info from peer urls: {0}")]
    Fetch(String),
    /// The cluster to join does not know this member.
    #[error(
        "the cluster at {from} has no member with the peer URLs {urls}: add it first (etcdctl \
         member add {name} --peer-urls={urls})"
    )]
    NotAnnounced {
        /// Who was asked.
        from: String,
        /// The own URLs.
        urls: String,
        /// The own name.
        name: String,
    },
    /// There is a member's data, but not its log.
    #[error(
        "data directory {data_dir} holds data of a member but no log at {wal_dir}: was another \
         --wal-dir given before? nothing was changed"
    )]
    LogMissing {
        /// The directory.
        data_dir: String,
        /// Where the log was looked for.
        wal_dir: String,
    },
    /// The directory is etcd's.
    #[error(
        "data directory {0} is etcd's, whose files can not be read: start with an empty directory \
         and copy the keys with `etcdctl make-mirror`"
    )]
    Etcd(String),
    /// The cluster runs, and this member was part of it before its data was lost.
    #[error(
        "member {name} has already been bootstrapped: its data is gone and it must not come back \
         under its old id; remove it (etcdctl member remove {member_id:x}), add it anew and start \
         with --initial-cluster-state existing"
    )]
    AlreadyBootstrapped {
        /// The member's name.
        name: String,
        /// Its id.
        member_id: u64,
    },
    /// There is nothing to make a new cluster of.
    #[error("--force-new-cluster: data directory {0} holds no member")]
    NothingToForce(String),
    /// A listener, a thread, a file.
    #[error("{0}")]
    Start(String),
}

impl BootError {
    /// Whether it is the member's data that are lost, damaged or of no use any more, so that only
    /// another member can take its place.
    pub fn is_of_data(&self) -> bool {
        match self {
            BootError::Recover { .. }
            | BootError::Removed { .. }
            | BootError::LogMissing { .. }
            | BootError::AlreadyBootstrapped { .. } => true,
            BootError::DataDir(_)
            | BootError::Config(_)
            | BootError::ForeignMember { .. }
            | BootError::Fetch(_)
            | BootError::NotAnnounced { .. }
            | BootError::Etcd(_)
            | BootError::NothingToForce(_)
            | BootError::Start(_) => false,
        }
    }
}

/// A member that has just begun.
#[derive(Debug)]
pub struct Begun {
    /// The member.
    pub node: Node,
    /// Keeps the directory locked.
    pub data_dir: DataDir,
    /// The state it began with.
    pub view: View,
}

/// Brings a member up as far as it can come by itself; `sinks` are told of everything applied.
pub async fn begin(
    config: &Config,
    metrics: &Arc<Metrics>,
    peer_tls: Option<&Arc<Tls>>,
    fatal: &Fatal,
    sinks: impl FnOnce(&View) -> std::io::Result<Vec<Box<dyn AppliedSink>>>,
) -> Result<Begun, BootError> {
    let data_dir = DataDir::open(&config.data_dir, config.wal_dir.as_deref())?;
    for warning in data_dir.warnings() {
        tracing::warn!("{warning}");
    }
    let store =
        config.value_cache_bytes.map(|bytes| ValueStore::new(bytes, metrics, fatal.clone()));
    let values = store.as_ref().map_or_else(Values::default, ValueStore::values);
    let recovery = recovery(config, values);
    let shown = shown(config);
    check_owner(config, &data_dir)?;
    check_listen(&config.listen_peer_urls).map_err(|error| BootError::Start(error.to_string()))?;
    if !holds_a_log(&data_dir)? {
        if config.force_new_cluster {
            return Err(BootError::NothingToForce(shown));
        }
        if data_dir.member_dir().join("snap/db").exists() {
            return Err(BootError::Etcd(shown));
        }
        // Both are made only where there was a log.
        let made_later = [OWNER, "state"].map(|name| data_dir.member_dir().join(name));
        if made_later.iter().any(|path| path.exists()) {
            let wal_dir = config.wal_dir().display().to_string();
            return Err(BootError::LogMissing { data_dir: shown, wal_dir });
        }
        found_or_join(config, &data_dir, &recovery, peer_tls).await?;
    }
    let (booted, generations, opened) =
        recover(config, &data_dir, &recovery, metrics, store.clone())?;
    check_membership(config, &booted)?;
    // Who joins knows nobody yet, and must let in whoever brings the first snapshot.
    let acquaintances = match booted.state.members() {
        members if members.is_empty() => fetch_cluster(config, peer_tls).await?.members,
        members => members,
    };
    write_owner(config, &data_dir)?;
    let peer_tls = peer_tls.cloned();
    let found = Found { data_dir, booted, generations, opened, store, acquaintances, peer_tls };
    start(config, metrics, fatal, found, sinks)
}

fn recovery(config: &Config, values: Values) -> Recovery {
    let consensus = consensus_config(config, consensus::Config::new(1, 0));
    Recovery {
        log_entries_kept: consensus.log_entries_kept,
        log_bytes_kept: consensus.log_bytes_kept,
        log: LogOptions {
            salt_seed: rand::random(),
            allow_damaged_tail: config.force_new_cluster,
            ..LogOptions::default()
        },
        limits: Limits {
            txn_ops_max: config.max_txn_ops,
            quota_bytes: config
                .quota_bytes
                .map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            // etcd's minTTL: one and a half elections, in whole seconds.
            lease_ttl_min: i64::try_from((3 * config.election_timeout_ms).div_ceil(2_000))
                .unwrap_or(i64::MAX),
            plan_format: config.test_plan_format,
        },
        values,
    }
}

/// What the replica is told of the settings, on top of its defaults.
fn consensus_config(config: &Config, mut consensus: consensus::Config) -> consensus::Config {
    consensus.timing = autotune::Timing {
        heartbeat_interval_us: config.heartbeat_interval_ms * 1_000,
        election_timeout_us: config.election_timeout_ms * 1_000,
    };
    consensus.batching = config.batching();
    consensus.log_entries_kept = config.snapshot_catchup_entries.max(consensus.log_entries_kept);
    consensus.pre_vote = true;
    consensus.crash_hints = config.crash_hints;
    consensus
}

fn holds_a_log(data_dir: &DataDir) -> Result<bool, BootError> {
    let mut disk = data_dir.disk();
    match disk.list(wal::WAL_DIR) {
        Ok(names) => Ok(names.iter().any(|name| name.ends_with(".wal"))),
        Err(wal::DiskError::NotFound { .. }) => Ok(false),
        Err(error) => Err(BootError::Start(error.to_string())),
    }
}

async fn found_or_join(
    config: &Config,
    data_dir: &DataDir,
    recovery: &Recovery,
    peer_tls: Option<&Arc<Tls>>,
) -> Result<(), BootError> {
    let founders = config.initial_members()?;
    let failed = |error| BootError::Recover { data_dir: shown(config), error };
    if config.initial_cluster_state == ClusterState::New {
        let token = &config.initial_cluster_token;
        let members: Vec<MemberRow> = founders
            .iter()
            .map(|founder| {
                let peer_urls = texts(&founder.peer_urls);
                MemberRow {
                    id: member::identity::member_id(&peer_urls, token),
                    name: founder.name.clone(),
                    peer_urls,
                    ..MemberRow::default()
                }
            })
            .collect();
        let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
        let own = members.iter().find(|member| member.name == config.name);
        let member_id = own.map_or(0, |member| member.id);
        let identity = wal::Identity { cluster_id: member::identity::cluster_id(&ids), member_id };
        check_not_bootstrapped(config, identity, peer_tls).await?;
        tracing::info!(
            cluster_id = format!("{:x}", identity.cluster_id),
            member_id = format!("{member_id:x}"),
            members = members.len(),
            "founding a new cluster"
        );
        let parts = StateParts::new_cluster(&members);
        return member::bootstrap(data_dir.disk(), data_dir.disk(), identity, parts, recovery)
            .map_err(failed);
    }
    let cluster = fetch_cluster(config, peer_tls).await?;
    let own_urls = texts(&config.advertise_peer_urls);
    let own = cluster.members.iter().find(|member| same_urls(&member.peer_urls, &own_urls));
    let own = own.ok_or_else(|| BootError::NotAnnounced {
        from: cluster.answered.clone(),
        urls: own_urls.join(","),
        name: config.name.clone(),
    })?;
    check_not_seen(config, own)?;
    let identity = wal::Identity { cluster_id: cluster.cluster_id, member_id: own.id };
    tracing::info!(
        cluster_id = format!("{:x}", identity.cluster_id),
        member_id = format!("{:x}", identity.member_id),
        "joining a cluster"
    );
    member::join(data_dir.disk(), identity, recovery).map_err(failed)
}

/// Peer URLs of the other members of `--initial-cluster`.
fn other_urls(config: &Config) -> Result<Vec<String>, BootError> {
    let founders = config.initial_members()?;
    let others = founders.iter().filter(|founder| founder.name != config.name);
    Ok(others.flat_map(|founder| texts(&founder.peer_urls)).collect())
}

/// The cluster as its running members know it.
async fn fetch_cluster(
    config: &Config,
    peer_tls: Option<&Arc<Tls>>,
) -> Result<RemoteCluster, BootError> {
    let fetched = fetch_members(&other_urls(config)?, peer_tls).await;
    fetched.map_err(|error| BootError::Fetch(error.to_string()))
}

/// The same of a founder, as far as there is a running cluster to ask.
async fn check_not_bootstrapped(
    config: &Config,
    identity: wal::Identity,
    peer_tls: Option<&Arc<Tls>>,
) -> Result<(), BootError> {
    let others = other_urls(config)?;
    if others.is_empty() {
        return Ok(());
    }
    // Nobody answers: the cluster is only just being founded.
    let Ok(cluster) = fetch_members(&others, peer_tls).await else { return Ok(()) };
    let own = cluster.members.iter().find(|member| member.id == identity.member_id);
    match own {
        Some(own) if cluster.cluster_id == identity.cluster_id => check_not_seen(config, own),
        _ => Ok(()),
    }
}

/// A member that the running cluster has already seen has lost its data, its votes among them: under
/// its old id it could vote twice in a term and undo what was acknowledged.
fn check_not_seen(config: &Config, own: &MemberRow) -> Result<(), BootError> {
    if own.client_urls.is_empty() {
        return Ok(());
    }
    Err(BootError::AlreadyBootstrapped { name: config.name.clone(), member_id: own.id })
}

fn same_urls(left: &[String], right: &[String]) -> bool {
    let sorted = |urls: &[String]| {
        let mut urls = urls.to_vec();
        urls.sort();
        urls
    };
    sorted(left) == sorted(right)
}

type Recovered = (Booted<OsDisk>, Generations, Option<crate::backend::Opened>);

fn recover(
    config: &Config,
    data_dir: &DataDir,
    recovery: &Recovery,
    metrics: &Metrics,
    store: Option<Arc<ValueStore>>,
) -> Result<Recovered, BootError> {
    let failed = |error| BootError::Recover { data_dir: shown(config), error };
    let generations = Generations::new(data_dir.member_dir().join("state"))
        .map_err(|error| BootError::Start(format!("{}: {error}", shown(config))))?;
    // The log is read while the state is, and so are the names of snapshots: neither needs the other.
    let reading = generations.read_current(recovery.limits, store);
    let read = member::read_log(data_dir.disk(), None, recovery, || reading.position())
        .and_then(|log| Ok((log, member::read_snapshots(data_dir.disk())?)));
    let was_there = reading.is_begun();
    let (opened, state) = match reading.finish() {
        Some((opened, state)) => (Some(opened), state),
        None => (None, None),
    };
    let is_whole = state.is_some();
    let mut booted = read
        .and_then(|(log, snapshots)| member::recover_from(snapshots, log, recovery, state))
        .map_err(failed)?;
    if config.force_new_cluster {
        booted = member::force_new_cluster(booted, recovery).map_err(failed)?;
        tracing::warn!("forced a new cluster of this member alone");
    }
    for damage in &booted.damaged_snapshots {
        tracing::warn!(damage, "a snapshot can not be used");
    }
    tracing::info!(
        cluster_id = format!("{:x}", booted.identity.cluster_id),
        member_id = format!("{:x}", booted.identity.member_id),
        applied = booted.boot.applied,
        entries = booted.boot.entries.len(),
        torn_bytes = booted.torn_bytes,
        from_backend = booted.from_backend,
        "recovered"
    );
    let check = match (was_there, &opened, is_whole) {
        (true, None, _) => "mismatch",
        (true, Some(_), true) => "ok",
        _ => "skipped",
    };
    // What is not there cannot be seen to rise.
    for result in ["ok", "mismatch", "skipped"] {
        metrics.hash_checks.with_label_values(&[result]).inc_by(u64::from(result == check));
    }
    metrics.wal_torn_tails.inc_by(u64::from(booted.torn_bytes > 0));
    metrics.wal_repaired_entries.inc_by(booted.rewritten_entries);
    let opened = opened.filter(|_| booted.from_backend);
    Ok((booted, generations, opened))
}

/// A directory started under another member's name is most likely a mistake that would cost data:
/// it is noticed before anything is touched.
fn check_owner(config: &Config, data_dir: &DataDir) -> Result<(), BootError> {
    match std::fs::read_to_string(data_dir.member_dir().join(OWNER)) {
        Ok(found) if found.trim_end() != config.name => Err(BootError::ForeignMember {
            data_dir: shown(config),
            found: found.trim_end().to_owned(),
            name: config.name.clone(),
        }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(BootError::Start(format!("{}: {OWNER}: {error}", shown(config)))),
    }
}

fn write_owner(config: &Config, data_dir: &DataDir) -> Result<(), BootError> {
    let path = data_dir.member_dir().join(OWNER);
    let temporary = data_dir.member_dir().join("OWNER.tmp");
    let written = || {
        let mut file = std::fs::File::create(&temporary)?;
        writeln!(file, "{}", config.name)?;
        file.sync_data()?;
        std::fs::rename(&temporary, &path)?;
        std::fs::File::open(data_dir.member_dir())?.sync_all()
    };
    if path.exists() {
        return Ok(());
    }
    written().map_err(|error| BootError::Start(format!("{}: {OWNER}: {error}", shown(config))))
}

/// The data of a member that was removed is of no use to anybody.
fn check_membership(config: &Config, booted: &Booted<OsDisk>) -> Result<(), BootError> {
    let wal::Identity { cluster_id, member_id } = booted.identity;
    let members = booted.state.members();
    if !members.is_empty() && members.iter().all(|member| member.id != member_id) {
        return Err(BootError::Removed { data_dir: shown(config), member_id, cluster_id });
    }
    Ok(())
}

/// What was found on the disk.
struct Found {
    data_dir: DataDir,
    booted: Booted<OsDisk>,
    generations: Generations,
    opened: Option<crate::backend::Opened>,
    /// Where the state's values are, if not all are in memory.
    store: Option<Arc<ValueStore>>,
    acquaintances: Vec<MemberRow>,
    peer_tls: Option<Arc<Tls>>,
}

fn start(
    config: &Config,
    metrics: &Arc<Metrics>,
    fatal: &Fatal,
    found: Found,
    sinks: impl FnOnce(&View) -> std::io::Result<Vec<Box<dyn AppliedSink>>>,
) -> Result<Begun, BootError> {
    let failed = |error: std::io::Error| BootError::Start(error.to_string());
    let Found { data_dir, booted, generations, opened, store, acquaintances, peer_tls } = found;
    let Booted { identity, state, boot, log, snapshots, held, .. } = booted;
    let identity = Identity { cluster_id: identity.cluster_id, member_id: identity.member_id };
    let origin: u64 = rand::random::<u64>() | 1;
    let mut apply = ApplyWorker::new(state, origin);
    let view = apply.view();
    let backend = BackendWriter::start(generations, opened, &view, Arc::clone(metrics), store)
        .map_err(failed)?;
    let limits = SharedLimits {
        election_timeout: Duration::from_millis(config.election_timeout_ms),
        request_timeout: config.request_timeout(),
        request_bytes_max: config.max_request_bytes,
        warning_apply_duration: config.warning_apply_duration,
    };
    let (control, counts) = (backend.control(), Arc::clone(metrics));
    let shared = Arc::new(Shared::new(identity, origin, view.clone(), control, limits, counts));
    shared.figures.note_snapshot(held.newest.as_ref().map_or(0, |newest| newest.state_bytes));
    let learns = view.members().iter().any(|m| m.id == identity.member_id && m.is_learner);
    shared.leadership.send_modify(|held| held.is_learner = learns);
    let consensus = consensus::Config::new(identity.member_id, origin);
    let consensus = consensus_config(config, consensus);
    let member_config = MemberConfig {
        cluster_id: identity.cluster_id,
        origin,
        consensus,
        snapshots: SnapshotPolicy { entries: config.snapshot_count, ..SnapshotPolicy::default() },
        strict_reconfig_check: config.strict_reconfig_check,
        plan_format: config.test_plan_format,
    };
    let member = Member::new(member_config, boot, &view, held, shared.now_us())
        .map_err(|error| BootError::Start(error.to_string()))?;
    let snapshots = SnapshotDoor::start(snapshots, Arc::clone(&shared), fatal).map_err(failed)?;
    let inbound = NodeInbound::new(Arc::clone(&shared), fatal.clone());
    let peers = Peers::start(
        PeersConfig {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            boot_id: origin,
            version: version::VERSION.to_owned(),
            listen_urls: config.listen_peer_urls.clone(),
            timing: PeerTiming::new(Duration::from_millis(config.election_timeout_ms)),
            limits: PeerLimits::default(),
            compression: config.peer_compression,
            crash_hints: config.crash_hints,
            tls: peer_tls,
            wall_clock_offset_us: config.test_wall_clock_offset_us,
        },
        inbound.clone(),
        snapshots.clone(),
    )
    .map_err(|error| BootError::Start(error.to_string()))?;
    metrics.register(peers.collector());
    metrics.register(figures::collector(&shared));
    metrics.register(vitals::collector(&shared));
    peers.set_members(addresses(&acquaintances));
    let sinks = sinks(&view).map_err(failed)?;
    let parts = Parts {
        member,
        log: LogWorker::new(log),
        apply,
        snapshots,
        backend,
        shared,
        peers,
        sinks,
        metrics: Arc::clone(metrics),
        fatal: fatal.clone(),
    };
    let node = Node::start(parts).map_err(failed)?;
    inbound.open(node.handle());
    Ok(Begun { node, data_dir, view })
}

fn shown(config: &Config) -> String {
    config.data_dir.display().to_string()
}
