//! What one look means: who leads, who is well, which row belongs to which pod.
//!
//! Everything is counted from the member table and from what members say. A pod that is gone, a claim
//! that is gone or a number in the spec never make anybody a member or end a membership.

use std::collections::{BTreeMap, BTreeSet};

use crate::crd::{MemberStatus, MetaStoreStatus, REPLICAS_MAX};
use crate::observed::{
    Answer, Beginning, EXIT_DATA, Member, Observed, Ordinal, Peer, Pod, Workload,
};

/// Entries a member may be behind and still count as caught up: what is written while the members
/// are asked one after another.
pub(crate) const LAG_ENTRIES_MAX: u64 = 1_000;
/// How long a pod has to be ready before the next one is touched.
pub(crate) const MIN_READY_S: i64 = 10;
/// Role of a member that is none of the operator's.
pub(crate) const ROLE_FOREIGN: &str = "foreign";

/// A look, and what follows from it.
pub(crate) struct Facts<'a> {
    pub(crate) observed: &'a Observed,
    /// Members wanted.
    pub(crate) wanted: i32,
    /// The cluster's id as it was recorded.
    recorded_cluster: Option<u64>,
    /// The cluster's id as its members say.
    answered_cluster: Option<u64>,
    /// Who leads; none: nobody, or not known.
    pub(crate) leader: Option<u64>,
    /// Highest index that anybody knows committed.
    pub(crate) commit_index: u64,
    /// The operator's own rows, by ordinal.
    pub(crate) rows: BTreeMap<Ordinal, &'a Member>,
    /// Rows of others.
    pub(crate) foreign: Vec<&'a Member>,
}

/// Votes that decide among so many.
pub(crate) fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

impl<'a> Facts<'a> {
    pub(crate) fn of(observed: &'a Observed) -> Self {
        let (rows, foreign) = sort_rows(observed);
        let status = observed.object.status.as_ref();
        let recorded_cluster = status
            .and_then(|status| status.cluster_id.as_deref())
            .and_then(|id| u64::from_str_radix(id, 16).ok());
        let mut facts = Facts {
            observed,
            wanted: observed.object.spec.replicas.clamp(1, REPLICAS_MAX),
            recorded_cluster,
            answered_cluster: None,
            leader: None,
            commit_index: 0,
            rows,
            foreign,
        };
        facts.answered_cluster = facts.cluster_of_table();
        facts.find_leader();
        facts
    }

    /// The cluster of those who answer under the id that the table has for their ordinal.
    fn cluster_of_table(&self) -> Option<u64> {
        self.observed.answers.iter().find_map(|(ordinal, answer)| {
            let row = self.rows.get(ordinal)?;
            (row.id == answer.member_id).then_some(answer.cluster_id)
        })
    }

    /// The leader is whom the latest term names, and, if it can be asked itself, who agrees.
    fn find_leader(&mut self) {
        let Some(cluster) = self.answered_cluster else { return };
        let answers = || self.observed.answers.values().filter(|a| a.cluster_id == cluster);
        self.commit_index = answers().map(|answer| answer.commit_index).max().unwrap_or(0);
        let latest = answers().filter(|answer| answer.leader_id != 0).max_by_key(|a| a.term);
        let Some(leader) = latest.map(|answer| answer.leader_id) else { return };
        let disowned = self.answer_of(leader).is_some_and(|own| own.leader_id != leader);
        if self.row(leader).is_some() && !disowned {
            self.leader = Some(leader);
        }
    }

