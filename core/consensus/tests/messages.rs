//! What peers say: nothing malformed reaches raft, nothing a peer says makes a replica panic, and
//! answers that come late or twice do no harm.

#![allow(clippy::unwrap_used, reason = "a test that goes wrong may panic")]

mod lone;

use autotune::Timing;
use bytes::Bytes;
use consensus::{Boot, Config, ProgressState, Rejected, Replica, Role};
use prost::Message as _;
use proto::log::membership_change::Kind;
use proto::log::{ConfState, Entry, HardState, Member, MembershipChange, SnapshotMeta, entry};
use proto::peer::{RaftMessage, raft_message::Type};

use lone::{append, conf, drain, entry, follower, has, kinds, leader, message, meta, replica};

const INDEX_MAX: u64 = 1 << 62;

#[test]
fn every_kind_of_malformed_message_is_rejected_and_leaves_no_trace() {
    let read = |data: usize| Entry { data: Bytes::from(vec![0; data]), ..Default::default() };
    let snapshot = |change: fn(&mut SnapshotMeta)| {
        let mut meta = meta(20, 5);
        change(&mut meta);
        RaftMessage { snapshot: Some(meta), ..message(Type::MsgSnapshot, 6) }
    };
    let conf_with = |change: fn(&mut ConfState)| {
        let mut meta = meta(20, 5);
        change(meta.conf_state.as_mut().unwrap());
        RaftMessage { snapshot: Some(meta), ..message(Type::MsgSnapshot, 6) }
    };
    let big = Entry { data: Bytes::from(vec![0; 24 << 20]), ..entry(0, 6) };
    let bigs = (11..14).map(|index| Entry { index, ..big.clone() }).collect();
    let cases: Vec<(RaftMessage, &str)> = vec![
        (RaftMessage { to: 3, ..message(Type::MsgHeartbeat, 5) }, "message is for member 3"),
        (RaftMessage { from: 0, ..message(Type::MsgHeartbeat, 5) }, "message is from member 0"),
        (RaftMessage { from: 1, ..message(Type::MsgHeartbeat, 5) }, "message is from member 1"),
        (RaftMessage { r#type: 99, ..message(Type::MsgHeartbeat, 5) }, "type 99 is unknown"),
        (RaftMessage { r#type: -1, ..message(Type::MsgHeartbeat, 5) }, "type -1 is unknown"),
        (message(Type::MsgHup, 5), "MSG_HUP is not for the wire"),
        (
            RaftMessage { durable_index: INDEX_MAX + 1, ..append(Vec::new()) },
            "durable_index 4611686018427387905 is out of range",
        ),
        (
            RaftMessage { durable_index: 9, ..message(Type::MsgHeartbeat, 5) },
            "MSG_HEARTBEAT carries a durable index",
        ),
        (message(Type::MsgBeat, 5), "MSG_BEAT is not for the wire"),
        (message(Type::MsgPropose, 5), "MSG_PROPOSE is not for the wire"),
        (message(Type::MsgUnreachable, 5), "MSG_UNREACHABLE is not for the wire"),
        (message(Type::MsgSnapStatus, 5), "MSG_SNAP_STATUS is not for the wire"),
        (message(Type::MsgCheckQuorum, 5), "MSG_CHECK_QUORUM is not for the wire"),
        (message(Type::MsgTransferLeader, 5), "MSG_TRANSFER_LEADER is not for the wire"),
        (message(Type::MsgRequestVote, 0), "term 0 is not valid in MSG_REQUEST_VOTE"),
        (message(Type::MsgReadIndex, 5), "term 5 is not valid in MSG_READ_INDEX"),
        (message(Type::MsgRequestVote, INDEX_MAX + 1), "term 4611686018427387905 is out of range"),
        (
            RaftMessage { index: u64::MAX, ..message(Type::MsgAppendResponse, 5) },
            "index 18446744073709551615 is out of range",
        ),
        (
            RaftMessage { reject_hint: u64::MAX, ..message(Type::MsgAppendResponse, 5) },
            "reject_hint 18446744073709551615 is out of range",
        ),
        (
            RaftMessage { commit: u64::MAX, ..message(Type::MsgRequestVote, 6) },
            "commit 18446744073709551615 is out of range",
        ),
        (
            RaftMessage { entries: vec![entry(1, 1)], ..message(Type::MsgHeartbeat, 5) },
            "MSG_HEARTBEAT carries entries",
        ),
        (
            RaftMessage { snapshot: Some(meta(1, 1)), ..message(Type::MsgAppend, 5) },
            "MSG_APPEND carries a snapshot",
        ),
        (message(Type::MsgSnapshot, 6), "MSG_SNAPSHOT lacks its snapshot"),
        (message(Type::MsgReadIndex, 0), "MSG_READ_INDEX lacks its read context"),
        (message(Type::MsgReadIndexResp, 5), "MSG_READ_INDEX_RESP lacks its read context"),
        (
            RaftMessage { entries: vec![read(1); 2], ..message(Type::MsgReadIndex, 0) },
            "MSG_READ_INDEX carries more than one read context",
        ),
        (
            RaftMessage { entries: vec![read(65)], ..message(Type::MsgReadIndex, 0) },
            "read context of 65 bytes is above 64 bytes",
        ),
        (
            RaftMessage { context: Bytes::from(vec![0; 65]), ..message(Type::MsgHeartbeat, 5) },
            "context of 65 bytes is above 64 bytes",
        ),
        (append(vec![entry(12, 6)]), "entry 12 follows entry 10"),
        (append(vec![entry(11, 6), entry(13, 6)]), "entry 13 follows entry 11"),
        (append(vec![entry(11, 6), entry(11, 6)]), "entry 11 follows entry 11"),
        (append(vec![entry(11, 7)]), "entry 11 has term 7, not within 5 to 6"),
        (append(vec![entry(11, 4)]), "entry 11 has term 4, not within 5 to 6"),
        (append(vec![entry(11, 0)]), "entry 11 has term 0"),
        (append(vec![Entry { r#type: 9, ..entry(11, 6) }]), "entry 11 has the unknown type 9"),
        (
            append(vec![Entry { context: Bytes::from(vec![0; 70_000]), ..entry(11, 6) }]),
            "entry context of 70000 bytes is above 65536 bytes",
        ),
        (append(bigs), "append message of 75497472 bytes is above 67108864 bytes"),
        (
            append(vec![Entry { data: Bytes::from(vec![0; 33 << 20]), ..entry(11, 6) }]),
            "entry of 34603008 bytes is above",
        ),
        (RaftMessage { log_term: 0, ..append(vec![]) }, "log_term 0 is out of range"),
        (RaftMessage { log_term: 7, ..append(vec![]) }, "log_term 7 is out of range"),
        (RaftMessage { index: 0, ..append(vec![]) }, "log_term 5 is out of range"),
        (snapshot(|meta| meta.index = 0), "snapshot: index is out of range"),
        (snapshot(|meta| meta.term = 0), "snapshot: term is not within 1"),
        (snapshot(|meta| meta.term = 7), "snapshot: term is not within 1"),
        (snapshot(|meta| meta.chunks.clear()), "snapshot: no chunks"),
        (
            snapshot(|meta| meta.chunks[0].hash = Bytes::new()),
            "snapshot: a chunk's hash is not 32 bytes long",
        ),
        (snapshot(|meta| meta.conf_state = None), "snapshot: no configuration"),
        (conf_with(|conf| conf.voters.clear()), "snapshot: configuration without voters"),
        (conf_with(|conf| conf.voters.push(1)), "snapshot: configuration with a member twice"),
        (conf_with(|conf| conf.learners.push(1)), "snapshot: configuration with a member twice"),
        (conf_with(|conf| conf.voters.push(0)), "snapshot: configuration with member 0"),
        (conf_with(|conf| conf.voters_outgoing.push(1)), "snapshot: joint configuration"),
        (conf_with(|conf| conf.auto_leave = true), "snapshot: joint configuration"),
        (
            conf_with(|conf| conf.voters.extend(4..100)),
            "snapshot: configuration with too many members",
        ),
        (
            RaftMessage { commit: 11, ..message(Type::MsgHeartbeat, 5) },
            "commit index 11 is beyond the last entry 10",
        ),
        (
            RaftMessage { from: 3, ..message(Type::MsgTimeoutNow, 5) },
            "member 3 does not lead and cannot hand over",
        ),
        (message(Type::MsgTimeoutNow, 6), "member 2 does not lead and cannot hand over"),
        (
            RaftMessage { from: 9, ..message(Type::MsgAppendResponse, 5) },
            "member 9 is not in the configuration",
        ),
    ];
    let mut replica = follower();
    let before = replica.status();
    for (message, expected) in cases {
        let error = replica.receive(0, message.clone()).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
        assert!(!error.contains('\n'));
        assert_eq!(replica.status(), before, "{expected}");
        assert!(drain(&mut replica).is_empty(), "{expected}");
    }
}

#[test]
fn a_follower_cannot_have_what_its_leader_has_not() {
    let mut replica = leader();
    let rejected = replica.receive(0, has(12, 2));
    assert_eq!(rejected, Err(Rejected::MatchBeyondLog { matched: 12, last: 11 }));
    let wants = RaftMessage { request_snapshot: 12, reject: true, ..has(0, 2) };
    let rejected = replica.receive(0, wants);
    assert_eq!(rejected, Err(Rejected::MatchBeyondLog { matched: 12, last: 11 }));
    replica.receive(0, has(11, 2)).unwrap();
}

#[test]
fn votes_nobody_can_have_been_asked_for_do_not_count() {
    let mut replica = replica(Config { pre_vote: false, ..Config::new(1, 7) });
    let append = RaftMessage { entries: vec![entry(11, 5)], ..append(vec![]) };
    replica.receive(0, RaftMessage { term: 5, ..append }).unwrap();
    // Entry 11 is still on its way to the disk, and so the requests wait.
    replica.take_output(0);
    replica.campaign();
    let asked = replica.take_output(0).messages;
    assert_eq!(kinds(&asked), []);
    let rejected = replica.receive(0, message(Type::MsgRequestVoteResponse, 6));
    assert_eq!(rejected, Err(Rejected::VoteUnasked { from: 2 }));
    assert_eq!(replica.status().role, Role::Candidate);
}

const ON_THE_WIRE: [Type; 12] = [
    Type::MsgAppend,
    Type::MsgAppendResponse,
    Type::MsgRequestVote,
    Type::MsgRequestVoteResponse,
    Type::MsgSnapshot,
    Type::MsgHeartbeat,
    Type::MsgHeartbeatResponse,
    Type::MsgTimeoutNow,
    Type::MsgReadIndex,
    Type::MsgReadIndexResp,
    Type::MsgRequestPreVote,
    Type::MsgRequestPreVoteResponse,
];

#[test]
fn hostile_messages_never_make_a_replica_panic() {
    // A cheap generator: every field takes small, neighbouring and absurd values.
    let mut state = 0x1234_5678_u64;
    let mut roll = move |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % bound
    };
    let mut accepted = 0;
    for round in 0..60_000 {
        let mut replica = match round % 3 {
            0 => follower(),
            1 => leader(),
            _ => {
                let mut replica = replica(Config::new(1, 7));
                replica.campaign();
                replica
            }
        };
        for _ in 0..6 {
            // Three in four are nearly right, and get past the first checks.
            let wild = roll(4) == 0;
            let kind = if wild { roll(20) } else { ON_THE_WIRE[roll(12) as usize] as u64 };
            let mut number = |near: u64| match roll(if wild { 6 } else { 24 }) {
                0 => 0,
                1 => u64::MAX,
                2 => INDEX_MAX,
                3 => roll(20),
                _ => (near + roll(4)).saturating_sub(2),
            };
            let mut message = RaftMessage {
                term: number(6),
                log_term: number(5),
                index: number(10),
                commit: number(9),
                commit_term: number(5),
                request_snapshot: number(1),
                reject_hint: number(10),
                ..Default::default()
            };
            message.r#type = kind as i32;
            if kind == Type::MsgAppend as u64 && roll(2) == 0 {
                message.durable_index = 8 + roll(5);
            }
            message.from = if wild { roll(5) } else { 2 + roll(2) };
            message.to = u64::from(!wild || roll(9) != 0);
            message.reject = roll(2) == 0;
            message.priority = [0, i64::MIN, i64::MAX][roll(3) as usize];
            if wild {
                message.context = Bytes::from(vec![0; roll(70) as usize]);
            }
            if wild || kind == Type::MsgAppend as u64 {
                let term = message.log_term.max(1);
                for n in 1..=roll(4) {
                    let index = message.index.wrapping_add(n + roll(30) / 29);
                    let r#type = roll(9) as i32 / 3 + roll(20) as i32 / 19;
                    message.entries.push(Entry { r#type, ..entry(index, term) });
                }
            }
            if kind == Type::MsgSnapshot as u64 {
                let mut meta = meta(5 + roll(10), 4 + roll(3));
                let conf = meta.conf_state.as_mut().unwrap();
                conf.voters = (0..roll(3)).map(|_| roll(5)).chain([1]).collect();
                conf.learners = (0..roll(2)).map(|_| roll(5)).collect();
                message.snapshot = Some(meta);
            }
            if kind == Type::MsgReadIndex as u64 {
                message.term = 0;
                message.entries = vec![Entry::default()];
            }
            accepted += u64::from(replica.receive(0, message).is_ok());
            replica.tick(round * 10_000);
            match roll(4) {
                0 => {}
                1 => drop(drain(&mut replica)),
                _ => drain_lazily(&mut replica),
            }
        }
    }
    assert!(accepted > 20_000, "only {accepted} got as far as raft");
}

/// Takes outputs and leaves the disk behind.
fn drain_lazily(replica: &mut Replica) {
    for _ in 0..100 {
        if !replica.has_output() {
            return;
        }
        replica.take_output(0);
    }
    panic!("never comes to rest");
}

#[test]
fn a_late_rejection_does_not_move_progress_below_what_is_matched() {
    let mut replica = leader();
    // Rejections of the first probe, delayed in the network.
    let late = [
        RaftMessage { reject: true, index: 10, reject_hint: 3, log_term: 5, ..has(0, 2) },
        RaftMessage { reject: true, index: 11, reject_hint: 0, log_term: 0, ..has(0, 2) },
        RaftMessage { reject: true, index: 11, reject_hint: 3, log_term: 1, ..has(0, 2) },
    ];
    replica.receive(0, has(11, 2)).unwrap();
    drain(&mut replica);
    replica.propose(Bytes::from_static(b"x")).unwrap();
    drain(&mut replica);
    replica.report_unreachable(2);
    assert_eq!(replica.status().progress[&2].state, ProgressState::Probe);
    for late in late {
        replica.receive(0, late).unwrap();
        let progress = replica.status().progress[&2];
        assert!(progress.next_index > progress.match_index, "{progress:?}");
    }
    // A true one still helps: the follower lacks entry 12.
    replica.receive(0, RaftMessage { from: 2, ..message(Type::MsgHeartbeatResponse, 6) }).unwrap();
    let sent = drain(&mut replica);
    assert!(sent.iter().any(|m| m.to == 2 && m.index == 11 && m.entries.len() == 1), "{sent:?}");
}

#[test]
fn a_requested_snapshot_is_sent_once_even_if_acknowledged_before_it_is_reported() {
    let mut replica = leader();
    replica.receive(0, has(11, 2)).unwrap();
    drain(&mut replica);
    assert_eq!(replica.status().applied, 11);
    replica.snapshot_available(meta(11, 6));
    let wants = RaftMessage { request_snapshot: 1, reject: true, index: 10, ..has(10, 3) };
    replica.receive(0, wants.clone()).unwrap();
    assert_eq!(kinds(&drain(&mut replica)), [Type::MsgSnapshot]);
    replica.receive(0, has(11, 3)).unwrap();
    replica.receive(0, wants).unwrap();
    replica.report_snapshot(3, true);
    replica.receive(0, RaftMessage { from: 3, ..message(Type::MsgHeartbeatResponse, 6) }).unwrap();
    let sent = drain(&mut replica);
    assert!(!kinds(&sent).contains(&Type::MsgSnapshot), "{sent:?}");
    assert_eq!(replica.status().progress[&3].match_index, 11);
}

#[test]
fn answers_that_come_after_the_step_down_lengthen_the_election_timeout() {
    let timing = Timing { heartbeat_interval_us: 25_000, election_timeout_us: 315_000 };
    let mut replica = replica(Config { pre_vote: false, timing, ..Config::new(1, 7) });
    let mut now_us = 0;
    let mut election_us = vec![timing.election_timeout_us];
    for lost in 1..=2 {
        replica.campaign();
        drain(&mut replica);
        let term = replica.status().term;
        replica.receive(now_us, message(Type::MsgRequestVoteResponse, term)).unwrap();
        assert_eq!(replica.status().role, Role::Leader);
        while replica.status().role == Role::Leader {
            now_us += 5_000;
            replica.tick(now_us);
            drain(&mut replica);
        }
        assert_eq!(replica.status().quorum_losses, lost);
        let effective_us = replica.status().effective_timing.election_timeout_us;
        assert_eq!(Some(&effective_us), election_us.last());
        // The followers did answer; it only took longer than the timeout.
        let answer = message(Type::MsgHeartbeatResponse, term);
        replica.receive(now_us, answer.clone()).unwrap();
        replica.receive(now_us, answer).unwrap();
        election_us.push(replica.status().effective_timing.election_timeout_us);
    }
    assert_eq!(election_us, [315_000, 1_000_000, 2_000_000], "two such round trips");
}

/// Without the question beforehand each of its candidacies begins the waits of all others anew.
#[test]
fn who_is_refused_again_and_again_stands_less_often() {
    let timing = Timing { heartbeat_interval_us: 20_000, election_timeout_us: 200_000 };
    let mut replica = replica(Config { pre_vote: false, timing, ..Config::new(1, 7) });
    let usual = replica.status().effective_timing;
    for _ in 0..3 {
        assert_eq!(replica.status().effective_timing, usual);
        replica.campaign();
        drain(&mut replica);
        let term = replica.status().term;
        for from in [2, 3] {
            let refusal = message(Type::MsgRequestVoteResponse, term);
            replica.receive(0, RaftMessage { from, reject: true, ..refusal }).unwrap();
        }
        assert_eq!(replica.status().role, Role::Follower);
    }
    let longer = replica.status().effective_timing;
    assert!(longer.election_timeout_us > usual.election_timeout_us);
}

#[test]
fn a_repeated_question_does_not_vouch_for_a_later_one() {
    let question = |context: &'static [u8]| RaftMessage {
        entries: vec![Entry { data: Bytes::from_static(context), ..Default::default() }],
        ..message(Type::MsgReadIndex, 0)
    };
    let mut replica = leader();
    replica.receive(0, has(11, 2)).unwrap();
    drain(&mut replica);
    // A question of member 2, asked twice, answered once; acknowledgements of its round linger.
    replica.receive(0, question(b"first")).unwrap();
    let sent = drain(&mut replica);
    let heartbeat = sent.iter().find(|m| m.r#type() == Type::MsgHeartbeat).unwrap();
    let acknowledgement = |from| RaftMessage {
        from,
        context: heartbeat.context.clone(),
        ..message(Type::MsgHeartbeatResponse, 6)
    };
    replica.receive(0, acknowledgement(2)).unwrap();
    assert_eq!(kinds(&drain(&mut replica)), [Type::MsgReadIndexResp]);
    // A later question, and then the repetition of the first with its acknowledgements.
    replica.receive(0, question(b"second")).unwrap();
    drain(&mut replica);
    replica.receive(0, question(b"first")).unwrap();
    drain(&mut replica);
    replica.receive(0, acknowledgement(2)).unwrap();
    replica.receive(0, acknowledgement(3)).unwrap();
    assert!(!kinds(&drain(&mut replica)).contains(&Type::MsgReadIndexResp));
}

#[test]
fn an_answer_to_a_question_asked_again_answers_what_was_asked_before_it_and_nothing_else() {
    let mut replica = follower();
    replica.read(1);
    let asked = drain(&mut replica);
    let answer = |question: &RaftMessage, index| RaftMessage {
        entries: question.entries.clone(),
        index,
        ..message(Type::MsgReadIndexResp, 5)
    };
    // No answer for half an election timeout: the question is asked anew.
    replica.tick(500_000);
    let output = replica.take_output(500_000);
    let again = output.messages;
    assert_eq!(kinds(&again), [Type::MsgReadIndex]);
    assert_ne!(again[0].entries, asked[0].entries, "with another context");
    replica.read(2);
    replica.receive(500_001, answer(&asked[0], 9)).unwrap();
    let answered = |reads: Vec<consensus::ReadReady>| reads.iter().map(|it| it.ticket).collect();
    let first: Vec<u64> = answered(replica.take_output(500_001).reads);
    assert_eq!(first, [1]);
    replica.receive(500_002, answer(&again[0], 9)).unwrap();
    let nothing: Vec<u64> = answered(replica.take_output(500_002).reads);
    assert!(nothing.is_empty(), "it was asked before the read that waits now");
}

#[test]
fn a_base_without_chunks_is_never_sent_as_a_snapshot() {
    let boot = Boot {
        hard_state: Some(HardState { term: 5, vote: 0, commit: 10 }),
        snapshot: Some(SnapshotMeta { chunks: vec![], ..meta(10, 5) }),
        entries: vec![],
        applied: 10,
        conf_state: conf(&[1, 2, 3]),
    };
    let config = Config { pre_vote: false, ..Config::new(1, 7) };
    let mut replica = Replica::new(config, boot, 0).unwrap();
    replica.campaign();
    drain(&mut replica);
    replica.receive(0, message(Type::MsgRequestVoteResponse, 6)).unwrap();
    drain(&mut replica);
    let rejection =
        RaftMessage { reject: true, index: 10, reject_hint: 2, log_term: 1, ..has(0, 2) };
    replica.receive(0, rejection).unwrap();
    let output = replica.take_output(0);
    assert!(output.snapshot_wanted);
    assert!(!kinds(&output.messages).contains(&Type::MsgSnapshot));
}

#[test]
fn a_commit_index_alone_is_written_with_what_comes_next_and_nothing_waits_for_it() {
    let mut replica = follower();
    replica.receive(0, RaftMessage { commit: 10, ..message(Type::MsgHeartbeat, 5) }).unwrap();
    let output = replica.take_output(0);
    assert!(output.persist.is_none());
    assert_eq!(kinds(&output.messages), [Type::MsgHeartbeatResponse]);
    assert_eq!(output.committed.len(), 2);

    let append = RaftMessage { term: 5, commit: 10, ..append(vec![entry(11, 5)]) };
    replica.receive(0, append).unwrap();
    let written = replica.take_output(0).persist.unwrap().hard_state.unwrap();
    assert_eq!((written.term, written.commit), (5, 10));
}

#[test]
fn what_only_moves_the_commit_index_is_not_answered_and_what_moves_nothing_is() {
    let mut replica = follower();
    let commits = |commit| RaftMessage { term: 5, commit, ..append(vec![]) };
    replica.receive(0, commits(10)).unwrap();
    let output = replica.take_output(0);
    assert_eq!((kinds(&output.messages), output.committed.len()), (vec![], 2));
    // The leader asks what is here: an answer to an entry was lost.
    replica.receive(0, commits(10)).unwrap();
    let answers = drain(&mut replica);
    assert_eq!(kinds(&answers), [Type::MsgAppendResponse]);
    assert_eq!((answers[0].index, answers[0].reject), (10, false));
    // What carries entries is, whatever it commits; and so is what does not fit.
    let append = RaftMessage { term: 5, commit: 11, ..append(vec![entry(11, 5)]) };
    replica.receive(0, append).unwrap();
    assert_eq!(kinds(&drain(&mut replica)), [Type::MsgAppendResponse]);
    let beyond = RaftMessage { index: 20, log_term: 5, ..commits(20) };
    replica.receive(0, beyond).unwrap();
    assert!(drain(&mut replica)[0].reject);
}

#[test]
fn a_change_that_a_snapshot_has_overtaken_is_not_applied_again() {
    let mut replica = follower();
    let change = MembershipChange {
        id: None,
        kind: Kind::AddLearner.into(),
        member: Some(Member { id: 4, ..Default::default() }),
    };
    let entry = Entry {
        r#type: entry::Type::ConfChangeV2.into(),
        context: change.encode_to_vec().into(),
        ..entry(11, 6)
    };
    let append = RaftMessage { commit: 11, ..append(vec![entry]) };
    replica.receive(0, append).unwrap();
    let persist = replica.take_output(0).persist.unwrap();
    replica.persisted(persist.number);
    let committed = replica.take_output(0).committed;
    assert_eq!(committed.last().unwrap().index, 11);
    // While the state applies entry 11, the leader sends a snapshot of a later configuration.
    let mut meta = meta(20, 6);
    meta.conf_state.as_mut().unwrap().learners = vec![4, 5];
    replica
        .receive(0, RaftMessage { snapshot: Some(meta.clone()), ..message(Type::MsgSnapshot, 6) })
        .unwrap();
    let persist = replica.take_output(0).persist.unwrap();
    let conf = replica.apply_membership(committed.last().unwrap(), true).unwrap();
    assert_eq!(Some(conf), meta.conf_state);
    replica.applied(11);
    replica.persisted(persist.number);
    replica.applied(20);
    assert_eq!(replica.status().applied, 20);
}

#[test]
fn a_leader_whose_disk_stands_still_gives_its_commands_back() {
    let mut replica = leader();
    replica.receive(0, has(11, 2)).unwrap();
    drain(&mut replica);
    replica.propose(Bytes::from_static(b"sent")).unwrap();
    let output = replica.take_output(0);
    assert!(output.persist.is_some());
    assert!(!replica.disk_stalled(499_999));
    assert!(replica.disk_stalled(500_000));
    replica.propose(Bytes::from_static(b"kept")).unwrap();
    let output = replica.take_output(500_000);
    assert!(output.persist.is_none() && output.dropped.is_empty());
    assert_eq!(replica.status().commands_making, 1);
    replica.receive(500_001, message(Type::MsgHeartbeat, 7)).unwrap();
    assert_eq!(replica.take_output(500_001).dropped, ["kept"]);
}

#[test]
fn proposals_beyond_the_limit_are_told_to_come_back() {
    let mut replica = leader();
    let command = Bytes::from(vec![0; 16 << 20]);
    let taken = (0..20).take_while(|_| replica.propose(command.clone()).is_ok()).count();
    assert!((1..=8).contains(&taken), "{taken}");
    assert_eq!(replica.propose(command.clone()), Err(consensus::ProposeError::Busy));
    drain(&mut replica);
    assert_eq!(replica.propose(command), Err(consensus::ProposeError::Busy), "not yet applied");
    let last = replica.status().last_index;
    replica.receive(0, has(last, 2)).unwrap();
    drain(&mut replica);
    assert_eq!(replica.propose(Bytes::from_static(b"x")), Ok(()));
    let oversized = Bytes::from(vec![0; (32 << 20) + 1]);
    assert!(matches!(replica.propose(oversized), Err(consensus::ProposeError::TooLarge { .. })));
}

#[test]
fn entries_share_the_memory_of_the_message_they_came_in() {
    let mut replica = follower();
    let data = Bytes::from(vec![7; 1_000]);
    let sent = Entry { data: data.clone(), ..entry(11, 6) };
    replica.receive(0, append(vec![sent])).unwrap();
    let written = replica.take_output(0).persist.unwrap().entries;
    assert_eq!(written[0].data.as_ptr(), data.as_ptr());
}
