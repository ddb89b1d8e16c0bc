//! A report as one page that needs nothing else: style and charts are in it, scripts are not.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::chart::{Axis, Line, chart, escape, nines};
use super::recorder::Second;
use super::report::{Kind, Latency, Report, mib};

/// Points of a line over time; longer loads show that many stretches.
const POINTS_MAX: usize = 300;

/// Latencies further apart than by this factor are shown in powers of ten.
const SPREAD_MAX: f64 = 30.0;
const MS: &str = " ms";

const STYLE: &str = "\
:root{color-scheme:light dark;--page:#fcfcfb;--ink:#1c1d1f;--soft:#63666b;--rule:#e3e3df;--card:#fff;\
--c0:#2463c4;--c1:#c2570c;--c2:#2c7d4f}\
@media(prefers-color-scheme:dark){:root{--page:#161719;--ink:#ececea;--soft:#a0a4aa;--rule:#34363a;\
--card:#1d1f22;--c0:#7aabff;--c1:#f5a055;--c2:#6cc995}}\
*{box-sizing:border-box}\
body{margin:0 auto;max-width:60rem;padding:2rem 1.25rem 3rem;background:var(--page);color:var(--ink);\
font:15px/1.5 system-ui,sans-serif}\
h1{font-size:1.5rem;margin:0 0 .25rem}h2{font-size:1.05rem;margin:2rem 0 .5rem}\
p{margin:.25rem 0;color:var(--soft)}.note{color:var(--c1)}\
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9rem,1fr));gap:.75rem;margin:1.25rem 0}\
.tiles div{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:.7rem .9rem}\
.tiles b{display:block;font-size:1.35rem;font-weight:600}.tiles span{color:var(--soft);font-size:.85rem}\
figure{margin:1rem 0;background:var(--card);border:1px solid var(--rule);border-radius:8px;\
padding:.8rem .9rem .5rem}\
figcaption{font-weight:600;margin-bottom:.4rem}.key{font-weight:400;color:var(--soft);margin-left:.8rem;\
white-space:nowrap}.key i{display:inline-block;width:.8em;height:.8em;border-radius:2px;\
margin-right:.35em;vertical-align:-.05em}\
svg{display:block;width:100%;height:auto}svg text{fill:var(--soft);font-size:11.5px}\
.grid{stroke:var(--rule);fill:none}.line{fill:none;stroke-width:2;stroke-linejoin:round}\
.spot{fill:transparent}.spot:hover{fill:var(--soft);fill-opacity:.45}\
.line-0{stroke:var(--c0)}.line-1{stroke:var(--c1)}.line-2{stroke:var(--c2)}\
.fill-0{background:var(--c0);fill:var(--c0)}.fill-1{background:var(--c1);fill:var(--c1)}\
.fill-2{background:var(--c2);fill:var(--c2)}\
.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}\
th,td{text-align:right;padding:.35rem .6rem;border-bottom:1px solid var(--rule);\
font-variant-numeric:tabular-nums;white-space:nowrap}\
th{font-weight:600;color:var(--soft)}th:first-child,td:first-child{text-align:left}";

/// Where a page is to go; known to be a place that files can be put in.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
}

impl Place {
    /// Looks whether a file can be written there, so that it does not turn out after a long load.
    pub(crate) fn check(path: &Path) -> Result<Self> {
        let place = Place { path: path.to_path_buf() };
        drop(place.file()?);
        Ok(place)
    }

    /// A file beside it, gone again if it is not kept.
    fn file(&self) -> Result<tempfile::NamedTempFile> {
        use std::os::unix::fs::PermissionsExt;
        let named = || format!("--html {}", self.path.display());
        if self.path.is_dir() {
            anyhow::bail!("{}: a directory", named());
        }
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        tempfile::Builder::new()
            .prefix(".metactl-bench-")
            .permissions(std::fs::Permissions::from_mode(0o644))
            .tempfile_in(parent.unwrap_or(Path::new(".")))
            .with_context(named)
    }

