//! What keeps this process from running, as its control group says: for how long its quota of processor
//! time was used up and, in version 2, for how long something in it waited for a processor.
//!
//! Where the kernel does not say it there is no series: zero would be a lie.

use std::path::PathBuf;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use super::catalogue;

const ROOT: &str = "/sys/fs/cgroup";
const THROTTLED: &str = "metastore_process_cpu_throttled_seconds_total";
const PRESSURE: &str = "metastore_process_cpu_pressure_seconds_total";

/// Reads the control group at each scrape.
pub(super) struct Cpu {
    group: Option<PathBuf>,
    /// Where version 1 may have the group: below its mount and, in a container, in its place.
    old_groups: Vec<PathBuf>,
    descriptions: Vec<Desc>,
}

impl Cpu {
    /// Of the group this process is in.
    pub(super) fn of_self() -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok();
        let descriptions = [THROTTLED, PRESSURE]
            .iter()
            .flat_map(|name| {
                catalogue::float_counter(name).desc().into_iter().cloned().collect::<Vec<_>>()
            })
            .collect();
        let own = own.unwrap_or_default();
        Cpu { group: group(&own), old_groups: old_groups(&own), descriptions }
    }
}

impl Collector for Cpu {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let text = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let read =
            |file: &str| self.group.as_ref().map_or_else(String::new, |at| text(at.join(file)));
        let old =
            || self.old_groups.iter().find_map(|at| old_throttled_us(&text(at.join("cpu.stat"))));
        let mut families = Vec::new();
        for (name, us) in [
            (THROTTLED, throttled_us(&read("cpu.stat")).or_else(old)),
            (PRESSURE, waited_us(&read("cpu.pressure"))),
        ] {
            if let Some(us) = us {
                let metric = catalogue::float_counter(name);
                metric.inc_by(us as f64 / 1e6);
                families.extend(metric.collect());
            }
        }
        families
    }
}

/// The directory of the group, from what `/proc/self/cgroup` says.
fn group(own: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(PathBuf::from(ROOT).join(path))
}

/// The same in version 1, where controllers are mounted one by one.
fn old_groups(own: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if controllers.split(',').any(|one| one == "cpu") {
            let mount = PathBuf::from(ROOT).join(controllers);
            found.extend([mount.join(path.trim_start_matches('/')), mount]);
        }
    }
    found
}

fn old_throttled_us(stat: &str) -> Option<u64> {
    let ns = stat.lines().find_map(|line| line.strip_prefix("throttled_time "))?;
    ns.trim().parse::<u64>().ok().map(|ns| ns / 1_000)
}

fn throttled_us(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("throttled_usec "))?.trim().parse().ok()
}

fn waited_us(pressure: &str) -> Option<u64> {
    let some = pressure.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|word| word.strip_prefix("total="))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let own = "12:cpu,cpuacct:/old\n0::/kubepods/pod1/abc\n";
        assert_eq!(group(own), Some(PathBuf::from("/sys/fs/cgroup/kubepods/pod1/abc")));
        assert_eq!(group("0::/\n"), Some(PathBuf::from("/sys/fs/cgroup/")));
        assert_eq!(group("12:cpu,cpuacct:/old\n"), None);
        let mount = PathBuf::from("/sys/fs/cgroup/cpu,cpuacct");
        assert_eq!(old_groups(own), [mount.join("old"), mount]);
        assert_eq!(old_groups("0::/a\n"), Vec::<PathBuf>::new());
        let stat = "nr_periods 10\nnr_throttled 2\nthrottled_time 73510000\n";
        assert_eq!(old_throttled_us(stat), Some(73_510));
        let stat = "usage_usec 5\nnr_periods 2\nnr_throttled 1\nthrottled_usec 73510\n";
        assert_eq!(throttled_us(stat), Some(73_510));
        assert_eq!(throttled_us("usage_usec 5\n"), None, "a group without a quota");
        let pressure =
            "some avg10=0.00 avg60=0.01 avg300=0.00 total=1234567\nfull avg10=0 total=0\n";
        assert_eq!(waited_us(pressure), Some(1_234_567));
        assert_eq!(waited_us(""), None);
    }
}
