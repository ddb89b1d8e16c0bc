//! Whether members are there: down, stalled, cut off.

use super::{Series, alert, fires, quiet};
use crate::monitoring::cases::{POD, but, healthy, of, unheard, unscraped};
use crate::monitoring::rules::Alert;

pub(super) fn presence() -> Vec<Alert> {
    let killed = || but(unscraped(healthy(), 2, "0.001"), unheard(2));
    let stalled = || but(unscraped(healthy(), 2, "10"), unheard(2));
    vec![
        alert(
            "MetaStoreMemberDown",
            "warning",
            "1m",
            "@UP == 0 unless on (@P) @STALLED",
            "A member is down.",
            "{{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} is not there: nothing \
             answers where its metrics should be, or its peers know it and it has no pod.",
            vec![
                fires("refused connections", killed(), &POD, "0"),
                fires(
                    "a pod that is gone with its target",
                    but(
                        unscraped(healthy(), 2, "0.001"),
                        [
                            unheard(2),
                            vec![
                                of(2, "up", "", "1+0x20 stale"),
                                of(2, "scrape_duration_seconds", "", "0.01+0x20 stale"),
                            ],
                        ]
                        .concat(),
                    ),
                    &POD,
                    "0",
                ),
                quiet("three that are well", healthy()),
                quiet("one that stands still has an alert of its own", stalled()),
            ],
        ),
        alert(
            "MetaStoreMemberStalled",
            "warning",
            "30s",
            "@STALLED",
            "A member stands still.",
            "{{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} takes connections and \
             answers nothing; its peers have not heard it for {{ $value | humanizeDuration }}.",
            vec![
                fires("scrapes that time out, silence for peers", stalled(), &POD, "25m 0s"),
                quiet("one that is gone is not stalled", killed()),
                quiet("three that are well", healthy()),
            ],
        ),
        alert(
            "MetaStoreMemberPartitioned",
            "warning",
            "30s",
            "@DEAF and on (@C) max by (@C) (etcd_server_has_leader{@S}) == 1",
            "A member is cut off from its peers.",
            "{{ $labels.pod }} of {{ $labels.namespace }}/{{ $labels.cluster }} runs and is scraped, but \
             hears no peer, or none hears it, for {{ $value | humanizeDuration }}; the others have a leader.",
            vec![
                fires("nothing heard on either side", but(healthy(), cut_off()), &POD, "25m 0s"),
                fires(
                    "heard by nobody, though it hears them",
                    but(healthy(), unheard(2)),
                    &POD,
                    "25m 0s",
                ),
                quiet("one that is gone is not cut off", killed()),
                quiet("three that are well", healthy()),
            ],
        ),
    ]
}

/// Nothing goes from or to member 2.
pub(super) fn cut_off() -> Series {
    let mut series = unheard(2);
    for peer in ["a0", "b1"] {
        let to = format!("To=\"{peer}\"");
        series.push(of(2, "metastore_peer_silent_seconds", &to, "0.05+0x20 15+15x380"));
    }
    series.push(of(2, "etcd_server_has_leader", "", "1+0x20 0+0x380"));
    series
}
