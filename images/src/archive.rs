//! An image as a plain value, and the archive it is written to: an OCI image layout in a tar file
//! ("oci-archive"), with the `manifest.json` of `docker save` beside it for engines that read only
//! that. One layer, no compression, every time stamp the image's own.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The longest path in a layer: the name field of a plain tar header, so that no extension is needed.
const PATH_BYTES_MAX: usize = 100;

/// A sha256 digest; shown as `sha256:` and hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest([u8; 32]);

impl Digest {
    fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    fn hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn blob(self) -> String {
        format!("blobs/sha256/{}", self.hex())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

/// What is at a path of the image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// A directory.
    Directory,
    /// A file with these bytes.
    File(Vec<u8>),
}

/// A path of the image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What is there.
    pub content: Content,
    /// Permission bits, as in 0o755.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
}

impl Entry {
    /// A file of root's.
    pub fn file(mode: u32, bytes: Vec<u8>) -> Entry {
        Entry { content: Content::File(bytes), mode, owner: (0, 0) }
    }

    /// A directory of root's.
    pub fn directory(mode: u32) -> Entry {
        Entry { content: Content::Directory, mode, owner: (0, 0) }
    }
}

/// A whole image.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Image {
    /// Processor as Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// Absolute path → what is there. Directories above a path that are not named are root's, 0755.
    pub files: BTreeMap<String, Entry>,
    /// `UID:GID` the program runs as; empty is root.
    pub user: String,
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Where it starts; empty is `/`.
    pub workdir: String,
    /// `NAME=VALUE`.
    pub environment: Vec<String>,
    /// TCP ports it listens on.
    pub ports: Vec<u16>,
    /// Labels, also written as annotations.
    pub labels: BTreeMap<String, String>,
    /// Seconds since 1970, for everything that has a time.
    pub created_s: u64,
}

impl Image {
    /// Writes the archive; answers with the digest of the image's manifest, by which registries and
    /// engines name it.
    ///
    /// `name` is what the image is called once loaded, `[REGISTRY/]REPOSITORY:TAG`; as everywhere in
    /// the field, one without a registry means docker.io, which is looked for locally first.
    pub fn write(&self, name: &str, out: &mut dyn Write) -> Result<Digest> {
        let full_name = full_name(name)?;
        let layer = self.layer()?;
        let layer_digest = Digest::of(&layer);

        let config = canonical_json(&self.config(layer_digest)?).into_bytes();
        let config_digest = Digest::of(&config);

        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config_digest, config.len()),
            "layers": [descriptor(LAYER, layer_digest, layer.len())],
            "annotations": self.labels,
        });
        let manifest = canonical_json(&manifest).into_bytes();
        let digest = Digest::of(&manifest);

        let mut described = descriptor(MANIFEST, digest, manifest.len());
        described["platform"] = json!({ "architecture": self.architecture, "os": "linux" });
        // The first is read by podman and skopeo, the second by containerd and what is built on it.
        described["annotations"] = json!({
            "org.opencontainers.image.ref.name": full_name,
            "io.containerd.image.name": full_name,
        });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [described] });
        let docker = json!([{
            "Config": config_digest.blob(),
            "Layers": [layer_digest.blob()],
            "RepoTags": [name],
        }]);

        let mut archive = Archive::new(out, self.created_s);
        archive.directory("blobs/", 0o755, (0, 0))?;
        archive.directory("blobs/sha256/", 0o755, (0, 0))?;
        let mut blobs = [(layer_digest, &layer), (config_digest, &config), (digest, &manifest)];
        blobs.sort_by_key(|(digest, _)| digest.hex());
        for (digest, bytes) in blobs {
            archive.file(&digest.blob(), 0o644, (0, 0), bytes)?;
        }
        archive.file("index.json", 0o644, (0, 0), canonical_json(&index).as_bytes())?;
        archive.file("manifest.json", 0o644, (0, 0), canonical_json(&docker).as_bytes())?;
        archive.file("oci-layout", 0o644, (0, 0), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.finish()?;
        Ok(digest)
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes, self.created_s);
        for (path, entry) in self.with_parents()? {
            let path = path.trim_start_matches('/');
            match &entry.content {
                Content::Directory => {
                    archive.directory(&format!("{path}/"), entry.mode, entry.owner)?;
                }
                Content::File(bytes) => archive.file(path, entry.mode, entry.owner, bytes)?,
            }
        }
        archive.finish()?;
        Ok(bytes)
    }

    /// Every path, those above it included, parents first.
    fn with_parents(&self) -> Result<BTreeMap<&str, Entry>> {
        let mut all = BTreeMap::new();
        for (path, entry) in &self.files {
            let plain = path.strip_prefix('/').is_some_and(|rest| {
                rest.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
            });
            if !plain {
                bail!("{path:?}: not a plain absolute path");
            }
            for (at, _) in path.match_indices('/').skip(1) {
                all.entry(&path[..at]).or_insert_with(|| Entry::directory(0o755));
            }
            all.insert(path.as_str(), entry.clone());
        }
        for (path, entry) in &all {
            let below = format!("{path}/");
            let is_file = entry.content != Content::Directory;
            if is_file && all.keys().any(|other| other.starts_with(&below)) {
                bail!("{path}: a file, and a directory of other files");
            }
        }
        Ok(all)
    }

    fn config(&self, layer: Digest) -> Result<Value> {
        let ports: BTreeMap<String, Value> =
            self.ports.iter().map(|port| (format!("{port}/tcp"), json!({}))).collect();
        let created = rfc3339(self.created_s)?;
        Ok(json!({
            "architecture": self.architecture,
            "os": "linux",
            "created": created,
            "config": {
                "User": self.user,
                "Entrypoint": self.entrypoint,
                "WorkingDir": self.workdir,
                "Env": self.environment,
                "ExposedPorts": ports,
                "Labels": self.labels,
            },
            "rootfs": { "type": "layers", "diff_ids": [layer.to_string()] },
            "history": [{ "created": created, "created_by": "metastore images" }],
        }))
    }
}

