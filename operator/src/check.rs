//! One GET over plain HTTP, for tests inside a cluster: the image holds nothing else that could ask.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Longest it may take.
const CHECK: Duration = Duration::from_secs(10);
/// Longest line of an answer that is read.
const LINE_BYTES_MAX: u64 = 1024;

/// What is wrong with a URL, or with what answered.
#[derive(Debug, thiserror::Error)]
#[error("{url}: {problem}")]
pub struct CheckError {
    url: String,
    problem: String,
}

/// Asks once; anything but 200 in time is an error.
pub fn check(url: &str) -> Result<(), CheckError> {
    let fails = |problem: String| CheckError { url: url.to_owned(), problem };
    let Some((authority, path)) = parse(url) else {
        return Err(fails("not a URL such as http://host:8080/readyz".to_owned()));
    };
    let line = ask(authority, path).map_err(|error| fails(error.to_string()))?;
    match line.split(' ').nth(1) {
        Some("200") => Ok(()),
        _ => Err(fails(format!("answered {:?}", line.trim_end()))),
    }
}

fn parse(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("http://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let plain = !url.contains(|c: char| c.is_whitespace() || c.is_control());
    (has_port && plain).then_some((authority, if path.is_empty() { "/" } else { path }))
}

/// The first line of the answer.
fn ask(authority: &str, path: &str) -> std::io::Result<String> {
    let end = Instant::now() + CHECK;
    let left = || match end.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(std::io::Error::from(std::io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    let mut failure = std::io::Error::other("the name has no address");
    for address in authority.to_socket_addrs()? {
        let mut stream = match TcpStream::connect_timeout(&address, left()?) {
            Ok(stream) => stream,
            Err(error) => {
                failure = error;
                continue;
            }
        };
        stream.set_read_timeout(Some(left()?))?;
        stream.set_write_timeout(Some(left()?))?;
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut line = String::new();
        BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line)?;
        return Ok(line);
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn answered(with: &'static str) -> Result<(), CheckError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                reader.read_line(&mut line).unwrap();
            }
            reader.into_inner().write_all(with.as_bytes()).unwrap();
        });
        let checked = check(&url);
        server.join().unwrap();
        checked
    }

    #[test]
    fn only_200_is_good() {
        assert!(answered("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_ok());
        let error = answered("HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap_err().to_string();
        assert!(error.contains("503 Service Unavailable"), "{error}");
        assert!(answered("").is_err());
    }

    #[test]
    fn what_is_no_plain_url_is_refused() {
        for url in ["", "https://a:1/", "http://a/", "a:1", "http://a:1/ x"] {
            assert!(check(url).unwrap_err().to_string().contains("not a URL"), "{url}");
        }
    }
}
