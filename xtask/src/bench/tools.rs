//! The tools that load the servers, and what they say.

use std::fmt::Display;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::record::Record;

/// Figures every load has.
pub(super) const OPS_PER_S: &str = "requests/s";
pub(super) const MEAN_MS: &str = "mean ms";
pub(super) const P50_MS: &str = "p50 ms";
pub(super) const P99_MS: &str = "p99 ms";
pub(super) const CPU_US: &str = "server CPU µs per request";

/// What one load has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Load {
    pub(super) ops_per_s: f64,
    pub(super) mean_ms: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// All members together.
    pub(super) cpu_us_per_op: f64,
}

impl Load {
    pub(super) fn add_to(&self, record: &mut Record, case: &str, subject: &str) {
        for (figure, value) in [
            (OPS_PER_S, self.ops_per_s),
            (MEAN_MS, self.mean_ms),
            (P50_MS, self.p50_ms),
            (P99_MS, self.p99_ms),
            (CPU_US, self.cpu_us_per_op),
        ] {
            record.add(case, figure, subject, value);
        }
    }

    /// Out of etcd's load tool, which knows nothing of CPU. A run with refused requests is no
    /// measurement.
    pub(super) fn of_etcd_tool(text: &str) -> Result<Self> {
        let after = |label: &str| -> Result<f64> {
            let line = text
                .lines()
                .find(|line| line.trim_start().starts_with(label))
                .with_context(|| format!("etcd's load tool said no {label:?}"))?;
            let rest =
                line.trim_start().trim_start_matches(label).trim_start_matches([':', ' ', '\t']);
            let rest = rest.trim_start_matches("in ");
            let word = rest.split_ascii_whitespace().next().unwrap_or_default();
            word.parse().with_context(|| format!("{line:?}"))
        };
        if let Some((_, errors)) = text.split_once("Error distribution") {
            let first = errors.lines().nth(1).unwrap_or_default().trim();
            bail!("some requests failed: {first}");
        }
        Ok(Load {
            ops_per_s: after("Requests/sec")?,
            mean_ms: after("Average")? * 1e3,
            p50_ms: after("50%")? * 1e3,
            p99_ms: after("99%")? * 1e3,
            cpu_us_per_op: 0.0,
        })
    }
}

/// What a load tool said in JSON: `metactl bench --json`, or the echo's caller.
#[derive(Clone, Debug)]
pub(super) struct Report(serde_json::Value);

impl Report {
    /// A run with refused or lost requests is no measurement.
    pub(super) fn of(text: &str) -> Result<Self> {
        let value: serde_json::Value =
            serde_json::from_str(text.trim()).context("the load tool said no JSON")?;
        for (field, verb) in [("refusals", "refused"), ("lost", "lost")] {
            if let Some((said, count)) = value[field].as_object().and_then(|it| it.iter().next()) {
                bail!("{count} requests were {verb}: {said}");
            }
        }
        Ok(Report(value))
    }

    /// The number at a path such as `/latency/p99_ms`.
    pub(super) fn number(&self, path: &str) -> Result<f64> {
        let value = self.0.pointer(path).and_then(serde_json::Value::as_f64);
        value.with_context(|| format!("the load tool said no {path}"))
    }

    pub(super) fn load(&self) -> Result<Load> {
        self.load_at(self.number("/server_cpu_us_per_op")?)
    }

    /// Of a tool that knows nothing of the servers' CPU.
    pub(super) fn load_at(&self, cpu_us_per_op: f64) -> Result<Load> {
        Ok(Load {
            ops_per_s: self.number("/ops_per_s")?,
            mean_ms: self.number("/latency/mean_ms")?,
            p50_ms: self.number("/latency/p50_ms")?,
            p99_ms: self.number("/latency/p99_ms")?,
            cpu_us_per_op,
        })
    }

    /// Requests for each sync of the log that was synced least often under this load.
    pub(super) fn ops_per_sync(&self) -> Option<f64> {
        let syncs = self.0["log_syncs"].as_array()?;
        let each = syncs.iter().filter_map(|of| of["ops_per_sync"].as_f64());
        each.min_by(f64::total_cmp)
    }
}

/// `metactl bench` in the words of its flags.
pub(super) fn bench(metactl: &std::path::Path, endpoints: &dyn Display) -> Command {
    let mut command = super::stop::command(metactl);
    command.args(["--json", "--endpoints", &endpoints.to_string(), "bench"]);
    command
}

/// An ordinary client of the echo, with as much under way as the ceiling of gRPC was measured with.
pub(super) fn echo_call(echo: &std::path::Path, address: SocketAddr, seconds: u64) -> Command {
    let mut command = super::stop::command(echo);
    command.args(["call", &address.to_string(), "--connections", "64", "--calls", "1000"]);
    command.args(["--seconds", &seconds.to_string()]);
    command
}

/// How long a load of so many seconds may take, with what comes before and after it.
pub(super) fn limit(seconds: f64) -> Duration {
    const AROUND_S: f64 = 120.0;
    Duration::from_secs_f64(seconds * 3.0 + AROUND_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "
Summary:
  Total:\t9.5748 secs.
  Slowest:\t0.3701 secs.
  Fastest:\t0.0021 secs.
  Average:\t0.1180 secs.
  Stddev:\t0.0455 secs.
  Requests/sec:\t8355.4954

Latency distribution:
  10% in 0.0721 secs.
  50% in 0.1030 secs.
  99% in 0.2641 secs.
  99.9% in 0.3323 secs.
";

    #[test]
    fn the_load_tools_report_is_read() {
        let load = Load::of_etcd_tool(SAID).unwrap();
        assert_eq!((load.ops_per_s, load.mean_ms), (8355.4954, 118.0));
        assert_eq!((load.p50_ms, load.p99_ms), (103.0, 264.1));
        assert!(Load::of_etcd_tool("nothing of the kind").is_err());
    }

    #[test]
    fn a_run_with_refusals_is_no_measurement() {
        let said = format!("{SAID}\nError distribution:\n  [3]\trefused");
        let error = Load::of_etcd_tool(&said).unwrap_err().to_string();
        assert!(error.ends_with("refused"), "{error}");
        let error = Report::of(r#"{"refusals": {"too many requests": 4}}"#).unwrap_err();
        assert_eq!(error.to_string(), "4 requests were refused: too many requests");
        let error = Report::of(r#"{"refusals": {}, "lost": {"connection lost": 2}}"#).unwrap_err();
        assert_eq!(error.to_string(), "2 requests were lost: connection lost");
    }

    #[test]
    fn a_report_is_read_by_paths() {
        let report = Report::of(
            r#"{"ops_per_s": 5, "refusals": {}, "latency": {"p99_ms": 2.5},
                "log_syncs": [{"ops_per_sync": 40.5}, {"ops_per_sync": null}, {"ops_per_sync": 12}]}"#,
        )
        .unwrap();
        assert_eq!(report.number("/latency/p99_ms").unwrap(), 2.5);
        assert!(report.number("/latency/p50_ms").is_err());
        assert_eq!(report.ops_per_sync(), Some(12.0));
    }

    #[test]
    fn the_echos_caller_knows_nothing_of_the_servers_cpu() {
        let said = r#"{"ops_per_s": 4e4, "calls": 9,
            "latency": {"mean_ms": 25, "p50_ms": 24, "p99_ms": 40}}"#;
        let report = Report::of(said).unwrap();
        assert!(report.load().is_err());
        let load = report.load_at(17.5).unwrap();
        assert_eq!((load.ops_per_s, load.p99_ms, load.cpu_us_per_op), (4e4, 40.0, 17.5));
    }
}
