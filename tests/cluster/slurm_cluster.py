"""A Slurm of its own on loopback: munged, slurmctld and a slurmd for each node, all in a temporary folder.

Any user may run it; jobs run as that user. Nothing of a Slurm that the computer already has is read or touched.
``python tests/cluster/slurm_cluster.py`` starts one and says how to reach it, until Ctrl-C.

Needs Debian's packages ``slurm-wlm`` and ``munge`` (no service of theirs has to be running).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from processes import free_ports, has_environment, kill_all, release_guard, start_guard, wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
#: Seconds without an answer after which the controller gives a node up.
SLURMD_TIMEOUT = 10
#: As ``slurm.conf`` has them, without accounting and cgroups; a keyword of :func:`slurm_cluster` replaces one, with
#: None it is left out.
SETTINGS: dict[str, str | int | None] = {
    "ClusterName": "loopback",
    "AuthType": "auth/munge",
    "CredType": "cred/munge",
    "ProctrackType": "proctrack/linuxproc",
    "GresTypes": "gpu",
    "MailProg": "/bin/true",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    "DefMemPerCPU": 1000,  # without it a job that names none takes its node's whole memory
    "SchedulerType": "sched/backfill",
    "SchedulerParameters": "sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1",
    "SlurmdParameters": "config_overrides",
    "SlurmdTimeout": SLURMD_TIMEOUT,
    "SlurmctldTimeout": 10,
    "MessageTimeout": 5,
    "ReturnToService": 2,
    "JobRequeue": 1,
    "KillWait": 2,
    "MinJobAge": 300,
    "MaxArraySize": 1001,
    "SlurmctldDebug": "verbose",
    "SlurmdDebug": "verbose",
}
#: A requeued job rests for as long as credentials live, by default two minutes.
CREDENTIAL_SECONDS = 10


@dataclass(frozen=True)
class Node:
    """What a node offers, whatever the computer has; memory in MB. GPUs only count: no device stands behind."""

    name: str
    cpus: int = 4
    memory: int = 16000
    gpus: int = 0


@dataclass(frozen=True)
class Job:
    """A job, or an element of an array, as the controller has it; the elements that wait are one job."""

    job_id: str
    array_job: str  # "" outside arrays
    array_task: str  # "3"; "2-5" of elements that wait together; "" outside arrays
    name: str
    state: str
    reason: str
    nodes: str
    restarts: int
    exit_code: str  # "1:0": status, signal
    fields: dict[str, str] = field(repr=False)

    @property
    def over(self) -> bool:
        return self.state not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED")


DEFAULT_NODES = (Node("node1", gpus=1), Node("node2"))


def missing() -> str | None:
    """In one line what has to be installed, or None."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if not absent:
        return None
    return f"Slurm is not installed ({', '.join(absent)} not found): apt-get install slurm-wlm munge"


@contextlib.contextmanager
def slurm_cluster(*nodes: Node, **settings: str | int | None) -> Iterator[SlurmCluster]:
    """A cluster whose nodes are idle; it is gone afterwards, even if this process is killed.

    Raises:
        RuntimeError: Slurm is not installed, or did not start; with its logs.
    """
    if problem := missing():
        raise RuntimeError(problem)
    # Sockets' paths may have 107 bytes, which pytest's folders come near to.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = SlurmCluster(folder, nodes or DEFAULT_NODES, settings)
    guard = start_guard(__file__, folder)
    try:
        cluster.start()
        yield cluster
    finally:
        release_guard(guard)


