# SPDX-License-Identifier: Apache-2.0
"""reconcile: what comparing costs: against counting the rows, against md5 in chunks, and beside pgbench on the source.

A *pass* is one `foreshadow verify --role primary --table T` of a table that is the same on both sides, while ingest and
primary run and the source is idle. It is timed as a user sees it: all of the process, its start and the planted
difference included. Per side means: of one side's rows. N is the table's rows.

full    rate         N / seconds of the pass; peer: N / seconds of `SELECT count(*)`, in one backend, the mean of the two
                     servers. Both sides are read in these seconds, one after the other or side by side
        source_rate  N / seconds in which the source's backends worked for the pass (pg_stat_database.active_time); peer:
                     count(*) there. What one side costs, whatever the pass waits for
        target_rate  likewise, of the target
md5     rate         N / seconds of the pass; peer: data-diff's way: 32 ranges of the key, count and sum of md5(row::text) on both
                     servers at once
        source_rate  as above, against what the source's backends worked for the peer; target_rate: the target's
linear  rate_N       N / seconds of the pass; peer: of the least N. What a pass costs whatever its N makes it grow
        time_N       microseconds that each row more than in the size before takes; peer: the same of the second size
memory  peak_N       peak RSS of the verify process; peer: of the least N
load    tps          pgbench (tpcb-like) on the source, ingest and shadow running, with role reconcile against without.
                     Reconcile is started with each turn: the scrub of all tables is within
"""
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import BUILD, CHOSEN, ROW, SETTINGS, TABLE
from rig import Foreshadow, Kafka, Postgres
from rig.wait import wait_until

SIZES = (100_000, 1_000_000, 10_000_000)
COLUMNS = TABLE.split(";")[0].split("bench", 1)[1]

VERIFY = {"window": "5s", "scrub": "1m", "source_load": 0.1}
LOAD_SCALE, LOAD_SECONDS, LOAD_CLIENTS = 50, 60, 4


def is_live(db, tables):
    return (db.value("select to_regclass('foreshadow.copies') is not null") and
            db.value("select count(*) = %s and bool_and(state = 'live') from foreshadow.copies", tables))


# ---- a pass ----

class Equal:
    """Tables of these sizes on the source, and the target that a migration copied them to; it goes on running."""

    def __init__(self, source, target, kafka, sizes):
        self.source, self.target = source.createdb("compared"), target.createdb("compared")
        for rows in sizes:
            for db in (self.source, self.target):
                db.execute(f"create table t{rows}{COLUMNS}")
            self.source.execute(f"insert into t{rows} select {ROW} from generate_series(1, {rows}) i")
        self.f = Foreshadow({"migration": "compared", "source": {"uri": self.source.uri()}, "target": {"uri": self.target.uri()},
                             "kafka": {"bootstrap.servers": kafka.bootstrap, "partitions": 12}, "schema": "exists",
                             "tables": {"include": ["public.t*"]}, "risk": {"shadow_threshold": 0},
                             "verify": {"window": "off"}}, BUILD / "foreshadow")
        self.f.start(role="ingest"), self.f.start(role="primary")
        wait_until(lambda: is_live(self.target, len(sizes)), 1800, lambda: f"the copy\n{self.f.tail()}")
        for db in (self.source, self.target):
            db.execute("vacuum analyze")
            db.execute("checkpoint")

    def verify(self, rows):
        """Seconds, and peak RSS in bytes. A pass that does not find both sides equal ends the bench."""
        command = [BUILD / "foreshadow", "verify", self.f.yaml, "--role", "primary", "--table", f"public.t{rows}"]
        start, peak = time.monotonic(), 0
        process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None:
            peak = max(peak, peak_rss(process.pid))
            time.sleep(0.01)
        seconds = time.monotonic() - start
        out = process.communicate()[0]
        if process.returncode or f"{rows} rows, 0 differences" not in out:
            raise SystemExit(f"verify of {rows} rows: exit code {process.returncode}\n{out}")
        return seconds, peak

    def remove(self):
        self.f.stop()
        self.f.run_cli("drop", "--yes")


