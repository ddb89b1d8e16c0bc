//! The only file that changes anything. Each step may be done twice or be cut short: what is there
//! already is left, deletions name the uid they are meant for, and a change of the member table that was
//! carried out before counts as carried out.
//!
//! Nothing that somebody else made is touched: what was seen under a name of ours goes along as a
//! precondition.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use kube::api::ApiResource;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::{ApiDoor, ApiError};
use crate::clock;
use crate::crd::{MetaStore, MetaStoreStatus};
use crate::members::{Address, Change, Key, MemberError, Members, Submission};
use crate::memory::Memory;
use crate::observe::{Look, is_optional, json_of};
use crate::observed::Ordinal;
use crate::plan::{Event, Step};
use crate::resources::{self, FIELD_MANAGER, STATUS_FIELD_MANAGER, Settings};

/// What acts.
pub(crate) struct Hands<'a, M> {
    /// The API server.
    pub(crate) api: &'a ApiDoor,
    /// The members.
    pub(crate) members: &'a M,
    /// What is kept between passes.
    pub(crate) memory: &'a Memory,
    /// What the operator was told for all clusters.
    pub(crate) settings: &'a Settings,
    /// Whose.
    pub(crate) key: &'a Key,
}

/// A step that could not be carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ActError {
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A member.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// What the step is about was not seen.
    #[error("{0}")]
    Unseen(String),
}

/// The name of a step in figures and logs.
pub(crate) fn name_of(step: &Step) -> &'static str {
    match step {
        Step::ApplyChildren => "ApplyChildren",
        Step::ApplyWorkload { .. } => "ApplyWorkload",
        Step::ExpandClaim { .. } => "ExpandClaim",
        Step::AddLearner { .. } => "AddLearner",
        Step::Promote { .. } => "Promote",
        Step::MoveLeader { .. } => "MoveLeader",
        Step::RemoveMember { .. } => "RemoveMember",
        Step::DeletePod { .. } => "DeletePod",
        Step::DeleteClaim { .. } => "DeleteClaim",
        Step::SubmitTuning { .. } => "SubmitTuning",
    }
}

