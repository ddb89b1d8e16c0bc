//! What the operator sees, and what its steps do, with the laws that every step has to keep. The
//! members here refuse nothing that their own consensus would let pass: it is the plan that is tried.

use operator::crd::{OperationKind, Retention};
use operator::observed::{
    Answer, Beginning, Claim, Exit, Member, Observed, Ordinal, Peer, Pod, Workload,
};
use operator::plan::{Plan, Step};

use crate::world::{CLUSTER, Disk, LAG_MAX, Row, SetModel, State, Template, World, quorum};

pub(crate) type Planner = fn(&Observed) -> Plan;

impl World {
    /// One look. In a storm some answers do not come in time.
    pub(crate) fn observe(&mut self) -> Observed {
        let works = self.works();
        let mut answers = std::collections::BTreeMap::new();
        for (ordinal, pod) in self.pods.clone() {
            let State::Runs(id) = pod.state else { continue };
            if self.stormy && self.dice.percent(3) {
                continue;
            }
            answers.insert(ordinal, self.answer(id));
        }
        let mut table = self.table.clone();
        let mut shuffled = Vec::new();
        while !table.is_empty() {
            shuffled.push(table.swap_remove(self.dice.below(table.len())));
        }
        let readable = works && !(self.stormy && self.dice.percent(3));
        Observed {
            now_s: self.now_s,
            object: self.object.clone(),
            workload: self.set.as_ref().map(|set| Workload {
                replicas: set.told.replicas,
                settled: set.seen.as_ref() == Some(&set.told),
                template_hash: set.told.hash.clone(),
                beginning: Some(set.told.beginning.clone()),
                deleting: set.deleting,
            }),
            pods: self.pods.iter().map(|(n, pod)| (*n, seen_pod(pod))).collect(),
            claims: self
                .volumes
                .iter()
                .map(|(n, volume)| {
                    let claim = Claim {
                        uid: volume.uid.clone(),
                        deleting: volume.deleting,
                        requested_bytes: volume.requested,
                        capacity_bytes: volume.capacity,
                        expandable: true,
                    };
                    (*n, claim)
                })
                .collect(),
            answers,
            members: readable.then(|| shuffled.iter().map(seen_member).collect()),
            children_stale: self.children_stale,
            wanted_hash: self.image.clone(),
            ..Observed::default()
        }
    }

    fn answer(&self, id: u64) -> Answer {
        let works = self.works();
        let has = self.has(id).unwrap_or(0);
        let leads = self.leader == Some(id);
        let others = self.table.iter().filter(|row| row.id != id);
        let peers = others.map(|row| Peer {
            member_id: row.id,
            reachable: self.serves_at(row.id).is_some(),
            rtt_us: 700 + row.id % 100,
            match_index: if leads { self.has(row.id).unwrap_or(0) } else { 0 },
        });
        Answer {
            alarms: Vec::new(),
            member_id: id,
            cluster_id: CLUSTER,
            leader_id: if works && self.row(id).is_some() { self.leader.unwrap_or(0) } else { 0 },
            term: 7,
            commit_index: if leads { self.commit } else { has },
            applied_index: has,
            version: "0.1.0".to_owned(),
            heartbeat_interval_us: 100_000,
            election_timeout_us: 1_000_000,
            peers: peers.collect(),
            ..Answer::default()
        }
    }

    /// A pass of the operator: looks, plans, carries out step by step. It may be killed between any
    /// two, and everybody else goes on meanwhile.
    pub(crate) fn pass(&mut self, planner: Planner) -> Plan {
        let observed = self.observe();
        let planned = planner(&observed);
        // The report comes first, as in the operator: a second look sees it.
        if self.stormy && self.dice.percent(15) {
            self.note("the status is not written");
            return planned;
        }
        self.recorded |= planned.status.cluster_id.is_some();
        self.object.status = Some(planned.status.clone());
        for step in &planned.steps {
            if self.stormy && self.dice.percent(5) {
                self.note("the operator is killed");
                return planned;
            }
            for _ in 0..self.dice.below(3) {
                self.happen();
            }
            if step.is_disruptive() {
                let again = planner(&self.observe());
                if again.steps.last() != Some(step) {
                    self.note(format!("thinks better of {step:?}"));
                    return planned;
                }
            }
            let kind = planned.status.operation.as_ref().map(|operation| operation.kind);
            if let Err(why) = self.carry_out(step, kind) {
                self.note(format!("{step:?} fails: {why}"));
                break;
            }
            self.note(format!("{step:?}"));
            self.check_laws();
        }
        planned
    }

    fn law(&self, holds: bool, text: &str) {
        assert!(holds, "law broken: {text}");
    }