class SlurmCluster:
    """A running cluster. ``env`` makes sbatch, squeue, scancel, srun and scontrol talk to it."""

    def __init__(self, folder: Path, nodes: tuple[Node, ...], settings: dict[str, str | int | None]) -> None:
        self.folder, self.nodes = folder, nodes
        self._by_name = {node.name: node for node in nodes}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        # Under a job of another Slurm its variables would decide over ours.
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "SRUN"))}
        outer.pop("PYTHONDONTWRITEBYTECODE", None)  # each job would compile all that it imports
        self.env = {**outer, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
        for part in ("log", "state", "spool", "munge"):
            (folder / part).mkdir()
        self._write_configuration(settings)

    # -- its life

    def start(self) -> None:
        log, munge = self.folder / "log", self.folder / "munge"
        self._start(
            "munged",
            *("munged", "--foreground", "--force", "--num-threads=4", "--origin=127.0.0.1"),
            *(f"--socket={munge / 'socket'}", f"--key-file={munge / 'key'}", f"--seed-file={munge / 'seed'}"),
            *(f"--pid-file={munge / 'pid'}", f"--log-file={log / 'munged.log'}"),
        )
        self.wait_until((munge / "socket").exists, 30, "munged opens its socket")
        self.start_controller()
        for node in self.nodes:
            self._start(node.name, "slurmd", "-D", "-N", node.name)
        self.wait_nodes(60)

    def start_controller(self) -> None:
        """The first time, or after :meth:`kill_controller`: jobs and nodes are as they were saved."""
        self._start("slurmctld", "slurmctld", "-D")
        self.wait_until(lambda: self.try_run("scontrol", "ping").returncode == 0, 30, "slurmctld answers")

    def kill_controller(self) -> None:
        """As a crash would: what it had not saved yet is lost, jobs go on."""
        daemon = self._daemons.pop("slurmctld")
        kill_all(lambda process: process.pid == daemon.pid)
        daemon.wait()

    def kill_node(self, name: str) -> None:
        """As a power cut would: the daemon, the steps and the jobs' programs of this node end at once, unheard."""
        daemon = self._daemons.pop(self._by_name[name].name)
        of_node = _of_node(self.folder, name)
        kill_all(lambda process: process.pid == daemon.pid or of_node(process))
        daemon.wait()

    def revive_node(self, name: str, timeout: float = 60) -> None:
        """Start it again, as after a reboot, and wait until it takes jobs."""
        if name not in self._daemons:
            self._start(self._by_name[name].name, "slurmd", "-D", "-N", name)
        self.wait_nodes(timeout, name)

    def reset(self) -> None:
        """No jobs, all nodes up: what the next test starts from."""
        if "slurmctld" not in self._daemons:
            self.start_controller()
        for node in self.nodes:
            if node.name not in self._daemons:
                self._start(node.name, "slurmd", "-D", "-N", node.name)
        self.run("scancel", "--user", str(os.getuid()))
        self.wait_idle(90)
        self.wait_nodes(60)

    # -- what it does

    def run(self, *command: str, **more: str) -> str:
        """What a command of Slurm's prints; ``more`` is added to its environment.

        Raises:
            RuntimeError: it fails; with what it says.
        """
        done = self.try_run(*command, **more)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def try_run(self, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env={**self.env, **more}, capture_output=True, text=True, timeout=120)

    def jobs(self) -> list[Job]:
        """All that the controller remembers: those that are over too, for MinJobAge seconds."""
        return [_job(line) for line in self.run("scontrol", "show", "job", "-o").splitlines() if "JobId=" in line]

    def node_states(self) -> dict[str, str]:
        """E.g. ``{"node1": "idle", "node2": "down*"}``; an asterisk: it does not answer."""
        return dict(line.split() for line in self.run("sinfo", "-h", "-N", "-o", "%N %T").splitlines())

    def logs(self, last: int = 60) -> str:
        """The ends of all its logs, for a test that fails."""
        parts = []
        for path in sorted((self.folder / "log").iterdir()):
            lines = path.read_text(errors="replace").splitlines()[-last:]
            parts.append("\n".join([f"== {path.name}", *lines]))
        return "\n".join(parts)

    def wait_idle(self, timeout: float) -> None:
        """Until no job waits or runs.

        Raises:
            TimeoutError: with the jobs and the logs.
        """
        self.wait_until(lambda: not self.run("squeue", "-h").strip(), timeout, "no job is left")

    def wait_nodes(self, timeout: float, *names: str) -> None:
        """Until these nodes, or all, take jobs."""
        wanted = names or tuple(self._by_name)
        up = ("idle", "mixed", "allocated", "completing")
        self.wait_until(
            lambda: all(self.node_states().get(n) in up for n in wanted), timeout, f"{', '.join(wanted)} up"
        )

    def wait_until(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        """Ask until it holds.

        Raises:
            TimeoutError: with the queue, the nodes and the logs.
            RuntimeError: a daemon has ended by itself.
        """

        def told() -> str:
            state = "\n".join(self.try_run(*c).stdout for c in (("squeue",), ("sinfo", "-N", "-l")))
            return f"{state}\n{self.logs()}"

        def holds() -> bool:
            for name, daemon in self._daemons.items():
                if daemon.poll() is not None:
                    raise RuntimeError(f"{name} ended with status {daemon.returncode}\n{self.logs()}")
            return condition()

        wait_until(holds, timeout, what, told)

    # -- how

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                command,
                env=self.env,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the tests
            )

    def _write_configuration(self, settings: dict[str, str | int | None]) -> None:
        folder, user = self.folder, os.getuid()
        key = folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        ports = free_ports(1 + len(self.nodes))
        conf: dict[str, str | int | None] = {
            **SETTINGS,
            "SlurmctldHost": f"{socket.gethostname()}(127.0.0.1)",
            "SlurmctldPort": ports[0],
            "SlurmUser": user,
            "SlurmdUser": user,
            "AuthInfo": f"socket={folder / 'munge' / 'socket'},cred_expire={CREDENTIAL_SECONDS}",
            "StateSaveLocation": folder / "state",
            "SlurmdSpoolDir": folder / "spool" / "%n",
            "SlurmctldPidFile": folder / "slurmctld.pid",
            "SlurmdPidFile": folder / "%n.pid",
            "SlurmctldLogFile": folder / "log" / "slurmctld.log",
            "SlurmdLogFile": folder / "log" / "%n.log",
            **settings,
        }
        lines = [f"{key}={value}" for key, value in conf.items() if value is not None]
        for node, port in zip(self.nodes, ports[1:], strict=True):
            gpus = f" Gres=gpu:{node.gpus}" if node.gpus else ""
            lines.append(
                f"NodeName={node.name} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port} CPUs={node.cpus}"
                f" RealMemory={node.memory}{gpus} State=UNKNOWN"
            )
        names = ",".join(node.name for node in self.nodes)
        lines.append(f"PartitionName=main Nodes={names} Default=YES MaxTime=INFINITE State=UP")
        (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        # A count alone is not taken for a GPU: each needs the file of a character device.
        (folder / "gres.conf").write_text(
            "".join(f"NodeName={n.name} Name=gpu File=/dev/null\n" for n in self.nodes for _ in range(n.gpus))
        )


def _path() -> str:
    """The daemons are in sbin, which users' paths leave out; datatrove's programs beside this Python."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _job(line: str) -> Job:
    found = dict(re.findall(r"([A-Z][\w:/]*)=(.*?)(?= [A-Z][\w:/]*=|$)", line))
    array = found.get("ArrayJobId", "")
    return Job(
        found["JobId"],
        array,
        found.get("ArrayTaskId", ""),
        found.get("JobName", ""),
        found.get("JobState", ""),
        found.get("Reason", ""),
        found.get("NodeList", "").replace("(null)", ""),
        int(found.get("Restarts", 0)),
        found.get("ExitCode", ""),
        found,
    )


def _of_node(folder: Path, node: str) -> Callable[[psutil.Process], bool]:
    """Whether a process is a step or a job's program of this node, or its daemon's child."""
    log, conf = str(folder / "log" / f"{node}.log"), str(folder / "slurm.conf")

    def belongs(process: psutil.Process) -> bool:
        if process.name().startswith("slurm"):  # steps overwrite their environment
            return any(file.path == log for file in process.open_files())
        return has_environment(process, SLURM_CONF=conf, SLURMD_NODENAME=node)

    return belongs


def _stop(folder: Path) -> None:
    """All of a cluster, and its folder."""
    conf, daemons = str(folder / "slurm.conf"), ("munged", "slurmctld", "slurmd")
    of_nodes = [_of_node(folder, spool.name) for spool in (folder / "spool").glob("*")]

    def belongs(process: psutil.Process) -> bool:
        if process.name() in daemons and has_environment(process, SLURM_CONF=conf):
            return True
        return any(of_node(process) for of_node in of_nodes)

    kill_all(belongs)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    if sys.argv[1:2] == ["--guard"]:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        sys.stdin.buffer.read()
        _stop(Path(sys.argv[2]))
        return
    with contextlib.suppress(KeyboardInterrupt), slurm_cluster() as cluster:
        print(f"export SLURM_CONF={cluster.folder / 'slurm.conf'}", flush=True)
        print(f"# nodes {', '.join(cluster.node_states())}, partition main; Ctrl-C ends it", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
