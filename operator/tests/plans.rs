//! Single decisions: what is seen, and what follows. Each is a pitfall that somebody fell into, or a
//! station of an operation. A case is a few lines of text:
//!
//! ```text
//! spec 3 · set 3 join 0,1,2 · 0 leader · 1 ok · 2 gone
//! ```
//!
//! A member is its ordinal and what is wrong with it; what is right is left out.

use operator::crd::{MemberStatus, MetaStore, MetaStoreStatus, Operation, Retention};
use operator::observed::{
    Alarm, Answer, Beginning, Claim, Exit, Member, Observed, Peer, Pod, Workload,
};
use operator::plan::{Plan, Step, plan};

const NOW_S: i64 = 1_700_000_000;
const GIB: i64 = 1 << 30;

/// Reads a case.
fn look(text: &str) -> Observed {
    let mut object = MetaStore::default();
    object.metadata.name = Some("demo".to_owned());
    object.metadata.generation = Some(1);
    object.spec.storage.size = "1Gi".to_owned();
    let status = MetaStoreStatus { cluster_id: Some("c1".to_owned()), ..Default::default() };
    object.status = Some(status);
    let mut seen = Observed {
        now_s: NOW_S,
        object,
        members: Some(Vec::new()),
        wanted_hash: "new".to_owned(),
        ..Observed::default()
    };
    let mut silent = false;
    for part in text.split('·').map(str::trim).filter(|part| !part.is_empty()) {
        let words: Vec<&str> = part.split_whitespace().collect();
        match words[0] {
            "spec" => seen.object.spec.replicas = words[1].parse().expect("replicas"),
            "set" => seen.workload = Some(set(&words)),
            "unfounded" => {
                seen.object.status = None;
                seen.members = None;
            }
            "silent" => silent = true,
            "hibernate" => seen.object.spec.hibernate = true,
            "paused" => seen.object.spec.paused = true,
            "restore" => {
                seen.object.spec.restore_from = Some(operator::crd::RestoreSpec {
                    claim_name: "backup".to_owned(),
                    path: "file".to_owned(),
                    bump_revision: 0,
                });
            }
            "retain" => seen.object.spec.storage.on_scale_in = Retention::Retain,
            "foreign" => seen.foreign.push(words[1..].join(" ")),
            "lacksclaim" => seen.missing_claim = Some(words[1].to_owned()),
            "secret" => seen.missing_secrets.push(words[1..].join(" ")),
            "children" => seen.children_stale = true,
            "size" => seen.object.spec.storage.size = words[1].to_owned(),
            "deleting" => {
                let at = k8s_openapi::jiff::Timestamp::from_second(NOW_S).expect("a time");
                seen.object.metadata.deletion_timestamp =
                    Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
            }
            "replaced" => {
                let status = seen.object.status.get_or_insert_default();
                status.last_replacement = Some("2023-11-14T22:10:00Z".to_owned());
            }
            "told" => {
                let told = words[1..].iter().map(|ordinal| MemberStatus {
                    name: format!("demo-{ordinal}"),
                    id: format!("{:x}", id(ordinal.parse().expect("ordinal"))),
                    role: "voter".to_owned(),
                    ..MemberStatus::default()
                });
                seen.object.status.get_or_insert_default().members = told.collect();
            }
            "claim" => {
                let ordinal = words[1].parse().expect("ordinal");
                seen.claims.insert(ordinal, claim(ordinal));
            }
            _ => member(&mut seen, &words),
        }
    }
    if silent {
        seen.members = None;
        seen.answers.values_mut().for_each(|answer| answer.leader_id = 0);
    }
    connect(&mut seen);
    seen
}

fn id(ordinal: i32) -> u64 {
    0x100 + ordinal as u64
}

fn set(words: &[&str]) -> Workload {
    let mut workload = Workload {
        replicas: words[1].parse().expect("replicas"),
        settled: true,
        template_hash: "new".to_owned(),
        beginning: None,
        deleting: false,
    };
    let mut rest = words[2..].iter();
    while let Some(word) = rest.next() {
        match *word {
            "found" => {
                let founders = rest.next().expect("founders").parse().expect("founders");
                workload.beginning = Some(Beginning::Found { founders });
            }
            "join" => {
                let others = rest.next().expect("others").split(',');
                let others = others.map(|n| n.parse().expect("ordinal")).collect();
                workload.beginning = Some(Beginning::Join { others });
            }
            "old" => workload.template_hash = "old".to_owned(),
            "unsettled" => workload.settled = false,
            "deleting" => workload.deleting = true,
            other => panic!("set {other}?"),
        }
    }
    workload
}

