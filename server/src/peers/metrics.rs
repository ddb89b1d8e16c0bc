//! What `/metrics` says of the links, read off them at each scrape: nothing is counted twice, and a
//! member that is gone takes its series along, so labels are bounded by the members there are.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, exponential_buckets,
};

use super::link::{Link, LinkState};
use super::{Core, Peers};

type Count = fn(&Link) -> u64;

/// Counters of one peer each: name, help, label, and where they are read.
const COUNTERS: [(&str, &str, &str, Count); 9] = [
    ("etcd_network_peer_sent_bytes_total", "Bytes sent to peers, as on the wire.", "To", |link| {
        link.sent.bytes.load(Relaxed)
    }),
    (
        "metastore_network_peer_sent_plain_bytes_total",
        "Bytes sent to peers, before compression.",
        "To",
        |link| link.sent.plain_bytes.load(Relaxed),
    ),
    (
        "etcd_network_peer_sent_failures_total",
        "Messages to peers not sent, for want of a connection or of room.",
        "To",
        |link| link.dropped.load(Relaxed),
    ),
    (
        "etcd_network_peer_received_bytes_total",
        "Bytes received from peers, as on the wire.",
        "From",
        |link| link.received.bytes.load(Relaxed),
    ),
    (
        "metastore_network_peer_received_plain_bytes_total",
        "Bytes received from peers, after decompression.",
        "From",
        |link| link.received.plain_bytes.load(Relaxed),
    ),
    (
        "etcd_network_peer_received_failures_total",
        "Streams from peers that broke or were refused.",
        "From",
        |link| link.streams_broken.load(Relaxed),
    ),
    ("etcd_network_snapshot_send_success", "Snapshots sent to peers.", "To", |link| {
        link.snapshots_sent.load(Relaxed)
    }),
    (
        "etcd_network_snapshot_send_failures",
        "Snapshots that could not be sent to peers.",
        "To",
        |link| link.snapshots_failed.load(Relaxed),
    ),
    (
        "metastore_peer_append_rejected_total",
        "Appends which the peer refused, for its log was another or ended before.",
        "To",
        |link| link.appends_rejected.load(Relaxed),
    ),
];

/// One peer at one moment.
struct Moment<'a> {
    link: &'a Link,
    now: Instant,
}

