//! The workers beside the member: log, apply and snapshots, each at its own pace.
//!
//! The log takes whatever has gathered while it was busy; apply joins what waits behind each other;
//! readers see a state before anyone is told of it.
use member::state::backend::Backend as _;
use member::state::{Changes, Event as StateEvent, View};
use member::wal::HardState;
use member::{Applied, ApplyTask, DiskTask, Input};
use proto::log::{Chunk, Entry};

use crate::mutant::Mutant;
use crate::node::{Issued, Running};
use crate::process::{Crash, LOG_IDLE_US, rebuilt};
use crate::world::{Event, World};

impl World {
    /// A worker met a failing disk: the process ends, as the server does.
    pub(crate) fn disk_failed(&mut self, id: u64, error: &str) {
        self.trace.note(self.now_us, &[13, id], || format!("{id}: stops: {error}"));
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let is_off = node.disk.get().faults.power_off_after == Some(0);
        self.figures.count(if is_off { "crashes in the midst of writing" } else { "disk errors" });
        let crash = if is_off && self.loss.permille(600) { Crash::Power } else { Crash::Death };
        let restart_us = self.loss.within(1_000, 500_000);
        self.crash(id, crash, restart_us);
    }

    pub(crate) fn give_disk(&mut self, id: u64, tasks: Vec<DiskTask>) {
        if tasks.is_empty() {
            return;
        }
        let (forgets, early) = (self.is(Mutant::ForgetVote), self.is(Mutant::PersistedEarly));
        let early_apply = self.is(Mutant::ApplyBeforeCommit);
        let pace_us = self.pace.within(50, self.plan.disk_us_max);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let boot = node.boot;
        let stalls_us = node.stalled_us.saturating_sub(self.now_us);
        let Some(running) = node.process.as_deref_mut() else { return };
        let (mut told, mut ahead) = (Vec::new(), Vec::new());
        for mut task in tasks {
            if let DiskTask::Append { number, batch, .. } = &mut task {
                node.confirmed.issued.push_back(Issued {
                    number: *number,
                    vote: batch.hard_state.map(|hard| (hard.term, hard.vote)),
                    entries: batch.entries.iter().map(|entry| (entry.index, entry.term)).collect(),
                    base: batch.snapshot.map(|mark| mark.index),
                });
                if forgets {
                    batch.hard_state = batch.hard_state.map(|hard| HardState { vote: 0, ..hard });
                }
                if early {
                    told.push(Input::Persisted { number: *number });
                }
                if early_apply {
                    ahead.extend(batch.entries.iter().map(|entry| Entry {
                        term: entry.term,
                        index: entry.index,
                        r#type: i32::from(entry.kind),
                        data: entry.data.clone(),
                        context: entry.context.clone(),
                    }));
                }
            }
            running.log_tasks.push(task);
        }
        let begins = !std::mem::replace(&mut running.log_runs, true);
        if begins {
            self.after(pace_us.max(stalls_us), Event::Log { node: id, boot });
        }
        for input in told {
            if let Input::Persisted { number } = input {
                self.nodes.get_mut(&id).expect("just seen").confirmed.confirm(number);
            }
            self.input(id, input);
        }
        if !ahead.is_empty() {
            self.apply_ahead(id, ahead);
        }
    }

    pub(crate) fn run_log(&mut self, id: u64, boot: u64) {
        let ignores = self.is(Mutant::IgnoreFailedSync);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.stalled_us > self.now_us {
            let until_us = node.stalled_us;
            return self.at(until_us, Event::Log { node: id, boot });
        }
        let Some(running) = node.process_of(boot) else { return };
        let tasks = std::mem::take(&mut running.log_tasks);
        running.log_runs = false;
        let done = match running.log.run(&tasks) {
            Err(_) if ignores && node.disk.get().faults.power_off_after != Some(0) => {
                let numbers = tasks.iter().filter_map(|task| match task {
                    DiskTask::Append { number, .. } => Some(Input::Persisted { number: *number }),
                    DiskTask::Release { .. } => None,
                });
                Ok(numbers.collect())
            }
            done => done,
        };
        match done {
            Ok(inputs) => {
                self.trace.note(self.now_us, &[14, id, tasks.len() as u64], || {
                    format!("{id}: log took {} tasks: {inputs:?}", tasks.len())
                });
                for input in inputs {
                    if let Input::Persisted { number } = input {
                        self.nodes.get_mut(&id).expect("just seen").confirmed.confirm(number);
                    }
                    self.input(id, input);
                }
            }
            Err(error) => self.disk_failed(id, &error.to_string()),
        }
    }

