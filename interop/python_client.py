"""Checks through python-etcd3 (PyPI's etcd3), the client that most Python programs use.

Run by `run`, with the Python of target/interop-venv, as `python_client.py ADDRESS ALL-ADDRESSES VOTER-NAMES [--against-etcd]`.
"""

import queue
import sys
import threading

import etcd3
import etcd3.exceptions
import grpc

from checks import Checks, expect

PREFIX = "python/"

# Far longer than any response takes.
RESPONSE_LIMIT_SECONDS = 20


def main(endpoint, addresses, voters, against_etcd=None):
    host, port = endpoint.rsplit(":", 1)
    client = etcd3.client(host=host, port=int(port), timeout=RESPONSE_LIMIT_SECONDS)
    client.delete_prefix(PREFIX)
    checks = Checks()
    for suite in (puts_and_gets, deletes, transactions, watches):
        suite(checks.check, client)
    cluster(checks.check, client, addresses.split(","), voters.split(","))
    if against_etcd is None:
        fresh_reads(checks.check, client)
        what_is_not_there_yet(checks.check, client)
    compactions(checks.check, client)
    return 1 if checks.failed else 0


def key(name):
    return PREFIX + name


def revision(client):
    return client.get_response(key("none")).header.revision


def refused(code, text, call):
    """Calls what must fail with this status; python-etcd3 hides some statuses behind exceptions of its own."""
    try:
        got = call()
    except grpc.RpcError as error:
        expect((error.code(), error.details()), (code, text), "the error")
    else:
        raise AssertionError(f"the call succeeded with {got!r}")


def puts_and_gets(check, client):
    def put():
        before = revision(client)
        expect(client.put(key("a"), "1").header.revision, before + 1)
        value, meta = client.get(key("a"))
        expect((value, meta.key, meta.version), (b"1", key("a").encode(), 1))
        expect((meta.create_revision, meta.mod_revision, meta.lease_id), (before + 1, before + 1, 0))

    def put_previous():
        client.put(key("p"), "old")
        expect(client.put(key("p"), "new", prev_kv=True).prev_kv.value, b"old")

    def put_bytes():
        client.put(key("bytes"), bytes(range(256)))
        expect(client.get(key("bytes"))[0], bytes(range(256)))

    def missing():
        expect(client.get(key("missing")), (None, None))

    def prepare():
        for name, value in (("c", "7"), ("a", "9"), ("b", "5"), ("b", "6")):
            client.put(key(f"s/{name}"), value)

    def sort(target, order, wanted):
        def sorted_get():
            found = client.get_prefix(key("s/"), sort_order=order, sort_target=target)
            expect("".join(meta.key.decode()[-1] for _, meta in found), wanted)

        check(f"get_prefix sorted by {target}, {order}", sorted_get)

    def ranged():
        found = client.get_range(key("s/a"), key("s/c"))
        expect([value for value, _ in found], [b"9", b"6"])

    def keys_only():
        found = client.get_prefix(key("s/"), keys_only=True)
        expect([(value, meta.key[-1:]) for value, meta in found], [(b"", b"a"), (b"", b"b"), (b"", b"c")])

    def everything():
        found = {meta.key for _, meta in client.get_all()}
        expect(found >= {key("a").encode(), key("s/a").encode()}, True, "all keys have these in them, that it")

    def serializable():
        expect(client.get(key("a"), serializable=True)[0], b"1")

    check("put, get", put)
    check("put with prev_kv", put_previous)
    check("put and get of all bytes", put_bytes)
    check("get of a missing key", missing)
    check("prepare the sorted keys", prepare)
    sort("key", "ascend", "abc")
    sort("key", "descend", "cba")
    sort("create", "ascend", "cab")
    sort("mod", "descend", "bac")
    sort("value", "ascend", "bca")
    sort("version", "descend", "bac")
    check("get_range", ranged)
    check("get_prefix with keys_only", keys_only)
    check("get_all", everything)
    check("get serializable", serializable)
    check("put of an empty key", lambda: refused(
        grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: key is not provided", lambda: client.put("", "x"),
    ))
    check("put with an unknown lease", lambda: refused(
        grpc.StatusCode.NOT_FOUND, "etcdserver: requested lease not found", lambda: client.put(key("l"), "x", lease=1234),
    ))
    check("put of 1.7 MB", lambda: refused(
        grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: request is too large", lambda: client.put(key("l"), "x" * 1_700_000),
    ))


