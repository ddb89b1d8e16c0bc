//! Distance between pods: what members say to each other goes through a user-space router that holds each
//! packet for a while.
//!
//! The node routes packets between pods by itself, and has no netem. So each pod gets a TUN device beside
//! its own, and rules of routing send what comes from its address for the peer port, or from it, into that
//! device; the laboratory's router takes it out and puts it into the device of the receiver's pod when its
//! time has come. From there the node's own table applies. Clients, the operator and kubelet's probes use
//! other ports and are not slowed.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::router::{Port, Router};
use lab::rule::Rule;
use tun_rs::DeviceBuilder;

use crate::command;

/// Port on which members talk to each other.
const PEER_PORT: &str = "2380";
/// Rules that let packets out of a device come before those that send packets into one.
const OUT_PREFERENCE: &str = "100";
const IN_PREFERENCE: &str = "200";
/// Tables of routing, from this number on.
const TABLE: usize = 200;
/// Bytes of a packet at most, as on the pods' own devices.
const MTU_BYTES: &str = "1500";
/// Nothing here waits for anything.
const LIMIT: Duration = Duration::from_secs(10);

/// Pods are far from each other as long as this is there.
pub struct Distance {
    undo: Vec<Vec<String>>,
    router: Option<Router>,
}

impl Distance {
    /// Puts so long a round trip between any two of these pods. To be called where pods are reachable:
    /// inside the node's network.
    pub fn between(pods: &[Ipv4Addr], round_trip: Duration) -> Result<Self> {
        Self::with(pods, |_, _| Rule::of_rtt(round_trip))
    }

    /// The same, with a rule for each direction, by the places of sender and receiver among the pods.
    pub fn with(pods: &[Ipv4Addr], rule: impl Fn(usize, usize) -> Rule) -> Result<Self> {
        let mut distance = Distance { undo: Vec::new(), router: None };
        let mut ports = Vec::new();
        for (number, address) in pods.iter().enumerate() {
            let device = format!("far{number}");
            let tun = DeviceBuilder::new().name(&device).build_sync().context("a TUN device")?;
            ip(&["link", "set", &device, "mtu", MTU_BYTES, "up"])?;
            untracked(&device)?;
            let table = (TABLE + number).to_string();
            let (source, host) = (address.to_string(), format!("{address}/32"));
            distance.rule(&["iif", &device, "lookup", "main", "pref", OUT_PREFERENCE])?;
            ip(&["route", "replace", "default", "dev", &device, "table", &table])?;
            for end in ["dport", "sport"] {
                let selected = ["from", &host, "ipproto", "tcp", end, PEER_PORT];
                let words = [&selected[..], &["lookup", &table, "pref", IN_PREFERENCE]].concat();
                distance.rule(&words).with_context(|| source.clone())?;
            }
            ports.push(Port { device: tun, address: *address });
        }
        let router = Router::start(ports, 1)?;
        for from in 0..pods.len() {
            for to in (0..pods.len()).filter(|to| *to != from) {
                router.set(from, to, rule(from, to))?;
            }
        }
        distance.router = Some(router);
        Ok(distance)
    }

    fn rule(&mut self, words: &[&str]) -> Result<()> {
        ip(&[&["rule", "add"], words].concat())?;
        let undo = ["rule", "del"].iter().chain(words).map(|word| (*word).to_owned());
        self.undo.push(undo.collect());
        Ok(())
    }
}

impl Drop for Distance {
    fn drop(&mut self) {
        // Rules first, then devices: packets under way are lost, and sent again by TCP.
        for words in self.undo.iter().rev() {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            // What is left goes with the node.
            drop(ip(&words));
        }
        drop(self.router.take());
    }
}

fn ip(words: &[&str]) -> Result<()> {
    let mut ip = Command::new("ip");
    ip.args(words);
    command::run_well(&mut ip, b"", LIMIT).map(drop)
}

/// The node sees each packet twice; its tracking of connections is to see the first only.
fn untracked(device: &str) -> Result<()> {
    let mut iptables = Command::new("iptables");
    iptables.args(["-w", "5", "-t", "raw", "-A", "PREROUTING", "-i", device, "-j", "NOTRACK"]);
    command::run_well(&mut iptables, b"", LIMIT).map(drop)
}
