//! How far a load is, once a second on standard error, so that reports can be piped.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use super::load::{Amount, Part, Plan, Progress};

/// Characters of a full bar.
const BAR_WIDTH: usize = 20;
/// To the beginning of the line, and clears it.
const CLEAR: &str = "\r\x1b[K";

/// Shows progress in the way that suits whoever looks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shower {
    style: Style,
    amount: Amount,
    part: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// A program reads the report.
    Silent,
    /// A line a second.
    Lines,
    /// One line on a terminal, drawn anew.
    Bar,
}

impl Shower {
    pub(crate) fn new(json: bool, plan: &Plan) -> Self {
        let style = match (json, std::io::stderr().is_terminal()) {
            (true, _) => Style::Silent,
            (false, true) => Style::Bar,
            (false, false) => Style::Lines,
        };
        Shower { style, amount: plan.amount, part: plan.part }
    }

    pub(crate) fn show(&self, progress: &Progress<'_>) {
        let words = words(progress, self.part);
        // Nobody may be there to see it.
        drop(match self.style {
            Style::Silent => Ok(()),
            Style::Lines => writeln!(std::io::stderr(), "  {words}"),
            Style::Bar => {
                let bar = bar(share(self.amount, progress));
                let line = fit(format!("  {bar} {words}"), columns());
                write!(std::io::stderr(), "{CLEAR}{line}")
            }
        });
    }

    /// Leaves no bar behind.
    pub(crate) fn end(&self) {
        if self.style == Style::Bar {
            drop(write!(std::io::stderr(), "{CLEAR}"));
        }
    }
}

fn words(progress: &Progress<'_>, part: Part) -> String {
    let Progress { is_warmup, done, last } = progress;
    let begins = match (part, is_warmup) {
        (Part::Preparation, _) => "preparing, ",
        (Part::TidyingUp, _) => "tidying up, ",
        (Part::Measured, true) => "warm-up, ",
        (Part::Measured, false) => "",
    };
    let mut words = format!(
        "{begins}{:.0} s: {done} done, {:.0}/s, p99 {:.2} ms",
        last.at_s, last.ops_per_s, last.p99_ms
    );
    for (count, what) in [(last.refused, "refused"), (last.lost, "lost")] {
        if count > 0 {
            words += &format!(", {count} {what}");
        }
    }
    words
}

/// The terminal's width; `None`: it does not say.
fn columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// As much of a line as is on one line of the terminal: of a longer one the first part would stay.
fn fit(line: String, columns: Option<usize>) -> String {
    match columns {
        // The cursor needs a place, too.
        Some(columns) => line.chars().take(columns - 1).collect(),
        None => line,
    }
}

/// How much of the load is over, 0 to 1.
fn share(amount: Amount, progress: &Progress<'_>) -> f64 {
    let share = match amount {
        _ if progress.is_warmup => 0.0,
        Amount::Total(total) => progress.done as f64 / total as f64,
        Amount::Lasting(duration) => {
            Duration::from_secs_f64(progress.last.at_s).div_duration_f64(duration)
        }
    };
    share.clamp(0.0, 1.0)
}

fn bar(share: f64) -> String {
    let full = (share * BAR_WIDTH as f64) as usize;
    format!("[{}{}] {:3.0} %", "#".repeat(full), ".".repeat(BAR_WIDTH - full), share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::recorder::Second;

    fn second(at_s: f64) -> Second {
        Second {
            at_s,
            ops: 900,
            ops_per_s: 900.4,
            p50_ms: 1.0,
            p99_ms: 2.5,
            max_ms: 9.0,
            refused: 0,
            lost: 0,
            server_cpu_cores: None,
            server_rss_bytes: None,
        }
    }

    #[test]
    fn a_bar_grows_with_time_or_with_what_is_done() {
        let last = second(5.0);
        let progress = Progress { is_warmup: false, done: 250, last: &last };
        assert_eq!(share(Amount::Lasting(Duration::from_secs(10)), &progress), 0.5);
        assert_eq!(share(Amount::Total(1000), &progress), 0.25);
        assert_eq!(share(Amount::Total(100), &progress), 1.0);
        assert_eq!(bar(0.5), "[##########..........]  50 %");
        assert_eq!(words(&progress, Part::Measured), "5 s: 250 done, 900/s, p99 2.50 ms");
    }

    #[test]
    fn a_bar_is_no_longer_than_the_terminal_is_wide() {
        let line = || "  [#####] 100 %".to_owned();
        assert_eq!((fit(line(), Some(6)), fit(line(), Some(1))), ("  [##".into(), String::new()));
        assert_eq!((fit(line(), Some(80)), fit(line(), None)), (line(), line()));
    }

    #[test]
    fn warming_up_is_said_and_is_no_progress() {
        let last = Second { refused: 3, lost: 2, ..second(1.0) };
        let progress = Progress { is_warmup: true, done: 250, last: &last };
        assert_eq!(share(Amount::Total(1000), &progress), 0.0);
        let rest = "1 s: 250 done, 900/s, p99 2.50 ms, 3 refused, 2 lost";
        assert_eq!(words(&progress, Part::Measured), format!("warm-up, {rest}"));
        assert_eq!(words(&progress, Part::Preparation), format!("preparing, {rest}"));
    }
}
