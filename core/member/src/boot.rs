//! How a member begins: as part of a new cluster, as a newcomer to one that runs, from what its own
//! disk holds, or as the only survivor.
//!
//! A new cluster begins with a snapshot at [`BASE_INDEX`] that holds its first members, the same on
//! each of them, so that there is one way to begin: a snapshot, and the log after it. A restored
//! backup is the same with more in it.

use proto::log::{ConfState, Entry, HardState, Member as MemberRow, SnapshotMeta};
use state::{Limits, State, StateParts, Values};
use thiserror::Error;
use wal::{
    Disk, Identity, Kept, Log, LogBatch, LogError, LogOptions, Manifest, Reading, Recovered,
    SnapshotMark, SnapshotStore, TermStart,
};

use crate::apply::{ApplyError, ApplyTask, ApplyWorker, SnapshotJob};
use crate::snapshot_worker::{SnapshotError, SnapshotWorker, SnapshotsHeld, meta_of};

/// Where the log of a new cluster begins. Not 0: a newcomer with an empty log must be given the
/// snapshot, for the entries alone do not say who the first members were.
pub const BASE_INDEX: u64 = 1;
/// The term of that snapshot.
pub const BASE_TERM: u64 = 1;

/// Why a member can not begin.
#[derive(Debug, Error)]
pub enum BootError {
    /// The log, or the disk under it.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// An entry that is to be applied at once.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Neither state nor snapshot reaches to where the log begins.
    #[error(
        "the log begins at index {first_index}, but no snapshot up to index {needed_index} is \
         readable: this data directory can not be recovered; remove the member and add it anew"
    )]
    NoBase {
        /// First index of the log.
        first_index: u64,
        /// Where a snapshot would have to stand.
        needed_index: u64,
    },
    /// The state had come further than the log reaches: synced entries are gone.
    #[error(
        "the log ends at index {last_index}, but the state had applied index {applied}: synced \
         entries are missing; remove the member and add it anew, or let --force-new-cluster make \
         a cluster of what is left"
    )]
    LogShort {
        /// Where the log ends.
        last_index: u64,
        /// How far the state had come.
        applied: u64,
    },
    /// A snapshot was taken of more than the log reaches to: synced entries are gone.
    #[error(
        "the log ends at index {last_index}, but {path} was taken of it at index {index}: synced \
         entries are missing; remove the member and add it anew, or let --force-new-cluster make \
         a cluster of what is left"
    )]
    LogBehindSnapshot {
        /// Where the log ends.
        last_index: u64,
        /// The snapshot's manifest.
        path: String,
        /// Its index.
        index: u64,
    },
    /// Only the survivor of a cluster can be made a cluster of its own.
    #[error("member {member_id:x} is not in the member table: it can not be made a cluster of one")]
    NotAMember {
        /// The member.
        member_id: u64,
    },
}

/// What recovery needs to know from outside.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Settings of the log.
    pub log: LogOptions,
    /// Limits of the state.
    pub limits: Limits,
    /// How many entries that are applied already are brought into memory, for laggards. The log on the
    /// disk reaches back to a snapshot, and may be larger than the state.
    pub log_entries_kept: u64,
    /// Bytes of these entries.
    pub log_bytes_kept: u64,
    /// Where the state keeps its values.
    pub values: Values,
}

impl Recovery {
    fn kept(&self, applied: u64) -> Kept {
        Kept { above: applied, entries_max: self.log_entries_kept, bytes_max: self.log_bytes_kept }
    }
}

/// A member ready to be started.
pub struct Booted<D: Disk> {
    /// Who it is, and of which cluster.
    pub identity: Identity,
    /// The state as of `boot.applied`.
    pub state: State,
    /// For the replica.
    pub boot: consensus::Boot,
    /// For the log worker.
    pub log: Log<D>,
    /// For the snapshot worker.
    pub snapshots: SnapshotWorker<D>,
    /// For the member.
    pub held: SnapshotsHeld,
    /// What the log had to say.
    pub torn_bytes: u64,
    /// Entries no sync had been known to cover, written once more.
    pub rewritten_entries: u64,
    /// The backend's state could be used: nothing had to be rebuilt.
    pub from_backend: bool,
    /// Snapshots passed over because they, or a chunk of theirs, could not be read.
    pub damaged_snapshots: Vec<String>,
}

/// The raft configuration which a member table stands for.
pub fn conf_state_of(members: &[MemberRow]) -> ConfState {
    let ids = |learner: bool| {
        members.iter().filter(|m| m.is_learner == learner).map(|m| m.id).collect::<Vec<_>>()
    };
    ConfState { voters: ids(false), learners: ids(true), ..ConfState::default() }
}

