//! The kinds of requests, each as one client makes them.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use client::Code;
use client::raw::Method;

use super::keys::{Choice, Random};
use super::requests::{self, Asked, Span, Write};
use super::unary::{Call, Requests};

const PUT: Method = Method::new("/etcdserverpb.KV/Put");
const RANGE: Method = Method::new("/etcdserverpb.KV/Range");
const TXN: Method = Method::new("/etcdserverpb.KV/Txn");
const GRANT: Method = Method::new("/etcdserverpb.Lease/LeaseGrant");
const REVOKE: Method = Method::new("/etcdserverpb.Lease/LeaseRevoke");

/// Most granted leases whose ids are kept.
pub(crate) const LEASES_MAX: u64 = 10_000_000;

/// What a read that finds too little is refused with: reading nothing would look fast.
const NOT_FILLED: &str = "the key does not exist (fill the key space with `put` first)";

/// Writes.
pub(crate) struct Puts {
    pub(crate) keys: Choice,
    pub(crate) key_bytes: usize,
    pub(crate) value_bytes: usize,
    /// Values begin with the time at which they were sent.
    pub(crate) stamps: Option<Stamps>,
    pub(crate) buffer: BytesMut,
}

impl Puts {
    fn write(&mut self, index: u64) -> Write {
        Write {
            key: self.keys.next(index),
            key_bytes: self.key_bytes,
            value_bytes: self.value_bytes,
            stamp: self.stamps.map(|stamps| stamps.now()),
            lease: 0,
        }
    }

    fn frame(&mut self, index: u64) -> Bytes {
        let write = self.write(index);
        requests::put(&mut self.buffer, &mut self.keys.random, write)
    }
}

/// Writes times that its own run can read and takes nobody else's values for such.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps {
    since: Instant,
    mark: u64,
}

impl Stamps {
    pub(crate) fn new(seed: u64) -> Self {
        Stamps { since: Instant::now(), mark: Random::new(seed).next() }
    }

    fn nanoseconds(self) -> u64 {
        u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn now(self) -> u64 {
        self.nanoseconds() ^ self.mark
    }

    /// How long ago it was written; `None`: not by this run, since it lies in the future.
    pub(crate) fn age(self, stamp: u64) -> Option<Duration> {
        self.nanoseconds().checked_sub(stamp ^ self.mark).map(Duration::from_nanos)
    }
}

impl Requests for Puts {
    const METHODS: &'static [Method] = &[PUT];
    const KINDS: &'static [&'static str] = &["put"];

    fn next(&mut self, index: u64) -> Call {
        Call::of(self.frame(index))
    }

    fn answered(&mut self, _answer: &Bytes) -> Result<usize, &'static str> {
        Ok(0)
    }
}

/// Reads.
pub(crate) struct Ranges {
    /// Of first keys, or of groups of keys.
    pub(crate) keys: Choice,
    pub(crate) key_bytes: usize,
    pub(crate) span: Span,
    pub(crate) keys_per_range: u64,
    pub(crate) asked: Asked,
    pub(crate) buffer: BytesMut,
}

impl Ranges {
    fn frame(&mut self, index: u64) -> Bytes {
        let key = self.keys.next(index);
        requests::range(&mut self.buffer, key, self.key_bytes, self.span, self.asked)
    }

    fn check(&self, answer: &Bytes) -> Result<(), &'static str> {
        let is_enough = match self.asked.count_only {
            true => requests::count(answer) >= self.keys_per_range,
            false => requests::has_kvs(answer, self.keys_per_range),
        };
        if is_enough {
            return Ok(());
        }
        Err(match self.keys_per_range {
            1 => NOT_FILLED,
            _ => "fewer keys than asked for (fill the key space with `put` first)",
        })
    }
}

impl Requests for Ranges {
    const METHODS: &'static [Method] = &[RANGE];
    const KINDS: &'static [&'static str] = &["range"];

    fn next(&mut self, index: u64) -> Call {
        Call::of(self.frame(index))
    }

    fn answered(&mut self, answer: &Bytes) -> Result<usize, &'static str> {
        self.check(answer).map(|()| 0)
    }
}

/// Reads and writes in a random order, so many of each among so many.
pub(crate) struct Mixed {
    pub(crate) reads: Ranges,
    pub(crate) writes: Puts,
    pub(crate) read_share: u64,
    pub(crate) write_share: u64,
    /// What the request under way is.
    pub(crate) is_read: bool,
}

