//! The way to the collector: a thread that gathers spans and hands them over.

use std::thread::JoinHandle;
use std::time::Duration;

use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use tokio::sync::{mpsc, oneshot};

use crate::{Protocol, Settings, TraceError, Tracer};

/// No queue is longer, whatever the environment says.
const QUEUE_MAX: usize = 65_536;
/// How long the last spans may take when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The bounds of a batch processor, by the specification's names and defaults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) queue_max: usize,
    batch_max: usize,
    delay: Duration,
    timeout: Duration,
}

impl Limits {
    pub(crate) fn of_environment() -> Self {
        let number = |name: &str, default: u64| {
            let value = std::env::var(name).ok().and_then(|text| text.trim().parse().ok());
            value.filter(|value| *value > 0).unwrap_or(default)
        };
        let queue_max = number("OTEL_BSP_MAX_QUEUE_SIZE", 2_048).min(QUEUE_MAX as u64) as usize;
        let batch_max =
            number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512).min(queue_max as u64) as usize;
        let for_all = number("OTEL_EXPORTER_OTLP_TIMEOUT", 10_000);
        let request_ms = number("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", for_all);
        let timeout_ms = number("OTEL_BSP_EXPORT_TIMEOUT", 30_000).min(request_ms);
        Limits {
            queue_max,
            batch_max,
            delay: Duration::from_millis(number("OTEL_BSP_SCHEDULE_DELAY", 5_000)),
            timeout: Duration::from_millis(timeout_ms),
        }
    }
}

/// How the exporter is made; made where it is used, for it needs a runtime.
#[derive(Clone, Debug)]
pub(crate) struct Exporter {
    endpoint: Option<String>,
    protocol: Protocol,
    timeout: Duration,
}

impl Exporter {
    pub(crate) fn new(settings: &Settings, limits: &Limits) -> Result<Self, TraceError> {
        let protocol = match settings.protocol {
            Some(protocol) => protocol,
            None => protocol_of_environment()?,
        };
        let endpoint = match &settings.address {
            Some(address) => Some(endpoint(address, protocol)?),
            None => {
                // The library builds the URL of them; only what nobody could serve is told here.
                let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
                refuse_tls(ENDPOINTS.iter().find_map(|name| Some((*name, variable(*name)?))))?;
                None
            }
        };
        Ok(Exporter { endpoint, protocol, timeout: limits.timeout })
    }

    fn make(&self) -> Result<Otlp, TraceError> {
        let made = match self.protocol {
            Protocol::Grpc => {
                let mut builder = Otlp::builder().with_tonic();
                if let Some(endpoint) = &self.endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                builder.build()
            }
            Protocol::Http => {
                let client = HyperClient::with_default_connector(self.timeout, None);
                let mut builder = Otlp::builder().with_http().with_http_client(client);
                builder = builder.with_protocol(opentelemetry_otlp::Protocol::HttpBinary);
                if let Some(endpoint) = &self.endpoint {
                    builder = builder.with_endpoint(endpoint);
                }
                builder.build()
            }
        };
        made.map_err(|error| TraceError::Settings(error.to_string()))
    }
}

/// The first that is set holds.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const NO_TLS: &str = "TLS towards the collector is not supported, nor by etcd";

fn refuse_tls(given: Option<(&str, String)>) -> Result<(), TraceError> {
    match given {
        Some((name, url)) if url.starts_with("https:") => {
            Err(TraceError::Settings(format!("{name}={url}: {NO_TLS}")))
        }
        _ => Ok(()),
    }
}

/// Variables that begin as OpenTelemetry's do and mean nothing here, misspelt ones among them.
pub fn unread_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    const READ: [&str; 6] = [
        "OTEL_SERVICE_NAME",
        "OTEL_RESOURCE_ATTRIBUTES",
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        "OTEL_BSP_EXPORT_TIMEOUT",
        "OTEL_BSP_SCHEDULE_DELAY",
    ];
    const OF_EXPORTER: [&str; 5] = ["ENDPOINT", "PROTOCOL", "HEADERS", "TIMEOUT", "COMPRESSION"];
    let is_read = |name: &str| {
        let of_exporter = name
            .strip_prefix("OTEL_EXPORTER_OTLP_")
            .map(|rest| OF_EXPORTER.contains(&rest.strip_prefix("TRACES_").unwrap_or(rest)));
        READ.contains(&name) || of_exporter == Some(true)
    };
    let mut unread: Vec<String> =
        names.filter(|name| name.starts_with("OTEL_") && !is_read(name)).collect();
    unread.sort_unstable();
    unread
}

