//! A small model of what the operator works on: the API server's objects, the controller of stateful
//! sets, kubelet, and members without the consensus between them: a table, a leader, what each disk
//! holds. Nothing happens at once; every actor acts when the seed says so.

use std::collections::{BTreeMap, BTreeSet};

use operator::crd::{MetaStore, Retention};
use operator::observed::{Beginning, Ordinal};

/// Entries behind which a member does not count as caught up, as the plan has it.
pub(crate) const LAG_MAX: u64 = 1_000;
/// The cluster every founding of this resource leads to.
pub(crate) const CLUSTER: u64 = 0xc1;

/// Random numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub(crate) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[self.below(of.len())]) }
    }
}

/// What a volume holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    Empty,
    Member { id: u64, has: u64 },
    Damaged,
}

#[derive(Clone, Debug)]
pub(crate) struct Volume {
    pub(crate) uid: String,
    pub(crate) deleting: bool,
    pub(crate) requested: i64,
    pub(crate) capacity: i64,
    pub(crate) disk: Disk,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Created, or its container is being started again.
    Starting,
    /// Serves as this member.
    Runs(u64),
    /// Does not, for this reason.
    Waits(&'static str),
}

#[derive(Clone, Debug)]
pub(crate) struct PodModel {
    pub(crate) uid: String,
    pub(crate) deleting: bool,
    pub(crate) hash: String,
    pub(crate) beginning: Beginning,
    pub(crate) claim_uid: String,
    pub(crate) state: State,
    pub(crate) ready_since: Option<i64>,
    pub(crate) last_exit: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Template {
    pub(crate) replicas: i32,
    pub(crate) hash: String,
    pub(crate) beginning: Beginning,
}

#[derive(Clone, Debug)]
pub(crate) struct SetModel {
    pub(crate) told: Template,
    /// What its controller has read.
    pub(crate) seen: Option<Template>,
    pub(crate) deleting: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: u64,
    pub(crate) ordinal: Ordinal,
    pub(crate) learner: bool,
    pub(crate) started: bool,
}

pub(crate) struct World {
    pub(crate) dice: Dice,
    pub(crate) now_s: i64,
    pub(crate) object: MetaStore,
    pub(crate) image: String,
    pub(crate) set: Option<SetModel>,
    pub(crate) pods: BTreeMap<Ordinal, PodModel>,
    pub(crate) volumes: BTreeMap<Ordinal, Volume>,
    /// Empty until the cluster is founded.
    pub(crate) table: Vec<Row>,
    pub(crate) leader: Option<u64>,
    /// Highest acknowledged index.
    pub(crate) commit: u64,
    /// Ids that have been members with a vote or data.
    pub(crate) seen: BTreeSet<u64>,
    /// The operator has put down somewhere that there is a cluster.
    pub(crate) recorded: bool,
    pub(crate) children_stale: bool,
    /// Faults happen.
    pub(crate) stormy: bool,
    pub(crate) trace: Vec<String>,
    next: u64,
}

pub(crate) fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut object = MetaStore::default();
        object.metadata.name = Some("demo".to_owned());
        object.metadata.namespace = Some("default".to_owned());
        object.metadata.uid = Some("uid".to_owned());
        object.metadata.generation = Some(1);
        let mut dice = Dice::new(seed);
        object.spec.replicas = [1, 2, 3, 3, 3, 4, 5][dice.below(7)];
        object.spec.storage.size = "1Gi".to_owned();
        if dice.percent(30) {
            object.spec.storage.on_scale_in = Retention::Retain;
        }
        if dice.percent(15) {
            object.spec.restore_from = Some(operator::crd::RestoreSpec {
                claim_name: "backup".to_owned(),
                path: "file".to_owned(),
                bump_revision: 0,
            });
        }
        World {
            dice,
            now_s: 1_700_000_000,
            object,
            image: "good-0".to_owned(),
            set: None,
            pods: BTreeMap::new(),
            volumes: BTreeMap::new(),
            table: Vec::new(),
            leader: None,
            commit: 0,
            seen: BTreeSet::new(),
            recorded: false,
            children_stale: true,
            stormy: true,
            trace: Vec::new(),
            next: 0,
        }
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        let line = format!("{:>6} {}", self.now_s - 1_700_000_000, text.into());
        self.trace.push(line);
    }

