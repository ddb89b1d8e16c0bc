//! Who wrote what to the API, from the API server's audit log: for programs that promise to write nothing
//! when nothing changes.

use std::fs;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::places::NODE_DIR;

/// A place in the log, which the API server writes before it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(u64);

/// Its end, as it is now.
pub fn mark() -> Result<Mark> {
    let path = path();
    Ok(Mark(fs::metadata(&path).context(path)?.len()))
}

/// The writes of a user since then, each as `VERB RESOURCE NAMESPACE/NAME`.
pub fn writes_since(mark: Mark, user: &str) -> Result<Vec<String>> {
    let path = path();
    let mut file = fs::File::open(&path).with_context(|| path.clone())?;
    // The server begins a new file after a hundred megabytes; then all of it is since the mark.
    let from = if file.metadata()?.len() < mark.0 { 0 } else { mark.0 };
    file.seek(SeekFrom::Start(from))?;
    let mut text = String::new();
    file.read_to_string(&mut text).context(path)?;
    Ok(writes(&text, user))
}

fn path() -> String {
    format!("{NODE_DIR}/log/audit.log")
}

fn writes(log: &str, user: &str) -> Vec<String> {
    let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let own = events.filter(|event| event["user"]["username"] == user);
    own.map(|event| {
        let object = &event["objectRef"];
        let field = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let resource = match object["subresource"].as_str() {
            Some(part) => format!("{}/{part}", field(&object["resource"])),
            None => field(&object["resource"]),
        };
        let (namespace, name) = (field(&object["namespace"]), field(&object["name"]));
        format!("{} {resource} {namespace}/{name}", field(&event["verb"]))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_told_apart_by_user_and_named_by_what_they_changed() {
        let log = r#"
            {"user":{"username":"a"},"verb":"patch","objectRef":{"resource":"metastores","subresource":"status","namespace":"n","name":"demo"}}
            {"user":{"username":"b"},"verb":"create","objectRef":{"resource":"pods","namespace":"n","name":"p"}}
            half a li"#;
        assert_eq!(writes(log, "a"), ["patch metastores/status n/demo"]);
        assert_eq!(writes(log, "b"), ["create pods n/p"]);
    }
}
