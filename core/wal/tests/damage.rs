//! Torn or rotten: what was never promised is cut off, what was promised is never given up.

mod common;

use bytes::Bytes;
use common::{OWNER, Rng, entries, hard_state, options, recover};
use wal::mem::MemDisk;
use wal::{Log, LogBatch, LogError, LogFaults, LogOptions, Recovered, inspect};

const FIRST: &str = "member/wal/0000000000000001-0000000000000001.wal";
const SECOND: &str = "member/wal/0000000000000002-0000000000000004.wal";
/// Where batches start: behind two header blocks.
const DATA_START: u64 = 8192;

fn append(log: &mut Log<&mut MemDisk>, batch: &LogBatch, sync: bool) {
    log.append(batch).expect("a healthy disk takes a batch");
    if sync {
        log.sync().expect("a healthy disk syncs");
    }
}

fn segments(disk: &MemDisk) -> Vec<String> {
    disk.files().into_iter().filter(|path| path.ends_with(".wal")).collect()
}

/// Two segments, all synced and marked: 1-3 in the first, 4-9 in the second.
fn two_segments() -> MemDisk {
    let mut disk = MemDisk::new();
    let mut log = Log::create(&mut disk, OWNER, options(1)).expect("a new disk takes a log");
    append(&mut log, &hard_state(1, 2, 0), true);
    append(&mut log, &entries(1, 1, 3), true);
    log.mark_synced_when_idle().expect("a healthy disk syncs");
    drop(log);
    let (mut log, _) = Log::open(&mut disk, None, options(2)).expect("the log opens");
    append(&mut log, &entries(1, 4, 5), true);
    append(&mut log, &hard_state(2, 1, 5), true);
    append(&mut log, &entries(2, 6, 9), true);
    log.mark_synced_when_idle().expect("a healthy disk syncs");
    drop(log);
    assert_eq!(segments(&disk), [FIRST, SECOND]);
    disk
}

/// The offsets of the segment's batches, and the end of the last.
fn batch_offsets(disk: &mut MemDisk, path: &str) -> Vec<u64> {
    let reports = inspect(disk).expect("the directory is there");
    let report = reports
        .into_iter()
        .map(|report| report.expect("the segment reads"))
        .find(|report| report.path == path)
        .expect("the segment is there");
    let mut offsets: Vec<u64> = report.batches.iter().map(|batch| batch.offset).collect();
    offsets.push(report.batches.last().map_or(DATA_START, |batch| batch.offset + batch.bytes));
    offsets
}