impl Requests for Mixed {
    const METHODS: &'static [Method] = &[RANGE, PUT];
    const KINDS: &'static [&'static str] = &["read", "write"];

    fn next(&mut self, index: u64) -> Call {
        let all = self.read_share + self.write_share;
        self.is_read = self.reads.keys.random.below(all) < self.read_share;
        if self.is_read {
            Call { method: 0, frame: self.reads.frame(index) }
        } else {
            Call { method: 1, frame: self.writes.frame(index) }
        }
    }

    fn answered(&mut self, answer: &Bytes) -> Result<usize, &'static str> {
        if !self.is_read {
            return Ok(1);
        }
        self.reads.check(answer).map(|()| 0)
    }
}

/// The mod revisions that all clients believe keys to have; below 0: nobody has looked.
pub(crate) type Revisions = Arc<[AtomicI64]>;

/// Of so many keys nobody has looked at.
pub(crate) fn no_revisions(keys: u64) -> Revisions {
    (0..keys).map(|_| AtomicI64::new(-1)).collect()
}

/// Writes that count only if nobody wrote the key since it was last looked at.
pub(crate) struct Swaps {
    pub(crate) keys: Choice,
    pub(crate) key_bytes: usize,
    pub(crate) value_bytes: usize,
    pub(crate) revisions: Revisions,
    /// The key of the request under way, and what it was compared with.
    pub(crate) under_way: (u64, i64),
    pub(crate) buffer: BytesMut,
}

impl Requests for Swaps {
    const METHODS: &'static [Method] = &[TXN];
    const KINDS: &'static [&'static str] = &["swapped", "lost race", "first look"];

    fn next(&mut self, index: u64) -> Call {
        let key = self.keys.next(index);
        let believed = self.revisions[key as usize].load(Ordering::Relaxed);
        self.under_way = (key, believed);
        let write = Write {
            key,
            key_bytes: self.key_bytes,
            value_bytes: self.value_bytes,
            stamp: None,
            lease: 0,
        };
        // A key nobody has looked at may not be there, which is what 0 stands for.
        let revision = believed.max(0).cast_unsigned();
        Call::of(requests::swap(&mut self.buffer, &mut self.keys.random, write, revision))
    }

    fn answered(&mut self, answer: &Bytes) -> Result<usize, &'static str> {
        let swapped = requests::swapped(answer);
        let (key, believed) = self.under_way;
        // Answers may overtake each other; revisions only grow.
        let revision = swapped.revision.cast_signed();
        self.revisions[key as usize].fetch_max(revision, Ordering::Relaxed);
        Ok(match (swapped.done, believed) {
            (true, _) => 0,
            (false, 0..) => 1,
            (false, _) => 2,
        })
    }
}

/// Leases granted.
pub(crate) struct Grants {
    pub(crate) ttl_s: u64,
    /// Where their ids go, if anybody wants them.
    pub(crate) ids: Option<Arc<Mutex<Vec<u64>>>>,
    pub(crate) buffer: BytesMut,
}

impl Requests for Grants {
    const METHODS: &'static [Method] = &[GRANT];
    const KINDS: &'static [&'static str] = &["lease grant"];

    fn next(&mut self, _index: u64) -> Call {
        Call::of(requests::grant(&mut self.buffer, self.ttl_s))
    }

    fn answered(&mut self, answer: &Bytes) -> Result<usize, &'static str> {
        let (id, _) = requests::lease(answer);
        if id == 0 {
            return Err("a lease without an id was granted");
        }
        if let Some(ids) = &self.ids {
            let mut ids = ids.lock().unwrap_or_else(PoisonError::into_inner);
            if (ids.len() as u64) < LEASES_MAX {
                ids.push(id);
            }
        }
        Ok(0)
    }
}

/// Leases given back, each once.
pub(crate) struct Revokes {
    pub(crate) ids: Arc<[u64]>,
    pub(crate) buffer: BytesMut,
}

