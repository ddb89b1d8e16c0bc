//! What a cluster suffers from as a whole: its leader, its quorum, its space, its data, its certificates.

use super::presence::cut_off;
use super::{Series, alert, fires, quiet};
use crate::monitoring::cases::{POD, STORE, all, but, healthy, of, unheard, unscraped};
use crate::monitoring::rules::Alert;

pub(super) fn clusters() -> Vec<Alert> {
    let nobody = || all("etcd_server_has_leader", "", "1+0x20 0+0x380");
    let mut everybody_gone = healthy();
    for n in 0..3 {
        everybody_gone = unscraped(everybody_gone, n, "0.001");
    }
    vec![
        alert(
            "MetaStoreNoLeader",
            "critical",
            "30s",
            "(max by (@C) (etcd_server_has_leader{@S}) or max by (@C) (@UP)) == 0",
            "A cluster has no leader.",
            "No member of {{ $labels.namespace }}/{{ $labels.cluster }} knows a leader, or none can be \
             scraped: nothing can be written, nor read but for serializable reads.",
            vec![
                fires("members without a leader", but(healthy(), nobody()), &STORE, "0"),
                fires("no member at all", everybody_gone, &STORE, "0"),
                quiet("one that is cut off", but(healthy(), cut_off())),
            ],
        ),
        alert(
            "MetaStoreQuorumAtRisk",
            "warning",
            "3m",
            "\
count by (@C) (
  max by (@P) (etcd_server_has_leader{@S} == 1)
  unless on (@P) max by (@P) (etcd_server_is_learner{@S} == 1)
)
<= on (@C)
  floor((count by (@C) (@UP) - on (@C) sum by (@C) (etcd_server_is_learner{@S})) / 2) + 1
and on (@C) count by (@C) (@UP) >= 3",
            "One more loss stops a cluster.",
            "Of {{ $labels.namespace }}/{{ $labels.cluster }} only {{ $value }} voters are in touch with the \
             leader, which is a quorum and no more.",
            vec![
                fires(
                    "two of three",
                    but(unscraped(healthy(), 2, "0.001"), unheard(2)),
                    &STORE,
                    "2",
                ),
                quiet("three of three", healthy()),
            ],
        ),
        alert(
            "MetaStoreNoSpace",
            "critical",
            "30s",
            "max by (@C) (metastore_alarm{alarm=\"nospace\", @S}) == 1",
            "A cluster is full and refuses writes.",
            "{{ $labels.namespace }}/{{ $labels.cluster }} has outgrown its quota: the alarm NOSPACE is \
             raised, and every member refuses puts until it is disarmed.",
            vec![
                fires(
                    "the alarm on every member",
                    all("metastore_alarm", "alarm=\"nospace\"", "0+0x20 1+0x380"),
                    &STORE,
                    "1",
                ),
                quiet("no alarm", all("metastore_alarm", "alarm=\"nospace\"", "0+0x400")),
            ],
        ),
        alert(
            "MetaStoreQuotaNearlyFull",
            "warning",
            "5m",
            "\
max by (@C) (etcd_mvcc_db_total_size_in_use_in_bytes{@S})
/ on (@C)
min by (@C) (etcd_server_quota_backend_bytes{@S} > 0)
> 0.8",
            "A cluster is nearly full.",
            "{{ $labels.namespace }}/{{ $labels.cluster }} uses {{ $value | humanizePercentage }} of its \
             quota; at all of it every member refuses writes.",
            vec![
                fires("nine tenths", filled("900", "1000"), &STORE, "90%"),
                quiet("a tenth", filled("100", "1000")),
                quiet("no quota", filled("900", "0")),
            ],
        ),
        alert(
            "MetaStoreCorrupt",
            "critical",
            "",
            "max by (@C) (metastore_alarm{alarm=\"corrupt\", @S}) == 1",
            "A cluster is said to be corrupt.",
            "In {{ $labels.namespace }}/{{ $labels.cluster }} the alarm CORRUPT is raised: somebody holds that \
             members' data differ, and writes are refused.",
            vec![
                fires(
                    "the alarm",
                    all("metastore_alarm", "alarm=\"corrupt\"", "0+0x20 1+0x380"),
                    &STORE,
                    "1",
                ),
                quiet(
                    "a store that was rebuilt has an alert of its own",
                    but(all("metastore_alarm", "alarm=\"corrupt\"", "0+0x400"), rebuilt("0")),
                ),
            ],
        ),
        alert(
            "MetaStoreStoreRebuilt",
            "warning",
            "",
            "max by (@P) (metastore_hash_check_total{result=\"mismatch\", @S}) > 0 and on (@P) \
             time() - process_start_time_seconds{@S} < 3600",
            "A member's store was in doubt and has been rebuilt.",
            "{{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} started with a store that was \
             damaged or did not match its digest, and built it anew from snapshot and log: its disk may be \
             failing.",
            vec![
                fires("a mismatch at boot", rebuilt("0"), &POD, "1"),
                quiet(
                    "stores that were as they should be",
                    [
                        all("metastore_hash_check_total", "result=\"mismatch\"", "0+0x400"),
                        all("metastore_hash_check_total", "result=\"ok\"", "0+1x400"),
                    ]
                    .concat(),
                ),
                quiet("one that was rebuilt hours ago", rebuilt("-7200")),
            ],
        ),
        certificates("warning", "1h", "604800", "5d 0h 0m 0s", "432000"),
        certificates("critical", "5m", "86400", "1h 0m 0s", "3600"),
    ]
}

