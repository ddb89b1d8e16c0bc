//! Questions about leases, which the leader alone answers: asked here where this member leads, else at
//! the leader.

use member::Input;
use proto::peer::{self, leader_reply, leader_request};

use crate::door::{LeaseTtl, RequestError};
use crate::propose::Handle;
use crate::renewals::Renewed;
use crate::tickets::Held;

impl Handle {
    /// Renews a lease: its seconds, 0 for one that does not exist.
    pub(crate) async fn renew_lease(&self, id: i64) -> Result<i64, RequestError> {
        let lease = match self.ask_lease_if_leading(renewal(id)).await? {
            Ok(lease) => lease,
            Err(_) => {
                let handle = self.clone();
                let ask = move |ids| handle.clone().renew_at_leader(ids);
                self.shared.renewals.renew(id, ask).await?
            }
        };
        if lease.is_some() && self.shared.led.borrow().is_leader {
            self.shared.metrics.leases_renewed.inc();
        }
        Ok(lease.map_or(0, |lease| lease.ttl))
    }

    /// What is left of a lease.
    pub(crate) async fn lease_left(&self, id: i64) -> Result<Option<LeaseTtl>, RequestError> {
        match self.ask_lease_if_leading(|ticket| Input::LeaseTimeToLive { ticket, id }).await? {
            Ok(lease) => Ok(lease),
            Err(_) => {
                let call = leader_request::Call::LeaseTimeToLive(peer::LeaseTimeToLive { id });
                match self.ask_leader(call).await? {
                    leader_reply::Reply::LeaseTtl(ttl) => Ok(lease_ttl(&ttl)),
                    _ => Err(RequestError::Stopped),
                }
            }
        }
    }

    /// The inner error names the leader this member would ask.
    async fn ask_lease_if_leading(
        &self,
        input: impl FnOnce(u64) -> Input,
    ) -> Result<Result<Option<LeaseTtl>, Option<u64>>, RequestError> {
        let led = *self.shared.led.borrow();
        // Where another leads, the raft thread would only say so.
        match led.leader {
            Some(leader) if !led.is_leader => Ok(Err(Some(leader))),
            _ => self.ask_lease_here(input).await,
        }
    }

    /// Has the leader renew leases, at most [`crate::renewals::RENEWALS_PER_CALL_MAX`], in one call. One of an
    /// older version renews the first alone; it is asked for each of the others.
    async fn renew_at_leader(self, ids: Vec<i64>) -> Vec<Renewed> {
        let mut answers = self.renew_in_one_call(&ids).await;
        for id in &ids[answers.len()..] {
            answers.extend(self.renew_in_one_call(&[*id]).await);
        }
        answers
    }

    /// What the leader answers: for all, or for the first alone. An error is everybody's.
    async fn renew_in_one_call(&self, ids: &[i64]) -> Vec<Renewed> {
        let [id, more @ ..] = ids else { return Vec::new() };
        let call = peer::LeaseKeepAlive { id: *id, more: more.to_vec() };
        let mut led = self.shared.led.subscribe();
        let deadline_us = self.shared.deadline_us();
        let reply = loop {
            let call = leader_request::Call::LeaseKeepAlive(call.clone());
            tokio::select! {
                reply = self.ask_leader(call) => break reply,
                // Who was asked may never answer, and to renew twice is to renew once.
                _ = led.changed() => {}
            }
            if self.shared.now_us() >= deadline_us {
                break Err(RequestError::Timeout);
            }
        };
        match reply {
            Ok(leader_reply::Reply::LeaseTtl(first)) => {
                let is_for_all = first.more.len() == more.len();
                let others = if is_for_all { first.more.as_slice() } else { &[] };
                std::iter::once(&first).chain(others).map(|lease| Ok(lease_ttl(lease))).collect()
            }
            Ok(_) => vec![Err(RequestError::Stopped); ids.len()],
            Err(error) => vec![Err(error); ids.len()],
        }
    }

    /// The inner error names the leader this member would ask.
    pub(crate) async fn ask_lease_here(
        &self,
        input: impl FnOnce(u64) -> Input,
    ) -> Result<Result<Option<LeaseTtl>, Option<u64>>, RequestError> {
        let shared = &self.shared;
        let ticket = shared.next_sequence();
        let deadline_us = shared.deadline_us();
        let receiver = shared.leases.draw(ticket, deadline_us, ());
        let _held = Held { tickets: &shared.leases, ticket };
        if !shared.inbox.urgent(input(ticket)) {
            return Err(shared.inbox.refusal());
        }
        receiver.await.map_err(|_| {
            let is_late = shared.now_us() >= deadline_us;
            if is_late { RequestError::Timeout } else { RequestError::Stopped }
        })
    }
}

/// As a leader tells it: no time at all stands for no lease.
fn lease_ttl(told: &peer::LeaseTtl) -> Option<LeaseTtl> {
    (told.ttl >= 0).then_some(LeaseTtl { ttl: told.ttl, granted_ttl: told.granted_ttl })
}

/// What asks this member to renew a lease.
pub(crate) fn renewal(id: i64) -> impl FnOnce(u64) -> Input {
    move |ticket| Input::LeaseKeepAlive { ticket, id }
}
