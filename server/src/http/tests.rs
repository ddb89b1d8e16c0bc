//! Pages as probes and scripts see them, to the byte.

use std::sync::Arc;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::{AlarmRequest, AlarmType};
use proto::log::ClusterVersionSet;
use proto::log::command::Op;
use tokio::sync::watch;
use tower::ServiceExt;

use super::*;
use crate::api::Settings;
use crate::config::Config;
use crate::fake::FakeNode;
use crate::metrics::Metrics;

struct Pages {
    node: FakeNode,
    router: Router,
    _stop: watch::Sender<bool>,
}

impl Pages {
    fn new() -> Self {
        Self::of(client_router)
    }

    fn of(router: impl Fn(&Arc<Shared<FakeNode>>) -> Router) -> Self {
        let config = Config::defaults();
        let metrics = Arc::new(Metrics::new());
        let node = FakeNode::new(&metrics, config.watch_progress_notify_interval, 0);
        let (stop, stopping) = watch::channel(false);
        let settings = Settings::of(&config);
        let shared = Shared::new(node.clone(), settings, metrics, node.fanout(), stopping);
        Self { node, router: router(&Arc::new(shared)), _stop: stop }
    }

    async fn ask(&self, method: &str, path: &str) -> (StatusCode, String, HeaderMap) {
        let request = Request::builder().method(method).uri(path).body(Body::empty());
        let response =
            self.router.clone().oneshot(request.expect("a request")).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        (parts.status, String::from_utf8(body.to_vec()).expect("UTF-8"), parts.headers)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let (status, body, _) = self.ask("GET", path).await;
        (status.as_u16(), body)
    }

    fn raise(&self, alarm: AlarmType) {
        let request = AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: 1,
            alarm: alarm.into(),
        };
        self.node.apply(Op::Alarm(request)).expect("raised");
    }
}

#[tokio::test]
async fn health_is_etcds_to_the_byte() {
    let pages = Pages::new();
    let (status, body, headers) = pages.ask("GET", "/health").await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, r#"{"health":"true","reason":""}"#));
    assert_eq!(headers["content-type"], "text/plain; charset=utf-8");

    pages.raise(AlarmType::Nospace);
    let ill = (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n".to_owned());
    assert_eq!(pages.get("/health").await, ill);
    assert_eq!(pages.get("/health?serializable=true").await, ill);
    assert_eq!(pages.get("/health?exclude=CORRUPT").await, ill);
    assert_eq!(pages.get("/health?exclude=NOSPACE").await.0, 200);
}

#[tokio::test]
async fn health_without_a_leader_is_false_unless_only_this_member_is_asked() {
    let pages = Pages::new();
    pages.node.lose_leader();
    let ill = (503, "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n".to_owned());
    assert_eq!(pages.get("/health").await, ill);
    assert_eq!(pages.get("/health?serializable=false").await, ill);
    assert_eq!(pages.get("/health?serializable=true").await.0, 200);
}

#[tokio::test]
async fn livez_and_readyz_are_etcds_to_the_byte() {
    let pages = Pages::new();
    let ok = |body: &str| (200, body.to_owned());
    assert_eq!(pages.get("/livez").await, ok("ok\n"));
    assert_eq!(pages.get("/livez?verbose").await, ok("[+]serializable_read ok\nok\n"));
    assert_eq!(pages.get("/readyz").await, ok("ok\n"));
    let all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n\
               [+]non_learner ok\nok\n";
    assert_eq!(pages.get("/readyz?verbose").await, ok(all));
    assert_eq!(pages.get("/readyz?verbose&exclude=nothing").await, ok(all));
    let some = "[+]serializable_read ok\n[+]non_learner ok\nok\n";
    let excluded = "/readyz?exclude=data_corruption&verbose=1&exclude=linearizable_read";
    assert_eq!(pages.get(excluded).await, ok(some));
    assert_eq!(pages.get("/readyz/serializable_read").await, ok("ok\n"));
    assert_eq!(
        pages.get("/livez/serializable_read?verbose").await,
        ok("[+]serializable_read ok\nok\n")
    );
    assert_eq!(pages.get("/readyz/nope").await, (404, "404 page not found\n".to_owned()));
}

#[tokio::test]
async fn a_member_cut_off_lives_but_is_not_ready() {
    let pages = Pages::new();
    pages.node.lose_leader();
    assert_eq!(pages.get("/livez").await, (200, "ok\n".to_owned()));
    let failed = "[+]data_corruption ok\n[+]serializable_read ok\n\
                  [-]linearizable_read failed: etcdserver: request timed out\n\
                  [+]non_learner ok\n\n";
    assert_eq!(pages.get("/readyz").await, (503, failed.to_owned()));
    assert_eq!(pages.get("/readyz?exclude=linearizable_read").await.0, 200);
}

#[tokio::test]
async fn corruption_and_learning_make_a_member_unready() {
    let pages = Pages::new();
    pages.raise(AlarmType::Corrupt);
    pages.node.become_learner();
    let (status, body) = pages.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("[-]data_corruption failed: alarm activated: CORRUPT\n"), "{body}");
    let learner = "[-]non_learner failed: not supported for learner\n";
    assert!(body.contains(learner), "{body}");
    let health = "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n".to_owned();
    assert_eq!(pages.get("/health").await, (503, health));
}