    pub(crate) fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn uid(&mut self, kind: &str) -> String {
        format!("{kind}{}", self.fresh())
    }

    pub(crate) fn founded(&self) -> bool {
        !self.table.is_empty()
    }

    pub(crate) fn row(&self, id: u64) -> Option<&Row> {
        self.table.iter().find(|row| row.id == id)
    }

    pub(crate) fn row_at(&self, ordinal: Ordinal) -> Option<&Row> {
        self.table.iter().find(|row| row.ordinal == ordinal)
    }

    pub(crate) fn voters(&self) -> Vec<&Row> {
        self.table.iter().filter(|row| !row.learner).collect()
    }

    /// The ordinal whose pod serves as a member.
    pub(crate) fn serves_at(&self, id: u64) -> Option<Ordinal> {
        self.pods.iter().find(|(_, pod)| pod.state == State::Runs(id)).map(|(n, _)| *n)
    }

    pub(crate) fn has(&self, id: u64) -> Option<u64> {
        self.volumes.values().find_map(|volume| match volume.disk {
            Disk::Member { id: of, has } if of == id => Some(has),
            _ => None,
        })
    }

    fn set_has(&mut self, id: u64, index: u64) {
        for volume in self.volumes.values_mut() {
            if let Disk::Member { id: of, has } = &mut volume.disk
                && *of == id
            {
                *has = index;
            }
        }
    }

    pub(crate) fn alive_voters(&self) -> Vec<u64> {
        let rows = self.voters();
        rows.iter().map(|row| row.id).filter(|id| self.serves_at(*id).is_some()).collect()
    }

    /// A leader with a quorum behind it.
    pub(crate) fn works(&self) -> bool {
        self.founded()
            && self.leader.is_some_and(|leader| self.serves_at(leader).is_some())
            && self.alive_voters().len() >= quorum(self.voters().len())
    }

    /// A voter that does its part and goes on doing so.
    pub(crate) fn healthy(&self, id: u64) -> bool {
        let stays = self.serves_at(id).is_some_and(|n| !self.pods[&n].deleting);
        self.works() && stays && self.has(id).is_some_and(|has| has + LAG_MAX >= self.commit)
    }

    /// An entry is committed: on the leader and enough others. False: nobody can.
    pub(crate) fn commit(&mut self, entries: u64) -> bool {
        if !self.works() {
            return false;
        }
        self.commit += entries;
        let leader = self.leader.expect("works");
        let mut others: Vec<u64> =
            self.alive_voters().into_iter().filter(|id| *id != leader).collect();
        self.set_has(leader, self.commit);
        let mut acks = 1;
        let needed = quorum(self.voters().len());
        while !others.is_empty() {
            let id = others.swap_remove(self.dice.below(others.len()));
            if acks < needed || self.dice.percent(80) {
                self.set_has(id, self.commit);
                acks += 1;
            }
        }
        true
    }

    fn stop(&mut self, ordinal: Ordinal, state: State, exit: Option<i32>) {
        let Some(pod) = self.pods.get_mut(&ordinal) else { return };
        let id = match pod.state {
            State::Runs(id) => Some(id),
            _ => None,
        };
        pod.state = state;
        pod.ready_since = None;
        if exit.is_some() {
            pod.last_exit = exit;
        }
        if id.is_some() && self.leader == id {
            self.leader = None;
        }
        self.note(format!("demo-{ordinal} stops, exit {exit:?}"));
    }

    // The controller of stateful sets.

    pub(crate) fn set_controller(&mut self) {
        let Some(set) = self.set.clone() else { return };
        if set.deleting {
            let next = self.pods.iter().find(|(_, pod)| !pod.deleting).map(|(n, _)| *n);
            match next {
                Some(ordinal) => self.pods.get_mut(&ordinal).expect("there").deleting = true,
                None if self.pods.is_empty() => {
                    self.set = None;
                    self.note("the set is gone");
                }
                None => {}
            }
            return;
        }
        if set.seen.as_ref() != Some(&set.told) {
            if self.dice.percent(50) {
                self.set.as_mut().expect("there").seen = Some(set.told);
            }
            return;
        }
        let ordinals: Vec<Ordinal> = (0..set.told.replicas).collect();
        let missing: Vec<Ordinal> =
            ordinals.into_iter().filter(|n| !self.pods.contains_key(n)).collect();
        if let Some(ordinal) = self.dice.pick(&missing) {
            return self.create_pod(ordinal, &set.told);
        }
        let extra: Vec<Ordinal> = self
            .pods
            .iter()
            .filter(|(n, pod)| **n >= set.told.replicas && !pod.deleting)
            .map(|(n, _)| *n)
            .collect();
        if let Some(ordinal) = self.dice.pick(&extra) {
            self.pods.get_mut(&ordinal).expect("there").deleting = true;
            self.note(format!("the set deletes demo-{ordinal}"));
        }
    }