    /// Writes the page, in the place of an earlier one.
    pub(crate) fn write(&self, report: &Report) -> Result<()> {
        let mut file = self.file()?;
        let named = || format!("--html {}", self.path.display());
        file.write_all(page(report).as_bytes()).with_context(named)?;
        file.persist(&self.path).with_context(named)?;
        Ok(())
    }
}

fn page(report: &Report) -> String {
    let mut page = String::new();
    write_page(&mut page, report).expect("writing to a string does not fail");
    page
}

fn write_page(to: &mut String, report: &Report) -> std::fmt::Result {
    write!(
        to,
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>metactl bench</title>\n<style>{STYLE}</style></head><body>\n\
         <h1>metactl bench</h1>\n<p>{}</p>\n",
        escape(&report.load)
    )?;
    if report.interrupted {
        to.push_str("<p class=\"note\">Interrupted: results until then, without the requests under way.</p>\n");
    }
    if let Some(failed) = &report.failed {
        let failed = escape(failed);
        writeln!(to, "<p class=\"note\">Failed, results until then: {failed}</p>")?;
    }
    write_tiles(to, report)?;
    write_charts(to, report);
    write_latencies(to, report)?;
    write_servers(to, report)?;
    for (heading, reasons) in [("Refused", &report.refusals), ("Lost", &report.lost)] {
        if reasons.is_empty() {
            continue;
        }
        write!(
            to,
            "<h2>{heading}</h2>\n<div class=\"wide\"><table><tr><th>said</th><th>times</th></tr>"
        )?;
        for (said, count) in reasons {
            write!(to, "<tr><td>{}</td><td>{count}</td></tr>", escape(said))?;
        }
        to.push_str("</table></div>\n");
    }
    write!(to, "<p>metactl {}</p>\n</body></html>\n", env!("CARGO_PKG_VERSION"))
}

fn write_tiles(to: &mut String, report: &Report) -> std::fmt::Result {
    let mut tiles = vec![
        ("requests a second", grouped(report.ops_per_s)),
        ("p50", milliseconds(report.latency.p50_ms)),
        ("p99", milliseconds(report.latency.p99_ms)),
        ("requests", grouped(report.ops as f64)),
        ("seconds", format!("{:.1}", report.elapsed_s)),
    ];
    if let Some(keys_per_s) = report.keys_per_s {
        tiles.push(("keys read a second", grouped(keys_per_s)));
    }
    if let Some(delivery) = &report.delivery {
        tiles.push(("events delivered a second", grouped(delivery.events_per_s)));
        tiles.push(("p99 of delivery", milliseconds(delivery.latency.p99_ms)));
    }
    if !report.servers.is_empty() {
        let cpu = format!("{:.1} µs", report.server_cpu_us_per_op);
        tiles.push(("server CPU a request", cpu));
        let rss = report.servers.iter().map(|server| server.rss_anon_bytes + server.rss_file_bytes);
        tiles.push(("resident, all servers", format!("{:.0} MiB", mib(rss.sum()))));
    }
    to.push_str("<div class=\"tiles\">");
    for (name, figure) in tiles {
        write!(to, "<div><b>{figure}</b><span>{name}</span></div>")?;
    }
    to.push_str("</div>\n");
    Ok(())
}

/// A number with a space for every thousand.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

fn milliseconds(ms: f64) -> String {
    format!("{ms:.2} ms")
}

