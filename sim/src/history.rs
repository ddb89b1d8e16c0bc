//! What clients asked and were told, and whether one store could have told them that.
//!
//! Every answer carries a revision, and revisions order all writes. So linearizability needs no
//! search: each answer must be right for its revision, and the revisions must respect time:
//!
//! * a write's effect is found at its revision, whole;
//! * what a read saw is the state at its revision;
//! * whatever was answered before a request began lies at or below the request's revision, and
//!   below it if the request wrote;
//! * a write whose fate the client never learnt stands in the history at most once, and not at all
//!   if the client was told that it never will.

use std::collections::BTreeMap;

use member::state::Record;

/// What a client asks for. Values are unique.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Write a value.
    Put { key: String, value: String },
    /// Read a key; linearizable, or as the member asked knows it.
    Get { key: String, is_linearizable: bool },
    /// Write `value` if the key has `expected`; else read it.
    Swap { key: String, expected: Option<String>, value: String },
    /// Remove a key.
    Delete { key: String },
    /// Anything else, of which only the answer's time matters.
    Other,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nobody knows.
    Unknown,
    /// It was not carried out and never will be.
    Never,
    /// Refused by the state: no effect.
    Refused,
    /// Done; a put.
    Put { revision: i64 },
    /// Done; what the key had.
    Got { revision: i64, value: Option<String> },
    /// Done; whether the compare held, and what the key had if not.
    Swapped { revision: i64, succeeded: bool, value: Option<String> },
    /// Done; whether there was something to remove.
    Deleted { revision: i64, was_there: bool },
}

/// One request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) ask: Ask,
    /// Places in the order of all beginnings and ends.
    pub(crate) began: u64,
    pub(crate) ended: u64,
    pub(crate) told: Told,
    /// Origin and sequence, if it is a proposal.
    pub(crate) id: Option<(u64, u64)>,
}

/// All requests of a run.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) requests: Vec<Request>,
    moments: u64,
}

impl History {
    /// A client asks. Returns the request's number.
    pub(crate) fn begin(&mut self, ask: Ask, id: Option<(u64, u64)>) -> usize {
        self.moments += 1;
        self.requests.push(Request {
            ask,
            began: self.moments,
            ended: u64::MAX,
            told: Told::Unknown,
            id,
        });
        self.requests.len() - 1
    }

    /// It is told how that ended.
    pub(crate) fn end(&mut self, request: usize, told: Told) {
        self.moments += 1;
        let request = &mut self.requests[request];
        request.ended = self.moments;
        request.told = told;
    }

    /// How many writes were acknowledged.
    pub(crate) fn writes_done(&self) -> usize {
        let done = |request: &&Request| {
            matches!(request.told, Told::Put { .. } | Told::Swapped { .. } | Told::Deleted { .. })
        };
        self.requests.iter().filter(done).count()
    }

    /// How many reads were answered.
    pub(crate) fn reads_done(&self) -> usize {
        self.requests.iter().filter(|request| matches!(request.told, Told::Got { .. })).count()
    }

    /// Holds all answers against the records that were really made. The first fact broken.
    pub(crate) fn judge(
        &self,
        records: &[Record],
        stands: impl Fn(u64, u64) -> bool,
    ) -> Result<(), String> {
        let store = Store::of(records);
        for request in &self.requests {
            store.judge(request).map_err(|why| format!("{why}: {request:?}"))?;
            if request.told == Told::Never
                && let Some((origin, sequence)) = request.id
                && stands(origin, sequence)
            {
                return Err(format!("carried out although it never would be: {request:?}"));
            }
        }
        self.judge_time(&store)
    }

    fn judge_time(&self, store: &Store) -> Result<(), String> {
        // Ends in their order, with the highest revision told so far.
        let mut ends: Vec<(u64, i64)> =
            self.requests.iter().filter_map(|r| Some((r.ended, floor_of(r)?))).collect();
        ends.sort_unstable();
        let mut highest = i64::MIN;
        for (_, revision) in &mut ends {
            highest = highest.max(*revision);
            *revision = highest;
        }
        for request in &self.requests {
            let Some((revision, wrote)) = place_of(request, store) else { continue };
            let before = ends.partition_point(|(ended, _)| *ended < request.began);
            let Some((_, floor)) = before.checked_sub(1).map(|last| ends[last]) else { continue };
            if revision < floor || (wrote && revision == floor) {
                return Err(format!(
                    "real time: revision {floor} had been told before this began: {request:?}, \
                     which stands at {revision}"
                ));
            }
        }
        Ok(())
    }
}

