//! The language of the golden scripts: one command a line, words between blanks.
//!
//! `''` is the empty string and `\0` a zero byte. Txns: `txn if COMPARE … then OP ; OP else OP`, a
//! compare being `version(KEY)=1` or `value(KEY..END)<x`, a nested txn `( if … then … else … )`.

use std::fmt::Write;

use crate::apart;
use proto::etcdserverpb::alarm_request::AlarmAction;
use proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use proto::etcdserverpb::request_op::Request;
use proto::etcdserverpb::response_op::Response as OpResponse;
use proto::etcdserverpb::{
    AlarmRequest, AlarmType, CompactionRequest, Compare, DeleteRangeRequest, DeleteRangeResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader, TxnRequest,
    TxnResponse,
};
use proto::log::command::Op;
use proto::log::membership_change::Kind;
use proto::log::{
    ClusterVersionSet, Command, LeaseCheckpoint, LeaseGrant, LeaseRevoke, Member, MemberPublish,
    MemberUpdate, MembershipChange, lease_checkpoint,
};
use proto::mvccpb::KeyValue;
use state::{KeyRange, LeaseChange, Limits, Outcome, Response, State, StateError, check, txn};

/// A state and how far its log has come.
pub(crate) struct Session {
    state: State,
    index: u64,
}

type Answer = Result<Vec<String>, StateError>;

impl Session {
    /// An empty state, with its values in the trees or apart from them.
    pub(crate) fn new(is_apart: bool) -> Self {
        Self { state: apart::state(Limits::default(), is_apart), index: 0 }
    }

    /// Runs one line.
    pub(crate) fn run(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let lines = match self.answer(&words) {
            Ok(lines) => lines,
            Err(error) => vec![format!("error: {error}")],
        };
        // Many equal lines in a row are told as one.
        let mut told = Vec::new();
        for equal in lines.chunk_by(|a, b| a == b) {
            let line = equal[0].trim_end();
            told.push(match equal.len() {
                1 => line.to_owned(),
                times => format!("{line} ({times} times)"),
            });
        }
        told
    }

    fn answer(&mut self, words: &[&str]) -> Answer {
        let (verb, rest) = words.split_first().expect("a command has a verb");
        match *verb {
            "put" => self.apply(Op::Put(put(rest))),
            "del" => self.apply(Op::DeleteRange(delete(rest))),
            "get" => Ok(range_lines(&self.state.publish().range(&range(rest))?)),
            "page" => self.pages(rest),
            "txn" => {
                let request = Words(rest).txn();
                check::txn(&request, self.state.limits().txn_ops_max)?;
                if txn::is_read_only(&request) {
                    return Ok(txn_lines(&self.state.publish().txn_read_only(&request)?));
                }
                self.apply(Op::Txn(request))
            }
            "compact" => self.apply(Op::Compact(CompactionRequest {
                revision: number(rest[0]),
                physical: false,
            })),
            "sweep" => {
                while self.state.sweep(1) {}
                Ok(Vec::new())
            }
            "records" => {
                let view = self.state.publish();
                Ok(view.records().map(|record| format!("{record:?}")).collect())
            }
            "events" => self.events(rest),
            "size" => {
                let view = self.state.publish();
                let (kept, live) = (view.size_bytes(), view.size_in_use_bytes());
                Ok(vec![format!("{kept} bytes, {live} live, {} keys", view.keys_total())])
            }
            "quota" => {
                let limits = Limits { quota_bytes: number(rest[0]), ..Limits::default() };
                let parts = self.state.publish().parts();
                self.state = apart::restored(parts, limits, &self.state);
                Ok(Vec::new())
            }
            "fits" => {
                let cost = check::put_quota_cost(&put(rest));
                let fits = self.state.publish().has_quota_for(cost);
                Ok(vec![format!("costs {cost}, {}", if fits { "fits" } else { "does not fit" })])
            }
            "grant" => {
                let ttl = check::lease_ttl(number(rest[1]), self.state.limits().lease_ttl_min)?;
                self.apply(Op::LeaseGrant(LeaseGrant { id: number(rest[0]), ttl }))
            }
            "revoke" => {
                self.apply(Op::LeaseRevoke(LeaseRevoke { id: number(rest[0]), expired: false }))
            }
            "expire" => {
                self.apply(Op::LeaseRevoke(LeaseRevoke { id: number(rest[0]), expired: true }))
            }
            "checkpoint" => {
                let items = rest.chunks(2).map(|item| lease_checkpoint::Item {
                    id: number(item[0]),
                    remaining_ttl: number(item[1]),
                });
                self.apply(Op::LeaseCheckpoint(LeaseCheckpoint { items: items.collect() }))
            }
            "leases" => Ok(self.leases()),
            "alarm" => self.apply(Op::Alarm(alarm(rest))),
            "member" => self.member(rest),
            "restart" => {
                let parts = self.state.publish().parts();
                let limits = *self.state.limits();
                self.state = apart::restored(parts, limits, &self.state);
                Ok(Vec::new())
            }
            "nothing" => {
                self.index += 1;
                let outcome = self.state.apply(self.index, 1, &Command::default());
                outcome_lines(outcome)
            }
            verb => panic!("there is no command {verb}"),
        }
    }