/// Makes an empty disk the disk of a member of a new cluster: `parts` (its members, and whatever a
/// backup held) become the snapshot every member begins with. Safe to repeat after a crash in the
/// middle: the log, made last, is what makes it a member.
pub fn bootstrap<D: Disk>(
    snapshot_disk: D,
    log_disk: D,
    identity: Identity,
    parts: StateParts,
    recovery: &Recovery,
) -> Result<(), BootError> {
    let parts = parts.rebased(BASE_INDEX, BASE_TERM);
    let mut state = State::from_parts(parts, recovery.limits).map_err(SnapshotError::from)?;
    let view = state.publish();
    let mut disk = snapshot_disk;
    let (store, _) = SnapshotStore::open(&mut disk).map_err(SnapshotError::from)?;
    let mut snapshots = SnapshotWorker::new(disk, store);
    snapshots.save_to_begin(job(&view, BASE_INDEX, BASE_TERM))?;
    let (hard_state, mark) = beginning(BASE_INDEX, BASE_TERM);
    Log::create_behind(log_disk, identity, recovery.log.clone(), hard_state, mark)?;
    Ok(())
}

/// Makes an empty disk the disk of a member that joins a running cluster: it begins with nothing,
/// the leader sends it the rest.
pub fn join<D: Disk>(
    log_disk: D,
    identity: Identity,
    recovery: &Recovery,
) -> Result<(), BootError> {
    Log::create(log_disk, identity, recovery.log.clone())?;
    Ok(())
}

/// A log that has been read and found whole, before anything is decided. Nothing has been written.
pub struct LogRead<D: Disk> {
    reading: Reading<D>,
    expected: Option<Identity>,
    /// All entries after this index are in memory.
    above: u64,
}

/// Reads the log and checks all of it, for a state that is believed to stand at `applied`, which is asked
/// once something has been read. Where that state is built needs nothing of the log, so a shell may do
/// both at the same time.
pub fn read_log<D: Disk>(
    disk: D,
    expected: Option<Identity>,
    recovery: &Recovery,
    applied: impl FnOnce() -> u64,
) -> Result<LogRead<D>, BootError> {
    let mut above = 0;
    let reading = Log::read_kept(disk, expected, recovery.log.clone(), || {
        above = applied();
        recovery.kept(above)
    })?;
    Ok(LogRead { reading, expected, above })
}

/// The snapshots there are, their manifests read.
pub struct SnapshotsRead<D: Disk> {
    snapshots: SnapshotWorker<D>,
    manifests: Vec<Manifest>,
    damaged: Vec<String>,
}

/// Looks which snapshots there are. That needs neither log nor state, so a shell may do it while these
/// are read. Nothing is changed but that the directories are there, durably.
pub fn read_snapshots<D: Disk>(mut disk: D) -> Result<SnapshotsRead<D>, BootError> {
    let (store, manifests) = SnapshotStore::open(&mut disk).map_err(SnapshotError::from)?;
    let damaged = store
        .damaged()
        .iter()
        .map(|damaged| format!("{}: {}", damaged.path, damaged.reason))
        .collect();
    Ok(SnapshotsRead { snapshots: SnapshotWorker::new(disk, store), manifests, damaged })
}

/// Finds out from the disk what this member knew. `from_backend` is the state as the backend holds
/// it, if it could be read; it is used only where it fits the log.
pub fn recover<D: Disk>(
    snapshot_disk: D,
    log_disk: D,
    expected: Option<Identity>,
    recovery: &Recovery,
    from_backend: Option<StateParts>,
) -> Result<Booted<D>, BootError> {
    let applied = from_backend.as_ref().map_or(0, |parts| parts.applied.index);
    let log = read_log(log_disk, expected, recovery, || applied)?;
    let from_backend =
        from_backend.map(|parts| State::restore(parts, recovery.limits, recovery.values.clone()));
    let from_backend = from_backend.transpose().map_err(SnapshotError::from)?;
    recover_from(read_snapshots(snapshot_disk)?, log, recovery, from_backend)
}

