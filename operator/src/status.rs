//! What is reported. Pure, and steady: where nothing has changed, the status is the one there was, so
//! that it is not written. Times are of transitions, measured values are rounded, and a round trip is
//! only replaced by one that differs by half.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

use crate::crd::{MemberStatus, MetaStoreStatus, Operation, OperationKind};
use crate::decide::{Decision, Doing, Rest, Trouble};
use crate::facts::{Facts, LAG_ENTRIES_MAX, ROLE_FOREIGN, quorum};
use crate::membership::replacement_waits;
use crate::observed::{Member, Ordinal};
use crate::plan::Step;
use crate::tune::Tuned;

/// An operation that takes longer has come to a stop, as far as anybody can tell.
const STALLED_AFTER_S: i64 = 15 * 60;
/// Troubles named in one message.
const TROUBLES_MAX: usize = 4;

/// Condition: the cluster takes reads and writes.
pub const AVAILABLE: &str = "Available";
/// Condition: something is being carried out.
pub const PROGRESSING: &str = "Progressing";
/// Condition: somebody has to look.
pub const DEGRADED: &str = "Degraded";
/// Condition: the timing in force is the right one, or is what was asked for. Not there where nobody asks.
pub const AUTOTUNE_READY: &str = "AutotuneReady";
/// Condition: too few voters are left. Only there while it is so.
pub const QUORUM_LOST: &str = "QuorumLost";
/// Condition: an even number of voters is wanted. Only there while it is so.
pub const EVEN_SIZE: &str = "EvenSize";