def deletes(check, client):
    def one():
        client.put(key("d"), "1")
        expect(client.delete(key("d")), True, "the first delete")
        expect(client.delete(key("d")), False, "the second delete")

    def previous():
        client.put(key("d"), "1")
        response = client.delete(key("d"), prev_kv=True, return_response=True)
        expect((response.deleted, response.prev_kvs[0].value), (1, b"1"))

    def prefix():
        for name in "abc":
            client.put(key(f"d/{name}"), name)
        expect(client.delete_prefix(key("d/")).deleted, 3)

    check("delete", one)
    check("delete with prev_kv", previous)
    check("delete_prefix", prefix)


def transactions(check, client):
    of = client.transactions

    def succeeds():
        client.put(key("t"), "1")
        done, [put, [(value, _)]] = client.transaction(
            compare=[of.value(key("t")) == "1", of.version(key("t")) > 0],
            success=[of.put(key("t"), "2"), of.get(key("t"))], failure=[of.delete(key("t"))],
        )
        expect((done, value), (True, b"2"))
        expect(put.response_put.header.revision if hasattr(put, "response_put") else put.header.revision, revision(client))

    def fails():
        client.put(key("t"), "1")
        done, [deleted] = client.transaction(
            compare=[of.mod(key("t")) == 1], success=[of.put(key("t"), "2")], failure=[of.delete(key("t"))],
        )
        expect(done, False)
        expect(deleted.response_delete_range.deleted if hasattr(deleted, "response_delete_range") else deleted.deleted, 1)
        expect(client.get(key("t")), (None, None))

    def nested():
        client.delete(key("t/n"))
        inner = of.txn(compare=[of.create(key("t/n")) == 0], success=[of.put(key("t/n"), "inner")], failure=[])
        done, _ = client.transaction(compare=[], success=[of.put(key("t/o"), "outer"), inner], failure=[])
        expect(done, True)
        (inner_value, inner_meta), (_, outer_meta) = client.get(key("t/n")), client.get(key("t/o"))
        expect((inner_value, inner_meta.mod_revision), (b"inner", outer_meta.mod_revision))

    def not_exists():
        client.delete(key("t/new"))
        expect(client.put_if_not_exists(key("t/new"), "1"), True)
        expect(client.put_if_not_exists(key("t/new"), "2"), False)

    def replaced():
        client.put(key("t/r"), "1")
        expect(client.replace(key("t/r"), "1", "2"), True)
        expect(client.replace(key("t/r"), "1", "3"), False)

    check("transaction that succeeds", succeeds)
    check("transaction that fails", fails)
    check("transaction in a transaction", nested)
    check("put_if_not_exists", not_exists)
    check("replace", replaced)
    check("transaction with a key twice", lambda: refused(
        grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request",
        lambda: client.transaction(compare=[], success=[of.put(key("t"), "1"), of.put(key("t"), "2")], failure=[]),
    ))


class Watched:
    """Collects what a watch delivers."""

    def __init__(self, client, name, **options):
        self.client, self.arrived = client, queue.Queue()
        self.watch_id = client.add_watch_callback(key(name), self.arrived.put, **options)

    def events(self, count):
        events = []
        while len(events) < count:
            try:
                response = self.arrived.get(timeout=RESPONSE_LIMIT_SECONDS)
            except queue.Empty:
                raise AssertionError(f"the watch delivered {events!r}, should have delivered {count} events") from None
            if isinstance(response, Exception):
                raise response
            events.extend(response.events)
        return events

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.cancel_watch(self.watch_id)


def shown(events):
    return [(type(event).__name__, event.key.decode().removeprefix(PREFIX), event.value) for event in events]


