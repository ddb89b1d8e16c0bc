//! Reading a key space back at boot, believing nothing.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::{
    APPLIED_KEY, BLOCK_PREFIX, Backend, BackendError, Census, Mark, TABLE_PREFIX, block_first,
    pair_digest, printable, row_of,
};
use crate::block;
use crate::parts::StateParts;
use crate::record::Revision;

/// What is known of a block without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockStat {
    /// [`pair_digest`] of its key and value.
    pub digest: u64,
    /// Records in it.
    pub records: u32,
    /// How many of them compaction has dropped since.
    pub dead: u32,
    /// Bytes of its records before compression.
    pub raw_bytes: u32,
}

/// Where things lie in a key space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub(super) mark: Mark,
    /// By revision of the first record.
    pub(super) blocks: BTreeMap<Revision, BlockStat>,
    /// Digest of each row, by its whole key.
    pub(super) rows: BTreeMap<Vec<u8>, u64>,
}

/// What was found in a backend.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The state at the index of the last batch that survived.
    pub parts: StateParts,
    /// To go on writing with [`super::Writeback::resume`].
    pub layout: Layout,
}

/// Reads the whole key space, checking every checksum, the order of all records, and the number and
/// digest of all pairs. `None` if it is empty.
///
/// # Errors
/// [`BackendError`] at the slightest doubt: the generation is to be dropped and built anew from the
/// newest snapshot and the log.
pub fn load(backend: &dyn Backend) -> Result<Option<Loaded>, BackendError> {
    let Some(mark) = backend.get(APPLIED_KEY)? else {
        let mut found = None;
        backend.scan(b"", &mut |key, _| {
            found = Some(printable(key));
            ControlFlow::Break(())
        })?;
        return found.map_or(Ok(None), |key| Err(BackendError::Unmarked(key)));
    };
    let mark = Mark::decode(&mark)?;
    let mut reading = Reading {
        parts: StateParts { applied: mark.applied, ..StateParts::default() },
        layout: Layout { mark, ..Layout::default() },
        census: Census::default(),
    };
    let mut failed = None;
    backend.scan(b"", &mut |key, value| match reading.take(key, value) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    if reading.census != mark.census {
        return Err(BackendError::Digest { counted: mark.census, found: reading.census });
    }
    let Reading { mut parts, layout, .. } = reading;
    // The key space is in order of table names, a state's parts in order of tables.
    parts.rows.sort();
    Ok(Some(Loaded { parts, layout }))
}

struct Reading {
    parts: StateParts,
    layout: Layout,
    census: Census,
}

impl Reading {
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), BackendError> {
        if key == APPLIED_KEY {
            return Ok(());
        }
        let digest = pair_digest(key, value);
        self.census.digest = self.census.digest.wrapping_add(digest);
        if key.starts_with(TABLE_PREFIX) {
            let row = row_of(key, value).ok_or_else(|| BackendError::Row(printable(key)))?;
            self.census.rows += 1;
            self.parts.rows.push(row);
            self.layout.rows.insert(key.to_vec(), digest);
            return Ok(());
        }
        let first = key
            .starts_with(BLOCK_PREFIX)
            .then(|| block_first(key))
            .flatten()
            .ok_or_else(|| BackendError::UnknownKey(printable(key)))?;
        let records =
            block::decode(value).map_err(|error| BackendError::Block { revision: first, error })?;
        let applied = self.parts.applied.revision;
        let before = self.parts.records.last().map_or(Revision::default(), |it| it.revision());
        let begins = records.first().map(|it| it.revision());
        let ends = records.last().map_or(first, |it| it.revision());
        if begins != Some(first) || first <= before || ends.main > applied {
            return Err(BackendError::Misplaced(first));
        }
        self.census.blocks += 1;
        let stat = BlockStat {
            digest,
            records: u32::try_from(records.len()).expect("a block counts its records in 32 bits"),
            dead: 0,
            raw_bytes: raw_bytes(&records),
        };
        self.layout.blocks.insert(first, stat);
        self.parts.records.extend(records);
        Ok(())
    }
}

/// Bytes of records before compression.
pub(super) fn raw_bytes(records: &[crate::record::Record]) -> u32 {
    let bytes: usize = records.iter().map(|it| it.as_bytes().len()).sum();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}
