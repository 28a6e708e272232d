"""Checks through an etcdctl binary: what a person at a shell would do, and what they would see.

Run by `run` as `etcdctl.py BINARY ADDRESS ALL-ADDRESSES VOTER-NAMES [--against-etcd]`.
"""

import base64
import json
import re
import subprocess
import sys
import threading
from types import SimpleNamespace

from checks import Checks, expect, expect_in

# Far longer than any command takes.
COMMAND_LIMIT_SECONDS = 30


class Answer:
    """What a command printed and how it ended."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    def json(self):
        return json.loads(self.out)

    def lines(self):
        return self.out.splitlines()


class Ctl:
    """One etcdctl binary pointed at one node."""

    def __init__(self, binary, endpoint, prefix):
        self.binary, self.endpoint, self.prefix = binary, endpoint, prefix

    def command(self, *arguments, endpoints=None):
        return [self.binary, f"--endpoints={endpoints or self.endpoint}", "--command-timeout=20s", *arguments]

    def run(self, *arguments, stdin="", endpoints=None):
        """Runs a command that must succeed."""
        answer = self.attempt(*arguments, stdin=stdin, endpoints=endpoints)
        if answer.status != 0:
            raise AssertionError(f"{' '.join(arguments)[:200]} failed: {answer.err.strip() or answer.out.strip()}")
        return answer

    def attempt(self, *arguments, stdin="", endpoints=None):
        done = subprocess.run(
            self.command(*arguments, endpoints=endpoints), input=stdin.encode(), capture_output=True,
            timeout=COMMAND_LIMIT_SECONDS, env={"ETCDCTL_API": "3", "PATH": ""}, check=False,
        )
        return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def refused(self, *arguments, with_error, stdin=""):
        """Runs a command that must fail, with this text in its error."""
        answer = self.attempt(*arguments, stdin=stdin)
        if answer.status == 0:
            raise AssertionError(f"{' '.join(arguments)[:200]} succeeded with {answer.out!r}")
        expect_in(with_error, answer.err, "the error")

    def key(self, name):
        return self.prefix + name

    def revision(self):
        return self.run("get", self.key("none"), "-w", "json").json()["header"]["revision"]


class Watching:
    """An `etcdctl watch` that runs beside the checks."""

    def __init__(self, ctl, *arguments):
        self.process = subprocess.Popen(
            ctl.command("watch", *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"ETCDCTL_API": "3", "PATH": ""},
        )

    def lines(self, count):
        """The next `count` lines; fails if they do not come."""
        lines = []

        def read():
            for line in self.process.stdout:
                lines.append(line.decode().rstrip("\n"))
                if len(lines) == count:
                    break

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(COMMAND_LIMIT_SECONDS)
        if reader.is_alive() or len(lines) < count:
            self.stop()
            raise AssertionError(f"the watch printed {lines!r}, should have printed {count} lines")
        return lines

    def stop(self):
        self.process.kill()
        self.process.communicate()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def text(encoded):
    return base64.b64decode(encoded).decode()


def main(binary, endpoint, addresses, voters, against_etcd=None):
    ctl = Ctl(binary, endpoint, "etcdctl/")
    cluster = SimpleNamespace(addresses=addresses.split(","), voters=voters.split(","), eaves=against_etcd is None)
    checks = Checks()
    ctl.run("del", "--prefix", ctl.prefix)
    for suite in (puts_and_gets, sorted_gets, old_revisions, deletes, transactions, watches, cluster_and_health, refusals):
        suite(checks.check, ctl, cluster)
    if cluster.eaves:
        what_is_not_there_yet(checks.check, ctl)
    compactions(checks.check, ctl)
    return 1 if checks.failed else 0


def puts_and_gets(check, ctl, _cluster):
    def put():
        expect(ctl.run("put", ctl.key("a"), "1").out, "OK\n")
        expect(ctl.run("get", ctl.key("a")).out, f"{ctl.key('a')}\n1\n")

    def put_from_stdin():
        ctl.run("put", ctl.key("stdin"), stdin="from\nstdin")
        expect(ctl.run("get", ctl.key("stdin"), "--print-value-only").out, "from\nstdin\n")

    def put_previous():
        ctl.run("put", ctl.key("p"), "old")
        expect(ctl.run("put", "--prev-kv", ctl.key("p"), "new").lines(), ["OK", ctl.key("p"), "old"])

    def put_ignore_value():
        ctl.run("put", ctl.key("keep"), "kept")
        ctl.run("put", "--ignore-value", ctl.key("keep"))
        kv = ctl.run("get", ctl.key("keep"), "-w", "json").json()["kvs"][0]
        expect((text(kv["value"]), kv["version"]), ("kept", 2))

    def get_json():
        ctl.run("del", ctl.key("j"))
        before = ctl.revision()
        ctl.run("put", ctl.key("j"), "1")
        ctl.run("put", ctl.key("j"), "2")
        answer = ctl.run("get", ctl.key("j"), "-w", "json").json()
        header, [kv] = answer["header"], answer["kvs"]
        expect(header["revision"], before + 2, "the header's revision")
        for name in ("cluster_id", "member_id", "raft_term"):
            expect(header.get(name, 0) > 0, True, f"{name} is set, that it")
        expect((text(kv["key"]), text(kv["value"])), (ctl.key("j"), "2"))
        expect((kv["create_revision"], kv["mod_revision"], kv["version"]), (before + 1, before + 2, 2))
        expect(answer["count"], 1, "count")

    def get_fields():
        ctl.run("put", ctl.key("f"), "value")
        out = ctl.run("get", ctl.key("f"), "-w", "fields").out
        for line in (f'"Key" : "{ctl.key("f")}"', '"Value" : "value"', '"Lease" : 0', '"More" : false', '"Count" : 1'):
            expect_in(line, out, "the output")
        expect_in('"ClusterID" : ', out, "the output")

    def get_missing():
        expect(ctl.run("get", ctl.key("missing")).out, "")

    def get_binary():
        value = "\u00e9\u2603\u0001"
        ctl.run("put", ctl.key("bin"), stdin=value)
        expect(ctl.run("get", ctl.key("bin"), "--print-value-only").out, f"{value}\n")
        in_hex = "".join(f"\\x{byte:02x}" for byte in value.encode())
        expect(ctl.run("get", ctl.key("bin"), "--hex", "--print-value-only").out, f"{in_hex}\n")

    def get_serializable():
        expect(ctl.run("get", ctl.key("a"), "--consistency=s", endpoints=ctl.endpoint).out, f"{ctl.key('a')}\n1\n")

    def large_value():
        value = "x" * 1_000_000
        ctl.run("put", ctl.key("large"), stdin=value)
        expect(ctl.run("get", ctl.key("large"), "--print-value-only").out == value + "\n", True, "the value is intact, that it")
        ctl.run("del", ctl.key("large"))

    check("put, get", put)
    check("put from stdin", put_from_stdin)
    check("put --prev-kv", put_previous)
    check("put --ignore-value", put_ignore_value)
    check("get -w json: revisions, version, header", get_json)
    check("get -w fields", get_fields)
    check("get of a missing key", get_missing)
    check("get of bytes that are no ASCII", get_binary)
    check("get --consistency=s after a write elsewhere", get_serializable)
    check("put and get of 1 MB", large_value)


def sorted_gets(check, ctl, _cluster):
    def prepare():
        ctl.run("del", "--prefix", ctl.key("s/"))
        # Created in this order; "b" is then changed twice and "c" once.
        for name, value in (("c", "7"), ("a", "9"), ("b", "5"), ("d", "8"), ("b", "5"), ("c", "7"), ("b", "6")):
            ctl.run("put", ctl.key(f"s/{name}"), value)

    def names(*options):
        lines = ctl.run("get", "--prefix", ctl.key("s/"), "--keys-only", *options).lines()
        return "".join(line[-1] for line in lines if line)

    def sort(target, order, wanted):
        check(
            f"get --sort-by={target} --order={order}",
            lambda: expect(names(f"--sort-by={target}", f"--order={order}"), wanted),
        )

    def prefix():
        expect(ctl.run("get", "--prefix", ctl.key("s/"), "--print-value-only").lines(), ["9", "6", "7", "8"])

    def limited():
        answer = ctl.run("get", "--prefix", ctl.key("s/"), "--limit=2", "-w", "json").json()
        expect([text(kv["key"])[-1] for kv in answer["kvs"]], ["a", "b"])
        expect((answer["more"], answer["count"]), (True, 4), "(more, count)")

    def counted():
        # etcdctl 3.4 has no --count-only, 3.5.1 has it with this output only.
        option = "--count-only" if "--count-only" in ctl.run("get", "--help").out else "--limit=1"
        out = ctl.run("get", "--prefix", ctl.key("s/"), option, "-w", "fields").out
        expect_in('"Count" : 4', out, "the output")
        expect(out.count('"Key"'), 0 if option == "--count-only" else 1, "the number of keys")

    def keys_only():
        out = ctl.run("get", "--prefix", ctl.key("s/"), "--keys-only").out
        expect(out, "".join(f"{ctl.key('s/')}{name}\n\n" for name in "abcd"))

    def from_key():
        lines = ctl.run("get", "--from-key", ctl.key("s/c"), "--limit=2", "--keys-only").lines()
        expect([line for line in lines if line], [ctl.key("s/c"), ctl.key("s/d")])

    def ranged():
        lines = ctl.run("get", ctl.key("s/b"), ctl.key("s/d"), "--keys-only").lines()
        expect([line for line in lines if line], [ctl.key("s/b"), ctl.key("s/c")])

    check("prepare the sorted keys", prepare)
    check("get --prefix", prefix)
    check("get --limit: more and count", limited)
    check("get --count-only", counted)
    check("get --keys-only", keys_only)
    check("get --from-key", from_key)
    check("get of a range", ranged)
    sort("KEY", "ASCEND", "abcd")
    sort("KEY", "DESCEND", "dcba")
    sort("CREATE", "ASCEND", "cabd")
    sort("CREATE", "DESCEND", "dbac")
    sort("MODIFY", "ASCEND", "adcb")
    sort("MODIFY", "DESCEND", "bcda")
    sort("VALUE", "ASCEND", "bcda")
    sort("VALUE", "DESCEND", "adcb")
    sort("VERSION", "DESCEND", "bcad")
    check("get --sort-by with --limit", lambda: expect(names("--sort-by=VALUE", "--order=ASCEND", "--limit=2"), "bc"))


def old_revisions(check, ctl, _cluster):
    def rev():
        ctl.run("put", ctl.key("r"), "old")
        old = ctl.revision()
        ctl.run("put", ctl.key("r"), "new")
        expect(ctl.run("get", ctl.key("r"), f"--rev={old}", "--print-value-only").out, "old\n")
        header = ctl.run("get", ctl.key("r"), f"--rev={old}", "-w", "json").json()["header"]
        expect(header["revision"], old + 1, "the header's revision")

    def before_creation():
        old = ctl.revision()
        ctl.run("put", ctl.key(f"young-{old}"), "1")
        expect(ctl.run("get", ctl.key(f"young-{old}"), f"--rev={old}").out, "")

    check("get --rev", rev)
    check("get --rev from before the key was made", before_creation)
    check("get --rev of the future", lambda: ctl.refused(
        "get", ctl.key("r"), f"--rev={ctl.revision() + 100}",
        with_error="etcdserver: mvcc: required revision is a future revision",
    ))


def deletes(check, ctl, _cluster):
    def fill():
        for name in "abc":
            ctl.run("put", ctl.key(f"d/{name}"), name)

    def one():
        fill()
        expect(ctl.run("del", ctl.key("d/a")).out, "1\n")
        expect(ctl.run("del", ctl.key("d/a")).out, "0\n")

    def previous():
        fill()
        expect(ctl.run("del", "--prev-kv", ctl.key("d/a")).lines(), ["1", ctl.key("d/a"), "a"])

    def prefix():
        fill()
        expect(ctl.run("del", "--prefix", ctl.key("d/")).out, "3\n")

    def ranged():
        fill()
        expect(ctl.run("del", ctl.key("d/a"), ctl.key("d/c")).out, "2\n")

    def from_key():
        # Behind the keys of everyone else.
        for name in "12":
            ctl.run("put", f"~{name}", name)
        expect(ctl.run("del", "--from-key", "~", "--prev-kv").lines(), ["2", "~1", "1", "~2", "2"])

    def nothing_changes():
        before = ctl.revision()
        ctl.run("del", ctl.key("d/none"))
        expect(ctl.revision(), before, "the revision after deleting nothing")

    def version_resets():
        for value in "12":
            ctl.run("put", ctl.key("d/v"), value)
        ctl.run("del", ctl.key("d/v"))
        ctl.run("put", ctl.key("d/v"), "3")
        kv = ctl.run("get", ctl.key("d/v"), "-w", "json").json()["kvs"][0]
        expect((kv["version"], kv["create_revision"]), (1, kv["mod_revision"]))

    check("del", one)
    check("del --prev-kv", previous)
    check("del --prefix", prefix)
    check("del of a range", ranged)
    check("del --from-key", from_key)
    check("del of nothing makes no revision", nothing_changes)
    check("a key made again starts at version 1", version_resets)


def transactions(check, ctl, _cluster):
    def txn(compares, success, failure):
        return ctl.run("txn", stdin="\n".join([*compares, "", *success, "", *failure, "", ""]))

    def succeeds():
        key = ctl.key("t")
        ctl.run("put", key, "1")
        answer = txn([f'value("{key}") = "1"'], [f"put {key} 2", f"get {key}"], [f"get {key}"])
        expect([line for line in answer.lines() if line], ["SUCCESS", "OK", key, "2"])

    def fails():
        key = ctl.key("t")
        ctl.run("put", key, "1")
        answer = txn([f'value("{key}") = "other"'], [f"put {key} 2"], [f"get {key}", f"del {key}"])
        expect([line for line in answer.lines() if line], ["FAILURE", key, "1", "1"])
        expect(ctl.run("get", key).out, "")

    def compares():
        key = ctl.key("t/c")
        ctl.run("del", key)
        ctl.run("put", key, "m")
        kv = ctl.run("get", key, "-w", "json").json()["kvs"][0]
        revision = kv["mod_revision"]
        for compare, holds in (
            (f'mod("{key}") = "{revision}"', True), (f'mod("{key}") > "{revision}"', False),
            (f'create("{key}") < "{revision + 1}"', True), (f'create("{ctl.key("absent")}") = "0"', True),
            (f'version("{key}") = "1"', True), (f'version("{key}") != "1"', False),
            (f'value("{key}") > "a"', True), (f'value("{ctl.key("absent")}") = ""', False),
        ):
            expect(txn([compare], [], []).lines()[0], "SUCCESS" if holds else "FAILURE", compare)

    def one_revision():
        before = ctl.revision()
        txn([], [f"put {ctl.key('t/1')} x", f"put {ctl.key('t/2')} y"], [])
        kvs = ctl.run("get", "--prefix", ctl.key("t/"), "-w", "json").json()["kvs"]
        changed = [kv for kv in kvs if text(kv["key"])[-1] in "12"]
        expect([kv["mod_revision"] for kv in changed], [before + 1] * 2)

    def empty():
        before = ctl.revision()
        expect(txn([], [], []).lines()[0], "SUCCESS")
        expect(ctl.revision(), before, "the revision after an empty txn")

    check("txn that succeeds", succeeds)
    check("txn that fails", fails)
    check("txn: mod, create, version, value", compares)
    check("txn makes one revision", one_revision)
    check("txn with nothing in it", empty)
    check("txn with a key twice", lambda: ctl.refused(
        "txn", stdin=f"\nput {ctl.key('t')} 1\nput {ctl.key('t')} 2\n\n\n",
        with_error="etcdserver: duplicate key given in txn request",
    ))
    check("txn with 129 operations", lambda: ctl.refused(
        "txn", stdin="\n" + "".join(f"put {ctl.key('t')}{n} x\n" for n in range(129)) + "\n\n",
        with_error="etcdserver: too many operations in txn request",
    ))
    check("txn with 128 operations", lambda: expect(
        txn([], [f"put {ctl.key('t/many')}{n} x" for n in range(128)], []).lines().count("OK"), 128,
    ))


def watches(check, ctl, _cluster):
    def live():
        key, after = ctl.key("w/live"), ctl.revision() + 1
        with Watching(ctl, f"--rev={after}", key) as watching:
            ctl.run("put", key, "1")
            ctl.run("put", key, "2")
            ctl.run("del", key)
            expect(watching.lines(8), ["PUT", key, "1", "PUT", key, "2", "DELETE", key])

    def from_now():
        # A watch says nothing when it begins: write until it sees one.
        key = ctl.key("w/now")
        with Watching(ctl, key) as watching:
            stop = threading.Event()

            def write():
                number = 0
                while not stop.wait(0.1):
                    number += 1
                    ctl.run("put", key, str(number))

            writer = threading.Thread(target=write)
            writer.start()
            try:
                lines = watching.lines(6)
            finally:
                stop.set()
                writer.join()
            expect([lines[0], lines[1], lines[3], lines[4]], ["PUT", key, "PUT", key])
            expect(int(lines[5]), int(lines[2]) + 1, "the second value")

    def past():
        ctl.run("del", "--prefix", ctl.key("w/past/"))
        after = ctl.revision() + 1
        for name in "abc":
            ctl.run("put", ctl.key(f"w/past/{name}"), name)
        with Watching(ctl, "--prefix", f"--rev={after + 1}", ctl.key("w/past/")) as watching:
            expect(watching.lines(6), ["PUT", ctl.key("w/past/b"), "b", "PUT", ctl.key("w/past/c"), "c"])

    def previous():
        key = ctl.key("w/prev")
        ctl.run("put", key, "old")
        with Watching(ctl, "--prev-kv", f"--rev={ctl.revision() + 1}", key) as watching:
            ctl.run("put", key, "new")
            ctl.run("del", key)
            expect(watching.lines(10), ["PUT", key, "old", key, "new", "DELETE", key, "new", key, ""])

    def as_json():
        key = ctl.key("w/json")
        with Watching(ctl, "-w", "json", f"--rev={ctl.revision() + 1}", key) as watching:
            ctl.run("put", key, "1")
            answer = json.loads(watching.lines(1)[0])
            [event] = answer["Events"]
            expect((text(event["kv"]["key"]), text(event["kv"]["value"])), (key, "1"))
            expect(answer["Header"]["revision"] >= event["kv"]["mod_revision"], True, "the header covers the event, that it")

    def ranged():
        after = ctl.revision() + 1
        with Watching(ctl, f"--rev={after}", ctl.key("w/b"), ctl.key("w/d")) as watching:
            for name in "abcd":
                ctl.run("put", ctl.key(f"w/{name}"), name)
            expect(watching.lines(6), ["PUT", ctl.key("w/b"), "b", "PUT", ctl.key("w/c"), "c"])

    def interactive():
        key, after = ctl.key("w/i"), ctl.revision() + 1
        with Watching(ctl, "-i") as watching:
            watching.process.stdin.write(f"watch --rev={after} {key}\nwatch --rev={after} {key}2\n".encode())
            watching.process.stdin.flush()
            ctl.run("put", key, "1")
            ctl.run("put", f"{key}2", "2")
            lines = watching.lines(6)
            expect(sorted([lines[:3], lines[3:]]), [["PUT", key, "1"], ["PUT", f"{key}2", "2"]])

    check("watch", live)
    check("watch from now", from_now)
    check("watch --prefix --rev of the past", past)
    check("watch --prev-kv", previous)
    check("watch -w json", as_json)
    check("watch of a range", ranged)
    check("watch -i: two watches on a stream", interactive)


def cluster_and_health(check, ctl, cluster):
    every = ",".join(cluster.addresses)

    def status_json():
        [answer] = ctl.run("endpoint", "status", "-w", "json").json()
        expect(answer["Endpoint"], ctl.endpoint)
        status = answer["Status"]
        expect(re.fullmatch(r"3\.\d+\.\d+\S*", status["version"]) is not None, True, f"{status['version']} is a version, that it")
        for name in ("leader", "raftIndex", "raftTerm", "raftAppliedIndex", "dbSize", "dbSizeInUse"):
            expect(status.get(name, 0) > 0, True, f"{name} is set, that it")
        expect(status["header"]["member_id"] > 0, True, "member_id is set, that it")

    def one_leader():
        answers = ctl.run("endpoint", "status", "-w", "json", endpoints=every).json()
        expect(len(answers), len(cluster.addresses), "the number of answers")
        leaders = {answer["Status"]["leader"] for answer in answers}
        expect(len(leaders), 1, f"the number of leaders among {leaders}")
        members = [answer["Status"]["header"]["member_id"] for answer in answers]
        expect(len(set(members)), len(members), "the number of member ids")
        expect(members.count(leaders.pop()), 1, "how many nodes say that they lead")
        clusters = {answer["Status"]["header"]["cluster_id"] for answer in answers}
        expect(len(clusters), 1, "the number of cluster ids")

    def status_table():
        out = ctl.run("endpoint", "status", "-w", "table").out
        for column in ("ENDPOINT", "VERSION", "DB SIZE", "IS LEADER", ctl.endpoint):
            expect_in(column, out, "the table")

    def status_cluster():
        answers = ctl.run("endpoint", "status", "--cluster", "-w", "json").json()
        known = {answer["Endpoint"].removeprefix("http://") for answer in answers}
        expect(known >= set(cluster.addresses[:3]), True, f"{known} has the voters, that it")

    def health():
        answer = ctl.run("endpoint", "health")
        expect_in("is healthy", answer.out + answer.err, "the output")

    def health_cluster():
        answer = ctl.run("endpoint", "health", "--cluster")
        lines = [line for line in (answer.out + answer.err).splitlines() if "is healthy" in line]
        expect(len(lines) >= 3, True, f"{lines} names three healthy nodes, that it")

    def health_json():
        for answer in ctl.run("endpoint", "health", "-w", "json", endpoints=every).json():
            expect(answer["health"], True, answer["endpoint"])

    def members():
        out = ctl.run("member", "list").out
        for name in cluster.voters:
            expect_in(name, out, "the list")
        voters = [line for line in out.splitlines() if "started" in line]
        expect(len(voters) >= 3, True, f"{voters} are three started members, that it")

    def members_table():
        out = ctl.run("member", "list", "-w", "table").out
        for column in ("ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER", *cluster.voters):
            expect_in(column, out, "the table")

    def members_json():
        answer = ctl.run("member", "list", "-w", "json").json()
        voters = {member["name"]: member for member in answer["members"] if member["name"] in cluster.voters}
        expect(sorted(voters), sorted(cluster.voters), "the voters")
        urls = {member["clientURLs"][0] for member in voters.values()}
        expect(urls, {f"http://{address}" for address in cluster.addresses[:3]}, "their client URLs")
        expect(all(member["peerURLs"] and member["ID"] for member in voters.values()), True, "peer URLs and ids are set, that it")

    check("endpoint status -w json", status_json)
    check("endpoint status of all nodes: one leader, one cluster", one_leader)
    check("endpoint status -w table", status_table)
    check("endpoint status --cluster", status_cluster)
    check("endpoint health", health)
    check("endpoint health --cluster", health_cluster)
    check("endpoint health -w json of all nodes", health_json)
    check("member list", members)
    check("member list -w table", members_table)
    check("member list -w json", members_json)


def refusals(check, ctl, _cluster):
    def too_large():
        ctl.refused("put", ctl.key("huge"), stdin="x" * 1_700_000, with_error="etcdserver: request is too large")

    check("put of an empty key", lambda: ctl.refused("put", "", "x", with_error="etcdserver: key is not provided"))
    check("put --ignore-value of a missing key", lambda: ctl.refused(
        "put", "--ignore-value", ctl.key("never"), with_error="etcdserver: key not found",
    ))
    check("put --ignore-lease of a missing key", lambda: ctl.refused(
        "put", "--ignore-lease", ctl.key("never"), "x", with_error="etcdserver: key not found",
    ))
    check("put with an unknown lease", lambda: ctl.refused(
        "put", "--lease=1234", ctl.key("leased"), "x", with_error="etcdserver: requested lease not found",
    ))
    check("the refused put stored nothing", lambda: expect(ctl.run("get", ctl.key("leased")).out, ""))
    check("put of 1.7 MB", too_large)


def what_is_not_there_yet(check, ctl):
    """What Eaves does not have, it says that it does not have."""
    check("lease grant says that there are no leases", lambda: ctl.refused("lease", "grant", "60", with_error="lease"))
    check("user list says that there is no auth", lambda: ctl.refused("user", "list", with_error="auth"))


def compactions(check, ctl):
    """Last: they end what the others could read."""
    compacted = "etcdserver: mvcc: required revision has been compacted"

    def compact():
        key = ctl.key("c")
        for value in "123":
            ctl.run("put", key, value)
        newest = ctl.revision()
        expect(ctl.run("compaction", "--physical", str(newest - 1)).out, f"compacted revision {newest - 1}\n")
        expect(ctl.run("get", key, f"--rev={newest - 1}", "--print-value-only").out, "2\n")
        ctl.refused("get", key, f"--rev={newest - 2}", with_error=compacted)
        ctl.refused("compaction", str(newest - 1), with_error=compacted)
        with Watching(ctl, f"--rev={newest - 1}", key) as watching:
            expect(watching.lines(6), ["PUT", key, "2", "PUT", key, "3"])

    def watch():
        answer = ctl.attempt("watch", f"--rev={ctl.revision() - 2}", ctl.key("c"))
        expect_in(compacted, answer.out + answer.err, "the output")

    check("compaction: what stays and what goes", compact)
    check("watch from a compacted revision", watch)
    check("compaction of the future", lambda: ctl.refused(
        "compaction", str(ctl.revision() + 100), with_error="etcdserver: mvcc: required revision is a future revision",
    ))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
