//! Plans of timing on real members: taken, refused, carried on after a leader's death, and inherited.

use client::proto::admin::TuningResponse;
use client::proto::log::{Tuning, TuningParams, TuningSubmit};
use client::{Client, Code, Config, Error, Get};

use crate::cluster::{Cluster, Setup, add_learner, promote, until};
use crate::manners::leader;

/// The phase a plan ends in.
const SETTLED: u32 = 5;

pub(crate) fn params(heartbeat_ms: u64, election_ms: u64) -> TuningParams {
    TuningParams {
        heartbeat_interval_us: heartbeat_ms * 1_000,
        election_timeout_us: election_ms * 1_000,
        lease_us: 0,
        batch_commands_max: 1_000,
        linger_us_max: 2_000,
        message_bytes_max: 1 << 20,
        inflight_messages_max: 128,
        inflight_bytes_max: 64 << 20,
        ..TuningParams::default()
    }
}

pub(crate) fn upon(expected_epoch: u64, to: Option<TuningParams>) -> TuningSubmit {
    TuningSubmit { expected_epoch, to, planner: "test".to_owned(), ..TuningSubmit::default() }
}

fn plan(said: &TuningResponse) -> &Tuning {
    said.tuning.as_ref().expect("every member says where it stands")
}

/// Waits until a member uses these two values, and the plan of the epoch has settled there. They are long: on a
/// busy machine a member that lost elections waits longer of itself, and uses neither.
#[allow(clippy::print_stderr, reason = "shown where it fails")]
pub(crate) async fn uses(member: &Client, epoch: u64, heartbeat_ms: u64, election_ms: u64) {
    until("a plan in force", || async {
        let said = member.tuning().await.ok()?;
        let at = (plan(&said).epoch, plan(&said).phase);
        let used = said.in_force.expect("it says what it uses");
        let timing = (used.heartbeat_interval_us, used.election_timeout_us);
        let wanted = (heartbeat_ms * 1_000, election_ms * 1_000);
        if at != (epoch, SETTLED) || timing != wanted {
            eprintln!("{at:?} {timing:?}: {}", said.held_by);
            return None;
        }
        Some(())
    })
    .await;
}

/// Whether nobody led at that moment, which says nothing of the plan.
fn is_passing(error: &Error) -> bool {
    matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded)
}

/// Submits a good plan; its epoch.
pub(crate) async fn submit(client: &Client, submit: TuningSubmit) -> u64 {
    until("a plan is taken", || async {
        match client.submit_tuning(submit.clone()).await {
            Ok(taken) => Some(taken.epoch),
            Err(error) if is_passing(&error) => {
                // It may have been taken all the same.
                let epoch = plan(&client.tuning().await.ok()?).epoch;
                (epoch == submit.expected_epoch + 1).then_some(epoch)
            }
            Err(error) => panic!("a good plan: {error}"),
        }
    })
    .await
}

