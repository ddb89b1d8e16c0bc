//! Which question is asked first. What was begun is finished before anything new begins, and of what
//! can harm a cluster one thing is done at a time.

use crate::crd::OperationKind;
use crate::facts::Facts;
use crate::observed::{Ordinal, Pod};
use crate::plan::Step;
use crate::{founding, membership, roll};

/// How soon to look again after a step.
const AGAIN_AFTER_STEP_S: u32 = 1;
/// How soon to look again while something is waited for; most of it also wakes the operator.
const AGAIN_WAITING_S: u32 = 3;
/// How soon to look again where all is well.
const AGAIN_IDLE_S: u32 = 30;

/// What a pass decided on.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    pub(crate) steps: Vec<Step>,
    /// What is being carried out.
    pub(crate) doing: Doing,
    /// Nothing is to be done, for this reason.
    pub(crate) rests: Option<Rest>,
    /// What the user has to know.
    pub(crate) troubles: Vec<Trouble>,
    pub(crate) again_s: u32,
}

/// What is being carried out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Nothing.
    #[default]
    Nothing,
    /// Whatever the last status says.
    AsBefore,
    /// This.
    Operation { kind: OperationKind, phase: &'static str, member: Option<Ordinal> },
}

/// Why nothing is done, where that is as the user wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    Deleting,
    Paused,
    Hibernated,
}

/// Something that keeps the cluster from being as it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Trouble {
    pub(crate) fn new(reason: &'static str, message: String) -> Self {
        Trouble { reason, message }
    }
}

/// An answer to one of the questions.
#[derive(Debug)]
pub(crate) enum Next {
    /// Nothing to do here: the next question.
    Go,
    /// This, and no further question. Without steps: wait.
    Do(Work),
    /// No further question.
    Rest(Option<Rest>),
}

/// Steps of an operation.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) steps: Vec<Step>,
    pub(crate) doing: Doing,
    /// It is a matter of so many seconds.
    pub(crate) again_s: Option<i64>,
}

impl Work {
    pub(crate) fn steps(
        kind: OperationKind,
        phase: &'static str,
        member: Option<Ordinal>,
        steps: Vec<Step>,
    ) -> Next {
        Next::Do(Work { steps, doing: Doing::Operation { kind, phase, member }, again_s: None })
    }

    pub(crate) fn wait(kind: OperationKind, phase: &'static str, member: Option<Ordinal>) -> Next {
        Work::steps(kind, phase, member, Vec::new())
    }

    /// Steps that are part of whatever is being carried out.
    pub(crate) fn upkeep(steps: Vec<Step>) -> Next {
        Next::Do(Work { steps, doing: Doing::AsBefore, again_s: None })
    }
}