    fn carry_out(&mut self, step: &Step, kind: Option<OperationKind>) -> Result<(), String> {
        match step {
            Step::ApplyChildren => self.children_stale = false,
            Step::ApplyWorkload { replicas, beginning } => {
                self.apply_workload(*replicas, beginning)?;
            }
            Step::ExpandClaim { ordinal, bytes } => {
                let volume = self.volumes.get_mut(ordinal).ok_or("no such claim")?;
                volume.requested = *bytes;
            }
            Step::AddLearner { ordinal } => {
                if self.table.iter().any(|row| row.learner) {
                    return Err("too many learners".to_owned());
                }
                self.law(self.row_at(*ordinal).is_none(), "an ordinal has one row");
                if !self.commit(1) {
                    return Err("no quorum".to_owned());
                }
                let id = self.fresh();
                self.table.push(Row { id, ordinal: *ordinal, learner: true, started: false });
            }
            Step::Promote { member_id } => self.promote(*member_id)?,
            Step::MoveLeader { to, .. } => {
                if !self.works() || self.serves_at(*to).is_none() {
                    return Err("not now".to_owned());
                }
                self.law(self.healthy(*to), "leadership goes to who is well");
                self.commit(1);
                self.leader = Some(*to);
            }
            Step::RemoveMember { member_id } => self.remove(*member_id)?,
            Step::DeletePod { ordinal, uid } => self.delete_pod(*ordinal, uid)?,
            Step::DeleteClaim { ordinal, uid } => self.delete_claim(*ordinal, uid, kind)?,
            Step::SubmitTuning { .. } => unreachable!("these members know no plans"),
        }
        Ok(())
    }

    fn apply_workload(&mut self, replicas: i32, beginning: &Beginning) -> Result<(), String> {
        // An operator that never saw the cluster may make its first set again: volumes tell the rest.
        if self.recorded {
            let joins = matches!(beginning, Beginning::Join { .. });
            let founds_still =
                self.set.as_ref().is_some_and(|set| set.told.beginning == *beginning);
            self.law(joins || founds_still, "a cluster is founded once");
        }
        let before = self.set.as_ref().map_or(0, |set| set.told.replicas);
        if !self.object.spec.hibernate {
            let kept = (replicas..before).all(|ordinal| self.row_at(ordinal).is_none());
            self.law(kept, "no member's pod is taken away");
        }
        let goes = |n: &i32| self.volumes.get(n).is_some_and(|volume| volume.deleting);
        let loses = |n: i32| {
            let votes = self.row_at(n).is_some_and(|row| row.started && !row.learner);
            votes && goes(&n) && self.pods.get(&n).is_some_and(|pod| !pod.deleting)
        };
        self.law(!(replicas..before).any(loses), "no pod is taken away whose data go with it");
        if self.set.as_ref().is_some_and(|set| set.deleting) {
            return Err("being deleted".to_owned());
        }
        let told = Template { replicas, hash: self.image.clone(), beginning: beginning.clone() };
        let seen = self.set.take().and_then(|set| set.seen);
        self.set = Some(SetModel { told, seen, deleting: false });
        Ok(())
    }

    fn promote(&mut self, id: u64) -> Result<(), String> {
        let Some(row) = self.row(id).cloned() else { return Err("no such member".to_owned()) };
        if !row.learner {
            return Err("no learner".to_owned());
        }
        let caught_up = self.has(id).is_some_and(|has| has + LAG_MAX * 10 >= self.commit);
        self.law(row.started && caught_up, "a vote is given to who has caught up");
        if !self.commit(1) {
            return Err("no quorum".to_owned());
        }
        self.table.iter_mut().filter(|row| row.id == id).for_each(|row| row.learner = false);
        self.children_stale = true;
        Ok(())
    }

    fn remove(&mut self, id: u64) -> Result<(), String> {
        let Some(row) = self.row(id).cloned() else { return Err("no such member".to_owned()) };
        if !row.learner {
            let voters: Vec<u64> = self.voters().iter().map(|row| row.id).collect();
            let well = |id: &u64| self.healthy(*id);
            let others: Vec<u64> = voters.iter().copied().filter(|other| *other != id).collect();
            let enough = others.iter().filter(|other| well(other)).count();
            self.law(!others.is_empty(), "the last member stays");
            self.law(enough >= quorum(others.len()), "those who stay are a quorum");
            self.law(
                !well(&id) || others.iter().all(well),
                "a member that is well leaves only when all others are well",
            );
            self.law(self.leader != Some(id), "a leader hands over before it leaves");
            let wanted = self.object.spec.replicas;
            let lost = !well(&id) || self.volumes[&row.ordinal].deleting;
            let highest = self.table.iter().map(|row| row.ordinal).max();
            self.law(
                lost || (row.ordinal >= wanted && Some(row.ordinal) == highest),
                "scaling in takes the highest ordinal",
            );
        }
        if !self.commit(1) {
            return Err("no quorum".to_owned());
        }
        self.table.retain(|row| row.id != id);
        self.children_stale = true;
        Ok(())
    }

