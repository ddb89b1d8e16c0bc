//! What a member says of itself once it is part of a cluster: its name and where clients reach it,
//! and, as leader, which version the cluster speaks.

use std::time::Duration;

use proto::log::command::Op;
use proto::log::{ClusterVersionSet, MemberPublish};

use crate::door::Door;
use crate::propose::Handle;
use crate::version;

/// Between two tries.
const RETRY: Duration = Duration::from_millis(500);

/// What to say.
#[derive(Clone, Debug)]
pub struct StewardConfig {
    /// The member's name.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

/// Publishes this member, then keeps the cluster version set while it leads. Ends with the node.
pub async fn run(handle: Handle, config: StewardConfig) {
    let mut leadership = handle.leader_changes();
    loop {
        if leadership.wait_for(|now| now.leader.is_some()).await.is_err() {
            return;
        }
        let publish = MemberPublish {
            member_id: handle.identity().member_id,
            name: config.name.clone(),
            client_urls: config.client_urls.clone(),
            version: version::ETCD_VERSION.to_owned(),
        };
        match handle.propose(Op::MemberPublish(publish)).await {
            Ok(_) => break,
            Err(error) => {
                tracing::warn!(%error, "publishing this member's name and addresses");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    loop {
        if leadership.wait_for(|now| now.leader == Some(handle.identity().member_id)).await.is_err()
        {
            return;
        }
        if handle.view().cluster_version() == Some(version::ETCD_CLUSTER_VERSION) {
            if leadership.changed().await.is_err() {
                return;
            }
            continue;
        }
        let version = version::ETCD_CLUSTER_VERSION.to_owned();
        if let Err(error) =
            handle.propose(Op::ClusterVersionSet(ClusterVersionSet { version })).await
        {
            tracing::warn!(%error, "setting the cluster version");
            tokio::time::sleep(RETRY).await;
        }
    }
}