    pub(crate) fn idle_log(&mut self, id: u64, boot: u64) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process_of(boot)) else {
            return;
        };
        let marked = if running.log_runs { Ok(()) } else { running.log.idle() };
        match marked {
            Ok(()) => self.after(LOG_IDLE_US, Event::LogIdle { node: id, boot }),
            Err(error) => self.disk_failed(id, &error.to_string()),
        }
    }

    pub(crate) fn give_apply(&mut self, id: u64, tasks: Vec<ApplyTask>) {
        for task in &tasks {
            if let ApplyTask::Entries { entries, .. } = task {
                self.check_quorum(id, entries);
                self.truth.committed(id, entries);
            }
        }
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        running.apply_tasks.extend(tasks);
        self.plan_apply(id);
    }

    fn plan_apply(&mut self, id: u64) {
        let pace_us = self.pace.within(20, self.plan.apply_us_max);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let boot = node.boot;
        let Some(running) = node.process.as_deref_mut() else { return };
        let is_due = !running.apply_tasks.is_empty() || running.view.is_compacting();
        if is_due && !std::mem::replace(&mut running.apply_runs, true) {
            self.after(pace_us, Event::Apply { node: id, boot });
        }
    }

    pub(crate) fn run_apply(&mut self, id: u64, boot: u64) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process_of(boot)) else {
            return;
        };
        running.apply_runs = false;
        let tasks = ApplyTask::joined(std::mem::take(&mut running.apply_tasks));
        if tasks.is_empty() {
            if let Some((view, changes)) = running.apply.sweep() {
                running.view = view.clone();
                self.keep(id, &view, &changes, false);
            }
            return self.plan_apply(id);
        }
        for mut task in tasks {
            if self.is(Mutant::StaleEpoch) {
                self.ignore_epoch(id, &mut task);
            }
            let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process_of(boot))
            else {
                return;
            };
            let early = running.applied_early;
            if early > 0
                && let ApplyTask::Entries { entries, .. } = &mut task
            {
                entries.retain(|entry| entry.index > early);
            }
            if let ApplyTask::Entries { entries, .. } = &task {
                self.truth.applied_first(self.now_us, entries);
            }
            let Running { apply, snapshots, .. } = running;
            match apply.run(task, &mut |meta| snapshots.load(meta)) {
                Ok(applied) => self.spread(id, applied),
                Err(error) => return self.disk_failed(id, &error.to_string()),
            }
        }
        self.plan_apply(id);
    }

    /// A mutant's way: what is durable here is applied, whoever else has it.
    fn apply_ahead(&mut self, id: u64, entries: Vec<Entry>) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.process.as_deref_mut()) else {
            return;
        };
        let next = running.view.applied_index() + 1;
        let follows = entries.first().is_some_and(|entry| entry.index == next);
        let normal = entries.iter().all(|entry| entry.r#type == 0);
        if !follows || !normal || !running.apply_tasks.is_empty() {
            return;
        }
        running.applied_early = entries.last().map_or(0, |entry| entry.index);
        let task = ApplyTask::Entries { entries, bytes: 0 };
        if let Ok(applied) = running.apply.run(task, &mut |_| unreachable!("entries alone")) {
            let view = applied.view.clone();
            running.view = view.clone();
            self.keep(id, &view, &applied.changes, false);
        }
    }

    fn spread(&mut self, id: u64, applied: Applied) {
        let Applied { mut report, completed, view, changes, snapshot, replaced } = applied;
        let now_us = self.now_us;
        if self.is(Mutant::SkipConfChange) && id == 1 {
            report.memberships.clear();
        }
        if let Some(tuning) = &mut report.tuning
            && (self.is(Mutant::ElectionFirst) || self.is(Mutant::LeaseEarly))
        {
            self.bend_plan(tuning);
        }
        self.trace.note(
            now_us,
            &[15, id, view.applied_index(), u64::from(view.applied().rolling_hash)],
            || {
                format!(
                    "{id}: applied up to {}, revision {}, {} requests",
                    view.applied_index(),
                    view.revision(),
                    completed.len()
                )
            },
        );
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        let before = running.view.revision();
        running.view = view.clone();
        let origin = running.origin;
        if view.revision() < before {
            self.broken(format!(
                "one history: member {id} went back from revision {before} to {}",
                view.revision()
            ));
        }
        self.input(id, Input::Applied(Box::new(report)));
        for done in completed {
            if done.id.member == origin {
                self.completed(id, done);
            }
        }
        self.serve_reads(id);
        self.keep(id, &view, &changes, replaced);
        if let Some(job) = snapshot {
            self.figures.count("snapshots taken");
            let pace_us = self.pace.within(100, 20_000);
            let Some(node) = self.nodes.get_mut(&id) else { return };
            let boot = node.boot;
            let Some(running) = node.process.as_deref_mut() else { return };
            running.save_tasks.push_back(job);
            if !std::mem::replace(&mut running.save_runs, true) {
                self.after(pace_us, Event::Save { node: id, boot });
            }
        }
    }

    /// The checkers, the backend and the watchers learn what apply did.
    fn keep(&mut self, id: u64, view: &View, changes: &Changes, replaced: bool) {
        self.truth.published(id, view.applied(), &changes.records);
        let gap = self.is(Mutant::WatchGap) && self.watching.permille(20);
        let flushes = self.watching.permille(100);
        let tidies = self.watching.permille(200);
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(running) = node.process.as_deref_mut() else { return };
        // The backend.
        let values = running.values.clone();
        let may_drop = |compact_revision: i64| {
            values.as_ref().is_none_or(|values| values.cache().may_drop(compact_revision))
        };
        let mut synced = None;
        if replaced || running.writeback.is_none() {
            // Until nobody needs what the backend has now, it stays as it is.
            let is_free = may_drop(view.compact_revision());
            running.writeback = if is_free { rebuilt(&mut node.backend, view) } else { None };
            synced = running.writeback.as_ref().map(|_| view.revision());
        } else if let Some(writeback) = &mut running.writeback {
            writeback.feed([changes], view);
            let mut done = Ok(());
            while let Some(batch) = writeback.take_batch() {
                done = done.and_then(|()| node.backend.commit(&batch));
            }
            let through = writeback.sealed_applied().compact_revision;
            if tidies && writeback.wants_compaction() && may_drop(through) {
                match writeback.compact(&node.backend) {
                    Ok(Some(batch)) => done = done.and_then(|()| node.backend.commit(&batch)),
                    Ok(None) => {}
                    Err(error) => done = Err(error),
                }
            }
            if flushes {
                done = done.and_then(|()| node.backend.flush());
                synced = done.is_ok().then(|| writeback.sealed_applied().revision);
            }
            if let Err(error) = done {
                return self.broken(format!("backend of member {id}: {error}"));
            }
        }
        if let (Some(values), Some(through)) = (&values, synced) {
            while values.cache().synced(through) {}
        }
        // The watchers.
        if replaced {
            running.hub.replaced(view);
        } else if !gap && !changes.records.is_empty() {
            let events: Vec<StateEvent> = changes
                .records
                .iter()
                .map(|record| StateEvent {
                    prev: view.record_before(record),
                    record: record.clone(),
                })
                .collect();
            running.hub.publish(view, &events);
        }
        if gap && !replaced {
            self.forget_watchers(id);
        }
        self.serve_watchers(id);
    }

    pub(crate) fn run_save(&mut self, id: u64, boot: u64) {
        let skips = self.is(Mutant::ReleaseWithoutSnapshot);
        let pace_us = self.pace.within(100, 20_000);
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process_of(boot)) else {
            return;
        };
        running.save_runs = false;
        let Some(job) = running.save_tasks.pop_front() else { return };
        if !running.save_tasks.is_empty() {
            running.save_runs = true;
            self.after(pace_us, Event::Save { node: id, boot });
        }
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process_of(boot)) else {
            return;
        };
        let saved = if skips {
            let mut meta = job.meta;
            for chunk in member::state::snapshot::chunks(&job.view) {
                let hash = blake3::hash(&chunk).as_bytes().to_vec().into();
                meta.state_bytes += chunk.len() as u64;
                meta.chunks.push(Chunk { hash, bytes: chunk.len() as u64 });
            }
            Ok(meta)
        } else {
            running.snapshots.save(job)
        };
        match saved {
            Ok(meta) => {
                self.trace.note(self.now_us, &[16, id, meta.index], || {
                    format!("{id}: saved a snapshot at {}", meta.index)
                });
                self.input(id, Input::SnapshotSaved(meta));
            }
            Err(error) => self.disk_failed(id, &error.to_string()),
        }
    }
}
