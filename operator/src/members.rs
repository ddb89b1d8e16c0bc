//! The door to members: asks all of a cluster's pods at the same time, and carries out what changes the
//! member table.
//!
//! Pods are asked at their addresses, not by their names: names lag behind pods by up to half a minute,
//! and a name may lead to a pod that was not meant. Where TLS is on, the certificate must still be the
//! one of the pod's name.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use autotune::Params;
use client::{Client, Config, RetryPolicy, Tls};
use futures::future::join_all;

use crate::certificates::Identity;
use crate::observed::{Answer, Ordinal};
use crate::rows;

/// Longest a member may take to answer, the connecting included.
const ASK: Duration = Duration::from_secs(2);
/// Longest a change of the member table may take.
const CHANGE: Duration = Duration::from_secs(10);
/// Most members asked for the member table, one after the other.
const TABLE_ATTEMPTS_MAX: usize = 2;
/// Most connections kept between passes.
const CONNECTIONS_MAX: usize = 2048;

/// A cluster: namespace and name.
pub(crate) type Key = (String, String);

/// Where the member of a pod is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// The pod's ordinal.
    pub(crate) ordinal: Ordinal,
    /// The pod's uid.
    pub(crate) pod_uid: String,
    /// The pod's address with the client port.
    pub(crate) socket: String,
    /// The pod's name in DNS, which its certificate carries.
    pub(crate) host: String,
    /// How it is spoken to, if otherwise than those that are made now.
    pub(crate) security: Option<Security>,
}

/// How clients speak to a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Security {
    /// Without encryption.
    #[default]
    Plain,
    /// With it.
    Tls(Identity),
    /// With it, but the certificates are not there yet.
    NotYet,
}

/// A row of the member table as members give it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// The member's id.
    pub(crate) id: u64,
    /// Its name; empty until it has started once.
    pub(crate) name: String,
    /// Where its peers reach it.
    pub(crate) peer_urls: Vec<String>,
    /// It does not vote.
    pub(crate) learner: bool,
    /// It has published client URLs.
    pub(crate) started: bool,
}

/// What the members of a cluster said.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Said {
    /// Each of itself.
    pub(crate) answers: BTreeMap<Ordinal, Answer>,
    /// The member table, if a quorum answered.
    pub(crate) table: Option<Vec<Row>>,
}

/// A change of a cluster's members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// A row without a vote.
    AddLearner {
        /// Where the newcomer's peers will reach it.
        peer_url: String,
    },
    /// A vote for a learner.
    Promote(u64),
    /// A row less.
    Remove(u64),
    /// Another leader.
    MoveLeader(u64),
    /// Another plan of timing.
    SubmitTuning(Submission),
}

/// A plan of timing to be submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Submission {
    /// Number of the newest plan, or it is refused.
    pub(crate) expected_epoch: u64,
    /// What it sets; none: back to the members' flags.
    pub(crate) to: Option<Params>,
    /// Why.
    pub(crate) reason: String,
    /// Now, in milliseconds since 1970.
    pub(crate) at_ms: i64,
    /// Also while the newest plan has not arrived everywhere.
    pub(crate) supersede: bool,
}

/// A member refused, or did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{what} at {socket}: {problem}")]
pub(crate) struct MemberError {
    what: &'static str,
    socket: String,
    problem: String,
}

impl MemberError {
    /// What was asked of the member there, and why it was not done.
    pub(crate) fn new(what: &'static str, address: &Address, problem: &str) -> Self {
        MemberError { what, socket: address.socket.clone(), problem: problem.to_owned() }
    }
}

/// What the controller wants of members. Tests have members of their own.
pub(crate) trait Members {
    /// Asks every pod, and one of them for the member table.
    async fn ask(&self, cluster: &Key, security: &Security, addresses: &[Address]) -> Said;

    /// Carries out a change through one pod's member. One that is already as wanted is a success.
    async fn change(
        &self,
        cluster: &Key,
        security: &Security,
        address: &Address,
        change: &Change,
    ) -> Result<(), MemberError>;

    /// Lets go of what is kept of a cluster.
    fn forget(&self, cluster: &Key);
}

/// Members over the network.
#[derive(Default)]
pub(crate) struct Grpc {
    kept: RefCell<BTreeMap<Key, BTreeMap<String, Kept>>>,
}

struct Kept {
    /// Address and certificates that it was made with.
    made_of: u64,
    client: Client,
}

