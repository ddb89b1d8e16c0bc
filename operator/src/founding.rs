//! How a cluster begins, sleeps, wakes, and what its pods are made like.
//!
//! A cluster is founded once. From then on an empty directory never makes a member by itself: the
//! template tells pods to ask the others, who know whom they have already seen.

use crate::crd::OperationKind;
use crate::decide::{Next, Rest, Trouble, Work};
use crate::facts::{Facts, quorum};
use crate::observed::{Beginning, Ordinal, Workload};
use crate::plan::Step;
use crate::quantity;

fn apply(replicas: i32, beginning: Beginning) -> Step {
    Step::ApplyWorkload { replicas, beginning }
}

fn kind_of(beginning: &Beginning) -> OperationKind {
    match beginning {
        Beginning::Restore => OperationKind::Restore,
        Beginning::Found { .. } | Beginning::Join { .. } => OperationKind::Bootstrap,
    }
}

/// Makes the first pods, and waits until they are a cluster.
pub(crate) fn found(facts: &Facts<'_>, troubles: &mut Vec<Trouble>) -> Next {
    if facts.founded() {
        return Next::Go;
    }
    let hibernate = facts.observed.object.spec.hibernate;
    let Some(workload) = facts.workload() else {
        return if hibernate { Next::Rest(Some(Rest::Hibernated)) } else { begin(facts, troubles) };
    };
    let beginning = workload
        .beginning
        .clone()
        .unwrap_or(Beginning::Found { founders: workload.replicas.max(1) });
    let kind = kind_of(&beginning);
    if hibernate {
        return sleep(facts, workload, beginning);
    }
    let founders = match beginning {
        Beginning::Found { founders } => founders,
        Beginning::Restore | Beginning::Join { .. } => 1,
    };
    if workload.replicas < founders {
        let kind = if workload.replicas == 0 { OperationKind::Wake } else { kind };
        let replicas = founders.max(claims_end(facts));
        return Work::steps(kind, "Starting", None, vec![apply(replicas, beginning)]);
    }
    if workload.template_hash != facts.observed.wanted_hash {
        let steps = vec![apply(workload.replicas, beginning)];
        return Work::steps(kind, "Founding", None, steps);
    }
    match crate::roll::unstick(facts, troubles) {
        Next::Go => Work::wait(kind, "Founding", None),
        other => other,
    }
}

/// One more than the highest ordinal that has a claim.
fn claims_end(facts: &Facts<'_>) -> i32 {
    facts.observed.claims.last_key_value().map_or(0, |(ordinal, _)| ordinal + 1)
}

/// The first pods. Claims may be there from an earlier MetaStore of this name: its data come back, as
/// long as those that begin empty could not outvote them.
fn begin(facts: &Facts<'_>, troubles: &mut Vec<Trouble>) -> Next {
    let claims = &facts.observed.claims;
    let restore = facts.observed.object.spec.restore_from.is_some();
    let kind = if restore { OperationKind::Restore } else { OperationKind::Bootstrap };
    if claims.values().any(|claim| claim.deleting) {
        return Work::wait(kind, "WaitingForOldClaims", None);
    }
    let end = claims_end(facts);
    let (replicas, founders) = match (restore, claims.is_empty()) {
        (true, true) => (1, 1),
        (false, true) => (facts.wanted, facts.wanted),
        (true, false) => (end, 1),
        (false, false) => (end, end),
    };
    let empty: Vec<Ordinal> = (0..founders).filter(|n| !claims.contains_key(n)).collect();
    let founders_size = usize::try_from(founders).unwrap_or(0);
    if !claims.is_empty() && empty.len() >= quorum(founders_size) {
        let there: Vec<String> = claims.keys().map(|n| facts.claim_name(*n)).collect();
        let message = format!(
            "{} are there from an earlier cluster, and too many of its claims are not: \
             delete them to begin empty, or bring the others back",
            there.join(", ")
        );
        troubles.push(Trouble::new("PartialData", message));
        return Work::wait(kind, "WaitingForOldClaims", None);
    }
    let beginning = if restore { Beginning::Restore } else { Beginning::Found { founders } };
    Work::steps(kind, "Founding", None, vec![apply(replicas, beginning)])
}

fn sleep(facts: &Facts<'_>, workload: &Workload, beginning: Beginning) -> Next {
    if workload.replicas > 0 {
        let steps = vec![apply(0, beginning)];
        return Work::steps(OperationKind::Hibernate, "Stopping", None, steps);
    }
    if !facts.observed.pods.is_empty() {
        return Work::wait(OperationKind::Hibernate, "Stopping", None);
    }
    Next::Rest(Some(Rest::Hibernated))
}