/// Member 2 found its store in doubt when it started.
/// A mismatch found at boot, which is counted before anyone can have scraped the member.
fn rebuilt(started_s: &str) -> Series {
    vec![
        of(2, "metastore_hash_check_total", "result=\"mismatch\"", "1+0x400"),
        of(2, "process_start_time_seconds", "", &format!("{started_s}+0x400")),
    ]
}

fn filled(used: &str, quota: &str) -> Series {
    let used = format!("{used}+0x400");
    let quota = format!("{quota}+0x400");
    [
        all("etcd_mvcc_db_total_size_in_use_in_bytes", "", &used),
        all("etcd_server_quota_backend_bytes", "", &quota),
    ]
    .concat()
}

/// A certificate that runs out within `seconds`; in the test, one that has `left` more of them.
fn certificates(
    severity: &'static str,
    hold: &'static str,
    seconds: &str,
    value: &'static str,
    left: &str,
) -> Alert {
    let expires = |after: &str| {
        let after: u64 = after.parse::<u64>().expect("seconds") + 7200;
        let samples = format!("{after}+0x500");
        vec![of(0, "metastore_tls_certificate_expiry_seconds", "scope=\"peer\"", &samples)]
    };
    let labels = |severity| {
        let mut labels = POD.to_vec();
        labels[2].1 = "demo-0";
        labels.extend([("scope", "peer"), ("severity", severity)]);
        labels
    };
    let mut ends_soon = fires("one that ends soon", expires(left), &[], value);
    ends_soon.fires = vec![(labels("warning"), value)];
    if severity == "critical" {
        ends_soon.fires.push((labels("critical"), value));
    }
    let mut cases = vec![ends_soon, quiet("one that lasts for a month", expires("2592000"))];
    for case in &mut cases {
        case.at = "2h";
    }
    alert(
        "MetaStoreCertificateExpiry",
        severity,
        hold,
        &format!(
            "min by (@P, scope) (metastore_tls_certificate_expiry_seconds{{@S}} > 0) - time() < {seconds}"
        ),
        "A certificate runs out.",
        "The {{ $labels.scope }} certificate of {{ $labels.pod }} in {{ $labels.namespace }}/{{ $labels.cluster }} \
         runs out in {{ $value | humanizeDuration }} and has not been renewed.",
        cases,
    )
}
