use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::fixture::{Step, Trial, arbitrary_step, to_hex};
use crate::parts::{Changes, StateParts};
use crate::record::Record;
use crate::{Event, Limits, State, Values, View, in_turn};

fn limits() -> WritebackLimits {
    WritebackLimits {
        block_revisions_max: 4,
        block_bytes_max: 400,
        rows_waiting_max: 3,
        entries_waiting_max: 7,
        removed_waiting_max: 5,
        batch_bytes_max: 500,
        compaction_blocks_max: 3,
    }
}

/// What the shell does between entries.
#[derive(Clone, Copy, Debug)]
enum Between {
    Commit,
    Compact,
    Seal,
    Flush,
    Nothing,
}

fn arbitrary_between() -> impl Strategy<Value = Between> {
    prop_oneof![
        4 => Just(Between::Commit),
        3 => Just(Between::Compact),
        1 => Just(Between::Seal),
        1 => Just(Between::Flush),
        2 => Just(Between::Nothing),
    ]
}

fn arbitrary_run() -> impl Strategy<Value = Vec<(Step, Between)>> {
    prop::collection::vec((arbitrary_step(), arbitrary_between()), 1..120)
}

/// A member's backend as it runs.
struct Run {
    trial: Trial,
    backend: MemBackend,
    writeback: Writeback,
    /// The state after each index.
    states: BTreeMap<u64, StateParts>,
}

impl Run {
    fn new(fault: MemFault) -> Self {
        let mut backend = MemBackend::new();
        backend.set_fault(fault);
        let mut run = Self {
            trial: Trial::new(),
            backend,
            writeback: Writeback::new(limits()),
            states: BTreeMap::new(),
        };
        run.note();
        run
    }

    fn note(&mut self) {
        self.states.insert(self.trial.index, self.trial.state.publish().parts());
    }

    fn step(&mut self, step: &Step, between: Between) {
        let (changes, view, _) = self.trial.step(step);
        self.writeback.feed([&changes], &view);
        self.note();
        match between {
            Between::Commit => self.commit(),
            Between::Compact => {
                self.commit();
                if let Some(batch) = self.writeback.compact(&self.backend).unwrap() {
                    self.backend.commit(&batch).unwrap();
                }
            }
            Between::Seal => self.writeback.seal(),
            Between::Flush => self.backend.flush().unwrap(),
            Between::Nothing => {}
        }
    }

    fn commit(&mut self) {
        while let Some(batch) = self.writeback.take_batch() {
            self.backend.commit(&batch).unwrap();
        }
    }
}

/// The state as a boot would build it.
fn booted(backend: &MemBackend) -> Result<Option<(View, Layout)>, String> {
    let Some(loaded) = load(backend).map_err(|error| error.to_string())? else { return Ok(None) };
    let mut state =
        State::from_parts(loaded.parts, Limits::default()).map_err(|error| error.to_string())?;
    Ok(Some((state.publish(), loaded.layout)))
}

