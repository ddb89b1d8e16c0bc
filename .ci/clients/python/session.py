#!/usr/bin/env python3
"""A session of python-etcd3, a client that has nothing in common with etcd's own, against a running store.

    session.py URL[,URL...]

Every fact is a line "ok ..." or "FAIL ..."; the exit code is 0 only if none failed. Proven on etcd 3.7.3.
"""

import hashlib
import io
import os
import queue
import sys
import threading
import time
import uuid
from urllib.parse import urlsplit

import etcd3
import grpc

LIMIT = 30.0  # seconds: the longest wait for anything that must happen
P = f"/python/{uuid.uuid4().hex[:8]}/"
passed = failed = 0


def ok(fact, expected, got):
    global passed, failed
    if expected == got:
        passed += 1
        print(f"ok {fact}")
    else:
        failed += 1
        print(f"FAIL {fact}: expected {expected!r}, got {got!r}")


def refusal(call):
    """The code and message that the store refuses a call with, whatever the client makes of them."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name, error.details()
    except etcd3.exceptions.Etcd3Exception as error:
        cause = error.__cause__ or error.__context__
        return cause.code().name, cause.details()
    return "no refusal"


def eventually(condition):
    end = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def keys_and_values(c):
    put = c.put(P + "a", "1")
    ok("put answers a header with the revision", True, put.header.revision > 1)
    value, meta = c.get(P + "a")
    ok("get has the value and what is known of the key", (b"1", (P + "a").encode(), put.header.revision, 1),
       (value, meta.key, meta.mod_revision, meta.version))
    ok("put with prev_kv answers the value before", b"1", c.put(P + "a", "2", prev_kv=True).prev_kv.value)
    ok("a key that is not there is None", (None, None), c.get(P + "none"))
    ok("a serializable get", True, eventually(lambda: c.get(P + "a", serializable=True)[0] == b"2"))
    data = bytes(range(256))
    c.put(P + "bytes", data)
    ok("all bytes come back as they went", data, c.get(P + "bytes")[0])
    for i, key in enumerate(["c", "a", "b"]):
        c.put(P + "p/" + key, str(i))
    pairs = [(m.key.decode()[len(P):], v) for v, m in c.get_prefix(P + "p/")]
    ok("get_prefix, in the order of the keys", [("p/a", b"1"), ("p/b", b"2"), ("p/c", b"0")], pairs)
    ok("... descending", [b"0", b"2", b"1"], [v for v, _ in c.get_prefix(P + "p/", sort_order="descend")])
    ok("... by value", [b"0", b"1", b"2"], [v for v, _ in c.get_prefix(P + "p/", sort_order="ascend", sort_target="value")])
    ok("... by creation", [b"0", b"1", b"2"], [v for v, _ in c.get_prefix(P + "p/", sort_order="ascend", sort_target="create")])
    ok("... keys only", [b"", b"", b""], [v for v, _ in c.get_prefix(P + "p/", keys_only=True)])
    ok("get_range does not hold its end", [b"1", b"2"], [v for v, _ in c.get_range(P + "p/a", P + "p/c")])
    ok("get_all has them too", True, {P + "p/a", P + "p/b", P + "p/c"} <= {m.key.decode() for _, m in c.get_all()
                                                                           if m.key.startswith(P.encode())})
    ok("put_if_not_exists does not overwrite", (False, b"1"), (c.put_if_not_exists(P + "p/a", "x"), c.get(P + "p/a")[0]))
    ok("put_if_not_exists puts what is not there", (True, b"x"), (c.put_if_not_exists(P + "p/d", "x"), c.get(P + "p/d")[0]))
    ok("replace of another value does nothing", (False, b"1"), (c.replace(P + "p/a", "0", "9"), c.get(P + "p/a")[0]))
    ok("replace", (True, b"9"), (c.replace(P + "p/a", "1", "9"), c.get(P + "p/a")[0]))
    ok("delete tells whether there was something", (True, False), (c.delete(P + "p/a"), c.delete(P + "p/a")))
    ok("delete with prev_kv", b"x", c.delete(P + "p/d", prev_kv=True, return_response=True).prev_kvs[0].value)
    ok("delete_prefix tells how many", 2, c.delete_prefix(P + "p/").deleted)
    ok("put of an empty key", ("INVALID_ARGUMENT", "etcdserver: key is not provided"), refusal(lambda: c.put("", "x")))
    ok("put of a value too large", ("INVALID_ARGUMENT", "etcdserver: request is too large"), refusal(lambda: c.put(P + "x", b"x" * 1572864)))


def transactions(c):
    t = c.transactions
    c.put(P + "t/a", "1")
    revision = c.get(P + "t/a")[1].mod_revision
    done, answers = c.transaction(
        compare=[t.value(P + "t/a") == "1", t.version(P + "t/a") == 1, t.create(P + "t/a") == revision, t.mod(P + "t/a") < revision + 1],
        success=[t.put(P + "t/b", "2"), t.get(P + "t/b"), t.delete(P + "t/a")],
        failure=[t.put(P + "t/c", "3")])
    ok("a transaction whose compares hold", True, done)
    ok("... reads what it wrote itself", b"2", answers[1][0][0])
    ok("... and deletes", (None, None), c.get(P + "t/a"))
    done, answers = c.transaction(compare=[t.version(P + "t/a") > 0], success=[t.put(P + "t/c", "3")], failure=[t.get(P + "t/b"), t.get(P + "t/none")])
    ok("a transaction whose compares do not hold", (False, b"2", []), (done, answers[0][0][0], answers[1]))
    done, answers = c.transaction(compare=[], success=[t.txn(compare=[t.value(P + "t/b") == "2"], success=[t.put(P + "t/d", "in"), t.txn(
        compare=[t.version(P + "t/none") != 0], success=[], failure=[t.get(P + "t/d")])], failure=[])], failure=[])
    inner = answers[0].response_txn
    innermost = inner.responses[1].response_txn
    ok("a transaction within one within one", (True, True, False, b"in"),
       (done, inner.succeeded, innermost.succeeded, innermost.responses[0].response_range.kvs[0].value))
    ok("a compare of a whole range: all hold", True, c.transaction(compare=[t.version(P + "t/", P + "t0") > 0], success=[], failure=[])[0])
    c.put(P + "t/b", "2")
    ok("... one does not", False, c.transaction(compare=[t.version(P + "t/", P + "t0") == 1], success=[], failure=[])[0])
    ok("a key put twice", ("INVALID_ARGUMENT", "etcdserver: duplicate key given in txn request"),
       refusal(lambda: c.transaction(compare=[], success=[t.put(P + "t/x", "1"), t.put(P + "t/x", "2")], failure=[])))
    ok("... in a transaction within", ("INVALID_ARGUMENT", "etcdserver: duplicate key given in txn request"),
       refusal(lambda: c.transaction(compare=[], success=[t.put(P + "t/x", "1"), t.txn(compare=[], success=[t.put(P + "t/x", "2")], failure=[])], failure=[])))
    ok("129 operations", ("INVALID_ARGUMENT", "etcdserver: too many operations in txn request"),
       refusal(lambda: c.transaction(compare=[], success=[t.put(f"{P}t/{i}", "1") for i in range(129)], failure=[])))

    c.put(P + "t/count", "0")
    wins = queue.Queue()

    def increment():
        own = etcd3.client(host=HOST, port=PORT)
        for _ in range(25):
            end = time.monotonic() + LIMIT
            while time.monotonic() < end:
                value, meta = own.get(P + "t/count")
                if own.transaction(compare=[own.transactions.mod(P + "t/count") == meta.mod_revision],
                                   success=[own.transactions.put(P + "t/count", str(int(value) + 1))], failure=[])[0]:
                    wins.put(1)
                    break
        own.close()

    threads = [threading.Thread(target=increment) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ok("100 increments of four clients, each by compare and swap", (100, b"100"), (wins.qsize(), c.get(P + "t/count")[0]))


def take(events, n):
    """The next n events of a watch, or as many as come in time."""
    got = queue.Queue()

    def read():
        for _, event in zip(range(n), events):
            got.put(event)

    threading.Thread(target=read, daemon=True).start()
    answer = []
    end = time.monotonic() + LIMIT
    while len(answer) < n and time.monotonic() < end:
        try:
            answer.append(got.get(timeout=0.1))
        except queue.Empty:
            pass
    return answer


def watches(c):
    first = c.put(P + "w/0", "").header.revision
    one, cancel_one = c.watch(P + "w/a", start_revision=first)
    many, cancel_many = c.watch_prefix(P + "w/", start_revision=first + 1, prev_kv=True)
    c.put(P + "w/a", "1")
    c.put(P + "w/b", "2")
    c.delete(P + "w/a")
    c.put(P + "w/a", "3")
    kind = lambda e: (type(e).__name__, e.key.decode()[len(P):], e.value)
    ok("a watch of one key", [("PutEvent", "w/a", b"1"), ("DeleteEvent", "w/a", b""), ("PutEvent", "w/a", b"3")], [kind(e) for e in take(one, 3)])
    events = take(many, 4)
    ok("a watch of a prefix, on the same stream", [("PutEvent", "w/a", b"1"), ("PutEvent", "w/b", b"2"), ("DeleteEvent", "w/a", b""), ("PutEvent", "w/a", b"3")],
       [kind(e) for e in events])
    ok("... with the revisions in order", [first + 1, first + 2, first + 3, first + 4], [e.mod_revision for e in events])
    ok("... with the value before a delete", b"1", events[2].prev_value)
    for cancel in (cancel_one, cancel_many):
        cancel()
    ok("a canceled watch ends", [], list(one))
    seen = queue.Queue()
    watch = c.add_watch_callback(P + "w/live", seen.put)
    ok("a watch of what comes: a callback", True, eventually(lambda: c.put(P + "w/live", "x") and not seen.empty()))
    c.cancel_watch(watch)

    history, cancel = c.watch_prefix(P + "w/", start_revision=first + 2)
    ok("a watch of history", [b"2", b"", b"3"], [e.value for e in take(history, 3)])
    cancel()


def leases(c):
    lease = c.lease(600)
    ok("a lease has an id and the TTL asked for", (True, 600), (lease.id > 0, lease.ttl))
    own = c.lease(600, lease_id=0x10000 + uuid.uuid4().int % 0x10000000)
    ok("a lease with an id of one's own", True, own.granted_ttl == 600)
    ok("... of which there can be only one", ("FAILED_PRECONDITION", "etcdserver: lease already exists"), refusal(lambda: c.lease(600, lease_id=own.id)))
    ok("a TTL that is too large", ("OUT_OF_RANGE", "etcdserver: too large lease TTL"), refusal(lambda: c.lease(9_000_000_001)))
    c.put(P + "l/a", "1", lease=lease)
    c.put(P + "l/b", "1", lease=lease.id)
    ok("a lease knows its keys", [(P + "l/a").encode(), (P + "l/b").encode()], sorted(lease.keys))
    ok("a key knows its lease", lease.id, c.get(P + "l/a")[1].lease_id)
    ok("refresh answers the TTL", [600], [answer.TTL for answer in lease.refresh()])
    lease.revoke()
    ok("revoke deletes the keys", [], list(c.get_prefix(P + "l/")))
    ok("... and the lease", -1, c.get_lease_info(lease.id).TTL)
    ok("refresh of a revoked lease answers 0", [0], [answer.TTL for answer in lease.refresh()])
    ok("revoke of a revoked lease", ("NOT_FOUND", "etcdserver: requested lease not found"), refusal(lease.revoke))
    own.revoke()
    c.put(P + "l/short", "1", lease=c.lease(1))
    ok("a key goes when its lease runs out", True, eventually(lambda: c.get(P + "l/short")[0] is None))


def locks(c):
    lock = c.lock(P + "lock", ttl=60)
    ok("a lock is acquired", (True, True), (lock.acquire(timeout=LIMIT), lock.is_acquired()))
    ok("... by one only", False, c.lock(P + "lock", ttl=60).acquire(timeout=1))
    ok("... and released", True, lock.release())
    with c.lock(P + "lock", ttl=60) as again:
        ok("... and acquired again", True, again.is_acquired())


def cluster(c, n):
    members = list(c.members)
    ok("members: all of them", n, len(members))
    ok("... with names, peer and client URLs", True, all(m.id and m.name and m.peer_urls and m.client_urls for m in members))
    status = c.status()
    ok("status: version, size, leader, term, index", True,
       status.version.startswith("3.") and status.db_size > 0 and status.leader.id in {m.id for m in members} and status.raft_term > 0 and status.raft_index > 0)
    ok("hash", True, c.hash() > 0)
    ok("no alarms", [], list(c.list_alarms()))
    alarm = c.create_alarm(member_id=members[0].id)
    ok("an alarm raised by hand", [members[0].id], [a.member_id for a in alarm])
    ok("... is listed", [members[0].id], [a.member_id for a in c.list_alarms()])
    ok("... and the store refuses puts", ("RESOURCE_EXHAUSTED", "etcdserver: mvcc: database space exceeded"), refusal(lambda: c.put(P + "x", "1")))
    c.disarm_alarm(member_id=members[0].id)
    ok("... until it is disarmed", [], list(c.list_alarms()))
    ok("... and it takes them again", True, c.put(P + "x", "1").header.revision > 0)
    c.defragment()
    snapshot = io.BytesIO()
    c.snapshot(snapshot)
    data = snapshot.getvalue()
    ok("snapshot: blocks of 512 bytes and their SHA-256", (32, hashlib.sha256(data[:-32]).digest()), (len(data) % 512, data[-32:]))

    first = c.put(P + "compact", "1").header.revision
    last = c.put(P + "compact", "2").header.revision
    c.compact(last)
    ok("compact of a compacted revision", ("OUT_OF_RANGE", "etcdserver: mvcc: required revision has been compacted"), refusal(lambda: c.compact(first)))
    ok("compact of a future revision", ("OUT_OF_RANGE", "etcdserver: mvcc: required revision is a future revision"), refusal(lambda: c.compact(10**12)))
    events, _ = c.watch(P + "compact", start_revision=first)
    try:
        take_one = next(iter(events))
    except etcd3.exceptions.RevisionCompactedError as error:
        take_one = error.compacted_revision
    ok("a watch from below it tells where it could begin", last, take_one)
    later = c.put(P + "compact", "3").header.revision
    c.compact(later, physical=True)
    ok("compact, physically", b"3", c.get(P + "compact")[0])


def main():
    global HOST, PORT
    urls = sys.argv[1].split(",")
    for i, url in enumerate(urls):
        HOST, PORT = urlsplit(url).hostname, urlsplit(url).port
        print(f"# python-etcd3 against {url}")
        c = etcd3.client(host=HOST, port=PORT, timeout=LIMIT)
        keys_and_values(c)
        transactions(c)
        watches(c)
        leases(c)
        locks(c)
        cluster(c, len(urls))
        c.delete_prefix(P)
    print(f"\n{passed} passed, {failed} failed", flush=True)
    # Not sys.exit: the client's watch threads would complain of the channel that is taken from them.
    os._exit(1 if failed or not passed else 0)


if __name__ == "__main__":
    main()
