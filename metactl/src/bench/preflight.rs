//! Whether there is anybody to load, before threads and connections are made for it.
//!
//! A plain connection to a server that wants TLS stands, and what fails is the first request, in
//! words about frames. So each endpoint is greeted once and its answer looked at.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Result, bail};
use client::raw::Connection;

use super::cost::{authority, is_tls};
use crate::cli::Target;

/// Longest wait for an endpoint.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);
/// Open files besides those of connections: threads' runtimes, pages asked for, output.
const FILES_BESIDE: u64 = 48;
/// HTTP/2's preface and an empty SETTINGS frame.
const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Bytes of the head of an HTTP/2 frame, and where it says of which kind it is.
const HEAD_BYTES: usize = 9;
const KIND_AT: usize = 3;
/// The kind every server begins with.
const SETTINGS: u8 = 4;
/// What an alert of TLS begins with.
const TLS_ALERT: u8 = 0x15;

/// As many open files as this program may have, if they do for so many connections.
pub(crate) fn allow_files(connections: usize) -> Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Fewer than the most are noticed where they do not do.
    let _refused = setrlimit(Resource::Nofile, limit);
    let needed = connections as u64 + FILES_BESIDE;
    match getrlimit(Resource::Nofile).current {
        Some(allowed) if allowed < needed => bail!(
            "{connections} connections need {needed} open files, and this program may have {allowed} (ulimit -n)"
        ),
        _ => Ok(()),
    }
}

/// One line about the first endpoint that is not as it should be.
pub(crate) fn greet(target: &Target) -> Result<()> {
    for endpoint in &target.endpoints {
        if is_tls(endpoint, target) {
            greet_tls(endpoint, target)?;
        } else {
            greet_plain(authority(endpoint)).map_err(|reason| unreachable(endpoint, reason))?;
        }
    }
    Ok(())
}

fn unreachable(endpoint: &str, reason: String) -> client::Error {
    client::Error::Unreachable { endpoint: endpoint.to_owned(), reason }
}

fn greet_tls(endpoint: &str, target: &Target) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let dialled = runtime.block_on(async {
        let dialling = Connection::dial_with(endpoint, target.tls.as_ref());
        tokio::time::timeout(GREETING_TIMEOUT, dialling).await
    });
    match dialled {
        Ok(connection) => Ok(connection.map(drop)?),
        Err(_) => {
            let reason = format!("no connection within {GREETING_TIMEOUT:?}");
            Err(unreachable(endpoint, reason).into())
        }
    }
}

fn greet_plain(host: &str) -> Result<(), String> {
    let said = |error: std::io::Error| error.to_string();
    let mut outcome = Err("the name has no address".to_owned());
    for address in host.to_socket_addrs().map_err(said)? {
        match TcpStream::connect_timeout(&address, GREETING_TIMEOUT) {
            Ok(stream) => return exchange(stream),
            Err(error) => outcome = Err(said(error)),
        }
    }
    outcome
}

fn exchange(mut stream: TcpStream) -> Result<(), String> {
    let said = |error: std::io::Error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("no answer within {GREETING_TIMEOUT:?}")
        }
        _ => error.to_string(),
    };
    stream.set_read_timeout(Some(GREETING_TIMEOUT)).map_err(said)?;
    stream.set_write_timeout(Some(GREETING_TIMEOUT)).map_err(said)?;
    stream.write_all(GREETING).map_err(said)?;
    let mut answer = Vec::with_capacity(HEAD_BYTES);
    match stream.take(HEAD_BYTES as u64).read_to_end(&mut answer) {
        Ok(_) => {}
        // What came before it was cut off is looked at.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => return Err(said(error)),
    }
    judge(&answer)
}

/// What a server's first bytes say about it.
fn judge(answer: &[u8]) -> Result<(), String> {
    let reason = match answer.first() {
        Some(&TLS_ALERT) => "it speaks TLS (give --cacert, and https if a scheme)",
        None => "it ended the connection at once (if it speaks TLS, give --cacert)",
        Some(_) if answer.get(KIND_AT) == Some(&SETTINGS) => return Ok(()),
        Some(_) => "it does not speak HTTP/2, as gRPC needs (if it speaks TLS, give --cacert)",
    };
    Err(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_first_bytes() {
        for (answer, says) in [
            (&b"\0\0\x12\x04\0\0\0\0\0"[..], None),
            (b"\x15\x03\x01\0\x02\x02\x46", Some("it speaks TLS (give --cacert")),
            (b"", Some("ended the connection")),
            (b"HTTP/1.1 ", Some("does not speak HTTP/2")),
        ] {
            match (judge(answer), says) {
                (Ok(()), None) => {}
                (Err(said), Some(says)) => assert!(said.contains(says), "{said}"),
                (judged, _) => panic!("{answer:?}: {judged:?}"),
            }
        }
    }
}