fn same_log(left: &Recovered, right: &Recovered) -> bool {
    (&left.hard_state, &left.entries, left.snapshot, left.first_index, left.last_index)
        == (&right.hard_state, &right.entries, right.snapshot, right.first_index, right.last_index)
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_off_at_the_last_good_batch() {
    let mut disk = MemDisk::new();
    let mut log = Log::create(&mut disk, OWNER, options(1)).unwrap();
    append(&mut log, &entries(1, 1, 3), true);
    append(&mut log, &entries(1, 4, 6), false);
    drop(log);
    let offsets = batch_offsets(&mut disk, FIRST);
    let (start, end) = (offsets[2] as usize, offsets[3] as usize);
    assert!(end - start > 150);
    let whole = disk.content(FIRST).unwrap();
    let mut rng = Rng(1);
    for cut in start..end {
        for rest in ["zeros", "end of file", "junk"] {
            let mut torn = whole.clone();
            match rest {
                "zeros" => torn[cut..].fill(0),
                "junk" => torn[cut..].iter_mut().for_each(|byte| *byte = rng.next() as u8),
                _ => torn.truncate(cut),
            }
            if torn.get(cut) == whole.get(cut) && cut + 1 == end {
                continue;
            }
            let mut image = disk.clone();
            image.put_file(FIRST, &torn);
            if rest == "end of file" {
                // No crash does that: see below.
                let error = Log::open(&mut image, Some(OWNER), options(2)).unwrap_err();
                assert!(matches!(error, LogError::CutShort { index: 4, .. }), "{error}");
                continue;
            }
            let recovered = recover(&mut image);
            // Zeros that replace the padding at the end change nothing.
            let unchanged = torn.get(start..end) == whole.get(start..end);
            assert_eq!(recovered.last_index, if unchanged { 6 } else { 3 }, "{rest} from {cut}");
            if rest == "junk" {
                assert!(recovered.torn_bytes > 0);
                assert_eq!(recovered.torn.unwrap().offset, start as u64);
            }
        }
    }
}

#[test]
fn a_file_cut_short_at_any_byte_is_refused_by_name_and_left_alone() {
    let disk = two_segments();
    let (mut cut_short, mut headless) = (0, 0);
    for path in [FIRST, SECOND] {
        let whole = disk.content(path).unwrap();
        for len in 0..whole.len() {
            let mut image = disk.clone();
            image.put_file(path, &whole[..len]);
            let changes = image.changes();
            match Log::open(&mut image, Some(OWNER), options(3)).unwrap_err() {
                LogError::CutShort { path: named, bytes, bytes_made, index } => {
                    assert_eq!((named.as_str(), bytes), (path, len as u64));
                    assert_eq!(bytes_made, whole.len() as u64);
                    assert!((1..=10).contains(&index), "{path} at {len}: from {index} on");
                    cut_short += 1;
                }
                LogError::Corrupt { path: named, offset: 0, reason, .. } if len < 4096 => {
                    assert_eq!(named, path);
                    assert_eq!(reason, "the file ends inside the segment header");
                    headless += 1;
                }
                other => panic!("{path} at {len}: {other}"),
            }
            assert_eq!(image.content(path).unwrap(), &whole[..len]);
            // The names were synced; that is all.
            assert!(image.changes() <= changes + 1);
            let reports = inspect(&mut image).unwrap();
            let noticed = reports.iter().any(|report| match report {
                Ok(report) => report.path == path && report.damage.is_some(),
                Err(error) => error.to_string().starts_with(path),
            });
            assert!(noticed, "{path} at {len}: not shown");
        }
    }
    assert!(cut_short > 10_000 && headless == 8192, "{cut_short} {headless}");
}

#[test]
fn what_is_left_of_a_file_cut_short_is_used_only_on_the_operators_word() {
    let mut disk = two_segments();
    let offsets = batch_offsets(&mut disk, SECOND);
    let whole = disk.content(SECOND).unwrap();
    let allowed = LogOptions { allow_damaged_tail: true, ..options(3) };
    // Behind the opening, behind 4-5, behind the hard state, behind 6-9, and of the zeros.
    for (len, last) in [
        (offsets[1] + 9, 3),
        (offsets[2], 5),
        (offsets[4] - 1, 5),
        (offsets[4], 9),
        (whole.len() as u64 - 1, 9),
    ] {
        let mut image = disk.clone();
        image.put_file(SECOND, &whole[..len as usize]);
        let (_, recovered) = Log::open(&mut image, Some(OWNER), allowed.clone()).unwrap();
        assert_eq!(recovered.last_index, last);
        assert_eq!(recovered.damaged.unwrap().path, SECOND);
        assert_eq!(image.content(SECOND).unwrap().len() as u64, len, "the evidence stays");
        assert_eq!(recover(&mut image).last_index, last, "and is behind us");
    }
}

#[test]
fn a_newest_segment_that_was_removed_is_missed() {
    let mut restarted = two_segments();
    let mut rolled = MemDisk::new();
    let mut log = Log::create(&mut rolled, OWNER, options(1)).unwrap();
    for index in 1..=30 {
        let mut batch = entries(1, index, index);
        batch.entries[0].data = Bytes::from(vec![7; 1000]);
        append(&mut log, &batch, true);
    }
    assert!(log.stats().rollovers > 2);
    drop(log);
    for disk in [&mut restarted, &mut rolled] {
        let mut kept = segments(disk);
        kept.pop();
        let last = kept.last().unwrap().clone();
        let mut holed = MemDisk::new();
        for path in kept {
            holed.put_file(&path, &disk.content(&path).unwrap());
        }
        let error = Log::open(&mut holed, Some(OWNER), options(3)).unwrap_err();
        assert!(matches!(&error, LogError::CutShort { path, .. } if *path == last), "{error}");
    }
}

#[test]
fn every_flipped_bit_is_refused_or_harms_nothing() {
    let disk = two_segments();
    let healthy = recover(&mut disk.clone());
    assert_eq!(healthy.last_index, 9);
    let (mut refused, mut reported, mut void) = (0, 0, 0);
    for path in [FIRST, SECOND] {
        let offsets = batch_offsets(&mut disk.clone(), path);
        let data_end = offsets[offsets.len() - 1];
        let file_end = disk.content(path).unwrap().len() as u64;
        for byte in 0..file_end {
            // Every bit of what says something, one bit of each byte of long zeros.
            let filler = (byte < DATA_START && (128..4088).contains(&(byte % 4096)))
                || byte >= data_end + 64;
            let bits = if filler { byte % 8..byte % 8 + 1 } else { 0..8 };
            if filler && byte % 7 != 0 {
                continue;
            }
            for bit in bits {
                let mut image = disk.clone();
                image.flip_bit(path, byte * 8 + bit);
                match Log::open(&mut image, Some(OWNER), options(3)) {
                    Err(LogError::Corrupt { path: named, .. }) => {
                        // A bad link is noticed in the file before or behind it.
                        assert!(named == FIRST || named == SECOND);
                        assert!(byte >= DATA_START && byte < data_end);
                        refused += 1;
                    }
                    Err(other) => panic!("{path} byte {byte} bit {bit}: {other}"),
                    Ok((_, recovered)) => {
                        let (header, mark) = (byte < DATA_START, byte >= data_end - 56);
                        assert!(header || mark, "{path} byte {byte} bit {bit} went unnoticed");
                        assert!(same_log(&recovered, &healthy), "{path} byte {byte} bit {bit}");
                        if header {
                            assert_eq!(recovered.damaged_headers, [path]);
                            reported += 1;
                        } else if path == SECOND {
                            // The idle mark promises nothing about itself, nor do the zeros.
                            assert!(recovered.torn_bytes > 0);
                            reported += 1;
                        } else {
                            void += 1;
                        }
                    }
                }
            }
        }
    }
    assert!(refused > 5000 && reported > 3000, "{refused} {reported} {void}");
}

#[test]
fn rot_below_the_watermark_is_refused_by_place_and_index() {
    let mut disk = two_segments();
    let offsets = batch_offsets(&mut disk, SECOND);
    // Opening, 4-5, hard state, 6-9, mark. The payload of entry 6.
    disk.flip_bit(SECOND, (offsets[3] + 56 + 40) * 8);
    let before = disk.content(SECOND);
    let error = Log::open(&mut disk, Some(OWNER), options(3)).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{SECOND}: corrupt at offset {}: the record payload's checksum does not match; \
             entries from index 6 on cannot be trusted, those up to 9 were synced, \
             so nothing is cut off",
            offsets[3] + 56
        )
    );
    assert_eq!(disk.content(SECOND), before, "a refused log is left as it is");
}

