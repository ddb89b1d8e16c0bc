//! What rules and dashboards ask in the same words. A query is written once with marks, and spelt out
//! for rules, which look at every cluster, or for a dashboard, which looks at what its variables say:
//!
//! * `@P`, `@C`, `@I`: the labels of a member, of a cluster, of a member by its id
//! * `@S`, `@K`: which members' series, and which clusters'
//! * `@MEMBERS`, `@UP`, `@SILENT`, …: what no member says of itself, [`DERIVED`]. Rules record each and
//!   dashboards spell them out, so that a dashboard shows data where nobody has loaded the rules.

/// Labels that make out a member.
pub(super) const MEMBER: &str = "namespace, cluster, pod";
/// Labels that make out a cluster.
pub(super) const CLUSTER: &str = "namespace, cluster";
/// Labels that make out a member by its id, which is how peers call it.
pub(super) const IDENTITY: &str = "namespace, cluster, server_id";

/// Something asked of several series, under the name it is recorded by.
pub(super) struct Derived {
    /// The mark.
    pub(super) mark: &'static str,
    /// The name of the recording rule.
    pub(super) record: &'static str,
    /// The query, with marks of those before it.
    pub(super) query: &'static str,
}

/// In the order they build on each other.
pub(super) const DERIVED: [Derived; 9] = [
    // A pod keeps its id for as long as its data; both are remembered for a day, for members that are
    // gone say nothing.
    Derived {
        mark: "@MEMBERS",
        record: "metastore:member_id",
        query: "max by (namespace, cluster, server_id, pod) (last_over_time(etcd_server_id{@K}[1d]))",
    },
    // 1 for who is scraped. 0 for a target that is not, and for a member that peers know and nobody
    // scrapes: its pod may be gone, and its target with it.
    Derived {
        mark: "@UP",
        record: "metastore:member_up",
        query: "\
group by (@P) (metastore_build_info{@K})
or
0 * group by (@P) (up{@K} == 0 and on (@P) last_over_time(metastore_build_info{@K}[1d]))
or
0 * group by (@P) (
  @MEMBERS
  and on (@I) label_replace(etcd_network_known_peers{@K}, \"server_id\", \"$1\", \"Remote\", \"(.*)\")
)",
    },
    // By the peer that heard it last.
    Derived {
        mark: "@SILENT",
        record: "metastore:member_silent_seconds",
        query: "\
max by (@P) (
  @MEMBERS
  * on (@I) group_left ()
  min by (@I) (label_replace(metastore_peer_silent_seconds{@K}, \"server_id\", \"$1\", \"To\", \"(.*)\"))
)",
    },
    // Behind the leader.
    Derived {
        mark: "@LAG",
        record: "metastore:member_lag_entries",
        query: "\
max by (@P) (
  @MEMBERS
  * on (@I) group_left ()
  max by (@I) (label_replace(metastore_peer_lag_entries{@K}, \"server_id\", \"$1\", \"To\", \"(.*)\"))
)",
    },
    // Of the peer that agrees with it best: where one clock is off, all see it off and it sees all off,
    // but the others agree with each other.
    Derived {
        mark: "@OFFSET",
        record: "metastore:member_clock_offset_seconds",
        query: "\
max by (@P) (
  @MEMBERS
  * on (@I) group_left ()
  min by (@I) (abs(label_replace(metastore_peer_clock_offset_seconds{@K}, \"server_id\", \"$1\", \"To\", \"(.*)\")))
)",
    },
    // To its nearest peer: of a member that is far all peers are.
    Derived {
        mark: "@NEAREST",
        record: "metastore:member_nearest_rtt_seconds",
        query: "min by (@P) (metastore_peer_srtt_seconds{@K})",
    },
    // A scrape of a process that is gone is refused at once; of one that stands still it is taken and
    // not answered.
    Derived {
        mark: "@STALLED",
        record: "metastore:member_stalled_seconds",
        query: "\
(@SILENT > 3)
and on (@P) (up{@K} == 0)
and on (@P) (scrape_duration_seconds{@K} > 0.5)",
    },
    // Up, while no peer hears it or it hears none.
    Derived {
        mark: "@DEAF",
        record: "metastore:member_deaf_seconds",
        query: "\
(min by (@P) (metastore_peer_silent_seconds{@K}) > 3)
or
(@SILENT > 3 and on (@P) metastore_build_info{@K})",
    },
    // Share of a second in which the machine did not let it run, in whichever way that shows.
    Derived {
        mark: "@STARVED",
        record: "metastore:member_cpu_starved_ratio",
        query: "\
clamp_max(max by (@P) (
  label_replace(rate(metastore_process_cpu_throttled_seconds_total{@K}[@W]), \"by\", \"quota\", \"\", \"\")
  or
  label_replace(rate(metastore_process_cpu_pressure_seconds_total{@K}[@W]), \"by\", \"neighbours\", \"\", \"\")
  or
  label_replace(
    rate(metastore_raft_loop_stall_seconds_sum{@K}[@W]), \"by\", \"lateness\", \"\", \"\"
  )
), 1)",
    },
];

/// What the marks stand for.
#[derive(Clone, Copy)]
pub(super) struct Scope {
    /// Matchers of a member's series.
    pub(super) members: &'static str,
    /// Matchers of a cluster's series.
    pub(super) clusters: &'static str,
    /// The range of rates.
    pub(super) window: &'static str,
    /// Whether what is recorded is asked for by its name.
    pub(super) recorded: bool,
}

/// In rules: everything that is a member of a cluster.
pub(super) const RULES: Scope =
    Scope { members: "cluster!=\"\"", clusters: "cluster!=\"\"", window: "1m", recorded: true };

/// In dashboards: what is chosen at the top.
pub(super) const DASHBOARD: Scope = Scope {
    members: "namespace=~\"$namespace\", cluster=~\"$cluster\", pod=~\"$pod\"",
    clusters: "namespace=~\"$namespace\", cluster=~\"$cluster\"",
    window: "$__rate_interval",
    recorded: false,
};

/// `query` without marks.
pub(super) fn spell(query: &str, scope: Scope) -> String {
    let mut text = query.to_owned();
    // The last first: each may name those before it.
    for derived in DERIVED.iter().rev() {
        let stands_for = if scope.recorded {
            derived.record.to_owned()
        } else {
            format!("({})", derived.query.replace('\n', " "))
        };
        text = text.replace(derived.mark, &stands_for);
    }
    // Of whom others speak, by pod: a filter on members cannot stand inside.
    text = text.replace("@P", MEMBER).replace("@C", CLUSTER).replace("@I", IDENTITY);
    text = text.replace("@S", scope.members).replace("@K", scope.clusters);
    text.replace("@W", scope.window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mark_is_left_and_none_is_the_beginning_of_another() {
        for derived in &DERIVED {
            assert!(!spell(derived.query, DASHBOARD).contains('@'), "{}", derived.mark);
            for other in &DERIVED {
                assert!(
                    derived.mark == other.mark || !other.mark.starts_with(derived.mark),
                    "{} is in {}",
                    derived.mark,
                    other.mark
                );
            }
        }
    }
}
