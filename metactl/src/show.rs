//! `status`, `members`, `rtt` and `log-level`: the cluster as a table.
//!
//! Every endpoint is asked by itself, and one that fails does not hide the others: it gets a row
//! that says why, and the command fails at its end.

use std::io::Write;

use anyhow::{Result, bail};
use client::proto::admin::Distribution;
use client::{Client, Code, Config};
use serde::Serialize;

#[derive(Debug, Serialize)]
struct StatusRow {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    status: Option<Status>,
}

#[derive(Debug, Serialize)]
struct Status {
    member: String,
    version: String,
    role: &'static str,
    term: u64,
    index: u64,
    applied: u64,
    revision: i64,
    db_bytes: i64,
    db_in_use_bytes: i64,
    alarms: Vec<String>,
}

/// Member ids are written in hexadecimal everywhere, as etcd does.
pub(crate) fn hex(id: u64) -> String {
    format!("{id:x}")
}

/// How each endpoint is.
pub(crate) async fn status(client: &Client, json: bool, out: &mut dyn Write) -> Result<()> {
    let mut rows = Vec::new();
    for member in client.each() {
        let endpoint = member.endpoint();
        rows.push(match member.status().await {
            Err(error) => StatusRow { endpoint, error: Some(error.to_string()), status: None },
            Ok(status) => {
                let header = status.header.unwrap_or_default();
                let role = if status.is_learner {
                    "learner"
                } else if status.leader == 0 {
                    "leaderless"
                } else if status.leader == header.member_id {
                    "leader"
                } else {
                    "follower"
                };
                let status = Status {
                    member: hex(header.member_id),
                    version: status.version,
                    role,
                    term: status.raft_term,
                    index: status.raft_index,
                    applied: status.raft_applied_index,
                    revision: header.revision,
                    db_bytes: status.db_size,
                    db_in_use_bytes: status.db_size_in_use,
                    alarms: status.errors,
                };
                StatusRow { endpoint, error: None, status: Some(status) }
            }
        });
    }
    if json {
        serde_json::to_writer(&mut *out, &rows)?;
        writeln!(out)?;
    } else {
        let mut table = Table::new(&[
            "ENDPOINT", "MEMBER", "ROLE", "VERSION", "TERM", "INDEX", "APPLIED", "REVISION",
            "DB BYTES", "IN USE", "ALARMS",
        ]);
        for row in &rows {
            match (&row.status, &row.error) {
                (Some(status), _) => table.row(vec![
                    row.endpoint.clone(),
                    status.member.clone(),
                    status.role.into(),
                    status.version.clone(),
                    status.term.to_string(),
                    status.index.to_string(),
                    status.applied.to_string(),
                    status.revision.to_string(),
                    status.db_bytes.to_string(),
                    status.db_in_use_bytes.to_string(),
                    status.alarms.join(", "),
                ]),
                (None, error) => table.row(vec![
                    row.endpoint.clone(),
                    format!("failed: {}", error.as_deref().unwrap_or("no answer")),
                ]),
            }
        }
        table.write(out)?;
    }
    match rows.iter().filter(|row| row.error.is_some()).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} endpoints failed", rows.len()),
    }
}

#[derive(Debug, Serialize)]
struct LogLevelRow {
    endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<String>,
}

/// How much each endpoint logs, from now on perhaps something else.
pub(crate) async fn log_level(
    client: &Client,
    level: Option<&str>,
    json: bool,
    out: &mut dyn Write,
) -> Result<()> {
    // To members, it is the question how much they log.
    if level == Some("") {
        bail!(
            "log-level: LEVEL is empty: debug, info, warn or error, or nothing at all to be told"
        );
    }
    let mut rows = Vec::new();
    for member in client.each() {
        let endpoint = member.endpoint();
        rows.push(match member.log_level(level).await {
            Err(error) => {
                let error = Some(error.to_string());
                LogLevelRow { endpoint, error, member: None, level: None }
            }
            Ok(said) => LogLevelRow {
                endpoint,
                error: None,
                member: Some(hex(said.member_id)),
                level: Some(said.level),
            },
        });
    }
    if json {
        serde_json::to_writer(&mut *out, &rows)?;
        writeln!(out)?;
    } else {
        let mut table = Table::new(&["ENDPOINT", "MEMBER", "LEVEL"]);
        for row in &rows {
            table.row(match (&row.level, &row.error) {
                (Some(level), _) => {
                    let member = row.member.clone().unwrap_or_default();
                    vec![row.endpoint.clone(), member, level.clone()]
                }
                (None, error) => vec![
                    row.endpoint.clone(),
                    format!("failed: {}", error.as_deref().unwrap_or("no answer")),
                ],
            });
        }
        table.write(out)?;
    }
    match rows.iter().filter(|row| row.error.is_some()).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} endpoints failed", rows.len()),
    }
}

#[derive(Debug, Serialize)]
struct MemberRow {
    member: String,
    name: String,
    /// `voter`, `learner`, or `unstarted` for one that was added and has not shown up yet.
    state: &'static str,
    peer_urls: Vec<String>,
    client_urls: Vec<String>,
}