fn protocol_of_environment() -> Result<Protocol, TraceError> {
    for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        let Ok(text) = std::env::var(name) else { continue };
        if text.is_empty() {
            continue;
        }
        return Protocol::named(&text).ok_or_else(|| {
            TraceError::Settings(format!("{name}={text}: neither grpc nor http/protobuf"))
        });
    }
    Ok(Protocol::default())
}

/// `host:port` as etcd takes it, or a URL. Without a path, HTTP goes to where the specification says.
fn endpoint(address: &str, protocol: Protocol) -> Result<String, TraceError> {
    let wrong = |why: &str| TraceError::Settings(format!("address {address:?}: {why}"));
    let url =
        if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    let parsed: http::Uri = url.parse().map_err(|_| wrong("neither host:port nor a URL"))?;
    match parsed.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(wrong(NO_TLS)),
        _ => return Err(wrong("only http:// is understood")),
    }
    if parsed.host().is_none_or(str::is_empty) {
        return Err(wrong("no host"));
    }
    let authority = parsed.authority().map_or("", http::uri::Authority::as_str);
    if authority.contains('@') {
        return Err(wrong("a user and a password are not sent to the collector"));
    }
    let after_host = authority.rsplit_once(']').map_or(authority, |(_, after)| after);
    if after_host.contains(':') && parsed.port_u16().is_none() {
        return Err(wrong("no such port"));
    }
    let has_path = !matches!(parsed.path(), "" | "/");
    Ok(match protocol {
        Protocol::Http if !has_path => format!("{}/v1/traces", url.trim_end_matches('/')),
        _ => url,
    })
}

/// The thread that hands spans over. Ends, and hands over what is left, when this is dropped.
#[derive(Debug)]
pub struct Exporting {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Exporting {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has a limit of its own, and a panic there is no reason for one here.
            drop(thread.join());
        }
    }
}

pub(crate) fn start(
    exporter: &Exporter,
    limits: Limits,
    spans: mpsc::Receiver<SpanData>,
    tracer: Tracer,
    settings: &Settings,
) -> Result<Exporting, TraceError> {
    let resource = crate::resource(settings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut exporter = {
        let _entered = runtime.enter();
        exporter.make()?
    };
    exporter.set_resource(&resource);
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name(String::from("traces")).spawn(move || {
        runtime.block_on(run(&exporter, limits, spans, &tracer, stopped));
        runtime.shutdown_background();
    });
    Ok(Exporting { stop: Some(stop), thread: Some(thread?) })
}

async fn run(
    exporter: &Otlp,
    limits: Limits,
    mut spans: mpsc::Receiver<SpanData>,
    tracer: &Tracer,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut batch = Vec::with_capacity(limits.batch_max);
    loop {
        let is_over = tokio::select! {
            biased; // a queue that is always full is no reason to go on
            _ = &mut stopped => true,
            () = gather(&mut spans, &mut batch, limits) => false,
        };
        if is_over {
            break;
        }
        let going = std::mem::take(&mut batch);
        let count = going.len();
        tokio::select! {
            biased;
            () = hand_over(exporter, going, limits.timeout, tracer) => {}
            _ = &mut stopped => {
                // It had its time, and the process is to end.
                tracer.refused(count, "the collector does not answer");
                break;
            }
        }
    }
    let last = async {
        loop {
            while batch.len() < limits.batch_max
                && let Ok(span) = spans.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                break;
            }
            hand_over(exporter, std::mem::take(&mut batch), FLUSH_TIMEOUT, tracer).await;
        }
    };
    // Who does not get them in time was not there.
    drop(tokio::time::timeout(FLUSH_TIMEOUT, last).await);
}

