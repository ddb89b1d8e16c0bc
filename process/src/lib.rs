//! What Prometheus is told of a process itself: `process_cpu_seconds_total`, resident memory, open
//! files, when it began.
//!
//! The library has a collector for these that counts processor time in whole seconds. That is more
//! than an operator at rest takes in minutes, and a rate over a member's is a staircase. Processor time
//! is therefore asked of the system's own clock for it, in nanoseconds; the rest is the library's.
#![cfg(target_os = "linux")]

use prometheus::Counter;
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use rustix::time::{ClockId, clock_gettime};

const CPU: &str = "process_cpu_seconds_total";

/// A collector of this process's figures.
pub struct Process {
    library: ProcessCollector,
    cpu: Counter,
}

impl Process {
    /// Of the process this is called in.
    pub fn of_self() -> Self {
        let cpu = Counter::new(CPU, "Total user and system CPU time spent in seconds.");
        Process { library: ProcessCollector::for_self(), cpu: cpu.expect("a valid name") }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.library.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let used_s = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
        self.cpu.inc_by((used_s - self.cpu.get()).max(0.0));
        let mut families = self.library.collect();
        families.retain(|family| family.name() != CPU);
        families.extend(self.cpu.collect());
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_counted_below_the_second_and_once() {
        let process = Process::of_self();
        let cpu = || {
            let families = process.collect();
            let mut found = families.iter().filter(|family| family.name() == CPU);
            let value =
                found.next().expect("it is there").get_metric()[0].get_counter().get_value();
            assert!(found.next().is_none(), "once");
            value
        };
        let first = cpu();
        assert!(first > 0.0, "a process that runs has taken some");
        let mut later = cpu();
        for _ in 0..1_000_000 {
            if later > first {
                break;
            }
            later = cpu();
        }
        assert!(later > first && later - first < 1.0, "{first} and then {later}");
    }

    #[test]
    fn the_librarys_other_figures_are_kept() {
        let families = Process::of_self().collect();
        let names: Vec<&str> = families.iter().map(MetricFamily::name).collect();
        for name in ["process_resident_memory_bytes", "process_open_fds"] {
            assert!(names.contains(&name), "{name} in {names:?}");
        }
    }
}
