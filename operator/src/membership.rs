//! Who is a member: members that lost their data, newcomers, those who leave.
//!
//! A vote is only ever taken from the table when those who stay agree without it, and only ever given
//! to a newcomer that has caught up. An ordinal whose data is lost goes through the same stations as
//! one that somebody removed by hand: no row, no claim, a new row, a new pod. So whatever was cut short
//! is seen in what is there.

use k8s_openapi::jiff::Timestamp;

use crate::crd::{OperationKind, REPLICAS_MAX, Retention};
use crate::decide::{Next, Trouble, Work};
use crate::facts::{Facts, quorum};
use crate::observed::{Member, Ordinal};
use crate::plan::Step;

/// Members whose data a server found of no use are replaced this seldom: should something be wrong that
/// makes all of them give up, a person has the time to look.
pub(crate) const REPLACEMENT_EVERY_S: i64 = 30 * 60;

/// Phase in which a row leaves the table.
const REMOVE_MEMBER: &str = "RemoveMember";

/// Whether those who stay agree without this voter, which is only looked at as one that leaves.
fn stay_without(facts: &Facts<'_>, id: u64) -> bool {
    let Some(voters_left) = facts.voter_count().checked_sub(1).filter(|left| *left > 0) else {
        return false;
    };
    let enough = facts.healthy_voters_but(id) >= quorum(voters_left);
    // Taking away one that may do its part narrows the margin: then nobody else may be missing.
    enough && (facts.down(id) || facts.all_healthy_but(id))
}

/// Whether a member was replaced only just now.
pub(crate) fn replacement_waits(facts: &Facts<'_>) -> bool {
    let last = facts.status().and_then(|status| status.last_replacement.as_deref());
    let last = last.and_then(|last| last.parse::<Timestamp>().ok());
    last.is_some_and(|last| facts.observed.now_s < last.as_second() + REPLACEMENT_EVERY_S)
}

/// Takes members whose data are gone, or about to go, out of the table.
pub(crate) fn replace_lost(facts: &Facts<'_>, troubles: &mut Vec<Trouble>) -> Next {
    for (&ordinal, row) in facts.rows.iter().rev() {
        if facts.gave_up(ordinal) && !awaits_new_claim(facts, ordinal, row) {
            if let Some(next) = replace_given_up(facts, troubles, ordinal, row) {
                return next;
            }
        } else if facts.claim_leaves(ordinal) {
            if let Some(next) = replace_claim(facts, troubles, ordinal, row) {
                return next;
            }
        } else if let Some(other) = facts.other_cluster(ordinal) {
            troubles.push(Trouble::new(
                "OtherClustersData",
                format!(
                    "{} holds data of cluster {other:x}: delete {} if it is of no use, and the \
                     member begins anew",
                    facts.pod_name(ordinal),
                    facts.claim_name(ordinal)
                ),
            ));
        }
    }
    Next::Go
}

/// Whether the last replacement is this member's: it was reported, and the member is still there.
fn is_begun(facts: &Facts<'_>, id: u64) -> bool {
    let begun = facts.status().and_then(|status| status.operation.as_ref());
    begun.is_some_and(|begun| {
        begun.kind == OperationKind::Replace
            && begun.phase == REMOVE_MEMBER
            && begun.member_id == Some(format!("{id:x}"))
    })
}

/// A newcomer whose pod is still the one of its predecessor.
fn awaits_new_claim(facts: &Facts<'_>, ordinal: Ordinal, row: &Member) -> bool {
    row.learner && !row.started && facts.claim_leaves(ordinal)
}

