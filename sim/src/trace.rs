//! What happened, as one number and, on demand, as text.
//!
//! Every event goes into a running hash: two runs of a seed that end with the same hash went the
//! same way. The text of events costs more than the events, so it is kept only when somebody wants
//! to read it: a failed run is simply run again.

use std::collections::VecDeque;

use crate::random::mix;

/// Lines kept for a report.
const LINES_KEPT: usize = 120;

/// The trace of a run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    keeps_text: bool,
    prints: bool,
    lines: VecDeque<String>,
}

impl Trace {
    /// `keeps_text`: the last lines are for a report; `prints`: each is shown as it comes.
    pub(crate) fn new(keeps_text: bool, prints: bool) -> Self {
        Trace { keeps_text: keeps_text || prints, prints, ..Trace::default() }
    }

    /// Notes an event by its numbers; `text` is asked only if it is to be kept.
    pub(crate) fn note(&mut self, now_us: u64, numbers: &[u64], text: impl FnOnce() -> String) {
        self.events += 1;
        self.hash = mix(self.hash ^ now_us);
        for number in numbers {
            self.hash = mix(self.hash.rotate_left(17) ^ number);
        }
        if self.keeps_text {
            let line = format!("{:>10.6}s {}", now_us as f64 / 1e6, text());
            if self.prints {
                crate::print_line(&line);
            }
            if self.lines.len() == LINES_KEPT {
                self.lines.pop_front();
            }
            self.lines.push_back(line);
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.iter().cloned().collect()
    }
}
