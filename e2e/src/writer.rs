//! A load that knows what it was promised: numbered keys, one after another, and which were acknowledged.
//!
//! A write whose answer was lost is not repeated; the next key is written. So every key has one write at
//! most, and afterwards each acknowledged one must be there, with the revision of its acknowledgement.
//! The longest time between two acknowledgements is the outage that a client sees.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use client::{Client, Config, Get, KeyRange, Put, RetryPolicy};

use crate::wait::{Seen, say, until};

/// Longest wait of one write. An outage is measured from one acknowledgement to the next, so this only
/// decides how soon another member is asked.
const WRITE_LIMIT: Duration = Duration::from_millis(500);
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// Between two writes of one worker: a load that a small machine carries beside a whole cluster.
const PAUSE: Duration = Duration::from_millis(4);
/// After a failure, so that a refusing cluster is not asked in a tight loop.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(20);
/// Keys read at a time when verifying.
const PAGE_KEYS: i64 = 2000;
/// Longest wait for a page.
const READ_LIMIT: Duration = Duration::from_secs(30);
/// Lost writes that an error names.
const LOST_SHOWN: usize = 5;
/// An outage beyond its budget is shown; beyond so many times its budget it is a failure.
const BUDGET_TIMES_MAX: u32 = 3;

/// A write that was acknowledged.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Acknowledged {
    key: String,
    revision: i64,
    at: Instant,
}

#[derive(Debug, Default)]
struct Record {
    acknowledged: Vec<Acknowledged>,
    failures: u64,
    last_failure: String,
}

