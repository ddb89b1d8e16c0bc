//! One member's client address, checked before anything is dialled.

use http::Uri;

use crate::error::{Error, Result};

/// A parsed endpoint: where to dial and what to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// As the user wrote it; errors name this.
    pub(crate) text: String,
    /// `http://host:port`, the start of every request's URI.
    pub(crate) origin: Uri,
    /// `host:port` for the resolver, brackets around IPv6 kept.
    pub(crate) authority: String,
}

impl Endpoint {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let bad = |problem| Error::Endpoint { endpoint: text.to_owned(), problem };
        let rest = match text.split_once("://") {
            None => text,
            Some(("http", rest)) => rest,
            Some(("https" | "unixs", _)) => {
                return Err(bad("TLS is not supported in this version"));
            }
            Some(("unix", _)) => {
                return Err(bad("unix sockets are not supported in this version"));
            }
            Some(_) => return Err(bad("the scheme must be http")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(bad("only host and port are expected"));
        }
        let origin: Uri =
            format!("http://{rest}").parse().map_err(|_| bad("not a host and port"))?;
        let authority = origin.authority().ok_or_else(|| bad("the host is missing"))?;
        match authority.port_u16() {
            None | Some(0) => return Err(bad("a port number is missing")),
            Some(_) => {}
        }
        if authority.host().is_empty() {
            return Err(bad("the host is missing"));
        }
        let authority = authority.as_str().to_owned();
        Ok(Endpoint { text: text.to_owned(), origin, authority })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheme_and_a_last_slash_may_be_left_out() {
        for text in ["127.0.0.1:2379", "http://127.0.0.1:2379", "http://127.0.0.1:2379/"] {
            let endpoint = Endpoint::parse(text).unwrap();
            assert_eq!(endpoint.authority, "127.0.0.1:2379");
            assert_eq!(endpoint.text, text);
        }
        assert_eq!(Endpoint::parse("[::1]:2379").unwrap().authority, "[::1]:2379");
    }

    #[test]
    fn anything_but_host_and_port_is_refused_by_name() {
        for (text, problem) in [
            ("", "not a host and port"),
            ("localhost", "a port number is missing"),
            ("localhost:", "a port number is missing"),
            ("localhost:0", "a port number is missing"),
            ("localhost:x", "a port number is missing"),
            (":2379", "the host is missing"),
            ("ftp://a:1", "the scheme must be http"),
            ("https://a:1", "TLS is not supported in this version"),
            ("http://a:1/v3", "only host and port are expected"),
            ("a b:1", "not a host and port"),
        ] {
            let said = Endpoint::parse(text).unwrap_err().to_string();
            assert_eq!(said, format!("endpoint {text:?}: {problem}"));
        }
    }
}