async fn refusal(client: &Client, submit: TuningSubmit) -> (Code, String) {
    until("a refusal", || async {
        let error = client.submit_tuning(submit.clone()).await.expect_err("it breaks a rule");
        (!is_passing(&error)).then(|| (error.code(), error.to_string()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_reaches_every_member_and_outlives_them_all() {
    let mut cluster = Cluster::start_with(3, &Setup::default().calm()).await;
    cluster.accepts_writes().await;
    let client = cluster.client();
    let first = leader(&client).await;
    let follower = client.each().nth((first + 1) % 3).expect("three members");
    assert_eq!(submit(&follower, upon(0, Some(params(200, 2_000)))).await, 1);
    for member in client.each() {
        uses(&member, 1, 200, 2_000).await;
    }
    until("all confirmations", || async {
        for member in client.each() {
            let said = member.tuning().await.ok()?;
            let all = said.confirmations.iter().filter(|it| (it.epoch, it.phase) == (1, SETTLED));
            if said.leader_id == said.member_id && all.count() == 3 && said.held_by.is_empty() {
                return Some(());
            }
        }
        None
    })
    .await;
    // The flags are still seen beside it.
    let said = follower.tuning().await.expect("an answer");
    assert_eq!(said.flags.expect("its flags").election_timeout_us, 3_000_000);

    for (bad, code, why) in [
        (
            upon(0, Some(params(50, 500))),
            Code::FailedPrecondition,
            "plan was made upon epoch 0, but the newest plan has epoch 1",
        ),
        (upon(1, Some(params(100, 499))), Code::InvalidArgument, "less than 5 heartbeat intervals"),
        (upon(1, Some(params(25, 50_001))), Code::InvalidArgument, "above 50000000"),
    ] {
        for member in client.each() {
            let (found, line) = refusal(&member, bad.clone()).await;
            assert!(found == code && line.contains(why), "{found:?} {line}");
        }
    }

    for member in &mut cluster.members {
        member.kill();
    }
    for member in &mut cluster.members {
        member.launch();
    }
    cluster.accepts_writes().await;
    for member in client.each() {
        uses(&member, 1, 200, 2_000).await;
    }
    assert_eq!(submit(&client, upon(1, None)).await, 2, "back to the flags");
    for member in client.each() {
        uses(&member, 2, 300, 3_000).await;
    }
    let said = client.tuning().await.expect("an answer");
    assert_eq!(plan(&said).past[0].to, Some(params(200, 2_000)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_waits_for_the_voter_that_is_gone_and_goes_on_under_another_leader() {
    let mut cluster = Cluster::start_with(3, &Setup::default().calm()).await;
    cluster.accepts_writes().await;
    let client = cluster.client();
    let old = leader(&client).await;
    let gone = (old + 1) % 3;
    cluster.members[gone].kill();
    let rest = client.each().nth(old).expect("three members");
    submit(&rest, upon(0, Some(params(200, 2_000)))).await;
    let held = until("what holds it", || async {
        let said = rest.tuning().await.ok()?;
        let why = "phase raise is not confirmed by ";
        (plan(&said).epoch == 1 && said.held_by.starts_with(why)).then_some(said)
    })
    .await;
    assert_eq!(plan(&held).phase, 1);

    let (code, why) = refusal(&rest, upon(1, None)).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(why.contains("plan of epoch 1 has not settled: it is in phase raise"), "{why}");
    let peers = vec!["http://127.0.0.1:1".to_owned()];
    let joins = until("a refusal", || async {
        let error = rest.member_add(peers.clone()).await.expect_err("nobody joins meanwhile");
        (!is_passing(&error)).then_some(error)
    })
    .await;
    assert!(joins.to_string().contains("plan of epoch 1 has not settled"), "{joins}");

    // The leader dies before the plan is anywhere: the next one goes on with it.
    cluster.members[old].kill();
    cluster.members[gone].launch();
    cluster.accepts_writes().await;
    cluster.members[old].launch();
    for member in client.each() {
        uses(&member, 1, 200, 2_000).await;
    }
    cluster.members_agree().await;
    assert!(client.get(Get::new("alive")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_joins_inherits_the_plan_and_none_is_taken_while_it_does() {
    let mut cluster = Cluster::plan(2, &Setup::default().calm());
    let both = cluster.members[0].initial_cluster.clone();
    let founder = both.split(',').next().expect("two members").to_owned();
    cluster.members[0].initial_cluster = founder;
    cluster.members[0].launch();
    cluster.members[0].ready().await;
    let at =
        |n: usize| Client::new(Config::new([cluster.members[n].endpoint()])).expect("a client");
    let (first, second) = (at(0), at(1));
    submit(&first, upon(0, Some(params(200, 2_000)))).await;
    uses(&first, 1, 200, 2_000).await;

    let url = format!("http://{}", cluster.members[1].peer_endpoint());
    let id = add_learner(&first, &url).await;
    let (code, why) = refusal(&first, upon(1, Some(params(50, 500)))).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(why.contains(&format!("no plan is taken before member {id:x} has started")), "{why}");

    cluster.members[1].joins_existing();
    cluster.members[1].launch();
    cluster.members[1].ready().await;
    uses(&second, 1, 200, 2_000).await;
    promote(&first, id).await;
    until("another plan", || async {
        let taken = second.submit_tuning(upon(1, Some(params(400, 4_000)))).await;
        // Its answer may be lost.
        (taken.is_ok() || plan(&second.tuning().await.ok()?).epoch == 2).then_some(())
    })
    .await;
    for member in [&first, &second] {
        uses(member, 2, 400, 4_000).await;
    }
}
