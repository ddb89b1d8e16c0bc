//! What is told in `kubectl describe`: transitions only, read off two statuses, so that an operator
//! that was just started does not tell everything again.

use std::collections::BTreeMap;

use crate::crd::{
    AutotuneStatus, ChangeResult, ChangeStatus, MemberStatus, MetaStoreStatus, OperationKind,
};
use crate::facts::ROLE_FOREIGN;
use crate::plan::Event;
use crate::status::{AUTOTUNE_READY, DEGRADED, EVEN_SIZE, QUORUM_LOST};
use crate::tune::short;

/// Reasons of [`AUTOTUNE_READY`] that somebody may want to do something about.
const HELD: [&str; 4] = ["PartialApply", "Unstable", "MixedVersions", "BadSpec"];

/// Every reason there is, with what it tells.
pub const REASONS: &[(&str, &str)] = &[
    ("AutotuneApplied", "a plan of timing was submitted: from what to what, and why"),
    ("AutotuneHeld", "a plan of timing cannot be submitted, or does not arrive everywhere"),
    ("AutotuneRecommended", "another timing would be right; nothing is done about it"),
    ("AutotuneRolledBack", "a plan of timing was taken back"),
    ("AutotuneVerified", "a plan of timing has proved itself"),
    ("Bootstrap", "the first members are being started"),
    ("ClusterFounded", "the cluster has come about"),
    ("Degraded", "somebody has to look; the note says at what"),
    ("EvenSize", "an even number of members is wanted"),
    ("Expand", "claims are being grown"),
    ("Finished", "an operation is done"),
    ("ForeignMember", "somebody else added a member: it counts, and is left alone"),
    ("Hibernate", "all pods are being stopped"),
    ("MemberAdded", "a member was added, without a vote"),
    ("MemberPromoted", "a member was given its vote"),
    ("MemberRemoved", "a member left the table"),
    ("QuorumLost", "too few voters are left; nothing is touched"),
    ("QuorumRegained", "enough voters are back"),
    ("Recovered", "what made it degraded is over"),
    ("Replace", "a member is being replaced"),
    ("Restore", "the first member is being started from a snapshot"),
    ("Roll", "pods are being renewed one by one"),
    ("ScaleIn", "a member is being removed"),
    ("ScaleOut", "a member is being added"),
    ("SlowMember", "a member is far from all others, while they are close to each other"),
    ("Wake", "all pods are being started"),
];

fn kind_reason(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Bootstrap => "Bootstrap",
        OperationKind::Restore => "Restore",
        OperationKind::ScaleOut => "ScaleOut",
        OperationKind::ScaleIn => "ScaleIn",
        OperationKind::Replace => "Replace",
        OperationKind::Roll => "Roll",
        OperationKind::Hibernate => "Hibernate",
        OperationKind::Wake => "Wake",
        OperationKind::Expand => "Expand",
    }
}

fn normal(reason: &'static str, note: String) -> Event {
    Event { warning: false, reason, note }
}

fn warning(reason: &'static str, note: String) -> Event {
    Event { warning: true, reason, note }
}

/// What happened between two statuses.
pub(crate) fn between(old: &MetaStoreStatus, new: &MetaStoreStatus) -> Vec<Event> {
    let mut events = Vec::new();
    operations(old, new, &mut events);
    if let (None, Some(id)) = (&old.cluster_id, &new.cluster_id) {
        events.push(normal("ClusterFounded", format!("cluster {id} has come about")));
    }
    members(old, new, &mut events);
    conditions(old, new, &mut events);
    tuning(old, new, &mut events);
    events
}

