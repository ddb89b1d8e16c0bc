//! The router: one thread that holds every device and moves each packet when its time has come.
//!
//! A device is a TUN: whole IP packets, no Ethernet. The thread reads what came in, asks the
//! direction's [`Link`] when it leaves, and keeps it in a heap until then. It sleeps in `epoll` on the
//! devices and on one timer, which is armed for the first packet of the heap. It runs before ordinary
//! processes (`SCHED_FIFO`) where the machine lets it, since a router that waits for its turn behind
//! the servers would measure the scheduler.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use rustix::thread::{Pid, gettid};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use tun_rs::SyncDevice;

use crate::link::{Counters, Fate, Link};
use crate::rule::Rule;

/// Largest packet of any device.
pub const PACKET_BYTES_MAX: usize = 65_536;
/// Packets taken from one device before the others and the heap have their turn.
const READS_MAX: usize = 64;
/// Buffers kept for packets to come.
const BUFFERS_MAX: usize = 8_192;
/// Priority among real-time threads: any is before all ordinary ones.
const PRIORITY: &str = "10";
/// Longest wait for the router to say something.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The timer fires so long before a packet's time, and the rest is waited for awake: about what an
/// idle processor needs to wake up. Not where the road is long.
const EARLY_NS: u64 = 60_000;
/// Marks of what woke the thread; devices have their numbers.
const TIMER: u64 = u64::MAX;
const WAKE: u64 = u64::MAX - 1;
/// Events taken at a time.
const EVENTS_MAX: usize = 64;

/// Where a device's packets come from and go to.
pub struct Port {
    /// A TUN.
    pub device: SyncDevice,
    /// Packets to this address leave through it.
    pub address: Ipv4Addr,
}

/// A direction as it is now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Direction {
    /// Number of the port packets come from.
    pub from: usize,
    /// Number of the port they go to.
    pub to: usize,
    /// What happens to them.
    pub rule: Rule,
    /// What has happened so far.
    pub counters: Counters,
}

enum Order {
    Set { from: usize, to: usize, rule: Rule },
    Show(Sender<Vec<Direction>>),
    End,
}

/// A running router; it ends when dropped, and packets under way are lost.
pub struct Router {
    orders: Sender<Order>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<Result<()>>>,
    id: Pid,
    ports: usize,
    is_realtime: bool,
}

impl Router {
    /// Starts moving packets between these, without delay or loss at first. The same seed draws the
    /// same random numbers.
    pub fn start(ports: Vec<Port>, seed: u64) -> Result<Self> {
        let count = ports.len();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (orders, inbox) = channel();
        let mut moving = Moving::new(ports, seed, Arc::clone(&wake), inbox)?;
        let (ready, is_ready) = channel();
        let thread = std::thread::Builder::new().name("router".into()).spawn(move || {
            // Whoever waits for it is still there.
            let _sent = ready.send((run_first(), gettid()));
            moving.run()
        })?;
        let (is_realtime, id) =
            is_ready.recv_timeout(ANSWER_TIMEOUT).context("the router's start")?;
        Ok(Router { orders, wake, thread: Some(thread), id, ports: count, is_realtime })
    }

    /// Changes one direction, for packets that come in from now on.
    pub fn set(&self, from: usize, to: usize, rule: Rule) -> Result<()> {
        if from >= self.ports || to >= self.ports || from == to {
            bail!("no direction from port {from} to port {to}");
        }
        self.order(Order::Set { from, to, rule })
    }

    /// All directions; orders that came before are carried out.
    pub fn directions(&self) -> Result<Vec<Direction>> {
        let (answer, answered) = channel();
        self.order(Order::Show(answer))?;
        answered.recv_timeout(ANSWER_TIMEOUT).context("the router does not answer")
    }

    /// Whether it runs before ordinary processes.
    pub fn is_realtime(&self) -> bool {
        self.is_realtime
    }

    /// Processor time its thread has used.
    pub fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/self/task/{}/schedstat", self.id.as_raw_nonzero());
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let ns = text.split_ascii_whitespace().next().and_then(|word| word.parse().ok());
        ns.map(Duration::from_nanos).context(path)
    }

    /// Whether its thread has ended, which it does by itself only after an error.
    pub fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).ok().context("the router has ended")?;
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes()).context("waking the router")?;
        Ok(())
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        // One that has ended already needs no order.
        drop(self.order(Order::End));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Puts the calling thread before all ordinary ones, if the machine lets it.
