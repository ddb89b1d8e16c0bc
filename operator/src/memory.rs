//! What is kept between passes. None of it decides: all of it may be forgotten at any moment, at the
//! price of a few more reads, or of a write that changes nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::members::Key;

/// Children that were found in place are looked at again after so long, or when a watch tells of one.
pub(crate) const CHILDREN_FOR: Duration = Duration::from_secs(300);
/// What a storage class can do, and which kinds there are, is asked again after so long.
pub(crate) const KINDS_FOR: Duration = Duration::from_secs(300);
/// Most storage classes kept.
const CLASSES_MAX: usize = 256;

/// All of it.
#[derive(Default)]
pub(crate) struct Memory {
    clusters: RefCell<BTreeMap<Key, Cluster>>,
    /// Storage classes: whether claims of them can grow.
    classes: RefCell<BTreeMap<String, (bool, Instant)>>,
    /// Kinds that the API server does not know or does not let us use.
    absent: RefCell<BTreeMap<String, Instant>>,
}

/// Of one cluster.
#[derive(Default)]
pub(crate) struct Cluster {
    /// What children were wanted when all were found in place, and when.
    pub(crate) children: Option<(u64, Instant)>,
    /// By kind and name: what was applied last, and what the server made of it.
    applied: BTreeMap<(String, String), (u64, u64)>,
    /// Events of the last pass: one that goes on is told once.
    pub(crate) told: BTreeSet<(String, String)>,
    /// Kinds whose absence was told.
    pub(crate) told_absent: BTreeSet<String>,
    /// Passes that failed in a row.
    pub(crate) failures: u32,
    /// Conditions that are true, for the figures.
    pub(crate) conditions: BTreeSet<String>,
    /// Members that answered, for the figures.
    pub(crate) members: usize,
    /// When the plan of timing was submitted that has not arrived everywhere, in seconds since 1970; for
    /// the figures.
    pub(crate) plan_since_s: Option<i64>,
    /// Members that serve, for the figures.
    pub(crate) ready: i64,
    /// Members that the spec wants, for the figures.
    pub(crate) wanted: i64,
    /// Why nothing about the timing is changed, for the figures.
    pub(crate) frozen: Option<&'static str>,
    /// How long clients would wait for a new leader, for the figures.
    pub(crate) predicted_failover_s: Option<f64>,
    /// When a pass ended well, in seconds since 1970; for the figures.
    pub(crate) passed_s: Option<i64>,
}

impl Memory {
    /// Works on what is kept of a cluster.
    pub(crate) fn of<T>(&self, key: &Key, f: impl FnOnce(&mut Cluster) -> T) -> T {
        f(self.clusters.borrow_mut().entry(key.clone()).or_default())
    }

    /// Lets go of a cluster.
    pub(crate) fn forget(&self, key: &Key) {
        self.clusters.borrow_mut().remove(key);
    }

    /// A watch told of a child: look again.
    pub(crate) fn children_changed(&self, key: &Key) {
        if let Some(cluster) = self.clusters.borrow_mut().get_mut(key) {
            cluster.children = None;
        }
    }

    /// All clusters, for the figures.
    pub(crate) fn sum<T>(&self, f: impl FnOnce(&BTreeMap<Key, Cluster>) -> T) -> T {
        f(&self.clusters.borrow())
    }

    /// Whether claims of a storage class can grow, if that was asked lately.
    pub(crate) fn class(&self, name: &str, now: Instant) -> Option<bool> {
        let classes = self.classes.borrow();
        let (grows, since) = classes.get(name)?;
        (now.saturating_duration_since(*since) < KINDS_FOR).then_some(*grows)
    }

    /// What was learned of a storage class.
    pub(crate) fn learn_class(&self, name: &str, grows: bool, now: Instant) {
        let mut classes = self.classes.borrow_mut();
        if classes.len() >= CLASSES_MAX {
            classes.clear();
        }
        classes.insert(name.to_owned(), (grows, now));
    }

    /// Whether a kind was lately found to be of no use.
    pub(crate) fn is_absent(&self, kind: &str, now: Instant) -> bool {
        let absent = self.absent.borrow();
        absent.get(kind).is_some_and(|at| now.saturating_duration_since(*at) < KINDS_FOR)
    }

    /// A kind is of no use.
    pub(crate) fn learn_absent(&self, kind: &str, now: Instant) {
        self.absent.borrow_mut().insert(kind.to_owned(), now);
    }
}

impl Cluster {
    /// Remembers what the server made of what was applied.
    pub(crate) fn applied(&mut self, kind: &str, name: &str, desired: &Value, result: &Value) {
        let made = (fingerprint(desired), fingerprint(&essence(result)));
        self.applied.insert((kind.to_owned(), name.to_owned()), made);
    }

    /// Whether `live` is what the server made of `desired`. If it looks different still, it always
    /// will: values have several forms, and applying again would not end.
    pub(crate) fn is_as_applied(
        &self,
        kind: &str,
        name: &str,
        desired: &Value,
        live: &Value,
    ) -> bool {
        let known = self.applied.get(&(kind.to_owned(), name.to_owned()));
        known.is_some_and(|known| *known == (fingerprint(desired), fingerprint(&essence(live))))
    }
}

/// An object without what changes by itself.
fn essence(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
        if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["managedFields", "resourceVersion", "generation"] {
                metadata.remove(field);
            }
        }
    }
    object
}

/// Of a value, whatever order its keys came in: they are kept sorted.
pub(crate) fn fingerprint(value: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.to_string().hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_server_made_of_an_object_is_known_again() {
        let mut cluster = Cluster::default();
        let desired = json!({"spec": {"cpu": "1000m"}});
        let made = json!({"metadata": {"resourceVersion": "5"}, "spec": {"cpu": "1"}});
        assert!(!cluster.is_as_applied("A", "a", &desired, &made));
        cluster.applied("A", "a", &desired, &made);
        let later =
            json!({"metadata": {"resourceVersion": "9"}, "spec": {"cpu": "1"}, "status": {}});
        assert!(cluster.is_as_applied("A", "a", &desired, &later));
        let touched = json!({"metadata": {}, "spec": {"cpu": "2"}});
        assert!(!cluster.is_as_applied("A", "a", &desired, &touched));
        assert!(!cluster.is_as_applied("A", "a", &json!({"spec": {"cpu": "3"}}), &later));
    }

    #[test]
    fn what_is_known_of_kinds_grows_old() {
        let memory = Memory::default();
        let now = Instant::now();
        memory.learn_class("fast", true, now);
        memory.learn_absent("ServiceMonitor", now);
        assert_eq!(memory.class("fast", now), Some(true));
        assert!(memory.is_absent("ServiceMonitor", now));
        let later = now + KINDS_FOR;
        assert_eq!(memory.class("fast", later), None);
        assert!(!memory.is_absent("ServiceMonitor", later));
    }
}
