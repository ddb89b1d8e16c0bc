//! Watchers on every member: from now on, from the past, slow and fast.
use bytes::Bytes;
use member::state::watch::{Hub, HubLimits};
use prost::Message as _;
use proto::etcdserverpb::WatchCreateRequest;

use crate::clients::key;
use crate::node::Running;
use crate::truth::Watching;
use crate::world::World;

/// Revisions read for watchers that are behind, at a time.
const CATCH_UP_REVISIONS: usize = 40;

impl World {
    /// Some watchers begin with the process: from now on, from the past, of all or of one key.
    pub(crate) fn watch(&mut self, id: u64) {
        for _ in 0..2 {
            let start = self.watching.below(3);
            let number = self.watching.below(self.plan.keys);
            let (all, prev_kv, progress_notify) = (
                self.watching.permille(500),
                self.watching.permille(500),
                self.watching.permille(500),
            );
            let back = i64::try_from(self.watching.below(40)).unwrap_or(0);
            let Some(running) = self.nodes.get_mut(&id).and_then(|n| n.process.as_deref_mut())
            else {
                return;
            };
            let now = running.view.revision();
            let oldest = running.view.compact_revision().max(1);
            let start_revision = match start {
                0 => 0,
                1 => (now - back).max(oldest),
                _ => now + 1,
            };
            let (key, range_end) = if all {
                (Bytes::from_static(&[0]), Bytes::from_static(&[0]))
            } else {
                (key(number).into(), Bytes::new())
            };
            let request = WatchCreateRequest {
                key,
                range_end,
                start_revision,
                prev_kv,
                progress_notify,
                ..WatchCreateRequest::default()
            };
            let stream = running.hub.open();
            running.hub.create(stream, request.clone(), &running.view);
            let watching = Watching {
                request,
                responses: Vec::new(),
                compact_revision: 0,
                complete_through: None,
            };
            running.watchers.insert(stream, watching);
        }
        self.serve_watchers(id);
    }

    pub(crate) fn serve_watchers(&mut self, id: u64) {
        let (ticks, slow) = (self.watching.permille(50), self.watching.permille(300));
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        if ticks {
            running.hub.progress_tick();
        }
        if slow {
            // Nobody reads now: the buffers fill, watchers fall behind.
            return;
        }
        take_output(running, CATCH_UP_REVISIONS);
    }

    /// The watchers of a process end with it.
    pub(crate) fn end_watchers(&mut self, id: u64, is_complete: bool) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        if is_complete {
            for _ in 0..1_000 {
                take_output(running, usize::MAX);
                if !running.hub.catch_up(&running.view, CATCH_UP_REVISIONS)
                    && !running.hub.has_output()
                {
                    break;
                }
            }
        }
        let through = is_complete.then(|| running.view.revision());
        for (_, mut watching) in std::mem::take(&mut running.watchers) {
            let cancelled = watching.responses.last().is_some_and(|response| response.canceled);
            watching.complete_through = through.filter(|_| !cancelled);
            watching.compact_revision = running.view.compact_revision();
            self.truth.watched(watching);
        }
    }

    /// A mutant's way: whoever was synced is taken for caught up, whatever was not published.
    pub(crate) fn forget_watchers(&mut self, id: u64) {
        let Some(running) = self.nodes.get_mut(&id).and_then(|node| node.process.as_deref_mut())
        else {
            return;
        };
        running.hub = Hub::new(HubLimits::default(), &running.view);
        for (_, watching) in std::mem::take(&mut running.watchers) {
            let stream = running.hub.open();
            let request = WatchCreateRequest { start_revision: 0, ..watching.request.clone() };
            running.hub.create(stream, request, &running.view);
            drop(running.hub.take_output());
            running.watchers.insert(stream, watching);
        }
    }
}

fn take_output(running: &mut Running, revisions: usize) {
    running.hub.catch_up(&running.view, revisions);
    while running.hub.has_output() {
        for (stream, response) in running.hub.take_output() {
            running.hub.sent(stream, response.encoded_len());
            if let Some(watching) = running.watchers.get_mut(&stream) {
                watching.responses.push(response);
            }
        }
    }
}