type Question = fn(&Facts<'_>, &mut Vec<Trouble>) -> Next;

/// In the order in which they are asked.
const QUESTIONS: &[Question] = &[
    founding::found,
    founding::sleep_or_wake,
    founding::keep_template,
    roll::unstick,
    founding::need_quorum,
    membership::replace_lost,
    roll::renew_unwell,
    membership::finish_learner,
    membership::drop_podless,
    membership::finish_removal,
    membership::seat_pod,
    membership::scale_in,
    membership::scale_out,
    roll::roll,
];

/// What to do, and what the user has to know.
pub(crate) fn decide(facts: &Facts<'_>) -> Decision {
    let mut decision = ask(facts);
    if decision.rests != Some(Rest::Deleting) {
        pods_in_trouble(facts, &mut decision);
        alarms(facts, &mut decision.troubles);
    }
    decision
}

/// What makes members refuse writes, or doubt their data, until somebody disarms it.
fn alarms(facts: &Facts<'_>, troubles: &mut Vec<Trouble>) {
    // By whoever has applied most: others may not have heard yet, or not that it is over.
    let latest = facts
        .members()
        .filter_map(|row| facts.answer_of(row.id))
        .max_by_key(|answer| (answer.applied_index, answer.member_id));
    for alarm in latest.into_iter().flat_map(|answer| &answer.alarms) {
        let who = facts.ordinal(alarm.member_id);
        let who = who.map_or_else(|| format!("{:x}", alarm.member_id), |n| facts.pod_name(n));
        let (reason, what) = match &alarm.kind[..] {
            "NOSPACE" => (
                "NoSpace",
                "the quota is used up and writes are refused: compact, or raise spec.server.quota, \
                 then `etcdctl alarm disarm`",
            ),
            "CORRUPT" => (
                "Corrupt",
                "its data differ from the others': delete its claim and pod, and it is made anew; \
                 then `etcdctl alarm disarm`",
            ),
            _ => ("Alarm", "an alarm that this operator does not know: `etcdctl alarm list`"),
        };
        troubles.push(Trouble::new(reason, format!("{who}: {what}")));
    }
}

fn ask(facts: &Facts<'_>) -> Decision {
    let observed = facts.observed;
    let spec = &observed.object.spec;
    let mut decision = Decision { again_s: AGAIN_IDLE_S, ..Decision::default() };
    if observed.object.metadata.deletion_timestamp.is_some() {
        return Decision { rests: Some(Rest::Deleting), ..decision };
    }
    if spec.paused {
        return Decision { rests: Some(Rest::Paused), doing: Doing::AsBefore, ..decision };
    }
    let foreign = &observed.foreign;
    if !foreign.is_empty() {
        let message = format!(
            "{} was not made by this operator and is left alone: delete or rename it",
            foreign.join(", ")
        );
        decision.troubles.insert(0, Trouble::new("ForeignObject", message));
    } else if observed.children_stale {
        decision.steps.push(Step::ApplyChildren);
    }
    if !observed.missing_secrets.is_empty() {
        let message = observed.missing_secrets.join("; ");
        decision.troubles.insert(0, Trouble::new("MissingSecret", message));
        return Decision { doing: Doing::AsBefore, again_s: AGAIN_WAITING_S, ..decision };
    }
    if let Some(claim) = observed.missing_claim.as_ref().filter(|_| !facts.founded()) {
        let message = format!("PersistentVolumeClaim {claim} of spec.restoreFrom: not found");
        decision.troubles.insert(0, Trouble::new("MissingClaim", message));
        return Decision { doing: Doing::AsBefore, again_s: AGAIN_WAITING_S, ..decision };
    }
    if !foreign.is_empty() && observed.workload.is_none() {
        return decision;
    }
    if observed.workload.as_ref().is_some_and(|workload| workload.deleting) {
        let message =
            "the StatefulSet is being deleted; it is made anew once it is gone".to_owned();
        decision.troubles.push(Trouble::new("WorkloadDeleted", message));
        return Decision { doing: Doing::AsBefore, again_s: AGAIN_WAITING_S, ..decision };
    }
    decision.steps.extend(founding::expand_claims(facts, &mut decision.troubles));
    for question in QUESTIONS {
        match question(facts, &mut decision.troubles) {
            Next::Go => {}
            Next::Rest(rests) => {
                let doing = if rests.is_some() { Doing::Nothing } else { Doing::AsBefore };
                let again_s = if rests.is_some() { AGAIN_IDLE_S } else { AGAIN_WAITING_S };
                return Decision { rests, doing, again_s, ..decision };
            }
            Next::Do(work) => {
                let waits =
                    if work.steps.is_empty() { AGAIN_WAITING_S } else { AGAIN_AFTER_STEP_S };
                let timed = work.again_s.and_then(|s| u32::try_from(s).ok()).map(|s| s.max(1));
                decision.again_s = timed.unwrap_or(waits);
                decision.steps.extend(work.steps);
                decision.doing = work.doing;
                return decision;
            }
        }
    }
    if !decision.steps.is_empty() {
        decision.again_s = AGAIN_AFTER_STEP_S;
    }
    // All steps are done; what was begun ends when every member serves.
    let serves = |n| facts.rows.get(&n).is_some_and(|row| facts.settles_in_s(row.id).is_some());
    if facts.status().is_some_and(|status| status.operation.is_some())
        && !(0..facts.wanted).all(serves)
    {
        decision.doing = Doing::AsBefore;
        decision.again_s = AGAIN_WAITING_S;
    }
    decision
}

/// Words of the kubelet for what passes by itself.
const PASSES_BY_ITSELF: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Why a pod does not get on by itself.
pub(crate) fn stuck(pod: &Pod) -> Option<&str> {
    let waiting = pod.waiting.as_deref()?;
    let stuck = !pod.running && !pod.deleting && !PASSES_BY_ITSELF.contains(&waiting);
    stuck.then_some(waiting)
}

/// Pods that do not get on, but for the one that is just being helped.
fn pods_in_trouble(facts: &Facts<'_>, decision: &mut Decision) {
    let helped = match decision.doing {
        Doing::Operation { member, .. } if !decision.steps.is_empty() => member,
        _ => None,
    };
    for (ordinal, pod) in &facts.observed.pods {
        let Some(waiting) = stuck(pod).filter(|_| helped != Some(*ordinal)) else { continue };
        let exit = pod.last_exit.as_ref().map(|exit| {
            let words = exit.message.trim();
            let colon = if words.is_empty() { "" } else { ": " };
            format!(" (exit code {}{colon}{words})", exit.code)
        });
        let message =
            format!("{}: {waiting}{}", facts.pod_name(*ordinal), exit.unwrap_or_default());
        decision.troubles.push(Trouble::new("PodStuck", message));
    }
}
