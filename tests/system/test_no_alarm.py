# SPDX-License-Identifier: Apache-2.0
"""Under a load made to mislead, nobody ever names a difference, and everything is verified soon.

pgbench; a few rows that change hundreds of times a second; rows that go to another value and back, or come and go; transactions
that stay open for long with changes. Half of the commits wait for a synchronous standby that applies late: they are in the WAL and
on the targets, and the source does not show them yet. Meanwhile windows run, and verify, of both targets, again and again.

Everyday less than a minute, in which verify --role primary takes one table at a time: each of its waits is for a window. --long half an hour.
"""
import itertools
import random
import re
import signal
import threading
import time

from following import assert_follows, wait_live, where
from rig import place
from rig.postgres import client_program
from rig.process import Process
from test_gate import DEBUG, lsn, wait_open
from test_http import Served
from test_verify import assert_clean, verify

SECONDS, SECONDS_LONG = 45, 1800
DELAY = "300ms"
LATEST = 60  # seconds until a change is verified
FOLLOWS = 4  # seconds that the shadow may be behind before the load pauses

TABLES = """
create table hot (id int primary key, n int not null, big text); alter table hot alter big set storage external;
create table aba (id int primary key, v text);
create table comes (id int primary key, n int);
create table held (id int primary key, v text, n int not null);
insert into hot select i, 0, repeat(md5(i::text), 200) from generate_series(1, 200) i;
insert into aba select i, 'a' from generate_series(1, 100) i;
insert into held select i, 'a', 0 from generate_series(1, 20000) i;
"""
# name: (clients, transactions a second, does a commit wait for the standby?, the script; None: pgbench's own)
LOADS = {
    "bank": (2, 20, False, None),
    "bank_late": (4, 10, True, None),
    "zipf": (3, 250, False, "\\set k random_zipfian(1, 200, 1.8)\nupdate hot set n = n + 1 where id = :k;"),
    "zipf_late": (4, 10, True, "\\set k random_zipfian(1, 200, 1.1)\nupdate hot set n = n + 1, big = repeat(md5(:k::text), 190 + n % 20) where id = :k;"),
    "aba": (2, 40, False, "\\set k random(1, 10)\nupdate aba set v = 'b' where id = :k;\nupdate aba set v = 'a' where id = :k;"),
    "aba_late": (4, 10, True, "\\set k random(1, 100)\nbegin;\nupdate aba set v = 'b' where id = :k;\nupdate aba set v = 'a' where id = :k;\nend;"),
    "comes": (2, 20, False, "\\set k random(1, 20)\ninsert into comes values (:k, 1) on conflict do nothing;\ndelete from comes where id = :k;"),
    "comes_late": (2, 6, True, "\\set k random(1, 20)\ninsert into comes values (:k, 1) on conflict (id) do update set n = comes.n + 1;"),
    "held": (2, 20, False, "\\set k random(10001, 20000)\nupdate held set n = n + 1 where id = :k;"),
}


class Bench:
    """A pgbench with a script, until stopped."""

    def __init__(self, db, name, clients, rate, is_late, script):
        folder = place.folder(f"load-{name}")
        # what is late is left out: after a pause it does not catch up
        args = ["-n", "-c", str(clients), "-R", str(rate), "-L", "1000", "-T", "7200"]
        if script:
            (folder / "script").write_text(script)
            args += ["-f", folder / "script"]
        options = "-c synchronous_commit=" + ("remote_apply" if is_late else "local")
        self.name = name
        self.process = Process(name, [client_program("pgbench"), *args, db.uri(options=options)], folder)

    def pause(self, is_paused):
        self.process.signal(signal.SIGSTOP if is_paused else signal.SIGCONT)

    def stop(self):
        assert self.process.running(), f"pgbench {self.name} has ended: {self.process.tail()}"
        self.pause(False)
        self.process.signal(signal.SIGTERM)  # SIGINT may be ignored, where the tests run in a shell's background
        self.process.wait()


class Holder(threading.Thread):
    """Transactions that change rows and stay open for 5 to 20 seconds."""

    def __init__(self, m, seed):
        super().__init__()
        self.m, self.rng, self.stopping, self.count, self.failure = m, random.Random(seed), threading.Event(), 0, None
        self.start()

    def run(self):
        try:
            with self.m.source.connect() as c:
                while not self.stopping.is_set():
                    first = self.rng.randint(1, 9900)
                    c.execute(f"begin; update held set v = 'b', n = n + 1 where id between {first} and {first + 50}")
                    self.stopping.wait(self.rng.uniform(5, 20))
                    c.execute(f"update held set v = 'a' where id between {first} and {first + 20}")
                    c.execute(self.rng.choice(["commit", "commit", "rollback"]))
                    self.count += 1
        except Exception as failure:
            self.failure = failure

    def end(self):
        self.stopping.set()
        self.join()
        assert not self.failure, self.failure


