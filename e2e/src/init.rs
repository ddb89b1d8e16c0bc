//! The first process of the node's namespaces. When it ends, for whatever reason, the kernel ends every
//! other process in them, and mounts and network go with the last.
//!
//! It says who it is before anything else, joins the node's control group, covers the directories that
//! some component writes to whatever it is told, starts [`crate::node`] as its child, hands SIGTERM on to
//! it, and otherwise only reaps: containerd's shims become its children.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};
use tokio::signal::unix::{SignalKind, signal};

use crate::cgroup::Group;
use crate::places::{NODE_DIR, Places};
use crate::process::Identity;
use crate::settings;

/// In the state directory: the [`Identity`] of this process.
pub const IDENTITY_FILE: &str = "init.pid";
/// The argument that makes a process this one.
pub const INIT_ARGUMENT: &str = "node-init";
/// The argument that makes a process [`crate::node`].
pub const NODE_ARGUMENT: &str = "node-run";

/// Runs until the node has ended; answers with the exit code it ended with.
pub fn run(places: &Places) -> Result<ExitCode> {
    // /proc is still that of the outside, so this is the id that others see.
    let identity = Identity::read(Path::new("/proc/self"))?;
    let state = places.state();
    fs::write(state.join(IDENTITY_FILE), identity.to_string()).context(IDENTITY_FILE)?;
    Group::new(&places.cgroup())?.create_and_join()?;
    mounts(places)?;

    // By this name, since the path of the program may lie below a directory that is covered now.
    let mut node = Command::new("/proc/self/exe")
        .arg(NODE_ARGUMENT)
        .spawn()
        .context("starting the node's components")?;
    let node_pid = Pid::from_child(&node);
    hand_on_sigterm(node_pid)?;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == node_pid => {
                // It has been waited for already; this only keeps the handle from doing it again.
                drop(node.try_wait());
                return Ok(match status.exit_status() {
                    Some(0) => ExitCode::SUCCESS,
                    _ => ExitCode::FAILURE,
                });
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("waiting for the node's components"),
        }
    }
}

/// On a thread of its own.
fn hand_on_sigterm(to: Pid) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut terminated = {
        let _entered = runtime.enter();
        signal(SignalKind::terminate())?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            while terminated.recv().await.is_some() {
                // Gone is as good as told.
                let _ = kill_process(to, Signal::TERM);
            }
        });
    });
    Ok(())
}

/// What is below /run, /var/log and /var/lib from here on is the node's own.
fn mounts(places: &Places) -> Result<()> {
    // Nothing of it reaches the outside: `unshare` made every mount private. Within, kubelet and
    // containers share.
    let shared = MountPropagationFlags::SHARED | MountPropagationFlags::REC;
    mount_change("/", shared).context("sharing mounts among the node's own processes")?;
    let nothing = MountFlags::empty();
    mount("proc", "/proc", "proc", nothing, None).context("/proc")?;

    // These may lie below what is about to be covered: held open, they can be put back.
    let state = open(&places.state())?;
    let kept = [open(&places.root)?, open(&places.cache)?];

    mount("run", "/run", "tmpfs", nothing, None).context("/run")?;
    put(&state, Path::new(NODE_DIR))?;
    let log = Path::new(NODE_DIR).join("var-log");
    fs::create_dir_all(&log)?;
    mount_bind_recursive(&log, "/var/log").context("/var/log")?;
    let (upper, work) = (format!("{NODE_DIR}/var-lib/upper"), format!("{NODE_DIR}/var-lib/work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = format!("lowerdir=/var/lib,upperdir={upper},workdir={work}");
    let options = std::ffi::CString::new(options).expect("a path holds no zero byte");
    mount("var-lib", "/var/lib", "overlay", nothing, options.as_c_str()).context("/var/lib")?;

    for (dir, path) in kept.iter().zip([&places.root, &places.cache]) {
        if ["/run", "/var/log", "/var/lib"].iter().any(|covered| path.starts_with(covered)) {
            put(dir, path)?;
        }
    }

    let names = Path::new(NODE_DIR).join("settings/resolv-node.conf");
    fs::create_dir_all(names.parent().expect("it has one"))?;
    fs::write(&names, settings::resolv_node())?;
    // Where it is a link into /run, what it points to is gone.
    if let Ok(target) = fs::read_link("/etc/resolv.conf") {
        let target = Path::new("/etc").join(target);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        File::create(&target).with_context(|| target.display().to_string())?;
    }
    mount_bind_recursive(&names, "/etc/resolv.conf").context("/etc/resolv.conf")
}

fn open(dir: &Path) -> Result<File> {
    File::open(dir).with_context(|| dir.display().to_string())
}

fn put(dir: &File, at: &Path) -> Result<()> {
    fs::create_dir_all(at).with_context(|| at.display().to_string())?;
    let from = format!("/proc/self/fd/{}", dir.as_raw_fd());
    mount_bind_recursive(from, at).with_context(|| at.display().to_string())
}