/// As [`recover`], of snapshots and a log that have been read and a state that has been built.
pub fn recover_from<D: Disk>(
    snapshots: SnapshotsRead<D>,
    log: LogRead<D>,
    recovery: &Recovery,
    from_backend: Option<State>,
) -> Result<Booted<D>, BootError> {
    // Read only, until it is known that the member can begin: a refusal leaves everything as it was.
    let LogRead { mut reading, expected, above } = log;
    let SnapshotsRead { mut snapshots, manifests, mut damaged } = snapshots;
    let window = LogWindow::of(reading.recovered());
    let ahead = |manifest: &&Manifest| !manifest.begins_log && manifest.index > window.last_index;
    if let Some(manifest) = manifests.iter().find(ahead)
        && !recovery.log.allow_damaged_tail
    {
        return Err(BootError::LogBehindSnapshot {
            last_index: window.last_index,
            path: manifest.path(),
            index: manifest.index,
        });
    }
    let mut metas = Vec::new();
    for manifest in &manifests {
        match meta_of(manifest) {
            Ok(meta) if window.contains(meta.index, meta.term) => metas.push(meta),
            Ok(_) => {}
            Err(error) => damaged.push(error.to_string()),
        }
    }
    if let Some((applied, _)) = from_backend.as_ref().map(State::applied)
        && applied > window.last_index
        && !recovery.log.allow_damaged_tail
    {
        // Nothing is applied that this log did not hold durably.
        return Err(BootError::LogShort { last_index: window.last_index, applied });
    }
    let mut base: Option<(State, bool)> = from_backend
        .filter(|state| {
            let (index, term) = state.applied();
            window.contains(index, term)
        })
        .map(|state| (state, true));
    let mut usable = Vec::new();
    for meta in metas {
        if base.is_none() {
            match snapshots.load(&meta) {
                Ok(parts) => {
                    let values = recovery.values.clone();
                    let state = State::restore(parts, recovery.limits, values);
                    base = Some((state.map_err(SnapshotError::from)?, false));
                }
                Err(error) => {
                    damaged.push(error.to_string());
                    continue;
                }
            }
        }
        usable.push(meta);
    }
    let (state, from_backend) = match base {
        Some(base) => base,
        None if window.base_index == 0 => {
            (State::new_with(recovery.limits, recovery.values.clone()), false)
        }
        None => {
            return Err(BootError::NoBase {
                first_index: window.base_index + 1,
                needed_index: window.last_index,
            });
        }
    };
    if state.applied().0 < above {
        // The backend did not fit after all: what follows an older state is wanted, too.
        let disk = reading.into_disk();
        reading = read_log(disk, expected, recovery, || state.applied().0)?.reading;
    }
    let (log, recovered) = reading.open()?;
    snapshots.remove_unbegun(window.last_index)?;
    let held = SnapshotsHeld {
        newest: usable.first().cloned(),
        previous_index: usable.get(1).map(|meta| meta.index),
    };
    let (boot, state) =
        replica_boot(recovered.hard_state, recovered.entries, &window, state, &held);
    Ok(Booted {
        identity: recovered.identity,
        state,
        boot,
        log,
        snapshots,
        held,
        torn_bytes: recovered.torn_bytes,
        rewritten_entries: recovered.rewritten_entries,
        from_backend,
        damaged_snapshots: damaged,
    })
}

/// Makes the survivor of a cluster a cluster of its own (`--force-new-cluster`): applies all of its
/// log, lets every other member go and begins anew behind it. What was acknowledged and reached this
/// member is kept.
pub fn force_new_cluster<D: Disk>(
    mut booted: Booted<D>,
    recovery: &Recovery,
) -> Result<Booted<D>, BootError> {
    let own = booted.identity.member_id;
    let last = booted.boot.entries.last().map_or(booted.boot.applied, |entry| entry.index);
    let term = booted.boot.hard_state.map_or(0, |hard_state| hard_state.term);
    let entries: Vec<Entry> =
        booted.boot.entries.iter().filter(|e| e.index > booted.boot.applied).cloned().collect();
    let mut worker = ApplyWorker::new(booted.state, 0);
    worker.run(ApplyTask::Entries { entries, bytes: 0 }, &mut |_| unreachable!("no restore"))?;
    let mut parts = worker.view().parts();
    let mut survivor = worker
        .view()
        .members()
        .into_iter()
        .find(|member| member.id == own)
        .ok_or(BootError::NotAMember { member_id: own })?;
    survivor.is_learner = false;
    parts.set_members(vec![survivor]);
    // Behind every snapshot, also one that the log no longer reaches to: it must not stand before
    // the new beginning.
    let (index, term) = (last.max(booted.snapshots.newest_index()) + 1, term + 1);
    let parts = parts.rebased(index, term);
    let mut state = State::restore(parts, recovery.limits, recovery.values.clone())
        .map_err(SnapshotError::from)?;
    let view = state.publish();
    let meta = booted.snapshots.save_to_begin(job(&view, index, term))?;
    let (hard_state, mark) = beginning(index, term);
    booted.log.append(&LogBatch {
        hard_state: Some(hard_state),
        entries: Vec::new(),
        snapshot: Some(mark),
    })?;
    booted.log.sync()?;
    let held = SnapshotsHeld { newest: Some(meta.clone()), previous_index: None };
    let boot = consensus::Boot {
        hard_state: Some(HardState { term, vote: 0, commit: index }),
        applied: index,
        conf_state: conf_state_of(&view.members()),
        snapshot: Some(meta),
        entries: Vec::new(),
    };
    Ok(Booted { state, boot, held, from_backend: false, ..booted })
}