impl Grpc {
    /// Clients of these pods: kept ones where neither pod nor certificates have changed. Those of pods
    /// that are no more are dropped.
    fn clients(&self, cluster: &Key, security: &Security, addresses: &[Address]) -> Vec<Asked> {
        let mut all = self.kept.borrow_mut();
        let others: usize =
            all.iter().filter(|(key, _)| *key != cluster).map(|(_, kept)| kept.len()).sum();
        let mut before = all.remove(cluster).unwrap_or_default();
        let mut kept = BTreeMap::new();
        let mut asked = Vec::new();
        for address in addresses {
            let made_of = fingerprint(address, security);
            let known = before.remove(&address.pod_uid).filter(|kept| kept.made_of == made_of);
            let client = match known {
                Some(kept) => Ok(kept.client),
                None => connect(address, security),
            };
            match client {
                Ok(client) => {
                    if others + kept.len() < CONNECTIONS_MAX {
                        let uid = address.pod_uid.clone();
                        kept.insert(uid, Kept { made_of, client: client.clone() });
                    }
                    asked.push(Asked { ordinal: address.ordinal, client });
                }
                Err(error) => {
                    tracing::warn!(pod = address.host, %error, "the member cannot be asked");
                }
            }
        }
        if !kept.is_empty() {
            all.insert(cluster.clone(), kept);
        }
        asked
    }
}

struct Asked {
    ordinal: Ordinal,
    client: Client,
}

impl Members for Grpc {
    async fn ask(&self, cluster: &Key, security: &Security, addresses: &[Address]) -> Said {
        let clients = self.clients(cluster, security, addresses);
        let answers = join_all(clients.iter().map(async |asked| {
            let both = async { tokio::join!(asked.client.observe(), asked.client.tuning()) };
            match tokio::time::timeout(ASK, both).await {
                Ok((Ok(answer), tuning)) => {
                    let tuning = tuning.ok().and_then(rows::tuning_of);
                    Some((asked.ordinal, rows::answer_of(answer, tuning)))
                }
                Ok((Err(error), _)) => {
                    tracing::debug!(member = asked.client.endpoint(), %error, "no answer");
                    None
                }
                Err(_) => None,
            }
        }));
        let answers: BTreeMap<Ordinal, Answer> = answers.await.into_iter().flatten().collect();
        let mut table = None;
        for ordinal in best_first(&answers).into_iter().take(TABLE_ATTEMPTS_MAX) {
            let Some(asked) = clients.iter().find(|asked| asked.ordinal == ordinal) else {
                continue;
            };
            if let Ok(Ok(list)) = tokio::time::timeout(ASK, asked.client.members()).await {
                table = Some(list.members.into_iter().map(rows::row_of).collect());
                break;
            }
        }
        Said { answers, table }
    }

    async fn change(
        &self,
        _cluster: &Key,
        security: &Security,
        address: &Address,
        change: &Change,
    ) -> Result<(), MemberError> {
        let what = match change {
            Change::AddLearner { .. } => "add a learner",
            Change::Promote(_) => "promote",
            Change::Remove(_) => "remove",
            Change::MoveLeader(_) => "move the leader",
            Change::SubmitTuning(_) => "submit a plan of timing",
        };
        let fails = |problem: &str| MemberError::new(what, address, problem);
        let client = connect(address, security).map_err(|error| fails(&error.to_string()))?;
        let answer = async {
            match change {
                Change::AddLearner { peer_url } => {
                    client.member_add_learner(vec![peer_url.clone()]).await.map(drop)
                }
                Change::Promote(id) => client.member_promote(*id).await.map(drop),
                Change::Remove(id) => client.member_remove(*id).await.map(drop),
                Change::MoveLeader(to) => client.move_leader(*to).await.map(drop),
                Change::SubmitTuning(plan) => {
                    client.submit_tuning(rows::submit(plan)).await.map(drop)
                }
            }
        };
        match tokio::time::timeout(CHANGE, answer).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if is_done(change, &error) => Ok(()),
            Ok(Err(error)) => Err(fails(&error.to_string())),
            Err(_) => Err(fails("no answer in 10 s")),
        }
    }

    fn forget(&self, cluster: &Key) {
        self.kept.borrow_mut().remove(cluster);
    }
}

/// Whether a refusal says that it is as wanted already: an earlier attempt's answer was lost.
fn is_done(change: &Change, error: &client::Error) -> bool {
    let said = error.message().unwrap_or_default();
    match change {
        Change::AddLearner { .. } => said == "etcdserver: Peer URLs already exists",
        Change::Promote(_) => said == "etcdserver: can only promote a learner member",
        Change::Remove(_) => said == "etcdserver: member not found",
        Change::MoveLeader(_) | Change::SubmitTuning(_) => false,
    }
}

/// Whom to ask for the member table: the leader, then who knows one.
fn best_first(answers: &BTreeMap<Ordinal, Answer>) -> Vec<Ordinal> {
    let mut able: Vec<_> = answers.iter().filter(|(_, answer)| answer.leader_id != 0).collect();
    able.sort_by_key(|(ordinal, answer)| {
        let leads = answer.leader_id == answer.member_id;
        (!leads, std::cmp::Reverse(answer.term), **ordinal)
    });
    able.into_iter().map(|(ordinal, _)| *ordinal).collect()
}