/// The revision everybody may count on once a request has ended.
fn floor_of(request: &Request) -> Option<i64> {
    match &request.told {
        Told::Put { revision }
        | Told::Swapped { revision, .. }
        | Told::Deleted { revision, .. }
        | Told::Got { revision, .. } => Some(*revision),
        Told::Unknown | Told::Never | Told::Refused => None,
    }
}

/// Where a request stands, and whether it wrote there. Serializable reads stand anywhere.
fn place_of(request: &Request, store: &Store) -> Option<(i64, bool)> {
    match (&request.ask, &request.told) {
        (Ask::Get { is_linearizable: false, .. } | Ask::Other, _) => None,
        (Ask::Put { value, .. } | Ask::Swap { value, .. }, Told::Unknown) => {
            store.written(value).first().map(|revision| (*revision, true))
        }
        (_, Told::Swapped { revision, succeeded, .. }) => Some((*revision, *succeeded)),
        (_, Told::Deleted { revision, was_there }) => Some((*revision, *was_there)),
        (_, Told::Put { revision }) => Some((*revision, true)),
        (_, Told::Got { revision, .. }) => Some((*revision, false)),
        _ => None,
    }
}

/// The history by key and by value.
struct Store {
    keys: BTreeMap<String, Vec<(i64, Option<String>)>>,
    values: BTreeMap<String, Vec<i64>>,
    last: i64,
}

impl Store {
    fn of(records: &[Record]) -> Store {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut store = Store { keys: BTreeMap::new(), values: BTreeMap::new(), last: 1 };
        for record in records {
            let revision = record.mod_revision();
            let value = (!record.is_tombstone()).then(|| text(record.value()));
            if let Some(value) = &value {
                store.values.entry(value.clone()).or_default().push(revision);
            }
            store.keys.entry(text(record.key())).or_default().push((revision, value));
            store.last = store.last.max(revision);
        }
        store
    }

    fn at(&self, key: &str, revision: i64) -> Option<&str> {
        let changes = self.keys.get(key)?;
        let until = changes.partition_point(|(at, _)| *at <= revision);
        changes[..until].last()?.1.as_deref()
    }

    fn changed_at(&self, key: &str, revision: i64) -> Option<Option<&str>> {
        let changes = self.keys.get(key)?;
        let (_, value) = changes.iter().find(|(at, _)| *at == revision)?;
        Some(value.as_deref())
    }

    fn written(&self, value: &str) -> &[i64] {
        self.values.get(value).map_or(&[], Vec::as_slice)
    }

    fn judge(&self, request: &Request) -> Result<(), &'static str> {
        let holds = |holds: bool, why| if holds { Ok(()) } else { Err(why) };
        if let Ask::Put { value, .. } | Ask::Swap { value, .. } = &request.ask {
            let times = self.written(value).len();
            holds(times <= 1, "carried out twice")?;
            let refused = matches!(
                request.told,
                Told::Never | Told::Refused | Told::Swapped { succeeded: false, .. }
            );
            holds(times == 0 || !refused, "carried out although refused")?;
        }
        if let Some(revision) = floor_of(request) {
            holds(revision <= self.last, "told of a revision that was lost")?;
        }
        match (&request.ask, &request.told) {
            (Ask::Put { key, value }, Told::Put { revision }) => {
                let found = self.changed_at(key, *revision);
                holds(found == Some(Some(value)), "acknowledged write not found at its revision")
            }
            (Ask::Get { key, .. }, Told::Got { revision, value }) => holds(
                self.at(key, *revision) == value.as_deref(),
                "read is not the state at its revision",
            ),
            (
                Ask::Swap { key, expected, value },
                Told::Swapped { revision, succeeded, value: got },
            ) => {
                if *succeeded {
                    let found = self.changed_at(key, *revision);
                    holds(found == Some(Some(value)), "acknowledged swap not found")?;
                    let before = self.at(key, *revision - 1);
                    return holds(before == expected.as_deref(), "swapped against its compare");
                }
                let found = self.at(key, *revision);
                holds(found == got.as_deref(), "swap read another state than its revision's")?;
                holds(found != expected.as_deref(), "swap refused although the compare held")
            }
            (Ask::Delete { key }, Told::Deleted { revision, was_there }) => {
                if *was_there {
                    return holds(
                        self.changed_at(key, *revision) == Some(None),
                        "acknowledged delete not found",
                    );
                }
                holds(self.at(key, *revision).is_none(), "nothing deleted although it was there")
            }
            _ => Ok(()),
        }
    }
}
