//! A plan in a form that one member does not read: refused while it is there, and never taken for another.

use client::Code;
use client::proto::log::TuningParams;

use crate::cluster::{Cluster, Setup, until};
use crate::plans::{params, submit, upon, uses};

fn flags(format: u32) -> Vec<String> {
    vec!["--test-flags".to_owned(), format!("--test-plan-format={format}")]
}

fn plain() -> TuningParams {
    TuningParams { no_compression: true, ..params(300, 3_000) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_plan_waits_for_the_upgrade_of_the_last_member_and_stops_who_is_put_back() {
    let mut cluster = Cluster::plan(3, &Setup::default().calm());
    cluster.members[2].setup.flags.extend(flags(1));
    for member in &mut cluster.members {
        member.launch();
    }
    cluster.accepts_writes().await;
    let client = cluster.client();
    let old = client.each().nth(2).expect("three members").tuning().await.expect("an answer");
    assert_eq!(old.knows, 1);
    let refused = until("a refusal that names the older member", || async {
        // It may lead, and then it is the plan that it names.
        let status = client.at(2).status().await.ok()?;
        if status.leader == old.member_id {
            let to = client.at(0).status().await.ok()?.header.expect("one").member_id;
            client.at(2).move_leader(to).await.ok()?;
        }
        let error = client.submit_tuning(upon(0, Some(plain()))).await.expect_err("one is older");
        let line = error.to_string();
        let names_it = line.contains(&format!("member {:x} ", old.member_id));
        (error.code() == Code::FailedPrecondition && names_it).then_some(line)
    })
    .await;
    assert!(refused.contains("no plan of format 2 is taken"), "{refused}");
    // What all read is taken meanwhile.
    assert_eq!(submit(&client, upon(0, Some(params(300, 3_000)))).await, 1);
    for member in client.each() {
        uses(&member, 1, 300, 3_000).await;
    }

    let upgraded = &mut cluster.members[2];
    upgraded.terminate();
    upgraded.setup.flags.retain(|flag| !flag.starts_with("--test"));
    upgraded.launch();
    upgraded.ready().await;
    until("the newer plan", || async {
        let taken = client.submit_tuning(upon(1, Some(plain()))).await.ok();
        // It may have been taken though its answer was lost.
        let newest = client.tuning().await.ok()?.tuning.map(|plan| plan.epoch);
        (taken.map(|taken| taken.epoch).or(newest) == Some(2)).then_some(())
    })
    .await;
    for member in client.each() {
        uses(&member, 2, 300, 3_000).await;
        let used = member.tuning().await.expect("an answer").in_force.expect("what it uses");
        assert!(used.no_compression);
    }

    let put_back = &mut cluster.members[2];
    put_back.kill();
    put_back.setup.flags.extend(flags(1));
    let (code, line) = put_back.refuses().await;
    assert_eq!(code, Some(1), "{line}");
    assert!(line.contains("has format 2, and this version reads formats up to 1"), "{line}");
}
