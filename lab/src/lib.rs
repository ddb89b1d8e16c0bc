//! A network of one's own making on one machine: real servers, real packets, and between them delay,
//! jitter, loss, bandwidth, and cuts in one direction or both, changeable while running.
//!
//! Each member has a network namespace with one TUN device; one process holds all devices and moves IP
//! packets between them. So TCP is the kernel's on both sides: what loss does to a connection is not
//! assumed but happens, and a connection to a dead process is refused while one to a dead host is not.
//! Servers do not know that they are in it, etcd neither. Why packets: docs/adr/0014.
//!
//! * [`rule`]: what a direction does, in words; [`link`]: when a packet leaves; both without a clock.
//! * [`router`]: the thread that moves packets. [`network`]: namespaces, devices, names, cleaning up.
//! * [`preset`]: networks by name. [`servers`]: members in it, killed, stalled, frozen.
//! * [`measure`]: what the network really does. [`console`]: how a running lab is changed.
//! * [`adaptive`]: the experiments of docs/adaptive.md.

pub mod adaptive;
pub mod console;
pub mod link;
pub mod measure;
pub mod network;
pub mod preset;
pub mod router;
pub mod rule;
pub mod servers;