/// Stops all pods, or brings back those that members are known to have.
pub(crate) fn sleep_or_wake(facts: &Facts<'_>, _: &mut Vec<Trouble>) -> Next {
    if facts.observed.object.spec.hibernate {
        let Some(workload) = facts.workload() else {
            return Next::Rest(Some(Rest::Hibernated));
        };
        // A claim that only its pod keeps would go with it: its member is replaced first.
        let keeps = |n: &Ordinal| facts.claim_leaves(*n) && facts.pod(*n).is_some();
        if workload.replicas > 0 && facts.known_ordinals().iter().any(keeps) {
            return Next::Go;
        }
        return sleep(facts, workload, facts.join());
    }
    let known = facts.known_ordinals();
    let Some(workload) = facts.workload() else {
        let end = known.last().map_or_else(|| claims_end(facts), |ordinal| ordinal + 1);
        let steps = vec![apply(end.max(1), facts.join())];
        return Work::steps(OperationKind::Wake, "Starting", None, steps);
    };
    // With a table it is known who is to leave: they need no pods for that.
    let table = facts.observed.members.is_some();
    let end = match known.iter().filter(|n| !table || **n < facts.wanted).max() {
        Some(ordinal) => ordinal + 1,
        None if table => 0,
        None => claims_end(facts),
    };
    if workload.replicas >= end || joins_now(facts, workload) {
        return Next::Go;
    }
    let steps = vec![apply(end, facts.join())];
    Work::steps(OperationKind::Wake, "Starting", None, steps)
}

/// The one row without a pod is a learner's, whose pod is the next to come.
fn joins_now(facts: &Facts<'_>, workload: &Workload) -> bool {
    let learners = facts.rows.get(&workload.replicas).is_some_and(|row| row.learner);
    learners && !facts.rows.keys().any(|n| *n > workload.replicas && *n < facts.wanted)
}

/// Keeps the set's template as the spec wants it, and naming those whom a newcomer can ask.
pub(crate) fn keep_template(facts: &Facts<'_>, _: &mut Vec<Trouble>) -> Next {
    let Some(workload) = facts.workload() else { return Next::Go };
    let join = facts.join();
    let same = workload.template_hash == facts.observed.wanted_hash;
    if same && workload.beginning.as_ref() == Some(&join) {
        return Next::Go;
    }
    let steps = vec![apply(workload.replicas, join)];
    if same {
        Work::upkeep(steps)
    } else {
        Work::steps(OperationKind::Roll, "Template", None, steps)
    }
}

/// Without a quorum, or with another cluster than the one that was founded, nothing is touched.
pub(crate) fn need_quorum(facts: &Facts<'_>, troubles: &mut Vec<Trouble>) -> Next {
    if let Some((recorded, answered)) = facts.exchanged() {
        let message = format!(
            "the members are of cluster {answered:x}, and this MetaStore's is {recorded:x}: \
             nothing is touched"
        );
        troubles.push(Trouble::new("OtherCluster", message));
        return Next::Rest(None);
    }
    if facts.observed.members.is_none() { Next::Rest(None) } else { Next::Go }
}

/// Claims that are smaller than the spec wants, and can grow.
pub(crate) fn expand_claims(facts: &Facts<'_>, troubles: &mut Vec<Trouble>) -> Vec<Step> {
    let size = &facts.observed.object.spec.storage.size;
    let Some(bytes) = quantity::bytes(size) else { return Vec::new() };
    let replicas = facts.workload().map_or(0, |workload| workload.replicas);
    let mut steps = Vec::new();
    let mut fixed = Vec::new();
    for (&ordinal, claim) in &facts.observed.claims {
        // A claim takes another size only once it is bound.
        let small = claim.requested_bytes < bytes && claim.capacity_bytes > 0 && !claim.deleting;
        if !small || ordinal >= replicas {
            continue;
        }
        if claim.expandable {
            steps.push(Step::ExpandClaim { ordinal, bytes });
        } else {
            fixed.push(facts.claim_name(ordinal));
        }
    }
    if !fixed.is_empty() {
        let message = format!(
            "{}: the storage class does not let claims grow to {size}: allow it, or make a new \
             MetaStore with restoreFrom a snapshot",
            fixed.join(", ")
        );
        troubles.push(Trouble::new("StorageNotExpandable", message));
    }
    steps
}