fn write_charts(to: &mut String, report: &Report) {
    let stretches: Vec<Stretch> = report
        .seconds
        .chunks(report.seconds.len().div_ceil(POINTS_MAX).max(1))
        .map(Stretch::of)
        .collect();
    if stretches.is_empty() {
        to.push_str("<p>Too short for charts over time.</p>\n");
    } else {
        write_over_time(to, &stretches);
    }
    let kinds: Vec<&Kind> = report.kinds.iter().filter(|kind| kind.ops > 0).collect();
    if kinds.is_empty() {
        return;
    }
    let x = Axis::nines(report.ops);
    let least = kinds.iter().flat_map(|kind| kind.curve.first()).map(|(_, ms)| *ms);
    let y = Axis::log(least.fold(f64::INFINITY, f64::min), report.latency.max_ms);
    let lines: Vec<Line<'_>> = kinds
        .iter()
        .map(|kind| Line {
            name: &kind.name,
            points: kind.curve.iter().map(|(part, ms)| (nines(*part), *ms)).collect(),
        })
        .collect();
    let words = |line: &Line<'_>, nines: f64, ms: f64| {
        let part = 100.0 * (1.0 - 10_f64.powf(-nines));
        format!("{}: {part:.4} % within {ms:.2} ms", line.name)
    };
    let heading = "Latency, ms, by the part of requests answered within it";
    to.push_str(&chart(heading, "part of the requests", (&x, &y), &lines, &words));
}

fn write_over_time(to: &mut String, stretches: &[Stretch]) {
    let x = Axis::linear(stretches.last().map_or(0.0, |last| last.at_s), false);
    let line = |name, figure: fn(&Stretch) -> Option<f64>| Line {
        name,
        points: stretches.iter().filter_map(|each| Some((each.at_s, figure(each)?))).collect(),
    };
    let charts = [
        ("Requests a second", "", vec![line("answered", |each| Some(each.ops_per_s))]),
        (
            "Latency, ms",
            MS,
            vec![
                // Where nothing was answered there is no latency.
                line("p50", |each| Some(each.p50_ms).filter(|ms| *ms > 0.0)),
                line("p99 of the second", |each| Some(each.p99_ms).filter(|ms| *ms > 0.0)),
            ],
        ),
        ("Server CPU, cores", " cores", vec![line("servers", |each| each.cores)]),
        ("Server memory resident, MiB", " MiB", vec![line("servers", |each| each.rss_mib)]),
    ];
    for (heading, unit, lines) in charts {
        if lines.iter().all(|line| line.points.is_empty()) {
            continue;
        }
        let most = positive(&lines).fold(0.0, f64::max);
        // A stall of a second would press everything else to the ground.
        let least = positive(&lines).fold(f64::INFINITY, f64::min);
        let y = if unit == MS && most > SPREAD_MAX * least {
            Axis::log(least, most)
        } else {
            Axis::linear(most, true)
        };
        let words = |line: &Line<'_>, at_s: f64, value: f64| {
            let value = if unit.is_empty() { grouped(value) } else { format!("{value:.2}") };
            format!("{}: {value}{unit} at {at_s:.0} s", line.name)
        };
        to.push_str(&chart(heading, "seconds", (&x, &y), &lines, &words));
    }
}