    fn apply(&mut self, op: Op) -> Answer {
        self.index += 1;
        outcome_lines(self.state.apply(self.index, 1, &Command { id: None, op: Some(op) }))
    }

    fn pages(&mut self, words: &[&str]) -> Answer {
        let request = range(&words[1..]);
        let keys = KeyRange::new(&request.key, &request.range_end);
        let view = self.state.publish();
        let (mut lines, mut from) = (Vec::new(), None::<Vec<u8>>);
        let size = usize::try_from(number(words[0])).expect("a size of pages");
        loop {
            let page =
                view.range_page(keys, request.revision, from.as_deref(), size, usize::MAX)?;
            let keys: Vec<String> = page.records.iter().map(|record| shown(record.key())).collect();
            lines.push(format!("page {}", keys.join(" ")));
            from = page.next_key;
            if from.is_none() {
                break;
            }
        }
        let summary = view.range_summary(&request)?;
        lines.extend(range_lines(&summary));
        Ok(lines)
    }

    fn events(&mut self, words: &[&str]) -> Answer {
        let range_end = words.get(2).map(|end| bytes(end)).unwrap_or_default();
        let view = self.state.publish();
        let page = view.events(number(words[0]), &bytes(words[1]), &range_end, 100, 1 << 20)?;
        let mut lines: Vec<String> = Vec::new();
        for event in page.events {
            let kind = if event.record.is_tombstone() { "DELETE" } else { "PUT" };
            let whole = |record: &state::Record| view.values().key_value(record);
            let mut line = format!("{kind} {}", kv(&whole(&event.record)));
            if let Some(prev) = event.prev {
                _ = write!(line, " before: {}", kv(&whole(&prev)));
            }
            lines.push(line);
        }
        lines.push(format!("next {}", page.next_revision));
        Ok(lines)
    }

    fn leases(&mut self) -> Vec<String> {
        let view = self.state.publish();
        view.leases()
            .map(|lease| {
                let keys: Vec<String> =
                    view.lease_keys(lease.id).iter().map(|key| shown(key)).collect();
                let (id, granted, left) = (lease.id, lease.granted_ttl, lease.remaining_ttl);
                format!("lease {id} granted {granted} s, {left} s left, keys [{}]", keys.join(" "))
            })
            .collect()
    }

