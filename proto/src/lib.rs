//! The language of MetaStore: every message it speaks or keeps, and no logic.
//!
//! Three kinds of promise live here, and each module makes exactly one of them.
//!
//! * **etcd's wire**: [`etcdserverpb`], [`mvccpb`], [`authpb`], [`v3lockpb`], [`v3electionpb`] and
//!   gRPC's own [`health`]. Packages, names, numbers and types are etcd's and must stay equal to
//!   etcd's; `tests/golden/etcd.txt` records them as the real descriptors have them.
//! * **Our disks**: [`log`]. Entries and snapshot manifests outlive the program that wrote them, so
//!   a field keeps its number and meaning for ever and a retired one is reserved.
//!   `tests/disk_format.rs` pins the bytes. A [`log::Command`] embeds etcd's request messages,
//!   whose encoding is therefore disk-stable too.
//! * **Our own wire**: [`peer`] between members and [`admin`] towards tools. Fields may be added; two
//!   neighbouring releases must understand each other, since a cluster is upgraded member by member.
//!
//! All `bytes` fields are [`bytes::Bytes`], so a key or value cut out of a received frame shares its
//! memory; whoever keeps a small piece for long should copy it. Maps are `BTreeMap`s: equal messages
//! encode to equal bytes on every member. Encoding is by ascending field number with defaults left
//! out; a decoder skips fields it does not know and does **not** keep them, so nothing may be decoded
//! and encoded again on its way to a disk.
//!
//! Stubs for gRPC clients and servers (`etcdserverpb::kv_client`, `peer::peer_server`, …) exist only
//! with the `services` feature; `tuning`, the one thing here that is not generated, with the feature of
//! that name. The pure rooms below the shell leave it off and link no network code.

#[cfg(feature = "tuning")]
pub mod tuning;

/// One generated package as a module.
macro_rules! package {
    ($(#[$doc:meta])* $name:ident, $file:literal) => {
        $(#[$doc])*
        #[allow(
            missing_docs,
            unreachable_pub,
            unused_qualifications,
            clippy::all,
            clippy::allow_attributes_without_reason,
            clippy::cast_lossless,
            clippy::clone_on_ref_ptr,
            clippy::needless_pass_by_value,
            clippy::str_to_string,
            clippy::wildcard_imports,
            reason = "generated code; the .proto files are the documentation"
        )]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $file, ".rs"));
        }
    };
}

package! {
    /// etcd v3's client API: KV, Watch, Lease, Cluster, Maintenance and Auth (`etcd/rpc.proto`).
    etcdserverpb, "etcdserverpb"
}
package! {
    /// Keys as they stand and events that changed them (`etcd/kv.proto`).
    mvccpb, "mvccpb"
}
package! {
    /// Users, roles and permissions (`etcd/auth.proto`).
    authpb, "authpb"
}
package! {
    /// etcd's lock service (`etcd/v3lock.proto`).
    v3lockpb, "v3lockpb"
}
package! {
    /// etcd's election service (`etcd/v3election.proto`).
    v3electionpb, "v3electionpb"
}

// Generated code names other packages by their full path, so the nesting of packages is kept here
// and the short names are given below.
mod grpc {
    pub(crate) mod health {
        package! {
            /// gRPC's standard health service (`etcd/health.proto`).
            v1, "grpc.health.v1"
        }
    }
}
mod metastore {
    pub(crate) mod log {
        package! {
            /// What log entries and snapshot manifests contain; disk-stable (`metastore/log.proto`).
            v1, "metastore.log.v1"
        }
    }
    pub(crate) mod peer {
        package! {
            /// What members say to each other (`metastore/peer.proto`).
            v1, "metastore.peer.v1"
        }
    }
    pub(crate) mod admin {
        package! {
            /// What a member observes of itself and its peers (`metastore/admin.proto`).
            v1, "metastore.admin.v1"
        }
    }
}

pub use grpc::health::v1 as health;
pub use metastore::admin::v1 as admin;
pub use metastore::log::v1 as log;
pub use metastore::peer::v1 as peer;
