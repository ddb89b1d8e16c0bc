//! A disk in memory that fails the way disks fail, and the same way every time.
//!
//! Each file has a durable content and, on top of it, the operations no sync has covered yet, in
//! order; names likewise. A process that dies leaves all of it in place, as a page cache does
//! ([`MemDisk::process_crash`]). A power failure ([`MemDisk::power_loss`]) decides for each
//! pending operation whether it reached the device: all of it, none, or some of its 512-byte
//! sectors; sizes and names independently of content. The decisions come from the caller, so one
//! seed gives one outcome, and a test can enumerate them.
//!
//! What it does not do: reorder two overlapping writes so that the older one wins over a kept
//! newer one (it is the same as losing the newer one), or lose what a sync covered, unless told
//! to lie.

use std::collections::{BTreeMap, BTreeSet};

use crate::disk::{Disk, DiskError};

/// The unit a device writes at once.
pub const SECTOR_BYTES: usize = 512;

/// What goes wrong on purpose. All off by default.
#[derive(Debug, Clone, Default)]
pub struct MemFaults {
    /// After so many further `sync_data` calls one fails with `EIO`. As on Linux, its pages then
    /// count as clean: visible until the cache is dropped, not durable, and later syncs succeed.
    pub fail_sync_after: Option<u64>,
    /// After so many further writes one fails with `EIO`, having written nothing.
    pub fail_write_after: Option<u64>,
    /// How many more bytes files may grow before the disk is full. A write that does not fit
    /// writes what does; unlinking a file gives its bytes back.
    pub space_left_bytes: Option<u64>,
    /// After so many further changing calls (all but reads) the power is off: each later call
    /// fails and changes nothing.
    pub power_off_after: Option<u64>,
    /// A lying disk: `sync_data` says yes and makes nothing durable.
    pub ignore_sync_data: bool,
    /// A lying disk: `sync_dir` says yes and makes nothing durable.
    pub ignore_sync_dir: bool,
    /// Sectors that a power failure lost in a part of a file that never was durable read back as
    /// stale bytes instead of zeros.
    pub stale_blocks: bool,
}

/// The disk. A clone is an independent image, pending operations and all.
#[derive(Clone)]
pub struct MemDisk {
    /// What goes wrong on purpose.
    pub faults: MemFaults,
    inodes: BTreeMap<u64, Inode>,
    names: BTreeMap<String, Node>,
    durable_names: BTreeMap<String, Node>,
    pending_names: Vec<NameOp>,
    next_inode: u64,
    changes: u64,
}

/// An open file of a [`MemDisk`].
#[derive(Debug)]
pub struct MemFile {
    inode: u64,
    path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Dir,
    File(u64),
}

#[derive(Debug, Clone)]
enum NameOp {
    Link { path: String, node: Node },
    Rename { from: String, to: String, node: Node },
    Unlink { path: String, node: Node },
}

impl NameOp {
    fn touches(&self, dir: &str) -> bool {
        match self {
            Self::Link { path, .. } | Self::Unlink { path, .. } => parent(path) == dir,
            Self::Rename { from, to, .. } => parent(from) == dir || parent(to) == dir,
        }
    }

    fn apply(&self, names: &mut BTreeMap<String, Node>) {
        match self {
            Self::Link { path, node } => {
                names.insert(path.clone(), *node);
            }
            Self::Rename { from, to, node } => {
                if names.get(from) == Some(node) {
                    names.remove(from);
                }
                names.insert(to.clone(), *node);
            }
            Self::Unlink { path, node } => {
                if names.get(path) == Some(node) {
                    names.remove(path);
                }
            }
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Inode {
    /// What is on the device.
    durable: Vec<u8>,
    /// What a reader sees.
    visible: Vec<u8>,
    /// What would turn the one into the other, unless a failed sync threw some of it away.
    pending: Vec<DataOp>,
}

#[derive(Debug, Clone)]
enum DataOp {
    Write { offset: usize, data: Vec<u8> },
    SetLen { len: usize },
}

impl DataOp {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, data } => write_into(content, *offset, data),
            Self::SetLen { len } => content.resize(*len, 0),
        }
    }
}