    fn delete_pod(&mut self, ordinal: Ordinal, uid: &str) -> Result<(), String> {
        let Some(pod) = self.pods.get(&ordinal).filter(|pod| pod.uid == uid) else {
            return Err("no such pod".to_owned());
        };
        let runs = match pod.state {
            State::Runs(id) => Some(id),
            _ => None,
        };
        if let Some(row) = self.row_at(ordinal).filter(|row| !row.learner) {
            let voters = self.voters();
            let others = || voters.iter().filter(|other| other.id != row.id);
            let well = others().filter(|other| self.healthy(other.id)).count();
            if runs.is_some() {
                self.law(
                    voters.len() <= 2 || well >= quorum(voters.len()),
                    "a pod is deleted only when the others are a quorum",
                );
            }
            if self.healthy(row.id) {
                let all = others().all(|other| self.healthy(other.id));
                self.law(all, "one disruption at a time");
                let alone = self.leader != Some(row.id) || voters.len() == 1;
                self.law(alone, "a leader hands over before its pod goes");
            }
            let claim_goes = self.volumes.get(&ordinal).is_some_and(|volume| volume.deleting);
            self.law(!(claim_goes && row.started), "no pod is deleted whose data go with it");
        }
        self.pods.get_mut(&ordinal).expect("there").deleting = true;
        Ok(())
    }

    fn delete_claim(
        &mut self,
        ordinal: Ordinal,
        uid: &str,
        kind: Option<OperationKind>,
    ) -> Result<(), String> {
        let Some(volume) = self.volumes.get(&ordinal).filter(|volume| volume.uid == uid) else {
            return Err("no such claim".to_owned());
        };
        if let Disk::Member { id, .. } = volume.disk {
            self.law(self.row(id).is_none(), "no member's claim is deleted");
        }
        let retain = self.object.spec.storage.on_scale_in == Retention::Retain;
        self.law(
            !(retain && kind != Some(OperationKind::Replace)),
            "claims are kept where the spec says so",
        );
        self.volumes.get_mut(&ordinal).expect("there").deleting = true;
        Ok(())
    }

    /// What has to be true after anything that happens.
    pub(crate) fn check_laws(&self) {
        let voters = self.voters();
        if voters.is_empty() {
            return;
        }
        let holders = voters.iter().filter(|row| self.has(row.id) >= Some(self.commit)).count();
        let may_vote_without = voters
            .iter()
            .filter(|row| match self.has(row.id) {
                Some(has) => has < self.commit,
                None => !self.seen.contains(&row.id),
            })
            .count();
        self.law(holders >= 1, "somebody has all that was acknowledged");
        self.law(
            may_vote_without < quorum(voters.len()),
            "no quorum forgets what was acknowledged",
        );
        for (ordinal, pod) in &self.pods {
            if let State::Runs(id) = pod.state
                && self.seen.contains(&id)
            {
                let disk = self.volumes.get(ordinal).map(|volume| volume.disk);
                let forgot = disk == Some(Disk::Member { id, has: 0 });
                self.law(!forgot, "no old id comes back on an empty directory");
            }
        }
        let learners = self.table.iter().filter(|row| row.learner).count();
        self.law(learners <= 1, "one learner at a time");
    }
}

fn seen_pod(pod: &crate::world::PodModel) -> Pod {
    Pod {
        uid: pod.uid.clone(),
        deleting: pod.deleting,
        ready: pod.ready_since.is_some(),
        ready_since_s: pod.ready_since,
        running: matches!(pod.state, State::Runs(_)),
        hash: pod.hash.clone(),
        waiting: match pod.state {
            State::Waits(why) => Some(why.to_owned()),
            State::Starting => Some("ContainerCreating".to_owned()),
            State::Runs(_) => None,
        },
        last_exit: pod.last_exit.map(|code| Exit { code, message: "last words".to_owned() }),
        claim_uid: Some(pod.claim_uid.clone()),
    }
}

fn seen_member(row: &Row) -> Member {
    Member {
        id: row.id,
        name: if row.started { format!("demo-{}", row.ordinal) } else { String::new() },
        ordinal: Some(row.ordinal),
        learner: row.learner,
        started: row.started,
    }
}