    /// The workload, if it is there and stays.
    pub(crate) fn workload(&self) -> Option<&'a Workload> {
        self.observed.workload.as_ref().filter(|workload| !workload.deleting)
    }

    pub(crate) fn status(&self) -> Option<&'a MetaStoreStatus> {
        self.observed.object.status.as_ref()
    }

    /// Whether there is a cluster, so that nobody may found one any more. It is remembered in two
    /// places, for either can be lost.
    pub(crate) fn founded(&self) -> bool {
        let joins =
            |workload: &Workload| matches!(workload.beginning, Some(Beginning::Join { .. }));
        self.recorded_cluster.is_some()
            || self.observed.workload.as_ref().is_some_and(joins)
            || self.observed.members.is_some()
    }

    /// The cluster's id: what was recorded, else what is answered.
    pub(crate) fn cluster(&self) -> Option<u64> {
        self.recorded_cluster.or(self.answered_cluster)
    }

    /// The id that was recorded and the one that the members have, if they differ.
    pub(crate) fn exchanged(&self) -> Option<(u64, u64)> {
        let (recorded, answered) = (self.recorded_cluster?, self.answered_cluster?);
        (recorded != answered).then_some((recorded, answered))
    }

    /// All rows, the operator's own first.
    pub(crate) fn members(&self) -> impl Iterator<Item = &'a Member> {
        self.rows.values().copied().chain(self.foreign.iter().copied())
    }

    pub(crate) fn voters(&self) -> impl Iterator<Item = &'a Member> {
        self.members().filter(|member| !member.learner)
    }

    pub(crate) fn voter_count(&self) -> usize {
        self.voters().count()
    }

    pub(crate) fn learner(&self) -> Option<&'a Member> {
        self.members().find(|member| member.learner)
    }

    pub(crate) fn row(&self, id: u64) -> Option<&'a Member> {
        self.members().find(|member| member.id == id)
    }

    /// Ordinal of a row, if it is the operator's.
    pub(crate) fn ordinal(&self, id: u64) -> Option<Ordinal> {
        self.rows.iter().find(|(_, row)| row.id == id).map(|(ordinal, _)| *ordinal)
    }

    /// What a member says, if it was its pod that was asked.
    pub(crate) fn answer_of(&self, id: u64) -> Option<&'a Answer> {
        let answer = self.observed.answers.get(&self.ordinal(id)?)?;
        let same_cluster = self.answered_cluster == Some(answer.cluster_id);
        (answer.member_id == id && same_cluster).then_some(answer)
    }

    /// What the leader sees of a member.
    pub(crate) fn seen_by_leader(&self, id: u64) -> Option<&'a Peer> {
        let leader = self.answer_of(self.leader?)?;
        leader.peers.iter().find(|peer| peer.member_id == id)
    }

    /// Entries a member is behind. None: not known.
    pub(crate) fn lag(&self, id: u64) -> Option<u64> {
        let at = match self.answer_of(id) {
            Some(answer) => answer.applied_index,
            None => self.seen_by_leader(id)?.match_index,
        };
        Some(self.commit_index.saturating_sub(at))
    }

    /// Whether the leader should have answered and did not: only it knows what is committed and who is
    /// in touch.
    pub(crate) fn blind(&self) -> bool {
        let Some(leader) = self.leader else { return true };
        self.ordinal(leader).is_some() && self.answer_of(leader).is_none()
    }

    /// Whether a member does its part: in touch with the leader everybody agrees on, caught up, and not
    /// about to stop.
    pub(crate) fn healthy(&self, id: u64) -> bool {
        let Some(leader) = self.leader else { return false };
        if self.blind() {
            return false;
        }
        // Of a leader elsewhere nothing can be asked; its followers say whom they follow.
        let asked = self.answer_of(leader).is_some();
        let in_touch =
            id == leader || !asked || self.seen_by_leader(id).is_some_and(|peer| peer.reachable);
        let caught_up = self.lag(id).is_some_and(|lag| lag <= LAG_ENTRIES_MAX);
        let Some(ordinal) = self.ordinal(id) else {
            return if asked { in_touch && caught_up } else { id == leader };
        };
        let follows = self.answer_of(id).is_some_and(|answer| answer.leader_id == leader);
        let stays = self.pod(ordinal).is_some_and(|pod| pod.running && !pod.deleting);
        in_touch && caught_up && follows && stays
    }

    /// Whether a member surely does nothing for the others. One that only did not answer may be in the
    /// best of health.
    pub(crate) fn down(&self, id: u64) -> bool {
        let stopped = |ordinal| self.pod(ordinal).is_none_or(|pod: &Pod| !pod.running);
        self.ordinal(id).is_some_and(stopped)
            || self.seen_by_leader(id).is_some_and(|peer| !peer.reachable)
    }

    /// Voters that are well, without one.
    pub(crate) fn healthy_voters_but(&self, id: u64) -> usize {
        self.voters().filter(|voter| voter.id != id && self.healthy(voter.id)).count()
    }

    /// Whether all voters are well, but for one that is not looked at.
    pub(crate) fn all_healthy_but(&self, id: u64) -> bool {
        self.voters().all(|voter| voter.id == id || self.healthy(voter.id))
    }

    pub(crate) fn all_healthy(&self) -> bool {
        self.voters().all(|voter| self.healthy(voter.id))
    }

    /// Seconds until a member counts as settled: well, and its pod ready for long enough. None: not
    /// a matter of time.
    pub(crate) fn settles_in_s(&self, id: u64) -> Option<i64> {
        if !self.healthy(id) {
            return None;
        }
        let Some(ordinal) = self.ordinal(id) else { return Some(0) };
        let pod = self.pod(ordinal).filter(|pod| pod.ready)?;
        let since = pod.ready_since_s?;
        Some((since + MIN_READY_S - self.observed.now_s).max(0))
    }

    pub(crate) fn pod(&self, ordinal: Ordinal) -> Option<&'a Pod> {
        self.observed.pods.get(&ordinal)
    }

    /// The server found that the data in its directory are of no use, and gave up.
    pub(crate) fn gave_up(&self, ordinal: Ordinal) -> bool {
        let gave_up = |pod: &Pod| {
            !pod.running
                && !pod.deleting
                && pod.last_exit.as_ref().is_some_and(|exit| exit.code == EXIT_DATA)
        };
        self.pod(ordinal).is_some_and(gave_up) && !self.observed.answers.contains_key(&ordinal)
    }

    /// The pod holds data of another cluster, and says so.
    pub(crate) fn other_cluster(&self, ordinal: Ordinal) -> Option<u64> {
        let answer = self.observed.answers.get(&ordinal)?;
        (answer.cluster_id != self.cluster()?).then_some(answer.cluster_id)
    }

    /// Somebody deletes the claim, and only the pod keeps it.
    pub(crate) fn claim_leaves(&self, ordinal: Ordinal) -> bool {
        self.observed.claims.get(&ordinal).is_some_and(|claim| claim.deleting)
    }

    /// What the last status says of a member.
    pub(crate) fn told(&self, id: u64) -> Option<&'a MemberStatus> {
        let id = format!("{id:x}");
        self.status()?.members.iter().find(|member| member.id == id)
    }

    /// Whether somebody gave the member's pod another claim than the one its data were on.
    pub(crate) fn claim_exchanged(&self, ordinal: Ordinal, id: u64) -> bool {
        let known = self.told(id).and_then(|member| member.claim_uid.as_ref());
        let there = self.observed.claims.get(&ordinal).map(|claim| &claim.uid);
        known.is_some() && there.is_some() && known != there
    }

    /// Ordinals that are known to have been members, from the table, else from what was remembered.
    pub(crate) fn known_ordinals(&self) -> BTreeSet<Ordinal> {
        if self.observed.members.is_some() {
            return self.rows.keys().copied().collect();
        }
        let told = self.status().into_iter().flat_map(|status| &status.members);
        let told = told.filter(|member| member.role != ROLE_FOREIGN);
        let mut known: BTreeSet<_> =
            told.filter_map(|member| ordinal_of(self.observed, &member.name)).collect();
        let beginning = self.observed.workload.as_ref().and_then(|w| w.beginning.as_ref());
        if let Some(Beginning::Join { others }) = beginning {
            known.extend(others.iter().copied());
        }
        known
    }

    pub(crate) fn pod_name(&self, ordinal: Ordinal) -> String {
        pod_name(self.observed, ordinal)
    }

    pub(crate) fn claim_name(&self, ordinal: Ordinal) -> String {
        format!("data-{}", self.pod_name(ordinal))
    }

    /// How an empty directory is to begin, once there is a cluster.
    pub(crate) fn join(&self) -> Beginning {
        if self.observed.members.is_some() {
            let voters = self.rows.iter().filter(|(_, row)| !row.learner);
            return Beginning::Join { others: voters.map(|(ordinal, _)| *ordinal).collect() };
        }
        match self.observed.workload.as_ref().and_then(|workload| workload.beginning.clone()) {
            Some(join @ Beginning::Join { .. }) => join,
            _ => Beginning::Join { others: self.known_ordinals().into_iter().collect() },
        }
    }
}

