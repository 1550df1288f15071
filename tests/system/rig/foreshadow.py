# SPDX-License-Identifier: Apache-2.0
"""The binary under test."""
import json
import os
import re

from . import place
from .process import Process, run

SANITIZER = re.compile(r"ERROR: \w+Sanitizer|WARNING: ThreadSanitizer|runtime error: ")


def to_yaml(value, indent=0):
    """Block YAML of dicts, lists, strings, numbers, booleans and None, as a person would write it."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        return "".join(f"{pad}{_key(key)}:{_nested(item, indent)}" for key, item in value.items())
    if isinstance(value, list) and value:
        return "".join(f"{pad}-{_nested(item, indent)}" for item in value)
    return f"{pad}{_scalar(value)}\n"


def _key(key):
    return key if re.fullmatch(r"[A-Za-z_][\w.]*", key) else json.dumps(key)


def _nested(item, indent):
    if isinstance(item, (dict, list)) and item:
        return "\n" + to_yaml(item, indent + 1)
    return f" {_scalar(item)}\n"


def _scalar(value):
    if value is None:
        return "~"
    if isinstance(value, str):
        # A plain word stays plain, the rest is quoted: JSON's quoting is YAML's.
        plain = re.fullmatch(r"[A-Za-z][\w-]*", value) and value not in ("true", "false", "null", "yes", "no")
        return value if plain else json.dumps(value, ensure_ascii=False)
    return json.dumps(value)


class Foreshadow:
    """A migration: its YAML file and the processes that run it.

        f = Foreshadow(config, binary)        config: a dict, or the YAML as a string
        p = f.start()                         `foreshadow run m.yaml`: a Process
        p = f.start(role="primary", instance="b", args=["--until", "caught-up"], env={…})
        f.run_until("caught-up")              runs to its end, must exit 0; args for roles
        f.run_cli("status", "--json")         -> CompletedProcess (returncode, stdout, stderr)
        f.json("status")                      -> decoded --json report; must exit 0
        f.stop()  SIGTERM to all that run, must exit 0;  f.kill9()  all;  f.log()  of all
        f.write(config)                       a changed configuration

    env: added to the environment of every process (FORESHADOW_FAILPOINTS of one process goes to
    start()). A sanitizer's report in any output makes stop(), kill9() and close() fail.
    """

    def __init__(self, config, binary, env=None, folder=None):
        self.binary = binary
        self.env = dict(env or {})
        self.folder = folder or place.folder("migration")
        self.yaml = self.folder / "migration.yaml"
        self.processes = []
        self.write(config)

    def write(self, config):
        self.config = config
        new = self.yaml.with_suffix(".new")  # in one step: a process of ours may be reading it
        new.write_text(config if isinstance(config, str) else to_yaml(config))
        new.replace(self.yaml)

    def environment(self, env=None):
        """ours, then self.env, then env. A leak report at exit would change the exit code: leaks are
        looked for by the unit tests, whatever ASAN_OPTIONS says."""
        asan = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "detect_leaks=0"]))
        return {**os.environ, "ASAN_OPTIONS": asan, **self.env, **(env or {})}

    def start(self, role=None, instance=None, args=(), env=None):
        command = [self.binary, "run", self.yaml]
        if role:
            command += ["--role", role]
        if instance:
            command += ["--instance", instance]
        name = "-".join(filter(None, [f"{len(self.processes) + 1}", role or "run", instance]))
        process = Process(name, [*command, *args], self.folder, env=self.environment(env))
        self.processes.append(process)
        return process

    def run_until(self, until="caught-up", args=(), timeout=120):
        process = self.start(args=["--until", until, *args])
        code = process.wait(timeout)
        assert code == 0, f"run --until {until}: exit code {code}\n{process.tail()}"
        return process

    def run_cli(self, command, *args, env=None, timeout=60):
        """`foreshadow COMMAND m.yaml args`; the exit code is the caller's to judge."""
        result = run([self.binary, command, self.yaml, *args], env=self.environment(env), check=False,
                     timeout=timeout, cwd=self.folder)
        _refuse_sanitizer_reports(f"foreshadow {command}", result.stdout + result.stderr)
        return result

    def json(self, command, *args):
        result = self.run_cli(command, "--json", *args)
        assert result.returncode == 0, f"{command}: exit code {result.returncode}\n{result.stderr}"
        return json.loads(result.stdout)

    def running(self):
        return [p for p in self.processes if p.running()]

    def stop(self, timeout=60):
        """SIGTERM to all at once; each must drain and exit 0."""
        stopping = self.running()
        for process in stopping:
            process.signal(15)
            process.sigcont()
        codes = {p.name: p.wait(timeout) for p in stopping}
        self.check_sanitizers()
        assert not any(codes.values()), f"exit codes {codes}\n{self.tail()}"

    def kill9(self):
        for process in self.running():
            process.kill9()
        self.check_sanitizers()

    def close(self):
        """What the fixtures do at the end of a test."""
        self.kill9()

    def check_sanitizers(self):
        for process in self.processes:
            _refuse_sanitizer_reports(process.name, process.log())

    def log(self):
        return "".join(p.log() for p in self.processes)

    def tail(self, lines=40):
        return "\n".join(f"--- {p.name} (exit code {p.exit_code()})\n{p.tail(lines)}"
                         for p in self.processes)


def _refuse_sanitizer_reports(name, log):
    found = SANITIZER.search(log)
    if found:
        raise AssertionError(f"{name}: sanitizer report\n{log[found.start():found.start() + 6000]}")