#[test]
fn a_lost_block_of_zeros_below_the_watermark_is_refused() {
    let mut disk = two_segments();
    let offsets = batch_offsets(&mut disk, SECOND);
    let mut content = disk.content(SECOND).unwrap();
    // All synced batches but the mark, which still says they were there.
    content[offsets[1] as usize..offsets[4] as usize].fill(0);
    disk.put_file(SECOND, &content);
    let error = Log::open(&mut disk, Some(OWNER), options(3)).unwrap_err();
    assert!(matches!(error, LogError::Corrupt { index: 4, synced_index: 9, .. }), "{error}");
}

#[test]
fn rot_in_an_older_segment_is_refused() {
    let mut disk = two_segments();
    disk.flip_bit(FIRST, (DATA_START + 70) * 8);
    let error = Log::open(&mut disk, Some(OWNER), options(3)).unwrap_err();
    assert!(matches!(&error, LogError::Corrupt { path, .. } if path == FIRST), "{error}");
    // Not even the operator's word gives up what newer segments build on.
    let options = LogOptions { allow_damaged_tail: true, ..options(3) };
    assert!(Log::open(&mut disk, Some(OWNER), options).is_err());
}

#[test]
fn a_shortened_segment_is_refused() {
    let mut disk = two_segments();
    let content = disk.content(FIRST).unwrap();
    disk.put_file(FIRST, &content[..content.len() - 200]);
    let error = Log::open(&mut disk, Some(OWNER), options(3)).unwrap_err().to_string();
    let (there, made) = (content.len() - 200, content.len());
    assert_eq!(
        error,
        format!(
            "{FIRST}: cut short: {there} of {made} bytes are there; synced entries from index 1 on, \
             or a segment behind this one, may be missing, so nothing is changed"
        )
    );
}

