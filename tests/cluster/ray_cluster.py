"""A Ray cluster of its own on loopback: a head with its job server and another node, each by ``ray start``.

The nodes have addresses of their own (127.0.0.2, 127.0.0.3, as Linux gives them), so Ray takes them for two computers.
Only who has the cluster's token may use it. ``python tests/cluster/ray_cluster.py`` starts one and says how to reach
it, until Ctrl-C.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from processes import free_ports, has_environment, kill_all, release_guard, start_guard, wait_until

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

#: In the environment of all processes of a cluster, and of one of its nodes.
CLUSTER, NODE = "IGRFT_TESTS_RAY", "IGRFT_TESTS_RAY_NODE"
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A node that is gone is given up after some seconds; one that is slow has fifty.
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "10000",
    "RAY_health_check_failure_threshold": "5",
    # Workers are started when there is work, and not killed for what others on this computer use.
    "RAY_prestart_worker_first_driver": "0",
    "RAY_memory_monitor_refresh_ms": "0",
}
#: Given, since Ray waits only 15 s for an agent to say which it chose.
_AGENT_PORTS = ("dashboard-agent-listen", "dashboard-agent-grpc", "metrics-export", "runtime-env-agent")
_STORE = 100_000_000


@dataclass(frozen=True)
class Node:
    """What a node offers, whatever the computer has; the first is the head. GPUs only count."""

    name: str
    cpus: int = 4
    memory: int = 16_000_000_000
    gpus: int = 0


DEFAULT_NODES = (Node("head"), Node("worker", gpus=1))


def missing() -> str | None:
    """In one line what has to be installed, or None."""
    if not sys.platform.startswith("linux"):
        return "two Ray nodes on one computer need Linux: 127.0.0.2 is no address elsewhere"
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed: pip install 'igrft[ray]'"
    return None


@contextlib.contextmanager
def ray_cluster(*nodes: Node) -> Iterator[RayCluster]:
    """A cluster whose nodes are up; it is gone afterwards, even if this process is killed.

    Raises:
        RuntimeError: Ray is not installed, or did not start; with its logs.
    """
    if problem := missing():
        raise RuntimeError(problem)
    # Sockets' paths may have 107 bytes, of which Ray takes 65.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    cluster = RayCluster(folder, nodes or DEFAULT_NODES)
    guard = start_guard(__file__, folder)
    try:
        cluster.start()
        yield cluster
    finally:
        release_guard(guard)


class RayCluster:
    """A running cluster. ``env`` makes ray.init, JobSubmissionClient and the command ``ray`` talk to it."""

    def __init__(self, folder: Path, nodes: tuple[Node, ...]) -> None:
        self.folder, self.nodes = folder, nodes
        self._hosts = {node.name: f"127.0.0.{2 + i}" for i, node in enumerate(nodes)}
        self._up: set[str] = set()
        ports = free_ports(3 + len(_AGENT_PORTS) * len(nodes), "0.0.0.0")
        self._ports, of_agents = ports[:3], iter(ports[3:])
        self._agent_ports = {node.name: [next(of_agents) for _ in _AGENT_PORTS] for node in nodes}
        self.address = f"{self.head_host}:{self._ports[0]}"
        self.dashboard = f"http://{self.head_host}:{self._ports[1]}"
        outer = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        outer.pop("PYTHONDONTWRITEBYTECODE", None)  # each of its dozen programs would compile all that it imports
        path = os.pathsep.join([str(Path(sys.executable).parent), outer.get("PATH", "")])
        self.env = {
            **outer,
            "RAY_ADDRESS": self.address,
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
            "PATH": path,
        }

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}"}

    @property
    def head_host(self) -> str:
        return self._hosts[self.nodes[0].name]

    # -- its life

    def start(self) -> None:
        for node in self.nodes:
            self._start(node)
        self.wait_nodes(60)

    def kill_node(self, name: str) -> None:
        """As a power cut would: the raylet, the workers and all that they started end at once, unheard."""
        marks = {CLUSTER: str(self.folder), NODE: name}
        self._up.discard(name)
        kill_all(lambda process: has_environment(process, **marks))

    def revive_node(self, name: str, timeout: float = 60) -> None:
        """Start it again, as after a reboot: a new node at the old address."""
        if name not in self._up:
            self._start(next(node for node in self.nodes if node.name == name))
        self.wait_nodes(timeout, name)

    def reset(self) -> None:
        """No jobs, all nodes up: what the next test starts from. A head that was killed has forgotten its jobs."""
        if self.nodes[0].name not in self._up:
            for node in self.nodes:
                self.kill_node(node.name)
        for node in self.nodes:
            if node.name not in self._up:
                self._start(node)
        client = self.client()
        for job in client.list_jobs():
            if job.submission_id and not job.status.is_terminal():
                client.stop_job(job.submission_id)
        self.wait_idle(60)
        self.wait_nodes(60)

    # -- what it does

    def client(self) -> JobSubmissionClient:
        from ray.job_submission import JobSubmissionClient

        return JobSubmissionClient(self.dashboard, headers=self._headers)

    def run(self, *command: str, timeout: float = 120, **more: str) -> str:
        """What a program prints that this cluster's environment is given to; ``more`` is added to it.

        Raises:
            RuntimeError: it fails; with what it says.
        """
        done = subprocess.run(command, env={**self.env, **more}, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def jobs(self) -> list[Any]:
        """Ray's JobDetails: those submitted, and drivers that connected by themselves (``type``)."""
        return self.client().list_jobs()

    def node_states(self) -> dict[str, str]:
        """E.g. ``{"head": "ALIVE", "worker": "DEAD"}``: the newest of each address."""
        seen = self._ask("nodes")
        found = dict.fromkeys(self._hosts, "ABSENT")
        for name, host in self._hosts.items():
            states = [node["state"] for node in seen if node["node_ip"] == host]
            if states:
                found[name] = "ALIVE" if "ALIVE" in states else "DEAD"
        return found

    def logs(self, last: int = 40) -> str:
        """The ends of its logs that say something, for a test that fails."""
        parts = []
        kinds = ("raylet.*", "gcs_server.*", "dashboard_agent.err", "worker-*.err", "job-driver-*")
        found = {path.resolve() for kind in kinds for path in self.folder.glob(f"*/session_*/logs/{kind}")}
        for path in sorted({*found, *self.folder.glob("*.out")}):
            lines = path.read_text(errors="replace").splitlines()
            told = [line for line in lines if line and not line.startswith((":", "[state-dump]"))][-last:]
            if told:
                parts.append("\n".join([f"== {path.relative_to(self.folder)}", *told]))
        return "\n".join(parts)

    def wait_idle(self, timeout: float) -> None:
        """Until no job runs and no actor lives.

        Raises:
            TimeoutError: with the logs.
        """

        def idle() -> bool:
            jobs = [job for job in self.jobs() if not job.status.is_terminal()]
            return not jobs and not [a for a in self._ask("actors") if a["state"] != "DEAD"]

        self.wait_until(idle, timeout, "no job is left")

    def wait_nodes(self, timeout: float, *names: str) -> None:
        """Until these nodes, or all, are there."""
        wanted = names or tuple(self._hosts)
        self.wait_until(
            lambda: all(self.node_states()[name] == "ALIVE" for name in wanted), timeout, f"{', '.join(wanted)} up"
        )

    def wait_until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Ask until it holds.

        Raises:
            TimeoutError: with the logs.
        """
        wait_until(condition, timeout, what, self.logs)

    # -- how

    def _ask(self, what: str) -> list[dict[str, Any]]:
        """From the state API, by HTTP: this process need not be connected."""
        import json
        import urllib.request

        request = urllib.request.Request(f"{self.dashboard}/api/v0/{what}?limit=1000", headers=self._headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)["data"]["result"]["result"]

    def _start(self, node: Node) -> None:
        host, port = self._hosts[node.name], self._ports
        head = node is self.nodes[0]
        role = (
            *("--head", f"--port={port[0]}", "--disable-usage-stats", f"--ray-client-server-port={port[2]}"),
            *("--include-dashboard=true", f"--dashboard-host={host}", f"--dashboard-port={port[1]}"),
        )
        command = (
            *("ray", "start", *(role if head else (f"--address={self.address}",)), f"--node-ip-address={host}"),
            *(f"--num-cpus={node.cpus}", f"--num-gpus={node.gpus}", f"--memory={node.memory}"),
            *(f"--{of}-port={number}" for of, number in zip(_AGENT_PORTS, self._agent_ports[node.name], strict=True)),
            *(f"--object-store-memory={_STORE}", f"--temp-dir={self.folder / node.name}"),
        )
        temporary = self.folder / f"tmp-{node.name}"  # datatrove writes its tasks' logs there first
        temporary.mkdir(exist_ok=True)
        env = {**self.env, **SETTINGS, CLUSTER: str(self.folder), NODE: node.name, "TMPDIR": str(temporary)}
        del env["RAY_ADDRESS"]  # `ray start --head` would join it
        # Ray gives itself half a minute to start, which may be too short on a computer that is busy.
        for _ in range(3):
            if self._run_start(node, command, env) == 0:
                self._up.add(node.name)
                return
            self.kill_node(node.name)
        raise RuntimeError(f"{node.name}: `ray start` fails\n{self.logs()}")

    def _run_start(self, node: Node, command: tuple[str, ...], env: dict[str, str]) -> int:
        with (self.folder / f"{node.name}.out").open("ab") as out:
            return subprocess.run(
                command,
                env=env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests
                timeout=300,
            ).returncode


def _stop(folder: Path) -> None:
    """All of a cluster, and its folder."""
    kill_all(lambda process: has_environment(process, **{CLUSTER: str(folder)}))
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    if sys.argv[1:2] == ["--guard"]:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        sys.stdin.buffer.read()
        _stop(Path(sys.argv[2]))
        return
    with contextlib.suppress(KeyboardInterrupt), ray_cluster() as cluster:
        for name, value in cluster.env.items():
            if name.startswith("RAY_"):
                print(f"export {name}={value}", flush=True)
        print(f"# {', '.join(cluster.node_states())} in {cluster.folder}; Ctrl-C ends it", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