fn connect(address: &Address, security: &Security) -> client::Result<Client> {
    let security = address.security.as_ref().unwrap_or(security);
    let scheme = if matches!(security, Security::Plain) { "http" } else { "https" };
    let mut config = Config::new([format!("{scheme}://{}", address.socket)])
        .connect_timeout(ASK)
        .request_timeout(CHANGE)
        .require_leader(false)
        .retry(RetryPolicy::never());
    if let Security::Tls(identity) = security {
        let mut tls = Tls::new(identity.ca_pem.clone()).server_name(address.host.clone());
        if let Some((certificate, key)) = &identity.pair_pem {
            tls = tls.identity(certificate.clone(), key.clone());
        }
        config = config.tls(tls);
    }
    Client::new(config)
}

/// Changes with all that a connection is made of.
fn fingerprint(address: &Address, security: &Security) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&address.socket, &address.host).hash(&mut hasher);
    match address.security.as_ref().unwrap_or(security) {
        Security::Plain => 0.hash(&mut hasher),
        Security::NotYet => 1.hash(&mut hasher),
        Security::Tls(identity) => (2, &identity.ca_pem, &identity.pair_pem).hash(&mut hasher),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(uid: &str, socket: &str) -> Address {
        Address {
            ordinal: 0,
            pod_uid: uid.to_owned(),
            socket: socket.to_owned(),
            host: "demo-0.demo-peers.ns.svc.cluster.local".to_owned(),
            security: None,
        }
    }

    #[test]
    fn the_leader_is_asked_first_and_who_knows_none_never() {
        let answer =
            |member_id, leader_id, term| Answer { member_id, leader_id, term, ..Answer::default() };
        let answers = BTreeMap::from([
            (0, answer(10, 12, 5)),
            (1, answer(11, 0, 7)),
            (2, answer(12, 12, 5)),
            (3, answer(13, 9, 4)),
        ]);
        assert_eq!(best_first(&answers), [2, 0, 3]);
    }

    #[tokio::test]
    async fn connections_are_kept_per_pod_and_dropped_with_it() {
        let grpc = Grpc::default();
        let cluster = ("ns".to_owned(), "demo".to_owned());
        let made_of = |grpc: &Grpc| -> Vec<(String, u64)> {
            let all = grpc.kept.borrow();
            let kept = all.get(&cluster).map(|kept| kept.iter());
            kept.into_iter().flatten().map(|(uid, kept)| (uid.clone(), kept.made_of)).collect()
        };
        grpc.clients(&cluster, &Security::Plain, &[address("a", "10.0.0.1:2379")]);
        let first = made_of(&grpc);
        grpc.clients(&cluster, &Security::Plain, &[address("a", "10.0.0.1:2379")]);
        assert_eq!(made_of(&grpc), first, "the same pod keeps its connection");
        grpc.clients(&cluster, &Security::Plain, &[address("b", "10.0.0.2:2379")]);
        assert_eq!(made_of(&grpc).len(), 1);
        assert_ne!(made_of(&grpc), first, "the pod that is gone is let go");
        grpc.forget(&cluster);
        assert!(made_of(&grpc).is_empty());
    }

    #[test]
    fn other_certificates_make_another_connection() {
        let identity = |ca: &str| Security::Tls(Identity { ca_pem: ca.into(), pair_pem: None });
        let address = address("a", "10.0.0.1:2379");
        let one = fingerprint(&address, &identity("one"));
        assert_eq!(one, fingerprint(&address, &identity("one")));
        assert_ne!(one, fingerprint(&address, &identity("two")));
        let plain = fingerprint(&address, &Security::Plain);
        assert_ne!(one, plain);
        let older = Address { security: Some(Security::Plain), ..address };
        assert_eq!(fingerprint(&older, &identity("one")), plain, "made before there was TLS");
    }

    #[test]
    fn a_repeated_change_that_was_carried_out_is_a_success() {
        let refused = |message: &str| client::Error::Answered {
            code: client::Code::FailedPrecondition,
            message: message.into(),
        };
        let add = Change::AddLearner { peer_url: "http://a:2380".to_owned() };
        assert!(is_done(&add, &refused("etcdserver: Peer URLs already exists")));
        assert!(is_done(&Change::Remove(1), &refused("etcdserver: member not found")));
        assert!(!is_done(&Change::Promote(1), &refused("etcdserver: member not found")));
        let early = "etcdserver: can only promote a learner member which is in sync with leader";
        assert!(!is_done(&Change::Promote(1), &refused(early)));
    }
}