#[test]
fn a_damaged_tail_is_given_up_only_on_the_operators_word() {
    let mut disk = two_segments();
    let offsets = batch_offsets(&mut disk, SECOND);
    disk.flip_bit(SECOND, (offsets[3] + 56 + 40) * 8);
    let before = disk.content(SECOND);
    let allowed = LogOptions { allow_damaged_tail: true, ..options(3) };
    let (mut log, recovered) = Log::open(&mut disk, Some(OWNER), allowed).unwrap();
    let damaged = recovered.damaged.unwrap();
    assert_eq!((damaged.path.as_str(), damaged.offset), (SECOND, offsets[3]));
    assert_eq!((recovered.last_index, recovered.torn_bytes), (5, 0));
    append(&mut log, &entries(3, 6, 6), true);
    drop(log);
    assert_eq!(disk.content(SECOND), before, "the evidence stays");
    assert_eq!(recover(&mut disk).last_index, 6);
}

#[test]
fn torn_batches_that_reached_the_disk_out_of_order_are_cut_off() {
    let mut disk = MemDisk::new();
    let mut log = Log::create(&mut disk, OWNER, options(1)).unwrap();
    append(&mut log, &entries(1, 1, 3), true);
    append(&mut log, &entries(1, 4, 6), false);
    append(&mut log, &entries(1, 7, 8), false);
    drop(log);
    let offsets = batch_offsets(&mut disk, FIRST);
    // 4-6 was lost, 7-8 was not: no sync had covered either.
    let mut content = disk.content(FIRST).unwrap();
    content[offsets[2] as usize..offsets[3] as usize].fill(0);
    disk.put_file(FIRST, &content);
    let recovered = recover(&mut disk);
    assert_eq!(recovered.last_index, 3);
    // To the last byte that is not zero: padding may be.
    assert_eq!(recovered.torn_bytes.next_multiple_of(8), offsets[4] - offsets[2]);
    // And 7-8 does not come back once 4 is written anew.
    let (mut log, _) = Log::open(&mut disk, Some(OWNER), options(4)).unwrap();
    append(&mut log, &entries(2, 4, 6), true);
    drop(log);
    assert_eq!(recover(&mut disk).last_index, 6);
}

#[test]
fn rot_in_the_last_unmarked_batch_is_taken_for_torn() {
    // The double fault left over, as docs/formats/wal.md says: rot in the batch no watermark
    // covers yet, together with a stop within the second before the mark.
    let mut disk = MemDisk::new();
    let mut log = Log::create(&mut disk, OWNER, options(1)).unwrap();
    append(&mut log, &entries(1, 1, 3), true);
    let image = log.disk().clone();
    log.mark_synced_when_idle().unwrap();
    drop(log);
    let place = (DATA_START + 56 + 56 + 45) * 8;
    let mut unmarked = image;
    unmarked.flip_bit(FIRST, place);
    let recovered = recover(&mut unmarked);
    assert_eq!(recovered.last_index, 0);
    assert!(recovered.torn_bytes > 0);
    // With the mark it is rot.
    disk.flip_bit(FIRST, place);
    assert!(matches!(Log::open(&mut disk, None, options(2)), Err(LogError::Corrupt { .. })));
    // What the watermark is for: without it, promised entries would be gone without a word.
    let blind = LogFaults { ignore_watermark: true, ..LogFaults::default() };
    let (_, lost) = Log::open(&mut disk, None, LogOptions { faults: blind, ..options(2) }).unwrap();
    assert_eq!(lost.last_index, 0);
}

