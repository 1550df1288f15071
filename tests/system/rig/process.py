# SPDX-License-Identifier: Apache-2.0
"""Child processes that never outlive the test run."""
import os
import pwd
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .wait import wait_until

# PDEATHSIG fires when the *thread* that forked ends. One thread that lives as long as the run
# starts all children, so a test may start servers from threads of its own.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


def server_user():
    """The user that PostgreSQL runs as: it refuses root."""
    return "postgres" if os.geteuid() == 0 else None


def command_as(user, args):
    """args, to be run as user (None: as we are) and killed when the runner dies."""
    command = ["setpriv", "--pdeathsig", "KILL"]
    if user:
        command += ["--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid), "--init-groups"]
    return command + ["--"] + [str(a) for a in args]


def run(args, user=None, timeout=300, check=True, **kw):
    """Runs a command to its end; returns CompletedProcess with text output. A failure raises
    AssertionError with what the command wrote."""
    kw.setdefault("cwd", "/")
    result = subprocess.run(command_as(user, args), stdin=subprocess.DEVNULL, capture_output=True,
                            text=True, errors="replace", timeout=timeout, **kw)
    if check and result.returncode != 0:
        raise AssertionError(f"{' '.join(map(str, args))}: exit code {result.returncode}\n"
                             f"{result.stdout}{result.stderr}")
    return result


class Process:
    """A running command; stdout and stderr go to files and can be read at any time.

        p = Process("name", ["cmd", "arg"], folder)
        p.pid, p.running(), p.wait(timeout) -> exit code (-9 when killed by signal 9)
        p.out(), p.err(), p.log()         what it wrote so far: stdout, stderr, both
        p.signal(n), p.kill9(), p.sigstop(), p.sigcont(), p.is_stopped(), p.stop(timeout)
        p.peak_rss() bytes (VmHWM), p.cpu_seconds(), p.command_line()

    It starts in a session of its own (Ctrl-C reaches only the test runner) and is killed by the
    kernel when the runner dies, however that happens.
    """

    def __init__(self, name, args, folder, user=None, env=None, cwd=None):
        self.name = name
        self.args = [str(a) for a in args]
        self.out_path = Path(folder) / f"{name}.out"
        self.err_path = Path(folder) / f"{name}.err"
        with open(self.out_path, "ab") as out, open(self.err_path, "ab") as err:
            self._child = _spawner.submit(
                subprocess.Popen, command_as(user, args), stdin=subprocess.DEVNULL, stdout=out,
                stderr=err, env=env, cwd=cwd or folder, start_new_session=True).result()
        self.pid = self._child.pid  # setpriv became the command: the same process

    def running(self):
        return self._child.poll() is None

    def exit_code(self):
        """None while it runs."""
        return self._child.poll()

    def wait(self, timeout=60):
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} (pid {self.pid}) still runs after {timeout} s; "
                               f"its log ends:\n{self.tail()}") from None

    def signal(self, number):
        if self.running():
            self._child.send_signal(number)

    def kill9(self):
        self.signal(signal.SIGKILL)
        self._child.wait()

    def sigstop(self):
        """Returns when it stands still."""
        self.signal(signal.SIGSTOP)
        wait_until(self.is_stopped, 10, f"{self.name} to stop")

    def sigcont(self):
        self.signal(signal.SIGCONT)

    def is_stopped(self):
        """Stopped by a signal: ours, or the `stop` action of a failpoint."""
        return self._stat()[0] == "T"

    def stop(self, timeout=60):
        """SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout)

    def out(self):
        return self.out_path.read_text(errors="replace")

    def err(self):
        return self.err_path.read_text(errors="replace")

    def log(self):
        return self.err() + self.out()

    def tail(self, lines=30):
        return "\n".join(self.log().splitlines()[-lines:])

    def wait_log(self, text, timeout=60):
        """Until text is in what it wrote; fails at once when the process has ended without it."""
        def seen():
            ended = not self.running()
            if text in self.log():
                return True
            assert not ended, f"{self.name} ended ({self.exit_code()}) without {text!r}:\n{self.tail()}"
            return False
        wait_until(seen, timeout, lambda: f"{text!r} from {self.name}, which wrote:\n{self.tail()}")

    def peak_rss(self):
        """VmHWM in bytes: of a running process only."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"{self.name} has ended: ask for peak_rss before")

    def cpu_seconds(self):
        fields = self._stat()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def command_line(self):
        return Path(f"/proc/{self.pid}/cmdline").read_bytes()

    def _stat(self):
        """/proc/PID/stat from the state on: the name before it may hold spaces."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()


def children_of(pid):
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found