    fn member(&mut self, words: &[&str]) -> Answer {
        let urls = |words: &[&str]| -> Vec<String> {
            words.iter().map(|word| (*word).to_owned()).collect()
        };
        let id = words.get(1).and_then(|id| id.parse().ok()).unwrap_or_default();
        let kind = match words[0] {
            "list" => {
                let view = self.state.publish();
                let mut lines = member_lines(&view.members());
                lines.extend(view.cluster_version().map(|version| format!("cluster {version}")));
                for member in view.members() {
                    let version = view.member_version(member.id);
                    lines.extend(version.map(|version| format!("{} runs {version}", member.id)));
                }
                return Ok(lines);
            }
            "publish" => {
                return self.apply(Op::MemberPublish(MemberPublish {
                    member_id: id,
                    name: words[2].to_owned(),
                    client_urls: urls(&words[3..]),
                    version: "0.1.0".to_owned(),
                }));
            }
            "update" => {
                let peer_urls = urls(&words[2..]);
                return self.apply(Op::MemberUpdate(MemberUpdate { member_id: id, peer_urls }));
            }
            "version" => {
                let version = words[1].to_owned();
                return self.apply(Op::ClusterVersionSet(ClusterVersionSet { version }));
            }
            "add" => Kind::AddVoter,
            "learner" => Kind::AddLearner,
            "promote" => Kind::Promote,
            "remove" => Kind::Remove,
            verb => panic!("there is no command member {verb}"),
        };
        self.index += 1;
        let member = Member { id, peer_urls: urls(&words[2..]), ..Member::default() };
        let change = MembershipChange { id: None, kind: kind as i32, member: Some(member) };
        let checked = self.state.publish().check_membership(&change);
        let members = self.state.apply_membership(self.index, 1, &change);
        assert_eq!(checked.err(), members.as_ref().err().copied(), "asked before, answered alike");
        Ok(member_lines(&members?))
    }
}

fn outcome_lines(outcome: Outcome) -> Answer {
    let mut lines = match outcome.result? {
        Response::Put(response) => put_lines(&response),
        Response::DeleteRange(response) => delete_lines(&response),
        Response::Txn(response) => txn_lines(&response),
        Response::Compact(response) => vec![rev(response.header.as_ref())],
        Response::LeaseGrant(response) => {
            vec![format!(
                "{} lease {} for {} s",
                rev(response.header.as_ref()),
                response.id,
                response.ttl
            )]
        }
        Response::LeaseRevoke(response) => vec![rev(response.header.as_ref())],
        Response::LeaseCheckpoint(response) => vec![rev(response.header.as_ref())],
        Response::Alarm(response) => {
            let alarms = response.alarms.iter();
            alarms
                .map(|alarm| format!("member {} {}", alarm.member_id, alarm.alarm().as_str_name()))
                .collect()
        }
        Response::Members(members) => member_lines(&members),
        Response::ClusterVersion | Response::Tuning { .. } => Vec::new(),
    };
    for change in outcome.leases {
        lines.push(match change {
            LeaseChange::Granted { id, ttl } => format!("lease {id} granted for {ttl} s"),
            LeaseChange::Revoked { id } => format!("lease {id} revoked"),
            LeaseChange::Checkpointed { id, remaining_ttl } => {
                format!("lease {id} has {remaining_ttl} s left")
            }
        });
    }
    if outcome.over_quota {
        lines.push("over quota".to_owned());
    }
    Ok(lines)
}

fn rev(header: Option<&ResponseHeader>) -> String {
    let header = header.expect("every answer has a header");
    format!("rev {}", header.revision)
}

fn put_lines(response: &PutResponse) -> Vec<String> {
    let mut line = rev(response.header.as_ref());
    if let Some(prev) = &response.prev_kv {
        _ = write!(line, " before: {}", kv(prev));
    }
    vec![line]
}

fn delete_lines(response: &DeleteRangeResponse) -> Vec<String> {
    let mut lines = vec![format!("{} deleted {}", rev(response.header.as_ref()), response.deleted)];
    lines.extend(response.prev_kvs.iter().map(kv));
    lines
}

fn range_lines(response: &RangeResponse) -> Vec<String> {
    let more = if response.more { " more" } else { "" };
    let mut lines =
        vec![format!("{} count {}{more}", rev(response.header.as_ref()), response.count)];
    lines.extend(response.kvs.iter().map(kv));
    lines
}