#[test]
fn a_missing_segment_is_named_by_its_neighbours() {
    let mut disk = two_segments();
    recover(&mut disk);
    let third = segments(&disk).pop().unwrap();
    let mut holed = MemDisk::new();
    for path in [FIRST.to_owned(), third.clone()] {
        holed.put_file(&path, &disk.content(&path).unwrap());
    }
    let error = Log::open(&mut holed, None, options(3)).unwrap_err().to_string();
    assert_eq!(error, format!("member/wal: a segment is missing between {FIRST} and {third}"));
}

#[test]
fn a_segment_from_another_history_does_not_fit() {
    let mut disk = two_segments();
    // The same shape with other salts.
    let mut other = MemDisk::new();
    let mut log = Log::create(&mut other, OWNER, options(77)).unwrap();
    append(&mut log, &entries(1, 1, 3), true);
    drop(log);
    disk.put_file(FIRST, &other.content(FIRST).unwrap());
    let error = Log::open(&mut disk, Some(OWNER), options(3)).unwrap_err();
    assert!(
        error.to_string().contains("the segment does not continue the one before it"),
        "{error}"
    );
}

#[test]
fn a_stray_file_with_a_segments_suffix_is_named() {
    let mut disk = two_segments();
    disk.put_file("member/wal/backup.wal", b"?");
    disk.put_file("member/wal/notes.txt", b"ignored");
    let error = Log::open(&mut disk, None, options(3)).unwrap_err().to_string();
    assert_eq!(error, "member/wal/backup.wal: not the name of a log segment");
}

#[test]
fn a_later_version_is_refused_with_what_to_do() {
    let mut disk = two_segments();
    let mut content = disk.content(SECOND).unwrap();
    for block in [0, 4096] {
        content[block + 8] = 7;
        let crc = crc32c::crc32c(&content[block..block + 4092]);
        content[block + 4092..block + 4096].copy_from_slice(&crc.to_le_bytes());
    }
    disk.put_file(SECOND, &content);
    let error = Log::open(&mut disk, None, options(3)).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{SECOND}: log format version 7, this release reads version 1: start the release \
             that wrote it, or restore the member from a snapshot"
        )
    );
}

#[test]
fn entries_that_imitate_batches_are_only_data() {
    let mut disk = two_segments();
    // A client sends what it saw on the disk.
    let stolen = Bytes::from(disk.content(SECOND).unwrap());
    let (mut log, _) = Log::open(&mut disk, Some(OWNER), options(3)).unwrap();
    let mut batch = entries(5, 10, 10);
    batch.entries[0].data = stolen;
    append(&mut log, &batch, false);
    drop(log);
    let path = segments(&disk).pop().unwrap();
    let offsets = batch_offsets(&mut disk, &path);
    // Torn in the middle of it: the scan for later batches runs over the imitation.
    disk.flip_bit(&path, (offsets[offsets.len() - 2] + 20) * 8);
    assert_eq!(recover(&mut disk).last_index, 9);
}

#[test]
fn inspection_reports_what_opening_refuses_and_changes_nothing() {
    let mut disk = two_segments();
    let offsets = batch_offsets(&mut disk, SECOND);
    disk.flip_bit(SECOND, (offsets[3] + 10) * 8);
    disk.flip_bit(FIRST, 9);
    let (before, changes) = (disk.content(SECOND), disk.changes());
    let reports: Vec<_> = inspect(&mut disk).unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(reports[0].damage.as_deref(), Some("one of the two copies of the header"));
    assert!(reports[1].damage.as_ref().unwrap().contains("of what was synced"));
    assert_eq!(reports[1].batches.len(), 3);
    assert_eq!(reports[1].batches[1].entries, Some(((1, 4), (1, 5))));
    let rest = reports[1].rest.as_ref().unwrap();
    assert_eq!(rest.offset, offsets[3]);
    assert!(rest.offset < reports[1].synced_through);
    assert_eq!((disk.content(SECOND), disk.changes()), (before, changes));
}