fn descriptor(media_type: &str, digest: Digest, size: usize) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size })
}

/// JSON with its keys sorted. serde_json keeps the order of insertion instead if any package that it is
/// built with asks for that, and the digest must not depend on who else is in the workspace.
pub fn canonical_json(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let keys: BTreeMap<_, _> =
                    map.iter().map(|(key, value)| (key.clone(), sorted(value))).collect();
                Value::Object(keys.into_iter().collect())
            }
            Value::Array(values) => values.iter().map(sorted).collect(),
            _ => value.clone(),
        }
    }
    sorted(value).to_string()
}

/// A tar file whose headers hold nothing of the machine it is written on.
struct Archive<W: Write> {
    tar: tar::Builder<W>,
    created_s: u64,
}

impl<W: Write> Archive<W> {
    fn new(out: W, created_s: u64) -> Archive<W> {
        Archive { tar: tar::Builder::new(out), created_s }
    }

    fn directory(&mut self, path: &str, mode: u32, owner: (u32, u32)) -> Result<()> {
        self.append(tar::EntryType::Directory, path, mode, owner, &[])
    }

    fn file(&mut self, path: &str, mode: u32, owner: (u32, u32), bytes: &[u8]) -> Result<()> {
        self.append(tar::EntryType::Regular, path, mode, owner, bytes)
    }

    fn append(
        &mut self,
        kind: tar::EntryType,
        path: &str,
        mode: u32,
        owner: (u32, u32),
        bytes: &[u8],
    ) -> Result<()> {
        if path.len() > PATH_BYTES_MAX {
            bail!("{path}: longer than {PATH_BYTES_MAX} bytes");
        }
        let mut header = tar::Header::new_ustar();
        header.set_path(path).with_context(|| path.to_owned())?;
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.0.into());
        header.set_gid(owner.1.into());
        header.set_mtime(self.created_s);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        Ok(self.tar.append(&header, bytes)?)
    }

    fn finish(mut self) -> Result<()> {
        Ok(self.tar.finish()?)
    }
}

/// The name with its registry, as containerd keeps it: `a:1` is `docker.io/library/a:1`.
fn full_name(name: &str) -> Result<String> {
    let (repository, tag) = name.rsplit_once(':').unwrap_or((name, ""));
    let fit = |c: char| c.is_ascii_alphanumeric() || "._-/:".contains(c);
    let bad_tag = tag.is_empty() || tag.contains('/');
    if bad_tag || repository.is_empty() || !name.chars().all(fit) {
        bail!("{name:?}: not of the form [REGISTRY/]REPOSITORY:TAG");
    }
    if repository.chars().any(|c| c.is_ascii_uppercase()) {
        bail!("{name:?}: a repository is written in small letters");
    }
    Ok(match repository.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    })
}