def watches(check, client):
    def live():
        with Watched(client, "w") as watched:
            client.put(key("w"), "1")
            client.delete(key("w"))
            expect(shown(watched.events(2)), [("PutEvent", "w", b"1"), ("DeleteEvent", "w", b"")])

    def past():
        start = client.put(key("w/1"), "1").header.revision
        client.put(key("w/2"), "2")
        with Watched(client, "w/", range_end=key("w0"), start_revision=start) as watched:
            client.put(key("w/3"), "3")
            expect(shown(watched.events(3)), [("PutEvent", f"w/{n}", str(n).encode()) for n in (1, 2, 3)])

    def previous():
        client.put(key("w/p"), "old")
        with Watched(client, "w/p", prev_kv=True) as watched:
            client.put(key("w/p"), "new")
            expect(watched.events(1)[0].prev_value, b"old")

    def several():
        with Watched(client, "w/a") as first, Watched(client, "w/b") as second:
            client.put(key("w/a"), "1")
            client.put(key("w/b"), "2")
            expect(shown(first.events(1) + second.events(1)), [("PutEvent", "w/a", b"1"), ("PutEvent", "w/b", b"2")])

    def prefix_iterator():
        events, cancel = client.watch_prefix(key("w/i/"))
        client.put(key("w/i/1"), "1")
        client.put(key("w/i/2"), "2")
        stuck = threading.Timer(RESPONSE_LIMIT_SECONDS, cancel)
        stuck.start()
        got = [next(events), next(events)]
        stuck.cancel()
        cancel()
        expect(shown(got), [("PutEvent", "w/i/1", b"1"), ("PutEvent", "w/i/2", b"2")])

    def cancelled():
        with Watched(client, "w/c") as watched, Watched(client, "w/c") as other:
            client.cancel_watch(watched.watch_id)
            client.put(key("w/c"), "1")
            other.events(1)
            expect(watched.arrived.empty(), True, "nothing came for the cancelled watch, that it")

    check("watch", live)
    check("watch from a past revision", past)
    check("watch with prev_kv", previous)
    check("two watches on a stream", several)
    check("watch_prefix", prefix_iterator)
    check("cancel_watch", cancelled)


def cluster(check, client, addresses, voters):
    def status():
        status = client.status()
        expect(status.version.startswith("3."), True, f"{status.version} is a version 3, that it")
        expect(min(status.db_size, status.raft_index, status.raft_term) > 0, True, "sizes, index and term are set, that it")
        expect(status.leader.name in voters, True, f"the leader {status.leader.name} is a voter, that it")

    def members():
        found = {member.name: member for member in client.members}
        expect(set(found) >= set(voters), True, f"{sorted(found)} has the voters in it, that it")
        urls = {found[name].client_urls[0] for name in voters}
        expect(urls, {f"http://{address}" for address in addresses[:3]}, "the voters' client URLs")

    check("status", status)
    check("members", members)


def fresh_reads(check, client):
    """What reads may demand of the state by metadata, which only Eaves knows."""
    def demanding(name, value, read):
        client.metadata = ((name, value),)
        try:
            return read()
        finally:
            client.metadata = None

    def bounded():
        client.put(key("f"), "1")
        expect(demanding("eaves-max-staleness-ms", "0", lambda: client.get(key("f")))[0], b"1")
        demanding("eaves-max-staleness-ms", "60000", lambda: client.get(key("f")))

    def own_writes():
        for number in range(20):
            written = str(client.put(key("f"), str(number)).header.revision)
            value, _ = demanding("eaves-min-revision", written, lambda: client.get(key("f"), serializable=True))
            expect(value, str(number).encode())

    check("a read of bounded staleness", bounded)
    check("a serializable read that demands its own write", own_writes)
    check("a read that demands a future revision", lambda: refused(
        grpc.StatusCode.OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision",
        lambda: demanding("eaves-min-revision", str(10**15), lambda: client.get(key("f"))),
    ))
    check("a staleness that is no number", lambda: refused(
        grpc.StatusCode.INVALID_ARGUMENT, 'eaves: metadata eaves-max-staleness-ms is "soon": give a whole number, 0 or more',
        lambda: demanding("eaves-max-staleness-ms", "soon", lambda: client.get(key("f"))),
    ))


def what_is_not_there_yet(check, client):
    """What Eaves does not have, it says that it does not have."""
    def no_lease():
        try:
            client.lease(60)
        except grpc.RpcError as error:
            expect(error.code(), grpc.StatusCode.UNIMPLEMENTED, "the status")
            expect("lease" in error.details(), True, f"{error.details()!r} names leases, that it")
        else:
            raise AssertionError("a lease was granted")

    check("lease says that there are no leases", no_lease)


def compactions(check, client):
    """Last: they end what the others could read."""
    compacted = "etcdserver: mvcc: required revision has been compacted"

    def compact():
        old = client.put(key("c"), "1").header.revision
        client.put(key("c"), "2")
        client.compact(old + 1, physical=True)
        expect(client.get(key("c"))[0], b"2")
        refused(grpc.StatusCode.OUT_OF_RANGE, compacted, lambda: client.compact(old))

    def watch():
        try:
            with Watched(client, "c", start_revision=revision(client) - 1) as watched:
                got = watched.events(1)
        except etcd3.exceptions.RevisionCompactedError as error:
            expect(error.compacted_revision, revision(client), "the compacted revision")
        else:
            raise AssertionError(f"the watch delivered {got!r}")

    check("compact", compact)
    check("watch from a compacted revision", watch)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
