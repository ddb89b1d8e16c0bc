//! Log lines, in the shape etcd's have: one JSON object a line with `level`, `ts`, `caller` and `msg`
//! first and the fields after, so that what collects etcd's logs collects these. Lines about a call that
//! is traced name its trace and span.
//!
//! Lines are written whole, under one lock, to every output. A line that cannot be written is lost:
//! a full disk under the log file must not stop the member.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::call;
use crate::config::{LogFormat, LogOutput};

/// A log file that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("--log-outputs {path}: {source}")]
pub struct TelemetryError {
    path: String,
    source: io::Error,
}

enum Sink {
    Stderr,
    Stdout,
    File(File),
}

impl Sink {
    fn write(&mut self, line: &str) {
        // Nobody is left to tell when the log itself fails.
        let _ = match self {
            Self::Stderr => io::stderr().lock().write_all(line.as_bytes()),
            Self::Stdout => io::stdout().lock().write_all(line.as_bytes()),
            Self::File(file) => file.write_all(line.as_bytes()),
        };
    }
}

/// Writes lines.
pub(super) struct Lines {
    format: LogFormat,
    sinks: Mutex<Vec<Sink>>,
}

impl Lines {
    /// Fails when an output cannot be opened.
    pub(super) fn open(outputs: &[LogOutput], format: LogFormat) -> Result<Self, TelemetryError> {
        let mut sinks = Vec::new();
        for output in outputs {
            sinks.push(match output {
                LogOutput::Stderr => Sink::Stderr,
                LogOutput::Stdout => Sink::Stdout,
                LogOutput::File(path) => {
                    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path);
                    Sink::File(file.map_err(|source| TelemetryError {
                        path: path.display().to_string(),
                        source,
                    })?)
                }
            });
        }
        Ok(Lines { format, sinks: Mutex::new(sinks) })
    }
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        if let Some(call) = call::current() {
            fields.values.insert(String::from("trace-id"), call.trace_id.to_string().into());
            fields.values.insert(String::from("span-id"), call.span_id.to_string().into());
        }
        let metadata = event.metadata();
        let line = Line {
            level: match *metadata.level() {
                Level::ERROR => "error",
                Level::WARN => "warn",
                Level::INFO => "info",
                _ => "debug",
            },
            ts: timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            caller: caller(metadata),
            fields,
        };
        let text = match self.format {
            LogFormat::Json => line.json(),
            LogFormat::Console => line.console(),
        };
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        for sink in sinks.iter_mut() {
            sink.write(&text);
        }
    }
}

/// `api/kv.rs:17`, as etcd names the place: file and one folder.
fn caller(metadata: &Metadata<'_>) -> String {
    let file = metadata.file().unwrap_or("?");
    let start = file.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{}", &file[start..], metadata.line().unwrap_or(0))
}

struct Line {
    level: &'static str,
    ts: String,
    caller: String,
    fields: Fields,
}

impl Line {
    fn json(&self) -> String {
        let mut text = String::with_capacity(160);
        text.push('{');
        for (key, value) in [
            ("level", self.level),
            ("ts", &self.ts),
            ("caller", &self.caller),
            ("msg", &self.fields.message),
        ] {
            let _ = write!(text, "\"{key}\":{},", Value::from(value));
        }
        text.pop();
        for (key, value) in &self.fields.values {
            let _ = write!(text, ",{}:{value}", Value::from(key.as_str()));
        }
        text.push_str("}\n");
        text
    }

    fn console(&self) -> String {
        let mut text = format!(
            "{}\t{}\t{}\t{}",
            self.ts,
            self.level.to_uppercase(),
            self.caller,
            self.fields.message.replace('\n', "\\n")
        );
        if !self.fields.values.is_empty() {
            let _ = write!(text, "\t{}", Value::Object(self.fields.values.clone()));
        }
        text.push('\n');
        text
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    values: Map<String, Value>,
}

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        if field.name() == "message" {
            self.message = match value {
                Value::String(text) => text,
                other => other.to_string(),
            };
        } else {
            self.values.insert(field.name().replace('_', "-"), value);
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, value.into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.set(field, format!("{value:?}").into());
    }
}

/// `2026-11-21T10:57:53.249890Z`.
fn timestamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        second_of_day / 3600,
        second_of_day / 60 % 60,
        second_of_day % 60,
        since_epoch.subsec_micros()
    )
}

/// The date so many days after 1970-01-01. Years are counted from March, so that the leap day is the
/// last of its year, in eras of 400 years, after which the calendar repeats.
fn civil(days_since_epoch: u64) -> (u64, u64, u64) {
    const DAYS_TO_EPOCH: u64 = 719_468; // from 0000-03-01
    const DAYS_PER_ERA: u64 = 146_097;
    let days = days_since_epoch + DAYS_TO_EPOCH;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (400 * era + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        let table = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ];
        for (seconds, text) in table {
            assert_eq!(timestamp(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_line_of_each_format_stays_one_line() {
        let mut values = Map::new();
        values.insert("listen-url".to_owned(), "http://a:1".into());
        values.insert("term".to_owned(), 7.into());
        let line = Line {
            level: "info",
            ts: "2026-01-01T00:00:00.000000Z".to_owned(),
            caller: "src/serve.rs:1".to_owned(),
            fields: Fields { message: "two\n\"lines\"".to_owned(), values },
        };
        assert_eq!(
            line.json(),
            "{\"level\":\"info\",\"ts\":\"2026-01-01T00:00:00.000000Z\",\
             \"caller\":\"src/serve.rs:1\",\"msg\":\"two\\n\\\"lines\\\"\",\
             \"listen-url\":\"http://a:1\",\"term\":7}\n"
        );
        assert_eq!(
            line.console(),
            "2026-01-01T00:00:00.000000Z\tINFO\tsrc/serve.rs:1\ttwo\\n\"lines\"\t\
             {\"listen-url\":\"http://a:1\",\"term\":7}\n"
        );
    }
}
