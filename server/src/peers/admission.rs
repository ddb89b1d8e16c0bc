//! Who may speak to this member.
//!
//! Every stream begins with a greeting. A member of another cluster, a greeting meant for somebody
//! else (an address was given away), a stranger and a former member are refused with a sentence that
//! says which, and so is a member with another's certificate; a refusal is logged once a minute, however
//! often the stranger knocks. A former member learns so what the log can not tell it any more.
//! A peer has at most one stream of each kind: a new one, made after a restart or a reconnect, ends
//! the old one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proto::peer::Hello;
use rustls::pki_types::CertificateDer;
use tokio::sync::oneshot;
use tonic::{Code, Status};

use super::link::{Lane, Link, lock};
use crate::config::{Url, texts};
use crate::tls;

/// The same thing is logged once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Things logged in that time.
const LOG_TOPICS_MAX: usize = 256;

/// Why a member will not speak to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// They belong to different clusters.
    OtherCluster,
    /// The greeting was meant for another member: an address leads to the wrong place.
    OtherMember,
    /// The one who called is not in the cluster, as far as is known here: never added, or not yet.
    NotMember,
    /// The one who called has been removed from the cluster, for good.
    Removed,
    /// The one who called has shown the certificate of somebody else.
    OtherCertificate,
}

impl Refusal {
    /// What a refused call says.
    pub(super) fn of(status: &Status) -> Option<Refusal> {
        match status.code() {
            Code::FailedPrecondition => Some(Refusal::OtherCluster),
            Code::NotFound => Some(Refusal::OtherMember),
            Code::PermissionDenied => Some(Refusal::NotMember),
            Code::Aborted => Some(Refusal::Removed),
            Code::Unauthenticated => Some(Refusal::OtherCertificate),
            _ => None,
        }
    }

    fn code(self) -> Code {
        match self {
            Refusal::OtherCluster => Code::FailedPrecondition,
            Refusal::OtherMember => Code::NotFound,
            Refusal::NotMember => Code::PermissionDenied,
            Refusal::Removed => Code::Aborted,
            Refusal::OtherCertificate => Code::Unauthenticated,
        }
    }
}

/// The peers there are, and the streams they have.
#[derive(Debug)]
pub(super) struct Admission {
    cluster_id: u64,
    member_id: u64,
    streams: Mutex<Streams>,
    logged: Throttle,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    /// Dropping the sender ends the stream.
    open: BTreeMap<(u64, Lane), (u64, oneshot::Sender<()>)>,
}

/// A stream let in. It must end when [`Admitted::ended`] does.
#[derive(Debug)]
pub(super) struct Admitted {
    pub(super) link: Arc<Link>,
    admission: Arc<Admission>,
    lane: Lane,
    number: u64,
    end: oneshot::Receiver<()>,
}

impl Admitted {
    /// Waits until the stream has been replaced, or its member removed.
    pub(super) async fn ended(&mut self) {
        // The sender is only ever dropped.
        drop((&mut self.end).await);
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut streams = lock(&self.admission.streams);
        let key = (self.link.id, self.lane);
        if streams.open.get(&key).is_some_and(|(number, _)| *number == self.number) {
            streams.open.remove(&key);
        }
    }
}

impl Admission {
    pub(super) fn new(cluster_id: u64, member_id: u64) -> Self {
        Admission { cluster_id, member_id, streams: Mutex::default(), logged: Throttle::default() }
    }

    /// Checks a greeting. `links` are the members there are, without this one; `is_removed` says who
    /// was one. With a `certificate` the caller must be the member it says to be: it has to be good for
    /// a host of its URLs.
    pub(super) fn check(
        &self,
        hello: &Hello,
        links: &BTreeMap<u64, Arc<Link>>,
        is_removed: impl Fn(u64) -> bool,
        certificate: Option<&CertificateDer<'_>>,
    ) -> Result<Arc<Link>, Status> {
        let refused = |refusal: Refusal, why: String| {
            if self.logged.is_due(Topic::Refused(refusal, hello.cluster_id, hello.from)) {
                tracing::warn!("refused a peer: {why}");
            }
            Err(Status::new(refusal.code(), why))
        };
        if hello.cluster_id != self.cluster_id {
            let why = format!(
                "member {:x} is of cluster {:x}, this is cluster {:x}",
                hello.from, hello.cluster_id, self.cluster_id
            );
            return refused(Refusal::OtherCluster, why);
        }
        if hello.to != self.member_id {
            let why = format!(
                "member {:x} looked for member {:x}, this is member {:x}",
                hello.from, hello.to, self.member_id
            );
            return refused(Refusal::OtherMember, why);
        }
        match links.get(&hello.from) {
            Some(link)
                if certificate
                    .is_some_and(|shown| !tls::fits(shown, link.urls.iter().map(Url::host))) =>
            {
                let why = format!(
                    "member {:x} has shown a certificate that is good for none of its URLs {}",
                    hello.from,
                    texts(&link.urls).join(",")
                );
                refused(Refusal::OtherCertificate, why)
            }
            Some(link) => {
                link.greeted(hello);
                Ok(Arc::clone(link))
            }
            None if is_removed(hello.from) => {
                let why = format!(
                    "member {:x} has been removed from cluster {:x}",
                    hello.from, self.cluster_id
                );
                refused(Refusal::Removed, why)
            }
            None => {
                let why = format!(
                    "member {:x} is not in cluster {:x}, or not yet known to be",
                    hello.from, self.cluster_id
                );
                refused(Refusal::NotMember, why)
            }
        }
    }

