//! What a user can write, and what it means.

use super::*;

fn start(words: &[&str], variables: &[(&str, &str)]) -> Result<Start, String> {
    let args: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
    let variables =
        variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    load(&args, &variables).map_err(|error| error.to_string())
}

fn config_env(words: &[&str], variables: &[(&str, &str)]) -> Result<Config, String> {
    match start(words, variables)? {
        Start::Serve(config) => Ok(*config),
        Start::Print(text) => Err(format!("printed {text}")),
        Start::PreStop { .. } => Err("pre-stop".to_owned()),
    }
}

fn config(words: &[&str]) -> Result<Config, String> {
    config_env(words, &[])
}

#[test]
fn no_flags_at_all_make_a_single_member_on_localhost() {
    let config = config(&[]).expect("defaults");
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir, PathBuf::from("default.metastore"));
    assert_eq!(texts(&config.listen_client_urls), ["http://localhost:2379"]);
    assert_eq!(texts(&config.advertise_client_urls), ["http://localhost:2379"]);
    assert_eq!(config.initial_cluster, "default=http://localhost:2380");
    assert_eq!(config.quota_bytes, Some(QUOTA_BYTES_DEFAULT));
    assert_eq!(config.request_timeout(), Duration::from_secs(7));
    assert_eq!(config.lease_ttl_min(), 2);
    assert_eq!(config.snapshot_count, None);
    assert!(config.warnings.is_empty());
    assert_eq!(config.initial_members().expect("members").len(), 1);
}

#[test]
fn values_are_all_in_memory_unless_a_cache_is_asked_for() {
    let bytes = |words: &[&str], env: &[(&str, &str)]| {
        config_env(words, env).expect("good").value_cache_bytes
    };
    assert_eq!(bytes(&[], &[]), None);
    assert_eq!(bytes(&["--value-cache-bytes=0"], &[]), None);
    assert_eq!(bytes(&["--value-cache-bytes", "8388608"], &[]), Some(8 << 20));
    assert_eq!(bytes(&[], &[("ETCD_VALUE_CACHE_BYTES", "67108864")]), Some(64 << 20));
}

#[test]
fn flags_are_read_as_go_reads_them() {
    let one =
        config(&["-name", "a", "--data-dir=/x", "--batch-proposals=false", "--force-new-cluster"])
            .expect("good flags");
    assert_eq!((one.name.as_str(), one.data_dir), ("a", PathBuf::from("/x")));
    assert!(!one.batch_proposals && one.force_new_cluster);
    assert_eq!(one.initial_cluster, "a=http://localhost:2380");
    let last = config(&["--name", "a", "--name=b=c", "--name", "d"]).expect("the last one wins");
    assert_eq!(last.name, "d");
    assert_eq!(config(&["--name", "m1"]).expect("good").data_dir, PathBuf::from("m1.metastore"));
}

#[test]
fn what_only_tests_use_is_refused_without_their_flag() {
    let skew = "--test-wall-clock-offset=-2s500ms";
    let refused =
        "--test-wall-clock-offset is for tests of MetaStore itself and needs --test-flags";
    assert_eq!(config(&[skew]).map(|it| it.test_wall_clock_offset_us), Err(refused.to_owned()));
    for allowed in
        [config(&[skew, "--test-flags"]), config_env(&[skew], &[("METASTORE_TEST_FLAGS", "1")])]
    {
        assert_eq!(allowed.map(|it| it.test_wall_clock_offset_us), Ok(-2_500_000));
    }
    assert_eq!(config(&[]).map(|it| it.test_wall_clock_offset_us), Ok(0));
}