    fn create_pod(&mut self, ordinal: Ordinal, template: &Template) {
        if self.volumes.get(&ordinal).is_some_and(|volume| volume.deleting) {
            return;
        }
        if !self.volumes.contains_key(&ordinal) {
            let uid = self.uid("claim");
            let volume =
                Volume { uid, deleting: false, requested: 1 << 30, capacity: 0, disk: Disk::Empty };
            self.volumes.insert(ordinal, volume);
        }
        let uid = self.uid("pod");
        let pod = PodModel {
            uid,
            deleting: false,
            hash: template.hash.clone(),
            beginning: template.beginning.clone(),
            claim_uid: self.volumes[&ordinal].uid.clone(),
            state: State::Starting,
            ready_since: None,
            last_exit: None,
        };
        self.pods.insert(ordinal, pod);
        self.note(format!("the set makes demo-{ordinal} ({})", template.hash));
    }

    // Kubelet and the provisioner of volumes.

    pub(crate) fn kubelet(&mut self, ordinal: Ordinal) {
        if let Some(volume) = self.volumes.get_mut(&ordinal) {
            volume.capacity = volume.requested;
        }
        let Some(pod) = self.pods.get(&ordinal).cloned() else {
            if self.volumes.get(&ordinal).is_some_and(|volume| volume.deleting) {
                self.volumes.remove(&ordinal);
                self.note(format!("data-demo-{ordinal} is gone"));
            }
            return;
        };
        if pod.deleting {
            self.stop(ordinal, State::Starting, Some(0));
            self.pods.remove(&ordinal);
            self.note(format!("demo-{ordinal} is gone"));
            return;
        }
        match pod.state {
            State::Starting => self.boot(ordinal, &pod),
            State::Waits(_) if self.dice.percent(40) => self.boot(ordinal, &pod),
            State::Waits(_) => {}
            State::Runs(id) => {
                if self.stormy && self.dice.percent(1) {
                    return self.stop(ordinal, State::Waits("CrashLoopBackOff"), Some(1));
                }
                // A learner serves no reads, so it is never ready.
                let serves = self.row(id).is_some_and(|row| !row.learner) && self.healthy(id);
                let now_s = self.now_s;
                let pod = self.pods.get_mut(&ordinal).expect("there");
                pod.ready_since = serves.then(|| pod.ready_since.unwrap_or(now_s));
            }
        }
    }

    fn boot(&mut self, ordinal: Ordinal, pod: &PodModel) {
        if pod.hash.starts_with("bad") {
            self.pods.get_mut(&ordinal).expect("there").state = State::Waits("ImagePullBackOff");
            return;
        }
        let disk = self.volumes.get(&ordinal).map(|volume| volume.disk).expect("mounted");
        let fail = |world: &mut World, code| {
            world.stop(ordinal, State::Waits("CrashLoopBackOff"), Some(code));
        };
        match disk {
            Disk::Damaged => fail(self, 3),
            Disk::Member { id, .. } if self.works() && self.row(id).is_none() => fail(self, 3),
            Disk::Member { id, .. } => self.run(ordinal, id),
            Disk::Empty => match self.begin(ordinal, &pod.beginning) {
                Ok(id) => {
                    self.volumes.get_mut(&ordinal).expect("mounted").disk =
                        Disk::Member { id, has: 0 };
                    self.note(format!("demo-{ordinal} begins as member {id}"));
                    self.run(ordinal, id);
                }
                Err(code) => fail(self, code),
            },
        }
    }

    fn run(&mut self, ordinal: Ordinal, id: u64) {
        self.pods.get_mut(&ordinal).expect("there").state = State::Runs(id);
        self.note(format!("demo-{ordinal} runs as member {id}"));
    }