/// The first span begins the wait for more.
async fn gather(spans: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>, limits: Limits) {
    spans.recv_many(batch, limits.batch_max).await;
    let full = async {
        while batch.len() < limits.batch_max {
            let room = limits.batch_max - batch.len();
            spans.recv_many(batch, room).await;
        }
    };
    // Over either way: what has gathered goes.
    drop(tokio::time::timeout(limits.delay, full).await);
}

async fn hand_over(exporter: &Otlp, batch: Vec<SpanData>, timeout: Duration, tracer: &Tracer) {
    let spans = batch.len();
    match tokio::time::timeout(timeout, exporter.export(batch)).await {
        Ok(Ok(())) => tracer.handed_over(spans),
        Ok(Err(error)) => tracer.refused(spans, &error.to_string()),
        Err(_) => tracer.refused(spans, "the collector does not answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port_or_a_url() {
        let table = [
            ("localhost:4317", Protocol::Grpc, "http://localhost:4317"),
            ("http://otel:4317", Protocol::Grpc, "http://otel:4317"),
            ("otel:4318", Protocol::Http, "http://otel:4318/v1/traces"),
            ("http://otel:4318/", Protocol::Http, "http://otel:4318/v1/traces"),
            ("http://otel:4318/x", Protocol::Http, "http://otel:4318/x"),
        ];
        for (address, protocol, expected) in table {
            assert_eq!(endpoint(address, protocol).expect("an endpoint"), expected);
        }
        let wrong = [
            "",
            "https://otel:4317",
            "ftp://x",
            "a b",
            "a:99999",
            "a:b",
            "http://me:secret@otel:1",
        ];
        for address in wrong {
            let error = endpoint(address, Protocol::Grpc).expect_err("refused").to_string();
            assert!(error.starts_with(&format!("distributed tracing: address {address:?}: ")));
        }
    }

    #[test]
    fn a_variable_that_asks_for_tls_is_named_and_so_are_those_that_mean_nothing() {
        let given = |url: &str| refuse_tls(Some((ENDPOINTS[1], url.to_owned())));
        assert_eq!(
            given("https://otel:4317").expect_err("refused").to_string(),
            format!("distributed tracing: OTEL_EXPORTER_OTLP_ENDPOINT=https://otel:4317: {NO_TLS}")
        );
        assert!(given("http://otel:4317").is_ok() && refuse_tls(None).is_ok());
        let names = [
            "PATH",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_EXPORTER_OLTP_ENDPOINT",
            "OTEL_BSP_SCHEDULE_DELAY",
            "OTEL_BSP_DELAY",
        ];
        let unread = unread_variables(names.iter().map(|name| (*name).to_owned()));
        assert_eq!(unread, ["OTEL_BSP_DELAY", "OTEL_EXPORTER_OLTP_ENDPOINT"]);
    }

    /// Without this it would take as long as a batch may take, and again for each that waits.
    #[test]
    fn a_collector_that_never_answers_does_not_keep_the_process() {
        const NEVER: Duration = Duration::from_secs(86_400);
        for protocol in [Protocol::Grpc, Protocol::Http] {
            let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
            let settings = Settings {
                address: Some(silent.local_addr().expect("bound").to_string()),
                protocol: Some(protocol),
                sampling_per_million: crate::MILLION,
                ..Settings::default()
            };
            let delay = Duration::from_millis(1);
            let limits = Limits { queue_max: 4, batch_max: 1, delay, timeout: NEVER };
            let exporter = Exporter::new(&settings, &limits).expect("settings");
            let (tracer, spans) = Tracer::to_queue(crate::MILLION, limits.queue_max);
            let exporting = start(&exporter, limits, spans, tracer.clone(), &settings);
            let exporting = exporting.expect("a thread");
            for _ in 0..limits.queue_max {
                tracer.emit(crate::tests::span(&tracer, None));
            }
            // Someone is on the line, and says nothing.
            let line = silent.accept().expect("it has come");
            drop(exporting);
            drop(line);
        }
    }
}
