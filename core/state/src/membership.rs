//! Who belongs to the cluster, and what each member is called.
//!
//! Who votes is consensus' business; this table follows its decisions and refuses, on every member
//! alike, changes that make no sense: an id or peer URL used twice, a second learner, the return of
//! a removed id. An id once removed is never taken back, because its owner may have forgotten votes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prost::Message;
use proto::log::membership_change::Kind;
use proto::log::{Member, MemberPublish, MemberUpdate, MembershipChange};

use crate::error::StateError;
use crate::parts::{Row, RowChange, StateParts, Table};

/// Learners a cluster may have at a time.
pub const LEARNERS_MAX: usize = 1;

const CLUSTER_VERSION_KEY: &[u8] = b"version";
const MEMBER_VERSION_PREFIX: &[u8] = b"member-version/";

/// Members and the cluster's version. `Clone` is cheap and the copies are independent.
#[derive(Clone, Default)]
pub(crate) struct Membership(Arc<Tables>);

#[derive(Clone, Default)]
struct Tables {
    members: BTreeMap<u64, Member>,
    removed: BTreeSet<u64>,
    /// Version of the program each member last said it runs.
    versions: BTreeMap<u64, String>,
    cluster_version: String,
}

impl Membership {
    /// Members by id.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        self.0.members.values()
    }

    pub(crate) fn get(&self, id: u64) -> Option<&Member> {
        self.0.members.get(&id)
    }

    pub(crate) fn is_removed(&self, id: u64) -> bool {
        self.0.removed.contains(&id)
    }

    pub(crate) fn version_of(&self, id: u64) -> Option<&str> {
        self.0.versions.get(&id).map(String::as_str)
    }

    /// Empty until it has been decided.
    pub(crate) fn cluster_version(&self) -> &str {
        &self.0.cluster_version
    }

    /// Whether a change makes sense now.
    pub(crate) fn check(&self, change: &MembershipChange) -> Result<(), StateError> {
        let Ok(kind) = Kind::try_from(change.kind) else { return Err(StateError::NotCapable) };
        let Some(member) = &change.member else { return Err(StateError::MemberNotFound) };
        let known = self.get(member.id);
        if self.is_removed(member.id) {
            return Err(StateError::MemberNotFound);
        }
        match (kind, known) {
            (Kind::AddVoter | Kind::AddLearner, Some(_)) => Err(StateError::MemberExists),
            (Kind::AddVoter | Kind::AddLearner, None) => {
                self.check_urls(member.id, &member.peer_urls)?;
                let learners = self.members().filter(|member| member.is_learner).count();
                if kind == Kind::AddLearner && learners >= LEARNERS_MAX {
                    return Err(StateError::TooManyLearners);
                }
                Ok(())
            }
            (Kind::Promote | Kind::Remove, None) => Err(StateError::MemberNotFound),
            (Kind::Promote, Some(known)) if !known.is_learner => Err(StateError::MemberNotLearner),
            (Kind::Promote | Kind::Remove, Some(_)) => Ok(()),
        }
    }

    fn check_urls(&self, id: u64, peer_urls: &[String]) -> Result<(), StateError> {
        let mut others = self.members().filter(|other| other.id != id);
        if others.any(|other| other.peer_urls.iter().any(|url| peer_urls.contains(url))) {
            return Err(StateError::PeerUrlExists);
        }
        Ok(())
    }

    /// Carries out a change of who belongs to the cluster.
    pub(crate) fn change(
        &mut self,
        change: &MembershipChange,
    ) -> Result<Vec<RowChange>, StateError> {
        self.check(change)?;
        let (Ok(kind), Some(given)) = (Kind::try_from(change.kind), &change.member) else {
            unreachable!("checked just above");
        };
        let tables = Arc::make_mut(&mut self.0);
        let id = given.id;
        match kind {
            Kind::AddVoter | Kind::AddLearner => {
                let member = Member { is_learner: kind == Kind::AddLearner, ..given.clone() };
                let row = member_row(&member).into();
                tables.members.insert(id, member);
                Ok(vec![row])
            }
            Kind::Promote => {
                let member = tables.members.get_mut(&id).ok_or(StateError::MemberNotFound)?;
                member.is_learner = false;
                Ok(vec![member_row(member).into()])
            }
            Kind::Remove => {
                let mut rows =
                    vec![gone(Table::Member, id.to_be_bytes().to_vec()), removed_row(id).into()];
                tables.members.remove(&id);
                tables.removed.insert(id);
                if tables.versions.remove(&id).is_some() {
                    rows.push(gone(Table::Cluster, version_key(id)));
                }
                Ok(rows)
            }
        }
    }

    /// A member says how it is called, where clients reach it and what it runs.
    pub(crate) fn publish(
        &mut self,
        publish: &MemberPublish,
    ) -> Result<Vec<RowChange>, StateError> {
        let id = publish.member_id;
        self.get(id).ok_or(StateError::MemberNotFound)?;
        let tables = Arc::make_mut(&mut self.0);
        let member = tables.members.get_mut(&id).ok_or(StateError::MemberNotFound)?;
        member.name.clone_from(&publish.name);
        member.client_urls.clone_from(&publish.client_urls);
        let mut rows = vec![member_row(member).into()];
        let before = tables.versions.insert(id, publish.version.clone());
        if before.as_ref() != Some(&publish.version) {
            rows.push(version_row(id, &publish.version).into());
        }
        Ok(rows)
    }

    /// A member moves to other peer URLs.
    pub(crate) fn update(&mut self, update: &MemberUpdate) -> Result<Vec<RowChange>, StateError> {
        let id = update.member_id;
        self.get(id).ok_or(StateError::MemberNotFound)?;
        self.check_urls(id, &update.peer_urls)?;
        let tables = Arc::make_mut(&mut self.0);
        let member = tables.members.get_mut(&id).ok_or(StateError::MemberNotFound)?;
        member.peer_urls.clone_from(&update.peer_urls);
        Ok(vec![member_row(member).into()])
    }

    pub(crate) fn set_cluster_version(&mut self, version: &str) -> Option<RowChange> {
        if self.cluster_version() == version {
            return None;
        }
        Arc::make_mut(&mut self.0).cluster_version = version.to_owned();
        Some(cluster_version_row(version).into())
    }

    /// Everything here, by table and key.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Row> {
        let tables = &self.0;
        // "member-version/…" sorts before "version".
        let versions = tables.versions.iter().map(|(id, version)| version_row(*id, version));
        let version = Some(&tables.cluster_version).filter(|version| !version.is_empty());
        let members = tables.members.values().map(member_row);
        members
            .chain(tables.removed.iter().copied().map(removed_row))
            .chain(versions)
            .chain(version.map(|version| cluster_version_row(version)))
    }

    /// Takes in a row of one of the tables here; `None` if it makes no sense.
    pub(crate) fn restore(&mut self, table: Table, key: &[u8], value: &[u8]) -> Option<()> {
        let id = |key: &[u8]| Some(u64::from_be_bytes(key.try_into().ok()?));
        let tables = Arc::make_mut(&mut self.0);
        let new = match table {
            Table::Member => {
                let member = Member::decode(value).ok()?;
                if id(key)? != member.id {
                    return None;
                }
                tables.members.insert(member.id, member).is_none()
            }
            Table::Removed => value.is_empty() && tables.removed.insert(id(key)?),
            Table::Cluster => {
                let version = std::str::from_utf8(value).ok()?;
                if key == CLUSTER_VERSION_KEY {
                    version.clone_into(&mut tables.cluster_version);
                    true
                } else {
                    let id = id(key.strip_prefix(MEMBER_VERSION_PREFIX)?)?;
                    tables.versions.insert(id, version.to_owned()).is_none()
                }
            }
            Table::Lease | Table::Alarm | Table::Tuning => false,
        };
        new.then_some(())
    }
}

