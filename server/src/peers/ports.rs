//! What the transport needs of the member behind it: somewhere to put what peers bring, and the
//! chunks of snapshots.

use bytes::Bytes;
use proto::log::{Member, SnapshotMeta};
use proto::peer::{Forward, LeaderReply, LeaderRequest, RaftMessage, TraceContext};

use super::{Refusal, Versions};

/// Name of a chunk of a snapshot: the BLAKE3 of its content.
pub type ChunkHash = [u8; 32];

/// The node, as the transport sees it. Called on the network threads (and, where
/// [`super::Peers::send`] and [`super::Peers::set_members`] find no room, on the caller's): none may block.
pub trait Inbound: Clone + Send + Sync + 'static {
    /// An append, an answer to one, or the message of a snapshot that is durable here. May wait for
    /// room: its stream is not read meanwhile, and only its. `false`: the node is gone.
    fn append(&self, message: RaftMessage) -> impl Future<Output = bool> + Send;

    /// A heartbeat, a vote or their like. `false`: no room, dropped.
    fn urgent(&self, message: RaftMessage) -> bool;

    /// Commands which a peer takes this member to be the leader for. May wait like
    /// [`Inbound::append`].
    fn forwarded(&self, from: u64, forward: Forward) -> impl Future<Output = bool> + Send;

    /// Commands in what the peer sends next are traced: in a forward, or in an append.
    fn traces(&self, contexts: &[TraceContext], is_forward: bool) {
        let _ = (contexts, is_forward);
    }

    /// Commands given to [`super::Peers::forward`] of which not a byte has left.
    fn not_forwarded(&self, forward: Forward);

    /// Raft messages for this peer were dropped, or a connection to it broke.
    fn unreachable(&self, to: u64);

    /// The peer has made a snapshot durable (`ok`), or its transfer failed.
    fn snapshot_sent(&self, to: u64, ok: bool);

    /// A question for the leader.
    fn leader_call(
        &self,
        from: u64,
        request: LeaderRequest,
    ) -> impl Future<Output = LeaderReply> + Send;

    /// The member table, for `/members`.
    fn members(&self) -> Vec<Member>;

    /// Whether this was a member's id once. It never comes back.
    fn is_removed(&self, member: u64) -> bool;

    /// The versions, for `/version`.
    fn versions(&self) -> Versions;

    /// A peer will not speak to this member. It has been logged; a member that hears
    /// [`Refusal::Removed`] was removed while it was away, and nobody will send it the log that says so.
    fn refused(&self, by: u64, refusal: Refusal) {
        let _ = (by, refusal);
    }

    /// A peer has opened a stream and said which boot of it this is.
    fn greeted(&self, peer: u64, boot_id: u64) {
        let _ = (peer, boot_id);
    }

    /// The process of a peer is gone: it closed the connection, and its machine refuses new ones.
    /// Never called upon a reset, a time-out or silence alone, nor with crash hints off.
    fn gone(&self, peer: u64, boot_id: u64) {
        let _ = (peer, boot_id);
    }
}

/// The chunks of snapshots, as the transport reads and writes them.
pub trait Chunks: Clone + Send + Sync + 'static {
    /// The content of a chunk.
    fn read(&self, hash: ChunkHash) -> impl Future<Output = Result<Bytes, String>> + Send;

    /// Which of these are not here.
    fn missing(&self, hashes: &[ChunkHash]) -> impl Future<Output = Vec<ChunkHash>> + Send;

    /// Keeps a chunk. Its content has been checked.
    fn write(
        &self,
        hash: ChunkHash,
        content: Bytes,
    ) -> impl Future<Output = Result<(), String>> + Send;

    /// Makes a snapshot durable all of whose chunks are here.
    fn commit(&self, meta: SnapshotMeta) -> impl Future<Output = Result<(), String>> + Send;
}
