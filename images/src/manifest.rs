//! `images/manifest.toml`, read and checked. A key nobody knows is an error, as is a path named twice:
//! a slip here would be an image that lacks something.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::archive::{self, Entry, Image};

/// The search path of the images; `kubectl exec POD -- metactl` needs it.
pub(crate) const SEARCH_PATH: &str = "PATH=/usr/local/bin";

/// What the images hold.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Whom the programs run as.
    pub user: User,
    /// Labels of every image.
    pub labels: BTreeMap<String, String>,
    /// What is in every image.
    pub shared: Vec<Item>,
    /// The images.
    pub targets: BTreeMap<String, Target>,
}

/// Whom the programs run as; numbers, for Kubernetes proves by them that it is not root.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// One image.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Packages of this workspace to build for it.
    pub packages: Vec<String>,
    /// The program, by its absolute path.
    pub entrypoint: Vec<String>,
    /// Where it starts.
    pub workdir: String,
    /// TCP ports it listens on.
    pub ports: Vec<u16>,
    /// Labels, beside those of every image.
    pub labels: BTreeMap<String, String>,
    /// What is in it, beside what is in every image.
    pub files: Vec<Item>,
}

/// A path of an image. Exactly one of `source`, `binary` and `directory` is given.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Where it is in the image.
    pub path: String,
    /// A file of the repository.
    #[serde(default)]
    pub source: Option<String>,
    /// A program built before.
    #[serde(default)]
    pub binary: Option<String>,
    /// An empty directory.
    #[serde(default)]
    pub directory: bool,
    /// Permission bits, octal.
    #[serde(deserialize_with = "octal")]
    pub mode: u32,
    /// Whose it is.
    #[serde(default)]
    pub owner: Owner,
}

/// Whose a path is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// Root's: the program can not change it.
    #[default]
    Root,
    /// The program's.
    User,
}

fn octal<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let text = String::deserialize(deserializer)?;
    let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| serde::de::Error::custom(format!("{text:?}: not an octal mode")))
}

/// What a build adds to the manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Build<'a> {
    /// The repository's root, for files of the repository.
    pub root: &'a Path,
    /// Where the programs are.
    pub binaries: &'a Path,
    /// Processor as Go names it: `amd64`, `arm64`.
    pub architecture: &'a str,
    /// Of the programs, as in 0.1.0.
    pub version: &'a str,
    /// The commit they were built from; empty if not known.
    pub revision: &'a str,
    /// Seconds since 1970.
    pub created_s: u64,
}

impl Manifest {
    /// The manifest of the repository at `root`.
    pub fn read(root: &Path) -> Result<Manifest> {
        let path = root.join("images/manifest.toml");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Manifest::parse(&text).with_context(|| path.display().to_string())
    }

    /// Reads and checks the text of a manifest.
    pub fn parse(text: &str) -> Result<Manifest> {
        let manifest: Manifest = toml::from_str(text)?;
        ensure!(manifest.user.uid != 0 && manifest.user.gid != 0, "user: root is not for programs");
        for (name, target) in &manifest.targets {
            manifest.check(target).with_context(|| format!("target {name}"))?;
        }
        Ok(manifest)
    }

    fn check(&self, target: &Target) -> Result<()> {
        let mut paths = std::collections::BTreeSet::new();
        for item in self.items(target) {
            let path = &item.path;
            let kinds = [item.source.is_some(), item.binary.is_some(), item.directory];
            let given = kinds.iter().filter(|given| **given).count();
            ensure!(given == 1, "{path}: give one of source, binary and directory");
            ensure!(paths.insert(path), "{path}: named twice");
            let words = [Some(path), item.source.as_ref(), item.binary.as_ref()];
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
            // They become words of a shell command in the Dockerfile.
            ensure!(words.iter().flatten().all(|word| word.chars().all(plain)), "{path}: odd name");
            if item.owner == Owner::Root && item.mode & 0o022 != 0 {
                ensure!(item.mode & 0o1000 != 0, "{path}: everybody could replace what is there");
            }
        }
        let Some(program) = target.entrypoint.first() else {
            bail!("entrypoint: a program is missing")
        };
        let is_program = |item: &Item| {
            item.path == *program && item.binary.is_some() && item.mode & 0o111 == 0o111
        };
        ensure!(self.items(target).any(is_program), "entrypoint {program}: no such program");
        let is_workdir = |item: &Item| item.path == target.workdir && item.directory;
        let known = target.workdir == "/" || self.items(target).any(is_workdir);
        ensure!(known, "workdir {}: no such directory", target.workdir);
        Ok(())
    }

    /// What is in an image.
    pub fn items<'a>(&'a self, target: &'a Target) -> impl Iterator<Item = &'a Item> {
        self.shared.iter().chain(&target.files)
    }

    /// The image called so.
    pub fn target(&self, name: &str) -> Result<&Target> {
        let names: Vec<_> = self.targets.keys().map(String::as_str).collect();
        let missing = || format!("{name}: no such image; there are {}", names.join(", "));
        self.targets.get(name).with_context(missing)
    }

    /// Owner and group of a path.
    pub(crate) fn owner(&self, item: &Item) -> (u32, u32) {
        match item.owner {
            Owner::Root => (0, 0),
            Owner::User => (self.user.uid, self.user.gid),
        }
    }

