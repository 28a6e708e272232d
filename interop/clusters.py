"""Starts what the clients talk to: our voters and listeners, or, to try out the checks, real etcds.

Everything listens on loopback at a port that was free a moment ago and keeps its data and its log in one temporary
directory. `stop` ends the processes that were started here, and only those.
"""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request

START_LIMIT_SECONDS = 90


class ClusterError(Exception):
    """A server did not start or has ended."""


class Cluster:
    """Some running servers, and the addresses to send requests to."""

    def __init__(self, environment):
        self.environment = environment
        self.directory = tempfile.mkdtemp(prefix="eaves-interop-")
        self.processes = {}
        # The client addresses by the name under which they are reported.
        self.targets = {}
        # The client addresses of all nodes, and the names of the voters.
        self.addresses = []
        self.voters = []

    def spawn(self, name, command):
        log = open(self.log(name), "wb")
        self.processes[name] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
        )
        log.close()

    def log(self, name):
        return os.path.join(self.directory, f"{name}.log")

    def data(self, name):
        return os.path.join(self.directory, name)

    def await_healthy(self, name, address):
        """Waits until the node says it is healthy; a node that ends instead, or never says so, is an error with its log."""
        deadline = time.monotonic() + START_LIMIT_SECONDS
        last = "nothing"
        while time.monotonic() < deadline:
            self.assert_alive()
            try:
                with urllib.request.urlopen(f"http://{address}/health", timeout=5) as response:
                    last = response.read().decode()
                    if '"true"' in last:
                        return
            except OSError as error:
                last = str(error)
            time.sleep(0.1)
        raise ClusterError(f"{name} is not healthy after {START_LIMIT_SECONDS} s, last said {last}\n{self.log_tail(name)}")

    def assert_alive(self):
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise ClusterError(f"{name} ended with {process.returncode}\n{self.log_tail(name)}")

    def log_tail(self, name):
        with open(self.log(name), errors="replace") as log:
            return f"the log of {name} ends:\n" + "".join(log.readlines()[-30:])

    def stop(self, keep):
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if keep:
            print(f"the data and logs are kept in {self.directory}")
        else:
            shutil.rmtree(self.directory, ignore_errors=True)


def etcd_cluster(binary, environment):
    """Three etcds; the third stands where a listener will."""
    cluster = Cluster(environment)
    ports = free_ports(6)
    members = [(f"member-{n + 1}", ports[2 * n], ports[2 * n + 1]) for n in range(3)]
    initial = ",".join(f"{name}={url(peer)}" for name, _, peer in members)
    for name, client, peer in members:
        cluster.spawn(name, [
            binary, "--name", name, "--data-dir", cluster.data(name), "--unsafe-no-fsync", "--log-level", "warn",
            "--listen-client-urls", url(client), "--advertise-client-urls", url(client),
            "--listen-peer-urls", url(peer), "--initial-advertise-peer-urls", url(peer), "--initial-cluster", initial,
        ])
        cluster.addresses.append(address(client))
        cluster.voters.append(name)
    cluster.targets = {"voter": cluster.addresses[0], "listener": cluster.addresses[2]}
    for (name, _, _), node in zip(members, cluster.addresses):
        cluster.await_healthy(name, node)
    return cluster


def eaves_cluster(binary, environment):
    """Three voters and a chain of two listeners: the second hangs on the first, and is the one that is tested."""
    cluster = Cluster(environment)
    ports = free_ports(10)
    nodes = [(f"voter-{n + 1}", ports[2 * n], ports[2 * n + 1]) for n in range(3)]
    nodes += [(f"listener-{n + 1}", ports[6 + 2 * n], ports[7 + 2 * n]) for n in range(2)]
    voters, listeners = nodes[:3], nodes[3:]
    initial = ",".join(f"{name}={url(peer)}" for name, _, peer in voters)
    try:
        for name, client, peer in voters:
            cluster.spawn(name, serve(binary, "serve", cluster, name, client, peer) + [
                "--initial-cluster", initial, "--initial-cluster-state", "new",
            ])
            cluster.voters.append(name)
        for name, client, _ in voters:
            cluster.await_healthy(name, address(client))
        upstream = ",".join(address(peer) for _, _, peer in voters)
        for name, client, peer in listeners:
            cluster.spawn(name, serve(binary, "listen", cluster, name, client, peer) + ["--upstream", upstream])
            cluster.await_healthy(name, address(client))
            upstream = address(peer)
    except ClusterError:
        cluster.stop(keep=False)
        raise
    cluster.addresses = [address(client) for _, client, _ in nodes]
    cluster.targets = {"voter": cluster.addresses[0], "listener": cluster.addresses[-1]}
    return cluster


def serve(binary, role, cluster, name, client, peer):
    return [
        binary, role, "--name", name, "--data-dir", cluster.data(name),
        "--listen-client-urls", url(client), "--advertise-client-urls", url(client),
        "--listen-peer-urls", url(peer), "--initial-advertise-peer-urls", url(peer),
    ]


def url(port):
    return f"http://{address(port)}"


def address(port):
    return f"127.0.0.1:{port}"


def free_ports(count):
    """Ports that are free now. Should another program take one first, that server says so and the run fails."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for held in sockets:
            held.bind(("127.0.0.1", 0))
        return [held.getsockname()[1] for held in sockets]
    finally:
        for held in sockets:
            held.close()