/// Who is a member.
pub(crate) async fn members(client: &Client, json: bool, out: &mut dyn Write) -> Result<()> {
    let members = client.members().await?.members;
    let rows: Vec<MemberRow> = members
        .into_iter()
        .map(|member| MemberRow {
            member: hex(member.id),
            state: match (member.name.is_empty(), member.is_learner) {
                (true, _) => "unstarted",
                (false, true) => "learner",
                (false, false) => "voter",
            },
            name: member.name,
            peer_urls: member.peer_ur_ls,
            client_urls: member.client_ur_ls,
        })
        .collect();
    if json {
        serde_json::to_writer(&mut *out, &rows)?;
        writeln!(out)?;
    } else {
        let mut table = Table::new(&["MEMBER", "NAME", "STATE", "PEER URLS", "CLIENT URLS"]);
        for row in rows {
            let state = row.state.to_owned();
            let urls = [row.peer_urls.join(","), row.client_urls.join(",")];
            let [peers, clients] = urls;
            table.row(vec![row.member, row.name, state, peers, clients]);
        }
        table.write(out)?;
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct RttRow {
    member: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    to: Vec<Rtt>,
}

#[derive(Debug, Serialize)]
struct Rtt {
    member: String,
    reachable: bool,
    link: String,
    samples: u64,
    smoothed_us: u64,
    deviation_us: u64,
    min_us: u64,
    /// Since the newest sample; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_us: Option<u64>,
    /// Of the last minutes, without what was marked.
    recent: Spread,
    /// Samples left out.
    marked: u64,
    /// Between two answers.
    gaps: Spread,
    probes_sent: u64,
    probes_lost: u64,
    boot_id: String,
}

#[derive(Debug, Serialize)]
struct Spread {
    samples: u64,
    p50_us: u64,
    p99_us: u64,
    p999_us: u64,
    p9999_us: u64,
    max_us: u64,
}

impl From<Option<Distribution>> for Spread {
    fn from(of: Option<Distribution>) -> Self {
        let Distribution { samples, p50_us, p99_us, p999_us, p9999_us, max_us } =
            of.unwrap_or_default();
        Spread { samples, p50_us, p99_us, p999_us, p9999_us, max_us }
    }
}

/// The matrix of round-trip times, each row as one member measures it, asked at the client URLs they
/// advertise. It needs no leader, whose absence may be why it is asked for.
pub(crate) async fn rtt(
    client: &Client,
    config: &Config,
    json: bool,
    out: &mut dyn Write,
) -> Result<()> {
    let mut members = client.members_known().await?.members;
    members.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    let mut rows = Vec::new();
    for asked in &members {
        let (error, to) = match observe(config, &asked.client_ur_ls).await {
            Err(error) => (Some(error), Vec::new()),
            Ok(observed) => {
                let to = observed.peers.into_iter().map(|peer| Rtt {
                    member: hex(peer.member_id),
                    reachable: peer.reachable,
                    link: peer.link,
                    samples: peer.rtt_samples,
                    smoothed_us: peer.rtt_srtt_us,
                    deviation_us: peer.rtt_var_us,
                    min_us: peer.rtt_min_us,
                    age_us: (peer.rtt_samples > 0).then_some(peer.rtt_age_us),
                    recent: peer.rtt.into(),
                    marked: peer.rtt_marked,
                    gaps: peer.gaps.into(),
                    probes_sent: peer.probes_sent,
                    probes_lost: peer.probes_lost,
                    boot_id: hex(peer.boot_id),
                });
                (None, to.collect())
            }
        };
        let member = hex(asked.id);
        // One that was added and has not started has no name yet.
        let name = if asked.name.is_empty() { member.clone() } else { asked.name.clone() };
        rows.push(RttRow { member, name, error, to });
    }
    if json {
        serde_json::to_writer(&mut *out, &rows)?;
        writeln!(out)?;
    } else {
        let mut head = vec!["FROM \\ TO"];
        head.extend(rows.iter().map(|row| row.name.as_str()));
        let mut table = Table::new(&head);
        for from in &rows {
            let mut cells = vec![from.name.clone()];
            match &from.error {
                Some(error) => cells.push(format!("failed: {error}")),
                None => cells.extend(rows.iter().map(|to| cell(from, to))),
            }
            table.row(cells);
        }
        table.write(out)?;
        writeln!(out, "milliseconds: smoothed, +- mean deviation, p99 of the last minutes")?;
    }
    match rows.iter().filter(|row| row.error.is_some()).count() {
        0 => Ok(()),
        failed => bail!("{failed} of {} members could not be asked", rows.len()),
    }
}

fn cell(from: &RttRow, to: &RttRow) -> String {
    match from.to.iter().find(|rtt| rtt.member == to.member) {
        None => "-".into(),
        Some(rtt) if !rtt.reachable => "unreachable".into(),
        Some(rtt) if rtt.samples == 0 => "unknown".into(),
        Some(rtt) => {
            let ms = |us: u64| us as f64 / 1e3;
            // A member of an earlier version tells no percentiles.
            let p99 = if rtt.recent.samples > 0 {
                format!("{:.2}", ms(rtt.recent.p99_us))
            } else {
                "?".into()
            };
            format!("{:.2} +- {:.2} p99 {p99}", ms(rtt.smoothed_us), ms(rtt.deviation_us))
        }
    }
}

async fn observe(
    config: &Config,
    client_urls: &[String],
) -> std::result::Result<client::proto::admin::ObserveResponse, String> {
    if client_urls.is_empty() {
        return Err("it has not started yet".into());
    }
    let client = Client::new(config.clone().endpoints(client_urls.iter().cloned()));
    let observed = match client {
        Ok(client) => client.observe().await,
        Err(error) => Err(error),
    };
    observed.map_err(|error| match error.code() {
        Code::Unimplemented => "this server does not measure round-trip times".into(),
        _ => error.to_string(),
    })
}

/// Columns as wide as their widest cell. A row may be shorter than the head; its last cell then may
/// be as long as it likes.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &[&str]) -> Self {
        Table { rows: vec![head.iter().map(|&cell| cell.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        assert!(cells.len() <= self.rows[0].len(), "more cells than columns");
        self.rows.push(cells);
    }

    pub(crate) fn write(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let columns = self.rows[0].len();
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let full = self.rows.iter().filter(|row| row.len() == columns);
                full.map(|row| row[column].chars().count()).max().unwrap_or(0)
            })
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}  "));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_row_does_not_widen_the_columns() {
        let mut table = Table::new(&["A", "B"]);
        table.row(vec!["one".into(), "2".into()]);
        table.row(vec!["failed: a long story".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "A    B\none  2\nfailed: a long story\n");
    }
}