/// Whether a boot after a crash gives a state the member once had, or nothing at all.
fn boots_consistently(run: &Run, kept: usize) -> Result<(), String> {
    let mut backend = run.backend.clone();
    backend.crash(kept);
    let Some((view, _)) = booted(&backend)? else { return Ok(()) };
    let expected = &run.states[&view.applied().index];
    if view.parts() == *expected {
        Ok(())
    } else {
        Err(format!("found {:?}, had {expected:?}", view.parts()))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_crash_after_any_prefix_of_batches_boots_a_state_the_member_had(steps in arbitrary_run()) {
        let mut run = Run::new(MemFault::None);
        for (step, between) in &steps {
            run.step(step, *between);
        }
        for kept in 0..=run.backend.unflushed() {
            let outcome = boots_consistently(&run, kept);
            prop_assert!(outcome.is_ok(), "{} batches kept: {:?}", kept, outcome);
        }
    }

    #[test]
    fn a_member_goes_on_after_a_crash_as_if_there_had_been_none(
        before in arbitrary_run(),
        after in arbitrary_run(),
        crash_at in any::<prop::sample::Index>(),
    ) {
        let mut run = Run::new(MemFault::None);
        for (step, between) in &before {
            run.step(step, *between);
        }
        run.backend.crash(crash_at.index(run.backend.unflushed() + 1));
        let (trial, writeback) = match load(&run.backend).unwrap() {
            None => (Trial::new(), Writeback::new(limits())),
            Some(Loaded { parts, layout }) => {
                let mut trial = Trial::resumed(parts, &run.trial.history);
                let view = trial.state.publish();
                (trial, Writeback::resume(limits(), layout, &view))
            }
        };
        // The log has everything: what the backend lacks is applied again.
        let applied = trial.index;
        let mut again = Run { trial, writeback, backend: run.backend.clone(), states: run.states };
        let mut index = 0;
        let steps = before.iter().chain(&after);
        for (step, between) in steps {
            index += u64::from(!matches!(step, Step::Sweep));
            if index > applied {
                again.step(step, *between);
            }
        }
        again.writeback.seal();
        again.commit();
        let view = again.trial.state.publish();
        let (found, _) = booted(&again.backend).unwrap().unwrap();
        prop_assert_eq!(found.parts(), view.parts());
    }

    #[test]
    fn compaction_frees_blocks_and_loses_nothing(steps in arbitrary_run()) {
        let mut run = Run::new(MemFault::None);
        for (step, between) in &steps {
            run.step(step, *between);
        }
        run.step(&Step::Put(0, 1), Between::Nothing);
        run.step(&Step::Compact(100), Between::Nothing);
        run.step(&Step::Sweep, Between::Nothing);
        let view = run.trial.state.publish();
        run.writeback.seal();
        run.commit();
        let mut batches = 0;
        while run.writeback.wants_compaction() {
            if let Some(batch) = run.writeback.compact(&run.backend).unwrap() {
                run.backend.commit(&batch).unwrap();
            }
            batches += 1;
            prop_assert!(batches < 1000, "compaction does not end");
        }
        let (found, layout) = booted(&run.backend).unwrap().unwrap();
        prop_assert_eq!(found.parts(), view.parts());
        prop_assert_eq!(layout.mark.swept_revision, view.compact_revision());
        prop_assert!(layout.unlisted.is_empty());
        let kept: usize = view.records().count();
        let stored: u32 = layout.blocks.values().map(|stat| stat.records).sum();
        prop_assert!(stored as usize <= 2 * kept + 1, "{} records stored for {}", stored, kept);
    }

    #[test]
    fn a_rebuilt_generation_is_the_state_it_was_built_from(steps in arbitrary_run()) {
        let mut run = Run::new(MemFault::None);
        for (step, between) in &steps {
            run.step(step, *between);
        }
        let StateParts { applied, rows, records } = run.trial.state.publish().parts();
        let mut backend = run.backend.clone();
        run.writeback =
            Writeback::rebuild(limits(), &mut backend, applied, rows, records).unwrap();
        run.backend = backend;
        let (found, layout) = booted(&run.backend).unwrap().unwrap();
        prop_assert_eq!(&found.parts(), &run.trial.state.publish().parts());
        prop_assert_eq!(run.backend.unflushed(), 0);
        let resumed = Writeback::resume(limits(), layout, &found);
        prop_assert_eq!(resumed.sealed_applied(), run.writeback.sealed_applied());

        run.step(&Step::Put(3, 3), Between::Nothing);
        let view = run.trial.state.publish();
        run.writeback.seal();
        run.commit();
        prop_assert_eq!(booted(&run.backend).unwrap().unwrap().0.parts(), view.parts());
    }
}

fn some_steps() -> Vec<(Step, Between)> {
    (0..60_u8)
        .map(|number| {
            let step = match number % 6 {
                4 => Step::Grant(number),
                5 => Step::Delete(number % 7, number % 7 + 1),
                _ => Step::Put(number % 11, 30),
            };
            (step, Between::Commit)
        })
        .collect()
}

fn finished(fault: MemFault) -> Run {
    let mut run = Run::new(fault);
    for (step, between) in some_steps() {
        run.step(&step, between);
    }
    run
}

#[test]
fn an_applied_index_outside_the_batch_is_noticed() {
    for fault in [MemFault::AppliedAhead, MemFault::AppliedBehind] {
        let run = finished(fault);
        let noticed = (0..=run.backend.unflushed())
            .filter(|kept| boots_consistently(&run, *kept).is_err())
            .count();
        assert!(noticed > 5, "{fault:?} noticed at {noticed} crash points");
    }
}

#[test]
fn a_rebuild_cut_short_does_not_load() {
    let mut run = finished(MemFault::None);
    let StateParts { applied, rows, records } = run.trial.state.publish().parts();
    let whole = {
        let mut backend = MemBackend::new();
        Writeback::rebuild(limits(), &mut backend, applied, rows.clone(), records.clone()).unwrap();
        backend
    };
    assert!(booted(&whole).unwrap().is_some());

    /// Fails after so many commits.
    struct Cut(MemBackend, usize);
    impl Backend for Cut {
        fn commit(&mut self, batch: &BackendBatch) -> Result<(), BackendError> {
            self.1 = self.1.checked_sub(1).ok_or(BackendError::Engine("cut".to_owned()))?;
            self.0.commit(batch)
        }
        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, BackendError> {
            self.0.get(key)
        }
        fn scan(&self, prefix: &[u8], visit: Visit<'_>) -> Result<(), BackendError> {
            self.0.scan(prefix, visit)
        }
        fn flush(&mut self) -> Result<(), BackendError> {
            self.0.flush()
        }
        fn size_bytes(&self) -> Result<u64, BackendError> {
            self.0.size_bytes()
        }
        fn clear(&mut self) -> Result<(), BackendError> {
            self.0.clear()
        }
    }
    for commits in 1..3 {
        let mut cut = Cut(MemBackend::new(), commits);
        let cut_short =
            Writeback::rebuild(limits(), &mut cut, applied, rows.clone(), records.clone());
        assert!(cut_short.is_err());
        assert!(matches!(load(&cut.0), Err(BackendError::Misplaced(_))), "after {commits} batches");
    }
}

#[test]
fn every_flipped_bit_in_the_backend_is_noticed() {
    let run = finished(MemFault::None);
    let pairs: Vec<(Vec<u8>, Vec<u8>)> =
        run.backend.pairs().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    for (key, value) in pairs {
        for bit in 0..value.len() * 8 {
            let mut bad = value.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let mut backend = run.backend.clone();
            backend.tamper(&key, Some(bad));
            assert!(load(&backend).is_err(), "{}, bit {bit}", printable(&key));
        }
        let mut backend = run.backend.clone();
        backend.tamper(&key, None);
        assert!(load(&backend).is_err(), "without {}", printable(&key));
        // A pair that comes back under another key.
        let mut backend = run.backend.clone();
        backend.tamper(&[&key[..], b"x"].concat(), Some(value));
        assert!(load(&backend).is_err(), "{} twice", printable(&key));
    }
}

#[test]
fn an_old_value_that_comes_back_is_noticed() {
    let mut run = Run::new(MemFault::None);
    run.step(&Step::Grant(1), Between::Seal);
    run.commit();
    let key = row_key(Table::Lease, &2_i64.to_be_bytes());
    let old = run.backend.get(&key).unwrap();
    assert!(
        old.is_some(),
        "leases lie under their id: {:?}",
        run.backend.pairs().map(|(key, _)| printable(key)).collect::<Vec<_>>()
    );
    let mut other = old.unwrap().to_vec();
    other[0] ^= 1;
    run.backend.tamper(&key, Some(guarded(&key, &other[..other.len() - 4])));
    assert!(matches!(load(&run.backend), Err(BackendError::Digest { .. })));
}

#[test]
fn an_empty_backend_is_no_state_and_no_error() {
    assert!(load(&MemBackend::new()).unwrap().is_none());
    let mut stray = MemBackend::new();
    stray.tamper(b"b/x", Some(vec![1]));
    assert!(matches!(load(&stray), Err(BackendError::Unmarked(_))));
}

#[test]
fn a_failing_engine_is_reported() {
    let mut run = Run::new(MemFault::Failing);
    let (changes, view, _) = run.trial.step(&Step::Put(1, 1));
    run.writeback.feed([&changes], &view);
    run.writeback.seal();
    let batch = run.writeback.take_batch().unwrap();
    assert!(run.backend.commit(&batch).is_err());
    assert!(run.backend.flush().is_err());
}

#[test]
fn the_engine_in_memory_conforms() {
    conformance(&mut MemBackend::new()).unwrap();
}

#[test]
fn a_revision_larger_than_a_block_lies_in_several_written_at_once() {
    let mut writeback = Writeback::new(WritebackLimits::default());
    let revision = |sub| Revision { main: 2, sub };
    let records: Vec<Record> = (0..100)
        .map(|sub| Record::put(revision(sub), 2, 1, 0, format!("{sub:03}").as_bytes(), &[7; 4000]))
        .collect();
    let applied = Applied { index: 1, term: 1, revision: 2, ..Applied::default() };
    let changes = Changes { applied, records: records.clone(), ..Changes::default() };
    let parts = StateParts { applied, records: records.clone(), ..StateParts::default() };
    let view = State::from_parts(parts, Limits::default()).unwrap().publish();
    writeback.feed([&changes], &view);
    let mut backend = MemBackend::new();
    let batch = writeback.take_batch().unwrap();
    backend.commit(&batch).unwrap();
    assert!(writeback.take_batch().is_none(), "one entry, one batch");
    let blocks = backend.pairs().filter(|(key, _)| key.starts_with(BLOCK_PREFIX)).count();
    assert!((6..=8).contains(&blocks), "{blocks} blocks for 400 KB");
    assert_eq!(load(&backend).unwrap().unwrap().parts.records, records);
}

#[test]
fn a_tail_is_kept_back_until_it_is_worth_a_block() {
    let mut trial = Trial::new();
    let mut writeback = Writeback::new(WritebackLimits::default());
    for _ in 0..63 {
        let (changes, view, _) = trial.step(&Step::Put(1, 10));
        writeback.feed([&changes], &view);
        assert!(writeback.take_batch().is_none());
    }
    assert!(writeback.waiting_bytes() > 0);
    let (changes, view, _) = trial.step(&Step::Put(1, 10));
    writeback.feed([&changes], &view);
    let batch = writeback.take_batch().unwrap();
    assert_eq!(batch.applied().index, 64);
    assert_eq!(batch.writes().len(), 2);
    assert_eq!(writeback.waiting_bytes(), 0);
}

#[test]
fn the_mark_is_pinned() {
    let mark = Mark {
        applied: Applied { index: 7, term: 2, revision: 4, compact_revision: -1, rolling_hash: 5 },
        census: Census { blocks: 1, dead_lists: 9, rows: 2, digest: 3 },
        swept_revision: -1,
    };
    assert_eq!(Mark::decode(&mark.encode()), Ok(mark));
    assert_eq!(
        to_hex(&mark.encode()),
        "0100000005000000070000000000000002000000000000000400000000000000\
         ffffffffffffffff000000007958690c01000000000000000900000000000000\
         02000000000000000300000000000000ffffffffffffffff466253c6"
    );
    assert_eq!(
        printable(&block_key(Revision { main: 258, sub: 3 })),
        "b/\\x00\\x00\\x00\\x00\\x00\\x00\\x01\\x02\\x00\\x00\\x00\\x03"
    );
    assert_eq!(row_key(Table::Member, b"id"), b"t/member/id");
    assert_eq!(to_hex(&guarded(b"t/member/id", b"value")), "76616c756503fa057a");
}

/// Every record of the history is somewhere, in memory or in the backend, at any time.
#[test]
fn nothing_applied_is_forgotten_before_it_is_committed() {
    let run = finished(MemFault::None);
    let loaded = load(&run.backend).unwrap().unwrap();
    let revision = loaded.parts.applied.revision;
    let expected: Vec<Record> = run
        .trial
        .history
        .iter()
        .map(|event: &Event| event.record.clone())
        .take_while(|record| record.mod_revision() <= revision)
        .collect();
    assert_eq!(loaded.parts.records, expected);
    assert_eq!(*run.writeback.sealed_applied(), loaded.parts.applied);
}

/// One key written over and over, then compacted: nearly all is dead.
fn overwritten() -> Run {
    let mut run = Run::new(MemFault::None);
    for _ in 0..40 {
        run.step(&Step::Put(1, 10), Between::Commit);
    }
    run.step(&Step::Compact(100), Between::Nothing);
    run.step(&Step::Sweep, Between::Nothing);
    run
}

#[test]
fn lists_of_dead_records_that_are_not_the_same_the_second_time_are_noticed() {
    let mut run = overwritten();
    run.commit();
    assert!(run.backend.pairs().any(|(key, _)| key.starts_with(DEAD_PREFIX)));
    for (readings, is_right) in [(0, false), (1, true), (2, false)] {
        let mut loading = Loading::begin(&run.backend, Values::default()).unwrap().unwrap();
        (0..readings).for_each(|_| loading.list_dead(&run.backend).unwrap());
        for (key, value) in run.backend.pairs() {
            loading.add(Pair::read(key, value).unwrap()).unwrap();
        }
        let loaded = loading.into_state(Limits::default(), &in_turn);
        assert_eq!(loaded.is_ok(), is_right, "read {readings} times before");
    }
}

#[test]
fn compaction_waits_until_what_is_sealed_has_been_handed_out() {
    let mut run = overwritten();
    assert!(run.writeback.wants_compaction());
    assert!(run.writeback.compact(&run.backend).unwrap().is_none());
    run.commit();
    let batch = run.writeback.compact(&run.backend).unwrap().unwrap();
    assert!(batch.writes().iter().any(|write| write.value.is_none()), "blocks are deleted");
}

#[test]
fn a_restarted_member_goes_on_clearing_blocks() {
    let mut run = overwritten();
    run.commit();
    let (view, layout) = booted(&run.backend).unwrap().unwrap();
    let mut writeback = Writeback::resume(limits(), layout, &view);
    let before = run.backend.size_bytes().unwrap();
    while let Some(batch) = writeback.compact(&run.backend).unwrap() {
        assert!(batch.writes().len() < 40, "a bounded step");
        run.backend.commit(&batch).unwrap();
    }
    assert!(run.backend.size_bytes().unwrap() < before / 4);
    assert_eq!(booted(&run.backend).unwrap().unwrap().0.parts(), view.parts());
}

#[test]
fn a_block_ends_with_a_revision_where_it_can() {
    let mut writeback = Writeback::new(limits());
    let mut records = Vec::new();
    for main in 2..12 {
        for sub in 0..3 {
            let key = format!("{main}/{sub}");
            let revision = Revision { main, sub };
            records.push(Record::put(revision, main, 1, 0, key.as_bytes(), &[1; 40]));
        }
    }
    let applied = Applied { index: 1, term: 1, revision: 11, ..Applied::default() };
    let changes = Changes { applied, records: records.clone(), ..Changes::default() };
    let parts = StateParts { applied, records, ..StateParts::default() };
    let view = State::from_parts(parts, Limits::default()).unwrap().publish();
    writeback.feed([&changes], &view);
    let batch = writeback.take_batch().unwrap();
    let firsts: Vec<Revision> =
        batch.writes().iter().filter_map(|write| block_first(&write.key)).collect();
    assert_eq!(
        firsts.len(),
        10,
        "three records of 90 bytes fill a block of 400 with none to spare"
    );
    assert!(firsts.iter().all(|first| first.sub == 0));
}
