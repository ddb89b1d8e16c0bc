//! The log, the store behind it, and the disk below both.

use super::super::panel::{Board, ask, heat, lines, quantile, row, stat};
use super::{MEMBERS_OF, POD, gauge_of_cluster, gauge_of_each, rate_of_each};

#[allow(clippy::too_many_lines, reason = "a list")]
pub(super) fn board() -> Board {
    let syncs = "etcd_disk_wal_fsync_duration_seconds";
    Board {
        uid: "metastore-storage",
        title: "MetaStore / Storage and log",
        about: "How the disk keeps up, and what lies on it.",
        pods_of: MEMBERS_OF,
        panels: vec![
            stat(
                "Quota used",
                "What lives in the store, as a share of the quota; at all of it writes are refused.",
                "percentunit",
                "metastore-quota-nearly-full",
                vec![ask(
                    "max by (@C) (etcd_mvcc_db_total_size_in_use_in_bytes{@S}) / min by (@C) \
                     (etcd_server_quota_backend_bytes{@S})",
                    "{{namespace}}/{{cluster}}",
                )],
            )
            .steps("green", &[(0.8, "orange"), (0.95, "red")])
            .size(6, 4),
            stat(
                "Longest sync under way",
                "Age of a sync of the log that has not ended; 0: none is under way.",
                "s",
                "metastore-disk-stalled",
                gauge_of_cluster("metastore_wal_sync_pending_seconds"),
            )
            .steps("green", &[(0.3, "orange"), (1.0, "red")])
            .size(6, 4),
            stat(
                "Keys",
                "Keys that live.",
                "short",
                "metastore-quota-nearly-full",
                gauge_of_cluster("etcd_debugging_mvcc_keys_total"),
            )
            .size(6, 4),
            stat(
                "Stores rebuilt at start",
                "Members whose store on disk was in doubt when they started, and that built it anew from snapshot and log.",
                "short",
                "metastore-store-rebuilt",
                vec![ask(
                    "sum by (@C) (metastore_hash_check_total{result=\"mismatch\", @S})",
                    "{{namespace}}/{{cluster}}",
                )],
            )
            .steps("green", &[(1.0, "red")])
            .size(6, 4),
            row("Log"),
            lines(
                "Syncs of the log",
                "99 of 100 syncs of the log are shorter.",
                "s",
                "metastore-disk-slow",
                vec![ask(&quantile("0.99", "@P", syncs, ""), POD)],
            )
            .steps("green", &[(0.1, "red")]),
            heat(
                "All syncs",
                "How long syncs of the log take.",
                "s",
                "metastore-disk-slow",
                "sum by (le) (increase(etcd_disk_wal_fsync_duration_seconds_bucket{@S}[@W]))",
            ),
            lines(
                "Sync under way",
                "Age of the sync that has not ended: a disk that stands still shows here before its sync ends.",
                "s",
                "metastore-disk-stalled",
                gauge_of_each("metastore_wal_sync_pending_seconds"),
            ),
            lines(
                "Writes that share a sync",
                "Commands that one sync made durable, on average. 1 with one writer, ten and more under load.",
                "short",
                "metastore-disk-slow",
                vec![ask(
                    "sum by (@P) (rate(metastore_log_commands_total{@S}[@W])) / sum by (@P) \
                     (rate(metastore_log_syncs_total{@S}[@W]))",
                    POD,
                )],
            ),
            lines(
                "Written to the log",
                "Bytes of the log that were made durable.",
                "Bps",
                "metastore-disk-slow",
                rate_of_each("metastore_log_synced_bytes_total"),
            ),
            lines(
                "Entries in one sync",
                "99 of 100 syncs make fewer entries durable.",
                "short",
                "metastore-disk-slow",
                vec![ask(&quantile("0.99", "@P", "metastore_wal_batch_entries", ""), POD)],
            ),
            lines(
                "Size of the log",
                "Bytes of the log on disk, and of its entries in memory.",
                "bytes",
                "metastore-member-lagging",
                vec![
                    ask("max by (@P) (metastore_wal_bytes{@S})", "{{namespace}}/{{cluster}}/{{pod}} on disk"),
                    ask("max by (@P) (metastore_log_memory_bytes{@S})", "{{namespace}}/{{cluster}}/{{pod}} in memory"),
                ],
            ),
            lines(
                "Files of the log",
                "Segments of the log on disk.",
                "short",
                "metastore-member-lagging",
                gauge_of_each("metastore_wal_segments"),
            ),
            lines(
                "Entries kept",
                "Entries of the log that are still there: from the first to the last that was applied.",
                "short",
                "metastore-member-lagging",
                vec![ask(
                    "max by (@P) (etcd_server_proposals_applied_total{@S}) - max by (@P) \
                     (metastore_raft_first_index{@S})",
                    POD,
                )],
            ),
            row("Store"),
            lines(
                "Size of the store",
                "What lives in the store, its files on disk, and the quota of what lives.",
                "bytes",
                "etcd-database-high-fragmentation-ratio",
                vec![
                    ask("max by (@P) (etcd_mvcc_db_total_size_in_use_in_bytes{@S})", "{{namespace}}/{{cluster}}/{{pod}} in use"),
                    ask("max by (@P) (etcd_mvcc_db_total_size_in_bytes{@S})", "{{namespace}}/{{cluster}}/{{pod}} on disk"),
                    ask("min by (@C) (etcd_server_quota_backend_bytes{@S})", "{{namespace}}/{{cluster}} quota"),
                ],
            ),
            lines(
                "Commits of the store",
                "99 of 100 commits of the store on disk are shorter. Nobody waits for them: the log is what \
                 makes writes durable.",
                "s",
                "etcd-high-commit-durations",
                vec![ask(
                    &quantile("0.99", "@P", "etcd_disk_backend_commit_duration_seconds", ""),
                    POD,
                )],
            ),
            lines(
                "Revisions kept",
                "Revisions since the last compaction: history that can be read, and takes memory.",
                "short",
                "metastore-quota-nearly-full",
                vec![ask(
                    "max by (@P) (etcd_debugging_mvcc_current_revision{@S}) - max by (@P) \
                     (etcd_debugging_mvcc_compact_revision{@S})",
                    POD,
                )],
            ),
            lines(
                "Snapshots",
                "Bytes of the newest snapshot of each member.",
                "bytes",
                "metastore-member-lagging",
                gauge_of_each("metastore_snapshot_bytes"),
            ),
            lines(
                "Entries since the snapshot",
                "Entries that were applied after those the newest snapshot holds: what a start replays.",
                "short",
                "metastore-member-lagging",
                vec![ask(
                    "max by (@P) (etcd_server_proposals_applied_total{@S}) - max by (@P) \
                     (metastore_snapshot_index{@S})",
                    POD,
                )],
            ),
            lines(
                "Stores looked at, at start",
                "What members that started found of their store on disk: ok, or a mismatch, and it was built anew.",
                "short",
                "metastore-store-rebuilt",
                vec![ask(
                    "sum by (@C, result) (metastore_hash_check_total{@S})",
                    "{{namespace}}/{{cluster}} {{result}}",
                )],
            ),
            lines(
                "What starts found",
                "Ends of the log that were torn by a power cut, entries that were mended, and stores that were \
                 built anew, since members began.",
                "short",
                "metastore-store-rebuilt",
                vec![
                    ask("max by (@P) (metastore_wal_torn_tail_total{@S})", "{{namespace}}/{{cluster}}/{{pod}} torn"),
                    ask("max by (@P) (metastore_wal_repaired_entries_total{@S})", "{{namespace}}/{{cluster}}/{{pod}} mended"),
                    ask("max by (@P) (metastore_statestore_rebuild_total{@S})", "{{namespace}}/{{cluster}}/{{pod}} built anew"),
                ],
            ),
            lines(
                "Files open",
                "File descriptors in use, as a share of those allowed.",
                "percentunit",
                "README",
                vec![ask("max by (@P) (os_fd_used{@S}) / max by (@P) (os_fd_limit{@S})", POD)],
            ),
            lines(
                "Slow applies",
                "Applies that took longer than --warning-apply-duration.",
                "cps",
                "metastore-cpu-starved",
                rate_of_each("etcd_server_slow_apply_total"),
            ),
        ],
    }
}
