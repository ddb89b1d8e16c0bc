//! Who is a member.

use proto::etcdserverpb::{
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MemberUpdateRequest, MemberUpdateResponse,
};

use crate::Client;
use crate::call::Method;
use crate::error::Result;

const LIST: Method<MemberListRequest, MemberListResponse> =
    Method::read("/etcdserverpb.Cluster/MemberList");
const ADD: Method<MemberAddRequest, MemberAddResponse> =
    Method::write("/etcdserverpb.Cluster/MemberAdd");
const REMOVE: Method<MemberRemoveRequest, MemberRemoveResponse> =
    Method::write("/etcdserverpb.Cluster/MemberRemove");
const UPDATE: Method<MemberUpdateRequest, MemberUpdateResponse> =
    Method::write("/etcdserverpb.Cluster/MemberUpdate");
const PROMOTE: Method<MemberPromoteRequest, MemberPromoteResponse> =
    Method::write("/etcdserverpb.Cluster/MemberPromote");

impl Client {
    /// The members as the cluster agrees on them.
    pub async fn members(&self) -> Result<MemberListResponse> {
        self.route.unary(&LIST, MemberListRequest { linearizable: true }).await
    }

    /// The members as the asked member knows them; needs no leader.
    pub async fn members_known(&self) -> Result<MemberListResponse> {
        self.route.unary(&LIST, MemberListRequest { linearizable: false }).await
    }

    /// A new voting member that will be reached at these peer URLs.
    pub async fn member_add(&self, peer_urls: Vec<String>) -> Result<MemberAddResponse> {
        let request = MemberAddRequest { peer_ur_ls: peer_urls, is_learner: false };
        self.route.unary(&ADD, request).await
    }

    /// A new member that only learns until it is promoted.
    pub async fn member_add_learner(&self, peer_urls: Vec<String>) -> Result<MemberAddResponse> {
        let request = MemberAddRequest { peer_ur_ls: peer_urls, is_learner: true };
        self.route.unary(&ADD, request).await
    }

    /// Makes a learner that has caught up a voter.
    pub async fn member_promote(&self, id: u64) -> Result<MemberPromoteResponse> {
        self.route.unary(&PROMOTE, MemberPromoteRequest { id }).await
    }

    /// Gives a member new peer URLs.
    pub async fn member_update(
        &self,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Result<MemberUpdateResponse> {
        self.route.unary(&UPDATE, MemberUpdateRequest { id, peer_ur_ls: peer_urls }).await
    }

    /// Removes a member for good.
    pub async fn member_remove(&self, id: u64) -> Result<MemberRemoveResponse> {
        self.route.unary(&REMOVE, MemberRemoveRequest { id }).await
    }
}
