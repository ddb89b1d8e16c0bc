//! `cargo xtask image`: the container images, without a container engine.
//!
//! Builds the programs statically, as the Dockerfile does, and writes each image to an archive that
//! `docker load`, `podman load`, `ctr images import` and `kind load image-archive` take. The paths of
//! this machine are kept out of the programs, so that the same sources give the same digest.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use images::{Build, Manifest, dockerfile};

use crate::chores::{cargo, root, run as carry_out};

const HELP: &str = "\
cargo xtask image [server|operator] [OPTION...]

  --out DIR         where the archives go (default: target/images)
  --tag TAG         the images' tag (default: the version)
  --registry NAME   before the images' names, as in registry.example/team
  --binaries DIR    take the programs from there instead of building them
  --profile NAME    cargo's profile to build with (default: dist, as they ship; ci builds in a third of the time)

SOURCE_DATE_EPOCH, in seconds, is the images' time (default: 0, 1970).
";

struct Settings {
    targets: Vec<String>,
    out: PathBuf,
    tag: String,
    registry: Option<String>,
    binaries: Option<PathBuf>,
    profile: String,
}

/// Builds what the arguments ask for.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut stdout = std::io::stdout();
    let manifest = Manifest::read(&root())?;
    let Some(settings) = settings(arguments, &manifest)? else {
        return Ok(stdout.write_all(HELP.as_bytes())?);
    };
    let (architecture, triple) = here()?;
    let binaries = match &settings.binaries {
        Some(binaries) => binaries.clone(),
        None => {
            let begun = Instant::now();
            build(&manifest, &settings, triple)?;
            writeln!(stdout, "programs built in {} s", begun.elapsed().as_secs())?;
            target_directory().join(triple).join(&settings.profile)
        }
    };
    let revision = revision();
    let build = Build {
        root: &root(),
        binaries: &binaries,
        architecture,
        version: env!("CARGO_PKG_VERSION"),
        revision: &revision,
        created_s: created_s()?,
    };
    std::fs::create_dir_all(&settings.out)?;
    for target in &settings.targets {
        let path = settings.out.join(format!("metastore-{target}.tar"));
        let mut name = format!("metastore-{target}:{}", settings.tag);
        if let Some(registry) = &settings.registry {
            name = format!("{registry}/{name}");
        }
        // Under another name first: nobody loads half an archive.
        let unfinished = path.with_extension("tar.part");
        let file = File::create(&unfinished).with_context(|| unfinished.display().to_string())?;
        let mut out = BufWriter::new(file);
        let digest = manifest.image(target, build)?.write(&name, &mut out)?;
        out.flush()?;
        std::fs::rename(&unfinished, &path)?;
        let bytes = std::fs::metadata(&path)?.len();
        writeln!(stdout, "{} {name} {digest} {bytes} bytes", path.display())?;
    }
    Ok(())
}

/// None: help was asked for.
fn settings(arguments: &[String], manifest: &Manifest) -> Result<Option<Settings>> {
    let mut settings = Settings {
        targets: Vec::new(),
        out: target_directory().join("images"),
        tag: env!("CARGO_PKG_VERSION").to_owned(),
        registry: None,
        binaries: None,
        profile: "dist".to_owned(),
    };
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        let (name, mut value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let mut value = || {
            let value = value.take().or_else(|| words.next().cloned());
            value.with_context(|| format!("image: {name} needs a value"))
        };
        match name {
            "--help" | "-h" => return Ok(None),
            "--out" => settings.out = value()?.into(),
            "--tag" => settings.tag = value()?,
            "--registry" => settings.registry = Some(value()?.trim_end_matches('/').to_owned()),
            "--binaries" => settings.binaries = Some(value()?.into()),
            "--profile" => settings.profile = value()?,
            flag if flag.starts_with('-') => bail!("image: no option {flag} (see --help)"),
            target => {
                manifest.target(target)?;
                settings.targets.push(target.to_owned());
            }
        }
    }
    if settings.targets.is_empty() {
        settings.targets = manifest.targets.keys().cloned().collect();
    }
    settings.targets.sort();
    settings.targets.dedup();
    Ok(Some(settings))
}

/// This machine's processor, as engines and as Rust name it.
fn here() -> Result<(&'static str, &'static str)> {
    let triples = dockerfile::TRIPLES;
    let is_here =
        |(_, triple): &(&str, &str)| triple.split('-').next() == Some(std::env::consts::ARCH);
    let missing = || format!("{}: no images for this processor", std::env::consts::ARCH);
    triples.into_iter().find(is_here).with_context(missing)
}

fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A directory of cargo's own for a named target: what other commands have built stays.
fn build(manifest: &Manifest, settings: &Settings, triple: &str) -> Result<()> {
    let mut arguments =
        vec!["build", "--locked", "--profile", &settings.profile, "--target", triple];
    for target in &settings.targets {
        for package in &manifest.target(target)?.packages {
            arguments.extend(["-p", package]);
        }
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo_home =
        std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let flags = format!(
        "{} --remap-path-prefix={}=/src --remap-path-prefix={}=/usr/local/cargo",
        dockerfile::RUST_FLAGS,
        root().display(),
        cargo_home.display()
    );
    // This separator, for a path may have a space in it.
    let flags = flags.split(' ').collect::<Vec<_>>().join("\x1f");
    carry_out(cargo(&arguments).env("CARGO_ENCODED_RUSTFLAGS", flags))
}

/// The commit at hand; empty outside a repository or if files have been changed since.
fn revision() -> String {
    let git = |arguments: &[&str]| {
        let output =
            std::process::Command::new("git").current_dir(root()).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]);
    if changed.is_some_and(|changed| changed.is_empty()) {
        git(&["rev-parse", "HEAD"]).unwrap_or_default()
    } else {
        String::new()
    }
}

fn created_s() -> Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text.parse().with_context(|| format!("SOURCE_DATE_EPOCH {text:?}")),
        Err(_) => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> Result<Option<Settings>> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        settings(&words, &Manifest::read(&root())?)
    }

    #[test]
    fn without_arguments_all_images_are_built_under_the_version() {
        let settings = parsed(&[]).unwrap().unwrap();
        assert_eq!(settings.targets, ["operator", "server"]);
        assert_eq!(settings.tag, env!("CARGO_PKG_VERSION"));
    }

    #[test]
    fn options_are_read_in_both_forms_and_slips_are_named() {
        let settings = parsed(&["server", "--tag=a", "--out", "b", "server"]).unwrap().unwrap();
        assert_eq!((settings.targets.len(), settings.tag.as_str()), (1, "a"));
        assert_eq!(settings.out, PathBuf::from("b"));
        assert!(parsed(&["--help"]).unwrap().is_none());
        for (words, message) in [
            (&["client"][..], "client: no such image; there are operator, server"),
            (&["--tag"], "image: --tag needs a value"),
            (&["--push"], "image: no option --push (see --help)"),
        ] {
            assert_eq!(parsed(words).err().unwrap().to_string(), message);
        }
    }
}
