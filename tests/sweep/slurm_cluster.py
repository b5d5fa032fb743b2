"""A real Slurm on this machine's loopback: one node, its own ports, keys and folders."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
CONF = """\
ClusterName=minihmx
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.sock
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SlurmdTimeout=5
KillWait=5
ReturnToService=2
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str:
    """Why no Slurm can be started here; "" where one can."""
    absent = [name for name in NEEDED if not shutil.which(name, path=_path())]
    if absent:
        return f"no {', '.join(absent)} (Debian's slurm-wlm and munge)"
    return "" if os.geteuid() == 0 else "slurmd needs root"


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Cluster:
    """The daemons, and what a test does to them."""

    def __init__(self, folder: Path):
        self.folder, self.host = folder, socket.gethostname().split(".")[0]
        self.env = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(64))
        (folder / "munge.key").chmod(0o400)
        ports = _free_ports(2)
        text = CONF.format(folder=folder, host=self.host, ports=ports)
        (folder / "slurm.conf").write_text(text)
        own = (f"--{name}={folder}/munge.{end}" for name, end in MUNGE_FILES.items())
        self.munged = self.start("munged", "--foreground", "--force", *own)
        self.until(lambda: (folder / "munge.sock").exists())
        self.slurmctld = self.start("slurmctld", "-D")
        self.slurmd = self.start("slurmd", "-D")
        self.until(lambda: "idle" in self.say("sinfo", "--noheader", "--format=%t"))

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """A daemon in the foreground, with its own log."""
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | self.env)

    def say(self, *command: str) -> str:
        """What one of Slurm's commands prints; nothing while the controller is not up yet."""
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | self.env)
        return done.stdout

    def until(self, true: Callable[[], object], seconds: float = 240.0) -> None:
        """Wait for it."""
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, self.logs()
            time.sleep(0.05)

    def queue(self) -> dict[str, str]:
        """By task, as 3_1, its state and why it waits."""
        text = self.say("squeue", "--noheader", "--array", "--format=%i %T %r")
        return {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines()}

    def hurry(self) -> None:
        """What was queued again begins now: Slurm has it wait for two minutes."""
        for task, state in self.queue().items():
            if "BeginTime" in state:
                self.say("scontrol", "update", f"JobId={task}", "StartTime=now")

    def drain(self) -> None:
        """Wait until nothing is queued."""

        def empty() -> bool:
            self.hurry()
            time.sleep(0.3)
            return not self.queue()

        self.until(empty)

    def lose_node(self) -> None:
        """Kill the node's daemon and all that it runs, as when its power fails."""
        self.slurmd.kill()
        self.slurmd.wait()
        for number in self.of_jobs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def of_jobs(self) -> list[int]:
        """Processes of this cluster's jobs, and the daemons of each that started them."""
        found = set[int]()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                environment = (folder / "environ").read_bytes().split(b"\0")
                ours = f"SLURM_CONF={self.env['SLURM_CONF']}".encode() in environment
                if not ours or not any(e.startswith(b"SLURM_JOB_ID=") for e in environment):
                    continue
                found.add(int(folder.name))
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                if Path("/proc", parent, "cmdline").read_bytes().startswith(b"slurmstepd: ["):
                    found.add(int(parent))
        return sorted(found)

    def logs(self) -> str:
        """The end of every daemon's log, for a test that failed."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in logs)

    def close(self) -> None:
        """End all of it."""
        self.lose_node()
        for daemon in (self.slurmctld, self.munged):
            daemon.terminate()
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()


MUNGE_FILES = {
    "key-file": "key",
    "socket": "sock",
    "pid-file": "pid",
    "log-file": "log",
    "seed-file": "seed",
}


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextlib.contextmanager
def cluster() -> Iterator[Cluster]:
    """One that ends with the block. A socket's path may be a hundred characters long at most."""
    folder = Path(tempfile.mkdtemp(prefix="hmx-"))
    found = Cluster(folder)
    try:
        yield found
    finally:
        found.close()
        shutil.rmtree(folder, ignore_errors=True)