impl Requests for Revokes {
    const METHODS: &'static [Method] = &[REVOKE];
    const KINDS: &'static [&'static str] = &["lease revoke"];

    fn next(&mut self, index: u64) -> Call {
        Call::of(requests::revoke(&mut self.buffer, self.ids[index as usize]))
    }

    fn answered(&mut self, _answer: &Bytes) -> Result<usize, &'static str> {
        Ok(0)
    }

    /// One that has run out is gone as well.
    fn excused(&self, code: Code) -> Option<usize> {
        (code == Code::NotFound).then_some(0)
    }
}

/// Leases granted, each followed by a key that lives as long as it.
pub(crate) struct LeasedPuts {
    pub(crate) grants: Grants,
    pub(crate) puts: Puts,
    /// Granted, and without a key yet.
    pub(crate) bare: Option<u64>,
    /// The request under way is the key's.
    pub(crate) is_put: bool,
}

impl Requests for LeasedPuts {
    const METHODS: &'static [Method] = &[GRANT, PUT];
    const KINDS: &'static [&'static str] = &["lease grant", "leased put"];

    fn next(&mut self, index: u64) -> Call {
        let lease = self.bare.take();
        self.is_put = lease.is_some();
        match lease {
            None => self.grants.next(index),
            Some(lease) => {
                let write = Write { lease, ..self.puts.write(index) };
                let random = &mut self.puts.keys.random;
                Call { method: 1, frame: requests::put(&mut self.puts.buffer, random, write) }
            }
        }
    }

    fn answered(&mut self, answer: &Bytes) -> Result<usize, &'static str> {
        if self.is_put {
            return Ok(1);
        }
        let (lease, _) = requests::lease(answer);
        self.bare = Some(lease);
        self.grants.answered(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::keys::Order;
    use client::proto::etcdserverpb::{
        LeaseGrantResponse, PutRequest, ResponseHeader, TxnResponse,
    };
    use prost::Message;

    fn swaps(revisions: &Revisions) -> Swaps {
        let order = Order::Sequential;
        Swaps {
            keys: Choice { random: Random::new(1), keys: 1, order },
            key_bytes: 16,
            value_bytes: 8,
            revisions: Arc::clone(revisions),
            under_way: (0, 0),
            buffer: BytesMut::new(),
        }
    }

    #[test]
    fn each_lease_gets_a_key_before_the_next_is_granted() {
        let keys = Choice { random: Random::new(1), keys: 10, order: Order::Sequential };
        let mut leased = LeasedPuts {
            grants: Grants { ttl_s: 5, ids: None, buffer: BytesMut::new() },
            puts: Puts {
                keys,
                key_bytes: 16,
                value_bytes: 8,
                stamps: None,
                buffer: BytesMut::new(),
            },
            bare: None,
            is_put: false,
        };
        assert_eq!(leased.next(0).method, 0);
        let granted = LeaseGrantResponse { id: 77, ttl: 5, ..Default::default() };
        assert_eq!(leased.answered(&granted.encode_to_vec().into()), Ok(0));
        let put = leased.next(1);
        assert_eq!(put.method, 1);
        assert_eq!(PutRequest::decode(&put.frame[5..]).map(|put| put.lease), Ok(77));
        assert_eq!(leased.answered(&Bytes::new()), Ok(1));
        assert_eq!(leased.next(2).method, 0);
    }

    #[test]
    fn a_stamp_is_read_by_its_own_run_alone() {
        // Runs that begin at the same time have seeds that hardly differ.
        let (own, other) = (Stamps::new(1 << 60), Stamps::new((1 << 60) + 1));
        assert!(own.age(own.now()).is_some_and(|age| age < Duration::from_secs(60)));
        assert_eq!((own.age(other.now()), own.age(u64::MAX ^ own.mark)), (None, None));
    }

    #[test]
    fn a_first_look_is_no_lost_race_and_what_one_client_learns_all_know() {
        let revisions = no_revisions(1);
        let (mut one, mut other) = (swaps(&revisions), swaps(&revisions));
        let header = Some(ResponseHeader { revision: 9, ..Default::default() });
        let won: Bytes =
            TxnResponse { header, succeeded: true, ..Default::default() }.encode_to_vec().into();
        let lost = Bytes::new();
        let _first = (one.next(0), other.next(0));
        assert_eq!((other.answered(&lost), one.answered(&won)), (Ok(2), Ok(0)));
        let _second = other.next(1);
        assert_eq!(other.under_way, (0, 9));
        assert_eq!(other.answered(&lost), Ok(1));
    }
}