fn run_first() -> bool {
    let thread = gettid().as_raw_nonzero().to_string();
    Command::new("chrt")
        .args(["--fifo", "--pid", PRIORITY, &thread])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A packet under way: when it leaves, which came first, from where, to where, its buffer.
type UnderWay = Reverse<(u64, u64, usize, usize, usize)>;

struct Moving {
    ports: Vec<Port>,
    /// Which port has an address that ends in this byte.
    by_last_byte: [Option<usize>; 256],
    links: Vec<Link>,
    under_way: BinaryHeap<UnderWay>,
    buffers: Vec<Vec<u8>>,
    free: Vec<usize>,
    came: u64,
    random: SmallRng,
    poll: OwnedFd,
    timer: OwnedFd,
    armed_ns: u64,
    wake: Arc<OwnedFd>,
    inbox: Receiver<Order>,
    is_over: bool,
}

impl Moving {
    fn new(
        ports: Vec<Port>,
        seed: u64,
        wake: Arc<OwnedFd>,
        inbox: Receiver<Order>,
    ) -> Result<Self> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(
            TimerfdClockId::Monotonic,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )?;
        let watch = |of: &dyn AsFd, mark: u64| {
            epoll::add(&poll, of.as_fd(), epoll::EventData::new_u64(mark), epoll::EventFlags::IN)
        };
        watch(&timer, TIMER)?;
        watch(&wake, WAKE)?;
        let mut by_last_byte = [None; 256];
        for (number, port) in ports.iter().enumerate() {
            port.device.set_nonblocking(true).context("a device that does not block")?;
            watch(&port.device, number as u64)?;
            by_last_byte[usize::from(port.address.octets()[3])] = Some(number);
        }
        Ok(Moving {
            links: vec![Link::default(); ports.len() * ports.len()],
            ports,
            by_last_byte,
            under_way: BinaryHeap::new(),
            buffers: Vec::new(),
            free: Vec::new(),
            came: 0,
            random: SmallRng::seed_from_u64(seed),
            poll,
            timer,
            armed_ns: 0,
            wake,
            inbox,
            is_over: false,
        })
    }

    fn run(&mut self) -> Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS_MAX);
        let mut chunk = vec![0_u8; PACKET_BYTES_MAX];
        while !self.is_over {
            events.clear();
            match epoll::wait(&self.poll, spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("epoll"),
            }
            for event in &events {
                match event.data.u64() {
                    TIMER => {
                        // What the timer counts does not matter.
                        let _fired = rustix::io::read(&self.timer, &mut [0_u8; 8]);
                        self.armed_ns = 0;
                    }
                    WAKE => self.carry_out(),
                    port => self.take_in(port as usize, &mut chunk),
                }
            }
            self.let_out();
            self.arm()?;
        }
        Ok(())
    }

    fn carry_out(&mut self) {
        let _count = rustix::io::read(&self.wake, &mut [0_u8; 8]);
        let ports = self.ports.len();
        while let Ok(order) = self.inbox.try_recv() {
            match order {
                Order::Set { from, to, rule } => self.links[from * ports + to].set(rule),
                Order::Show(to) => {
                    let all = (0..ports * ports).filter(|at| at / ports != at % ports);
                    let direction = |at: usize| Direction {
                        from: at / ports,
                        to: at % ports,
                        rule: self.links[at].rule(),
                        counters: self.links[at].counters(),
                    };
                    // Whoever asked may have gone.
                    drop(to.send(all.map(direction).collect()));
                }
                Order::End => self.is_over = true,
            }
        }
    }

    fn take_in(&mut self, from: usize, chunk: &mut [u8]) {
        for _ in 0..READS_MAX {
            // A device that is down says so until it is up again; the others go on.
            let Ok(bytes) = rustix::io::read(&self.ports[from].device, &mut *chunk) else { return };
            let packet = &chunk[..bytes];
            let Some(to) = self.receiver(from, packet) else { continue };
            let now_ns = now_ns();
            let link = &mut self.links[from * self.ports.len() + to];
            let Fate::Leaves(at_ns) = link.admit(now_ns, bytes as u64, &mut self.random) else {
                continue;
            };
            if at_ns <= now_ns && self.under_way.is_empty() {
                let is_taken = rustix::io::write(&self.ports[to].device, packet).is_ok();
                link.left(is_taken);
                continue;
            }
            let buffer = self.free.pop().unwrap_or_else(|| {
                self.buffers.push(Vec::new());
                self.buffers.len() - 1
            });
            self.buffers[buffer].extend_from_slice(packet);
            self.came += 1;
            self.under_way.push(Reverse((at_ns, self.came, from, to, buffer)));
        }
    }

    /// The port an IPv4 packet is for; others, such as what IPv6 looks for neighbours with, have none.
    fn receiver(&self, from: usize, packet: &[u8]) -> Option<usize> {
        const VERSION_4: u8 = 4;
        let destination = Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(16..20)?).ok()?);
        let to = self.by_last_byte[usize::from(destination.octets()[3])]?;
        let is_for = packet[0] >> 4 == VERSION_4 && self.ports[to].address == destination;
        (is_for && to != from).then_some(to)
    }

    fn let_out(&mut self) {
        let mut now = now_ns();
        while let Some(Reverse((at_ns, _, from, to, buffer))) = self.under_way.peek().copied() {
            if at_ns > now {
                now = now_ns();
                let early_ns = self.early_ns(from, to);
                while at_ns > now && at_ns - now < early_ns {
                    std::hint::spin_loop();
                    now = now_ns();
                }
                if at_ns > now {
                    return;
                }
            }
            let _first = self.under_way.pop();
            let is_taken = rustix::io::write(&self.ports[to].device, &self.buffers[buffer]).is_ok();
            self.links[from * self.ports.len() + to].left(is_taken);
            self.buffers[buffer].clear();
            if buffer >= BUFFERS_MAX {
                self.buffers[buffer] = Vec::new();
            }
            self.free.push(buffer);
        }
    }

    /// So long before a packet's time the router is awake.
    fn early_ns(&self, from: usize, to: usize) -> u64 {
        if self.links[from * self.ports.len() + to].is_long() { 0 } else { EARLY_NS }
    }

    fn arm(&mut self) -> Result<()> {
        let Some(Reverse((at_ns, _, from, to, _))) = self.under_way.peek().copied() else {
            return Ok(());
        };
        if at_ns == self.armed_ns {
            return Ok(());
        }
        self.armed_ns = at_ns;
        let at_ns = at_ns.saturating_sub(self.early_ns(from, to)).max(1);
        const NS_PER_S: u64 = 1_000_000_000;
        let value =
            Timespec { tv_sec: (at_ns / NS_PER_S) as i64, tv_nsec: (at_ns % NS_PER_S) as _ };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        let _before = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &once)
            .context("the router's timer")?;
        Ok(())
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
