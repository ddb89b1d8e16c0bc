//! A real Prometheus on the node: scraping what monitors name, holding rules against it, asked over HTTP.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::places::{NODE_DIR, Places};
use crate::wait::{Seen, until};

/// Where it listens, on the node alone.
const ADDRESS: &str = "127.0.0.1:9090";
/// Between two scrapes, and between two evaluations of a rule.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// For one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// For its start.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Bytes of an answer that an error quotes.
const QUOTE_BYTES_MAX: usize = 400;

/// One series of an answer, at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: Value,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// A label's value; empty if it has none of this name.
    pub fn label(&self, name: &str) -> &str {
        self.labels[name].as_str().unwrap_or_default()
    }
}

/// An alert that is firing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alert {
    /// Its name.
    pub name: String,
    /// The MetaStore that it speaks of; empty if none.
    pub cluster: String,
    /// The member that it speaks of; empty if none.
    pub pod: String,
    /// page, ticket and the like.
    pub severity: String,
    /// Where to read what to do.
    pub runbook_url: String,
}

/// A running server; it ends when dropped.
#[derive(Debug)]
pub struct Prometheus {
    child: Child,
}

impl Prometheus {
    /// Starts it with these entries of `scrape_configs` and these groups of rules.
    pub fn start(places: &Places, scrapes: &[Value], groups: &[Value]) -> Result<Prometheus> {
        let dir = Path::new(NODE_DIR).join("work/prometheus");
        if dir.exists() {
            fs::remove_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let seconds = format!("{}s", INTERVAL.as_secs());
        // JSON is YAML.
        let rules = dir.join("rules.yaml");
        fs::write(&rules, json!({ "groups": groups }).to_string())?;
        let config = dir.join("prometheus.yaml");
        let settings = json!({
            "global": {
                "scrape_interval": seconds, "scrape_timeout": seconds, "evaluation_interval": seconds,
            },
            "rule_files": [rules],
            "scrape_configs": scrapes,
        });
        fs::write(&config, settings.to_string())?;
        let log = format!("{NODE_DIR}/log/prometheus.log");
        let said = File::create(&log).context(log)?;
        let program = places.program("prometheus");
        let child = Command::new(&program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={ADDRESS}"))
            // An answer reaches so far back; what has vanished is to be seen as vanished.
            .arg("--query.lookback-delta=10s")
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()
            .with_context(|| program.display().to_string())?;
        let mut prometheus = Prometheus { child };
        until("Prometheus", START_LIMIT, || {
            if let Some(status) = prometheus.child.try_wait()? {
                return Ok(Seen::NotYet(format!("it ended, {status}: log/prometheus.log")));
            }
            ask("GET", "/-/ready", "").map(|_| Seen::Done(()))
        })?;
        Ok(prometheus)
    }

    /// What an expression is now.
    pub fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let body = format!("query={}", encoded(expression));
        let answer = api("POST", "/api/v1/query", &body).with_context(|| expression.to_owned())?;
        match answer["resultType"].as_str() {
            Some("vector") => {
                let series = answer["result"].as_array().context("a vector")?;
                series.iter().map(|one| sample(&one["metric"], &one["value"])).collect()
            }
            Some("scalar") => Ok(vec![sample(&Value::Null, &answer["result"])?]),
            other => bail!("{expression}: an answer of type {other:?}"),
        }
    }

    /// Rules that are not well, each with what ails it; and how many there are.
    pub fn rules(&self) -> Result<(usize, Vec<String>)> {
        let answer = api("GET", "/api/v1/rules", "")?;
        let groups = answer["groups"].as_array().context("groups")?;
        let rules: Vec<_> =
            groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
        let ailing = rules
            .iter()
            .filter(|rule| rule["health"] != "ok")
            .map(|rule| format!("{} {} {}", rule["name"], rule["health"], rule["lastError"]));
        Ok((rules.len(), ailing.collect()))
    }

    /// Alerts that fire.
    pub fn firing(&self) -> Result<Vec<Alert>> {
        let answer = api("GET", "/api/v1/alerts", "")?;
        let alerts = answer["alerts"].as_array().context("alerts")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let mut all: Vec<_> = firing
            .map(|alert| Alert {
                name: text(&alert["labels"]["alertname"]),
                cluster: text(&alert["labels"]["cluster"]),
                pod: text(&alert["labels"]["pod"]),
                severity: text(&alert["labels"]["severity"]),
                runbook_url: text(&alert["annotations"]["runbook_url"]),
            })
            .collect();
        all.sort();
        Ok(all)
    }

    /// Targets that are scraped, and those of them that answer.
    pub fn targets(&self) -> Result<(usize, usize)> {
        let answer = api("GET", "/api/v1/targets?state=active", "")?;
        let targets = answer["activeTargets"].as_array().context("targets")?;
        let up = targets.iter().filter(|target| target["health"] == "up").count();
        Ok((targets.len(), up))
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sample(labels: &Value, value: &Value) -> Result<Sample> {
    // A moment and a number as text.
    let text = value[1].as_str().context("a value")?;
    let value = match text {
        "NaN" => f64::NAN,
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        number => number.parse().with_context(|| number.to_owned())?,
    };
    Ok(Sample { labels: labels.clone(), value })
}

/// An answer of the API, without its wrapping.
fn api(method: &str, path: &str, body: &str) -> Result<Value> {
    let said = ask(method, path, body)?;
    let mut answer: Value = serde_json::from_str(&said).with_context(|| {
        format!("{path}: {}", said.chars().take(QUOTE_BYTES_MAX).collect::<String>())
    })?;
    ensure!(answer["status"] == "success", "{path}: {}", answer["error"]);
    Ok(answer["data"].take())
}

/// One request of the oldest kind, whose answer ends with the connection.
fn ask(method: &str, path: &str, body: &str) -> Result<String> {
    let address = ADDRESS.parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_LIMIT)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let kind = "application/x-www-form-urlencoded";
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {ADDRESS}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, said) = text.split_once("\r\n\r\n").context("no answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    // A refused query says why in its body.
    ensure!(status == "200" || said.starts_with('{'), "{path}: status {status}: {said}");
    Ok(said.to_owned())
}

fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_encoded_byte_by_byte() {
        assert_eq!(encoded("up{a=~\"ü\"} + 1"), "up%7Ba%3D~%22%C3%BC%22%7D%20%2B%201");
    }

    #[test]
    fn values_that_are_no_numbers_have_names() {
        let value = |text: &str| sample(&json!({ "a": "b" }), &json!([1.5, text])).unwrap();
        assert_eq!(value("0.25").value, 0.25);
        assert_eq!(value("0.25").label("a"), "b");
        assert!(value("NaN").value.is_nan());
        assert_eq!(value("+Inf").value, f64::INFINITY);
    }
}