    /// Lets a stream in whose greeting was checked, and ends the peer's older one.
    pub(super) fn enter(self: &Arc<Self>, link: Arc<Link>, lane: Lane) -> Admitted {
        let (end_sender, end) = oneshot::channel();
        let number = {
            let mut streams = lock(&self.streams);
            streams.next += 1;
            let number = streams.next;
            streams.open.insert((link.id, lane), (number, end_sender));
            number
        };
        Admitted { link, admission: Arc::clone(self), lane, number, end }
    }

    /// Ends the streams of a member that is none any more.
    pub(super) fn end_streams_of(&self, member: u64) {
        lock(&self.streams).open.retain(|(id, _), _| *id != member);
    }
}

/// What is logged once in a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    /// Connections cannot be accepted.
    Accept,
    /// A greeting of this member of this cluster was refused.
    Refused(Refusal, u64, u64),
    /// A peer cannot be reached, or will not have us.
    Unreachable(Lane, u64, Option<Refusal>),
    /// A stream from a peer ended.
    Broke(Lane, u64, i32),
    /// A message to a peer is larger than any member takes.
    TooLarge(u64),
}

/// Lets the same thing be said once in a while.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<BTreeMap<Topic, Instant>>);

impl Throttle {
    pub(super) fn is_due(&self, topic: Topic) -> bool {
        let now = Instant::now();
        let mut said = lock(&self.0);
        said.retain(|_, at| now.saturating_duration_since(*at) < LOG_INTERVAL);
        if said.contains_key(&topic) || said.len() >= LOG_TOPICS_MAX {
            return false;
        }
        said.insert(topic, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::PeerLimits;
    use super::*;

    fn hello() -> Hello {
        Hello { cluster_id: 7, from: 2, to: 1, boot_id: 9, version: "0.1.0".to_owned() }
    }

    fn links() -> BTreeMap<u64, Arc<Link>> {
        let link = Link::new(2, Vec::new(), &PeerLimits::default(), Instant::now());
        BTreeMap::from([(2, Arc::new(link))])
    }

    #[test]
    fn strangers_and_other_clusters_are_told_why_they_are_refused() {
        let admission = Admission::new(7, 1);
        let refusal = |hello: Hello| {
            let status =
                admission.check(&hello, &links(), |id| id == 5, None).expect_err("refused");
            (Refusal::of(&status), status.message().to_owned())
        };
        assert!(admission.check(&hello(), &links(), |_| false, None).is_ok());
        assert_eq!(
            refusal(Hello { cluster_id: 8, ..hello() }),
            (Some(Refusal::OtherCluster), "member 2 is of cluster 8, this is cluster 7".to_owned())
        );
        assert_eq!(
            refusal(Hello { to: 3, ..hello() }),
            (
                Some(Refusal::OtherMember),
                "member 2 looked for member 3, this is member 1".to_owned()
            )
        );
        assert_eq!(
            refusal(Hello { from: 4, ..hello() }),
            (
                Some(Refusal::NotMember),
                "member 4 is not in cluster 7, or not yet known to be".to_owned()
            )
        );
        assert_eq!(
            refusal(Hello { from: 5, ..hello() }),
            (Some(Refusal::Removed), "member 5 has been removed from cluster 7".to_owned())
        );
    }

    #[tokio::test]
    async fn a_new_stream_ends_the_older_one_of_its_kind_only() {
        let admission = Arc::new(Admission::new(7, 1));
        let link = admission.check(&hello(), &links(), |_| false, None).expect("a member");
        let mut first = admission.enter(Arc::clone(&link), Lane::Bulk);
        let mut control = admission.enter(Arc::clone(&link), Lane::Control);
        let mut second = admission.enter(link, Lane::Bulk);
        first.ended().await;
        drop(first);
        assert!(second.end.try_recv() == Err(oneshot::error::TryRecvError::Empty));
        admission.end_streams_of(2);
        second.ended().await;
        control.ended().await;
    }

    #[test]
    fn the_same_refusal_is_logged_once() {
        let throttle = Throttle::default();
        assert!(throttle.is_due(Topic::TooLarge(2)));
        assert!(!throttle.is_due(Topic::TooLarge(2)));
        assert!(throttle.is_due(Topic::TooLarge(3)));
        for stranger in 0..2 * LOG_TOPICS_MAX as u64 {
            throttle.is_due(Topic::Refused(Refusal::NotMember, 7, stranger));
        }
        assert!(!throttle.is_due(Topic::Accept), "bounded");
    }
}
