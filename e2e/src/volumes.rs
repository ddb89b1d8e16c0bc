//! Storage: a directory of the node for each claim, made when a pod of it has been scheduled, removed
//! when the claim is, and enlarged on request. A claim of the same name gets an empty one again.
//!
//! It does what a driver's provisioner and resizer do, by watching claims and volumes through kubectl.
//! Directories belong to root, as a fresh volume of a real driver does: a pod that is not root's needs
//! `fsGroup`, and the kubelet then hands the directory to that group.
//!
//! Of the class `disk` a volume is a file system of its own, in a file: one that can be frozen.

use std::ffi::OsStr;
use std::fs;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::command;
use crate::places::{NODE_NAME, Places};
use crate::settings::{DISK_CLASS, DISKS_DIR, PROVISIONER, STORAGE_CLASS, VOLUMES_DIR};
use crate::tools::Kubectl;
use crate::wait::say;

/// Between two watches, should one end.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// Bytes of a file system in a file, which holds only what is written to it.
const DISK_BYTES: u64 = 512 << 20;
/// For making, mounting or unmounting one.
const DISK_LIMIT: Duration = Duration::from_secs(30);
/// Written by the scheduler once it has chosen a node for the claim's first pod.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Which provisioner a volume is to be given back to.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// What a claim or a volume asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Wanted {
    /// A directory of this name, and this volume.
    Volume { name: String, manifest: Value },
    /// The volume of a claim grows.
    Growth { volume: String, namespace: String, claim: String, size: String },
    /// The volume of a claim that is gone.
    Removal { name: String },
}

/// Starts the two watches, each on a thread that lives as long as the process.
pub fn start(places: &Places) {
    for kind in ["persistentvolumeclaims", "persistentvolumes"] {
        let kubectl = Kubectl::new(places);
        std::thread::spawn(move || {
            loop {
                if let Err(error) = watch(&kubectl, kind) {
                    say(&format!("storage: {kind}: {error:#}"));
                }
                std::thread::sleep(AGAIN_AFTER);
            }
        });
    }
}

/// kubectl is killed when whoever reads it gives up.
struct Watch(Child);

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn watch(kubectl: &Kubectl, kind: &str) -> Result<()> {
    let args = ["get", kind, "--all-namespaces", "--watch", "-o", "json"];
    let mut command = kubectl.command(&args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = Watch(command.spawn().context("kubectl get --watch")?);
    let stdout = child.0.stdout.take().expect("it is piped");
    for object in serde_json::Deserializer::from_reader(BufReader::new(stdout)).into_iter::<Value>()
    {
        if let Some(wanted) = wanted(&object?) {
            let what = format!("{wanted:?}");
            if let Err(error) = carry_out(kubectl, wanted) {
                // Seen again with the object's next change, or when the watch is made again.
                say(&format!("storage: {what}: {error:#}"));
                return Ok(());
            }
        }
    }
    Ok(())
}

/// What is to be done about an object as it is now, if anything.
fn wanted(object: &Value) -> Option<Wanted> {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str()?;
    let phase = object["status"]["phase"].as_str().unwrap_or_default();
    if object["kind"] == "PersistentVolume" {
        let own = metadata["annotations"][PROVISIONED_BY] == PROVISIONER;
        let delete = object["spec"]["persistentVolumeReclaimPolicy"] == "Delete";
        let gone = phase == "Released" && metadata["deletionTimestamp"].is_null();
        return (own && delete && gone).then(|| Wanted::Removal { name: name.to_owned() });
    }
    if object["kind"] != "PersistentVolumeClaim" || !metadata["deletionTimestamp"].is_null() {
        return None;
    }
    let spec = &object["spec"];
    let class = spec["storageClassName"].as_str()?;
    if ![STORAGE_CLASS, DISK_CLASS].contains(&class) {
        return None;
    }
    let namespace = metadata["namespace"].as_str()?;
    let size = spec["resources"]["requests"]["storage"].as_str()?;
    if phase == "Bound" {
        let has = object["status"]["capacity"]["storage"].as_str()?;
        return (has != size).then(|| Wanted::Growth {
            volume: spec["volumeName"].as_str().unwrap_or_default().to_owned(),
            namespace: namespace.to_owned(),
            claim: name.to_owned(),
            size: size.to_owned(),
        });
    }
    let selected = metadata["annotations"][SELECTED_NODE] == NODE_NAME;
    if phase != "Pending" || !selected || !spec["volumeName"].is_null() {
        return None;
    }
    let uid = metadata["uid"].as_str()?;
    let volume = format!("pvc-{uid}");
    let manifest = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": volume, "annotations": { PROVISIONED_BY: PROVISIONER } },
        "spec": {
            "capacity": { "storage": size },
            "accessModes": spec["accessModes"],
            "volumeMode": "Filesystem",
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": class,
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "namespace": namespace, "name": name, "uid": uid,
            },
            "local": { "path": format!("{VOLUMES_DIR}/{volume}") },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [{
                "key": "kubernetes.io/hostname", "operator": "In", "values": [NODE_NAME],
            }] }] } },
        },
    });
    Some(Wanted::Volume { name: volume, manifest })
}