fn write_into(content: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if content.len() < offset + data.len() {
        content.resize(offset + data.len(), 0);
    }
    content[offset..offset + data.len()].copy_from_slice(data);
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Names and sizes; the content would bury whatever else is printed.
impl std::fmt::Debug for MemDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files = self.names.iter().filter_map(|(path, node)| match node {
            Node::File(inode) => Some((path, self.inodes[inode].visible.len())),
            Node::Dir => None,
        });
        f.debug_map().entries(files).finish()
    }
}

impl Default for MemDisk {
    fn default() -> Self {
        Self {
            faults: MemFaults::default(),
            inodes: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            pending_names: Vec::new(),
            next_inode: 1,
            changes: 0,
        }
    }
}

impl MemDisk {
    /// An empty data directory.
    pub fn new() -> Self {
        Self::default()
    }

    /// The process dies, the machine does not: what was written stays readable and stays
    /// un-synced. Switches that broke the old process are reset, lies of the disk are not.
    pub fn process_crash(&mut self) {
        self.faults.fail_sync_after = None;
        self.faults.fail_write_after = None;
        self.faults.power_off_after = None;
        self.forget_unreachable();
    }

    /// The power fails. `choose(n)` picks 0..n; it is asked for every pending operation in order:
    /// content first (file by file), then names.
    pub fn power_loss(&mut self, choose: &mut dyn FnMut(u64) -> u64) {
        let stale = self.faults.stale_blocks;
        for inode in self.inodes.values_mut() {
            inode.lose(stale, choose);
        }
        let pending = std::mem::take(&mut self.pending_names);
        for op in &pending {
            if choose(2) == 1 {
                op.apply(&mut self.durable_names);
            }
        }
        self.restart();
    }

