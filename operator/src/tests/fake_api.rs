//! An API server in memory, as far as the operator uses one: get, list by labels, watch, create, update,
//! server-side apply, merge patches and deletion with preconditions; and of the controllers behind it,
//! the one for StatefulSets and a kubelet that starts pods at once.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use kube::client::Body;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

type Answer = Response<StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>>;

/// A request that came.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    /// `apps/statefulsets/ns/demo`: group (empty: core), plural, namespace, name, subresource.
    pub(super) path: String,
    pub(super) body: Value,
    pub(super) watches: bool,
}

impl Asked {
    pub(super) fn writes(&self) -> bool {
        self.method != Method::GET
    }
}

/// The server. Clones are one.
#[derive(Clone)]
pub(super) struct FakeApi {
    inside: Arc<Mutex<Inside>>,
    version: watch::Sender<u64>,
}

type Hook = Box<dyn FnMut(&mut Inside, &Asked) + Send>;

#[derive(Default)]
pub(super) struct Inside {
    /// By collection (`apps/statefulsets`), then namespace and name.
    objects: BTreeMap<String, BTreeMap<(String, String), Value>>,
    /// What each manager has applied, by collection, namespace, name and manager.
    applied: BTreeMap<(String, String, String, String), Value>,
    /// (version, type, collection, object)
    events: Vec<(u64, &'static str, String, Value)>,
    version: u64,
    uids: u64,
    pub(super) log: Vec<Asked>,
    /// Groups that are not installed.
    pub(super) absent: Vec<&'static str>,
    /// Writes that are still carried out before the server falls silent.
    pub(super) writes_left: Option<usize>,
    hook: Option<Hook>,
    /// What the server makes of objects, by collection.
    pub(super) rewrite: Option<fn(&str, &mut Value)>,
}

impl FakeApi {
    pub(super) fn new() -> Self {
        FakeApi { inside: Arc::default(), version: watch::channel(0).0 }
    }

    pub(super) fn client(&self) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called before each request is carried out.
    pub(super) fn on_request(&self, hook: impl FnMut(&mut Inside, &Asked) + Send + 'static) {
        self.lock().hook = Some(Box::new(hook));
    }

    /// Puts an object there as a user would.
    pub(super) fn put(&self, collection: &str, object: Value) {
        self.lock().put(collection, object);
        self.published();
    }

    pub(super) fn get(&self, collection: &str, name: &str) -> Option<Value> {
        self.lock().get(collection, name)
    }

    pub(super) fn log(&self) -> Vec<Asked> {
        self.lock().log.clone()
    }

    /// Writes so far, without those about leases.
    pub(super) fn writes(&self) -> Vec<String> {
        let log = self.log();
        let writes = log.iter().filter(|asked| asked.writes() && !asked.path.contains("leases"));
        writes.map(|asked| format!("{} {}", asked.method, asked.path)).collect()
    }

    fn published(&self) {
        let version = self.lock().version;
        self.version.send_replace(version);
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let query: BTreeMap<String, String> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), decoded(value)))
            .collect();
        let place = Place::parse(parts.uri.path());
        let asked = Asked {
            method: parts.method.clone(),
            path: place.to_string(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
            watches: query.contains_key("watch"),
        };
        let watches = asked.watches;
        let result = {
            let mut inside = self.lock();
            inside.log.push(asked.clone());
            if let Some(mut hook) = inside.hook.take() {
                hook(&mut inside, &asked);
                inside.hook.get_or_insert(hook);
            }
            inside.answer(&place, &asked, &query)
        };
        self.published();
        match result {
            Ok(_) if watches => self.watched(&place, &query),
            Ok(value) => whole(StatusCode::OK, &value),
            Err((code, message)) => {
                let reason = match code {
                    404 => "NotFound",
                    409 => "Conflict",
                    _ => "InternalError",
                };
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "message": message, "reason": reason, "code": code,
                });
                whole(StatusCode::from_u16(code).unwrap(), &status)
            }
        }
    }

    /// Events from a version on, until the time that was asked for is over.
    fn watched(&self, place: &Place, query: &BTreeMap<String, String>) -> Answer {
        struct Position {
            server: FakeApi,
            changes: watch::Receiver<u64>,
            next: usize,
            end: tokio::time::Instant,
        }
        let since: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        let seconds = query.get("timeoutSeconds").and_then(|v| v.parse().ok()).unwrap_or(290);
        let position = Position {
            server: self.clone(),
            changes: self.version.subscribe(),
            next: self.lock().events.partition_point(|(version, ..)| *version <= since),
            end: tokio::time::Instant::now() + Duration::from_secs(seconds),
        };
        let (collection, namespace) = (place.collection.clone(), place.namespace.clone());
        let labels = query.get("labelSelector").cloned().unwrap_or_default();
        let lines = futures::stream::unfold(position, move |mut position| {
            let (collection, namespace, labels) =
                (collection.clone(), namespace.clone(), labels.clone());
            async move {
                loop {
                    let event = position.server.lock().events.get(position.next).cloned();
                    let Some((_, kind, of, object)) = event else {
                        let changed = position.changes.changed();
                        match tokio::time::timeout_at(position.end, changed).await {
                            Ok(Ok(())) => continue,
                            _ => return None,
                        }
                    };
                    position.next += 1;
                    let wanted = of == collection
                        && (namespace.is_empty() || object["metadata"]["namespace"] == namespace)
                        && has_labels(&object, &labels);
                    if wanted {
                        let line = json!({"type": kind, "object": object}).to_string() + "\n";
                        return Some((Ok(Frame::data(Bytes::from(line))), position));
                    }
                }
            }
        });
        Response::new(StreamBody::new(lines.boxed()))
    }
}

