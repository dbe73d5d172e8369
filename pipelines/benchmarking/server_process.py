"""The CPU time and the memory of a server on this machine, with all its child processes."""

import contextlib
import ipaddress
import socket

import psutil

from pipelines.benchmarking.connections import Target


class ServerProcesses:
    """A process and its descendants. One that ends takes its CPU time with it, so look before and after."""

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)

    def family(self) -> list[psutil.Process]:
        """Those that run now; empty when the first has ended."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return [self._root, *self._root.children(recursive=True)]
        return []

    def cpu_s(self) -> float:
        """User and system time so far."""
        used = 0.0
        for member in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                used += times.user + times.system
        return used

    def rss_mb(self) -> float:
        """Resident memory; what several processes share counts once for each."""
        used = 0
        for member in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                used += member.memory_info().rss
        return used / 1e6

    def resident_mb(self) -> float:
        """Memory in use: what several processes share counts once (PSS), where the system tells it."""
        used = 0
        for member in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                try:
                    used += member.memory_full_info().pss
                except (AttributeError, psutil.AccessDenied):
                    used += member.memory_info().rss
        return used / 1e6


def find_listener(target: Target) -> ServerProcesses | None:
    """Whoever listens at `target`, if that is on this machine and this user may know."""
    try:
        addresses = {found[4][0] for found in socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)}
        if not all(ipaddress.ip_address(address).is_loopback for address in addresses):
            return None
        listening = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == target.port and connection.pid
        ]
        if not listening:
            return None
        # of workers that share the socket, the one that started the others
        pids = set(listening)
        roots = [pid for pid in pids if psutil.Process(pid).ppid() not in pids]
        return ServerProcesses(min(roots, default=min(pids)))
    except (OSError, psutil.Error):
        return None
