//! What the network really does: round trips of datagrams between two places, and what the router
//! carries and costs under a full stream.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::network::{Network, Place, inside};

/// Longest wait for one echo: longer than any delay there and back.
const ECHO_TIMEOUT: Duration = Duration::from_secs(25);
/// An echo ends by itself when nobody has asked for so long.
const ECHO_IDLE: Duration = Duration::from_secs(30);
/// Bytes of a datagram: enough for its number.
const DATAGRAM_BYTES: usize = 64;
/// Round trips before those that count.
const WARM: usize = 5;
/// Datagrams that end an echo.
const ENDS: usize = 6;
/// A stream's write.
const CHUNK_BYTES: usize = 64 << 10;

/// Round trips.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoundTrips {
    /// In the order of their length.
    pub sorted: Vec<Duration>,
    /// Datagrams nobody echoed.
    pub lost: usize,
}

impl RoundTrips {
    /// The part's place among the sorted: 0 the shortest, 0.5 the median, 1 the longest.
    pub fn quantile(&self, part: f64) -> Duration {
        let last = self.sorted.len().saturating_sub(1);
        self.sorted.get((last as f64 * part).round() as usize).copied().unwrap_or_default()
    }
}

/// What a full stream has shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stream {
    /// Bytes that arrived a second.
    pub bytes_per_s: f64,
    /// Packets the router moved a second, both ways.
    pub packets_per_s: f64,
    /// The part of one processor the router took.
    pub router_cpu: f64,
}

fn address(network: &Network, place: Place) -> Ipv4Addr {
    match place {
        Place::Member(member) => network.names().address(member),
        Place::Host => network.names().host(),
    }
}

/// Runs something at a place.
fn at<T: Send + 'static>(
    network: &Network,
    place: Place,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<std::thread::JoinHandle<Result<T>>> {
    match place {
        Place::Member(member) => inside(network.names(), member, work),
        Place::Host => Ok(std::thread::spawn(work)),
    }
}

fn ended<T>(thread: std::thread::JoinHandle<Result<T>>) -> Result<T> {
    thread.join().ok().context("a thread of the measurement panicked")?
}

/// Sends datagrams one after another from a place to another and back.
pub fn round_trips(
    network: &Network,
    from: Place,
    to: Place,
    count: usize,
    every: Duration,
) -> Result<RoundTrips> {
    let bound = SocketAddr::from((address(network, to), 0));
    let (tell, told) = std::sync::mpsc::channel();
    let echo = at(network, to, move || {
        let socket = UdpSocket::bind(bound)?;
        socket.set_read_timeout(Some(ECHO_IDLE))?;
        tell.send(socket.local_addr()?).ok().context("nobody measures")?;
        let mut datagram = [0; DATAGRAM_BYTES];
        // An empty datagram is the end, and so is silence.
        while let Ok((bytes @ 1.., from)) = socket.recv_from(&mut datagram) {
            let _bytes = socket.send_to(&datagram[..bytes], from)?;
        }
        Ok(())
    })?;
    let to_address = told.recv_timeout(ECHO_TIMEOUT).context("the echo's address")?;
    let bound = SocketAddr::from((address(network, from), 0));
    // A datagram that is lost must not cost the longest wait.
    let wait = Duration::from_millis(200);
    let asker = at(network, from, move || {
        let socket = UdpSocket::bind(bound)?;
        socket.connect(to_address)?;
        let mut trips = RoundTrips::default();
        let mut longest = ECHO_TIMEOUT;
        for number in 0..count + WARM {
            let mut datagram = [0; DATAGRAM_BYTES];
            datagram[..8].copy_from_slice(&(number as u64).to_le_bytes());
            let sent = Instant::now();
            let _bytes = socket.send(&datagram)?;
            let mut answer = [0; DATAGRAM_BYTES];
            let echoed = loop {
                let Some(left) = longest.checked_sub(sent.elapsed()).filter(|it| !it.is_zero())
                else {
                    break None;
                };
                socket.set_read_timeout(Some(left))?;
                match socket.recv(&mut answer) {
                    Ok(_) if answer == datagram => break Some(sent.elapsed()),
                    // The echo of one that was given up.
                    Ok(_) => {}
                    Err(_) => break None,
                }
            };
            if number >= WARM {
                match echoed {
                    Some(trip) => trips.sorted.push(trip),
                    None => trips.lost += 1,
                }
            }
            if let Some(trip) = echoed {
                longest = (10 * trip).max(wait).min(ECHO_TIMEOUT);
            }
            std::thread::sleep(every);
        }
        // Several, for they may be lost; once the echo has ended they are refused.
        for _ in 0..ENDS {
            drop(socket.send(&[]));
        }
        trips.sorted.sort();
        Ok(trips)
    })?;
    let trips = ended(asker)?;
    ended(echo)?;
    Ok(trips)
}

/// Streams from one place to another for so long.
pub fn stream(network: &Network, from: Place, to: Place, lasts: Duration) -> Result<Stream> {
    let bound = SocketAddr::from((address(network, to), 0));
    let (tell, told) = std::sync::mpsc::channel();
    let sink = at(network, to, move || {
        let listener = TcpListener::bind(bound)?;
        tell.send(listener.local_addr()?).ok().context("nobody measures")?;
        let (mut stream, _) = listener.accept()?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let (began, mut bytes) = (Instant::now(), 0_u64);
        while let count @ 1.. = stream.read(&mut chunk)? {
            bytes += count as u64;
        }
        Ok(bytes as f64 / began.elapsed().as_secs_f64())
    })?;
    let to_address = told.recv_timeout(ECHO_TIMEOUT).context("the sink's address")?;
    let packets = |network: &Network| -> Result<u64> {
        Ok(network.directions()?.iter().map(|(_, _, it)| it.counters.packets).sum())
    };
    let (packets_before, cpu_before) = (packets(network)?, network.router_cpu()?);
    let began = Instant::now();
    let source = at(network, from, move || {
        let mut stream = TcpStream::connect_timeout(&to_address, ECHO_TIMEOUT)?;
        let chunk = vec![0; CHUNK_BYTES];
        let began = Instant::now();
        while began.elapsed() < lasts {
            stream.write_all(&chunk)?;
        }
        Ok(())
    })?;
    ended(source)?;
    let bytes_per_s = ended(sink)?;
    let took_s = began.elapsed().as_secs_f64();
    Ok(Stream {
        bytes_per_s,
        packets_per_s: (packets(network)? - packets_before) as f64 / took_s,
        router_cpu: (network.router_cpu()? - cpu_before).as_secs_f64() / took_s,
    })
}