/// RFC 3339, for status fields.
fn time(at_s: i64) -> Timestamp {
    Timestamp::from_second(at_s).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The status after a look and a decision.
pub(crate) fn status(facts: &Facts<'_>, decision: &Decision, tuned: Tuned) -> MetaStoreStatus {
    let old = facts.status().cloned().unwrap_or_default();
    let observed = facts.observed;
    let operation = operation(facts, &old, &decision.doing);
    let mut status = MetaStoreStatus {
        observed_generation: observed.object.metadata.generation,
        cluster_id: facts.cluster().map(|id| format!("{id:x}")),
        replicas: count(observed.pods.values().filter(|pod| !pod.deleting).count()),
        selector: Some(crate::resources::selector(&observed.object)),
        ready: Some(ready(facts)),
        leader: facts.leader.and_then(|id| facts.row(id)).map(|row| name_of_member(facts, row)),
        rtt: old.rtt.clone(),
        heartbeat: old.heartbeat.clone(),
        election: old.election.clone(),
        version: version(facts).or_else(|| old.version.clone()),
        quorum: None,
        reason: None,
        conditions: Vec::new(),
        members: members(facts, &old),
        operation,
        autotune: tuned.status,
        last_replacement: last_replacement(facts, decision, &old),
    };
    if observed.members.is_some() && facts.blind() {
        status.quorum = old.quorum.clone();
    } else if observed.members.is_some() {
        let well = facts.voters().filter(|voter| facts.healthy(voter.id)).count();
        status.quorum = Some(format!("{well}/{}", quorum(facts.voter_count())));
    }
    if let Some(answer) = facts.leader.and_then(|leader| facts.answer_of(leader)) {
        status.heartbeat = Some(duration(answer.heartbeat_interval_us));
        status.election = Some(duration(answer.election_timeout_us));
        let voters = facts.voters().filter_map(|voter| facts.seen_by_leader(voter.id));
        status.rtt = match voters.map(|peer| peer.rtt_us).filter(|rtt| *rtt > 0).max() {
            Some(rtt_us) => Some(steady(rtt_us, old.rtt.as_deref())),
            None => None,
        };
    }
    report(facts, decision, &old, tuned.claim, &mut status);
    status
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn ready(facts: &Facts<'_>) -> String {
    let serves = |(ordinal, pod): &(&Ordinal, &crate::observed::Pod)| {
        pod.ready && !pod.deleting && facts.observed.answers.contains_key(ordinal)
    };
    let ready = facts.observed.pods.iter().filter(serves).count();
    format!("{ready}/{}", facts.wanted)
}

/// A name for a row: its pod's, else the one it was added with.
pub(crate) fn name_of_member(facts: &Facts<'_>, row: &Member) -> String {
    match facts.ordinal(row.id) {
        Some(ordinal) => facts.pod_name(ordinal),
        None if row.name.is_empty() => format!("{:x}", row.id),
        None => row.name.clone(),
    }
}

fn members(facts: &Facts<'_>, old: &MetaStoreStatus) -> Vec<MemberStatus> {
    if facts.observed.members.is_none() {
        // Who they are is only known from before; what they do is not known at all.
        let silent = |member: &MemberStatus| MemberStatus {
            role: if member.role == "leader" { "voter".to_owned() } else { member.role.clone() },
            ready: false,
            lag: None,
            rtt: None,
            ..member.clone()
        };
        return old.members.iter().map(silent).collect();
    }
    facts.members().map(|row| member(facts, row)).collect()
}

fn member(facts: &Facts<'_>, row: &Member) -> MemberStatus {
    let told = facts.told(row.id);
    let ordinal = facts.ordinal(row.id);
    let answer = facts.answer_of(row.id);
    let pod = ordinal.and_then(|ordinal| facts.pod(ordinal));
    let claim = ordinal.and_then(|ordinal| facts.observed.claims.get(&ordinal));
    let role = match (ordinal, row.learner) {
        (None, _) => ROLE_FOREIGN,
        _ if facts.leader == Some(row.id) => "leader",
        (_, true) => "learner",
        (_, false) => "voter",
    };
    // Only who answers shows which claim its data are on.
    let mounted = answer.and(pod).and_then(|pod| pod.claim_uid.clone());
    let mounted = mounted.filter(|uid| claim.is_some_and(|claim| claim.uid == *uid));
    let rtt_us = facts.seen_by_leader(row.id).map_or(0, |peer| peer.rtt_us);
    MemberStatus {
        name: name_of_member(facts, row),
        id: format!("{:x}", row.id),
        role: role.to_owned(),
        ready: match ordinal {
            Some(_) => answer.is_some() && pod.is_some_and(|pod| pod.ready && !pod.deleting),
            None => facts.healthy(row.id),
        },
        version: answer
            .map(|answer| answer.version.clone())
            .or_else(|| told.and_then(|told| told.version.clone())),
        lag: facts.lag(row.id).map(rounded_lag),
        rtt: (rtt_us > 0).then(|| steady(rtt_us, told.and_then(|told| told.rtt.as_deref()))),
        claim_uid: mounted.or_else(|| told.and_then(|told| told.claim_uid.clone())),
    }
}

/// What every member is behind while others write is no lag; beyond that the power of two below.
fn rounded_lag(lag: u64) -> i64 {
    if lag <= LAG_ENTRIES_MAX {
        return 0;
    }
    1_i64 << lag.ilog2().min(62)
}

/// All versions that answer.
fn version(facts: &Facts<'_>) -> Option<String> {
    let mut versions: Vec<&str> = facts
        .members()
        .filter_map(|row| facts.answer_of(row.id))
        .map(|answer| answer.version.as_str())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    (!versions.is_empty()).then(|| versions.join(", "))
}

/// Microseconds for people.
fn duration(us: u64) -> String {
    let tenths = |unit: u64| (us + unit / 20) / (unit / 10);
    let text = |tenths: u64, unit: &str| match tenths % 10 {
        0 => format!("{}{unit}", tenths / 10),
        rest => format!("{}.{rest}{unit}", tenths / 10),
    };
    match us {
        0..1_000 => format!("{us}us"),
        1_000..1_000_000 => text(tenths(1_000), "ms"),
        _ => text(tenths(1_000_000), "s"),
    }
}

fn parse_duration_us(text: &str) -> Option<f64> {
    let end = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(end);
    let unit_us = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * unit_us)
}

/// The duration reported before, unless this one differs by half of it.
fn steady(us: u64, before: Option<&str>) -> String {
    let kept = before.filter(|before| {
        parse_duration_us(before).is_some_and(|old| {
            let ratio = us as f64 / old;
            (1.0 / 1.5..=1.5).contains(&ratio)
        })
    });
    kept.map_or_else(|| duration(us), str::to_owned)
}

fn operation(facts: &Facts<'_>, old: &MetaStoreStatus, doing: &Doing) -> Option<Operation> {
    let (kind, phase, member) = match doing {
        Doing::Nothing => return None,
        Doing::AsBefore => return old.operation.clone(),
        Doing::Operation { kind, phase, member } => (*kind, *phase, *member),
    };
    let name = member.map(|ordinal| facts.pod_name(ordinal));
    // A roll is one operation, however many pods it is about.
    let same = |begun: &&Operation| {
        begun.kind == kind && (begun.member == name || kind == OperationKind::Roll)
    };
    let begun = old.operation.as_ref().filter(same);
    Some(Operation {
        kind,
        phase: phase.to_owned(),
        member: name,
        member_id: member
            .and_then(|ordinal| facts.rows.get(&ordinal))
            .map(|row| format!("{:x}", row.id)),
        since: begun
            .map_or_else(|| time(facts.observed.now_s).to_string(), |begun| begun.since.clone()),
    })
}

/// Begins the time in which no other member's data are given up.
fn last_replacement(
    facts: &Facts<'_>,
    decision: &Decision,
    old: &MetaStoreStatus,
) -> Option<String> {
    let replaces = matches!(decision.doing, Doing::Operation { kind: OperationKind::Replace, .. });
    let gives_up =
        |step: &Step| matches!(step, Step::RemoveMember { .. } | Step::DeleteClaim { .. });
    if replaces && decision.steps.iter().any(gives_up) && !replacement_waits(facts) {
        return Some(time(facts.observed.now_s).to_string());
    }
    old.last_replacement.clone()
}

/// One condition, before it has a time.
pub(crate) struct Claim {
    pub(crate) kind: &'static str,
    pub(crate) holds: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

fn report(
    facts: &Facts<'_>,
    decision: &Decision,
    old: &MetaStoreStatus,
    tuning: Option<Claim>,
    status: &mut MetaStoreStatus,
) {
    let available = available(facts, decision, status);
    let lost = available.reason == QUORUM_LOST;
    let progressing = progressing(decision, status);
    let mut troubles = decision.troubles.clone();
    if decision.rests.is_none() && !lost {
        members_down(facts, status, &mut troubles);
    }
    stalled(facts, status, &mut troubles);
    let degraded = degraded(&troubles, &available);
    status.reason = Some(match (decision.rests, lost) {
        (Some(rest), _) => format!("{rest:?}"),
        (None, true) => QUORUM_LOST.to_owned(),
        _ if degraded.holds => degraded.reason.clone(),
        _ if progressing.holds || !available.holds => match &status.operation {
            Some(operation) => format!("{:?}", operation.kind),
            None => available.reason.clone(),
        },
        _ => "Steady".to_owned(),
    });
    let mut claims: Vec<Claim> = tuning.into_iter().collect();
    if lost {
        let (reason, message) = ("TooFewVoters".to_owned(), available.message.clone());
        claims.push(Claim { kind: QUORUM_LOST, holds: true, reason, message });
    }
    let size = facts.observed.object.spec.replicas;
    if size % 2 == 0 {
        let message = format!(
            "{size} members tolerate no more failures than {} do, and each write needs one more",
            size - 1
        );
        claims.push(Claim { kind: EVEN_SIZE, holds: true, reason: EVEN_SIZE.to_owned(), message });
    }
    let always = [available, progressing, degraded];
    let condition = |claim| condition(facts, old, claim);
    status.conditions = always.into_iter().chain(claims).map(condition).collect();
}

fn condition(facts: &Facts<'_>, old: &MetaStoreStatus, claim: Claim) -> Condition {
    let text = if claim.holds { "True" } else { "False" };
    let same = |before: &&Condition| before.type_ == claim.kind && before.status == text;
    let before = old.conditions.iter().find(same);
    let since = before.map(|before| before.last_transition_time.clone());
    Condition {
        type_: claim.kind.to_owned(),
        status: text.to_owned(),
        reason: claim.reason,
        message: claim.message,
        observed_generation: facts.observed.object.metadata.generation,
        last_transition_time: since.unwrap_or_else(|| Time(time(facts.observed.now_s))),
    }
}

fn available(facts: &Facts<'_>, decision: &Decision, status: &MetaStoreStatus) -> Claim {
    let no = |reason: &str, message: String| Claim {
        kind: AVAILABLE,
        holds: false,
        reason: reason.to_owned(),
        message,
    };
    if facts.observed.members.is_some() {
        let message = "a quorum of the members answers".to_owned();
        return Claim { kind: AVAILABLE, holds: true, reason: "Quorum".to_owned(), message };
    }
    if decision.rests == Some(Rest::Hibernated) {
        return no("Hibernated", resting(Rest::Hibernated).to_owned());
    }
    if !facts.founded() {
        return no("Founding", "the members have not founded the cluster yet".to_owned());
    }
    let begun = status.operation.as_ref().map(|operation| operation.kind);
    match begun {
        Some(OperationKind::Wake | OperationKind::Bootstrap | OperationKind::Restore) => {
            return no("Starting", "the members have not found each other yet".to_owned());
        }
        Some(OperationKind::Hibernate) => {
            return no("Hibernating", "the pods are being stopped".to_owned());
        }
        _ => {}
    }
    let voters = last_voters(facts);
    let alive: Vec<Ordinal> =
        voters.iter().copied().filter(|n| facts.observed.answers.contains_key(n)).collect();
    if alive.len() >= quorum(voters.len()) {
        return no("NoLeader", "enough members answer, but agree on nothing yet".to_owned());
    }
    let survivors: Vec<String> = alive
        .iter()
        .map(|ordinal| {
            let answer = &facts.observed.answers[ordinal];
            let (term, index) = (answer.term, answer.applied_index);
            format!("{} (term {term}, index {index})", facts.pod_name(*ordinal))
        })
        .collect();
    let survivors = if survivors.is_empty() { "nobody".to_owned() } else { survivors.join(", ") };
    let message = format!(
        "{} of {} voters answer, {} are needed; nothing is touched until more are back. \
         There is {survivors}",
        alive.len(),
        voters.len(),
        quorum(voters.len())
    );
    no(QUORUM_LOST, message)
}

/// Who voted, as far as it was known last.
fn last_voters(facts: &Facts<'_>) -> Vec<Ordinal> {
    let learns = |ordinal: &Ordinal| {
        let pod = facts.pod_name(*ordinal);
        let told = facts.status().into_iter().flat_map(|status| &status.members);
        told.into_iter().any(|member| member.name == pod && member.role == "learner")
    };
    facts.known_ordinals().into_iter().filter(|ordinal| !learns(ordinal)).collect()
}

fn progressing(decision: &Decision, status: &MetaStoreStatus) -> Claim {
    let (holds, reason, message) = match (&status.operation, decision.rests) {
        (_, Some(rest)) => (false, format!("{rest:?}"), resting(rest).to_owned()),
        (Some(operation), None) => {
            let of = operation.member.as_deref().map(|name| format!(" of {name}"));
            let message = format!("{}{}", operation.phase, of.unwrap_or_default());
            (true, format!("{:?}", operation.kind), message)
        }
        (None, None) => (false, "Settled".to_owned(), "nothing is being carried out".to_owned()),
    };
    Claim { kind: PROGRESSING, holds, reason, message }
}

/// Why nothing is done, and what is left undone by that.
fn resting(rest: Rest) -> &'static str {
    match rest {
        Rest::Paused => {
            "spec.paused is true: nothing is changed, pods that are lost are not replaced as members \
             and certificates are not renewed"
        }
        Rest::Hibernated => "spec.hibernate is true: no pods, the data are kept",
        Rest::Deleting => "the resource is being deleted",
    }
}

/// Members that do not do their part, but for those on whose account that is.
fn members_down(facts: &Facts<'_>, status: &MetaStoreStatus, troubles: &mut Vec<Trouble>) {
    if facts.observed.members.is_none() {
        return;
    }
    let begun = status.operation.as_ref();
    let kind = begun.map(|operation| operation.kind);
    if matches!(kind, Some(OperationKind::Bootstrap | OperationKind::Restore | OperationKind::Wake))
    {
        return;
    }
    if facts.blind() {
        let leader =
            facts.leader.and_then(|id| facts.row(id)).map(|row| name_of_member(facts, row));
        let message = match leader {
            Some(leader) => format!("{leader} leads, and does not answer"),
            None => "nobody says who leads".to_owned(),
        };
        troubles.push(Trouble::new("LeaderSilent", message));
        return;
    }
    let concerned = begun.and_then(|operation| operation.member.clone());
    let down: Vec<String> = facts
        .voters()
        .filter(|voter| !facts.healthy(voter.id))
        .map(|voter| name_of_member(facts, voter))
        .filter(|name| concerned.as_ref() != Some(name))
        .collect();
    if !down.is_empty() {
        let message = format!("{} not in touch, or behind", down.join(", "));
        troubles.push(Trouble::new("MemberDown", message));
    }
}

fn stalled(facts: &Facts<'_>, status: &MetaStoreStatus, troubles: &mut Vec<Trouble>) {
    let Some(operation) = &status.operation else { return };
    let Ok(since) = operation.since.parse::<Timestamp>() else { return };
    if facts.observed.now_s - since.as_second() > STALLED_AFTER_S {
        let message = format!("{:?} goes on since {}", operation.kind, operation.since);
        troubles.push(Trouble::new("Stalled", message));
    }
}

fn degraded(troubles: &[Trouble], available: &Claim) -> Claim {
    let lost = available.reason == QUORUM_LOST;
    let lines: Vec<&str> = troubles.iter().map(|trouble| trouble.message.as_str()).collect();
    let mut message = lines[..lines.len().min(TROUBLES_MAX)].join("; ");
    if lines.len() > TROUBLES_MAX {
        message.push_str(&format!("; and {} more", lines.len() - TROUBLES_MAX));
    }
    let first = troubles.first().map(|trouble| trouble.reason);
    let reason = match (lost, first) {
        (true, _) => QUORUM_LOST,
        (false, Some(reason)) => reason,
        (false, None) => "AsExpected",
    };
    if message.is_empty() && !lost {
        message = "nothing is known that somebody would have to look at".to_owned();
    }
    if lost {
        let sep = if message.is_empty() { "" } else { "; " };
        message = format!("{}{sep}{message}", available.message);
    }
    Claim { kind: DEGRADED, holds: lost || first.is_some(), reason: reason.to_owned(), message }
}
