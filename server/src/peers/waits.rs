//! How long members wait for each other, and why it is enough.
//!
//! A limit that is shorter than the network takes makes it worse: what was given up begins again from
//! nothing, as far away as before. These hold for round trips of two seconds, R below, with one packet
//! lost on the way. A first SYN is sent again after 1 s, a second one 2 s later; of a connection that has
//! seen one round trip the retransmission timer is SRTT + 4 RTTVAR = 3 R (RFC 6298, 2.2), and R once it
//! has seen many. TLS is 1.3: one round trip.
//!
//! | wait for | takes | one packet lost | at 1.5 s | at 2 s | limit |
//! |---|---|---|---|---|---|
//! | TCP to connect | R | + 1 s, then + 2 s | 1.5 to 4.5 s | 2 to 5 s | 6 s |
//! | TCP, TLS and the answer to a greeting | 3 R | + 3 R | 4.5 to 9 s | 6 to 12 s | 15 s |
//! | the same to fetch a page | 3 R | + 3 R | 4.5 to 9 s | 6 to 12 s | 15 s |
//! | the first bytes of an accepted connection | 0 | + 3 R | 0 to 4.5 s | 0 to 6 s | 10 s |
//! | the greeting on it, or on an open stream | 0 | + 3 R | 0 to 4.5 s | 0 to 6 s | 10 s |
//! | an answer to a keepalive | R | + R, then + 2 R | 1.5 to 6 s | 2 to 8 s | 10 s |
//!
//! How long a connection may be silent goes by what is measured of it. Frames come every 25 ms, in
//! order: one segment lost holds all that follow it back for R until it is sent again, lost again for
//! another 2 R; and where fewer segments may be on the way than R / 25 ms they come once in R.
//! [`SILENCE_ROUND_TRIPS`] covers both. When the network becomes slow at once nothing is measured yet:
//! nothing comes for R / 2; then, for TCP retransmits after its old timer and then waits, what was sent
//! in the first 200 ms; and after R / 2 + R what has gathered. The longest of these is R - 200 ms, which
//! [`SILENCE_MIN`] covers.
//!
//! Whether a peer is gone ([`super::gone`]) is asked in less than such a round trip, and not found out:
//! the hint saves waiting where elections are quick, and is worth nothing elsewhere.

use std::time::Duration;

/// For a TCP connection to be made.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(6);
/// For a connection of any kind and the answer to the greeting on it.
pub(super) const GREETING_TIMEOUT: Duration = Duration::from_secs(15);
/// For a peer to answer a page.
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(15);
/// For an accepted connection to say what it is for, and then for a member to greet on it.
pub(super) const CALLER_TIMEOUT: Duration = Duration::from_secs(10);
/// For the greeting, once a stream is open.
pub(super) const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// An idle connection is asked for a sign of life this often,
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// and given up when none came for this long. TCP gives up unacknowledged data after the same time.
pub(super) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A peer silent for this long is given a new connection, however short the election timeout,
const SILENCE_MIN: Duration = Duration::from_secs(2);
/// however few probes came,
const SILENCE_PROBES: u32 = 3;
/// however few election timeouts it is,
const SILENCE_ELECTIONS: u32 = 2;
/// and however few round trips.
const SILENCE_ROUND_TRIPS: u32 = 4;

/// A connection silent for longer is made anew. The round trip is the smoothed one; zero: not known.
pub(super) fn silence_max(
    election_timeout: Duration,
    probe_interval: Duration,
    round_trip: Duration,
) -> Duration {
    let elections = SILENCE_ELECTIONS * election_timeout;
    elections.max(SILENCE_PROBES * probe_interval).max(quiet_after(probe_interval, round_trip))
}

/// A link that has not been heard for longer is not called healthy.
pub(super) fn quiet_after(probe_interval: Duration, round_trip: Duration) -> Duration {
    probe_interval + SILENCE_MIN.max(SILENCE_ROUND_TRIPS * round_trip)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBES: Duration = Duration::from_millis(25);

    /// What the table says, for any round trip: without loss, and with one packet lost.
    fn takes(r: Duration) -> [(Duration, Duration, Duration); 6] {
        let (none, second) = (Duration::ZERO, Duration::from_secs(1));
        [
            (CONNECT_TIMEOUT, r, 3 * second),
            (GREETING_TIMEOUT, 3 * r, 3 * r),
            (FETCH_TIMEOUT, 3 * r, 3 * r),
            (CALLER_TIMEOUT, none, 3 * r),
            (HELLO_TIMEOUT, none, 3 * r),
            (KEEPALIVE_TIMEOUT, r, 3 * r),
        ]
    }

    #[test]
    fn whatever_is_waited_for_is_there_in_time_two_seconds_away_and_with_a_packet_lost() {
        for r in [1_500, 2_000].map(Duration::from_millis) {
            for (number, (limit, usual, lost)) in takes(r).into_iter().enumerate() {
                assert!(limit > usual + lost, "{number}: {limit:?} for {r:?}");
            }
        }
    }

    #[test]
    fn a_far_peer_may_be_silent_for_as_long_as_a_segment_takes_that_is_lost_twice() {
        let short = Duration::from_millis(315);
        let silence = |r| silence_max(short, PROBES, r);
        assert_eq!(silence(Duration::ZERO), SILENCE_MIN + PROBES);
        assert_eq!(silence(Duration::from_millis(2)), SILENCE_MIN + PROBES);
        for r in [1_500, 2_000].map(Duration::from_millis) {
            assert!(silence(r) > 3 * r, "{r:?}");
            assert!(SILENCE_MIN > r.saturating_sub(Duration::from_millis(200)), "{r:?}: a step");
        }
        let long = Duration::from_secs(10);
        assert_eq!(silence_max(long, PROBES, Duration::ZERO), 2 * long);
        let seldom = Duration::from_secs(9);
        assert_eq!(silence_max(short, seldom, Duration::ZERO), 3 * seldom);
    }
}
