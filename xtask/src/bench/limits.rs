//! What people have found out about rows that are not at their goal: docs/benchmarks-limits.md, a
//! heading for each row's key.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::goals::ROWS;
use crate::chores::root;

/// The key of the text about profiles.
pub(super) const PROFILE: &str = "profile";

/// Texts by key.
#[derive(Debug, Default)]
pub(super) struct Limits(BTreeMap<String, String>);

impl Limits {
    pub(super) fn read() -> Result<Self> {
        let path = root().join("docs/benchmarks-limits.md");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut limits = BTreeMap::new();
        // What stands before the first heading says what the file is.
        for part in text.split("\n## ").skip(1) {
            let (key, text) = part.split_once('\n').unwrap_or((part, ""));
            let key = key.trim();
            if key != PROFILE && !ROWS.iter().any(|row| row.key == key) {
                bail!("{key:?}: no row has this key");
            }
            if limits.insert(key.to_owned(), text.trim().to_owned()).is_some() {
                bail!("{key:?} is there twice");
            }
        }
        Ok(Limits(limits))
    }

    pub(super) fn of(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|text| !text.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_by_the_keys_of_rows() {
        let key = ROWS[0].key;
        let text = format!(
            "# Title\n\nWhat this is.\n\n## {key}\n\nThe disk.\n\n### More\n\nOf it.\n\n## profile\n"
        );
        let limits = Limits::parse(&text).unwrap();
        assert_eq!(limits.of(key), Some("The disk.\n\n### More\n\nOf it."));
        assert_eq!(limits.of(PROFILE), None);
    }

    #[test]
    fn a_key_that_no_row_has_or_that_comes_twice_is_refused() {
        for (text, said) in
            [("#\n## nope\nx", "nope"), ("#\n## profile\nx\n## profile\ny", "twice")]
        {
            let error = Limits::parse(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn the_committed_file_is_well_formed() {
        Limits::read().unwrap();
    }
}
