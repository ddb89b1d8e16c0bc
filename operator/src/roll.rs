//! Pods that are not made as the spec wants them, one after another: learners, followers from the
//! highest ordinal down, the leader last, after it has handed over to one that is renewed.

use crate::crd::OperationKind;
use crate::decide::{Next, Trouble, Work, stuck};
use crate::facts::{Facts, quorum};
use crate::membership::successor;
use crate::observed::{Member, Ordinal};
use crate::plan::Step;

fn delete(facts: &Facts<'_>, phase: &'static str, ordinal: Ordinal) -> Next {
    let Some(pod) = facts.pod(ordinal) else {
        return Work::wait(OperationKind::Roll, phase, Some(ordinal));
    };
    let step = Step::DeletePod { ordinal, uid: pod.uid.clone() };
    Work::steps(OperationKind::Roll, phase, Some(ordinal), vec![step])
}

/// Made otherwise than wanted, while the set would make it as wanted.
fn outdated(facts: &Facts<'_>, ordinal: Ordinal) -> bool {
    let wanted = &facts.observed.wanted_hash;
    let ready = |hash: &str, settled| settled && hash == wanted;
    facts.workload().is_some_and(|workload| ready(&workload.template_hash, workload.settled))
        && facts.pod(ordinal).is_some_and(|pod| !pod.deleting && pod.hash != *wanted)
}

/// A pod that does not get to run, made by a template that has been corrected since, takes nothing from
/// anybody when it is made anew; it need not wait, not even for a quorum. Unless its claim would go
/// with it.
pub(crate) fn unstick(facts: &Facts<'_>, _: &mut Vec<Trouble>) -> Next {
    let hopeless = facts.observed.pods.iter().find(|(ordinal, pod)| {
        stuck(pod).is_some() && outdated(facts, **ordinal) && !facts.claim_leaves(**ordinal)
    });
    match hopeless {
        Some((ordinal, _)) => delete(facts, "Unstick", *ordinal),
        None => Next::Go,
    }
}

/// A learner's pod that was made the old way.
pub(crate) fn renew_learner(
    facts: &Facts<'_>,
    _: &mut Vec<Trouble>,
    ordinal: Ordinal,
) -> Option<Next> {
    outdated(facts, ordinal).then(|| delete(facts, "DeletePod", ordinal))
}

/// Renews a pod that is not well: it stops nobody by that, and the change may be what cures it. Those
/// that are renewed already have to be well, or one change would take down one after another.
pub(crate) fn renew_unwell(facts: &Facts<'_>, _: &mut Vec<Trouble>) -> Next {
    let old = |id| facts.ordinal(id).is_some_and(|ordinal| outdated(facts, ordinal));
    for (&ordinal, row) in facts.rows.iter().rev() {
        if !old(row.id) || facts.healthy(row.id) || facts.claim_leaves(ordinal) {
            continue;
        }
        let down = facts.down(row.id);
        let others_well = facts
            .voters()
            .all(|voter| voter.id == row.id || facts.healthy(voter.id) || (down && old(voter.id)));
        if others_well && facts.healthy_voters_but(row.id) >= quorum(facts.voter_count()) {
            return delete(facts, "DeletePod", ordinal);
        }
    }
    Next::Go
}

/// Renews the next pod.
pub(crate) fn roll(facts: &Facts<'_>, _: &mut Vec<Trouble>) -> Next {
    let old: Vec<(Ordinal, &Member)> = facts
        .rows
        .iter()
        .rev()
        .filter(|(ordinal, _)| outdated(facts, **ordinal) && !facts.claim_leaves(**ordinal))
        .map(|(ordinal, row)| (*ordinal, *row))
        .collect();
    if old.is_empty() {
        return Next::Go;
    }
    if let Some(next) = wait_until_settled(facts) {
        return next;
    }
    let follower = old.iter().find(|(_, row)| facts.leader != Some(row.id));
    if let Some((ordinal, _)) = follower {
        return delete(facts, "DeletePod", *ordinal);
    }
    let (ordinal, leader) = old[0];
    match successor(facts, leader.id, |_| true) {
        Some(to) => {
            let step = Step::MoveLeader { from: ordinal, to };
            Work::steps(OperationKind::Roll, "MoveLeader", Some(ordinal), vec![step])
        }
        // Alone: there is nobody to hand over to.
        None => delete(facts, "DeletePod", ordinal),
    }
}

fn wait_until_settled(facts: &Facts<'_>) -> Option<Next> {
    let mut longest_s = 0;
    for voter in facts.voters() {
        let wait = facts.settles_in_s(voter.id);
        let ordinal = facts.ordinal(voter.id);
        match wait {
            Some(wait_s) => longest_s = longest_s.max(wait_s),
            None => return Some(Work::wait(OperationKind::Roll, "WaitingForMembers", ordinal)),
        }
    }
    if longest_s == 0 {
        return None;
    }
    match Work::wait(OperationKind::Roll, "MinReady", None) {
        Next::Do(work) => Some(Next::Do(Work { again_s: Some(longest_s), ..work })),
        other => Some(other),
    }
}