    /// The power fails and nothing un-synced had reached the device.
    pub fn power_loss_keep_nothing(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.pending.clear();
        }
        self.pending_names.clear();
        self.restart();
    }

    /// The power fails just after everything pending had reached the device.
    pub fn power_loss_keep_all(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.make_durable();
        }
        for op in std::mem::take(&mut self.pending_names) {
            op.apply(&mut self.durable_names);
        }
        self.restart();
    }

    /// What is durable is all there is.
    fn restart(&mut self) {
        // A name whose directory was lost is lost with it. Parents sort before children.
        let mut kept: BTreeMap<String, Node> = BTreeMap::new();
        for (path, node) in &self.durable_names {
            let dir = parent(path);
            if dir.is_empty() || kept.get(dir) == Some(&Node::Dir) {
                kept.insert(path.clone(), *node);
            }
        }
        self.durable_names.clone_from(&kept);
        self.names = kept;
        for inode in self.inodes.values_mut() {
            inode.pending.clear();
            inode.visible.clone_from(&inode.durable);
        }
        self.process_crash();
    }

    fn forget_unreachable(&mut self) {
        let mut reachable = BTreeSet::new();
        let pending = self.pending_names.iter().map(|op| match op {
            NameOp::Link { node, .. }
            | NameOp::Rename { node, .. }
            | NameOp::Unlink { node, .. } => node,
        });
        for node in self.names.values().chain(self.durable_names.values()).chain(pending) {
            if let Node::File(inode) = node {
                reachable.insert(*inode);
            }
        }
        self.inodes.retain(|inode, _| reachable.contains(inode));
    }

    /// Flips one bit of a file, on the device, in the cache and on the way between. `bit` counts from the start of
    /// the file.
    pub fn flip_bit(&mut self, path: &str, bit: u64) {
        let Some(Node::File(inode)) = self.names.get(path) else {
            panic!("{path}: no such file to damage");
        };
        let inode = self.inodes.get_mut(inode).expect("a name leads to an inode");
        let (byte, mask) = ((bit / 8) as usize, 1u8 << (bit % 8));
        for content in [&mut inode.durable, &mut inode.visible] {
            if let Some(byte) = content.get_mut(byte) {
                *byte ^= mask;
            }
        }
        for op in &mut inode.pending {
            if let DataOp::Write { offset, data } = op
                && let Some(byte) = byte.checked_sub(*offset).and_then(|at| data.get_mut(at))
            {
                *byte ^= mask;
            }
        }
    }

    /// The files a process sees, sorted.
    pub fn files(&self) -> Vec<String> {
        let files = self.names.iter().filter(|(_, node)| matches!(node, Node::File(_)));
        files.map(|(path, _)| path.clone()).collect()
    }

    /// What a process reads from the file.
    pub fn content(&self, path: &str) -> Option<Vec<u8>> {
        match self.names.get(path)? {
            Node::File(inode) => Some(self.inodes[inode].visible.clone()),
            Node::Dir => None,
        }
    }

    /// Puts a durable file there, with its directories, whatever was there before.
    pub fn put_file(&mut self, path: &str, content: &[u8]) {
        for (at, _) in path.match_indices('/') {
            self.names.insert(path[..at].to_owned(), Node::Dir);
            self.durable_names.insert(path[..at].to_owned(), Node::Dir);
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        let content = content.to_vec();
        let file = Inode { durable: content.clone(), visible: content, pending: Vec::new() };
        self.inodes.insert(inode, file);
        self.names.insert(path.to_owned(), Node::File(inode));
        self.durable_names.insert(path.to_owned(), Node::File(inode));
    }

    /// Changing calls so far: writes, allocations, syncs, names. For [`MemFaults::power_off_after`].
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// True if everything visible is durable.
    pub fn is_durable(&self) -> bool {
        self.pending_names.is_empty()
            && self.names.values().all(|node| match node {
                Node::File(inode) => self.inodes[inode].durable == self.inodes[inode].visible,
                Node::Dir => true,
            })
    }

    /// Counts a changing call, unless the power is off.
    fn change(&mut self, path: &str, action: &'static str) -> Result<(), DiskError> {
        if let Some(left) = &mut self.faults.power_off_after {
            if *left == 0 {
                return Err(eio(path, action, "the power is off"));
            }
            *left -= 1;
        }
        self.changes += 1;
        Ok(())
    }

    fn powered(&self, path: &str, action: &'static str) -> Result<(), DiskError> {
        match self.faults.power_off_after {
            Some(0) => Err(eio(path, action, "the power is off")),
            _ => Ok(()),
        }
    }

    fn inode(&mut self, file: &MemFile) -> Result<&mut Inode, DiskError> {
        self.inodes
            .get_mut(&file.inode)
            .ok_or_else(|| eio(&file.path, "use", "the handle is from before a crash"))
    }

    /// How many of `bytes` the file may grow by.
    fn take_space(&mut self, bytes: usize) -> usize {
        let Some(left) = &mut self.faults.space_left_bytes else { return bytes };
        let granted = bytes.min(usize::try_from(*left).unwrap_or(usize::MAX));
        *left -= granted as u64;
        granted
    }

    fn write(&mut self, file: &MemFile, offset: u64, mut data: Vec<u8>) -> Result<(), DiskError> {
        let offset = offset as usize;
        let len = self.inode(file)?.visible.len();
        let wanted = data.len();
        let growth = (offset + wanted).saturating_sub(len).min(wanted);
        let short = growth - self.take_space(growth);
        data.truncate(wanted - short);
        if !data.is_empty() {
            let inode = self.inode(file)?;
            let op = DataOp::Write { offset, data };
            op.apply(&mut inode.visible);
            inode.pending.push(op);
        }
        if short > 0 {
            return Err(DiskError::NoSpace { path: file.path.clone() });
        }
        Ok(())
    }

    fn require_dir(&self, path: &str) -> Result<(), DiskError> {
        let dir = parent(path);
        if dir.is_empty() || self.names.get(dir) == Some(&Node::Dir) {
            return Ok(());
        }
        Err(DiskError::NotFound { path: dir.to_owned() })
    }

    fn link(&mut self, op: NameOp) {
        op.apply(&mut self.names);
        self.pending_names.push(op);
    }
}