fn claim(ordinal: i32) -> Claim {
    Claim {
        uid: format!("claim-{ordinal}"),
        deleting: false,
        requested_bytes: GIB,
        capacity_bytes: GIB,
        expandable: true,
    }
}

/// `2`, `2 leader`, `2 learner unstarted`, `2 gone`, `2 exit 3`, `2 norow` …
fn member(seen: &mut Observed, words: &[&str]) {
    let elsewhere = words[0].starts_with('x');
    let ordinal: i32 = words[0].trim_start_matches('x').parse().expect("ordinal");
    let mut row = Member {
        id: id(ordinal),
        name: format!("demo-{ordinal}"),
        ordinal: (!elsewhere).then_some(ordinal),
        learner: false,
        started: true,
    };
    let mut pod = Pod {
        uid: format!("pod-{ordinal}"),
        ready: true,
        ready_since_s: Some(NOW_S - 100),
        running: true,
        hash: "new".to_owned(),
        claim_uid: Some(format!("claim-{ordinal}")),
        ..Pod::default()
    };
    let mut volume = claim(ordinal);
    let mut answer = Answer {
        member_id: row.id,
        cluster_id: 0xc1,
        term: 5,
        commit_index: 100_000,
        applied_index: 100_000,
        version: "0.1.0".to_owned(),
        heartbeat_interval_us: 100_000,
        election_timeout_us: 1_000_000,
        ..Answer::default()
    };
    let (mut has_row, mut has_pod, mut has_claim, mut answers) = (true, !elsewhere, true, true);
    let mut rest = words[1..].iter();
    while let Some(word) = rest.next() {
        match *word {
            "ok" => {}
            "leader" => answer.leader_id = row.id,
            "learner" => row.learner = true,
            "unstarted" => {
                row.started = false;
                row.name = String::new();
            }
            "norow" => has_row = false,
            "nopod" => (has_pod, answers) = (false, false),
            "noclaim" => has_claim = false,
            "gone" => (has_pod, answers) = (false, false),
            "mute" => answers = false,
            "behind" => answer.applied_index = 5,
            "old" => pod.hash = "old".to_owned(),
            "fresh" => pod.ready_since_s = Some(NOW_S - 4),
            "claimgoes" => volume.deleting = true,
            "leaving" => pod.deleting = true,
            "fixed" => volume.expandable = false,
            "other" => answer.cluster_id = 0xbad,
            "alarm" => answer
                .alarms
                .push(Alarm { member_id: row.id, kind: (*rest.next().expect("kind")).to_owned() }),
            "exit" | "stuck" => {
                (pod.running, pod.ready, pod.ready_since_s, answers) = (false, false, None, false);
                pod.waiting = Some("CrashLoopBackOff".to_owned());
                if *word == "exit" {
                    let code = rest.next().expect("code").parse().expect("code");
                    pod.last_exit = Some(Exit { code, message: "last words".to_owned() });
                }
            }
            other => panic!("member {other}?"),
        }
    }
    if has_row {
        seen.members.iter_mut().for_each(|rows| rows.push(row.clone()));
    }
    if elsewhere {
        return;
    }
    if has_pod {
        seen.pods.insert(ordinal, pod);
    }
    if has_claim {
        seen.claims.insert(ordinal, volume);
    }
    if answers {
        seen.answers.insert(ordinal, answer);
    }
}