#[test]
fn inspection_shows_damage_in_older_segments_and_lost_zeros() {
    let look = |disk: &mut MemDisk| -> Vec<Option<String>> {
        inspect(disk).unwrap().into_iter().map(|report| report.unwrap().damage).collect()
    };
    let mut disk = two_segments();
    assert_eq!(look(&mut disk), [None, None]);
    let mut rotten = disk.clone();
    rotten.flip_bit(FIRST, (DATA_START + 70) * 8);
    assert!(look(&mut rotten)[0].as_ref().unwrap().contains("of what was synced"));
    // Zeros where the mark behind them says that something was.
    let offsets = batch_offsets(&mut disk, SECOND);
    let mut content = disk.content(SECOND).unwrap();
    content[offsets[1] as usize..offsets[4] as usize].fill(0);
    disk.put_file(SECOND, &content);
    assert!(look(&mut disk)[1].as_ref().unwrap().contains("of what was synced"));
}

#[test]
fn an_older_segment_that_ends_early_is_refused() {
    let mut disk = two_segments();
    let mut content = disk.content(FIRST).unwrap();
    let offsets = batch_offsets(&mut disk, FIRST);
    content[offsets[2] as usize..].fill(0);
    disk.put_file(FIRST, &content);
    let error = Log::open(&mut disk, None, options(3)).unwrap_err().to_string();
    assert!(error.contains("the segment ends before its successor says"), "{error}");
}

#[test]
fn an_older_segment_with_another_end_is_refused_even_under_the_same_salt() {
    let mut disk = two_segments();
    let mut other = MemDisk::new();
    let mut log = Log::create(&mut other, OWNER, options(1)).unwrap();
    append(&mut log, &hard_state(1, 2, 0), true);
    append(&mut log, &entries(9, 1, 3), true);
    log.mark_synced_when_idle().unwrap();
    drop(log);
    // The same lengths, the same marks; only the entries' term differs.
    disk.put_file(FIRST, &other.content(FIRST).unwrap());
    let offsets = batch_offsets(&mut disk, FIRST);
    assert!(batch_offsets(&mut other, FIRST).starts_with(&offsets));
    let error = Log::open(&mut disk, None, options(3)).unwrap_err().to_string();
    assert!(error.contains("the last batch is not the one its successor names"), "{error}");
}

#[test]
fn a_damaged_opening_is_refused_even_on_the_operators_word() {
    let mut disk = two_segments();
    disk.flip_bit(SECOND, (DATA_START + 30) * 8);
    // The hard state stands there: without it a vote could be given twice.
    let allowed = LogOptions { allow_damaged_tail: true, ..options(3) };
    let error = Log::open(&mut disk, None, allowed).unwrap_err();
    assert!(matches!(error, LogError::Corrupt { offset: DATA_START, .. }), "{error}");
}

#[test]
fn two_headers_that_hold_and_disagree_are_refused() {
    let mut disk = two_segments();
    let mut content = disk.content(SECOND).unwrap();
    content[4096 + 72] ^= 8;
    let crc = crc32c::crc32c(&content[4096..4096 + 4092]);
    content[8188..8192].copy_from_slice(&crc.to_le_bytes());
    disk.put_file(SECOND, &content);
    let error = Log::open(&mut disk, None, options(3)).unwrap_err().to_string();
    assert!(error.contains("the two copies of the segment header disagree"), "{error}");
}

#[test]
fn a_record_of_another_batch_is_refused_even_under_the_same_salt() {
    let log_of = |term| {
        let mut disk = MemDisk::new();
        let mut log = Log::create(&mut disk, OWNER, options(1)).expect("a new disk takes a log");
        append(&mut log, &entries(term, 1, 3), true);
        log.mark_synced_when_idle().expect("a healthy disk syncs");
        disk
    };
    let (mut disk, mut other) = (log_of(1), log_of(2));
    let offsets = batch_offsets(&mut disk, FIRST);
    assert_eq!(offsets, batch_offsets(&mut other, FIRST));
    let records = offsets[1] as usize + 56..offsets[2] as usize;
    let mut content = disk.content(FIRST).unwrap();
    content[records.clone()].copy_from_slice(&other.content(FIRST).unwrap()[records]);
    disk.put_file(FIRST, &content);
    let error = Log::open(&mut disk, None, options(3)).unwrap_err().to_string();
    assert!(error.contains("the batch holds records of another batch"), "{error}");
}