fn eio(path: &str, action: &'static str, reason: &str) -> DiskError {
    DiskError::Io { path: path.to_owned(), action, reason: reason.to_owned() }
}

/// Counts a switch down; true when it goes off, once.
fn goes_off(switch: &mut Option<u64>) -> bool {
    match switch {
        Some(0) => {
            *switch = None;
            true
        }
        Some(left) => {
            *left -= 1;
            false
        }
        None => false,
    }
}

impl Inode {
    fn make_durable(&mut self) {
        for op in self.pending.drain(..) {
            op.apply(&mut self.durable);
        }
    }

    /// Settles each pending operation; the result is the new durable content.
    fn lose(&mut self, stale: bool, choose: &mut dyn FnMut(u64) -> u64) {
        let durable_len = self.durable.len();
        let mut content = std::mem::take(&mut self.durable);
        // The size is written apart from the content: what was kept behind it cannot be seen.
        let mut len = durable_len;
        for op in self.pending.drain(..) {
            match op {
                DataOp::SetLen { len: to } => {
                    if choose(2) == 1 {
                        if to < content.len() {
                            content[to..].fill(0);
                        }
                        len = to;
                    }
                }
                DataOp::Write { offset, data } => {
                    let end = offset + data.len();
                    let fate = choose(4);
                    for (sector, from, to) in sectors(offset, &data) {
                        let kept = match fate {
                            0 => false,
                            1 | 2 => true,
                            _ => choose(2) == 1,
                        };
                        if kept {
                            write_into(&mut content, from, &data[from - offset..to - offset]);
                        } else if stale && from >= durable_len && choose(4) == 0 {
                            let junk = vec![0xa5 ^ sector as u8; to - from];
                            write_into(&mut content, from, &junk);
                        }
                    }
                    if end > len && (fate == 1 || choose(2) == 1) {
                        len = end;
                    }
                }
            }
        }
        content.resize(len, 0);
        self.durable = content;
    }
}

/// The sectors a write touches: number, and the range of the file within it.
fn sectors(offset: usize, data: &[u8]) -> impl Iterator<Item = (usize, usize, usize)> {
    let end = offset + data.len();
    (offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES)).map(move |sector| {
        let from = (sector * SECTOR_BYTES).max(offset);
        let to = ((sector + 1) * SECTOR_BYTES).min(end);
        (sector, from, to)
    })
}

impl Disk for MemDisk {
    type File = MemFile;

    fn create(&mut self, path: &str) -> Result<MemFile, DiskError> {
        self.change(path, "create")?;
        self.require_dir(path)?;
        if self.names.contains_key(path) {
            return Err(DiskError::AlreadyExists { path: path.to_owned() });
        }
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        self.link(NameOp::Link { path: path.to_owned(), node: Node::File(inode) });
        Ok(MemFile { inode, path: path.to_owned() })
    }

    fn open(&mut self, path: &str) -> Result<MemFile, DiskError> {
        self.powered(path, "open")?;
        match self.names.get(path) {
            Some(Node::File(inode)) => Ok(MemFile { inode: *inode, path: path.to_owned() }),
            Some(Node::Dir) => Err(eio(path, "open", "is a directory")),
            None => Err(DiskError::NotFound { path: path.to_owned() }),
        }
    }

    fn len(&mut self, file: &MemFile) -> Result<u64, DiskError> {
        self.powered(&file.path, "stat")?;
        Ok(self.inode(file)?.visible.len() as u64)
    }

    fn read_at(&mut self, file: &MemFile, offset: u64, buf: &mut [u8]) -> Result<usize, DiskError> {
        self.powered(&file.path, "read")?;
        let content = &self.inode(file)?.visible;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
        let len = buf.len().min(content.len() - from);
        buf[..len].copy_from_slice(&content[from..from + len]);
        Ok(len)
    }