/// Everybody follows the leader, and the leader sees everybody who answers, and those elsewhere.
fn connect(seen: &mut Observed) {
    let Some(leader) = seen.answers.values().map(|a| a.leader_id).find(|id| *id != 0) else {
        return;
    };
    let members = seen.members.clone().unwrap_or_default();
    let applied: Vec<(u64, u64)> =
        seen.answers.values().map(|a| (a.member_id, a.applied_index)).collect();
    for answer in seen.answers.values_mut() {
        if answer.cluster_id != 0xc1 {
            continue;
        }
        answer.leader_id = leader;
        let own = answer.member_id;
        let others = members.iter().filter(|row| row.id != own);
        answer.peers = others
            .map(|row| {
                let at = applied.iter().find(|(id, _)| *id == row.id).map(|(_, at)| *at);
                Peer {
                    member_id: row.id,
                    reachable: at.is_some() || row.ordinal.is_none(),
                    rtt_us: 700,
                    match_index: at.unwrap_or(if row.ordinal.is_none() { 100_000 } else { 0 }),
                }
            })
            .collect();
    }
}

fn step(step: &Step) -> String {
    let who = |member_id: &u64| format!("{}", member_id - 0x100);
    match step {
        Step::ApplyChildren => "children".to_owned(),
        Step::ApplyWorkload { replicas, beginning } => match beginning {
            Beginning::Found { founders } => format!("set {replicas} found {founders}"),
            Beginning::Restore => format!("set {replicas} restore"),
            Beginning::Join { others } => {
                let others: Vec<String> = others.iter().map(ToString::to_string).collect();
                format!("set {replicas} join {}", others.join(","))
            }
        },
        Step::ExpandClaim { ordinal, bytes } => format!("expand {ordinal} to {}", bytes / GIB),
        Step::AddLearner { ordinal } => format!("add {ordinal}"),
        Step::Promote { member_id } => format!("promote {}", who(member_id)),
        Step::MoveLeader { from, to } => format!("lead {from} to {}", who(to)),
        Step::RemoveMember { member_id } => format!("remove {}", who(member_id)),
        Step::DeletePod { ordinal, .. } => format!("delete pod {ordinal}"),
        Step::DeleteClaim { ordinal, .. } => format!("delete claim {ordinal}"),
        Step::SubmitTuning { reason, .. } => format!("submit a plan: {reason}"),
    }
}

/// Steps, then the word for what goes on.
fn decided(text: &str) -> String {
    let planned: Plan = plan(&look(text));
    let steps: Vec<String> = planned.steps.iter().map(step).collect();
    let steps = if steps.is_empty() { "nothing".to_owned() } else { steps.join(" · ") };
    format!("{steps} ({})", planned.status.reason.unwrap_or_default())
}