/// Which rows are the operator's: those whose peer URL names an ordinal that it could have made. Of two
/// for one ordinal the one that the pod answers as, else the one that came first.
fn sort_rows(observed: &Observed) -> (BTreeMap<Ordinal, &Member>, Vec<&Member>) {
    let mut rows: BTreeMap<Ordinal, &Member> = BTreeMap::new();
    let mut foreign = Vec::new();
    for member in observed.members.iter().flatten() {
        let Some(ordinal) = member.ordinal.filter(|n| (0..REPLICAS_MAX).contains(n)) else {
            foreign.push(member);
            continue;
        };
        let answers = observed.answers.get(&ordinal).map(|answer| answer.member_id);
        match rows.get(&ordinal) {
            None => drop(rows.insert(ordinal, member)),
            Some(other) if answers == Some(member.id) => {
                foreign.push(*other);
                rows.insert(ordinal, member);
            }
            Some(_) => foreign.push(member),
        }
    }
    (rows, foreign)
}

fn pod_name(observed: &Observed, ordinal: Ordinal) -> String {
    format!("{}-{ordinal}", observed.object.metadata.name.as_deref().unwrap_or_default())
}

fn ordinal_of(observed: &Observed, pod: &str) -> Option<Ordinal> {
    let name = observed.object.metadata.name.as_deref()?;
    let ordinal: Ordinal = pod.strip_prefix(name)?.strip_prefix('-')?.parse().ok()?;
    (0..REPLICAS_MAX).contains(&ordinal).then_some(ordinal)
}
