//! How a running lab is changed: a line in, lines out, over a socket that only root can open.
//!
//! ```text
//! show                         every direction: its rule and its counters
//! set m1 m2 delay=40ms loss=1% both directions between two places (m1, m2, …, host)
//! set m1 to m2 cut             one direction
//! set all delay=1ms            every direction between members
//! isolate m1 | rejoin m1       cut a member off from everything, or end that
//! kill m1 | start m1           SIGKILL; start again
//! stall m1 200ms               SIGSTOP, SIGCONT
//! freeze m1 400ms              the disk of one member (freeze all: of all)
//! preset cross-zone            the network of a preset
//! down                         end the lab
//! ```

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::network::{Names, Network, Place};
use crate::preset::Preset;
use crate::rule::{Rule, duration};
use crate::servers::Servers;

/// Longest line.
const LINE_BYTES_MAX: u64 = 4 << 10;
/// Longest answer.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// Longest wait for a line.
const LINE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for an answer: starting a member is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(150);
/// How often the end is looked for while nobody has anything to say.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a lab has: its network, with servers in it or without.
pub enum Lab {
    /// Places without servers.
    Network(Network),
    /// Places with servers.
    Servers(Servers),
}

impl Lab {
    /// The network.
    pub fn network(&self) -> &Network {
        match self {
            Lab::Network(network) => network,
            Lab::Servers(servers) => servers.network(),
        }
    }

    fn servers(&mut self) -> Result<&mut Servers> {
        match self {
            Lab::Network(_) => bail!("there are no servers in this lab"),
            Lab::Servers(servers) => Ok(servers),
        }
    }

    /// Carries out one line; what it says. `None`: the lab is to end.
    pub fn obey(&mut self, line: &str) -> Result<Option<String>> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match &words[..] {
            ["show"] => return Ok(Some(show(self.network())?)),
            ["down"] => return Ok(None),
            ["set", rest @ ..] => set(self.network(), rest)?,
            ["isolate", member] => self.network().isolate(self.member(member)?, true)?,
            ["rejoin", member] => self.network().isolate(self.member(member)?, false)?,
            ["kill", member] => {
                let member = self.member(member)?;
                self.servers()?.kill(member)?;
            }
            ["start", member] => {
                let member = self.member(member)?;
                self.servers()?.restart(member)?;
                self.servers()?.wait_healthy(member)?;
            }
            ["stall", member, lasts] => {
                let member = self.member(member)?;
                self.servers()?.stall(member, duration(lasts)?)?;
            }
            ["freeze", "all", lasts] => {
                let all: Vec<usize> = (0..self.network().members()).collect();
                self.servers()?.freeze(&all, duration(lasts)?)?;
            }
            ["freeze", member, lasts] => {
                let member = self.member(member)?;
                self.servers()?.freeze(&[member], duration(lasts)?)?;
            }
            ["preset", name] => Preset::named(name)?.apply(self.network())?,
            _ => bail!("{line:?}: no such command (see cargo xtask lab help)"),
        }
        Ok(Some(String::new()))
    }

    fn place(&self, text: &str) -> Result<Place> {
        Place::parse(text, self.network().members())
    }

    fn member(&self, text: &str) -> Result<usize> {
        match self.place(text)? {
            Place::Member(member) => Ok(member),
            Place::Host => bail!("host is no member"),
        }
    }
}

/// Changes directions: `all RULE`, `m1 m2 RULE` for both between two places, `m1 to m2 RULE` for one.
pub fn set(network: &Network, words: &[&str]) -> Result<()> {
    let place = |text: &str| Place::parse(text, network.members());
    let (meant, rule): (Vec<(Place, Place)>, &[&str]) = match words {
        ["all", rule @ ..] => {
            let members = || (0..network.members()).map(Place::Member);
            let pairs = members().flat_map(|from| members().map(move |to| (from, to)));
            (pairs.filter(|(from, to)| from != to).collect(), rule)
        }
        [from, "to", to, rule @ ..] => (vec![(place(from)?, place(to)?)], rule),
        [one, other, rule @ ..] => {
            let (one, other) = (place(one)?, place(other)?);
            (vec![(one, other), (other, one)], rule)
        }
        _ => bail!("set: between which places?"),
    };
    if rule.is_empty() {
        bail!("set: a rule is missing (delay=40ms loss=1% …)");
    }
    // All or none: a word that cannot be read changes nothing.
    let _readable = Rule::default().with(rule.iter().copied())?;
    let all = network.directions()?;
    for (from, to) in meant {
        let it = all.iter().find(|(f, t, _)| *f == from && *t == to);
        let (.., it) = it.with_context(|| format!("no direction from {from} to {to}"))?;
        network.set(from, to, it.rule.with(rule.iter().copied())?)?;
    }
    Ok(())
}

fn show(network: &Network) -> Result<String> {
    use std::fmt::Write;
    let mut text = String::new();
    for (from, to, it) in network.directions()? {
        let c = it.counters;
        writeln!(
            text,
            "{from} to {to}: {}; {} packets, {} bytes; dropped {} lost, {} cut, {} full",
            it.rule, c.packets, c.bytes, c.lost, c.cut, c.full
        )?;
    }
    Ok(text)
}

/// Serves the lab's socket until somebody says `down` or `is_over` says so.
/// True: somebody did.
pub fn serve(lab: &mut Lab, is_over: &dyn Fn() -> bool) -> Result<bool> {
    let path = lab.network().names().folder().join("socket");
    if path.exists() {
        fs::remove_file(&path).with_context(|| path.display().to_string())?;
    }
    let listener = UnixListener::bind(&path).with_context(|| path.display().to_string())?;
    listener.set_nonblocking(true)?;
    while !is_over() {
        if lab.network().is_over() {
            bail!("the router has ended");
        }
        match listener.accept() {
            Ok((stream, _)) => {
                if is_last(lab, &stream) {
                    return Ok(true);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(LOOK_EVERY);
            }
            Err(error) => return Err(error).context("the lab's socket"),
        }
    }
    Ok(false)
}

fn is_last(lab: &mut Lab, stream: &UnixStream) -> bool {
    let mut line = String::new();
    let ready = stream
        .set_nonblocking(false)
        .and_then(|()| stream.set_read_timeout(Some(LINE_TIMEOUT)))
        .and_then(|()| stream.set_write_timeout(Some(LINE_TIMEOUT)));
    if ready.is_err() || BufReader::new(stream.take(LINE_BYTES_MAX)).read_line(&mut line).is_err() {
        return false;
    }
    let (answer, is_last) = match lab.obey(line.trim()) {
        Ok(Some(text)) => (format!("{text}ok\n"), false),
        Ok(None) => ("ok\n".to_owned(), true),
        Err(error) => (format!("error: {error:#}\n"), false),
    };
    // Whoever asked may have gone.
    let mut to = stream;
    drop(to.write_all(answer.as_bytes()));
    is_last
}

/// Says a line to a running lab; its answer.
pub fn say(names: Names, line: &str) -> Result<String> {
    let path = names.folder().join("socket");
    let mut stream = UnixStream::connect(&path).with_context(|| format!("lab {}", names.lab))?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    writeln!(stream, "{line}")?;
    let mut answer = String::new();
    let _bytes = stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    match answer.strip_suffix("ok\n") {
        Some(text) => Ok(text.to_owned()),
        None => bail!("{}", answer.trim_end().trim_start_matches("error: ")),
    }
}
