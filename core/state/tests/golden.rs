//! Golden scripts: what commands do, written down so that a person can read it.
//!
//! Each file in `golden/` begins with a sentence that states the fact. A line with `> ` is a command,
//! the lines after it are the answer. `UPDATE_GOLDEN=1 cargo test -p state --test golden` writes the
//! answers anew; the difference is then for a person to judge.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod apart;
mod script;

use std::path::{Path, PathBuf};

use script::Session;

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(&folder).expect("tests/golden is there");
    let mut scripts: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    scripts.sort();
    scripts
}

/// The script with the answers it gets now.
fn replay(text: &str, is_apart: bool) -> String {
    let mut session = Session::new(is_apart);
    let mut replayed = String::new();
    let mut answering = false;
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            replayed.push_str(line);
            replayed.push('\n');
            for answer in session.run(command) {
                replayed.push_str(&format!("  {answer}\n"));
            }
            answering = true;
        } else if !(answering && line.starts_with("  ")) {
            replayed.push_str(line);
            replayed.push('\n');
            answering = false;
        }
    }
    replayed
}

#[test]
fn golden_scripts_get_the_answers_written_down() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let scripts = scripts();
    assert!(scripts.len() > 20, "only {} scripts", scripts.len());
    let mut wrong = Vec::new();
    for path in scripts {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().display().to_string();
        let first = text.lines().next().unwrap_or_default();
        assert!(first.ends_with('.') && first.contains(' '), "{name} begins with no sentence");
        let replayed = replay(&text, false);
        assert_eq!(replay(&text, true), replayed, "{name}: where values lie changes the answer");
        if replayed == text {
            continue;
        }
        if update {
            std::fs::write(&path, replayed).unwrap();
            continue;
        }
        let differs = text.lines().zip(replayed.lines()).position(|(a, b)| a != b);
        let at = differs.unwrap_or_else(|| text.lines().count().min(replayed.lines().count()));
        let line = |text: &str| text.lines().nth(at).unwrap_or("(end)").to_owned();
        wrong.push(format!(
            "{name}:{}: {first}\n  written {}\n  now     {}",
            at + 1,
            line(&text),
            line(&replayed),
        ));
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
