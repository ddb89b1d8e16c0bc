//! What `/metrics` says of the links, read off them at each scrape: nothing is counted twice, and a
//! member that is gone takes its series along, so labels are bounded by the members there are.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use prometheus::HistogramVec;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::link::{Link, LinkState, lock};
use super::{Core, Peers};
use crate::metrics::catalogue;

type Count = fn(&Link) -> u64;

/// Counters of one peer each, and where they are read.
const COUNTERS: [(&str, Count); 11] = [
    ("etcd_network_snapshot_receive_success", |link| link.snapshots_received.load(Relaxed)),
    ("etcd_network_snapshot_receive_failures", |link| link.snapshots_refused.load(Relaxed)),
    ("etcd_network_peer_sent_bytes_total", |link| link.sent.bytes.load(Relaxed)),
    ("metastore_network_peer_sent_plain_bytes_total", |link| link.sent.plain_bytes.load(Relaxed)),
    ("etcd_network_peer_sent_failures_total", |link| link.dropped.load(Relaxed)),
    ("etcd_network_peer_received_bytes_total", |link| link.received.bytes.load(Relaxed)),
    ("metastore_network_peer_received_plain_bytes_total", |link| {
        link.received.plain_bytes.load(Relaxed)
    }),
    ("etcd_network_peer_received_failures_total", |link| link.streams_broken.load(Relaxed)),
    ("etcd_network_snapshot_send_success", |link| link.snapshots_sent.load(Relaxed)),
    ("etcd_network_snapshot_send_failures", |link| link.snapshots_failed.load(Relaxed)),
    ("metastore_peer_append_rejected_total", |link| link.appends_rejected.load(Relaxed)),
];

/// One peer at one moment.
struct Moment<'a> {
    link: &'a Link,
    now: Instant,
}

type Read = fn(&Moment<'_>) -> Option<f64>;

/// Gauges of one peer each, by label `To`. Where nothing is known there is no series.
const GAUGES: [(&str, Read); 7] = [
    ("etcd_network_snapshot_send_inflights_total", |at| Some(at.link.sending() as f64)),
    ("etcd_network_snapshot_receive_inflights_total", |at| Some(at.link.receiving() as f64)),
    ("metastore_peer_srtt_seconds", |at| Some(at.link.rtt()?.srtt_us() as f64 / 1e6)),
    ("metastore_peer_rttvar_seconds", |at| Some(at.link.rtt()?.rttvar_us() as f64 / 1e6)),
    ("metastore_peer_silent_seconds", |at| Some(at.link.silent_for(at.now).as_secs_f64())),
    ("metastore_peer_clock_offset_seconds", |at| {
        Some(at.link.clock_offset_us(at.now)? as f64 / 1e6)
    }),
    ("metastore_peer_loss_ratio", |at| at.link.loss_ratio(at.now)),
];

const QUANTILES: &str = "metastore_peer_rtt_quantile_seconds";
const LINK_UP: &str = "metastore_peer_link_up";
const COMPRESSION: &str = "metastore_peer_compression";

const ACTIVE: &str = "etcd_network_active_peers";
const DISCONNECTED: &str = "etcd_network_disconnected_peers_total";

/// Reads the links of one transport.
struct LinkCollector {
    core: Arc<Core>,
    descriptions: Vec<Desc>,
}

impl Peers {
    /// What a registry of metrics takes.
    pub fn collector(&self) -> Box<dyn Collector> {
        let counters = COUNTERS.map(|(name, _)| catalogue::counters(name));
        let mut descriptions: Vec<Desc> =
            counters.iter().flat_map(Collector::desc).cloned().collect();
        for durations in self.core.durations.all() {
            descriptions.extend(durations.desc().into_iter().cloned());
        }
        for (name, _) in GAUGES {
            descriptions.extend(catalogue::float_gauges(name).desc().into_iter().cloned());
        }
        descriptions.extend(catalogue::float_gauges(QUANTILES).desc().into_iter().cloned());
        descriptions.extend(catalogue::float_gauges(LINK_UP).desc().into_iter().cloned());
        descriptions.extend(catalogue::gauges(COMPRESSION).desc().into_iter().cloned());
        descriptions.extend(catalogue::gauges(ACTIVE).desc().into_iter().cloned());
        descriptions.extend(catalogue::counters(DISCONNECTED).desc().into_iter().cloned());
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
        for (name, count) in COUNTERS {
            let metric = catalogue::counters(name);
            for (id, link) in &named {
                metric.with_label_values(&[id]).inc_by(count(link));
            }
            families.extend(metric.collect());
        }
        let local = format!("{:x}", self.core.config.member_id);
        let now = Instant::now();
        let (active, disconnected) = (catalogue::gauges(ACTIVE), catalogue::counters(DISCONNECTED));
        for (id, link) in &named {
            let is_active = link.state(now, self.core.quiet_after(link)) == LinkState::Healthy;
            active.with_label_values(&[&local, id]).set(i64::from(is_active));
            disconnected.with_label_values(&[&local, id]).inc_by(link.losses());
        }
        for (name, read) in GAUGES {
            let metric = catalogue::float_gauges(name);
            for (id, link) in &named {
                if let Some(value) = read(&Moment { link, now }) {
                    metric.with_label_values(&[id]).set(value);
                }
            }
            families.extend(metric.collect());
        }
        let (quantiles, link_up) =
            (catalogue::float_gauges(QUANTILES), catalogue::float_gauges(LINK_UP));
        let compression = catalogue::gauges(COMPRESSION);
        for (id, link) in &named {
            let codec = lock(&link.packing).codec();
            compression.with_label_values(&[id, codec.as_str()]).set(1);
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
        families.extend(compression.collect());
        for durations in self.core.durations.all() {
            families.extend(durations.collect());
        }
        families.extend(active.collect());
        families.extend(disconnected.collect());
        families
    }
}

/// Round trips of probes and durations of snapshots: not read off a link but added to as they happen.
#[derive(Debug)]
pub(super) struct Durations {
    pub(super) round_trips: HistogramVec,
    pub(super) snapshots_sent: HistogramVec,
    pub(super) snapshots_received: HistogramVec,
}

impl Durations {
    pub(super) fn new() -> Self {
        Durations {
            round_trips: catalogue::histograms("etcd_network_peer_round_trip_time_seconds"),
            snapshots_sent: catalogue::histograms(
                "etcd_network_snapshot_send_total_duration_seconds",
            ),
            snapshots_received: catalogue::histograms(
                "etcd_network_snapshot_receive_total_duration_seconds",
            ),
        }
    }

    fn all(&self) -> [&HistogramVec; 3] {
        [&self.round_trips, &self.snapshots_sent, &self.snapshots_received]
    }

    /// The peer is gone.
    pub(super) fn forget(&self, id: u64) {
        for durations in self.all() {
            // Absent where nothing was ever noted.
            drop(durations.remove_label_values(&[&format!("{id:x}")]));
        }
    }
}