/// Workers that write until they are stopped.
#[derive(Debug)]
pub struct Writer {
    prefix: String,
    begun: Instant,
    stop: Arc<AtomicBool>,
    record: Arc<Mutex<Record>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts `workers` of them. Each talks to one endpoint at a time and, when that fails, to the next,
    /// by a connection of its own; `config` says the rest, its endpoints and patience do not count.
    pub fn start(
        config: &Config,
        endpoints: &[String],
        prefix: &str,
        workers: usize,
    ) -> Result<Self> {
        if endpoints.is_empty() || workers == 0 {
            bail!("a writer needs an endpoint and a worker");
        }
        let config = config
            .clone()
            .connect_timeout(CONNECT_LIMIT)
            .request_timeout(WRITE_LIMIT)
            .retry(RetryPolicy::never());
        config.clone().endpoints(endpoints).check()?;
        let stop = Arc::new(AtomicBool::new(false));
        let record = Arc::new(Mutex::new(Record::default()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let all: Vec<_> = (0..workers)
            .map(|number| Worker {
                number,
                config: config.clone(),
                endpoints: endpoints.to_vec(),
                prefix: prefix.to_owned(),
                stop: Arc::clone(&stop),
                record: Arc::clone(&record),
            })
            .collect();
        let thread = std::thread::spawn(move || {
            let tasks: Vec<_> = all.into_iter().map(|worker| runtime.spawn(worker.run())).collect();
            for task in tasks {
                // A worker that panicked has said so; what it was promised stays recorded.
                let _ = runtime.block_on(task);
            }
        });
        let begun = Instant::now();
        Ok(Writer { prefix: prefix.to_owned(), begun, stop, record, thread: Some(thread) })
    }

    /// Writes acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.record.lock().expect("no worker panics with it").acknowledged.len()
    }

    /// Waits for so many acknowledgements.
    pub fn has_written(&self, count: usize, limit: Duration) -> Result<()> {
        until("acknowledged writes", limit, || {
            let record = self.record.lock().expect("no worker panics with it");
            let state = match record.failures {
                0 => "none failed".to_owned(),
                failures => format!("{failures} failed, the last: {}", record.last_failure),
            };
            let done = record.acknowledged.len() >= count;
            Ok(if done { Seen::Done(()) } else { Seen::NotYet(state) })
        })?;
        Ok(())
    }

    /// The longest time without an acknowledgement since `from`, to this moment.
    pub fn outage_since(&self, from: Instant) -> Duration {
        let record = self.record.lock().expect("no worker panics with it");
        let times = record.acknowledged.iter().map(|write| write.at);
        longest_gap(from, times, Instant::now())
    }

    /// Ends the workers; what they were promised stays.
    pub fn stop(mut self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // As above.
            let _ = thread.join();
        }
        let mut record = self.record.lock().expect("no worker panics with it");
        let record = std::mem::take(&mut *record);
        let times = record.acknowledged.iter().map(|write| write.at);
        let outage = longest_gap(self.begun, times, Instant::now());
        Written { prefix: std::mem::take(&mut self.prefix), record, outage }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

struct Worker {
    number: usize,
    config: Config,
    endpoints: Vec<String>,
    prefix: String,
    stop: Arc<AtomicBool>,
    record: Arc<Mutex<Record>>,
}

impl Worker {
    async fn run(self) {
        // Workers begin at different members.
        let mut turn = self.number;
        let mut sequence = 0_u64;
        while !self.stop.load(Ordering::Relaxed) {
            // A new client is a new connection: one that leads to a pod that is gone would be kept.
            let endpoint = &self.endpoints[turn % self.endpoints.len()];
            turn += 1;
            if let Ok(client) = Client::new(self.config.clone().endpoints([endpoint])) {
                self.write(&client, &mut sequence).await;
            }
            tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
        }
    }

    /// Until a failure, or the end.
    async fn write(&self, client: &Client, sequence: &mut u64) {
        while !self.stop.load(Ordering::Relaxed) {
            let key = format!("{}{:02}/{sequence:08}", self.prefix, self.number);
            *sequence += 1;
            let answer = client.put(Put::new(key.clone(), key.clone())).await;
            let at = Instant::now();
            {
                let mut record = self.record.lock().expect("no worker panics with it");
                match answer {
                    Ok(answer) => {
                        let revision = answer.header.map_or(0, |header| header.revision);
                        record.acknowledged.push(Acknowledged { key, revision, at });
                    }
                    Err(error) => {
                        record.failures += 1;
                        record.last_failure = error.to_string();
                        return;
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What a [`Writer`] was promised.
#[derive(Debug)]
pub struct Written {
    prefix: String,
    record: Record,
    outage: Duration,
}

impl Written {
    /// Writes acknowledged.
    pub fn acknowledged(&self) -> usize {
        self.record.acknowledged.len()
    }

    /// Writes that failed or whose answer was lost, and the last one's error.
    pub fn failures(&self) -> (u64, &str) {
        (self.record.failures, &self.record.last_failure)
    }

    /// The longest time without an acknowledgement, from the start to the end.
    pub fn outage(&self) -> Duration {
        self.outage
    }

    /// Whether every acknowledged write is there, as it was acknowledged; answers with how many.
    pub fn verify(&self, config: &Config) -> Result<usize> {
        let config = config.clone().request_timeout(READ_LIMIT);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let found = runtime.block_on(read_all(&Client::new(config)?, &self.prefix))?;
        check(&self.record.acknowledged, &found)
    }
}

/// Key, value and revision of everything below a prefix, in the order of keys.
async fn read_all(client: &Client, prefix: &str) -> Result<Vec<(Vec<u8>, Vec<u8>, i64)>> {
    let end = end_of(prefix);
    let mut found = Vec::new();
    let mut from = prefix.as_bytes().to_vec();
    // Every page is of the revision that the first one had.
    let mut revision = 0;
    loop {
        let range = KeyRange::span(from.clone(), end.clone());
        let page = client.get(Get::new(range).limit(PAGE_KEYS).revision(revision)).await?;
        if revision == 0 {
            revision = page.header.as_ref().context("an answer without a header")?.revision;
        }
        let Some(last) = page.kvs.last() else { break };
        from = [last.key.as_ref(), b"\0"].concat();
        found.extend(
            page.kvs.iter().map(|kv| (kv.key.to_vec(), kv.value.to_vec(), kv.mod_revision)),
        );
        if !page.more {
            break;
        }
    }
    Ok(found)
}

/// The first key after all that begin so.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix is not empty") += 1;
    end
}

fn check(acknowledged: &[Acknowledged], found: &[(Vec<u8>, Vec<u8>, i64)]) -> Result<usize> {
    let mut lost = Vec::new();
    for write in acknowledged {
        let key = write.key.as_bytes();
        let at = found.binary_search_by(|(other, ..)| other.as_slice().cmp(key));
        let kept = at.is_ok_and(|at| found[at].1 == key && found[at].2 == write.revision);
        if !kept {
            lost.push(format!("{} of revision {}", write.key, write.revision));
        }
    }
    if !lost.is_empty() {
        let (count, all) = (lost.len(), acknowledged.len());
        lost.truncate(LOST_SHOWN);
        bail!("{count} of {all} acknowledged writes are lost: {}", lost.join(", "));
    }
    Ok(acknowledged.len())
}

fn longest_gap(from: Instant, times: impl Iterator<Item = Instant>, to: Instant) -> Duration {
    let mut times: Vec<_> = times.filter(|at| *at >= from).chain([from, to]).collect();
    times.sort();
    times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Prints an outage beside its budget; an error only if it is far beyond.
pub fn judge(what: &str, outage: Duration, budget: Duration) -> Result<()> {
    let line = format!(
        "{what}: {:.2} s without a write, of {:.2} s",
        outage.as_secs_f64(),
        budget.as_secs_f64()
    );
    if outage > budget * BUDGET_TIMES_MAX {
        bail!("{line}, and more than {BUDGET_TIMES_MAX} times that is a failure");
    }
    let over = if outage > budget { " (over budget)" } else { "" };
    say(&format!("ok {line}{over}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &str, revision: i64) -> Acknowledged {
        Acknowledged { key: key.to_owned(), revision, at: Instant::now() }
    }

    fn pair(key: &str, revision: i64) -> (Vec<u8>, Vec<u8>, i64) {
        (key.into(), key.into(), revision)
    }

    #[test]
    fn a_write_is_lost_if_its_key_its_value_or_its_revision_is_not_there() {
        let all = [write("a", 2), write("b", 3)];
        assert_eq!(check(&all, &[pair("a", 2), pair("b", 3), pair("c", 4)]).unwrap(), 2);
        for found in [
            &[pair("a", 2)][..],
            &[pair("a", 2), pair("b", 4)],
            &[pair("a", 2), ("b".into(), "x".into(), 3)],
        ] {
            let error = check(&all, found).unwrap_err().to_string();
            assert_eq!(error, "1 of 2 acknowledged writes are lost: b of revision 3");
        }
    }

    #[test]
    fn the_outage_counts_from_the_start_and_to_the_end() {
        let from = Instant::now();
        let at = |seconds| from + Duration::from_secs(seconds);
        let gap = |times: &[u64], to| longest_gap(from, times.iter().map(|s| at(*s)), at(to));
        assert_eq!(gap(&[4, 5, 6], 7), Duration::from_secs(4));
        assert_eq!(gap(&[1, 4, 3], 9), Duration::from_secs(5));
        assert_eq!(gap(&[], 9), Duration::from_secs(9));
        let since = longest_gap(at(5), [at(1), at(6)].into_iter(), at(7));
        assert_eq!(since, Duration::from_secs(1));
    }

    #[test]
    fn an_outage_over_budget_is_shown_and_one_far_over_it_fails() {
        let second = Duration::from_secs(1);
        assert!(judge("a step", second, second).is_ok());
        assert!(judge("a step", 3 * second, second).is_ok());
        assert!(judge("a step", 4 * second, second).is_err());
    }
}
