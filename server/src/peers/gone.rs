//! Whether the process of a peer is gone, or only a connection to it.
//!
//! A process that dies takes its listening socket along, and its machine answers whoever connects
//! again with a refusal. A network that breaks answers nothing, or resets what stood, and lets new
//! connections through or not at all; a firewall drops. So the one thing that counts is a refusal, by
//! the very address the connection led to before, more than once, and by every other address of the
//! peer. It is still no proof: a packet filter may refuse, and so does a virtual address without
//! anybody behind it. That is why hints count their errors, and why peer URLs must lead to members
//! and not to a load balancer.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};

use super::link::Link;

/// Waits before each attempt to connect, in milliseconds. A process that is just ending may still seem
/// to listen.
const WAITS_MS: [u64; 8] = [0, 1, 2, 4, 8, 16, 32, 64];
/// Refusals in a row that are believed.
const REFUSALS: usize = 2;
/// For all of it; later the hint is worth nothing any more.
const TIMEOUT: Duration = Duration::from_millis(250);

/// Asks the peer's machine. To be called when a connection that stood was closed by the other side.
pub(super) async fn is_gone(link: &Link) -> bool {
    let Some(known) = link.led_to() else { return false };
    let asked = async { is_refused(known).await && others_refuse(link, known).await };
    tokio::time::timeout(TIMEOUT, asked).await.unwrap_or(false)
}

async fn is_refused(address: SocketAddr) -> bool {
    let mut refusals = 0;
    for wait_ms in WAITS_MS {
        if wait_ms > 0 {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
        match TcpStream::connect(address).await.map_err(|error| error.kind()) {
            Err(ErrorKind::ConnectionRefused) => refusals += 1,
            // It listens, or its listener was closed that very moment.
            Ok(_) | Err(ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted) => refusals = 0,
            // The network, not the machine.
            Err(_) => return false,
        }
        if refusals == REFUSALS {
            return true;
        }
    }
    false
}

/// A peer with several URLs may be alive behind another one.
async fn others_refuse(link: &Link, known: SocketAddr) -> bool {
    if link.urls.len() < 2 {
        return true;
    }
    for url in &link.urls {
        let Ok(addresses) = lookup_host((url.host(), url.port())).await else { return false };
        for address in addresses.filter(|address| *address != known) {
            match TcpStream::connect(address).await {
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                _ => return false,
            }
        }
    }
    true
}
