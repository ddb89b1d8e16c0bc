//! The Dockerfile, written from the manifest, so that it can not say anything else.
//!
//! One stage builds every program, statically linked with glibc, natively for the platform asked for
//! (`docker buildx build --platform linux/arm64` emulates or uses a node of that kind), and lays out
//! each image's files; the images begin from nothing and take theirs over whole.

use std::fmt::Write;

use crate::manifest::{Manifest, SEARCH_PATH};

/// Where the Dockerfile lies, below the repository's root.
pub const PATH: &str = "Dockerfile";

/// How programs for images are compiled, by both builders. Static, as there is no C library in the
/// image; without line tables, which are two thirds of a file, but with the names of functions.
pub const RUST_FLAGS: &str = "-C target-feature=+crt-static -C strip=debuginfo";

/// The Dockerfile's text.
///
/// `toolchain` is the version of Rust, `version` that of the programs.
pub fn render(manifest: &Manifest, toolchain: &str, version: &str) -> String {
    let mut text = String::new();
    write(&mut text, manifest, toolchain, version)
        .expect("a string takes all that is written to it");
    text
}

fn write(
    text: &mut String,
    manifest: &Manifest,
    toolchain: &str,
    version: &str,
) -> std::fmt::Result {
    let names: Vec<_> = manifest.targets.keys().map(String::as_str).collect();
    text.push_str(
        "# Written by `cargo xtask gen` from images/manifest.toml, which says what is in here and why.\n#\n",
    );
    for name in &names {
        writeln!(text, "#   docker build --target {name} --tag metastore-{name}:TAG .")?;
    }
    text.push_str("#\n# Without Docker: cargo xtask image\n\n");
    writeln!(text, "ARG RUST_IMAGE=docker.io/library/rust:{toolchain}-bookworm\n")?;
    text.push_str("FROM ${RUST_IMAGE} AS build\n");
    text.push_str("# Set by the builder for the platform it builds for.\n");
    text.push_str("ARG TARGETARCH\n");
    text.push_str("WORKDIR /src\nCOPY . .\n");
    text.push_str(
        "# Named here, or rustup fetches what rust-toolchain.toml asks for besides: linters.\n",
    );
    writeln!(text, "ENV RUSTUP_TOOLCHAIN={toolchain}")?;
    writeln!(text, "ENV RUSTFLAGS=\"{RUST_FLAGS}\"")?;
    let mut packages: Vec<_> =
        manifest.targets.values().flat_map(|target| &target.packages).collect();
    packages.sort();
    packages.dedup();
    let packages: Vec<_> = packages.iter().map(|package| format!("-p {package}")).collect();
    text.push_str(
        "# A target is named, so that the flags are for what ships and not for build scripts.\n",
    );
    text.push_str("RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \\\n");
    text.push_str(
        "    --mount=type=cache,id=target-${TARGETARCH},target=/src/target,sharing=locked \\\n",
    );
    text.push_str("    set -eu; \\\n");
    text.push_str("    case \"${TARGETARCH:-$(dpkg --print-architecture)}\" in \\\n");
    for (architecture, triple) in TRIPLES {
        writeln!(text, "      {architecture}) triple={triple} ;; \\")?;
    }
    text.push_str("      *) echo \"${TARGETARCH}: no such architecture here\" >&2; exit 1 ;; \\\n");
    text.push_str("    esac; \\\n");
    writeln!(
        text,
        "    cargo build --locked --profile dist --target \"$triple\" {}; \\",
        packages.join(" ")
    )?;
    let mut binaries: Vec<_> = manifest
        .targets
        .values()
        .flat_map(|target| &target.files)
        .filter_map(|item| item.binary.as_deref())
        .collect();
    binaries.sort_unstable();
    binaries.dedup();
    text.push_str("    mkdir /out; \\\n");
    writeln!(
        text,
        "    for program in {}; do cp \"target/$triple/dist/$program\" /out/; done",
        binaries.join(" ")
    )?;
    for (name, target) in &manifest.targets {
        text.push_str("RUN set -eu; umask 022; \\\n");
        let mut lines = Vec::new();
        for item in manifest.items(target) {
            let (uid, gid) = manifest.owner(item);
            let path = &item.path;
            let owner = format!("-m {:04o} -o {uid} -g {gid}", item.mode);
            let from = match (&item.source, &item.binary) {
                (Some(source), _) => source.clone(),
                (_, Some(binary)) => format!("/out/{binary}"),
                _ => String::new(),
            };
            lines.push(if item.directory {
                format!("    install -d {owner} /rootfs/{name}{path}")
            } else {
                format!("    install -D {owner} {from} /rootfs/{name}{path}")
            });
        }
        writeln!(text, "{}", lines.join("; \\\n"))?;
    }
    for (name, target) in &manifest.targets {
        writeln!(text, "\nFROM scratch AS {name}")?;
        writeln!(text, "ARG VERSION={version}\nARG REVISION")?;
        for (label, value) in manifest.labels(target) {
            writeln!(text, "LABEL {label}={value:?}")?;
        }
        for label in ["version", "revision"] {
            let variable = label.to_uppercase();
            writeln!(text, "LABEL org.opencontainers.image.{label}=\"${{{variable}}}\"")?;
        }
        text.push_str("# Modes and owners come along.\n");
        writeln!(text, "COPY --from=build /rootfs/{name}/ /")?;
        writeln!(text, "ENV {SEARCH_PATH}")?;
        writeln!(text, "USER {}", manifest.user())?;
        writeln!(text, "WORKDIR {}", target.workdir)?;
        let ports: Vec<_> = target.ports.iter().map(u16::to_string).collect();
        writeln!(text, "EXPOSE {}", ports.join(" "))?;
        writeln!(text, "ENTRYPOINT {}", serde_json::json!(target.entrypoint))?;
    }
    Ok(())
}

