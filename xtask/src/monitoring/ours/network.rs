//! What is between members.

use super::{alert, fires, quiet};
use crate::monitoring::cases::{POD, but, healthy, of, unheard};
use crate::monitoring::rules::Alert;

pub(super) fn network() -> Vec<Alert> {
    // From the 60th sample on member 2 is so far from both.
    let far = |samples: &str| {
        let metric = "metastore_peer_srtt_seconds";
        vec![
            of(0, metric, "To=\"c2\"", samples),
            of(1, metric, "To=\"c2\"", samples),
            of(2, metric, "To=\"a0\"", samples),
            of(2, metric, "To=\"b1\"", samples),
        ]
    };
    let link = |quantile: &str, samples: &str| {
        let more = format!("To=\"c2\",quantile=\"{quantile}\"");
        of(0, "metastore_peer_rtt_quantile_seconds", &more, samples)
    };
    let mut link_labels = POD.to_vec();
    link_labels[2].1 = "demo-0";
    link_labels.push(("To", "c2"));
    vec![
        alert(
            "MetaStorePeerFar",
            "warning",
            "1m",
            "\
(
  @NEAREST * 5
  > on (@P) max by (@P) (metastore_raft_timing_effective_seconds{timing=\"election\", @S})
)
or
(
  @NEAREST > 0.01
  and on (@P) @NEAREST > on (@C) group_left () 4 * quantile by (@C) (0.5, @NEAREST)
  and on (@P) @NEAREST > on (@P) 2 * quantile_over_time(0.5, metastore:member_nearest_rtt_seconds[1d])
)",
            "A member is far from its peers.",
            "Even to its nearest peer {{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} has a \
             round trip that the election timeout in force is too short for, or one that became four times \
             what members of this cluster have.",
            vec![
                fires(
                    "forty times as far as before",
                    but(healthy(), far("0.0005+0x80 0.04+0x320")),
                    &POD,
                    "0.04",
                ),
                fires(
                    "too far for the election timeout",
                    but(healthy(), far("0.3+0x400")),
                    &POD,
                    "1.5",
                ),
                quiet("one that has always been in another region", but(healthy(), far("0.04+0x400"))),
                quiet("three that are well", healthy()),
            ],
        ),
        alert(
            "MetaStoreSlowPeerLink",
            "warning",
            "5m",
            "\
(
  max by (@P, To) (metastore_peer_loss_ratio{@S}) > 0.02
  or
  (
    max by (@P, To) (metastore_peer_rtt_quantile_seconds{quantile=\"0.99\", @S}) > 0.05
    and on (@P, To)
    max by (@P, To) (metastore_peer_rtt_quantile_seconds{quantile=\"0.99\", @S})
    > on (@P, To) 10 * max by (@P, To) (metastore_peer_rtt_quantile_seconds{quantile=\"0.5\", @S})
  )
)
unless on (@P, To) metastore_peer_silent_seconds{@S} > 3",
            "The network between two members is bad.",
            "From {{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} to the member \
             {{ $labels.To }} more than one probe in fifty is lost, or one in a hundred takes more than ten \
             times as long as most.",
            vec![
                fires(
                    "losses",
                    but(healthy(), vec![of(0, "metastore_peer_loss_ratio", "To=\"c2\"", "0.05+0x400")]),
                    &link_labels,
                    "0.05",
                ),
                fires(
                    "late packets",
                    but(healthy(), vec![link("0.99", "0.2+0x400"), link("0.5", "0.001+0x400")]),
                    &link_labels,
                    "0.2",
                ),
                quiet(
                    "far, but even",
                    but(healthy(), vec![
                        link("0.99", "0.09+0x400"),
                        link("0.5", "0.08+0x400"),
                        of(0, "metastore_peer_loss_ratio", "To=\"c2\"", "0.001+0x400"),
                    ]),
                ),
                quiet(
                    "one that is not there at all",
                    but(but(healthy(), unheard(2)), vec![
                        of(0, "metastore_peer_loss_ratio", "To=\"c2\"", "0+0x20 1+0x380"),
                    ]),
                ),
            ],
        ),
    ]
}