    fn write_at(&mut self, file: &MemFile, offset: u64, parts: &[&[u8]]) -> Result<(), DiskError> {
        self.change(&file.path, "write")?;
        if goes_off(&mut self.faults.fail_write_after) {
            return Err(eio(&file.path, "write", "input/output error"));
        }
        self.write(file, offset, parts.concat())
    }

    fn allocate(&mut self, file: &MemFile, len: u64) -> Result<(), DiskError> {
        self.change(&file.path, "allocate")?;
        let present = self.inode(file)?.visible.len();
        let len = usize::try_from(len).expect("a file in memory fits the address space");
        if len > present {
            self.write(file, present as u64, vec![0; len - present])?;
        }
        Ok(())
    }

    fn set_len(&mut self, file: &MemFile, len: u64) -> Result<(), DiskError> {
        self.change(&file.path, "truncate")?;
        let inode = self.inode(file)?;
        let op = DataOp::SetLen { len: len as usize };
        op.apply(&mut inode.visible);
        inode.pending.push(op);
        Ok(())
    }

    fn sync_data(&mut self, file: &MemFile) -> Result<(), DiskError> {
        self.change(&file.path, "fdatasync")?;
        let fails = goes_off(&mut self.faults.fail_sync_after);
        let lies = self.faults.ignore_sync_data;
        let inode = self.inode(file)?;
        if fails {
            inode.pending.clear();
            return Err(eio(&file.path, "fdatasync", "input/output error"));
        }
        if !lies {
            inode.make_durable();
        }
        Ok(())
    }

    fn sync_dir(&mut self, dir: &str) -> Result<(), DiskError> {
        self.change(dir, "fsync")?;
        if !self.faults.ignore_sync_dir {
            let pending = std::mem::take(&mut self.pending_names);
            for op in pending {
                if op.touches(dir) {
                    op.apply(&mut self.durable_names);
                } else {
                    self.pending_names.push(op);
                }
            }
        }
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), DiskError> {
        self.change(from, "rename")?;
        self.require_dir(to)?;
        let Some(node) = self.names.get(from).copied() else {
            return Err(DiskError::NotFound { path: from.to_owned() });
        };
        self.link(NameOp::Rename { from: from.to_owned(), to: to.to_owned(), node });
        Ok(())
    }

    fn unlink(&mut self, path: &str) -> Result<(), DiskError> {
        self.change(path, "unlink")?;
        match self.names.get(path).copied() {
            Some(node @ Node::File(inode)) => {
                if let Some(left) = &mut self.faults.space_left_bytes {
                    *left += self.inodes[&inode].visible.len() as u64;
                }
                self.link(NameOp::Unlink { path: path.to_owned(), node });
                Ok(())
            }
            Some(Node::Dir) => Err(eio(path, "unlink", "is a directory")),
            None => Err(DiskError::NotFound { path: path.to_owned() }),
        }
    }

    fn list(&mut self, dir: &str) -> Result<Vec<String>, DiskError> {
        self.powered(dir, "list")?;
        if !dir.is_empty() && self.names.get(dir) != Some(&Node::Dir) {
            return Err(DiskError::NotFound { path: dir.to_owned() });
        }
        let here = self.names.keys().filter(|path| parent(path) == dir);
        Ok(here.map(|path| path[dir.len()..].trim_start_matches('/').to_owned()).collect())
    }

    fn create_dir(&mut self, dir: &str) -> Result<(), DiskError> {
        self.change(dir, "mkdir")?;
        self.require_dir(dir)?;
        if self.names.contains_key(dir) {
            return Err(DiskError::AlreadyExists { path: dir.to_owned() });
        }
        self.link(NameOp::Link { path: dir.to_owned(), node: Node::Dir });
        Ok(())
    }

    fn drop_cache(&mut self, file: &MemFile) -> Result<(), DiskError> {
        self.powered(&file.path, "advise")?;
        let inode = self.inode(file)?;
        // Clean pages go; dirty ones stay.
        let mut content = inode.durable.clone();
        for op in &inode.pending {
            op.apply(&mut content);
        }
        inode.visible = content;
        Ok(())
    }
}
