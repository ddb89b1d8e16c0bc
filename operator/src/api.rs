//! The one door to the API server. Every call ends within a named time, every failure names the call,
//! and every write is counted. The client's own retries are off: a pass that fails is made again, from
//! what is there by then.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions,
};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::leader::Hold;
use crate::metrics::Metrics;

/// Longest one call may take.
const CALL: Duration = Duration::from_secs(10);
/// Objects asked for at a time.
const PAGE: u32 = 100;
/// Most pages of one list. What is beyond belongs to no cluster of nine members.
const PAGES_MAX: usize = 20;

/// A call that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// The API server refused.
    #[error("{call}: {code} {message}")]
    Refused {
        /// What was asked.
        call: String,
        /// HTTP's code.
        code: u16,
        /// Its words.
        message: String,
    },
    /// It did not answer.
    #[error("{call}: no answer in 10 s")]
    Silent {
        /// What was asked.
        call: String,
    },
    /// It could not be reached, or not be understood.
    #[error("{call}: {problem}")]
    Broken {
        /// What was asked.
        call: String,
        /// Why.
        problem: String,
    },
    /// The lease is lost: nothing may be written any more.
    #[error("{call}: not the leader any more")]
    NotLeader {
        /// What was to be written.
        call: String,
    },
}

impl ApiError {
    /// HTTP's code, where there is one.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            ApiError::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// The door.
#[derive(Clone)]
pub(crate) struct ApiDoor {
    client: Client,
    metrics: Arc<Metrics>,
    hold: Hold,
}

impl ApiDoor {
    /// Writes only while `hold` says so.
    pub(crate) fn new(client: Client, metrics: Arc<Metrics>, hold: Hold) -> Self {
        ApiDoor { client, metrics, hold }
    }

    /// The client behind it, for watches and events.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    fn typed<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    fn dynamic(&self, resource: &ApiResource, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, resource)
    }

    /// One object, as it is now; none if it is not there.
    pub(crate) async fn get<K>(&self, namespace: &str, name: &str) -> Result<Option<K>, ApiError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let call = || format!("get {} {namespace}/{name}", K::kind(&()));
        bounded(call, self.typed::<K>(namespace).get_opt(name)).await
    }

    /// One object of no namespace.
    pub(crate) async fn get_global<K>(&self, name: &str) -> Result<Option<K>, ApiError>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let call = || format!("get {} {name}", K::kind(&()));
        bounded(call, Api::<K>::all(self.client.clone()).get_opt(name)).await
    }

    /// One object of any kind; none if it, or its kind, is not there.
    pub(crate) async fn get_any(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<DynamicObject>, ApiError> {
        let call = || format!("get {} {namespace}/{name}", resource.kind);
        match bounded(call, self.dynamic(resource, namespace).get(name)).await {
            Ok(object) => Ok(Some(object)),
            // For a kind that is not there the server has no status, only the code.
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All objects with these labels, as they are now.
    pub(crate) async fn list<K>(&self, namespace: &str, labels: &str) -> Result<Vec<K>, ApiError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let call = || format!("list {} in {namespace} with {labels}", K::plural(&()));
        let api = self.typed::<K>(namespace);
        let mut params = ListParams::default().labels(labels).limit(PAGE);
        let mut found = Vec::new();
        for _ in 0..PAGES_MAX {
            let page = bounded(call, api.list(&params)).await?;
            found.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(found),
            }
        }
        Err(ApiError::Broken { call: call(), problem: "more than 2000 objects".to_owned() })
    }

    /// Server-side apply of a whole object under a field manager.
    pub(crate) async fn apply(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
        manager: &str,
        object: &Value,
    ) -> Result<DynamicObject, ApiError> {
        let call = || format!("apply {} {namespace}/{name}", resource.kind);
        self.begin_write(&resource.kind, "apply", call)?;
        let params = PatchParams::apply(manager).force();
        let api = self.dynamic(resource, namespace);
        bounded(call, api.patch(name, &params, &Patch::Apply(object))).await
    }

    /// Server-side apply of an object's status.
    pub(crate) async fn apply_status(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
        manager: &str,
        object: &Value,
    ) -> Result<(), ApiError> {
        let call = || format!("apply status of {} {namespace}/{name}", resource.kind);
        self.begin_write(&resource.kind, "status", call)?;
        let params = PatchParams::apply(manager).force();
        let api = self.dynamic(resource, namespace);
        bounded(call, api.patch_status(name, &params, &Patch::Apply(object))).await.map(drop)
    }

    /// A merge patch of one that has this uid.
    pub(crate) async fn merge(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<(), ApiError> {
        let call = || format!("patch {} {namespace}/{name}", resource.kind);
        self.begin_write(&resource.kind, "patch", call)?;
        let params = PatchParams {
            field_manager: Some(crate::resources::FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.dynamic(resource, namespace);
        bounded(call, api.patch(name, &params, &Patch::Merge(patch))).await.map(drop)
    }

    /// Deletes the one with this uid and no other. One that is gone, or that is another by now, is a
    /// success.
    pub(crate) async fn delete(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<(), ApiError> {
        let call = || format!("delete {} {namespace}/{name}", resource.kind);
        self.begin_write(&resource.kind, "delete", call)?;
        let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api = self.dynamic(resource, namespace);
        match bounded(call, api.delete(name, &params)).await {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.code(), Some(404 | 409)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Every write to the API server goes through here: refused once the lease is lost, else counted.
    pub(crate) fn begin_write(
        &self,
        kind: &str,
        verb: &str,
        call: impl Fn() -> String,
    ) -> Result<(), ApiError> {
        self.may_write(call)?;
        self.count(kind, verb);
        Ok(())
    }

    /// Refuses once the lease is lost.
    pub(crate) fn may_write(&self, call: impl Fn() -> String) -> Result<(), ApiError> {
        if self.hold.is_valid() { Ok(()) } else { Err(ApiError::NotLeader { call: call() }) }
    }

    /// Counts a write. Kinds are those that this crate knows, verbs those of this file.
    fn count(&self, kind: &str, verb: &str) {
        self.metrics.api_writes.with_label_values(&[kind, verb]).inc();
    }
}

/// The call, within its time, and its failure under its name.
async fn bounded<T>(
    call: impl Fn() -> String,
    answer: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(CALL, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => Err(ApiError::Refused {
            call: call(),
            code: status.code,
            message: status.message.clone(),
        }),
        Ok(Err(error)) => Err(ApiError::Broken { call: call(), problem: error.to_string() }),
        Err(_) => Err(ApiError::Silent { call: call() }),
    }
}