fn whole(code: StatusCode, value: &Value) -> Answer {
    let bytes = Bytes::from(value.to_string());
    let body = futures::stream::once(async move { Ok(Frame::data(bytes)) }).boxed();
    let mut answer = Response::new(StreamBody::new(body));
    *answer.status_mut() = code;
    answer
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digits = String::from_utf8(vec![*high, *low]).unwrap();
                bytes.push(u8::from_str_radix(&digits, 16).unwrap());
                rest = after;
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// Where a request goes.
#[derive(Clone, Debug, Default)]
struct Place {
    collection: String,
    namespace: String,
    name: String,
    subresource: String,
}

impl Place {
    /// `/apis/GROUP/VERSION/namespaces/NS/PLURAL/NAME/SUB`, or `/api/v1/…`.
    fn parse(path: &str) -> Self {
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        let group = match parts.next() {
            Some("apis") => parts.next().unwrap_or_default(),
            _ => "",
        };
        let _version = parts.next();
        let mut namespace = "";
        if parts.peek() == Some(&"namespaces") {
            parts.next();
            namespace = parts.next().unwrap_or_default();
        }
        let plural = parts.next().unwrap_or_default();
        Place {
            collection: format!("{group}/{plural}"),
            namespace: namespace.to_owned(),
            name: parts.next().unwrap_or_default().to_owned(),
            subresource: parts.next().unwrap_or_default().to_owned(),
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Place { collection, namespace, name, subresource } = self;
        let parts = [collection, namespace, name, subresource];
        let parts: Vec<&str> =
            parts.iter().map(|part| &part[..]).filter(|p| !p.is_empty()).collect();
        f.write_str(&parts.join("/"))
    }
}

fn has_labels(object: &Value, selector: &str) -> bool {
    selector.split(',').filter(|part| !part.is_empty()).all(|part| match part.split_once('=') {
        Some((key, value)) => object["metadata"]["labels"][key] == value,
        None => object["metadata"]["labels"].get(part).is_some(),
    })
}

type Refusal = (u16, String);

impl Inside {
    fn answer(
        &mut self,
        place: &Place,
        asked: &Asked,
        query: &BTreeMap<String, String>,
    ) -> Result<Value, Refusal> {
        let group = place.collection.split('/').next().unwrap_or_default();
        if self.absent.contains(&group) {
            return Err((404, "404 page not found".to_owned()));
        }
        let is_lease = place.collection.ends_with("leases");
        if asked.writes() && !is_lease && !self.may_write() {
            return Err((500, "the fake server is silent".to_owned()));
        }
        let missing = || (404, format!("{place} not found"));
        let key = (place.namespace.clone(), place.name.clone());
        let answer = match asked.method {
            Method::GET if place.name.is_empty() => Ok(self.list(place, query)),
            Method::GET => self.at(place, &key).cloned().ok_or_else(missing),
            Method::POST => {
                let mut object = asked.body.clone();
                object["metadata"]["namespace"] = json!(place.namespace);
                let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                if self.at(place, &(place.namespace.clone(), name)).is_some() {
                    return Err((409, "already exists".to_owned()));
                }
                Ok(self.put(&place.collection, object))
            }
            Method::PUT => {
                let live = self.at(place, &key).cloned().ok_or_else(missing)?;
                let sent = &asked.body["metadata"]["resourceVersion"];
                if !sent.is_null() && *sent != live["metadata"]["resourceVersion"] {
                    return Err((409, "the object has been modified".to_owned()));
                }
                Ok(self.put(&place.collection, asked.body.clone()))
            }
            Method::PATCH if query.contains_key("fieldManager") && query.contains_key("force") => {
                self.apply(place, &asked.body, &query["fieldManager"])
            }
            Method::PATCH => {
                let mut object = self.at(place, &key).cloned().ok_or_else(missing)?;
                let uid = &asked.body["metadata"]["uid"];
                if !uid.is_null() && *uid != object["metadata"]["uid"] {
                    return Err((409, "another uid".to_owned()));
                }
                merge(&mut object, &asked.body);
                Ok(self.put(&place.collection, object))
            }
            Method::DELETE => {
                let live = self.at(place, &key).cloned().ok_or_else(missing)?;
                let wanted = &asked.body["preconditions"]["uid"];
                if !wanted.is_null() && *wanted != live["metadata"]["uid"] {
                    return Err((409, "another uid".to_owned()));
                }
                let pod = key.1.strip_prefix("data-").map(|pod| format!("{}/{pod}", key.0));
                let in_use = place.collection == "/persistentvolumeclaims"
                    && pod.is_some_and(|pod| self.get("/pods", &pod).is_some());
                if in_use {
                    // It goes when its pod has gone.
                    let mut claim = live.clone();
                    claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
                    self.put(&place.collection, claim);
                } else {
                    self.remove(&place.collection, &key);
                }
                Ok(live)
            }
            _ => Err((405, "not here".to_owned())),
        };
        let wakes = ["apps/statefulsets", "/pods", "/persistentvolumeclaims"];
        if asked.writes() && wakes.contains(&&place.collection[..]) {
            self.run_controllers_of(&place.name);
        }
        answer
    }

    /// Whether one more write is carried out; it is counted.
    pub(super) fn may_write(&mut self) -> bool {
        match &mut self.writes_left {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    fn at(&self, place: &Place, key: &(String, String)) -> Option<&Value> {
        self.objects.get(&place.collection)?.get(key)
    }

    /// By collection and `namespace/name`.
    pub(super) fn get(&self, collection: &str, name: &str) -> Option<Value> {
        let (namespace, name) = name.split_once('/').unwrap();
        self.objects.get(collection)?.get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    fn list(&self, place: &Place, query: &BTreeMap<String, String>) -> Value {
        let labels = query.get("labelSelector").map_or("", |labels| &labels[..]);
        let found = self.objects.get(&place.collection).into_iter().flatten();
        let items: Vec<&Value> = found
            .filter(|((namespace, _), _)| {
                place.namespace.is_empty() || *namespace == place.namespace
            })
            .map(|(_, object)| object)
            .filter(|object| has_labels(object, labels))
            .collect();
        json!({
            "kind": "List", "apiVersion": "v1",
            "metadata": { "resourceVersion": self.version.to_string() },
            "items": items,
        })
    }

    /// Writes an object; only a real change is one.
    pub(super) fn put(&mut self, collection: &str, mut object: Value) -> Value {
        if let Some(rewrite) = self.rewrite {
            rewrite(collection, &mut object);
        }
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
        let key = (text("namespace"), text("name"));
        let before = self.objects.get(collection).and_then(|all| all.get(&key)).cloned();
        let metadata = &mut object["metadata"];
        match &before {
            Some(before) => {
                let old = &before["metadata"];
                for field in ["uid", "creationTimestamp", "resourceVersion", "generation"] {
                    metadata[field] = old[field].clone();
                }
                if *before == object {
                    return object;
                }
            }
            None => {
                self.uids += 1;
                metadata["uid"] = json!(format!("uid-{}", self.uids));
                metadata["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
                metadata["generation"] = json!(1);
            }
        }
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        if let Some(before) = &before
            && before["spec"] != object["spec"]
        {
            let generation = before["metadata"]["generation"].as_i64().unwrap_or(1);
            object["metadata"]["generation"] = json!(generation + 1);
        }
        let kind = if before.is_some() { "MODIFIED" } else { "ADDED" };
        self.events.push((self.version, kind, collection.to_owned(), object.clone()));
        self.objects.entry(collection.to_owned()).or_default().insert(key, object.clone());
        object
    }

    pub(super) fn remove(&mut self, collection: &str, key: &(String, String)) {
        let Some(object) = self.objects.get_mut(collection).and_then(|all| all.remove(key)) else {
            return;
        };
        self.version += 1;
        self.events.push((self.version, "DELETED", collection.to_owned(), object));
        let gone = (collection.to_owned(), key.0.clone(), key.1.clone());
        self.applied.retain(|(c, ns, name, _), _| (c, ns, name) != (&gone.0, &gone.1, &gone.2));
    }

    fn apply(&mut self, place: &Place, sent: &Value, manager: &str) -> Result<Value, Refusal> {
        let key = (place.namespace.clone(), place.name.clone());
        let live = self.at(place, &key).cloned();
        let uid = sent["metadata"]["uid"].as_str();
        let live_uid = live.as_ref().and_then(|live| live["metadata"]["uid"].as_str());
        if uid.is_some() && uid != live_uid {
            return Err((409, "another uid".to_owned()));
        }
        let mut wanted = sent.clone();
        if place.subresource == "status" {
            if live.is_none() {
                return Err((404, format!("{place} not found")));
            }
            wanted = json!({ "status": sent["status"] });
        } else if let Some(fields) = wanted.as_object_mut() {
            fields.remove("status");
        }
        let slot = (place.collection.clone(), key.0, key.1, manager.to_owned());
        let before = self.applied.insert(slot, wanted.clone());
        let mut object = live.unwrap_or_else(
            || json!({ "metadata": { "namespace": place.namespace, "name": place.name } }),
        );
        if let Some(before) = before {
            drop_missing(&mut object, &before, &wanted);
        }
        merge(&mut object, &wanted);
        Ok(self.put(&place.collection, object))
    }

    /// StatefulSets get their pods and claims, and pods run.
    pub(super) fn run_controllers(&mut self) {
        self.run_controllers_of("");
    }

    /// For the sets that an object of this name is of.
    fn run_controllers_of(&mut self, touched: &str) {
        let sets = self.objects.get("apps/statefulsets").cloned().unwrap_or_default();
        let sets = sets.into_iter().filter(|((_, name), _)| {
            let bare = touched.strip_prefix("data-").unwrap_or(touched);
            touched.is_empty() || bare == name || bare.rsplit_once('-').is_some_and(|b| b.0 == name)
        });
        for ((namespace, name), mut set) in sets.collect::<Vec<_>>() {
            let replicas = set["spec"]["replicas"].as_i64().unwrap_or(1);
            set["status"]["observedGeneration"] = set["metadata"]["generation"].clone();
            set["status"]["replicas"] = json!(replicas);
            self.put("apps/statefulsets", set.clone());
            let prefix = format!("{name}-");
            let beyond = |pod: &str| {
                let ordinal = pod.strip_prefix(&prefix).and_then(|n| n.parse::<i64>().ok());
                ordinal.is_some_and(|ordinal| ordinal >= replicas)
            };
            let keys = |inside: &Inside, collection: &str| -> Vec<(String, String)> {
                let all = inside.objects.get(collection).into_iter().flatten();
                all.map(|(key, _)| key.clone()).filter(|key| key.0 == namespace).collect()
            };
            for key in keys(self, "/pods").into_iter().filter(|key| beyond(&key.1)) {
                self.remove("/pods", &key);
            }
            let claims = "/persistentvolumeclaims";
            for key in keys(self, claims) {
                let claim = &self.objects[claims][&key];
                let going = claim["metadata"]["deletionTimestamp"].is_string();
                let pod = key.1.strip_prefix("data-").map(|pod| format!("{}/{pod}", key.0));
                if going && pod.is_some_and(|pod| self.get("/pods", &pod).is_none()) {
                    self.remove(claims, &key);
                }
            }
            for ordinal in 0..replicas {
                self.start_pod(&namespace, &name, &set, ordinal);
            }
        }
    }

    fn start_pod(&mut self, namespace: &str, set_name: &str, set: &Value, ordinal: i64) {
        let name = format!("{set_name}-{ordinal}");
        let labels = set["spec"]["selector"]["matchLabels"].clone();
        if self.get("/persistentvolumeclaims", &format!("{namespace}/data-{name}")).is_none() {
            let spec = set["spec"]["volumeClaimTemplates"][0]["spec"].clone();
            self.put("/persistentvolumeclaims", json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": { "namespace": namespace, "name": format!("data-{name}"), "labels": labels },
                "status": { "capacity": spec["resources"]["requests"] },
                "spec": spec,
            }));
        }
        if self.get("/pods", &format!("{namespace}/{name}")).is_some() {
            return;
        }
        let mut metadata = set["spec"]["template"]["metadata"].clone();
        metadata["namespace"] = json!(namespace);
        metadata["name"] = json!(name);
        metadata["ownerReferences"] = json!([{
            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": set_name,
            "uid": set["metadata"]["uid"], "controller": true,
        }]);
        self.put("/pods", json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
            "spec": { "containers": [] },
            "status": {
                "podIP": format!("10.0.0.{}", ordinal + 1),
                "conditions": [{
                    "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
                }],
                "containerStatuses": [{
                    "name": "metastore", "ready": true, "restartCount": 0, "image": "", "imageID": "",
                    "state": { "running": { "startedAt": "2026-01-01T00:00:00Z" } },
                }],
            },
        }));
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// Takes out what the manager applied before and does not apply any more.
fn drop_missing(object: &mut Value, before: &Value, now: &Value) {
    let (Some(fields), Some(before)) = (object.as_object_mut(), before.as_object()) else { return };
    let empty = Map::new();
    let now = now.as_object().unwrap_or(&empty);
    for (key, value) in before {
        match now.get(key) {
            None => {
                fields.remove(key);
            }
            Some(now) => {
                if let Some(field) = fields.get_mut(key) {
                    drop_missing(field, value, now);
                }
            }
        }
    }
}
