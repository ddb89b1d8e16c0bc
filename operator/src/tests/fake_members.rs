//! Members in memory: who is in the table, who leads, and who answers, which is every pod that is asked
//! and has a row.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use autotune::planner::MemberRow;
use autotune::{Params, Phase};

use super::fake_api::FakeApi;
use crate::members::{Address, Change, Key, MemberError, Members, Row, Said, Security, Submission};
use crate::observed::{Answer, Ordinal, Peer, Tuning};

type Happens = Box<dyn FnOnce()>;

/// All clusters. Clones are one.
#[derive(Clone, Default)]
pub(super) struct FakeMembers {
    clusters: Rc<RefCell<BTreeMap<Key, Table>>>,
    /// Members that found a cluster together.
    founders: usize,
    /// Changes that were asked for, in order.
    pub(super) changes: Rc<RefCell<Vec<Change>>>,
    /// Its count of writes is for changes of members too.
    api: Option<FakeApi>,
    /// Called once, before the next plan is judged.
    before_plan: Rc<RefCell<Option<Happens>>>,
    /// The plan of timing, which they carry out at once; none: they know no plans.
    pub(super) tuning: Rc<RefCell<Option<Tuning>>>,
}

#[derive(Default)]
struct Table {
    rows: Vec<Row>,
    next_id: u64,
    leader: u64,
}

impl FakeMembers {
    pub(super) fn of(founders: usize) -> Self {
        FakeMembers { founders, ..FakeMembers::default() }
    }

    /// The same, with changes among the writes that this API server counts down.
    pub(super) fn killed_with(self, api: &FakeApi) -> Self {
        FakeMembers { api: Some(api.clone()), ..self }
    }

    /// The same, of a version that knows plans.
    pub(super) fn knowing_plans(self) -> Self {
        let flags = Params::default();
        let tuning = Tuning { flags, in_force: flags, ..Tuning::default() };
        FakeMembers { tuning: Rc::new(RefCell::new(Some(tuning))), ..self }
    }

    /// The same, where this happens before the next plan is judged.
    pub(super) fn first_submits(self, happens: impl FnOnce() + 'static) -> Self {
        *self.before_plan.borrow_mut() = Some(Box::new(happens));
        self
    }

    fn submit(&self, plan: &Submission) -> bool {
        if let Some(happens) = self.before_plan.borrow_mut().take() {
            happens();
        }
        let mut tuning = self.tuning.borrow_mut();
        let Some(tuning) = tuning.as_mut().filter(|t| t.plan.epoch == plan.expected_epoch) else {
            return false;
        };
        tuning.plan = tuning.plan.succeeded_by(plan.to);
        tuning.plan.phase = Phase::Settled;
        (tuning.reason, tuning.at_ms) = (plan.reason.clone(), plan.at_ms);
        true
    }

    /// Voters and learners of a cluster.
    pub(super) fn rows(&self, key: &Key) -> Vec<Row> {
        self.clusters.borrow().get(key).map(|table| table.rows.clone()).unwrap_or_default()
    }
}

fn ordinal_of(row: &Row) -> Ordinal {
    let host = row.peer_urls[0].split("//").nth(1).unwrap().split('.').next().unwrap();
    host.rsplit_once('-').unwrap().1.parse().unwrap()
}

impl Members for FakeMembers {
    async fn ask(&self, cluster: &Key, _: &Security, addresses: &[Address]) -> Said {
        let mut clusters = self.clusters.borrow_mut();
        let table = clusters.entry(cluster.clone()).or_default();
        if table.rows.is_empty() && addresses.len() >= self.founders {
            for address in addresses {
                table.next_id += 1;
                table.rows.push(Row {
                    id: table.next_id,
                    name: String::new(),
                    peer_urls: vec![format!("http://{}:2380", address.host)],
                    learner: false,
                    started: true,
                });
            }
            table.leader = 1;
        }
        let up = |row: &&Row| addresses.iter().any(|a| a.ordinal == ordinal_of(row));
        let voters = table.rows.iter().filter(|row| !row.learner);
        let has_quorum = voters.clone().filter(up).count() > voters.clone().count() / 2;
        let leader_is_up = voters.clone().filter(up).any(|row| row.id == table.leader);
        if has_quorum && !leader_is_up {
            table.leader = voters.clone().filter(up).map(|row| row.id).next().unwrap_or(0);
        }
        let leader = if has_quorum { table.leader } else { 0 };
        for row in &mut table.rows {
            let is_up = addresses.iter().any(|a| a.ordinal == ordinal_of(row));
            row.started |= is_up;
        }
        let answers = table.rows.iter().filter(up).map(|row| {
            let others = table.rows.iter().filter(|other| other.id != row.id);
            let peers = others.map(|other| Peer {
                member_id: other.id,
                reachable: up(&other),
                rtt_us: 500,
                match_index: 100,
            });
            let answer = Answer {
                member_id: row.id,
                cluster_id: 7,
                leader_id: leader,
                term: 3,
                commit_index: 100,
                applied_index: 100,
                version: "0.1.0".to_owned(),
                heartbeat_interval_us: 100_000,
                election_timeout_us: 1_000_000,
                alarms: Vec::new(),
                peers: peers.collect(),
                row: MemberRow {
                    id: row.id,
                    knows_plans: self.tuning.borrow().is_some(),
                    uptime_ms: 3_600_000,
                    ..MemberRow::default()
                },
                tuning: self.tuning.borrow().clone(),
            };
            (ordinal_of(row), answer)
        });
        let answers: BTreeMap<Ordinal, Answer> = answers.collect();
        Said { table: (leader != 0).then(|| table.rows.clone()), answers }
    }

    async fn change(
        &self,
        cluster: &Key,
        _: &Security,
        address: &Address,
        change: &Change,
    ) -> Result<(), MemberError> {
        if self.api.as_ref().is_some_and(|api| !api.lock().may_write()) {
            return Err(MemberError::new("change", address, "killed"));
        }
        self.changes.borrow_mut().push(change.clone());
        let mut clusters = self.clusters.borrow_mut();
        let table = clusters.entry(cluster.clone()).or_default();
        match change {
            Change::AddLearner { peer_url } => {
                if table.rows.iter().all(|row| row.peer_urls[0] != *peer_url) {
                    table.next_id += 1;
                    table.rows.push(Row {
                        id: table.next_id,
                        peer_urls: vec![peer_url.clone()],
                        learner: true,
                        ..Row::default()
                    });
                }
            }
            Change::Promote(id) => {
                for row in table.rows.iter_mut().filter(|row| row.id == *id) {
                    row.learner = false;
                }
            }
            Change::Remove(id) => table.rows.retain(|row| row.id != *id),
            Change::MoveLeader(id) => table.leader = *id,
            Change::SubmitTuning(plan) => {
                if !self.submit(plan) {
                    return Err(MemberError::new("submit a plan of timing", address, "stale"));
                }
            }
        }
        Ok(())
    }

    fn forget(&self, _: &Key) {}
}