fn carry_out(kubectl: &Kubectl, wanted: Wanted) -> Result<()> {
    match wanted {
        Wanted::Volume { name, manifest } => {
            let dir = Path::new(VOLUMES_DIR).join(name);
            fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
            if manifest["spec"]["storageClassName"] == DISK_CLASS {
                mount_disk(&dir)?;
            }
            kubectl.apply(&manifest.to_string())
        }
        Wanted::Growth { volume, namespace, claim, size } => {
            let capacity = json!({ "capacity": { "storage": size } });
            let spec = json!({ "spec": capacity }).to_string();
            kubectl.run(&["patch", "persistentvolume", &volume, "--patch", &spec])?;
            let status = json!({ "status": capacity }).to_string();
            let kubectl = kubectl.namespace(&namespace);
            let words = [
                "patch",
                "persistentvolumeclaim",
                &claim,
                "--subresource=status",
                "--patch",
                &status,
            ];
            kubectl.run(&words).map(drop)
        }
        Wanted::Removal { name } => {
            let dir = Path::new(VOLUMES_DIR).join(&name);
            unmount_disk(&dir)?;
            match fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| dir.display().to_string());
                }
                _ => {}
            }
            let words = ["delete", "persistentvolume", &name, "--ignore-not-found", "--wait=false"];
            kubectl.run(&words).map(drop)
        }
    }
}

/// The file that a volume's file system is in.
fn disk(dir: &Path) -> PathBuf {
    Path::new(DISKS_DIR).join(dir.file_name().unwrap_or_default()).with_extension("img")
}

/// That it is there already is fine.
fn mount_disk(dir: &Path) -> Result<()> {
    let image = disk(dir);
    if image.exists() {
        return Ok(());
    }
    fs::create_dir_all(DISKS_DIR).context(DISKS_DIR)?;
    let unfinished = image.with_extension("new");
    let file = fs::File::create(&unfinished).with_context(|| unfinished.display().to_string())?;
    file.set_len(DISK_BYTES)?;
    run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), unfinished.as_os_str()])?;
    let mount = ["-o".as_ref(), "loop".as_ref(), unfinished.as_os_str(), dir.as_os_str()];
    run("mount", &mount)?;
    // By this name only once it is in use.
    fs::rename(&unfinished, &image).with_context(|| image.display().to_string())
}

/// That there is none is fine.
fn unmount_disk(dir: &Path) -> Result<()> {
    let image = disk(dir);
    if !image.exists() {
        return Ok(());
    }
    run("umount", &[dir.as_os_str()])?;
    fs::remove_file(&image).with_context(|| image.display().to_string())
}

fn run(program: &str, arguments: &[&OsStr]) -> Result<()> {
    let mut command = Command::new(program);
    command::run_well(command.args(arguments), b"", DISK_LIMIT).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim() -> Value {
        json!({
            "kind": "PersistentVolumeClaim",
            "metadata": {
                "name": "data-0", "namespace": "a", "uid": "u-1",
                "annotations": { SELECTED_NODE: NODE_NAME },
            },
            "spec": {
                "storageClassName": STORAGE_CLASS, "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": "1Gi" } },
            },
            "status": { "phase": "Pending" },
        })
    }

    #[test]
    fn a_claim_gets_a_volume_of_its_own_id_so_that_its_successor_gets_another() {
        let Some(Wanted::Volume { name, manifest }) = wanted(&claim()) else { panic!() };
        assert_eq!(name, "pvc-u-1");
        assert_eq!(manifest["spec"]["claimRef"]["uid"], "u-1");
        assert_eq!(manifest["spec"]["local"]["path"], "/run/node/volumes/pvc-u-1");
    }

    #[test]
    fn a_claim_waits_for_its_first_pod_and_for_its_own_class() {
        let mut waiting = claim();
        waiting["metadata"]["annotations"] = json!({});
        assert_eq!(wanted(&waiting), None);
        let mut other = claim();
        other["spec"]["storageClassName"] = json!("other");
        assert_eq!(wanted(&other), None);
        let mut disk = claim();
        disk["spec"]["storageClassName"] = json!(DISK_CLASS);
        let Some(Wanted::Volume { manifest, .. }) = wanted(&disk) else { panic!() };
        assert_eq!(manifest["spec"]["storageClassName"], "disk");
        let mut leaving = claim();
        leaving["metadata"]["deletionTimestamp"] = json!("now");
        assert_eq!(wanted(&leaving), None);
    }

    #[test]
    fn a_bound_claim_wants_something_only_while_its_size_differs() {
        let mut bound = claim();
        bound["spec"]["volumeName"] = json!("pvc-u-1");
        bound["status"] = json!({ "phase": "Bound", "capacity": { "storage": "1Gi" } });
        assert_eq!(wanted(&bound), None);
        bound["spec"]["resources"]["requests"]["storage"] = json!("2Gi");
        let Some(Wanted::Growth { volume, size, .. }) = wanted(&bound) else { panic!() };
        assert_eq!((volume.as_str(), size.as_str()), ("pvc-u-1", "2Gi"));
    }

    #[test]
    fn a_volume_goes_with_its_claim_unless_it_is_retained_or_another_s() {
        let mut volume = json!({
            "kind": "PersistentVolume",
            "metadata": { "name": "v", "annotations": { PROVISIONED_BY: PROVISIONER } },
            "spec": { "persistentVolumeReclaimPolicy": "Delete" },
            "status": { "phase": "Bound" },
        });
        assert_eq!(wanted(&volume), None);
        volume["status"]["phase"] = json!("Released");
        assert_eq!(wanted(&volume), Some(Wanted::Removal { name: "v".into() }));
        volume["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
        assert_eq!(wanted(&volume), None);
        volume["spec"]["persistentVolumeReclaimPolicy"] = json!("Delete");
        volume["metadata"]["annotations"] = json!({});
        assert_eq!(wanted(&volume), None);
    }
}