    /// Begins on an empty directory, or says with which code the server gives up.
    fn begin(&mut self, ordinal: Ordinal, beginning: &Beginning) -> Result<u64, i32> {
        let known = |row: &Row| if row.started { Err(3) } else { Ok(row.id) };
        match beginning {
            Beginning::Found { founders } => {
                if ordinal >= *founders {
                    return Err(2);
                }
                // The server asks the other founders, if any is there.
                match self.row_at(ordinal) {
                    Some(row) if self.works() => known(row),
                    _ => Ok(founder_id(ordinal)),
                }
            }
            Beginning::Restore if ordinal > 0 => Err(1),
            Beginning::Restore => Ok(founder_id(0)),
            Beginning::Join { others } => {
                let serves = |n: &Ordinal| {
                    let pod = self.pods.get(n).filter(|_| *n != ordinal);
                    pod.is_some_and(|pod| matches!(pod.state, State::Runs(_)))
                };
                if !self.works() || !others.iter().any(serves) {
                    return Err(1);
                }
                match self.row_at(ordinal) {
                    Some(row) => known(row),
                    None => Err(if self.dice.percent(50) { 1 } else { 3 }),
                }
            }
        }
    }

    // Members.

    pub(crate) fn members(&mut self) {
        if !self.founded() {
            return self.form();
        }
        match self.dice.below(5) {
            0 => self.elect(),
            1 | 2 => self.catch_up(),
            3 => self.notice_removal(),
            _ => {
                let entries = self.dice.below(1_000) as u64;
                self.commit(entries);
            }
        }
    }

    fn form(&mut self) {
        let founders = match self.set.as_ref().map(|set| &set.told.beginning) {
            Some(Beginning::Found { founders }) => *founders,
            Some(Beginning::Restore) => 1,
            _ => return,
        };
        let alive: Vec<u64> =
            (0..founders).map(founder_id).filter(|id| self.serves_at(*id).is_some()).collect();
        if alive.len() < quorum(founders as usize) {
            return;
        }
        for ordinal in 0..founders {
            let id = founder_id(ordinal);
            let started = alive.contains(&id);
            if started {
                self.seen.insert(id);
                self.set_has(id, 1);
            }
            self.table.push(Row { id, ordinal, learner: false, started });
        }
        self.leader = self.dice.pick(&alive);
        self.children_stale = true;
        self.note(format!("{founders} founders are a cluster, {:?} leads", self.leader));
        self.commit(10);
    }

    fn elect(&mut self) {
        if self.leader.is_some_and(|leader| self.serves_at(leader).is_some()) {
            let resigns = self.stormy && self.dice.percent(5);
            if !resigns && self.alive_voters().len() >= quorum(self.voters().len()) {
                return;
            }
        }
        self.leader = None;
        let alive = self.alive_voters();
        if alive.len() < quorum(self.voters().len()) {
            return;
        }
        let newest = alive.iter().filter_map(|id| self.has(*id)).max().unwrap_or(0);
        let fit: Vec<u64> = alive.into_iter().filter(|id| self.has(*id) == Some(newest)).collect();
        self.leader = self.dice.pick(&fit);
        self.note(format!("{:?} leads", self.leader));
    }

    fn catch_up(&mut self) {
        if !self.works() {
            return;
        }
        let rows: Vec<(u64, bool)> = self.table.iter().map(|row| (row.id, row.started)).collect();
        for (id, started) in rows {
            if self.serves_at(id).is_none() || self.dice.percent(30) {
                continue;
            }
            let has = self.has(id).unwrap_or(0);
            let step = 100 + self.dice.below(4_000) as u64;
            self.set_has(id, (has + step).min(self.commit));
            if !started {
                self.seen.insert(id);
                self.table.iter_mut().filter(|row| row.id == id).for_each(|row| row.started = true);
            }
        }
    }

    fn notice_removal(&mut self) {
        if !self.works() {
            return;
        }
        let removed = self.pods.iter().find_map(|(n, pod)| match pod.state {
            State::Runs(id) if self.row(id).is_none() => Some(*n),
            _ => None,
        });
        if let Some(ordinal) = removed {
            self.stop(ordinal, State::Waits("CrashLoopBackOff"), Some(3));
        }
    }
}

/// Founders have ids that follow from the token and their names.
pub(crate) fn founder_id(ordinal: Ordinal) -> u64 {
    10_000 + ordinal as u64
}
