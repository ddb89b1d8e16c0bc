//! Running a program to its end with a limit, and what it said.

use std::io::{Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Bytes of a program's words that an error repeats.
const QUOTE_BYTES_MAX: usize = 4000;

/// What a program left.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// The program and its arguments, for messages.
pub fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program()).to_string_lossy();
    let words = command.get_args().map(|word| word.to_string_lossy());
    let mut line = words.fold(name.into_owned(), |line, word| line + " " + &word);
    if line.len() > 300 {
        line.truncate(line.floor_char_boundary(300));
        line += " ...";
    }
    line
}

/// Runs to the end, whatever that is. Longer than `limit` is an error, and the program is killed.
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> Result<Output> {
    let name = line(command);
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| name.clone())?;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not want its input says so with its exit code.
            scope.spawn(move || drop(stdin.write_all(input)));
        }
        let mut stdout = child.stdout.take().expect("it is piped");
        let mut stderr = child.stderr.take().expect("it is piped");
        let read = |pipe: &mut dyn Read| {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let stdout = scope.spawn(move || read(&mut stdout));
        let stderr = scope.spawn(move || read(&mut stderr));
        let mut ended = None;
        while ended.is_none() && begun.elapsed() < limit {
            ended = child.try_wait().with_context(|| name.clone())?;
            if ended.is_none() {
                std::thread::sleep(LOOK_EVERY);
            }
        }
        if ended.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let stdout = stdout.join().expect("reading does not panic");
        let stderr = stderr.join().expect("reading does not panic");
        match ended {
            Some(status) => Ok(Output { status, stdout, stderr }),
            None => bail!("{name}: no end within {limit:?}; it said: {}", quote(&stdout, &stderr)),
        }
    })
}

/// Runs to a good end; answers with standard output.
pub fn run_well(command: &mut Command, input: &[u8], limit: Duration) -> Result<String> {
    let output = run(command, input, limit)?;
    if !output.status.success() {
        let said = quote(&output.stdout, &output.stderr);
        bail!("{}: {}: {said}", line(command), output.status);
    }
    Ok(output.stdout)
}

fn quote(stdout: &str, stderr: &str) -> String {
    let said = format!("{} {}", stderr.trim(), stdout.trim());
    let said = said.trim();
    let from = said.ceil_char_boundary(said.len().saturating_sub(QUOTE_BYTES_MAX));
    said[from..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn input_reaches_the_program_and_its_words_come_back() {
        let said = run_well(&mut shell("cat; echo x >&2"), b"words", Duration::from_secs(20));
        assert_eq!(said.unwrap(), "words");
    }

    #[test]
    fn a_failure_names_the_command_its_code_and_its_words() {
        let error = run_well(&mut shell("echo why >&2; exit 3"), b"", Duration::from_secs(20));
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("sh -c echo why"), "{error}");
        assert!(error.contains("exit status: 3: why"), "{error}");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed_and_quoted() {
        // On a busy machine a shell takes its time to begin.
        for limit in [Duration::from_millis(300), Duration::from_secs(30)] {
            let error = run(&mut shell("echo begun; exec sleep 600"), b"", limit).unwrap_err();
            let said = error.to_string();
            assert!(said.contains(&format!("no end within {limit:?}")), "{said}");
            if said.contains("; it said: begun") {
                return;
            }
        }
        panic!("what it said is not quoted");
    }
}
