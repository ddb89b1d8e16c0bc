//! Whether the timing in force suits the network.

use super::{alert, fires, quiet};
use crate::monitoring::cases::{STORE, all, of};
use crate::monitoring::rules::Alert;

pub(super) fn timing() -> Vec<Alert> {
    vec![alert(
        "MetaStoreSpuriousElections",
        "warning",
        "5m",
        "\
sum by (@C) (increase(metastore_false_elections_total{@S}[1h])) > 1.5
or
max by (@C) (metastore_heartbeat_slack_ratio{@S}) > 0.8",
        "Leaders that are alive are deposed, or nearly.",
        "In {{ $labels.namespace }}/{{ $labels.cluster }} elections deposed a living leader twice within an \
         hour, or gaps between its signs of life come close to the election timeout in force.",
        vec![
            fires(
                "three within half an hour",
                all("metastore_false_elections_total", "", "0+0x60 1+0x340"),
                &STORE,
                "3.01",
            ),
            fires(
                "gaps as long as the timeout",
                all("metastore_heartbeat_slack_ratio", "", "0.9+0x400"),
                &STORE,
                "0.9",
            ),
            quiet(
                "one, once",
                [
                    vec![of(0, "metastore_false_elections_total", "", "0+0x60 1+0x340")],
                    all("metastore_heartbeat_slack_ratio", "", "0.3+0x400"),
                ]
                .concat(),
            ),
        ],
    )]
}