fn job(view: &state::View, index: u64, term: u64) -> SnapshotJob {
    let meta = SnapshotMeta {
        index,
        term,
        conf_state: Some(conf_state_of(&view.members())),
        revision: view.revision(),
        ..SnapshotMeta::default()
    };
    SnapshotJob::new(view.clone(), meta)
}

/// How a log begins behind a snapshot.
fn beginning(index: u64, term: u64) -> (wal::HardState, SnapshotMark) {
    (wal::HardState { term, vote: 0, commit: index }, SnapshotMark { index, term })
}

/// What the log covers: which snapshots can stand under it.
struct LogWindow {
    /// The index before the first entry.
    base_index: u64,
    /// Its term, where the log says so.
    base_term: Option<u64>,
    last_index: u64,
    terms: Vec<TermStart>,
}

impl LogWindow {
    fn of(recovered: &Recovered) -> Self {
        // Also where all entries have been released and no mark was ever needed.
        let base_index = recovered.first_index - 1;
        let mark = recovered.snapshot.filter(|mark| mark.index == base_index);
        LogWindow {
            base_index,
            base_term: mark.map(|mark| mark.term),
            last_index: recovered.last_index,
            terms: recovered.terms.clone(),
        }
    }

    /// A state at this index and term has the log's entries after it as its future. A snapshot that
    /// was received but whose mark never reached the log is not among them.
    fn contains(&self, index: u64, term: u64) -> bool {
        if index == self.base_index {
            return self.base_term.is_none_or(|base| base == term);
        }
        self.term_at(index) == Some(term)
    }

    /// The term of an index within the log, or of the one before where that is known.
    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base_index {
            return self.base_term;
        }
        let after = self.terms.partition_point(|start| start.index <= index);
        let start = self.terms.get(after.checked_sub(1)?)?;
        (index <= self.last_index).then_some(start.term)
    }
}

fn replica_boot(
    hard_state: Option<wal::HardState>,
    entries: Vec<wal::Entry>,
    window: &LogWindow,
    mut state: State,
    held: &SnapshotsHeld,
) -> (consensus::Boot, State) {
    let view = state.publish();
    let (applied, applied_term) = state.applied();
    let conf_state = conf_state_of(&view.members());
    // Without chunks: it only says where the log in memory begins.
    let beginning = |index, term| SnapshotMeta {
        index,
        term,
        conf_state: Some(conf_state.clone()),
        revision: view.revision(),
        ..SnapshotMeta::default()
    };
    // Where the newest snapshot stands, if the log in memory goes on from there; else where that log
    // begins, or the state stands.
    let before = entries.first().map_or(applied, |first| first.index - 1).min(applied);
    let before_term = if before == applied { Some(applied_term) } else { window.term_at(before) };
    let newest = held.newest.clone().filter(|meta| meta.index <= applied);
    let snapshot = match before_term {
        Some(term) if before > newest.as_ref().map_or(0, |meta| meta.index) => {
            Some(beginning(before, term))
        }
        _ => newest.or_else(|| (applied > 0).then(|| beginning(applied, applied_term))),
    };
    let base = snapshot.as_ref().map_or(0, |meta| meta.index);
    let entries: Vec<Entry> =
        entries.into_iter().filter(|entry| entry.index > base).map(from_log).collect();
    let last = entries.last().map_or(base, |entry| entry.index);
    let hard_state = hard_state.map(|h| HardState {
        term: h.term,
        vote: h.vote,
        // The commit index need not have been synced; what is applied was committed.
        commit: h.commit.max(applied).min(last),
    });
    (consensus::Boot { hard_state, snapshot, entries, applied, conf_state }, state)
}

fn from_log(entry: wal::Entry) -> Entry {
    Entry {
        term: entry.term,
        index: entry.index,
        r#type: i32::from(entry.kind),
        data: entry.data,
        context: entry.context,
    }
}
