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
const COUNTERS: [(&str, &str, &str, Count); 8] = [
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
];

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
        descriptions.extend(smoothed().desc().into_iter().cloned());
        descriptions.extend(deviation().desc().into_iter().cloned());
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
        let (smoothed, deviation) = (smoothed(), deviation());
        for (id, link) in &named {
            // Nothing is known of a peer that has never answered.
            if let Some(rtt) = link.rtt() {
                smoothed.with_label_values(&[id]).set(rtt.srtt_us() as f64 / 1e6);
                deviation.with_label_values(&[id]).set(rtt.rttvar_us() as f64 / 1e6);
            }
        }
        families.extend(smoothed.collect());
        families.extend(deviation.collect());
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

fn smoothed() -> GaugeVec {
    gauge("metastore_peer_srtt_seconds", "Round trips to peers, smoothed as in RFC 6298.")
}

fn deviation() -> GaugeVec {
    gauge("metastore_peer_rttvar_seconds", "Mean deviation of round trips, as in RFC 6298.")
}

fn gauge(name: &str, help: &str) -> GaugeVec {
    GaugeVec::new(Opts::new(name, help), &["To"]).unwrap_or_else(|why| panic!("{name}: {why}"))
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