fn txn_lines(response: &TxnResponse) -> Vec<String> {
    let succeeded = if response.succeeded { "then" } else { "else" };
    let mut lines = vec![format!("{} {succeeded}", rev(response.header.as_ref()))];
    for op in &response.responses {
        let inner = match op.response.as_ref().expect("every operation is answered") {
            OpResponse::ResponsePut(put) => put_lines(put),
            OpResponse::ResponseDeleteRange(delete) => delete_lines(delete),
            OpResponse::ResponseRange(range) => range_lines(range),
            OpResponse::ResponseTxn(txn) => txn_lines(txn),
        };
        for (at, line) in inner.iter().enumerate() {
            let mark = if at == 0 { "- " } else { "  " };
            lines.push(format!("{mark}{line}"));
        }
    }
    lines
}

fn member_lines(members: &[Member]) -> Vec<String> {
    let line = |member: &Member| {
        let learner = if member.is_learner { " learner" } else { "" };
        let (peers, clients) = (member.peer_urls.join(","), member.client_urls.join(","));
        format!(
            "member {} name '{}' peers {peers} clients {clients}{learner}",
            member.id, member.name
        )
    };
    members.iter().map(line).collect()
}

fn kv(kv: &KeyValue) -> String {
    let mut line = format!("{}={}", shown(&kv.key), shown(&kv.value));
    let fields = [
        ("create", kv.create_revision),
        ("mod", kv.mod_revision),
        ("version", kv.version),
        ("lease", kv.lease),
    ];
    for (name, value) in fields {
        if value != 0 {
            _ = write!(line, " {name} {value}");
        }
    }
    line
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\x00", "\\0")
}

fn bytes(word: &str) -> Vec<u8> {
    if word == "''" { Vec::new() } else { word.replace("\\0", "\0").into_bytes() }
}

fn number(word: &str) -> i64 {
    word.parse().unwrap_or_else(|_| panic!("{word} is not a number"))
}

/// `(name, value)` of an option, `None` for a plain word.
fn option(word: &str) -> Option<(&str, &str)> {
    const NAMES: [&str; 12] = [
        "lease",
        "rev",
        "limit",
        "sort",
        "min-mod",
        "max-mod",
        "min-create",
        "max-create",
        "value",
        "order",
        "target",
        "serializable",
    ];
    let (name, value) = word.split_once('=')?;
    NAMES.contains(&name).then_some((name, value))
}

fn put(words: &[&str]) -> PutRequest {
    let mut request = PutRequest { key: bytes(words[0]).into(), ..PutRequest::default() };
    for word in &words[1..] {
        match (option(word), *word) {
            (Some(("lease", id)), _) => request.lease = number(id),
            (_, "prev") => request.prev_kv = true,
            (_, "ignore-value") => request.ignore_value = true,
            (_, "ignore-lease") => request.ignore_lease = true,
            (_, value) => request.value = bytes(value).into(),
        }
    }
    request
}

fn delete(words: &[&str]) -> DeleteRangeRequest {
    let plain: Vec<&&str> = words.iter().filter(|word| **word != "prev").collect();
    DeleteRangeRequest {
        key: bytes(plain[0]).into(),
        range_end: plain.get(1).map(|end| bytes(end)).unwrap_or_default().into(),
        prev_kv: plain.len() < words.len(),
    }
}

fn range(words: &[&str]) -> RangeRequest {
    let mut request = RangeRequest { key: bytes(words[0]).into(), ..RangeRequest::default() };
    for word in &words[1..] {
        match (option(word), *word) {
            (Some(("rev", revision)), _) => request.revision = number(revision),
            (Some(("limit", limit)), _) => request.limit = number(limit),
            (Some(("min-mod", revision)), _) => request.min_mod_revision = number(revision),
            (Some(("max-mod", revision)), _) => request.max_mod_revision = number(revision),
            (Some(("min-create", revision)), _) => request.min_create_revision = number(revision),
            (Some(("max-create", revision)), _) => request.max_create_revision = number(revision),
            (Some(("order", order)), _) => {
                request.sort_order = SortOrder::from_str_name(order)
                    .map_or_else(|| number(order) as i32, |order| order as i32);
            }
            (Some(("target", target)), _) => {
                request.sort_target = SortTarget::from_str_name(target)
                    .map_or_else(|| number(target) as i32, |target| target as i32);
            }
            (_, "keys-only") => request.keys_only = true,
            (_, "count-only") => request.count_only = true,
            (_, end) => request.range_end = bytes(end).into(),
        }
    }
    request
}

