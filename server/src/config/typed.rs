//! A setting's text as what it stands for.

use std::path::PathBuf;
use std::time::Duration;

use super::sources::Given;
use super::{AutoCompaction, ConfigError, LogFormat, LogOutput, Url, value};

pub(super) fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, ConfigError> {
    let contradiction = |text: String| ConfigError::Contradiction(text);
    let whole: Option<i64> = retention.parse().ok();
    if whole.is_some_and(|n| n < 0) {
        return Err(contradiction(format!("--auto-compaction-retention {retention} is negative")));
    }
    match mode {
        "periodic" => {
            let period = match whole {
                // A bare number is of hours.
                Some(hours) => u64::try_from(hours)
                    .ok()
                    .and_then(|hours| hours.checked_mul(3600))
                    .map(Duration::from_secs)
                    .ok_or_else(|| format!("{retention} hours are too many")),
                None => value::parse_duration(retention),
            };
            let period = period
                .map_err(|e| contradiction(format!("error parsing CompactionRetention: {e}")))?;
            Ok(if period.is_zero() {
                AutoCompaction::Off
            } else {
                AutoCompaction::Periodic(period)
            })
        }
        "revision" => match whole {
            Some(0) => Ok(AutoCompaction::Off),
            Some(revisions) => Ok(AutoCompaction::Revision(revisions)),
            // etcd reads a duration as its nanoseconds here; nobody can mean that.
            None => Err(contradiction(format!(
                "error parsing CompactionRetention: {retention:?} is not a number of revisions"
            ))),
        },
        "" => Err(contradiction("undefined auto-compaction-mode".to_owned())),
        _ => Err(contradiction(format!("unknown auto-compaction-mode {mode:?}"))),
    }
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, ConfigError> {
    match text {
        "json" => Ok(LogFormat::Json),
        "console" => Ok(LogFormat::Console),
        _ => Err(ConfigError::Contradiction(format!(
            "unknown log format: {text}, supported values json, console"
        ))),
    }
}

pub(super) fn log_outputs(text: &str) -> Result<Vec<LogOutput>, ConfigError> {
    let mut outputs = Vec::new();
    for word in text.split(',') {
        let output = match word {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            "systemd/journal" => {
                return Err(ConfigError::NotSupported {
                    name: "log-outputs systemd/journal".to_owned(),
                });
            }
            "" => {
                return Err(ConfigError::InvalidValue {
                    value: text.to_owned(),
                    origin: "flag -log-outputs".to_owned(),
                    reason: "an output is empty".to_owned(),
                });
            }
            path => LogOutput::File(PathBuf::from(path)),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    Ok(outputs)
}

// The forms were checked when the values were set, so reading them cannot fail.

pub(super) fn uint(given: &Given, name: &'static str) -> u64 {
    given.text(name).parse().unwrap_or_else(|_| panic!("--{name} was checked"))
}

pub(super) fn size(given: &Given, name: &'static str) -> usize {
    usize::try_from(uint(given, name)).unwrap_or(usize::MAX)
}

pub(super) fn int(given: &Given, name: &'static str) -> i64 {
    given.text(name).parse().unwrap_or_else(|_| panic!("--{name} was checked"))
}

pub(super) fn boolean(given: &Given, name: &'static str) -> bool {
    value::parse_bool(given.text(name)).unwrap_or_else(|_| panic!("--{name} was checked"))
}

pub(super) fn duration(given: &Given, name: &'static str) -> Duration {
    value::parse_duration(given.text(name)).unwrap_or_else(|_| panic!("--{name} was checked"))
}

pub(super) fn urls(given: &Given, name: &'static str) -> Vec<Url> {
    match given.text(name) {
        "" => Vec::new(),
        text => Url::parse_list(text).unwrap_or_else(|_| panic!("--{name} was checked")),
    }
}