/// A time as the image's configuration wants it, in UTC.
pub(crate) fn rfc3339(seconds: u64) -> Result<String> {
    let seconds = i64::try_from(seconds)?;
    Ok(jiff::Timestamp::from_second(seconds).context("the time of creation")?.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn image() -> Image {
        Image {
            architecture: "amd64".into(),
            files: BTreeMap::from([
                ("/usr/local/bin/a".into(), Entry::file(0o755, b"program".to_vec())),
                ("/tmp".into(), Entry::directory(0o1777)),
                ("/data".into(), Entry { owner: (5, 6), ..Entry::directory(0o700) }),
            ]),
            user: "5:6".into(),
            entrypoint: vec!["/usr/local/bin/a".into()],
            ports: vec![80],
            labels: BTreeMap::from([("title".into(), "a".into())]),
            ..Image::default()
        }
    }

    fn written(image: &Image, name: &str) -> (Vec<u8>, Digest) {
        let mut bytes = Vec::new();
        let digest = image.write(name, &mut bytes).unwrap();
        (bytes, digest)
    }

    fn unpacked(archive: &[u8]) -> BTreeMap<String, (tar::Header, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let mut all = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            all.insert(path, (entry.header().clone(), bytes));
        }
        all
    }

    fn blob(all: &BTreeMap<String, (tar::Header, Vec<u8>)>, descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"].as_str().unwrap();
        let (_, bytes) = &all[&digest.replace("sha256:", "blobs/sha256/")];
        assert_eq!(Digest::of(bytes).to_string(), digest, "a blob is named by its content");
        assert_eq!(descriptor["size"], bytes.len(), "and its size is right");
        bytes.clone()
    }

    #[test]
    fn the_same_image_gives_the_same_bytes() {
        assert_eq!(written(&image(), "a:1"), written(&image(), "a:1"));
    }

    #[test]
    fn the_name_is_not_in_the_digest_but_every_property_is() {
        let (_, digest) = written(&image(), "a:1");
        assert_eq!(written(&image(), "b:2").1, digest);
        let changes: [fn(&mut Image); 8] = [
            |i| i.architecture = "arm64".into(),
            |i| i.user = "7:7".into(),
            |i| i.entrypoint.push("x".into()),
            |i| i.workdir = "/tmp".into(),
            |i| i.environment.push("A=b".into()),
            |i| i.ports.push(81),
            |i| i.created_s = 1,
            |i| i.files.get_mut("/tmp").unwrap().mode = 0o755,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut changed = image();
            change(&mut changed);
            assert_ne!(written(&changed, "a:1").1, digest, "change {number}");
        }
    }

    #[test]
    fn index_manifest_config_and_layer_lead_to_the_files() {
        let (archive, digest) = written(&image(), "a:1");
        let all = unpacked(&archive);
        let index: Value = serde_json::from_slice(&all["index.json"].1).unwrap();
        let described = &index["manifests"][0];
        assert_eq!(described["digest"], digest.to_string());
        let annotations = &described["annotations"];
        assert_eq!(annotations["io.containerd.image.name"], "docker.io/library/a:1");
        let manifest: Value = serde_json::from_slice(&blob(&all, described)).unwrap();
        let config: Value = serde_json::from_slice(&blob(&all, &manifest["config"])).unwrap();
        assert_eq!(config["config"]["User"], "5:6");
        assert_eq!(config["config"]["ExposedPorts"], json!({ "80/tcp": {} }));
        assert_eq!(config["created"], "1970-01-01T00:00:00Z");
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);

        let layer = unpacked(&blob(&all, &manifest["layers"][0]));
        let shape: Vec<_> = layer
            .iter()
            .map(|(path, (header, _))| {
                let owner = (header.uid().unwrap(), header.gid().unwrap());
                (path.as_str(), header.mode().unwrap(), owner, header.mtime().unwrap())
            })
            .collect();
        let expected = [
            ("data/", 0o700, (5, 6), 0),
            ("tmp/", 0o1777, (0, 0), 0),
            ("usr/", 0o755, (0, 0), 0),
            ("usr/local/", 0o755, (0, 0), 0),
            ("usr/local/bin/", 0o755, (0, 0), 0),
            ("usr/local/bin/a", 0o755, (0, 0), 0),
        ];
        assert_eq!(shape, expected);
        assert_eq!(layer["usr/local/bin/a"].1, b"program");
    }

    #[test]
    fn docker_finds_the_same_blobs() {
        let (archive, _) = written(&image(), "a:1");
        let all = unpacked(&archive);
        let docker: Value = serde_json::from_slice(&all["manifest.json"].1).unwrap();
        assert_eq!(docker[0]["RepoTags"], json!(["a:1"]));
        assert!(all.contains_key(docker[0]["Config"].as_str().unwrap()));
        assert!(all.contains_key(docker[0]["Layers"][0].as_str().unwrap()));
    }

    #[test]
    fn a_name_gets_the_registry_it_means() {
        for (name, full) in [
            ("a:1", "docker.io/library/a:1"),
            ("b/a:1", "docker.io/b/a:1"),
            ("registry.example/b/a:1", "registry.example/b/a:1"),
            ("localhost/a:1", "localhost/a:1"),
            ("localhost:5000/a:1", "localhost:5000/a:1"),
        ] {
            assert_eq!(full_name(name).unwrap(), full);
        }
        for name in ["", "a", ":1", "a:", "localhost:5000/a", "A:1", "a b:1", "a@sha256:0"] {
            assert!(full_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_path_that_is_not_plain_is_refused() {
        for path in ["", "a", "/", "/a/", "/a//b", "/a/../b", "/./a"] {
            let files = BTreeMap::from([(path.to_owned(), Entry::directory(0o755))]);
            let odd = Image { files, ..image() };
            assert!(odd.write("a:1", &mut Vec::new()).is_err(), "{path:?}");
        }
        let mut below = image();
        below.files.insert("/usr/local".into(), Entry::file(0o644, Vec::new()));
        let error = below.write("a:1", &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(error, "/usr/local: a file, and a directory of other files");
    }
}