def peak_rss(pid):
    """VmHWM; 0: it has ended. (wait4's figure has what this process was before it became the command.)"""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def active_seconds(db):
    """Of all sessions of the database that have ended, and of the others up to a second ago."""
    return db.value("select active_time / 1000 from pg_stat_database where datname = current_database()")


# ---- the peers ----

def count_seconds(db, rows):
    with db.connect() as connection:
        connection.execute("set max_parallel_workers_per_gather = 0")
        start = time.monotonic()
        assert connection.execute(f"select count(*) from t{rows}").fetchone()[0] == rows
        return time.monotonic() - start


SEGMENTS = 32  # data-diff's bisection factor
CHECKSUM = ("select count(*), sum(('x' || substring(md5(t::text), 18))::bit(60)::bigint)"
            " from {} t where id >= %s and id < %s")


def md5_seconds(databases, rows):
    """Equal tables: what data-diff does of them, a connection a side. It sees no reason to look closer."""
    start = time.monotonic()
    with databases[0].connect() as a, databases[1].connect() as b, ThreadPoolExecutor(2) as pool:
        def both(query, *params):
            return list(pool.map(lambda c: c.execute(query, params or None).fetchone(), (a, b)))
        (least, most), other = both(f"select min(id), max(id) from t{rows}")
        assert (least, most) == other
        step = (most - least) // SEGMENTS + 1
        for first in range(least, most + 1, step):
            seen, other = both(CHECKSUM.format(f"t{rows}"), first, first + step)
            assert seen == other, f"ids from {first} on: {seen}, {other}"
    return time.monotonic() - start


# ---- the figures ----

def of_sides(sides, what):
    """What it returns, and the seconds in which each side's backends worked for it."""
    before = [active_seconds(db) for db in sides]
    result = what()
    return result, [active_seconds(db) - was for db, was in zip(sides, before)]


def full(results, equal, rows, repeat, with_md5):
    """Pass, count(*) and md5 in turns; the first warm up."""
    sides = (equal.source, equal.target)
    rates, counts, md5, worked, counted, md5_worked = [], [], [], ([], []), ([], []), ([], [])
    for turn in range(repeat + 1):
        (seconds, _), used = of_sides(sides, lambda: equal.verify(rows))
        count = [count_seconds(db, rows) for db in sides]
        of_md5, used_by_md5 = of_sides(sides, lambda: md5_seconds(sides, rows)) if with_md5 else (1, (1, 1))
        if not turn:
            continue
        rates.append(rows / seconds)
        counts.append(rows / (sum(count) / 2))
        md5.append(rows / of_md5)
        for side in (0, 1):
            worked[side].append(rows / used[side])
            counted[side].append(rows / count[side])
            md5_worked[side].append(rows / used_by_md5[side])
    results.figure("reconcile", "full", "rate", "rows/s", rates, counts, "count(*)", at_least=0.08)
    results.figure("reconcile", "full", "source_rate", "rows/s", worked[0], counted[0], "count(*)")
    results.figure("reconcile", "full", "target_rate", "rows/s", worked[1], counted[1], "count(*)")
    if with_md5:
        results.figure("reconcile", "md5", "rate", "rows/s", rates, md5, "md5 in chunks", at_least=5)
        results.figure("reconcile", "md5", "source_rate", "rows/s", worked[0], md5_worked[0], "md5 in chunks")
        results.figure("reconcile", "md5", "target_rate", "rows/s", worked[1], md5_worked[1], "md5 in chunks")


def by_size(results, equal, sizes, repeat):
    seconds, peaks = {rows: [] for rows in sizes}, {rows: [] for rows in sizes}
    for turn in range(repeat + 1):
        for rows in sizes:
            took, peak = equal.verify(rows)
            if turn:
                seconds[rows].append(took)
                peaks[rows].append(peak / 1e6)
    rates = {rows: [rows / s for s in seconds[rows]] for rows in sizes}
    times = {rows: [(b - a) / (rows - before) * 1e6 for a, b in zip(seconds[before], seconds[rows])]
             for before, rows in zip(sizes, sizes[1:])}

    def figure(workload, name, unit, values, rows, first):
        peer = (values[first], f"{first} rows") if rows != first else ()
        results.figure("reconcile", workload, f"{name}_{rows}", unit, values[rows], *peer)

    for rows in sizes:
        figure("linear", "rate", "rows/s", rates, rows, sizes[0])
    for rows in sizes[1:]:
        figure("linear", "time", "us/row", times, rows, sizes[1])
    for rows in sizes:
        figure("memory", "peak", "MB", peaks, rows, sizes[0])


def passes(results, repeat, scale, workloads):
    settings = SETTINGS | {"shared_buffers": "3GB"}  # all tables are in memory: what is measured is what is computed
    source = Postgres("source", 15, settings).init().start()
    target = Postgres("target", 15, settings).init().start()
    kafka = Kafka().format().start()
    sizes = [int(rows * max(scale, 0.01)) for rows in SIZES]
    equal = Equal(source, target, kafka, sizes if workloads & {"linear", "memory"} else sizes[-1:])
    if workloads & {"full", "md5"}:
        full(results, equal, sizes[-1], repeat, "md5" in workloads)
    if workloads & {"linear", "memory"}:
        by_size(results, equal, sizes, repeat)
    equal.remove()
    for server in (source, target, kafka):
        server.remove()


# ---- beside pgbench ----

def tps(db, seconds):
    out = db.pgbench("-n", "-M", "prepared", "-c", str(LOAD_CLIENTS), "-j", "2", "-T", str(seconds), timeout=seconds + 120).stdout
    return float(out.rsplit("tps = ", 1)[1].split()[0])


def load(results, repeat, scale):
    source = Postgres("source", 15, SETTINGS).init().start()
    target = Postgres("target", 15, SETTINGS).init().start()
    kafka = Kafka().format().start()
    db, copy = source.createdb("load"), target.createdb("load")
    seconds = max(int(LOAD_SECONDS * min(scale, 1)), 10)
    db.pgbench("-i", "-q", "-s", str(max(int(LOAD_SCALE * scale), 1)))
    db.execute("alter table pgbench_history add id bigserial primary key")  # a table without is compared as a whole
    f = Foreshadow({"migration": "load", "source": {"uri": db.uri()}, "target": {"uri": copy.uri()},
                    "kafka": {"bootstrap.servers": kafka.bootstrap, "partitions": 12},
                    "tables": {"include": ["public.pgbench_*"]}, "risk": {"shadow_threshold": 0}, "verify": VERIFY},
                   BUILD / "foreshadow")
    f.start(role="ingest"), f.start(role="shadow")
    shadow = target.database("load_shadow")
    wait_until(lambda: target.value("select exists (select from pg_database where datname = 'load_shadow')") and
               is_live(shadow, 4), 900, lambda: f"the copy\n{f.tail()}")

    def with_reconcile():
        reconcile = f.start(role="reconcile")
        rate = tps(db, seconds)
        assert reconcile.running(), f"reconcile ended\n{reconcile.tail()}"
        assert reconcile.stop() == 0, reconcile.tail()
        return rate

    def settle():
        """The next turn does not begin with this one's backlog."""
        at = db.value("select pg_current_wal_insert_lsn()")
        db.execute("select pg_logical_emit_message(true, 'bench', 'settle')")
        wait_until(lambda: shadow.value("select min(barrier_lsn) > %s from foreshadow.progress where topic like '%%.changes'", at),
                   600, lambda: f"the shadow\n{f.tail()}")

    ours, peer = [], []
    for turn in range(repeat + 1):  # the first pair warms up
        pair = {}
        for who in ("ours", "peer") if turn % 2 else ("peer", "ours"):
            db.execute("vacuum pgbench_branches, pgbench_tellers")
            db.execute("checkpoint")
            pair[who] = with_reconcile() if who == "ours" else tps(db, seconds)
            settle()
        if turn:
            ours.append(pair["ours"])
            peer.append(pair["peer"])
    results.figure("reconcile", "load", "tps", "1/s", ours, peer, "no reconcile")
    f.stop()
    f.run_cli("drop", "--yes")
    for server in (source, target, kafka):
        server.remove()


WORKLOADS = ("full", "md5", "linear", "memory", "load")


def bench_reconcile(results, repeat, scale):
    workloads = set(CHOSEN) & set(WORKLOADS) or set(WORKLOADS)
    if workloads - {"load"}:
        passes(results, repeat, scale, workloads)
    if "load" in workloads:
        load(results, repeat, scale)
