//! Ports that nobody takes while a member is down.
//!
//! The kernel gives ports from 32768 on to whoever asks for any: connections that leave, and listeners
//! that do not care. A member that is to come back on its port needs one below; and there, nobody who calls
//! again and again can be connected with himself.

use std::net::TcpListener;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

const PORTS: Range<u16> = 12_000..32_000;
/// Between what processes begin with whose ids follow each other.
const PORTS_PER_PROCESS: usize = 613;

/// A port of 127.0.0.1 that this process gives away once, and on which nobody listens.
pub(crate) fn free_port() -> u16 {
    static GIVEN: AtomicUsize = AtomicUsize::new(0);
    let first = std::process::id() as usize * PORTS_PER_PROCESS;
    for _ in PORTS {
        let at = (first + GIVEN.fetch_add(1, Ordering::Relaxed)) % PORTS.len();
        let port = PORTS.start + u16::try_from(at).expect("below the end");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port from {PORTS:?} is free");
}