fn member_row(member: &Member) -> Row {
    Row {
        table: Table::Member,
        key: member.id.to_be_bytes().to_vec(),
        value: member.encode_to_vec(),
    }
}

fn removed_row(id: u64) -> Row {
    Row { table: Table::Removed, key: id.to_be_bytes().to_vec(), value: Vec::new() }
}

fn version_row(id: u64, version: &str) -> Row {
    Row { table: Table::Cluster, key: version_key(id), value: version.as_bytes().to_vec() }
}

fn version_key(id: u64) -> Vec<u8> {
    [MEMBER_VERSION_PREFIX, &id.to_be_bytes()].concat()
}

fn cluster_version_row(version: &str) -> Row {
    Row {
        table: Table::Cluster,
        key: CLUSTER_VERSION_KEY.to_vec(),
        value: version.as_bytes().to_vec(),
    }
}

fn gone(table: Table, key: Vec<u8>) -> RowChange {
    RowChange { table, key, value: None }
}

impl From<Row> for RowChange {
    fn from(row: Row) -> Self {
        Self { table: row.table, key: row.key, value: Some(row.value) }
    }
}

impl StateParts {
    /// The state a cluster of these members begins with.
    #[must_use]
    pub fn new_cluster(members: &[Member]) -> Self {
        let mut parts = Self::default();
        parts.applied.revision = crate::mvcc::FIRST_REVISION;
        parts.applied.compact_revision = crate::mvcc::NEVER_COMPACTED;
        parts.set_members(members.to_vec());
        parts
    }

    /// The same state as if the log had brought it about at another place, for a cluster that
    /// begins with it.
    #[must_use]
    pub fn rebased(mut self, index: u64, term: u64) -> Self {
        self.applied.index = index;
        self.applied.term = term;
        self
    }

    /// Makes these, and no others, the members. Former members count as removed, and the plan of
    /// timing that was made for them is dropped.
    pub fn set_members(&mut self, members: Vec<Member>) {
        let mut removed: BTreeSet<Vec<u8>> = BTreeSet::new();
        self.rows.retain(|row| match row.table {
            Table::Member | Table::Removed => {
                removed.insert(row.key.clone());
                false
            }
            Table::Cluster => !row.key.starts_with(MEMBER_VERSION_PREFIX),
            // Other members, other distances: a plan never reaches another cluster.
            Table::Tuning => false,
            Table::Lease | Table::Alarm => true,
        });
        for member in members {
            let row = member_row(&member);
            removed.remove(&row.key);
            self.rows.push(row);
        }
        let removed = removed.into_iter();
        self.rows.extend(removed.map(|key| Row { table: Table::Removed, key, value: Vec::new() }));
        self.rows.sort();
    }
}
