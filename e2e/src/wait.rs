//! Waiting for something to become so: with a name, a limit, and a line whenever what is seen changes.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What a look at the world found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Seen<T> {
    /// It is so.
    Done(T),
    /// Not yet; in few words, what is so instead.
    NotYet(String),
}

/// Looks again and again until it is so; answers with what was found and how long it took.
///
/// An error of `look` counts as not yet, since most are those of something that is still starting; the
/// last one is in the error when `limit` is over.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Seen<T>>,
) -> Result<(T, Duration)> {
    const PAUSE_MIN: Duration = Duration::from_millis(50);
    const PAUSE_MAX: Duration = Duration::from_millis(500);
    let begun = Instant::now();
    let mut last = String::new();
    let mut pause = PAUSE_MIN;
    loop {
        let state = match look() {
            Ok(Seen::Done(found)) => return Ok((found, begun.elapsed())),
            Ok(Seen::NotYet(state)) => state,
            Err(error) => format!("{error:#}").replace('\n', " "),
        };
        if state != last {
            say(&format!("   {what}: {:.1} s: {state}", begun.elapsed().as_secs_f64()));
            last = state;
            pause = PAUSE_MIN;
        }
        if begun.elapsed() >= limit {
            bail!("{what}: not within {limit:?}; last seen: {last}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A line for whoever looks on.
#[expect(clippy::print_stdout, reason = "this is a command-line tool")]
pub fn say(line: &str) {
    println!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_not_yet_and_the_last_is_in_the_message() {
        let mut looks = 0;
        let (found, _) = until("a thing", Duration::from_secs(60), || {
            looks += 1;
            match looks {
                1 => bail!("nobody is there"),
                2 => Ok(Seen::NotYet("half".into())),
                _ => Ok(Seen::Done(7)),
            }
        })
        .unwrap();
        assert_eq!((found, looks), (7, 3));
        let never: Result<((), _)> = until("a thing", Duration::ZERO, || bail!("nobody is there"));
        let error = never.unwrap_err().to_string();
        assert_eq!(error, "a thing: not within 0ns; last seen: nobody is there");
    }
}
