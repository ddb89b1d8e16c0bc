//! What the members say, collected: the planner's only view of the world.

use crate::{Percentiles, Phase};

/// Writes of a member below which their percentiles say nothing.
const WRITES_MIN: u64 = 1_000;

/// The rows of all members at one moment, and what else goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Ids of the voters according to the list of members: whoever is here and has no row is missing.
    pub voters: Vec<u64>,
    /// What each member said.
    pub members: Vec<MemberRow>,
    /// What else goes on.
    pub context: Context,
    /// The cluster's writes, if whoever collects knows them.
    pub writes: Option<Writes>,
}

/// What goes on besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// A member comes or goes, or a learner catches up.
    pub membership_change: bool,
    /// Members are being restarted with another version or configuration.
    pub upgrade: bool,
    /// The cluster is being restored.
    pub restore: bool,
}

/// How writes fare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Writes {
    /// 99 of 100 are acknowledged in this time.
    pub p99_us: u64,
    /// How many there are.
    pub per_second: u64,
}

impl Writes {
    /// From what each member saw of those it was asked for: all of them, as long as they take where
    /// most are asked for. `None`: nobody saw enough.
    pub fn of_members(rows: &[MemberRow]) -> Option<Writes> {
        let busiest = rows.iter().max_by_key(|row| (row.writes.per_second, row.id))?;
        let per_second = rows.iter().map(|row| row.writes.per_second).sum();
        let is_enough = busiest.writes_seen >= WRITES_MIN && busiest.writes.p99_us > 0;
        is_enough.then_some(Writes { p99_us: busiest.writes.p99_us, per_second })
    }
}

/// What one member says of itself and of its links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberRow {
    /// Its id.
    pub id: u64,
    /// Differs between two boots.
    pub boot_id: u64,
    /// Since it booted.
    pub uptime_ms: u64,
    /// Since the row was collected.
    pub age_ms: u64,
    /// Does not vote.
    pub is_learner: bool,
    /// Whom it follows, itself if it leads; 0: nobody.
    pub leader_id: u64,
    /// It knows plans. One that does not cannot be planned for.
    pub knows_plans: bool,
    /// Epoch of the newest plan it has applied.
    pub plan_epoch: u64,
    /// And how far.
    pub plan_phase: Option<Phase>,
    /// Heartbeat interval in force.
    pub heartbeat_interval_us: u64,
    /// Election timeout in force.
    pub election_timeout_us: u64,
    /// How late the loop that carries the protocol was.
    pub loop_stalls: Percentiles,
    /// At most, in 24 hours. Told, not reckoned with: what one member suffers deposes nobody, and what
    /// a quorum suffers shows in `heartbeat_gaps`.
    pub loop_stall_us_max: u64,
    /// How long syncs took.
    pub sync_times: Percentiles,
    /// At most, in 24 hours.
    pub sync_us_max: u64,
    /// Between two signs of life of its leader; no samples on the leader.
    pub heartbeat_gaps: Percentiles,
    /// Counted since it booted.
    pub elections: Elections,
    /// Entry bytes in one append message, on average; 0: unknown.
    pub append_bytes_mean: u64,
    /// Writes it was asked for and acknowledged, of late.
    pub writes: Writes,
    /// How many of them are behind that.
    pub writes_seen: u64,
    /// To the other members.
    pub links: Vec<Link>,
}

/// Elections of one member by kind, counted since it booted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Elections {
    /// Asked whether it could win.
    pub pre_campaigns: u64,
    /// Stood.
    pub begun: u64,
    /// Won.
    pub won: u64,
    /// Stepped down unheard.
    pub quorum_losses: u64,
    /// Took the leadership of a member that was alive and had not handed it over.
    pub false_elections: u64,
}

/// One direction of a link, as measured by whoever the row is of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The other end.
    pub to: u64,
    /// Whether it answers.
    pub reachable: bool,
    /// Round trips behind the next two.
    pub samples: u64,
    /// Smoothed round trip.
    pub srtt_us: u64,
    /// Its mean deviation.
    pub rttvar_us: u64,
    /// The round trip's distribution.
    pub rtt: Percentiles,
    /// Between two probes of the other end, which come every [`PROBE_INTERVAL_US`].
    pub gaps: Percentiles,
    /// Probes sent and lost.
    pub probes_sent: u64,
    /// See `probes_sent`.
    pub probes_lost: u64,
    /// Since the newest sample, when the row was made.
    pub age_ms: u64,
}

/// How often members ask each other for a sign of life, whatever the heartbeat interval is.
pub const PROBE_INTERVAL_US: u64 = 25_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_all_members_and_take_as_long_as_where_most_are_asked_for() {
        let row = |id, per_second, p99_us, writes_seen| MemberRow {
            id,
            writes: Writes { p99_us, per_second },
            writes_seen,
            ..MemberRow::default()
        };
        let of = |rows: &[MemberRow]| Writes::of_members(rows);
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[MemberRow::default()]), None);
        assert_eq!(of(&[row(1, 20, 9_000, 999)]), None, "too few to tell");
        let rows = [row(1, 20, 90_000, 1_100), row(2, 500, 7_000, 20_000), row(3, 0, 0, 0)];
        assert_eq!(of(&rows), Some(Writes { p99_us: 7_000, per_second: 520 }));
    }
}