/// The values of lines that are above 0.
fn positive(lines: &[Line<'_>]) -> impl Iterator<Item = f64> {
    let values = lines.iter().flat_map(|line| &line.points).map(|(_, value)| *value);
    values.filter(|value| *value > 0.0)
}

/// Some seconds as one point: peaks stay peaks.
struct Stretch {
    at_s: f64,
    ops_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    cores: Option<f64>,
    rss_mib: Option<f64>,
}

impl Stretch {
    fn of(seconds: &[Second]) -> Self {
        let count = seconds.len() as f64;
        let mean = |figure: fn(&Second) -> f64| seconds.iter().map(figure).sum::<f64>() / count;
        let sum: Option<f64> = seconds.iter().map(|second| second.server_cpu_cores).sum();
        let rss = seconds.iter().filter_map(|second| second.server_rss_bytes).max();
        Stretch {
            at_s: seconds.last().map_or(0.0, |second| second.at_s),
            ops_per_s: mean(|second| second.ops_per_s),
            p50_ms: seconds.iter().map(|second| second.p50_ms * second.ops as f64).sum::<f64>()
                / seconds.iter().map(|second| second.ops).sum::<u64>().max(1) as f64,
            p99_ms: seconds.iter().map(|second| second.p99_ms).fold(0.0, f64::max),
            cores: sum.map(|sum| sum / count),
            rss_mib: rss.map(mib),
        }
    }
}

fn write_latencies(to: &mut String, report: &Report) -> std::fmt::Result {
    to.push_str(
        "<h2>Latency, ms</h2>\n<div class=\"wide\"><table><tr><th>requests</th><th>number</th>\
         <th>a second</th><th>mean</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th>\
         <th>max</th></tr>",
    );
    let mut row = |name: &str, ops: u64, per_s: f64, latency: &Latency| {
        write!(
            to,
            "<tr><td>{}</td><td>{}</td><td>{}</td>",
            escape(name),
            grouped(ops as f64),
            grouped(per_s)
        )?;
        for ms in [
            latency.mean_ms,
            latency.p50_ms,
            latency.p90_ms,
            latency.p99_ms,
            latency.p999_ms,
            latency.max_ms,
        ] {
            write!(to, "<td>{ms:.2}</td>")?;
        }
        to.push_str("</tr>");
        Ok(())
    };
    for kind in &report.kinds {
        row(&kind.name, kind.ops, kind.ops_per_s, &kind.latency)?;
    }
    if report.kinds.len() > 1 {
        row("all", report.ops, report.ops_per_s, &report.latency)?;
    }
    if let Some(delivery) = &report.delivery {
        row("events delivered", delivery.events, delivery.events_per_s, &delivery.latency)?;
    }
    to.push_str("</table></div>\n");
    Ok(())
}

fn write_servers(to: &mut String, report: &Report) -> std::fmt::Result {
    if !report.servers.is_empty() {
        to.push_str(
            "<h2>Servers</h2>\n<div class=\"wide\"><table><tr><th>process</th>\
             <th>CPU µs a request</th><th>anonymous MiB</th><th>of files MiB</th><th>peak MiB</th></tr>",
        );
        for server in &report.servers {
            write!(
                to,
                "<tr><td>{} {}</td><td>{:.1}</td><td>{:.0}</td><td>{:.0}</td><td>{:.0}</td></tr>",
                escape(&server.name),
                server.pid,
                server.cpu_us_per_op,
                mib(server.rss_anon_bytes),
                mib(server.rss_file_bytes),
                mib(server.rss_peak_bytes),
            )?;
        }
        to.push_str("</table></div>\n");
        if let Some(bytes) = report.disks_written_bytes {
            let per_op = grouped(report.per_op(bytes));
            writeln!(
                to,
                "<p>The disks of this machine took {per_op} bytes a request from all its programs.</p>"
            )?;
        }
        writeln!(
            to,
            "<p>The load generator itself used {:.1} µs of CPU a request.</p>",
            report.own_cpu_us_per_op
        )?;
    }
    if !report.log_syncs.is_empty() {
        to.push_str(
            "<h2>Log syncs</h2>\n<div class=\"wide\"><table><tr><th>endpoint</th><th>syncs</th>\
             <th>requests a sync</th><th>mean ms</th></tr>",
        );
        for syncs in &report.log_syncs {
            let figure =
                |figure: Option<f64>| figure.map_or("-".to_owned(), |it| format!("{it:.2}"));
            write!(
                to,
                "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
                escape(&syncs.endpoint),
                grouped(syncs.count as f64),
                figure(syncs.ops_per_sync),
                figure(syncs.mean_ms)
            )?;
        }
        to.push_str("</table></div>\n");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        let spaced = |value| grouped(value).replace('\u{202f}', " ");
        assert_eq!(
            (spaced(999.0), spaced(1000.0), spaced(1_234_567.8)),
            ("999".into(), "1 000".into(), "1 234 568".into())
        );
    }

    #[test]
    fn a_page_is_not_written_where_none_can_be() {
        let said = |path: &str| Place::check(Path::new(path)).unwrap_err().to_string();
        assert_eq!(said("/no/such/place/a.html"), "--html /no/such/place/a.html");
        assert_eq!(said("/tmp"), "--html /tmp: a directory");
    }
}