fn tuning(old: &MetaStoreStatus, new: &MetaStoreStatus, events: &mut Vec<Event>) {
    let Some(after) = &new.autotune else { return };
    let none = AutotuneStatus::default();
    let before = old.autotune.as_ref().unwrap_or(&none);
    let claim = |status: &MetaStoreStatus| {
        let found = status.conditions.iter().find(|c| c.type_ == AUTOTUNE_READY);
        found.map(|c| (c.reason.clone(), c.message.clone())).unwrap_or_default()
    };
    let ((was, _), (reason, message)) = (claim(old), claim(new));
    if after.phase == "Recommending"
        && (before.phase != "Recommending" || before.recommended != after.recommended)
    {
        events.push(normal("AutotuneRecommended", message.clone()));
    }
    let known = |status: &AutotuneStatus| status.last_change.as_ref().map_or(0, |c| c.epoch);
    if known(after) != known(before)
        && let Some(change) = &after.last_change
    {
        events.push(normal("AutotuneApplied", told_of(change)));
    }
    for change in after.last_change.iter().chain(&after.history) {
        let all = before.last_change.iter().chain(&before.history);
        let earlier = all.filter(|earlier| earlier.epoch == change.epoch);
        if earlier.map(|earlier| earlier.result).next() == Some(change.result) {
            continue;
        }
        match change.result {
            ChangeResult::Verified => {
                events.push(normal("AutotuneVerified", told_of(change)));
            }
            ChangeResult::RolledBack => {
                let why = after.last_change.as_ref().map(|back| back.reason.clone());
                let note = format!("{}: {}", told_of(change), why.unwrap_or_default());
                events.push(warning("AutotuneRolledBack", note));
            }
            ChangeResult::Applying | ChangeResult::Verifying | ChangeResult::Superseded => {}
        }
    }
    if reason != was && HELD.contains(&&reason[..]) {
        events.push(warning("AutotuneHeld", format!("{reason}: {message}")));
    }
    let slow = |status: &AutotuneStatus| {
        status.observed.as_ref().and_then(|observed| observed.slow_member.clone())
    };
    if let Some(member) = slow(after).filter(|member| slow(before).as_ref() != Some(member)) {
        let rtt_ms = after.observed.as_ref().map(|observed| observed.max_rtt_ms.clone());
        let rtt_ms = rtt_ms.unwrap_or_default();
        let note =
            format!("{member} is about {rtt_ms} ms from all others, which are close to each other");
        events.push(warning("SlowMember", note));
    }
}

/// "plan 7, 100/1000 ms to 25/500 ms: shorter: least bound".
fn told_of(change: &ChangeStatus) -> String {
    let flags = || "the members' flags".to_owned();
    let from = change.from.as_ref().map_or_else(flags, short);
    let to = change.to.as_ref().map_or_else(flags, short);
    format!("plan {}, {from} to {to}: {}", change.epoch, change.reason)
}

fn operations(old: &MetaStoreStatus, new: &MetaStoreStatus, events: &mut Vec<Event>) {
    let key = |status: &MetaStoreStatus| status.operation.as_ref().map(|begun| begun.kind);
    let (before, after) = (key(old), key(new));
    if before == after {
        return;
    }
    if let Some(kind) = before {
        events.push(normal("Finished", format!("{} is done", kind_reason(kind))));
    }
    if let Some(begun) = &new.operation {
        let of = begun.member.as_deref().map(|name| format!(" of {name}")).unwrap_or_default();
        let reason = kind_reason(begun.kind);
        events.push(normal(reason, format!("{reason}{of} has begun")));
    }
}

fn members(old: &MetaStoreStatus, new: &MetaStoreStatus, events: &mut Vec<Event>) {
    // The founders are told of by the cluster's own event.
    if old.members.is_empty() {
        return;
    }
    let by_id = |status: &'_ MetaStoreStatus| -> BTreeMap<String, MemberStatus> {
        status.members.iter().map(|member| (member.id.clone(), member.clone())).collect()
    };
    let (before, after) = (by_id(old), by_id(new));
    for (id, member) in &after {
        let name = &member.name;
        match before.get(id) {
            None if member.role == ROLE_FOREIGN => {
                let note = format!("{name} ({id}) was added by somebody else");
                events.push(warning("ForeignMember", note));
            }
            None => events.push(normal("MemberAdded", format!("{name} has id {id}"))),
            Some(was) if was.role == "learner" && member.role != "learner" => {
                events.push(normal("MemberPromoted", format!("{name} ({id}) votes")));
            }
            Some(_) => {}
        }
    }
    for (id, member) in &before {
        if !after.contains_key(id) {
            events.push(normal("MemberRemoved", format!("{} ({id}) is no more", member.name)));
        }
    }
}

fn conditions(old: &MetaStoreStatus, new: &MetaStoreStatus, events: &mut Vec<Event>) {
    let held = |status: &MetaStoreStatus, kind: &str| {
        let holds = status.conditions.iter().find(|c| c.type_ == kind && c.status == "True");
        holds.map(|condition| (condition.reason.clone(), condition.message.clone()))
    };
    match (held(old, QUORUM_LOST), held(new, QUORUM_LOST)) {
        (None, Some((_, message))) => events.push(warning("QuorumLost", message)),
        (Some(_), None) => {
            events.push(normal("QuorumRegained", "enough voters are back".to_owned()));
        }
        _ => {}
    }
    if let (None, Some((_, message))) = (held(old, EVEN_SIZE), held(new, EVEN_SIZE)) {
        events.push(warning("EvenSize", message));
    }
    match (held(old, DEGRADED), held(new, DEGRADED)) {
        (before, Some((reason, message)))
            if reason != QUORUM_LOST && before.as_ref().map(|b| &b.0) != Some(&reason) =>
        {
            events.push(warning("Degraded", format!("{reason}: {message}")));
        }
        (Some(_), None) => {
            events.push(normal("Recovered", "all is as it should be".to_owned()));
        }
        _ => {}
    }
}