class Delay:
    """How long it takes until a place in the WAL is passed."""

    def __init__(self):
        self.waiting, self.now, self.longest, self.moves = [], 0, 0, 0

    def see(self, now, place, passed):
        self.waiting.append((now, place))
        oldest, before = self.waiting[0][0], len(self.waiting)
        self.waiting = [(at, place) for at, place in self.waiting if place > passed]
        self.moves += len(self.waiting) < before
        self.now = now - oldest
        self.longest = max(self.longest, self.now)


class Watch(threading.Thread):
    """How long it takes until the gate has passed what is in the WAL; the coverage of thin windows, two looks at each. The load pauses
    while the shadow does not follow it: how fast a machine applies is not asked here."""

    def __init__(self, m, pages, loads):
        super().__init__()
        self.m, self.pages, self.loads, self.stopping, self.failure = m, pages, loads, threading.Event(), None
        self.gate, self.shadow, self.thin, self.pauses, self.is_paused = Delay(), Delay(), [], 0, False
        self.start()

    def run(self):
        try:
            with self.m.source.connect() as source, self.m.shadow.connect() as shadow:
                while not self.stopping.wait(0.5):
                    self.look(source, shadow)
        except Exception as failure:
            self.failure = failure

    def look(self, source, shadow):
        now, place = time.monotonic(), lsn(source.execute("select pg_current_wal_insert_lsn()::text").fetchone()[0])
        barrier = shadow.execute("select min(barrier_lsn)::text from foreshadow.progress where topic ~ 'changes$'").fetchone()[0]
        self.shadow.see(now, place, lsn(barrier))
        self.gate.see(now, place, self.pages.value("foreshadow_gate_lsn"))
        coverage = self.pages.value("foreshadow_coverage_ratio", role="shadow")  # None: the session has just begun
        self.thin += [coverage] if coverage is not None and coverage < 0.99 else []
        if self.is_paused != (self.shadow.now > (1 if self.is_paused else FOLLOWS)):
            self.is_paused = not self.is_paused
            self.pauses += self.is_paused
            for load in self.loads:
                load.pause(self.is_paused)

    def __str__(self):
        return (f"gate at most {self.gate.longest:.1f} s behind, moved {self.gate.moves} times; shadow at most {self.shadow.longest:.1f} s,"
                f" load paused {self.pauses} times; thin {self.thin}")

    def end(self):
        self.stopping.set()
        self.join()
        assert not self.failure, self.failure


def jobs(m, is_long):
    """The runs of verify, again and again. Not of comes alone: no row of it stays long enough for the planted difference."""
    for table in itertools.cycle(t for t in m.source.tables() if t != "public.comes"):
        yield ["--role", "shadow"]
        yield ["--role", "primary"] if is_long else ["--role", "primary", "--table", table]


def alarms(m):
    return [line for line in m.log().splitlines() if re.search(r"on the (shadow|primary), came|out of balance|was not found", line)]


def test_no_false_alarm(migration, new_postgres, rng, is_long):
    source = new_postgres("late_source")
    pages = Served(place.free_port())
    m = migration(source_server=source, verify={"window": "1s", "scrub": "10s", "source_load": 0.3}, http=f"127.0.0.1:{pages.port}")
    m.source.pgbench("-i", "-q", "-s", "1")
    m.source.execute(TABLES + "alter table pgbench_history replica identity full")
    standby = new_postgres("late_standby", standby_of=source, recovery_min_apply_delay=DELAY)
    m.start(env=DEBUG)
    wait_live(m, [m.shadow])
    wait_open(m)
    source.set(synchronous_standby_names="late_standby")
    loads = [Bench(m.source, name, *load) for name, load in LOADS.items()]
    holders = [Holder(m, rng.random()) for _ in range(3)]
    watch = Watch(m, pages, loads)
    until, runs = time.monotonic() + (SECONDS_LONG if is_long else SECONDS), []
    try:
        for job in jobs(m, is_long):
            code, differences, summary, stderr = verify(m, *job, timeout=1200)
            assert not differences, f"{differences[:3]}\n{summary}\n{stderr}"
            left_out = (1 - summary["coverage"]) * summary["rows"]
            assert left_out <= max(1, 0.01 * summary["rows"]) and summary["verdict"] in ("clean", "incomplete"), f"{job} {summary}\n{watch}\n{stderr}\n{where(m)}"
            runs.append((" ".join(job), summary["verdict"]))
            assert not alarms(m), alarms(m)
            if time.monotonic() > until and len(runs) > 1:
                break
    finally:
        for thread in [watch, *holders]:
            thread.stopping.set()
        stopped = [load.process.running() and load.stop() for load in loads]
    for thread in [watch, *holders]:
        thread.end()
    print(f"runs {runs}; {watch}; {[h.count for h in holders]} long transactions")
    assert len(stopped) == len(LOADS) and None in stopped and False not in stopped, "a load has ended early"
    assert not alarms(m), alarms(m)
    # A commit that waits for the standby is looked at for two seconds: a standby that stalls for longer makes a window thin.
    assert len(watch.thin) <= 4 and watch.gate.longest < LATEST and watch.gate.moves > 2, watch
    source.set(synchronous_standby_names=None)
    wait_open(m)
    assert_follows(m)
    assert_clean(m, "--role", "shadow")
    assert standby.running()
    m.stop()
