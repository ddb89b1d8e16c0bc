//! What every engine behind [`Backend`] must do, as one function to call from its tests.

use std::ops::ControlFlow;

use super::{APPLIED_KEY, Backend, BackendBatch, Mark, Write};
use crate::parts::Applied;

/// Longest value written: a block of one large record.
const LARGE_VALUE_BYTES: usize = 4 << 20;

/// Tries an engine, which must be empty, and leaves it empty.
///
/// # Errors
/// One line that says what the engine did wrong.
pub fn conformance(backend: &mut dyn Backend) -> Result<(), String> {
    let failed = |what: &str| format!("backend conformance: {what}");
    let check = |holds: bool, what: &str| if holds { Ok(()) } else { Err(failed(what)) };

    check(pairs(backend, b"")?.is_empty(), "the engine is not empty at the start")?;
    check(get(backend, b"a")?.is_none(), "an absent key has a value")?;

    // Keys of every length and byte, in and out of order.
    let keys: [&[u8]; 8] =
        [b"b/\x00\x02", b"a", b"b/\x00\x01", b"b", b"b/\xff\xff", b"b/", b"c/\x00", b"b0"];
    let mut writes: Vec<Write> =
        keys.iter().map(|key| put(key, &[key, &b"="[..]].concat())).collect();
    writes.push(put(b"empty", b""));
    writes.push(put(b"large", &vec![7; LARGE_VALUE_BYTES]));
    commit(backend, 1, writes)?;
    check(get(backend, b"a")?.as_deref() == Some(b"a="), "a written key is not read back")?;
    check(get(backend, b"empty")?.as_deref() == Some(b""), "an empty value is not read back")?;
    let large = get(backend, b"large")?.map(|it| it.len());
    check(large == Some(LARGE_VALUE_BYTES), "a value of 4 MiB is not read back")?;
    check(applied(backend)? == Some(1), "the applied index is not in the batch")?;

    let expected: [&[u8]; 4] = [b"b/", b"b/\x00\x01", b"b/\x00\x02", b"b/\xff\xff"];
    let found = pairs(backend, b"b/")?;
    let in_order = found.iter().map(|(key, _)| key.as_slice()).eq(expected);
    check(in_order, "a scan does not give exactly the keys of its prefix, in byte order")?;
    let values_match = found.iter().all(|(key, value)| *value == [key, &b"="[..]].concat());
    check(values_match, "a scan gives values of other keys")?;
    let mut visited = 0;
    let visit = &mut |_: &[u8], _: &[u8]| {
        visited += 1;
        if visited == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    backend.scan(b"b/", visit).map_err(|error| failed(&error.to_string()))?;
    check(visited == 2, "a scan does not stop when told to")?;

    // Overwriting and removing, absent keys included.
    let remove = |key: &[u8]| Write { key: key.to_vec(), value: None };
    commit(backend, 2, vec![put(b"a", b"new"), remove(b"b"), remove(b"never there")])?;
    check(get(backend, b"a")?.as_deref() == Some(b"new"), "a key is not overwritten")?;
    check(get(backend, b"b")?.is_none(), "a removed key is still there")?;
    check(applied(backend)? == Some(2), "the applied index is not overwritten")?;

    backend.flush().map_err(|error| failed(&error.to_string()))?;
    check(get(backend, b"a")?.as_deref() == Some(b"new"), "a flush loses a key")?;
    let size = backend.size_bytes().map_err(|error| failed(&error.to_string()))?;
    check(size > 0, "a store with data takes no space")?;

    backend.clear().map_err(|error| failed(&error.to_string()))?;
    check(pairs(backend, b"")?.is_empty(), "a cleared engine is not empty")?;
    commit(backend, 3, vec![put(b"a", b"again")])?;
    check(get(backend, b"a")?.as_deref() == Some(b"again"), "a cleared engine cannot be used")?;
    backend.clear().map_err(|error| failed(&error.to_string()))
}

fn put(key: &[u8], value: &[u8]) -> Write {
    Write { key: key.to_vec(), value: Some(value.to_vec()) }
}

fn commit(backend: &mut dyn Backend, index: u64, writes: Vec<Write>) -> Result<(), String> {
    let applied = Applied { index, ..Applied::default() };
    let batch = BackendBatch::new(Mark { applied, ..Mark::default() }, writes);
    backend.commit(&batch).map_err(|error| error.to_string())
}

fn get(backend: &dyn Backend, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
    backend.get(key).map(|it| it.map(|it| it.to_vec())).map_err(|error| error.to_string())
}

fn applied(backend: &dyn Backend) -> Result<Option<u64>, String> {
    let Some(bytes) = get(backend, APPLIED_KEY)? else { return Ok(None) };
    let mark = Mark::decode(&bytes).map_err(|error| error.to_string())?;
    Ok(Some(mark.applied.index))
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn pairs(backend: &dyn Backend, prefix: &[u8]) -> Result<Pairs, String> {
    let mut found = Vec::new();
    backend
        .scan(prefix, &mut |key, value| {
            found.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .map_err(|error| error.to_string())?;
    Ok(found)
}
