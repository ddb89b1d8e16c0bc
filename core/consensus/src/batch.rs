//! Commands on their way into entries.
//!
//! Clients propose one command at a time; raft, the wire and the disk are paid per entry. So
//! commands gather here between two outputs and leave as few entries as the limits allow. While
//! one batch is on its way to the disk the next one gathers: the load itself sets the size, and on a
//! member short of processor [`crate::pace`] lets it gather longer. A linger can be set for those who
//! want larger entries at the price of time.

use std::collections::BTreeSet;

use autotune::Batching;
use bytes::{BufMut, Bytes, BytesMut};

/// Field 1 of `proto::log::Batch`, length-delimited.
const COMMANDS_TAG: u8 = 0x0a;

/// The batch in the making.
#[derive(Debug, Default)]
pub(crate) struct BatchMaking {
    commands: Vec<Bytes>,
    bytes: u64,
    /// When the oldest command came.
    since_us: u64,
    /// The term all of them are for.
    term: u64,
    /// Followers whose callers' commands are among them.
    followers: BTreeSet<u64>,
}

impl BatchMaking {
    pub(crate) fn push(&mut self, now_us: u64, term: u64, command: Bytes) {
        if self.commands.is_empty() {
            self.since_us = now_us;
            self.term = term;
        }
        debug_assert_eq!(self.term, term, "asked by `is_for`");
        self.bytes += encoded_bytes(&command);
        self.commands.push(command);
    }

    /// Whether it may leave, or be added to, in this term.
    pub(crate) fn is_for(&self, term: u64) -> bool {
        self.commands.is_empty() || self.term == term
    }

    /// One that this follower has sent on is among them.
    pub(crate) fn came_through(&mut self, follower: u64) {
        self.followers.insert(follower);
    }

    /// Whose callers' commands are among those that leave now.
    pub(crate) fn take_followers(&mut self) -> BTreeSet<u64> {
        std::mem::take(&mut self.followers)
    }

    pub(crate) fn len(&self) -> usize {
        self.commands.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// When the batch must leave at the latest; `None` while it is empty.
    pub(crate) fn due_us(&self, batching: &Batching) -> Option<u64> {
        if self.commands.is_empty() {
            return None;
        }
        let linger_us = if self.is_full(batching) { 0 } else { batching.linger_us };
        Some(self.since_us.saturating_add(linger_us))
    }

    /// Nothing is gained by waiting for more.
    pub(crate) fn is_full(&self, batching: &Batching) -> bool {
        !batching.enabled
            || self.bytes >= batching.entry_bytes_max
            || self.commands.len() as u64 >= batching.entry_commands_max
    }

    /// Takes the commands back, to be told that they were never sent.
    pub(crate) fn take_commands(&mut self) -> Vec<Bytes> {
        self.bytes = 0;
        self.followers.clear();
        std::mem::take(&mut self.commands)
    }

    /// Takes everything as the data of one or more entries, commands in order.
    pub(crate) fn take_entries(&mut self, batching: &Batching) -> Vec<Bytes> {
        let commands = self.take_commands();
        let commands_max =
            if batching.enabled { batching.entry_commands_max.max(1) } else { 1 } as usize;
        let mut entries = Vec::new();
        let mut rest = commands.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let mut count = 0;
            for command in rest.iter().take(commands_max) {
                let more = encoded_bytes(command);
                if count > 0 && bytes + more > batching.entry_bytes_max {
                    break;
                }
                bytes += more;
                count += 1;
            }
            let (entry, after) = rest.split_at(count);
            entries.push(encode(entry, bytes as usize));
            rest = after;
        }
        entries
    }
}

/// `proto::log::Batch` of the commands, written at once into one buffer of the right size.
fn encode(commands: &[Bytes], bytes: usize) -> Bytes {
    let mut buffer = BytesMut::with_capacity(bytes);
    for command in commands {
        buffer.put_u8(COMMANDS_TAG);
        prost::encoding::encode_varint(command.len() as u64, &mut buffer);
        buffer.put_slice(command);
    }
    debug_assert_eq!(buffer.len(), bytes);
    buffer.freeze()
}

fn encoded_bytes(command: &Bytes) -> u64 {
    let length = command.len() as u64;
    1 + prost::encoding::encoded_len_varint(length) as u64 + length
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn making(commands: &[Vec<u8>]) -> BatchMaking {
        let mut making = BatchMaking::default();
        for command in commands {
            making.push(7, 1, Bytes::from(command.clone()));
        }
        making
    }

    fn decode(entries: &[Bytes]) -> Vec<Vec<Bytes>> {
        entries
            .iter()
            .map(|entry| proto::log::Batch::decode(entry.clone()).unwrap().commands)
            .collect()
    }

    #[test]
    fn an_entry_is_the_encoding_prost_would_have_written() {
        for length in [0, 1, 127, 128, 16_383, 16_384] {
            let commands = [vec![1; length], vec![2; 3]];
            let entries = making(&commands).take_entries(&Batching::default());
            let batch =
                proto::log::Batch { commands: commands.iter().cloned().map(Bytes::from).collect() };
            assert_eq!(entries, [Bytes::from(batch.encode_to_vec())]);
        }
    }

    #[test]
    fn entries_stay_below_the_limits_and_keep_the_order() {
        let commands: Vec<_> = (0..10_u8).map(|n| vec![n; 100]).collect();
        let batching =
            Batching { entry_bytes_max: 1_024, entry_commands_max: 4, ..Batching::default() };
        let entries = decode(&making(&commands).take_entries(&batching));
        assert_eq!(entries.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
        assert_eq!(entries.concat(), commands);

        let narrow = Batching { entry_bytes_max: 310, ..batching };
        let entries = decode(&making(&commands).take_entries(&narrow));
        assert_eq!(entries.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3, 1]);
    }

    #[test]
    fn a_command_above_the_limit_goes_alone() {
        let commands = [vec![1; 10], vec![2; 5_000], vec![3; 10]];
        let batching = Batching { entry_bytes_max: 1_024, ..Batching::default() };
        let entries = decode(&making(&commands).take_entries(&batching));
        assert_eq!(entries.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn without_batching_every_command_has_its_entry() {
        let commands = [vec![1], vec![2], vec![3]];
        let batching = Batching { enabled: false, ..Batching::default() };
        assert_eq!(making(&commands).take_entries(&batching).len(), 3);
    }

    #[test]
    fn a_batch_is_due_at_once_without_linger_and_when_full() {
        let lingering = Batching { linger_us: 500, entry_commands_max: 2, ..Batching::default() };
        assert_eq!(making(&[]).due_us(&lingering), None);
        assert_eq!(making(&[vec![1]]).due_us(&lingering), Some(507));
        assert_eq!(making(&[vec![1], vec![2]]).due_us(&lingering), Some(7));
        assert_eq!(making(&[vec![1]]).due_us(&Batching::default()), Some(7));
    }
}
