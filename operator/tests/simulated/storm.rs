//! What happens to a cluster: users, nodes, disks. Never so much at once that no operator could help:
//! a quorum of the voters keeps what was acknowledged.

use operator::observed::{Beginning, Ordinal};

use crate::world::{Disk, State, Template, World, quorum};

impl World {
    /// Somebody other than the operator does something.
    pub(crate) fn happen(&mut self) {
        self.now_s += self.dice.below(3) as i64;
        match self.dice.below(10) {
            0..=2 => self.set_controller(),
            3..=6 => {
                let ordinal = self.dice.below(9) as Ordinal;
                self.kubelet(ordinal);
            }
            _ => self.members(),
        }
        self.check_laws();
    }

    /// Something goes wrong, or a user changes their mind.
    pub(crate) fn fault(&mut self) {
        match self.dice.below(24) {
            0..=4 => self.edit_replicas(),
            5..=6 => self.edit_image(),
            7 => self.edit(|world| world.object.spec.hibernate = !world.object.spec.hibernate),
            8 => self.edit(|world| world.object.spec.paused = !world.object.spec.paused),
            9 => self.edit(|world| world.object.spec.storage.size = "2Gi".to_owned()),
            10..=13 => self.lose_pod(),
            14..=16 => self.lose_volume(),
            17 => self.delete_claim_by_hand(),
            18 => self.damage(),
            19 => self.remove_by_hand(),
            20 => self.scale_set_by_hand(),
            21 if self.dice.percent(20) => self.delete_set(),
            22 => {
                let long = self.dice.below(2_000) as i64;
                self.now_s += long;
            }
            _ => {}
        }
        self.check_laws();
    }

    fn edit(&mut self, change: impl FnOnce(&mut World)) {
        change(self);
        let generation = self.object.metadata.generation.unwrap_or(0) + 1;
        self.object.metadata.generation = Some(generation);
        self.children_stale = true;
        let spec = &self.object.spec;
        let text = format!(
            "USER: replicas {}, {}, hibernate {}, paused {}",
            spec.replicas, self.image, spec.hibernate, spec.paused
        );
        self.note(text);
    }

    fn edit_replicas(&mut self) {
        let replicas = [1, 1, 2, 3, 3, 3, 4, 5, 5, 7, 9][self.dice.below(11)];
        self.edit(|world| world.object.spec.replicas = replicas);
    }

    fn edit_image(&mut self) {
        let kind = if self.dice.percent(30) { "bad" } else { "good" };
        let number = self.fresh();
        self.edit(|world| world.image = format!("{kind}-{number}"));
    }

    fn any_pod(&mut self) -> Option<Ordinal> {
        let pods: Vec<Ordinal> = self.pods.keys().copied().collect();
        self.dice.pick(&pods)
    }

    fn lose_pod(&mut self) {
        let Some(ordinal) = self.any_pod() else { return };
        if self.claim_goes(ordinal) && !self.can_lose(ordinal) {
            return;
        }
        self.note(format!("FAULT: demo-{ordinal} is lost"));
        self.pods.get_mut(&ordinal).expect("there").deleting = true;
        if self.dice.percent(50) {
            self.kubelet(ordinal);
        }
    }

    fn claim_goes(&self, ordinal: Ordinal) -> bool {
        self.volumes.get(&ordinal).is_some_and(|volume| volume.deleting)
    }

    /// Whether the others keep what was acknowledged, and can go on, without this volume and those that
    /// are going already.
    fn can_lose(&self, ordinal: Ordinal) -> bool {
        // Until the set tells pods to ask the others, a founder that loses its volume with nobody there
        // to ask founds a second time. No plan can close that gap; it is a second long.
        let joins = |template: &Template| matches!(template.beginning, Beginning::Join { .. });
        let seen = self.set.as_ref().and_then(|set| set.seen.as_ref());
        if !self.founded() || !seen.is_some_and(joins) {
            return false;
        }
        let voters = self.voters();
        let keeps = |id: u64| {
            self.volumes.iter().any(|(n, volume)| {
                let of = matches!(volume.disk, Disk::Member { id: of, .. } if of == id);
                of && *n != ordinal && !volume.deleting
            })
        };
        let kept: Vec<u64> = voters.iter().map(|row| row.id).filter(|id| keeps(*id)).collect();
        let holds = kept.iter().filter(|id| self.has(**id) >= Some(self.commit)).count();
        let lags = kept.len() - holds;
        let unseen = voters.iter().filter(|row| !self.seen.contains(&row.id)).count();
        let quorum = quorum(voters.len());
        kept.len() >= quorum && holds >= 1 && lags + unseen < quorum
    }

    fn lose_volume(&mut self) {
        let Some(ordinal) = self.any_pod().filter(|n| self.can_lose(*n)) else { return };
        self.note(format!("FAULT: data-demo-{ordinal} is lost with its pod"));
        self.volumes.get_mut(&ordinal).expect("mounted").deleting = true;
        self.pods.get_mut(&ordinal).expect("there").deleting = true;
        self.kubelet(ordinal);
        self.kubelet(ordinal);
    }

    fn delete_claim_by_hand(&mut self) {
        let Some(ordinal) = self.any_pod().filter(|n| self.can_lose(*n)) else { return };
        self.note(format!("USER: deletes data-demo-{ordinal}, which its pod keeps"));
        self.volumes.get_mut(&ordinal).expect("mounted").deleting = true;
    }

    fn damage(&mut self) {
        let Some(ordinal) = self.any_pod().filter(|n| self.can_lose(*n)) else { return };
        self.note(format!("FAULT: data-demo-{ordinal} is damaged"));
        self.volumes.get_mut(&ordinal).expect("mounted").disk = Disk::Damaged;
        let pod = self.pods.get_mut(&ordinal).expect("there");
        let id = match pod.state {
            State::Runs(id) => id,
            _ => return,
        };
        pod.state = State::Waits("CrashLoopBackOff");
        pod.ready_since = None;
        pod.last_exit = Some(3);
        if self.leader == Some(id) {
            self.leader = None;
        }
    }

    fn remove_by_hand(&mut self) {
        let voters: Vec<u64> = self.voters().iter().map(|row| row.id).collect();
        let all_well = voters.iter().all(|id| self.healthy(*id))
            && !self.volumes.values().any(|volume| volume.deleting);
        let ids: Vec<u64> = voters.into_iter().filter(|id| self.leader != Some(*id)).collect();
        let Some(id) = self.dice.pick(&ids).filter(|_| all_well) else { return };
        // The member that is removed may hold what others lack: the change itself brings them along.
        if self.commit(1) {
            self.note(format!("USER: removes member {id}"));
            self.table.retain(|row| row.id != id);
            self.children_stale = true;
        }
    }

    fn scale_set_by_hand(&mut self) {
        let replicas = self.dice.below(6) as i32;
        if let Some(set) = &mut self.set {
            set.told.replicas = replicas;
            self.note(format!("USER: scales the set to {replicas}"));
        }
    }

    fn delete_set(&mut self) {
        // All pods go, and with them the claims that only their pods kept.
        if self.founded()
            && !self.volumes.values().any(|volume| volume.deleting)
            && let Some(set) = &mut self.set
        {
            set.deleting = true;
            self.note("USER: deletes the set");
        }
    }
}
