//! Wrong plans. Each has to be found out within a few seeds, or the simulation is blind to what it does.

use operator::crd::OperationKind;
use operator::observed::Observed;
use operator::plan::{Plan, Step, plan};

use crate::act::Planner;
use crate::run;

/// Seeds within which a wrong plan has to be found out.
const SEEDS: u64 = 150;

fn found_out(planner: Planner) -> String {
    let found = (0..SEEDS).find_map(|seed| run(seed, planner).err());
    found.expect("a wrong plan is found out").lines().next().unwrap_or_default().to_owned()
}

/// One that is also slow may be found out as that first.
fn broken(planner: Planner, law: &str) {
    let mut found = (0..SEEDS).filter_map(|seed| run(seed, planner).err());
    let broke = found.any(|text| text.lines().next().is_some_and(|line| line.contains(law)));
    assert!(broke, "no seed breaks it: {law}");
}

/// Instead of handing over, the leader is taken.
fn no_transfer(observed: &Observed) -> Plan {
    let mut planned = plan(observed);
    let roll = planned.status.operation.as_ref().map(|o| o.kind) == Some(OperationKind::Roll);
    for step in &mut planned.steps {
        if let Step::MoveLeader { from, .. } = *step {
            let uid = observed.pods[&from].uid.clone();
            let rows = observed.members.iter().flatten();
            let row = rows.filter(|row| row.ordinal == Some(from)).map(|row| row.id).next();
            *step = match row {
                Some(member_id) if !roll => Step::RemoveMember { member_id },
                _ => Step::DeletePod { ordinal: from, uid },
            };
        }
    }
    planned
}

#[test]
fn a_plan_without_leader_transfer_is_found_out() {
    broken(no_transfer, "a leader hands over");
}

/// Scales in by the order of the table.
fn last_of_the_table(observed: &Observed) -> Plan {
    let mut planned = plan(observed);
    let operation = planned.status.operation.as_ref().map(|o| o.kind);
    let last = observed.members.iter().flatten().rfind(|row| !row.learner);
    for step in &mut planned.steps {
        if let (Step::RemoveMember { member_id }, Some(last)) = (step, last)
            && operation == Some(OperationKind::ScaleIn)
        {
            *member_id = last.id;
        }
    }
    planned
}

#[test]
fn a_plan_that_removes_the_last_row_of_the_table_is_found_out() {
    broken(last_of_the_table, "law broken");
}

/// Believes that every learner has caught up.
fn promotes_too_early(observed: &Observed) -> Plan {
    let mut observed = observed.clone();
    let newest = observed.answers.values().map(|a| a.commit_index).max().unwrap_or(0);
    observed.answers.values_mut().for_each(|answer| answer.applied_index = newest);
    observed.pods.values_mut().for_each(|pod| pod.ready = pod.running);
    plan(&observed)
}

#[test]
fn a_plan_that_promotes_before_the_learner_has_caught_up_is_found_out() {
    broken(promotes_too_early, "law broken");
}

/// Believes that everybody is well.
fn believes_all_well(observed: &Observed) -> Plan {
    let mut observed = observed.clone();
    let now_s = observed.now_s;
    let sample = observed.answers.values().find(|answer| answer.leader_id != 0).cloned();
    let rows = observed.members.clone().unwrap_or_default();
    for row in &rows {
        let (Some(ordinal), Some(sample)) = (row.ordinal, &sample) else { continue };
        let mut answer = sample.clone();
        answer.member_id = row.id;
        answer.peers = rows
            .iter()
            .map(|other| operator::observed::Peer {
                member_id: other.id,
                reachable: true,
                rtt_us: 1,
                match_index: answer.commit_index,
            })
            .collect();
        observed.answers.insert(ordinal, answer);
        let pod = observed.pods.entry(ordinal).or_default();
        pod.running = true;
        pod.deleting = false;
        pod.ready = true;
        pod.ready_since_s = Some(now_s - 100);
    }
    plan(&observed)
}

#[test]
fn a_plan_that_goes_on_while_another_member_is_down_is_found_out() {
    broken(believes_all_well, "law broken");
}

/// Takes a pod that is gone for a member that left.
fn counts_pods(observed: &Observed) -> Plan {
    let mut planned = plan(observed);
    let pods = observed.pods.len() as i32;
    let works = observed.members.is_some() && !observed.object.spec.hibernate;
    for step in &mut planned.steps {
        if let Step::ApplyWorkload { replicas, .. } = step
            && works
        {
            *replicas = (*replicas).min(pods.max(1));
        }
    }
    planned
}

#[test]
fn a_plan_that_counts_pods_instead_of_members_is_found_out() {
    found_out(counts_pods);
}

/// Makes the set anew as it was made first.
fn founds_again(observed: &Observed) -> Plan {
    let mut observed = observed.clone();
    if observed.workload.is_none() || observed.members.is_none() {
        observed.object.status = None;
        if let Some(workload) = &mut observed.workload {
            workload.beginning = None;
        }
    }
    plan(&observed)
}

#[test]
fn a_plan_that_founds_a_second_time_is_found_out() {
    broken(founds_again, "law broken");
}

/// Deletes the pods of members that lost their data and hopes.
fn restarts_the_lost(observed: &Observed) -> Plan {
    let mut planned = plan(observed);
    let replaces =
        planned.status.operation.as_ref().map(|o| o.kind) == Some(OperationKind::Replace);
    if replaces {
        planned.steps.retain(|step| !matches!(step, Step::RemoveMember { .. }));
    }
    planned
}

#[test]
fn a_plan_that_keeps_members_without_data_is_found_out() {
    broken(restarts_the_lost, "never becomes as wanted");
}

/// Deletes the claim before its member has left the table.
fn deletes_claims_first(observed: &Observed) -> Plan {
    let mut planned = plan(observed);
    for step in &mut planned.steps {
        if let Step::RemoveMember { member_id } = *step {
            let rows = observed.members.iter().flatten();
            let ordinal = rows.filter(|row| row.id == member_id).find_map(|row| row.ordinal);
            let claim = ordinal.and_then(|n| Some((n, observed.claims.get(&n)?)));
            if let Some((ordinal, claim)) = claim.filter(|(_, claim)| !claim.deleting) {
                *step = Step::DeleteClaim { ordinal, uid: claim.uid.clone() };
            }
        }
    }
    planned
}

#[test]
fn a_plan_that_deletes_a_members_claim_is_found_out() {
    broken(deletes_claims_first, "law broken");
}
