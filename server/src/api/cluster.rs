//! The members. Changes go through consensus; headers here have no revision, as in etcd.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use proto::etcdserverpb::cluster_server::Cluster;
use proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};
use proto::log::command::Op;
use proto::log::membership_change::Kind;
use proto::log::{self, MemberUpdate};
use state::Response as Applied;
use tonic::{Request, Response, Status};

use super::Shared;
use super::error::bad_member_urls;
use crate::config::{Url, texts};
use crate::door::{Door, MembershipChange};

/// The service.
pub(super) struct ClusterService<D> {
    shared: Arc<Shared<D>>,
}

impl<D: Door> ClusterService<D> {
    pub(super) fn new(shared: Arc<Shared<D>>) -> Self {
        Self { shared }
    }

    async fn change(&self, kind: Kind, member: log::Member) -> Result<Vec<Member>, Status> {
        let change = MembershipChange { kind, member };
        Ok(members(self.shared.door.change_membership(change).await?))
    }
}

/// Members as clients see them, by id.
pub(crate) fn members(mut members: Vec<log::Member>) -> Vec<Member> {
    members.sort_by_key(|member| member.id);
    members
        .into_iter()
        .map(|member| Member {
            id: member.id,
            name: member.name,
            peer_ur_ls: member.peer_urls,
            client_ur_ls: member.client_urls,
            is_learner: member.is_learner,
        })
        .collect()
}

/// Checked, sorted URLs of a request.
fn peer_urls(given: &[String]) -> Result<Vec<String>, Status> {
    let urls: Result<Vec<_>, _> = given.iter().map(|text| Url::parse(text)).collect();
    match urls {
        Ok(urls) if !urls.is_empty() => {
            let mut urls = texts(&urls);
            urls.sort();
            Ok(urls)
        }
        _ => Err(bad_member_urls()),
    }
}

/// The id of a new member. Who asks twice within a second gets the same one, and an error.
fn new_member_id(cluster_id: u64, peer_urls: &[String], now_seconds: u64) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&cluster_id.to_le_bytes());
    for url in peer_urls {
        hasher.update(url.as_bytes());
    }
    hasher.update(&now_seconds.to_le_bytes());
    let mut id = [0; 8];
    hasher.finalize_xof().fill(&mut id);
    // 0 means "nobody" wherever ids are written.
    u64::from_le_bytes(id).max(1)
}

#[tonic::async_trait]
impl<D: Door> Cluster for ClusterService<D> {
    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let request = request.into_inner();
        let peer_urls = peer_urls(&request.peer_ur_ls)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let cluster_id = self.shared.door.identity().cluster_id;
        let member = log::Member {
            id: new_member_id(cluster_id, &peer_urls, now.as_secs()),
            peer_urls,
            is_learner: request.is_learner,
            ..log::Member::default()
        };
        let kind = if request.is_learner { Kind::AddLearner } else { Kind::AddVoter };
        let added = members(vec![member.clone()]).pop();
        let members = self.change(kind, member).await?;
        let header = self.shared.header(0);
        Ok(Response::new(MemberAddResponse { header, member: added, members }))
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        let member = log::Member { id: request.into_inner().id, ..log::Member::default() };
        let members = self.change(Kind::Remove, member).await?;
        Ok(Response::new(MemberRemoveResponse { header: self.shared.header(0), members }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        let request = request.into_inner();
        let peer_urls = peer_urls(&request.peer_ur_ls)?;
        let update = MemberUpdate { member_id: request.id, peer_urls };
        let outcome = self.shared.propose(Op::MemberUpdate(update)).await?;
        let Applied::Members(all) = outcome.response else {
            return Err(Shared::<D>::mismatch(&outcome));
        };
        let header = self.shared.header(0);
        Ok(Response::new(MemberUpdateResponse { header, members: members(all) }))
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let view = if request.into_inner().linearizable {
            self.shared.door.linearizable_view().await?
        } else {
            self.shared.door.view()
        };
        let members = members(view.members());
        Ok(Response::new(MemberListResponse { header: self.shared.header(0), members }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        let member = log::Member { id: request.into_inner().id, ..log::Member::default() };
        let members = self.change(Kind::Promote, member).await?;
        Ok(Response::new(MemberPromoteResponse { header: self.shared.header(0), members }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_by_cluster_urls_and_second() {
        let urls = ["http://a:1".to_owned()];
        let id = new_member_id(1, &urls, 7);
        assert_eq!(id, new_member_id(1, &urls, 7));
        assert_ne!(id, new_member_id(2, &urls, 7));
        assert_ne!(id, new_member_id(1, &["http://a:2".to_owned()], 7));
        assert_ne!(id, new_member_id(1, &urls, 8));
    }

    #[test]
    fn urls_are_checked_and_sorted() {
        let good = ["http://b:1".to_owned(), "http://a:1".to_owned()];
        assert_eq!(peer_urls(&good).expect("good"), ["http://a:1", "http://b:1"]);
        for bad in [vec![], vec!["foo".to_owned()]] {
            let status = peer_urls(&bad).expect_err("bad");
            assert_eq!(status.message(), "etcdserver: given member URLs are invalid");
        }
    }
}
