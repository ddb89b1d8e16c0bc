//! What the container images hold, and how they are built without a container engine.
//!
//! `images/manifest.toml` lists every file, mode, port and label once. [`Manifest`] reads it;
//! [`dockerfile::render`] makes the Dockerfile of it, for those who have an engine and a registry;
//! [`Manifest::image`] makes an [`Image`] of it and of binaries built before, and [`Image::write`]
//! puts that into an archive which `docker load`, `podman load`, `ctr images import` and
//! `kind load image-archive` take. [`Image`] knows nothing of the manifest: a test that needs a pause
//! image writes one with it.
//!
//! Everything is deterministic: the same files give the same bytes, so the same digest. That is why
//! there is no compression (it differs from one release of a library to the next; registries and
//! engines compress on their own) and why times come from the caller.

mod archive;
pub mod dockerfile;
mod manifest;

pub use archive::{Content, Digest, Entry, Image, canonical_json};
pub use manifest::{Build, Manifest, Target};