fn replace_given_up(
    facts: &Facts<'_>,
    troubles: &mut Vec<Trouble>,
    ordinal: Ordinal,
    row: &Member,
) -> Option<Next> {
    let pod = facts.pod_name(ordinal);
    let by_user = facts.claim_exchanged(ordinal, row.id) || facts.claim_leaves(ordinal);
    if !by_user && !is_begun(facts, row.id) && replacement_waits(facts) {
        let message = format!(
            "{pod} can not use its data; a member was replaced already, the next is at the earliest \
             {REPLACEMENT_EVERY_S} s after it"
        );
        troubles.push(Trouble::new("DataLost", message));
        return None;
    }
    if !row.learner && !stay_without(facts, row.id) {
        let message = format!("{pod} can not use its data, and too few others are well to go on");
        troubles.push(Trouble::new("DataLost", message));
        return None;
    }
    Some(remove(OperationKind::Replace, ordinal, row.id))
}

/// Somebody deleted the claim of a member that runs. It goes when the pod does; before that the member
/// leaves the table, as long as it can leave orderly.
fn replace_claim(
    facts: &Facts<'_>,
    troubles: &mut Vec<Trouble>,
    ordinal: Ordinal,
    row: &Member,
) -> Option<Next> {
    // Only of a learner that never started is it sure that its id has promised nothing yet.
    if row.learner && !row.started {
        let pod = facts.pod(ordinal).filter(|pod| !pod.deleting)?;
        let step = Step::DeletePod { ordinal, uid: pod.uid.clone() };
        return Some(Work::steps(OperationKind::Replace, "NewPod", Some(ordinal), vec![step]));
    }
    if row.learner {
        return Some(remove(OperationKind::Replace, ordinal, row.id));
    }
    if !stay_without(facts, row.id) {
        let message = format!(
            "{} is being deleted, and with its pod the data of {} will be gone: the member can not \
             be replaced now",
            facts.claim_name(ordinal),
            facts.pod_name(ordinal)
        );
        troubles.push(Trouble::new("ClaimDeleted", message));
        return None;
    }
    Some(leave(facts, OperationKind::Replace, ordinal, row))
}

/// Hands over leadership if needed, then leaves the table.
fn leave(facts: &Facts<'_>, kind: OperationKind, ordinal: Ordinal, row: &Member) -> Next {
    if facts.leader != Some(row.id) {
        return remove(kind, ordinal, row.id);
    }
    match successor(facts, row.id, |_| true) {
        Some(to) => {
            let step = Step::MoveLeader { from: ordinal, to };
            Work::steps(kind, "MoveLeader", Some(ordinal), vec![step])
        }
        None => Work::wait(kind, "MoveLeader", Some(ordinal)),
    }
}

fn remove(kind: OperationKind, ordinal: Ordinal, member_id: u64) -> Next {
    Work::steps(kind, REMOVE_MEMBER, Some(ordinal), vec![Step::RemoveMember { member_id }])
}

/// Who is to lead next: of those that are well and fit, one that stays, and of these the one that is
/// furthest on.
pub(crate) fn successor(
    facts: &Facts<'_>,
    leader: u64,
    fits: impl Fn(Ordinal) -> bool,
) -> Option<u64> {
    let voters = facts.rows.iter().filter(|(_, row)| !row.learner && row.id != leader);
    let fit = voters.filter(|(ordinal, row)| facts.healthy(row.id) && fits(**ordinal));
    let rank = |(ordinal, row): &(&Ordinal, &&Member)| {
        let at = facts.seen_by_leader(row.id).map_or(0, |peer| peer.match_index);
        (**ordinal < facts.wanted && !facts.claim_leaves(**ordinal), at, -**ordinal)
    };
    fit.max_by_key(rank).map(|(_, row)| row.id)
}

/// What a newcomer is called, in the journal: part of what was begun, else by its place.
fn kind_of_newcomer(facts: &Facts<'_>, ordinal: Ordinal) -> OperationKind {
    let pod = facts.pod_name(ordinal);
    let begun = facts.status().and_then(|status| status.operation.as_ref());
    match begun {
        Some(begun) if begun.member.as_deref() == Some(pod.as_str()) => match begun.kind {
            OperationKind::Replace => OperationKind::Replace,
            _ => OperationKind::ScaleOut,
        },
        _ if facts.rows.keys().all(|other| *other <= ordinal) => OperationKind::ScaleOut,
        _ => OperationKind::Replace,
    }
}