#[tokio::test]
async fn the_version_names_the_cluster_once_it_is_decided() {
    let pages = Pages::new();
    let (status, body, headers) = pages.ask("GET", "/version").await;
    let undecided = r#"{"etcdserver":"3.6.8","etcdcluster":"not_decided","storage":"3.6.0"}"#;
    assert_eq!((status.as_u16(), body.as_str()), (200, undecided));
    assert_eq!(headers["content-type"], "application/json");
    let version = ClusterVersionSet { version: "3.6.0".to_owned() };
    pages.node.apply(Op::ClusterVersionSet(version)).expect("set");
    let decided = r#"{"etcdserver":"3.6.8","etcdcluster":"3.6.0","storage":"3.6.0"}"#;
    assert_eq!(pages.get("/version").await, (200, decided.to_owned()));
}

#[tokio::test]
async fn only_get_is_allowed_and_strangers_are_not_found() {
    let pages = Pages::new();
    for path in ["/health", "/livez", "/readyz", "/readyz/non_learner", "/version", "/metrics"] {
        let (status, body, headers) = pages.ask("POST", path).await;
        assert_eq!((status.as_u16(), body.as_str()), (405, "Method Not Allowed\n"), "{path}");
        assert_eq!(headers["allow"], "GET", "{path}");
    }
    assert_eq!(pages.get("/").await, (404, "404 page not found\n".to_owned()));
    assert_eq!(pages.get("/v3/kv/range").await, (404, "404 page not found\n".to_owned()));
}

#[tokio::test]
async fn metrics_are_scraped_from_the_state() {
    let pages = Pages::of(metrics_router);
    let (status, body, headers) = pages.ask("GET", "/metrics").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    for line in ["etcd_server_has_leader 1", "etcd_debugging_mvcc_current_revision 1"] {
        assert!(body.lines().any(|have| have == line), "{line}");
    }
    assert_eq!(pages.get("/health").await.0, 200);
    assert_eq!(pages.get("/version").await.0, 404, "the metrics port has no more");
}

#[tokio::test]
async fn livez_fails_only_when_the_raft_thread_hangs() {
    let pages = Pages::of(metrics_router);
    pages.node.lose_leader();
    pages.raise(AlarmType::Corrupt);
    pages.node.hang_raft(29);
    assert_eq!(pages.get("/livez").await, (200, "ok\n".to_owned()));
    pages.node.hang_raft(31);
    let (status, body) = pages.get("/livez").await;
    assert_eq!(status, 503);
    assert!(body.contains("the raft thread has not moved for 31 s"), "{body}");
}

#[tokio::test]
async fn the_control_socket_hands_over_what_there_is_and_nothing_more() {
    let pages = Pages::of(control_router);
    let (status, body, _) = pages.ask("POST", "/leadership/hand-over?timeout_ms=100").await;
    assert_eq!((status.as_u16(), body.as_str()), (200, r#"{"outcome":"there is no other voter"}"#));
    pages.node.lose_leader();
    let (status, body, _) = pages.ask("POST", "/leadership/hand-over?timeout_ms=100").await;
    assert_eq!(
        (status.as_u16(), body.as_str()),
        (200, r#"{"outcome":"this member does not lead"}"#)
    );
    assert_eq!(pages.ask("POST", "/leadership/hand-over").await.0.as_u16(), 400);
    assert_eq!(pages.ask("GET", "/leadership/hand-over?timeout_ms=1").await.0.as_u16(), 405);
    assert_eq!(pages.get("/metrics").await.0, 404);
}