type Read = fn(&Moment<'_>) -> Option<f64>;

/// Gauges of one peer each, by label `To`. Where nothing is known there is no series.
const GAUGES: [(&str, &str, Read); 5] = [
    ("metastore_peer_srtt_seconds", "Round trips to peers, smoothed as in RFC 6298.", |at| {
        Some(at.link.rtt()?.srtt_us() as f64 / 1e6)
    }),
    ("metastore_peer_rttvar_seconds", "Mean deviation of round trips, as in RFC 6298.", |at| {
        Some(at.link.rtt()?.rttvar_us() as f64 / 1e6)
    }),
    ("metastore_peer_silent_seconds", "Since anything was heard from the peer.", |at| {
        Some(at.link.silent_for(at.now).as_secs_f64())
    }),
    (
        "metastore_peer_clock_offset_seconds",
        "How far the peer's wall clock is ahead of this member's, by the probe of the least round trip \
         of the last seconds.",
        |at| Some(at.link.clock_offset_us(at.now)? as f64 / 1e6),
    ),
    (
        "metastore_peer_loss_ratio",
        "Share of the probes of the last minute that were never answered.",
        |at| at.link.loss_ratio(at.now),
    ),
];

const QUANTILES: &str = "metastore_peer_rtt_quantile_seconds";
const LINK_UP: &str = "metastore_peer_link_up";

const ENDS: [&str; 2] = ["Local", "Remote"];

/// Reads the links of one transport.
struct LinkCollector {
    core: Arc<Core>,
    descriptions: Vec<Desc>,
}

impl Peers {
    /// What a registry of metrics takes.
    pub fn collector(&self) -> Box<dyn Collector> {
        let counters = COUNTERS.map(|(name, help, label, _)| counter(name, help, &[label]));
        let mut descriptions: Vec<Desc> =
            counters.iter().flat_map(Collector::desc).cloned().collect();
        descriptions.extend(self.core.round_trips.desc().into_iter().cloned());
        for (name, help, _) in GAUGES {
            descriptions.extend(gauge(name, help, &["To"]).desc().into_iter().cloned());
        }
        descriptions.extend(quantiles().desc().into_iter().cloned());
        descriptions.extend(link_up().desc().into_iter().cloned());
        descriptions.extend(active().desc().into_iter().cloned());
        descriptions.extend(disconnected().desc().into_iter().cloned());
        Box::new(LinkCollector { core: Arc::clone(&self.core), descriptions })
    }
}

impl Collector for LinkCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let links = self.core.links();
        let named: Vec<(String, &Link)> =
            links.iter().map(|(id, link)| (format!("{id:x}"), &**link)).collect();
        let mut families = Vec::new();
        for (name, help, label, count) in COUNTERS {
            let metric = counter(name, help, &[label]);
            for (id, link) in &named {
                metric.with_label_values(&[id]).inc_by(count(link));
            }
            families.extend(metric.collect());
        }
        let local = format!("{:x}", self.core.config.member_id);
        let (now, quiet_after) = (Instant::now(), self.core.quiet_after());
        let (active, disconnected) = (active(), disconnected());
        for (id, link) in &named {
            let is_active = link.state(now, quiet_after) == LinkState::Healthy;
            active.with_label_values(&[&local, id]).set(i64::from(is_active));
            disconnected.with_label_values(&[&local, id]).inc_by(link.losses());
        }
        for (name, help, read) in GAUGES {
            let metric = gauge(name, help, &["To"]);
            for (id, link) in &named {
                if let Some(value) = read(&Moment { link, now }) {
                    metric.with_label_values(&[id]).set(value);
                }
            }
            families.extend(metric.collect());
        }
        let (quantiles, link_up) = (quantiles(), link_up());
        for (id, link) in &named {
            let seen = link.percentiles(now);
            for (quantile, us) in
                [("0.5", seen.p50_us), ("0.99", seen.p99_us), ("0.999", seen.p999_us)]
            {
                // Nothing is known of a peer that has not answered of late.
                if seen.samples > 0 {
                    quantiles.with_label_values(&[id, quantile]).set(us as f64 / 1e6);
                }
            }
            for (lane, is_up) in link.is_up() {
                link_up.with_label_values(&[id, lane.as_str()]).set(f64::from(u8::from(is_up)));
            }
        }
        families.extend(quantiles.collect());
        families.extend(link_up.collect());
        families.extend(self.core.round_trips.collect());
        families.extend(active.collect());
        families.extend(disconnected.collect());
        families
    }
}

/// Round trips of probes, the one thing that is not read off a link but added to as it happens.
pub(super) fn round_trips() -> HistogramVec {
    let name = "etcd_network_peer_round_trip_time_seconds";
    let made = exponential_buckets(0.0001, 2.0, 16).and_then(|buckets| {
        let options = HistogramOpts::new(name, "Round trips between peers.").buckets(buckets);
        HistogramVec::new(options, &["To"])
    });
    made.unwrap_or_else(|why| panic!("{name}: {why}"))
}

fn counter(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    IntCounterVec::new(Opts::new(name, help), labels).unwrap_or_else(|why| panic!("{name}: {why}"))
}

fn quantiles() -> GaugeVec {
    gauge(QUANTILES, "Round trips to peers of the last minutes, by quantile.", &["To", "quantile"])
}

fn link_up() -> GaugeVec {
    gauge(LINK_UP, "1 while a connection this member made to a peer stands.", &["To", "Link"])
}

fn gauge(name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    GaugeVec::new(Opts::new(name, help), labels).unwrap_or_else(|why| panic!("{name}: {why}"))
}

fn active() -> IntGaugeVec {
    let name = "etcd_network_active_peers";
    let made = IntGaugeVec::new(Opts::new(name, "Peers that are connected and heard from."), &ENDS);
    made.unwrap_or_else(|why| panic!("{name}: {why}"))
}

fn disconnected() -> IntCounterVec {
    let name = "etcd_network_disconnected_peers_total";
    counter(name, "Connections to peers that were lost.", &ENDS)
}