/// Facts, what is seen, and what is decided.
const CASES: &[(&str, &str, &str)] = &[
    // Founding.
    ("a new cluster is founded by all at once", "unfounded · spec 3", "set 3 found 3 (Bootstrap)"),
    (
        "what a cluster needs comes before its pods",
        "unfounded · children · spec 3",
        "children · set 3 found 3 (Bootstrap)",
    ),
    ("a snapshot is restored by one", "unfounded · restore · spec 3", "set 1 restore (Restore)"),
    (
        "founders are waited for, and a changed size waits too",
        "unfounded · spec 5 · set 3 found 3",
        "nothing (Bootstrap)",
    ),
    (
        "a founded cluster's template stops founding at once",
        "spec 3 · set 3 found 3 · 0 leader · 1 · 2",
        "set 3 join 0,1,2 (Steady)",
    ),
    (
        "volumes of a deleted MetaStore come back as they were",
        "unfounded · spec 1 · claim 0 · claim 1 · claim 2",
        "set 3 found 3 (Bootstrap)",
    ),
    (
        "too few old volumes could be outvoted by empty ones",
        "unfounded · spec 3 · claim 2",
        "nothing (PartialData)",
    ),
    (
        "a set that was deleted comes back joining, not founding",
        "spec 3 · silent · told 0 1 2",
        "set 3 join 0,1,2 (Wake)",
    ),
    // All is well.
    (
        "where all is well nothing is done",
        "spec 3 · set 3 join 0,1,2 · 0 leader · 1 · 2",
        "nothing (Steady)",
    ),
    ("an even size works", "spec 2 · set 2 join 0,1 · 0 leader · 1", "nothing (Steady)"),
    // Lost pods.
    (
        "a lost pod shrinks nothing",
        "spec 3 · set 3 join 0,1,2 · 0 leader · 1 · 2 gone",
        "nothing (MemberDown)",
    ),
    (
        "pods that all are gone leave the size as it is",
        "spec 3 · silent · told 0 1 2 · set 3 join 0,1,2",
        "nothing (QuorumLost)",
    ),
    (
        "a set that was scaled by hand gets its members' pods back",
        "spec 3 · set 2 join 0,1,2 · 0 leader · 1 · 2 gone",
        "set 3 join 0,1,2 (Wake)",
    ),
    // Scaling out.
    (
        "growing begins with a learner",
        "spec 5 · set 3 join 0,1,2 · 0 leader · 1 · 2",
        "add 3 · set 4 join 0,1,2 (ScaleOut)",
    ),
    (
        "growing waits while a voter is down",
        "spec 5 · set 3 join 0,1,2 · 0 leader · 1 · 2 gone",
        "nothing (MemberDown)",
    ),
    (
        "a learner without a pod gets its pod",
        "spec 5 · set 3 join 0,1,2 · 0 leader · 1 · 2 · 3 learner unstarted nopod noclaim",
        "set 4 join 0,1,2 (ScaleOut)",
    ),
    (
        "a learner that is behind is waited for",
        "spec 5 · set 4 join 0,1,2 · 0 leader · 1 · 2 · 3 learner behind",
        "nothing (ScaleOut)",
    ),
    (
        "a learner that never started is waited for",
        "spec 5 · set 4 join 0,1,2 · 0 leader · 1 · 2 · 3 learner unstarted",
        "nothing (ScaleOut)",
    ),
    (
        "a learner that has caught up gets its vote, before the next comes",
        "spec 5 · set 4 join 0,1,2 · 0 leader · 1 · 2 · 3 learner",
        "promote 3 (ScaleOut)",
    ),
    (
        "a size taken back takes the learner back",
        "spec 3 · set 4 join 0,1,2 · 0 leader · 1 · 2 · 3 learner",
        "remove 3 (ScaleIn)",
    ),
    (
        "an old volume is not given to a new member",
        "spec 4 · retain · set 3 join 0,1,2 · 0 leader · 1 · 2 · claim 3",
        "nothing (RetainedClaim)",
    ),
    (
        "an old volume that may go goes first",
        "spec 4 · set 3 join 0,1,2 · 0 leader · 1 · 2 · claim 3",
        "delete claim 3 (ScaleOut)",
    ),
    (
        "somebody else's learner is in the way",
        "spec 4 · set 3 join 0,1,2 · 0 leader · 1 · 2 · x50 learner",
        "nothing (ForeignLearner)",
    ),
    // Scaling in.
    (
        "shrinking takes the highest ordinal, whatever the order of the table",
        "spec 3 · set 5 join 0,1,2,3,4 · 4 · 2 · 0 leader · 3 · 1",
        "remove 4 (ScaleIn)",
    ),
    (
        "shrinking hands leadership to one that stays",
        "spec 1 · set 3 join 0,1,2 · 0 · 1 · 2 leader",
        "lead 2 to 0 (ScaleIn)",
    ),
    (
        "shrinking waits while one that stays is down",
        "spec 3 · set 4 join 0,1,2,3 · 0 leader · 1 gone · 2 · 3",
        "nothing (MemberDown)",
    ),
    (
        "one that is down itself can leave",
        "spec 3 · set 4 join 0,1,2,3 · 0 leader · 1 · 2 · 3 gone",
        "remove 3 (ScaleIn)",
    ),
    (
        "of a member that left the claim goes before the pod",
        "spec 2 · set 3 join 0,1 · 0 leader · 1 · 2 norow",
        "delete claim 2 (ScaleIn)",
    ),
    (
        "a claim to be kept is kept",
        "spec 2 · retain · set 3 join 0,1 · 0 leader · 1 · 2 norow",
        "set 2 join 0,1 (ScaleIn)",
    ),
    (
        "the pod of a member that left goes last",
        "spec 2 · set 3 join 0,1 · 0 leader · 1 · 2 norow claimgoes",
        "set 2 join 0,1 (ScaleIn)",
    ),
    (
        "volumes kept earlier stay when nothing shrinks",
        "spec 3 · set 3 join 0,1,2 · 0 leader · 1 · 2 · claim 3",
        "nothing (Steady)",
    ),
    (
        "one that was scaled away by hand leaves before the gap is filled",
        "spec 3 · set 3 join 0,2,3 · 0 leader · 1 norow · 2 · 3 gone",
        "remove 3 (ScaleIn)",
    ),
    // Lost data.
    (
        "who lost its data leaves the table first",
        "spec 3 · set 3 join 0,1,2 · 0 leader · 1 · 2 exit 3",
        "remove 2 (Replace)",
    ),
    (
        "not while the others are no quorum without it",
        "spec 3 · set 3 join 0,1,2 · 0 leader · 1 gone · 2 exit 3",
        "nothing (DataLost)",
    ),
    (
        "not so soon after another",
        "spec 3 · replaced · set 3 join 0,1,2 · 0 leader · 1 · 2 exit 3",
        "nothing (DataLost)",
    ),
    (
        "other exits are the server's to get over",
        "spec 3 · set 3 join 0,1,2 · 0 leader · 1 · 2 exit 1",
        "nothing (PodStuck)",
    ),
    (
        "then its claim goes",
        "spec 3 · set 3 join 0,1 · 0 leader · 1 · 2 norow exit 3",
        "delete claim 2 (Replace)",
    ),
    (
        "then it gets a new row and a new pod",
        "spec 3 · set 3 join 0,1 · 0 leader · 1 · 2 norow exit 3 claimgoes",
        "add 2 · delete pod 2 (Replace)",
    ),
    (
        "killed between row and pod, the pod follows",
        "spec 3 · set 3 join 0,1 · 0 leader · 1 · 2 learner unstarted exit 3 claimgoes",
        "delete pod 2 (Replace)",
    ),
    (
        "a claim that somebody deletes is left in order",
        "spec 3 · set 3 join 0,1,2 · 0 leader · 1 · 2 claimgoes",
        "remove 2 (Replace)",
    ),
    (
        "even the leader's",
        "spec 3 · set 3 join 0,1,2 · 0 leader claimgoes · 1 · 2",
        "lead 0 to 1 (Replace)",
    ),
    (
        "the claim of the only member is not helped along",
        "spec 1 · set 1 join 0 · 0 leader claimgoes",
        "nothing (ClaimDeleted)",
    ),
    (
        "nor while another is down",
        "spec 3 · set 3 join 0,1,2 · 0 leader · 1 claimgoes · 2 gone",
        "nothing (ClaimDeleted)",
    ),
    (
        "a member removed by hand is put back",
        "spec 3 · set 3 join 0,2 · 0 leader · 1 norow · 2",
        "delete claim 1 (Replace)",
    ),
    (
        "another cluster's data are nobody's to delete",
        "spec 3 · set 3 join 0,1 · 0 leader · 1 · 2 norow other",
        "nothing (OtherClustersData)",
    ),
    // Rolling.
    (
        "the template is changed before any pod",
        "spec 3 · set 3 join 0,1,2 old · 0 leader old · 1 old · 2 old",
        "set 3 join 0,1,2 (Roll)",
    ),
    (
        "a template that its controller has not seen is waited for",
        "spec 3 · set 3 join 0,1,2 unsettled · 0 leader old · 1 old · 2 old",
        "nothing (Steady)",
    ),
    (
        "followers go first, from the highest",
        "spec 3 · set 3 join 0,1,2 · 0 leader old · 1 old · 2 old",
        "delete pod 2 (Roll)",
    ),
    (
        "the next one waits until the last is ready for a while",
        "spec 3 · set 3 join 0,1,2 · 0 leader old · 1 old · 2 fresh",
        "nothing (Roll)",
    ),
    (
        "the next one waits until the last is back",
        "spec 3 · set 3 join 0,1,2 · 0 leader old · 1 old · 2 leaving",
        "nothing (Roll)",
    ),
    (
        "the leader hands over before it goes last",
        "spec 3 · set 3 join 0,1,2 · 0 leader old · 1 · 2",
        "lead 0 to 1 (Roll)",
    ),
    ("an only member just restarts", "spec 1 · set 1 join 0 · 0 leader old", "delete pod 0 (Roll)"),
    (
        "a pod that a bad change keeps from running is corrected at once",
        "spec 3 · set 3 join 0,1,2 · 0 leader old · 1 old · 2 old stuck",
        "delete pod 2 (Roll)",
    ),
    (
        "even without a quorum",
        "spec 3 · silent · told 0 1 2 · set 3 join 0,1,2 · 0 · 1 old stuck · 2 old stuck",
        "delete pod 1 (QuorumLost)",
    ),
    (
        "a pod that runs and is not well is corrected first",
        "spec 3 · set 3 join 0,1,2 · 0 leader old · 1 old · 2",
        "delete pod 1 (Roll)",
    ),
    (
        "pods whose claims go are not rolled but replaced",
        "spec 3 · set 3 join 0,1,2 · 0 leader old · 1 old · 2 old claimgoes",
        "remove 2 (Replace)",
    ),
    // Quorum lost.
    (
        "without a quorum nothing is touched",
        "spec 3 · silent · told 0 1 2 · set 3 join 0,1,2 · 0 · 1 gone · 2 exit 3",
        "nothing (QuorumLost)",
    ),
    (
        "nor is anything scaled",
        "spec 1 · silent · told 0 1 2 · set 3 join 0,1,2 · 0",
        "nothing (QuorumLost)",
    ),
    (
        "a quorum that only lacks a leader is not lost",
        "spec 3 · silent · told 0 1 2 · set 3 join 0,1,2 · 0 · 1 · 2",
        "nothing (NoLeader)",
    ),
    // Asleep.
    (
        "sleep takes the pods and no member",
        "spec 3 · hibernate · set 3 join 0,1,2 · 0 leader · 1 · 2",
        "set 0 join 0,1,2 (Hibernate)",
    ),
    (
        "not while a claim would go with its pod",
        "spec 3 · hibernate · set 3 join 0,1,2 · 0 leader · 1 · 2 claimgoes",
        "remove 2 (Replace)",
    ),
    (
        "asleep nothing happens",
        "spec 5 · hibernate · silent · told 0 1 2 · set 0 join 0,1,2",
        "nothing (Hibernated)",
    ),
    (
        "all members wake, whatever the size that is wanted",
        "spec 1 · silent · told 0 1 2 · set 0 join 0,1,2",
        "set 3 join 0,1,2 (Wake)",
    ),
    (
        "they wake even if the status was lost",
        "spec 1 · silent · set 0 join 0,1,2",
        "set 3 join 0,1,2 (Wake)",
    ),
    // Others.
    (
        "members elsewhere count and are left alone",
        "spec 1 · set 1 join 0 · 0 leader · x50",
        "nothing (Steady)",
    ),
    (
        "an object that somebody else made is not taken over",
        "unfounded · children · spec 3 · foreign Service demo",
        "nothing (ForeignObject)",
    ),
    (
        "a secret that is not there is waited for",
        "unfounded · children · spec 3 · secret Secret mine: not found",
        "children (MissingSecret)",
    ),
    (
        "a snapshot's claim that is not there is waited for",
        "unfounded · children · spec 3 · restore · lacksclaim backup",
        "children (MissingClaim)",
    ),
    (
        "a quota that is used up is told",
        "spec 3 · set 3 join 0,1,2 · 0 leader · 1 alarm NOSPACE · 2 alarm NOSPACE",
        "nothing (NoSpace)",
    ),
    (
        "an alarm that only somebody behind still has is over",
        "spec 3 · set 3 join 0,1,2 · 0 leader · 1 alarm CORRUPT behind · 2",
        "nothing (MemberDown)",
    ),
    (
        "paused is paused",
        "spec 5 · paused · children · set 3 join 0,1,2 · 0 leader · 1 · 2",
        "nothing (Paused)",
    ),
    (
        "what is being deleted is left alone",
        "spec 5 · deleting · set 3 join 0,1,2 · 0 leader · 1 · 2",
        "nothing (Deleting)",
    ),
    (
        "a set that is being deleted is waited for",
        "spec 3 · set 3 join 0,1,2 deleting · 0 leader · 1 · 2",
        "nothing (WorkloadDeleted)",
    ),
    (
        "claims grow together",
        "spec 3 · size 2Gi · set 3 join 0,1,2 · 0 leader · 1 · 2",
        "expand 0 to 2 · expand 1 to 2 · expand 2 to 2 (Steady)",
    ),
    (
        "claims that can not grow are reported",
        "spec 1 · size 2Gi · set 1 join 0 · 0 leader fixed",
        "nothing (StorageNotExpandable)",
    ),
];

