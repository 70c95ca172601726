"""Machines of one network, made of this one: namespaces with addresses and host names of their own.

Needs root and iproute2 (`bash tests/hosts/install.sh`). Everything is removed at the end, the processes first;
what a killed run of the tests left is removed by the next one.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

PREFIX = "dvae"


def why_not() -> str:
    """Why there can be no such machines here, or nothing."""
    if not shutil.which("ip"):
        return "there is no ip: bash tests/hosts/install.sh"
    if os.geteuid():
        return "network namespaces need root"
    name = f"{PREFIX}{os.getpid()}try"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True)
    return f"network namespaces are not allowed here: {tried.stderr}" if tried.returncode else ""


class Machine:
    """A namespace that is a host of the network."""

    def __init__(self, network: str, number: int) -> None:
        self.name, self.address = f"{network}host{number}", f"10.77.0.{number + 1}"
        self._started: list[subprocess.Popen] = []

    def start(self, command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen:
        """Run a command there."""
        named = ["unshare", "--uts", "bash", "-c", 'hostname "$0"; exec "$@"', self.name, *command]
        with log.open("ab") as file:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.name, *named],
                env={**os.environ, "GLOO_SOCKET_IFNAME": "eth0", **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._started.append(process)
        return process

    def cut(self) -> None:
        """Pull the cable."""
        ip("-n", self.name, "link", "set", "eth0", "down")

    def processes(self) -> list[int]:
        """The ids of what runs there."""
        return processes(self.name)

    def kill(self) -> None:
        """As a power cut would."""
        self.signal(signal.SIGKILL)
        for process in self._started:
            process.wait()

    def signal(self, number: int) -> None:
        """To all that runs there."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@contextlib.contextmanager
def network(count: int) -> Iterator[list[Machine]]:
    """Machines 10.77.0.1, 10.77.0.2 … on a switch."""
    remove_left()
    name = f"{PREFIX}{os.getpid()}"
    machines = [Machine(name, number) for number in range(count)]
    try:
        ip("netns", "add", f"{name}switch")
        ip("-n", f"{name}switch", "link", "add", "bridge", "type", "bridge")
        ip("-n", f"{name}switch", "link", "set", "bridge", "up")
        for number, machine in enumerate(machines):
            ip("netns", "add", machine.name)
            port = ["link", "add", f"port{number}", "type", "veth", "peer", "name", "eth0"]
            ip("-n", f"{name}switch", *port, "netns", machine.name)
            ip("-n", f"{name}switch", "link", "set", f"port{number}", "master", "bridge", "up")
            ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                ip("-n", machine.name, "link", "set", link, "up")
            hosts = Path(
                "/etc/netns", machine.name, "hosts"
            )  # `ip netns exec` shows it as /etc/hosts
            hosts.parent.mkdir(parents=True)
            lines = [f"{other.address} {other.name}\n" for other in machines]
            hosts.write_text("127.0.0.1 localhost\n" + "".join(lines))
        yield machines
    finally:
        for machine in machines:
            machine.kill()
        remove(name)


def remove_left() -> None:
    """Remove the networks of tests that are dead."""
    for name in names():
        owner = re.match(rf"{PREFIX}(\d+)", name)
        if owner and not Path("/proc", owner[1]).exists():
            remove(owner[0])


def remove(network: str) -> None:
    """Remove a network, and what runs on it."""
    for name in names():
        if re.fullmatch(rf"{network}[a-z]+\d*", name):
            for pid in processes(name):
                os.kill(pid, signal.SIGKILL)
            ip("netns", "delete", name)
            shutil.rmtree(Path("/etc/netns", name), ignore_errors=True)


def names() -> list[str]:
    """Of all network namespaces."""
    return [line.split()[0] for line in ip("netns", "list").splitlines()]


def processes(name: str) -> list[int]:
    """The ids of what runs in a network namespace."""
    told = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
    return [int(pid) for pid in told.stdout.split()]


def ip(*arguments: str) -> str:
    """Run iproute2's `ip`."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout
