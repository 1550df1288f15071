# SPDX-License-Identifier: Apache-2.0
"""What the benches share: the workloads, the figures, and what processes cost."""
import json
import os
import statistics
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rig.process import children_of

TOP = Path(__file__).resolve().parent.parent
BUILD = TOP / "build/release"
TICK = os.sysconf("SC_CLK_TCK")

TABLE = """create table bench (id bigint primary key, n int, a text, amount numeric(12,2), at timestamptz, b text);
create sequence bench_new start 100000001"""
ROW = "i, i % 1000, md5(i::text), (i % 100000) / 100.0, '2026-01-01'::timestamptz + i * interval '1 ms', md5(i::text) || 'b2345678'"
SETTINGS = {"shared_buffers": "512MB", "synchronous_commit": "off", "max_wal_size": "8GB", "checkpoint_timeout": "1h",
            "autovacuum": "off"}

W2 = """\\set id random(1, {rows})
\\set id2 random(1, {rows})
begin;
update bench set n = n + 1, a = md5(:id::text) where id = :id;
update bench set amount = amount + 1, b = md5(:id2::text) where id = :id2;
select nextval('bench_new') as new \\gset
insert into bench select :new::bigint, {values} from (select :id::bigint as i) x;
delete from bench where id = :new::bigint - 1000;
commit;
"""
W3 = """do $$ begin for i in {first}..{last} loop
insert into bench select nextval('bench_new'), {values};
commit;
end loop; end $$"""
VALUES = ROW.split(", ", 1)[1]


class Workload:
    """base: rows there before the copy; make(db, folder) writes the backlog."""

    def __init__(self, name, base, scale):
        self.name, self.base = name, base
        self.rows = max(int(1_000_000 * scale), 1000)
        self.transactions = max(int({"W2": 100_000, "W3": 1_000_000}.get(name, 0) * scale), 400)

    def prepare(self, db):
        db.execute(TABLE)
        if self.base:
            db.execute(f"insert into bench select {ROW} from generate_series(1, {self.base}) i")
        db.execute("vacuum analyze bench")

    def make(self, db, folder):
        if self.name == "W1":
            db.execute(f"insert into bench select {ROW} from generate_series({self.base} + 1, {self.base} + {self.rows}) i")
            return
        if self.name == "W3":
            self.make_single(db)
            return
        script = folder / "workload.sql"
        script.write_text(W2.format(rows=self.base, values=VALUES))
        script.chmod(0o644)
        db.pgbench("-n", "-M", "prepared", "-c", "4", "-t", str(self.transactions // 4), "-f", str(script))

    def make_single(self, db):
        """Four sessions side by side; a client would take minutes for so many transactions."""
        each = self.transactions // 4
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda first: db.execute(W3.format(values=VALUES, first=first, last=first + each - 1)),
                          range(1, 4 * each, each)))


CHOSEN = []


def workloads(scale):
    base = max(int(200_000 * scale), 2000)
    all_of_them = [Workload("W1", 0, scale), Workload("W2", base, scale), Workload("W3", 0, scale)]
    return [w for w in all_of_them if not CHOSEN or w.name in CHOSEN]


class Results:
    """Prints and writes figures. missed: those outside of what is promised of them."""

    def __init__(self, path):
        self.file = open(path, "w") if path else None
        self.missed = []

    def figure(self, bench, workload, metric, unit, ours, peer=(), peer_name=None, at_least=None, at_most=None):
        """One figure: lists of what was measured, pair by pair. The bounds are those of the ratio, if there is a peer."""
        row = {"bench": bench, "workload": workload, "metric": metric, "unit": unit,
               "ours": round(statistics.median(ours), 3), "peer": None, "peer_name": peer_name, "ratio": None,
               "n": len(ours), "spread": round((max(ours) - min(ours)) / statistics.median(ours), 3) if statistics.median(ours) else 0}
        if peer:
            row["peer"] = round(statistics.median(peer), 3)
            row["ratio"] = round(statistics.median(a / b for a, b in zip(ours, peer)), 3)
        value = row["ratio"] if peer else row["ours"]
        is_kept = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
        promised = "".join([f" at least {at_least:g}" if at_least is not None else "", f" at most {at_most:g}" if at_most is not None else ""])
        if promised:
            row["promised"], row["is_kept"] = promised.strip(), is_kept
        if not is_kept:
            self.missed.append(f"{bench} {workload} {metric}: {value:g}, promised{promised}")
        against = f"  {peer_name} {row['peer']:>12,.2f}  ratio {row['ratio']:.2f}" if peer else ""
        print(f"{bench:<12}{workload:<7}{metric:<28}{row['ours']:>14,.2f} {unit:<12}{against}  n={row['n']} spread {row['spread']:.2f}"
              f"{'  ' + ('kept' if is_kept else 'MISSED') + ':' + promised if promised else ''}",
              flush=True)
        if self.file:
            self.file.write(json.dumps(row) + "\n")
            self.file.flush()


def timed(command):
    """Of a command that must succeed: wall seconds, what it wrote, CPU seconds."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=err, text=True)
        out = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(status)  # nobody else may wait for it any more
        if process.returncode:
            err.seek(0)
            raise SystemExit(f"{command[0]}: exit code {process.returncode}\n{err.read()}")
    return wall, out, used.ru_utime + used.ru_stime


def cpu_of(pid):
    """CPU seconds of a process, its children now, and those it has reaped."""
    def one(p, reaped):
        try:
            fields = Path(f"/proc/{p}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            return 0
        return sum(int(v) for v in fields[11:15 if reaped else 13]) / TICK
    return one(pid, True) + sum(one(child, False) for child in children_of(pid))