    /// `UID:GID` of the programs.
    pub(crate) fn user(&self) -> String {
        format!("{}:{}", self.user.uid, self.user.gid)
    }

    /// Labels that do not depend on a build.
    pub(crate) fn labels(&self, target: &Target) -> BTreeMap<String, String> {
        self.labels.clone().into_iter().chain(target.labels.clone()).collect()
    }

    /// The image called so, of programs built before.
    pub fn image(&self, target: &str, build: Build<'_>) -> Result<Image> {
        let target = self.target(target)?;
        let mut files = BTreeMap::new();
        for item in self.items(target) {
            let from = match (&item.source, &item.binary) {
                (Some(source), _) => Some(build.root.join(source)),
                (_, Some(binary)) => Some(build.binaries.join(binary)),
                _ => None,
            };
            let content = match from {
                None => archive::Content::Directory,
                Some(from) => archive::Content::File(
                    std::fs::read(&from).with_context(|| from.display().to_string())?,
                ),
            };
            let owner = self.owner(item);
            files.insert(item.path.clone(), Entry { content, mode: item.mode, owner });
        }
        let mut labels = self.labels(target);
        for (name, value) in [("version", build.version), ("revision", build.revision)] {
            if !value.is_empty() {
                labels.insert(format!("org.opencontainers.image.{name}"), value.to_owned());
            }
        }
        Ok(Image {
            architecture: build.architecture.to_owned(),
            files,
            user: self.user(),
            entrypoint: target.entrypoint.clone(),
            workdir: target.workdir.clone(),
            environment: vec![SEARCH_PATH.to_owned()],
            ports: target.ports.clone(),
            labels,
            created_s: build.created_s,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    fn text() -> String {
        std::fs::read_to_string(root().join("images/manifest.toml")).unwrap()
    }

    #[test]
    fn the_manifest_of_this_repository_is_sound_and_its_sources_exist() {
        let manifest = Manifest::read(root()).unwrap();
        for target in manifest.targets.values() {
            for source in manifest.items(target).filter_map(|item| item.source.as_ref()) {
                assert!(root().join(source).is_file(), "{source}");
            }
        }
    }

    #[test]
    fn programs_can_not_change_themselves_nor_run_as_root() {
        let manifest = Manifest::read(root()).unwrap();
        assert_ne!(manifest.user.uid, 0);
        for item in manifest.targets.values().flat_map(|target| manifest.items(target)) {
            if !item.directory {
                assert_eq!((item.owner, item.mode & 0o022), (Owner::Root, 0), "{}", item.path);
            }
        }
    }

    #[test]
    fn slips_are_named() {
        let slip = |from: &str, to: &str| {
            let text = text();
            assert!(text.contains(from), "{from}");
            format!("{:#}", Manifest::parse(&text.replacen(from, to, 1)).unwrap_err())
        };
        for (from, to, message) in [
            ("uid = 65532", "uid = 0", "user: root is not for programs"),
            ("mode = \"0644\"", "mode = \"0888\"", "not an octal mode"),
            ("mode = \"0644\"", "mode = \"0666\"", "everybody could replace what is there"),
            ("directory = true", "source = \"LICENSE\"\ndirectory = true", "give one of"),
            ("path = \"/etc/group\"", "path = \"/etc/passwd\"", "/etc/passwd: named twice"),
            ("path = \"/etc/group\"", "path = \"/etc/a b\"", "odd name"),
            ("workdir = \"/var/lib/metastore\"", "workdir = \"/nowhere\"", "no such directory"),
            ("[\"/usr/local/bin/metastore\"]", "[\"/usr/bin/metastore\"]", "no such program"),
            ("ports =", "port =", "unknown field `port`"),
        ] {
            let error = slip(from, to);
            assert!(error.contains(message), "{from} → {to}: {error}");
        }
    }

    #[test]
    fn an_image_is_the_manifest_and_the_programs() {
        let binaries = tempfile::tempdir().unwrap();
        for name in ["metastore", "metactl"] {
            std::fs::write(binaries.path().join(name), name).unwrap();
        }
        let build = Build {
            root: root(),
            binaries: binaries.path(),
            architecture: "arm64",
            version: "0.1.0",
            revision: "",
            created_s: 0,
        };
        let manifest = Manifest::read(root()).unwrap();
        let image = manifest.image("server", build).unwrap();
        assert_eq!(image.user, "65532:65532");
        assert_eq!(image.files["/usr/local/bin/metactl"], Entry::file(0o755, b"metactl".to_vec()));
        let data = Entry { owner: (65532, 65532), ..Entry::directory(0o700) };
        assert_eq!(image.files["/var/lib/metastore"], data);
        assert_eq!(image.labels["org.opencontainers.image.version"], "0.1.0");
        assert!(!image.labels.contains_key("org.opencontainers.image.revision"));
        let error = manifest.image("operator", build).unwrap_err();
        assert!(format!("{error:#}").contains("metastore-operator"), "{error:#}");
        let error = manifest.image("client", build).unwrap_err().to_string();
        assert_eq!(error, "client: no such image; there are operator, server");
    }
}