fn alarm(words: &[&str]) -> AlarmRequest {
    let action = match words[0] {
        "raise" => AlarmAction::Activate,
        "lower" => AlarmAction::Deactivate,
        "list" => AlarmAction::Get,
        verb => panic!("there is no command alarm {verb}"),
    };
    let kind = words.get(1).map_or(AlarmType::None, |kind| {
        AlarmType::from_str_name(kind).unwrap_or_else(|| panic!("there is no alarm {kind}"))
    });
    let member_id = words.get(2).map(|id| number(id) as u64).unwrap_or_default();
    AlarmRequest { action: action as i32, member_id, alarm: kind as i32 }
}

/// What is left of a txn's words.
struct Words<'a>(&'a [&'a str]);

impl<'a> Words<'a> {
    /// `[if COMPARE…] [then OP ; OP…] [else OP ; OP…]`, up to a closing bracket or the end.
    fn txn(&mut self) -> TxnRequest {
        let mut txn = TxnRequest::default();
        while let Some((part, rest)) = self.0.split_first() {
            self.0 = rest;
            match *part {
                "if" => {
                    while let Some((word, rest)) = self.0.split_first() {
                        if matches!(*word, "then" | "else" | ")") {
                            break;
                        }
                        txn.compare.push(compare(word));
                        self.0 = rest;
                    }
                }
                "then" => txn.success = self.ops(),
                "else" => txn.failure = self.ops(),
                ")" => break,
                word => panic!("{word} in a txn"),
            }
        }
        txn
    }

    fn ops(&mut self) -> Vec<RequestOp> {
        let mut ops = Vec::new();
        loop {
            let end = self.0.iter().position(|word| matches!(*word, ";" | "else" | ")" | "("));
            let (words, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
            self.0 = rest;
            if let Some((verb, rest)) = words.split_first() {
                let op = match *verb {
                    "put" => Some(Request::RequestPut(put(rest))),
                    "get" => Some(Request::RequestRange(range(rest))),
                    "del" => Some(Request::RequestDeleteRange(delete(rest))),
                    "nothing" => None,
                    "puts" => {
                        // Many puts, to reach limits: `puts 3 key` is key0, key1, key2.
                        let keys = (0..number(rest[0])).map(|at| format!("{}{at}", rest[1]));
                        ops.extend(keys.map(|key| Some(Request::RequestPut(put(&[&key, "x"])))));
                        ops.pop().expect("at least one")
                    }
                    verb => panic!("{verb} in a txn"),
                };
                ops.push(op);
            }
            match self.0.split_first() {
                Some((&";", rest)) => self.0 = rest,
                Some((&"(", rest)) => {
                    self.0 = rest;
                    ops.push(Some(Request::RequestTxn(self.txn())));
                }
                _ => break,
            }
        }
        ops.into_iter().map(|request| RequestOp { request }).collect()
    }
}

/// `target(KEY)=operand` or `target(KEY..END)=operand`; `=`, `!`, `<` or `>`.
fn compare(word: &str) -> Compare {
    let (target, rest) = word.split_once('(').expect("target(key)");
    let (range, rest) = rest.split_once(')').expect("target(key)");
    let (key, range_end) = range.split_once("..").unwrap_or((range, "''"));
    let (result, operand) = rest.split_at(1);
    let result = match result {
        "=" => CompareResult::Equal,
        "!" => CompareResult::NotEqual,
        "<" => CompareResult::Less,
        ">" => CompareResult::Greater,
        result => panic!("{result} compares nothing"),
    };
    let (target, operand) = match target {
        "version" => (CompareTarget::Version, TargetUnion::Version(number(operand))),
        "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(operand))),
        "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(operand))),
        "value" => (CompareTarget::Value, TargetUnion::Value(bytes(operand).into())),
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(operand))),
        target => panic!("{target} is nothing to compare"),
    };
    Compare {
        result: result as i32,
        target: target as i32,
        key: bytes(key).into(),
        range_end: bytes(range_end).into(),
        target_union: Some(operand),
    }
}