/// Architectures, as engines name them, and Rust's names.
pub const TRIPLES: [(&str, &str); 2] =
    [("amd64", "x86_64-unknown-linux-gnu"), ("arm64", "aarch64-unknown-linux-gnu")];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_path_port_label_and_program_of_the_manifest_is_in_the_dockerfile() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let manifest = Manifest::read(root).unwrap();
        let text = render(&manifest, "1.95.0", "0.1.0");
        for (name, target) in &manifest.targets {
            let (_, stage) = text.split_once(&format!("FROM scratch AS {name}\n")).unwrap();
            let stage = stage.split("\nFROM ").next().unwrap();
            for item in manifest.items(target) {
                let mode = format!("-m {:04o} ", item.mode);
                let line = text
                    .lines()
                    .find(|line| {
                        line.trim_end_matches("; \\").ends_with(&format!("/{name}{}", item.path))
                    })
                    .unwrap_or_else(|| panic!("{name}: {} is not laid out", item.path));
                assert!(line.contains(&mode), "{line}");
            }
            for port in &target.ports {
                assert!(stage.contains(&port.to_string()), "{name}: port {port}");
            }
            for label in manifest.labels(target).keys() {
                assert!(stage.contains(&format!("LABEL {label}=")), "{name}: {label}");
            }
            assert!(stage.contains("USER 65532:65532\n"), "{name} does not run as root");
            assert!(stage.contains(&format!("WORKDIR {}\n", target.workdir)));
            assert!(stage.contains(&target.entrypoint[0]));
            for package in &target.packages {
                assert!(text.contains(&format!("-p {package}")));
            }
        }
    }

    /// Path → (mode, uid, gid); directories end in a slash.
    type Layout = std::collections::BTreeMap<String, (u32, u32, u32)>;

    fn on_disk(root: &Path, at: &Path, layout: &mut Layout) {
        use std::os::unix::fs::MetadataExt;
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let metadata = path.symlink_metadata().unwrap();
            let mut name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if metadata.is_dir() {
                name.push('/');
                on_disk(root, &path, layout);
            }
            layout.insert(name, (metadata.mode() & 0o7777, metadata.uid(), metadata.gid()));
        }
    }

    fn in_archive(archive: &[u8]) -> Layout {
        let mut layers = tar::Archive::new(archive);
        let blobs = layers.entries().unwrap().map(Result::unwrap);
        // The only blob that is a tar file is the layer.
        let mut largest = Vec::new();
        for mut blob in blobs {
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut blob, &mut bytes).unwrap();
            if bytes.len() > largest.len() {
                largest = bytes;
            }
        }
        let mut layer = tar::Archive::new(largest.as_slice());
        let entries = layer.entries().unwrap().map(Result::unwrap);
        entries
            .map(|entry| {
                let header = entry.header();
                let owner = (header.uid().unwrap() as u32, header.gid().unwrap() as u32);
                let path = entry.path().unwrap().to_string_lossy().into_owned();
                (path, (header.mode().unwrap(), owner.0, owner.1))
            })
            .collect()
    }

    /// Carries the Dockerfile's own `install` commands out, below a directory. Owners can be set by
    /// root alone: anybody else compares the rest.
    #[test]
    fn the_dockerfile_lays_out_what_the_archive_holds() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let manifest = Manifest::read(root).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let (rootfs, out) = (scratch.path().join("rootfs"), scratch.path().join("out"));
        std::fs::create_dir(&out).unwrap();
        let items = manifest.targets.values().flat_map(|target| &target.files);
        for binary in items.filter_map(|item| item.binary.as_ref()) {
            std::fs::write(out.join(binary), [0; 100_000]).unwrap();
        }
        let is_root = std::os::unix::fs::MetadataExt::uid(&scratch.path().metadata().unwrap()) == 0;
        let text = render(&manifest, "1.95.0", "0.1.0");
        let mut laid_out = 0;
        for run in text.split("\nRUN ").filter(|run| run.starts_with("set -eu; umask 022;")) {
            let commands = run.split("\n\n").next().unwrap();
            let mut script = commands
                .replace("/rootfs/", &format!("{}/", rootfs.display()))
                .replace("/out/", &format!("{}/", out.display()));
            if !is_root {
                script = script.replace("-o 0 -g 0 ", "").replace("-o 65532 -g 65532 ", "");
            }
            let status =
                std::process::Command::new("sh").arg("-c").arg(&script).current_dir(root).status();
            assert!(status.unwrap().success(), "{script}");
            laid_out += 1;
        }
        assert_eq!(laid_out, manifest.targets.len());
        for name in manifest.targets.keys() {
            let build = crate::Build {
                root,
                binaries: &out,
                architecture: "amd64",
                version: "0.1.0",
                revision: "",
                created_s: 0,
            };
            let mut archive = Vec::new();
            manifest.image(name, build).unwrap().write("a:1", &mut archive).unwrap();
            let mut archive = in_archive(&archive);
            let mut disk = Layout::new();
            on_disk(&rootfs.join(name), &rootfs.join(name), &mut disk);
            if !is_root {
                for layout in [&mut archive, &mut disk] {
                    layout.values_mut().for_each(|(_, uid, gid)| (*uid, *gid) = (0, 0));
                }
            }
            assert_eq!(disk, archive, "{name}");
        }
    }
}
