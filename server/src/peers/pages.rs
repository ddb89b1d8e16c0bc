//! What the peer port says over plain HTTP: `/version` and `/members`, in etcd's shape, and the same
//! asked of others before this member's own raft runs.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use proto::log::Member;
use serde::{Deserialize, Serialize};
use tonic::body::Body;

use super::waits::FETCH_TIMEOUT;
use super::{Inbound, wire};
use crate::config::Url;
use crate::tls::Tls;

const CLUSTER_ID_HEADER: &str = "X-Etcd-Cluster-Id";
/// Largest answer that is read.
const FETCH_BYTES_MAX: usize = 1 << 20;

/// What `/version` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The version of etcd this member speaks like.
    #[serde(rename = "etcdserver")]
    pub server: String,
    /// The version the cluster agreed on.
    #[serde(rename = "etcdcluster")]
    pub cluster: String,
    /// The version of what lies on the disk.
    pub storage: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct MemberPage {
    id: u64,
    #[serde(rename = "peerURLs", default, deserialize_with = "or_empty")]
    peer_urls: Vec<String>,
    #[serde(rename = "isLearner", default, skip_serializing_if = "std::ops::Not::not")]
    is_learner: bool,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(
        rename = "clientURLs",
        default,
        deserialize_with = "or_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    client_urls: Vec<String>,
}

/// Go writes an empty list as `null`.
fn or_empty<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(from)?.unwrap_or_default())
}

pub(super) fn is_grpc(content_type: &HeaderValue) -> bool {
    content_type.as_bytes().starts_with(b"application/grpc")
}

/// Answers a request that is not gRPC.
pub(super) fn answer<B>(
    request: &Request<B>,
    cluster_id: u64,
    inbound: &impl Inbound,
) -> Response<Body> {
    let path = request.uri().path();
    if !matches!(path, "/version" | "/members") {
        return page(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n");
    }
    if request.method() != Method::GET {
        let mut refused = page(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain; charset=utf-8",
            "Method Not Allowed\n",
        );
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET"));
        return refused;
    }
    if path == "/version" {
        return page(StatusCode::OK, "application/json", json(&inbound.versions()));
    }
    let members: Vec<MemberPage> = inbound
        .members()
        .into_iter()
        .map(|member| MemberPage {
            id: member.id,
            peer_urls: member.peer_urls,
            is_learner: member.is_learner,
            name: member.name,
            client_urls: member.client_urls,
        })
        .collect();
    let mut found = page(StatusCode::OK, "application/json", json(&members) + "\n");
    let cluster_id = HeaderValue::try_from(format!("{cluster_id:x}")).expect("hexadecimal digits");
    found.headers_mut().insert(CLUSTER_ID_HEADER, cluster_id);
    found
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("strings and numbers")
}

fn page(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body.into())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A cluster, as one of its members describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct RemoteCluster {
    /// Its id.
    pub cluster_id: u64,
    /// Its members.
    pub members: Vec<Member>,
    /// The member's URL that answered.
    pub answered: String,
}

/// Why no description of the cluster could be had: for each URL, what was wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("could not retrieve cluster information from the given URLs ({})", .0.join("; "))]
pub struct FetchError(pub Vec<String>);

/// Asks peers for their member table, one after the other, and takes the first answer.
pub async fn fetch_members(
    urls: &[String],
    tls: Option<&Arc<Tls>>,
) -> Result<RemoteCluster, FetchError> {
    let mut failures = Vec::new();
    for text in urls {
        let attempt = async {
            let url = Url::parse(text)?;
            fetch_one(&url, tls).await
        };
        match tokio::time::timeout(FETCH_TIMEOUT, attempt).await {
            Ok(Ok((cluster_id, members))) => {
                return Ok(RemoteCluster { cluster_id, members, answered: text.clone() });
            }
            Ok(Err(why)) => failures.push(format!("{text}: {why}")),
            Err(_) => failures.push(format!("{text}: no answer in time")),
        }
    }
    Err(FetchError(failures))
}

async fn fetch_one(url: &Url, tls: Option<&Arc<Tls>>) -> Result<(u64, Vec<Member>), String> {
    let (headers, body) = get(url, "/members", tls).await?;
    let cluster_id = headers
        .get(CLUSTER_ID_HEADER)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or("the answer has no cluster id: not a peer URL?")?;
    let members: Vec<MemberPage> =
        serde_json::from_slice(&body).map_err(|error| format!("not a member table: {error}"))?;
    let members = members
        .into_iter()
        .map(|page| Member {
            id: page.id,
            name: page.name,
            peer_urls: page.peer_urls,
            client_urls: page.client_urls,
            is_learner: page.is_learner,
        })
        .collect();
    Ok((cluster_id, members))
}

async fn get(
    url: &Url,
    path: &'static str,
    tls: Option<&Arc<Tls>>,
) -> Result<(http::HeaderMap, Bytes), String> {
    let stream = wire::connect_for_page(url, tls).await.map_err(|error| error.to_string())?;
    let (mut requests, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| wire::cause(&error))?;
    let authority = url.to_string();
    let authority = authority.split_once("://").map_or("", |(_, authority)| authority);
    let request = Request::get(path)
        .header(header::HOST, authority)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = requests.send_request(request).await.map_err(|error| wire::cause(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("answered {}", response.status()));
        }
        let (head, body) = response.into_parts();
        let body = Limited::new(body, FETCH_BYTES_MAX).collect().await;
        Ok((head.headers, body.map_err(|error| error.to_string())?.to_bytes()))
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    tokio::select! {
        done = &mut exchange => done,
        ended = &mut connection => match ended {
            // The answer may be there although the connection is over.
            Ok(()) => exchange.await,
            Err(error) => Err(wire::cause(&error)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_reads_as_etcd_writes_it() {
        let page = MemberPage {
            id: 15_797_723_864_755_763_282,
            peer_urls: vec!["http://a:1".to_owned()],
            is_learner: false,
            name: "m1".to_owned(),
            client_urls: vec!["http://a:2".to_owned()],
        };
        assert_eq!(
            json(&page),
            r#"{"id":15797723864755763282,"peerURLs":["http://a:1"],"name":"m1","clientURLs":["http://a:2"]}"#
        );
        let unstarted: MemberPage =
            serde_json::from_str(r#"{"id":1,"peerURLs":null,"isLearner":true}"#).expect("etcd's");
        assert!(
            unstarted.is_learner && unstarted.name.is_empty() && unstarted.peer_urls.is_empty()
        );
        assert_eq!(json(&unstarted), r#"{"id":1,"peerURLs":[],"isLearner":true}"#);
    }

    #[test]
    fn versions_read_as_etcd_writes_them() {
        let versions = Versions {
            server: "3.7.3".to_owned(),
            cluster: "3.7.0".to_owned(),
            storage: "3.7.0".to_owned(),
        };
        assert_eq!(
            json(&versions),
            r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#
        );
    }
}