/// Brings the newcomer there is to its vote, or takes it back where it is not wanted any more.
pub(crate) fn finish_learner(facts: &Facts<'_>, troubles: &mut Vec<Trouble>) -> Next {
    let Some(learner) = facts.learner() else { return Next::Go };
    let (Some(ordinal), Some(workload)) = (facts.ordinal(learner.id), facts.workload()) else {
        return Next::Go;
    };
    if ordinal >= facts.wanted || ordinal > workload.replicas {
        return remove(OperationKind::ScaleIn, ordinal, learner.id);
    }
    let kind = kind_of_newcomer(facts, ordinal);
    if ordinal == workload.replicas {
        let step = Step::ApplyWorkload { replicas: ordinal + 1, beginning: facts.join() };
        return Work::steps(kind, "NewPod", Some(ordinal), vec![step]);
    }
    // Readiness can not be asked for: a learner never counts as ready, for it serves no reads.
    if learner.started && facts.healthy(learner.id) {
        let step = Step::Promote { member_id: learner.id };
        return Work::steps(kind, "Promote", Some(ordinal), vec![step]);
    }
    // A newcomer has nothing to lose: one that was made the old way is made anew at once.
    if let Some(next) = crate::roll::renew_learner(facts, troubles, ordinal) {
        return next;
    }
    Work::wait(kind, "CatchingUp", Some(ordinal))
}

/// Pods above all rows that nobody wants.
pub(crate) fn finish_removal(facts: &Facts<'_>, _: &mut Vec<Trouble>) -> Next {
    let Some(workload) = facts.workload() else { return Next::Go };
    let rows_end = facts.rows.last_key_value().map_or(0, |(ordinal, _)| ordinal + 1);
    let end = rows_end.max(facts.wanted);
    if workload.replicas <= end {
        return Next::Go;
    }
    let last = workload.replicas - 1;
    // Claims go while their pods are still there: so none is ever taken for one that was kept earlier.
    if facts.observed.object.spec.storage.on_scale_in == Retention::Delete {
        let doomed = (end..workload.replicas).rev().find_map(|ordinal| {
            let claim = facts.observed.claims.get(&ordinal)?;
            let ours = facts.pod(ordinal).is_some() && facts.other_cluster(ordinal).is_none();
            (ours && !claim.deleting).then(|| (ordinal, claim.uid.clone()))
        });
        if let Some((ordinal, uid)) = doomed {
            let step = Step::DeleteClaim { ordinal, uid };
            return Work::steps(OperationKind::ScaleIn, "DeleteClaim", Some(ordinal), vec![step]);
        }
    }
    let step = Step::ApplyWorkload { replicas: end, beginning: facts.join() };
    Work::steps(OperationKind::ScaleIn, "StopPod", Some(last), vec![step])
}

/// May a row be added.
fn may_add(facts: &Facts<'_>, troubles: &mut Vec<Trouble>) -> bool {
    if let Some(learner) = facts.learner() {
        let message = format!(
            "member {:x} is a learner that is none of the operator's, and there can be one only: \
             promote or remove it",
            learner.id
        );
        troubles.push(Trouble::new("ForeignLearner", message));
        return false;
    }
    let max = usize::try_from(REPLICAS_MAX).unwrap_or(0);
    if facts.voter_count() >= max {
        let message = format!("the cluster has {} voters already", facts.voter_count());
        troubles.push(Trouble::new("TooManyMembers", message));
        return false;
    }
    facts.all_healthy()
}