#[test]
fn each_look_leads_to_its_decision() {
    let wrong: Vec<String> = CASES
        .iter()
        .filter_map(|(fact, text, expected)| {
            let got = decided(text);
            (got != *expected)
                .then(|| format!("{fact}\n  {text}\n  expected {expected}\n  got      {got}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
}

#[test]
fn a_second_look_at_the_same_reports_the_same_and_tells_nothing() {
    for (fact, text, _) in CASES {
        let mut seen = look(text);
        let first = plan(&seen);
        seen.object.status = Some(first.status.clone());
        // A step that failed, and a minute later.
        let again = plan(&seen);
        seen.object.status = Some(again.status.clone());
        seen.now_s += 60;
        let third = plan(&seen);
        let settled = third.steps == again.steps;
        if settled && !matches!(first.status.reason.as_deref(), Some("Roll")) {
            assert_eq!(third.status, again.status, "{fact}");
            assert_eq!(third.events, Vec::new(), "{fact}");
        }
    }
}

#[test]
fn at_most_one_step_is_disruptive_and_it_is_the_last() {
    for (fact, text, _) in CASES {
        let steps = plan(&look(text)).steps;
        let before = steps.len().saturating_sub(1);
        assert!(!steps[..before].iter().any(Step::is_disruptive), "{fact}: {steps:?}");
    }
}

#[test]
fn an_operation_that_goes_on_for_too_long_is_reported_once() {
    let mut seen = look("spec 5 · set 4 join 0,1,2 · 0 leader · 1 · 2 · 3 learner behind");
    let status = plan(&seen).status;
    let begun: Operation = status.operation.clone().expect("scaling out");
    assert_eq!((begun.phase.as_str(), begun.member.as_deref()), ("CatchingUp", Some("demo-3")));
    seen.object.status = Some(status);
    seen.now_s += 16 * 60;
    let stalled = plan(&seen);
    assert_eq!(stalled.status.reason.as_deref(), Some("Stalled"));
    assert_eq!(stalled.events.iter().map(|e| e.reason).collect::<Vec<_>>(), ["Degraded"]);
    seen.object.status = Some(stalled.status.clone());
    seen.now_s += 60;
    assert_eq!(plan(&seen).status, stalled.status);
}

#[test]
fn a_round_trip_is_reported_anew_only_when_it_differs_by_half() {
    let mut seen = look("spec 3 · set 3 join 0,1,2 · 0 leader · 1 · 2");
    let status = plan(&seen).status;
    assert_eq!(status.rtt.as_deref(), Some("700us"));
    seen.object.status = Some(status.clone());
    let rtt = |seen: &mut Observed, rtt_us| {
        let leader = seen.answers.get_mut(&0).expect("leader");
        leader.peers.iter_mut().for_each(|peer| peer.rtt_us = rtt_us);
    };
    rtt(&mut seen, 900);
    assert_eq!(plan(&seen).status, status);
    rtt(&mut seen, 1_500);
    assert_eq!(plan(&seen).status.rtt.as_deref(), Some("1.5ms"));
}

#[test]
fn the_survivors_of_a_lost_quorum_are_named_with_term_and_index() {
    let status =
        plan(&look("spec 3 · silent · told 0 1 2 · set 3 join 0,1,2 · 0 · 1 gone · 2 gone")).status;
    let lost = status.conditions.iter().find(|c| c.type_ == "QuorumLost").expect("reported");
    assert!(lost.message.contains("demo-0 (term 5, index 100000)"), "{}", lost.message);
    assert!(lost.message.contains("1 of 3 voters answer, 2 are needed"), "{}", lost.message);
}

#[test]
fn every_event_has_a_reason_of_the_table() {
    for (fact, text, _) in CASES {
        for event in plan(&look(text)).events {
            let known = operator::events::REASONS.iter().any(|(reason, _)| *reason == event.reason);
            assert!(known, "{fact}: {}", event.reason);
        }
    }
}