#[test]
fn each_bad_flag_is_one_exact_line() {
    let table: &[(&[&str], &str)] = &[
        (&["--nope"], "flag provided but not defined: -nope"),
        (&["--nope=3"], "flag provided but not defined: -nope"),
        (&["-nope", "x"], "flag provided but not defined: -nope"),
        (&["--name"], "flag needs an argument: -name"),
        (&["--config-file"], "flag needs an argument: -config-file"),
        (&["extra"], "\"extra\" is not a valid flag"),
        (&["--", "extra"], "\"extra\" is not a valid flag"),
        (&["-"], "\"-\" is not a valid flag"),
        (&["--=x"], "\"--=x\" is not a valid flag"),
        (&["---name"], "\"---name\" is not a valid flag"),
        (
            &["--heartbeat-interval", "abc"],
            "invalid value \"abc\" for flag -heartbeat-interval: parse error",
        ),
        (
            &["--heartbeat-interval="],
            "invalid value \"\" for flag -heartbeat-interval: parse error",
        ),
        (
            &["--heartbeat-interval=-5"],
            "invalid value \"-5\" for flag -heartbeat-interval: parse error",
        ),
        (
            &["--max-txn-ops=4294967296"],
            "invalid value \"4294967296\" for flag -max-txn-ops: value out of range",
        ),
        (
            &["--strict-reconfig-check=yes"],
            "invalid value \"yes\" for flag -strict-reconfig-check: parse error",
        ),
        (
            &["--warning-apply-duration=5"],
            "invalid value \"5\" for flag -warning-apply-duration: time: missing unit in duration \"5\"",
        ),
        (
            &["--listen-client-urls", "foo"],
            "invalid value \"foo\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            &["--listen-peer-urls="],
            "invalid value \"\" for flag -listen-peer-urls: URL scheme must be http, https, unix, or unixs: ",
        ),
        (
            &["--initial-cluster-state", "foo"],
            "invalid value \"foo\" for flag -initial-cluster-state: invalid value",
        ),
        (&["--log-level", "foo"], "invalid value \"foo\" for flag -log-level: invalid value"),
        (
            &["--name=a,b"],
            "invalid value \"a,b\" for flag -name: a name is not empty and has no comma, equal sign, slash or control character",
        ),
        (
            &["--cert-file", "/c"],
            "--key-file and --cert-file must both be present[key: , cert: /c]",
        ),
        (
            &["--client-cert-auth"],
            "--client-cert-auth is given without a certificate: --cert-file and --key-file must be provided",
        ),
        (
            &["--peer-trusted-ca-file=/ca"],
            "--peer-trusted-ca-file is given without a certificate: --peer-cert-file and --peer-key-file must be provided",
        ),
        (
            &["--cert-file=/c", "--key-file=/k", "--client-cert-auth"],
            "--client-cert-auth needs --trusted-ca-file",
        ),
        (
            &["--cert-file=/c", "--key-file=/k", "--client-crl-file=/r"],
            "--client-crl-file needs --trusted-ca-file",
        ),
        (
            &["--peer-cert-file=/c", "--peer-key-file=/k", "--peer-client-cert-file=/d"],
            "--peer-client-key-file and --peer-client-cert-file must both be present or both absent",
        ),
        (
            &[
                "--peer-cert-file=/c",
                "--peer-key-file=/k",
                "--peer-trusted-ca-file=/a",
                "--peer-cert-allowed-cn=a",
                "--peer-cert-allowed-hostname=b",
            ],
            "--peer-cert-allowed-cn and --peer-cert-allowed-hostname are mutually exclusive",
        ),
        (
            &["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1"],
            "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
        ),
        (
            &["--listen-metrics-urls=https://127.0.0.1:1"],
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url https://127.0.0.1:1",
        ),
        (
            &[
                "--listen-peer-urls=https://127.0.0.1:1",
                "--peer-cert-file=/c",
                "--peer-key-file=/k",
            ],
            "--listen-peer-urls https://127.0.0.1:1: --peer-trusted-ca-file must be provided for a peer url with HTTPS scheme: without it no member knows another",
        ),
        (
            &["--tls-min-version=TLS1.1"],
            "--tls-min-version: unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &["--cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"],
            "--cipher-suites: unexpected TLS cipher suite \"TLS_RSA_WITH_AES_128_CBC_SHA\"",
        ),
        (
            &["--cipher-suites=TLS_AES_128_GCM_SHA256", "--tls-max-version=TLS1.2"],
            "--cipher-suites: none is of TLS1.2",
        ),
        (
            &["--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "--tls-min-version=TLS1.3"],
            "--cipher-suites: cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
        (&["pre-stop", "--timeout"], "flag needs an argument: -timeout"),
        (
            &["pre-stop", "--timeout=soon"],
            "invalid value \"soon\" for flag -timeout: time: invalid duration \"soon\"",
        ),
        (&["pre-stop", "--nope"], "flag provided but not defined: -nope"),
        (&["--auto-tls"], "--auto-tls: not supported in this version"),
        (&["--auth-token=jwt,sign-method=RS256"], "--auth-token: not supported in this version"),
        (&["--pre-vote=false"], "--pre-vote: not supported in this version"),
        (&["--discovery-srv=x.org"], "--discovery-srv: not supported in this version"),
        (&["--cors=http://a"], "--cors: not supported in this version"),
        (&["--unsafe-no-fsync"], "--unsafe-no-fsync: not supported in this version"),
        (
            &["--experimental-initial-corrupt-check"],
            "--experimental-initial-corrupt-check: not supported in this version",
        ),
        (
            &["--log-outputs=systemd/journal"],
            "--log-outputs systemd/journal: not supported in this version",
        ),
        (&["--log-format=text"], "unknown log format: text, supported values json, console"),
        (&["--auto-compaction-mode=foo"], "unknown auto-compaction-mode \"foo\""),
        (&["--auto-compaction-mode="], "undefined auto-compaction-mode"),
        (
            &["--auto-compaction-retention=foo"],
            "error parsing CompactionRetention: time: invalid duration \"foo\"",
        ),
        (
            &["--auto-compaction-mode=revision", "--auto-compaction-retention=1h"],
            "error parsing CompactionRetention: \"1h\" is not a number of revisions",
        ),
        (&["--auto-compaction-retention=-1"], "--auto-compaction-retention -1 is negative"),
        (
            &["--listen-client-urls=http://127.0.0.1:1"],
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            &["--listen-peer-urls=http://example.com:1"],
            "expected IP in URL for binding (http://example.com:1)",
        ),
        (
            &["--listen-peer-urls=https://127.0.0.1:1"],
            "--listen-peer-urls https://127.0.0.1:1: TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for a peer url with HTTPS scheme",
        ),
        (
            &["--advertise-client-urls=http://:1"],
            "--advertise-client-urls \"http://:1\" must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host (http://:1))",
        ),
        (
            &["--initial-advertise-peer-urls=http://:1"],
            "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
        ),
        (&["--heartbeat-interval=0"], "--heartbeat-interval must be >0 (set to 0ms)"),
        (&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)"),
        (
            &["--election-timeout=300"],
            "--election-timeout[300ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (
            &["--election-timeout=60000"],
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
        ),
        (&["--batch-commands-max=0"], "--batch-commands-max must be >0"),
        (&["--batch-gather-max=5h"], "--batch-…: gathering of 18000000000 µs is above 100000 µs"),
        (&["--batch-linger=5h"], "--batch-…: linger of 18000000000 µs is above 100000 µs"),
        (&["--client-threads=100000"], "--client-threads is above 1024"),
        (
            &["--value-cache-bytes=8388607"],
            "--value-cache-bytes 8388607 is too little: at least 8388608, or 0 to keep all values in \
             memory",
        ),
        (
            &["--config-file=/nonexistent"],
            "config file /nonexistent: No such file or directory (os error 2)",
        ),
    ];
    for (words, expected) in table {
        assert_eq!(config(words).map(drop), Err((*expected).to_owned()), "{words:?}");
    }
}

#[test]
fn defaults_of_missing_features_may_be_given() {
    let words = [
        "--auth-token",
        "simple",
        "--pre-vote=true",
        "--client-cert-auth=false",
        "--peer-auto-tls=f",
        "--cors=",
        "--host-whitelist=*",
        "--corrupt-check-time=0",
        "--discovery-dial-timeout=2000ms",
        "--bcrypt-cost=10",
        "--cert-file=",
    ];
    let config = config(&words).expect("defaults");
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn settings_without_effect_are_named_in_the_log() {
    let config = config(&["--backend-batch-limit=7", "--max-wals=5", "--enable-grpc-gateway"]);
    assert_eq!(
        config.expect("good").warnings,
        [
            "--backend-batch-limit=7 has no effect in this version",
            "--enable-grpc-gateway=true has no effect in this version"
        ]
    );
}

#[test]
fn a_flag_wins_over_its_variable_and_strangers_are_named() {
    let variables = [
        ("ETCD_NAME", "from-env"),
        ("ETCD_DATA_DIR", "/env"),
        ("ETCD_WAL_DIR", ""),
        ("ETCD_NOPE", "1"),
        ("PATH", "/bin"),
    ];
    let config = config_env(&["--name", "from-flag"], &variables).expect("good");
    assert_eq!(config.name, "from-flag");
    assert_eq!(config.data_dir, PathBuf::from("/env"));
    assert_eq!(config.wal_dir, None);
    assert_eq!(config.warnings, ["unrecognized environment variable ETCD_NOPE"]);
    assert_eq!(
        config_env(&[], &[("ETCD_ELECTION_TIMEOUT", "soon")]).map(drop),
        Err("invalid value \"soon\" for ETCD_ELECTION_TIMEOUT: parse error".to_owned())
    );
    assert_eq!(
        config_env(&[], &[("ETCD_AUTO_TLS", "true")]).map(drop),
        Err("--auto-tls: not supported in this version".to_owned())
    );
}

#[test]
fn a_config_file_replaces_flags_and_variables() {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("conf.yaml");
    std::fs::write(&path, "name: from-file\nelection-timeout: 2000\n").expect("written");
    let path = path.to_str().expect("UTF-8");
    let by_flag = config_env(
        &["--config-file", path, "--name", "x", "--heartbeat-interval=7"],
        &[("ETCD_DATA_DIR", "/env")],
    )
    .expect("good");
    assert_eq!(by_flag.name, "from-file");
    assert_eq!((by_flag.election_timeout_ms, by_flag.heartbeat_interval_ms), (2000, 100));
    assert_eq!(by_flag.data_dir, PathBuf::from("from-file.metastore"));
    let by_variable = config_env(&[], &[("ETCD_CONFIG_FILE", path)]).expect("good");
    assert_eq!(by_variable.name, "from-file");
    assert!(!by_flag.read_once && !by_variable.read_once);
    // As of a pipe, nothing is left of it for a program that begins anew.
    let read_once = config_env(&["--config-file", "/dev/null"], &[]).expect("empty").read_once;
    assert!(read_once && !config_env(&[], &[]).expect("good").read_once);
}

#[test]
fn retention_is_read_by_mode() {
    let compaction = |mode: &str, retention: &str| typed::auto_compaction(mode, retention);
    let hours = |n: u64| AutoCompaction::Periodic(Duration::from_secs(3600 * n));
    assert_eq!(compaction("periodic", "0"), Ok(AutoCompaction::Off));
    assert_eq!(compaction("periodic", "1"), Ok(hours(1)));
    assert_eq!(compaction("periodic", "72h"), Ok(hours(72)));
    assert_eq!(
        compaction("periodic", "5m"),
        Ok(AutoCompaction::Periodic(Duration::from_secs(300)))
    );
    assert_eq!(compaction("revision", "1000"), Ok(AutoCompaction::Revision(1000)));
    assert_eq!(compaction("revision", "0"), Ok(AutoCompaction::Off));
}

#[test]
fn the_first_members_are_checked_as_in_etcd() {
    let members = |words: &[&str]| {
        config(words)?.initial_members().map_err(|error| error.to_string()).map(|members| {
            members
                .into_iter()
                .map(|member| format!("{}={}", member.name, texts(&member.peer_urls).join("+")))
                .collect::<Vec<_>>()
        })
    };
    let good = "--initial-cluster=m1=http://127.0.0.1:1,m2=http://[::1]:2,m1=http://127.0.0.1:3";
    let own = "--initial-advertise-peer-urls=http://127.0.0.1:3,http://127.0.0.1:1";
    assert_eq!(
        members(&["--name=m1", good, own]),
        Ok(vec![
            "m1=http://127.0.0.1:1+http://127.0.0.1:3".to_owned(),
            "m2=http://[::1]:2".to_owned()
        ])
    );
    let twice = "--initial-cluster=a=http://b:1,a=http://b:1,c=http://c:1";
    assert_eq!(
        members(&["--name=a", twice, "--initial-advertise-peer-urls=http://b:1"]),
        Ok(vec!["a=http://b:1".to_owned(), "c=http://c:1".to_owned()]),
    );
    let table: &[(&[&str], &str)] = &[
        (
            &["--name=m3", good],
            "couldn't find local name \"m3\" in the initial cluster configuration",
        ),
        (
            &["--name=m1", "--initial-cluster=m1=http://127.0.0.1:2"],
            "--initial-cluster has m1=http://127.0.0.1:2 but missing from --initial-advertise-peer-urls=http://localhost:2380",
        ),
        (
            &["--name=m1", "--initial-cluster=m1=http://127.0.0.1:1", own],
            "--initial-advertise-peer-urls has http://127.0.0.1:3 but missing from --initial-cluster=m1=http://127.0.0.1:1",
        ),
        (
            &["--name=a", "--initial-cluster=a=http://b:1,c=http://b:1"],
            "initial cluster a=http://b:1,c=http://b:1 has duplicate url http://b:1",
        ),
        (
            &["--initial-cluster=m1"],
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
        ),
        (
            &["--name=a", "--initial-cluster=a=https://b:1"],
            "--initial-cluster https://b:1: TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for a peer url with HTTPS scheme",
        ),
    ];
    for (words, expected) in table {
        assert_eq!(members(words), Err((*expected).to_owned()), "{words:?}");
    }
    let joining = [good, "--name=m1", "--initial-cluster-state=existing"];
    assert!(members(&joining).is_ok(), "one that joins was announced under its URLs already");
}

#[test]
fn help_and_version_win_over_everything_but_bad_flags() {
    assert!(
        matches!(start(&["--name", "x", "-h"], &[]), Ok(Start::Print(text)) if text.contains("--data-dir"))
    );
    let Ok(Start::Print(version)) = start(&["--version"], &[]) else { panic!("prints") };
    assert!(version.starts_with("etcd Version: 3.6."), "{version}");
    assert!(start(&["--version", "--nope"], &[]).is_err());
}

#[test]
fn tls_is_read_from_etcds_flags_variables_and_file() {
    let words = [
        "--cert-file=/c",
        "--key-file=/k",
        "--trusted-ca-file=/ca",
        "--client-cert-allowed-hostname=a,b",
        "--listen-client-urls=https://127.0.0.1:1,http://127.0.0.1:2",
        "--advertise-client-urls=https://a:1",
        "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,TLS_AES_128_GCM_SHA256",
    ];
    let variables = [
        ("ETCD_PEER_CERT_FILE", "/pc"),
        ("ETCD_PEER_KEY_FILE", "/pk"),
        ("ETCD_PEER_TRUSTED_CA_FILE", "/pca"),
        ("ETCD_PEER_CERT_ALLOWED_CN", "x"),
        ("ETCD_TLS_MIN_VERSION", "TLS1.2"),
    ];
    let config = config_env(&words, &variables).expect("good");
    let client = config.client_tls.expect("towards clients");
    assert_eq!(client.trusted_ca, Some(PathBuf::from("/ca")));
    assert_eq!(client.allowed_hostnames, ["a", "b"]);
    assert!(client.protocol.has_12 && client.protocol.has_13);
    assert_eq!(client.protocol.suites.map(|suites| suites.len()), Some(1));
    let peer = config.peer_tls.expect("towards peers");
    assert_eq!((peer.cert, peer.allowed_cns), (PathBuf::from("/pc"), vec!["x".to_owned()]));
    assert!(peer.check_caller_names);
    let warned = |what: &str| config.warnings.iter().any(|warning| warning.contains(what));
    assert!(warned("scheme is HTTP while key and cert files are present"), "{:?}", config.warnings);
    assert!(warned("client url http://127.0.0.1:2") && warned("peer url http://localhost:2380"));

    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("etcd.yml");
    let text = "client-transport-security: {cert-file: /c, key-file: /k, client-cert-auth: true, \
                trusted-ca-file: /ca, allowed-hostname: [a]}\n\
                peer-transport-security: {cert-file: /pc, key-file: /pk, trusted-ca-file: /pca, \
                client-cert-file: /dc, client-key-file: /dk, skip-client-san-verification: true}\n";
    std::fs::write(&path, text).expect("written");
    let config =
        config_env(&["--config-file", path.to_str().expect("UTF-8")], &[]).expect("a good file");
    assert_eq!(config.client_tls.expect("towards clients").allowed_hostnames, ["a"]);
    let peer = config.peer_tls.expect("towards peers");
    assert_eq!(peer.dial, Some((PathBuf::from("/dc"), PathBuf::from("/dk"))));
    assert!(!peer.check_caller_names);
}

#[test]
fn pre_stop_finds_the_data_as_the_server_does() {
    let socket = |words: &[&str], variables: &[(&str, &str)]| {
        let words: Vec<_> = std::iter::once("pre-stop").chain(words.iter().copied()).collect();
        match start(&words, variables) {
            Ok(Start::PreStop { socket, timeout }) => {
                (socket.display().to_string(), timeout.as_secs())
            }
            other => panic!("{other:?}"),
        }
    };
    let found = |path: &str, seconds| (format!("{path}/member/control.sock"), seconds);
    assert_eq!(socket(&[], &[]), found("default.metastore", 5));
    assert_eq!(socket(&["--timeout", "2s"], &[("ETCD_DATA_DIR", "/d")]), found("/d", 2));
    assert_eq!(
        socket(&["--timeout=1m", "--data-dir=/e"], &[("ETCD_DATA_DIR", "/d")]),
        found("/e", 60)
    );
    assert_eq!(socket(&[], &[("ETCD_NAME", "m1")]), found("m1.metastore", 5));
    // What a server would need besides is not asked for.
    assert_eq!(socket(&[], &[("ETCD_LISTEN_CLIENT_URLS", "https://0.0.0.0:1")]).1, 5);
}

#[test]
fn traces_are_asked_for_with_the_flags_of_etcd() {
    assert_eq!(config(&[]).expect("settings").tracing, None);
    assert_eq!(config(&["--distributed-tracing-sampling-rate=7"]).expect("settings").tracing, None);
    let plain =
        config(&["--enable-distributed-tracing"]).expect("settings").tracing.expect("traces");
    assert_eq!(plain.address.as_deref(), Some("localhost:4317"));
    assert_eq!(plain.service_name.as_deref(), Some("etcd"));
    assert_eq!((plain.instance_id, plain.protocol, plain.sampling_per_million), (None, None, 0));
    let asked = config(&[
        "--enable-distributed-tracing",
        "--distributed-tracing-address=otel:4318",
        "--distributed-tracing-service-name=store",
        "--distributed-tracing-instance-id=m0",
        "--distributed-tracing-sampling-rate=1000000",
        "--distributed-tracing-protocol=http/protobuf",
    ]);
    let asked = asked.expect("settings").tracing.expect("traces");
    assert_eq!(asked.address.as_deref(), Some("otel:4318"));
    assert_eq!(asked.service_name.as_deref(), Some("store"));
    assert_eq!(asked.instance_id.as_deref(), Some("m0"));
    assert_eq!(asked.protocol, Some(otlp::Protocol::Http));
    assert_eq!(asked.sampling_per_million, 1_000_000);
}

#[test]
fn variables_of_opentelemetry_hold_where_no_flag_does() {
    let variables =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4317"), ("OTEL_SERVICE_NAME", "store")];
    let words = ["--enable-distributed-tracing"];
    let tracing = config_env(&words, &variables).expect("settings").tracing.expect("traces");
    assert_eq!((tracing.address, tracing.service_name), (None, None));
    let words = ["--enable-distributed-tracing", "--distributed-tracing-address=here:1"];
    let tracing = config_env(&words, &variables).expect("settings").tracing.expect("traces");
    assert_eq!(tracing.address.as_deref(), Some("here:1"));
}

#[test]
fn a_share_of_traces_is_between_none_and_all() {
    for (rate, why) in [("-1", "must be positive"), ("1000001", "must be less than 1000000")] {
        let flag = format!("--distributed-tracing-sampling-rate={rate}");
        let error = config_env(&[&flag], &[]).expect_err("refused");
        let expected =
            format!("--distributed-tracing-sampling-rate {rate}: tracing sampling rate {why}");
        assert!(error.contains(&expected), "{error}");
    }
}