/// Gives a row to a pod that should have one: its member was removed, by hand or because its data were
/// lost. Whatever is on its claim is of a member that is no more.
pub(crate) fn seat_pod(facts: &Facts<'_>, troubles: &mut Vec<Trouble>) -> Next {
    let replicas = facts.workload().map_or(0, |workload| workload.replicas).min(facts.wanted);
    let Some(ordinal) = (0..replicas).find(|ordinal| !facts.rows.contains_key(ordinal)) else {
        return Next::Go;
    };
    let replace = |phase, steps| Work::steps(OperationKind::Replace, phase, Some(ordinal), steps);
    if let Some(other) = facts.other_cluster(ordinal) {
        let message = format!(
            "{} holds data of cluster {other:x}: delete {} if it is of no use, and a member begins \
             there",
            facts.pod_name(ordinal),
            facts.claim_name(ordinal)
        );
        troubles.push(Trouble::new("OtherClustersData", message));
        if !facts.claim_leaves(ordinal) {
            return Next::Go;
        }
    }
    if !may_add(facts, troubles) {
        return replace("WaitingForMembers", Vec::new());
    }
    if let Some(claim) = facts.observed.claims.get(&ordinal).filter(|claim| !claim.deleting) {
        let step = Step::DeleteClaim { ordinal, uid: claim.uid.clone() };
        return replace("DeleteClaim", vec![step]);
    }
    let mut steps = vec![Step::AddLearner { ordinal }];
    if let Some(pod) = facts.pod(ordinal).filter(|pod| !pod.deleting) {
        steps.push(Step::DeletePod { ordinal, uid: pod.uid.clone() });
    }
    replace("AddLearner", steps)
}

/// Takes the highest ordinal that is not wanted out of the table.
pub(crate) fn scale_in(facts: &Facts<'_>, _: &mut Vec<Trouble>) -> Next {
    let Some((&ordinal, row)) = facts.rows.last_key_value() else { return Next::Go };
    if ordinal < facts.wanted {
        return Next::Go;
    }
    if !stay_without(facts, row.id) {
        return Work::wait(OperationKind::ScaleIn, "WaitingForMembers", Some(ordinal));
    }
    leave(facts, OperationKind::ScaleIn, ordinal, row)
}

/// Takes out a member that is not wanted and whose pod will not come back: the set was scaled by hand.
/// While it is in the table nobody can be added.
pub(crate) fn drop_podless(facts: &Facts<'_>, _: &mut Vec<Trouble>) -> Next {
    let Some((&ordinal, row)) = facts.rows.last_key_value() else { return Next::Go };
    let replicas = facts.workload().map_or(0, |workload| workload.replicas);
    let unwanted = ordinal >= facts.wanted.max(replicas) && facts.pod(ordinal).is_none();
    if unwanted && stay_without(facts, row.id) {
        return remove(OperationKind::ScaleIn, ordinal, row.id);
    }
    Next::Go
}

/// Adds the next ordinal to the table.
pub(crate) fn scale_out(facts: &Facts<'_>, troubles: &mut Vec<Trouble>) -> Next {
    let Some(workload) = facts.workload() else { return Next::Go };
    let ordinal = workload.replicas;
    if ordinal >= facts.wanted {
        return Next::Go;
    }
    let grow = |phase, steps| Work::steps(OperationKind::ScaleOut, phase, Some(ordinal), steps);
    if let Some(claim) = facts.observed.claims.get(&ordinal) {
        if claim.deleting || facts.pod(ordinal).is_some() {
            return grow("WaitingForOldClaim", Vec::new());
        }
        if facts.observed.object.spec.storage.on_scale_in == Retention::Delete {
            let step = Step::DeleteClaim { ordinal, uid: claim.uid.clone() };
            return grow("DeleteClaim", vec![step]);
        }
        let message = format!(
            "{} is kept from an earlier member, whose data must not come back: rename or delete it \
             and {} is added",
            facts.claim_name(ordinal),
            facts.pod_name(ordinal)
        );
        troubles.push(Trouble::new("RetainedClaim", message));
        return Next::Go;
    }
    if !may_add(facts, troubles) {
        return grow("WaitingForMembers", Vec::new());
    }
    let newcomer = Step::ApplyWorkload { replicas: ordinal + 1, beginning: facts.join() };
    grow("AddLearner", vec![Step::AddLearner { ordinal }, newcomer])
}
