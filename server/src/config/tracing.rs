//! The settings of traces, from etcd's flags; where none is given, OpenTelemetry's own variables hold.

use std::collections::BTreeMap;

use super::error::ConfigError;
use super::sources::Given;
use super::value;

const RATE: &str = "distributed-tracing-sampling-rate";

/// `None`: nothing is traced. `name` is the member's, and stands in for an instance id.
pub(super) fn settings(
    given: &Given,
    variables: &BTreeMap<String, String>,
    name: &str,
) -> Result<Option<otlp::Settings>, ConfigError> {
    let rate = given.text(RATE);
    let sampling_per_million = match rate.parse::<i64>() {
        Ok(negative) if negative < 0 => {
            return Err(refused(&format!("{rate}: tracing sampling rate must be positive")));
        }
        Ok(rate) if rate <= i64::from(otlp::MILLION) => u32::try_from(rate).unwrap_or_default(),
        _ => {
            let text = format!("{rate}: tracing sampling rate must be less than {}", otlp::MILLION);
            return Err(refused(&text));
        }
    };
    let protocol = match given.explicit("distributed-tracing-protocol") {
        Some(name) => otlp::Protocol::named(name),
        None => None,
    };
    if value::parse_bool(given.text("enable-distributed-tracing")) != Ok(true) {
        return Ok(None);
    }
    let unless_variable = |flag: &'static str, names: &[&str]| {
        let is_set = |name: &&str| variables.get(*name).is_some_and(|value| !value.is_empty());
        match given.explicit(flag) {
            Some(value) => Some(value.to_owned()),
            None if names.iter().any(is_set) => None,
            None => Some(given.text(flag).to_owned()),
        }
    };
    Ok(Some(otlp::Settings {
        address: unless_variable(
            "distributed-tracing-address",
            &["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"],
        ),
        protocol,
        service_name: unless_variable("distributed-tracing-service-name", &["OTEL_SERVICE_NAME"]),
        instance_id: given
            .explicit("distributed-tracing-instance-id")
            .filter(|id| !id.is_empty())
            .map(str::to_owned),
        attributes: vec![
            ("service.version", crate::version::VERSION.to_owned()),
            ("metastore.member", name.to_owned()),
        ],
        sampling_per_million,
    }))
}

fn refused(text: &str) -> ConfigError {
    ConfigError::Contradiction(format!("--{RATE} {text}"))
}