impl<M: Members> Hands<'_, M> {
    fn namespace(&self) -> &str {
        &self.key.0
    }

    /// Carries out one step. What there is to tell of it comes back.
    pub(crate) async fn act(&self, look: &Look, step: &Step) -> Result<Vec<Event>, ActError> {
        let object = &look.observed.object;
        match step {
            Step::ApplyChildren => return self.apply_children(look).await,
            Step::ApplyWorkload { replicas, beginning } => {
                let name = object.name_any();
                if look.observed.foreign.iter().any(|other| other.starts_with("StatefulSet ")) {
                    let why = format!("StatefulSet {name} was made by somebody else");
                    return Err(ActError::Unseen(why));
                }
                let live = look.workload.as_ref();
                let wanted = resources::workload(object, self.settings, *replicas, beginning, live);
                let uid = live.and_then(|live| live.metadata.uid.as_deref());
                let resource = resources::workload_resource();
                self.apply(&resource, &name, json_of(&wanted), uid).await?;
            }
            Step::ExpandClaim { ordinal, bytes } => {
                return self.expand_claim(look, *ordinal, *bytes).await;
            }
            Step::AddLearner { ordinal } => {
                let peer_url = resources::peer_url(object, self.settings, *ordinal);
                self.change(look, Change::AddLearner { peer_url }).await?;
            }
            Step::Promote { member_id } => self.change(look, Change::Promote(*member_id)).await?,
            Step::RemoveMember { member_id } => {
                self.change(look, Change::Remove(*member_id)).await?;
            }
            Step::MoveLeader { from, to } => {
                let address = look.addresses.iter().find(|address| address.ordinal == *from);
                self.change_at(look, address, Change::MoveLeader(*to)).await?;
            }
            Step::DeletePod { ordinal, uid } => {
                let name = resources::pod_name(object, *ordinal);
                self.api.delete(&erased::<Pod>(), self.namespace(), &name, uid).await?;
            }
            Step::DeleteClaim { ordinal, uid } => {
                let name = resources::claim_name(object, *ordinal);
                let kind = erased::<PersistentVolumeClaim>();
                self.api.delete(&kind, self.namespace(), &name, uid).await?;
            }
            Step::SubmitTuning { expected_epoch, to, reason, supersede } => {
                let submission = Submission {
                    expected_epoch: *expected_epoch,
                    to: *to,
                    reason: reason.clone(),
                    at_ms: clock::now_s() * 1_000,
                    supersede: *supersede,
                };
                // A refusal is an answer: somebody else was first, or a member is coming or going.
                if let Err(error) = self.change(look, Change::SubmitTuning(submission)).await {
                    let ActError::Member(error) = error else { return Err(error) };
                    let note = format!("{reason}: {error}");
                    return Ok(vec![Event { warning: true, reason: "AutotuneHeld", note }]);
                }
            }
        }
        Ok(Vec::new())
    }

    async fn apply_children(&self, look: &Look) -> Result<Vec<Event>, ActError> {
        let mut told = look.told.clone();
        let foreign = |kind: &str, name: &str| {
            look.observed.foreign.iter().any(|other| *other == format!("{kind} {name}"))
        };
        for secret in &look.secrets {
            let name = secret.name_any();
            if !foreign("Secret", &name) {
                self.apply(&erased::<Secret>(), &name, json_of(secret), None).await?;
            }
        }
        for child in &look.stale {
            let (kind, name) = (&child.resource.kind, child.name());
            match self.apply(&child.resource, &name, child.value(), None).await {
                Ok(()) => {}
                Err(error)
                    if is_optional(&child.resource) && matches!(error.code(), Some(403 | 404)) =>
                {
                    self.memory.learn_absent(kind, Instant::now());
                    if !self.memory.of(self.key, |kept| kept.told_absent.insert(kind.clone())) {
                        continue;
                    }
                    let plural = &child.resource.plural;
                    told.push(Event {
                        warning: true,
                        reason: "KindMissing",
                        note: format!(
                            "{kind} {name} cannot be made: install {plural}.{} and let the \
                             operator use it, or do without it",
                            child.resource.group
                        ),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
        for child in &look.unwanted {
            self.api.delete(&child.resource, self.namespace(), &child.name, &child.uid).await?;
        }
        Ok(told)
    }

    /// Server-side apply, of the object with this uid if there was one.
    async fn apply(
        &self,
        resource: &ApiResource,
        name: &str,
        wanted: Value,
        uid: Option<&str>,
    ) -> Result<(), ApiError> {
        let mut sent = wanted.clone();
        if let Some(uid) = uid {
            sent["metadata"]["uid"] = json!(uid);
        }
        let made = self.api.apply(resource, self.namespace(), name, FIELD_MANAGER, &sent).await?;
        let made = json_of(&made);
        self.memory.of(self.key, |kept| kept.applied(&resource.kind, name, &wanted, &made));
        Ok(())
    }

    async fn expand_claim(
        &self,
        look: &Look,
        ordinal: Ordinal,
        bytes: i64,
    ) -> Result<Vec<Event>, ActError> {
        let name = resources::claim_name(&look.observed.object, ordinal);
        let Some(claim) = look.observed.claims.get(&ordinal) else {
            return Err(ActError::Unseen(format!("claim {name} was not seen")));
        };
        let patch = json!({
            "metadata": { "uid": claim.uid },
            "spec": { "resources": { "requests": { "storage": bytes.to_string() } } },
        });
        let kind = erased::<PersistentVolumeClaim>();
        match self.api.merge(&kind, self.namespace(), &name, &patch).await {
            Ok(()) => Ok(Vec::new()),
            // Its class cannot, though it could not be asked.
            Err(error) if matches!(error.code(), Some(403 | 422)) => {
                if let Some(class) = look.classes.get(&ordinal) {
                    self.memory.learn_class(class, false, Instant::now());
                }
                let note = format!("claim {name} cannot grow: {error}");
                Ok(vec![Event { warning: true, reason: "ExpansionRefused", note }])
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A change of the member table, through the leader where it is known.
    async fn change(&self, look: &Look, change: Change) -> Result<(), ActError> {
        let answers = &look.observed.answers;
        let at = |ordinal: Ordinal| look.addresses.iter().find(|a| a.ordinal == ordinal);
        let leads = answers.iter().find(|(_, a)| a.leader_id != 0 && a.leader_id == a.member_id);
        let follows = answers.iter().find(|(_, answer)| answer.leader_id != 0);
        let address = leads.or(follows).and_then(|(ordinal, _)| at(*ordinal));
        self.change_at(look, address, change).await
    }

    async fn change_at(
        &self,
        look: &Look,
        address: Option<&Address>,
        change: Change,
    ) -> Result<(), ActError> {
        let Some(address) = address else {
            return Err(ActError::Unseen("no member that knows a leader can be asked".to_owned()));
        };
        self.api.may_write(|| format!("{change:?}"))?;
        self.members.change(self.key, &look.security, address, &change).await?;
        Ok(())
    }

    /// Reports, if there is anything new to report. Whether there was.
    pub(crate) async fn report(
        &self,
        object: &MetaStore,
        status: &MetaStoreStatus,
    ) -> Result<bool, ApiError> {
        if object.status.as_ref() == Some(status) {
            return Ok(false);
        }
        let resource = erased::<MetaStore>();
        let name = object.name_any();
        let applied = json!({
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": { "name": name, "namespace": self.namespace(), "uid": object.metadata.uid },
            "status": status,
        });
        self.api
            .apply_status(&resource, self.namespace(), &name, STATUS_FIELD_MANAGER, &applied)
            .await?;
        Ok(true)
    }
}

fn erased<K: Resource<DynamicType = ()>>() -> ApiResource {
    ApiResource::erase::<K>(&())
}
