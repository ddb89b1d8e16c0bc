# Written by `cargo xtask gen` from images/manifest.toml, which says what is in here and why.
#
#   docker build --target operator --tag metastore-operator:TAG .
#   docker build --target server --tag metastore-server:TAG .
#
# Without Docker: cargo xtask image

ARG RUST_IMAGE=docker.io/library/rust:1.95.0-bookworm

FROM ${RUST_IMAGE} AS build
# Set by the builder for the platform it builds for.
ARG TARGETARCH
WORKDIR /src
COPY . .
# Named here, or rustup fetches what rust-toolchain.toml asks for besides: linters.
ENV RUSTUP_TOOLCHAIN=1.95.0
ENV RUSTFLAGS="-C target-feature=+crt-static -C strip=debuginfo"
# A target is named, so that the flags are for what ships and not for build scripts.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,id=target-${TARGETARCH},target=/src/target,sharing=locked \
    set -eu; \
    case "${TARGETARCH:-$(dpkg --print-architecture)}" in \
      amd64) triple=x86_64-unknown-linux-gnu ;; \
      arm64) triple=aarch64-unknown-linux-gnu ;; \
      *) echo "${TARGETARCH}: no such architecture here" >&2; exit 1 ;; \
    esac; \
    cargo build --locked --profile dist --target "$triple" -p metactl -p operator -p server; \
    mkdir /out; \
    for program in metactl metastore metastore-operator; do cp "target/$triple/dist/$program" /out/; done
RUN set -eu; umask 022; \
    install -D -m 0644 -o 0 -g 0 images/etc/passwd /rootfs/operator/etc/passwd; \
    install -D -m 0644 -o 0 -g 0 images/etc/group /rootfs/operator/etc/group; \
    install -D -m 0644 -o 0 -g 0 images/etc/nsswitch.conf /rootfs/operator/etc/nsswitch.conf; \
    install -D -m 0644 -o 0 -g 0 LICENSE /rootfs/operator/usr/share/doc/metastore/LICENSE; \
    install -d -m 1777 -o 0 -g 0 /rootfs/operator/tmp; \
    install -D -m 0755 -o 0 -g 0 /out/metastore-operator /rootfs/operator/usr/local/bin/metastore-operator
RUN set -eu; umask 022; \
    install -D -m 0644 -o 0 -g 0 images/etc/passwd /rootfs/server/etc/passwd; \
    install -D -m 0644 -o 0 -g 0 images/etc/group /rootfs/server/etc/group; \
    install -D -m 0644 -o 0 -g 0 images/etc/nsswitch.conf /rootfs/server/etc/nsswitch.conf; \
    install -D -m 0644 -o 0 -g 0 LICENSE /rootfs/server/usr/share/doc/metastore/LICENSE; \
    install -d -m 1777 -o 0 -g 0 /rootfs/server/tmp; \
    install -D -m 0755 -o 0 -g 0 /out/metastore /rootfs/server/usr/local/bin/metastore; \
    install -D -m 0755 -o 0 -g 0 /out/metactl /rootfs/server/usr/local/bin/metactl; \
    install -d -m 0700 -o 65532 -g 65532 /rootfs/server/var/lib/metastore

FROM scratch AS operator
ARG VERSION=0.1.0
ARG REVISION
LABEL org.opencontainers.image.description="Runs MetaStore clusters on Kubernetes"
LABEL org.opencontainers.image.licenses="Apache-2.0"
LABEL org.opencontainers.image.title="metastore-operator"
LABEL org.opencontainers.image.vendor="MetaStore"
LABEL org.opencontainers.image.version="${VERSION}"
LABEL org.opencontainers.image.revision="${REVISION}"
# Modes and owners come along.
COPY --from=build /rootfs/operator/ /
ENV PATH=/usr/local/bin
USER 65532:65532
WORKDIR /
EXPOSE 8080
ENTRYPOINT ["/usr/local/bin/metastore-operator"]

FROM scratch AS server
ARG VERSION=0.1.0
ARG REVISION
LABEL org.opencontainers.image.description="A metadata store that speaks etcd's v3 API: one member of a cluster, and metactl"
LABEL org.opencontainers.image.licenses="Apache-2.0"
LABEL org.opencontainers.image.title="metastore-server"
LABEL org.opencontainers.image.vendor="MetaStore"
LABEL org.opencontainers.image.version="${VERSION}"
LABEL org.opencontainers.image.revision="${REVISION}"
# Modes and owners come along.
COPY --from=build /rootfs/server/ /
ENV PATH=/usr/local/bin
USER 65532:65532
WORKDIR /var/lib/metastore
EXPOSE 2379 2380 2381
ENTRYPOINT ["/usr/local/bin/metastore"]
