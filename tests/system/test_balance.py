# SPDX-License-Identifier: Apache-2.0
"""Balance: every record of the stream is counted once on each target, for its table; what was lost or applied twice is
found where no row differs."""
import json
import random
import re
import threading

import pytest

from following import assert_balanced, assert_counted, assert_follows, wait_caught_up, wait_live, where
from rig import place, wait_until
from test_final import final
from test_gate import ROLES, Load, accept, gate, make as make_windows, start_roles, wait_gate, wait_open
from test_http import Served
from test_mapping import make as make_mapped, write_load as write_mapped_load
from test_verify import verify

TABLES = """
create table keyed (id int primary key, n int not null default 0, big text);
alter table keyed alter big set storage external;
create table log (at int, v text); alter table log replica identity full;
create table parts (id int primary key, v int) partition by range (id);
create table parts_1 partition of parts for values from (0) to (500);
create table parts_2 partition of parts for values from (500) to (100000000);
create table emptied (id int primary key, v text);
create table wide (id int primary key, a int);
insert into keyed select i, 0, repeat(md5(i::text), 200) from generate_series(1, 1000) i;
insert into log select i % 50, 'start' from generate_series(1, 300) i;
insert into parts select i, 0 from generate_series(1, 900) i;
insert into emptied select i, 'e' from generate_series(1, 200) i;
insert into wide select i, i from generate_series(1, 400) i
"""

CHANGES = [
    lambda r: f"update keyed set n = n + 1 where id between {(i := r.randint(1, 900))} and {i + 20}",
    # a key change that is two records, or (a large value is not sent) one event for all partitions
    lambda r: f"update keyed set id = id + 10000 where id = {r.randint(1, 1000)}" if r.random() < 0.3 else "select 1",
    lambda r: f"update keyed set id = -id, big = 'short' where id = {r.randint(10000, 11000)}",
    lambda r: f"insert into log values ({r.randint(1, 50)}, 'x'); delete from log where ctid = (select ctid from log where at = {r.randint(1, 50)} limit 1)",
    lambda r: f"update parts set v = v + 1 where id between {(i := r.randint(1, 900))} and {i + 9}",
    lambda r: f"update parts set id = id + 1000 where id = {r.randint(1, 499)} and not exists (select from parts p where p.id = parts.id + 1000)",
    lambda r: f"delete from wide where id = {(i := r.randint(1, 400))}; insert into wide (id, a) values ({i}, 7)",
    lambda r: f"insert into emptied values ({r.randint(1, 10**6)}, 'more') on conflict (id) do update set v = 'again'",
]
TRUNCATES = [lambda r: r.choice(["truncate emptied", "truncate parts_1", "truncate emptied, log", *["select 1"] * 9])]


class Traffic:
    """Sessions that write until they are told to end."""

    def __init__(self, m, rng, sessions=2):
        self.m, self.stopping, self.failures, self.done, self.changes = m, threading.Event(), [], 0, CHANGES
        self.threads = [threading.Thread(target=self.run, args=(random.Random(rng.random()),)) for _ in range(sessions)]
        for thread in self.threads:
            thread.start()

    def run(self, rng):
        try:
            with self.m.source.connect() as connection:
                while not self.stopping.wait(0.1):
                    statements = [rng.choice(self.changes)(rng) for _ in range(rng.randint(1, 3))]
                    try:
                        connection.execute("begin; " + "; ".join(statements) + "; commit")
                        self.done += 1
                    except Exception as error:
                        if getattr(error, "sqlstate", None) not in ("23505", "40P01"):
                            raise
                        connection.execute("rollback")
        except Exception as error:
            self.failures.append(error)

    def more(self, n):
        """Until there are so many transactions more."""
        wanted = self.done + n
        wait_until(lambda: self.done >= wanted or self.failures, 120, lambda: f"{wanted} transactions, {self.done}")

    def end(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join()
        assert not self.failures, self.failures


def assert_final(m):
    """By verify --final, the totals compared too."""
    code, _, checks, summary, _, stderr = final(m)
    for role in "shadow", "primary":
        line = checks["balance", role]
        assert line["outcome"] == "passed" and line["findings"] == [], line
    assert code == 0, (code, [c for c in checks.values() if c["outcome"] != "passed"], summary, stderr)
    for db in m.targets():
        assert_balanced(m, db)


@pytest.mark.parametrize("order", ["key", "transaction"])
def test_everything_counts_once(migration, rng, order):
    """Beside a copy, through TRUNCATE, key changes of every kind, partitions and new columns."""
    m = migration(order=order, schema="create")
    m.source.execute(TABLES)
    traffic = Traffic(m, rng)
    try:
        release = m.folder / "release"
        run = m.start(env={"FORESHADOW_FAILPOINTS": "ingest.copy_begun=hang", "FORESHADOW_FAILPOINT_RELEASE": str(release)})
        wait_until(lambda: "failpoint ingest.copy_begun fired" in run.log(), 60, run.log)
        traffic.more(60)  # between the copy's event and its point
        release.touch()
        wait_live(m)
        traffic.changes = CHANGES + TRUNCATES
        traffic.more(60)
        for db in (*m.targets(), m.source):
            db.execute("alter table wide add b text")
        m.source.execute("insert into wide values (1000, 1, 'new'); update wide set b = 'b' where id < 100")
        traffic.more(60)
        seen = verify(m)
        assert seen[:2] == (0, []), seen
    finally:
        traffic.end()
    assert_follows(m)
    assert m.shadow.value("select sum(covered) > 0 from foreshadow.counts where migration = %s", m.name)
    m.stop()
    m.run_until("caught-up")
    assert_final(m)


def test_what_a_mapping_makes_of_it_counts_once(migration, rng):
    m = make_mapped(migration)
    m.start()
    wait_live(m)
    write_mapped_load(m, rng, 300)
    wait_caught_up(m)
    assert verify(m)[:2] == (0, [])
    m.stop()
    m.run_until("caught-up")
    code, _, checks, *_ = final(m)
    assert all(checks["balance", role]["findings"] == [] for role in ("shadow", "primary")), checks
    for db in m.targets():
        assert_counted(m, db)


def test_after_kill_9_and_hand_over(migration, rng):
    m = migration(kafka={"partitions": 3})
    m.source.execute(TABLES)
    traffic = Traffic(m, rng)
    try:
        running = {role: m.start(role=role) for role in ("ingest", "shadow", "primary")}
        wait_live(m)
        traffic.changes = CHANGES + TRUNCATES
        for victim in ("ingest", "shadow", "ingest", "shadow", "primary"):
            traffic.more(rng.randint(20, 60))
            running[victim].kill9()
            running[victim] = m.start(role=victim)
        # partitions move to another process and back
        second = m.start(role="shadow", instance="b")
        wait_until(lambda: m.shadow.value("select count(distinct owner_instance) = 2 from foreshadow.progress where migration = %s", m.name),
                   60, lambda: f"two owners\n{where(m)}")
        traffic.more(50)
        second.kill9()
        traffic.more(50)
        wait_caught_up(m)
    finally:
        traffic.end()
    assert_follows(m)
    m.stop()
    m.run_until("caught-up")
    assert_final(m)


# ---- when it does not come out ----

def unbalanced(seen):
    """[(role, what was seen)] of a verify."""
    return [(line["role"], finding["seen"]) for line in seen[1] if line.get("check") == "balance" for finding in line["findings"]]


def windows_with(migration, role, failpoint):
    """Roles in processes of their own, the gate open, and a failpoint that has not fired."""
    pages = Served(place.free_port())
    m = make_windows(migration)
    roles = start_roles(m, *ROLES[:3], env={role: {"FORESHADOW_FAILPOINTS": failpoint}})
    wait_live(m, [m.shadow])
    for process in roles.values():
        process.wait_log("INFO")  # it has read the file
    m.write({**m.config, "http": f"127.0.0.1:{pages.port}"})
    roles.update(start_roles(m, "reconcile"))
    wait_open(m)
    wait_until(lambda: pages.value("foreshadow_balance_error", role="shadow") == 0, 30, "the balance of a window")
    return m, roles, pages


def incidents(m, kind):
    listed = [json.loads(text) for text in m.run_cli("incidents", "list", "--json").stdout.splitlines()]
    return [incident for incident in listed if incident.get("class") == kind]


def assert_stands(m, roles, pages, said):
    """The gate stands, rows are equal, and it is said once."""
    log = roles["reconcile"].log
    wait_until(lambda: re.search(said, log()), 30, lambda: f"{said}\n{where(m)}")
    stands = gate(m)
    seen = log().count("window to")
    wait_until(lambda: log().count("window to") > seen + 4, 30, "windows")
    assert gate(m) == stands and "mismatch" not in log() and len(re.findall(said, log())) == 1, log()
    assert pages.value("foreshadow_balance_error", role="shadow") == 1
    assert pages.value("foreshadow_incidents_total", **{"class": "balance", "role": "shadow"}) == len(incidents(m, "balance")) > 0
    assert not pages.value("foreshadow_incidents_total", **{"class": "difference", "role": "shadow"}) and not incidents(m, "difference")
    assert m.target.value("select max(v) from t") == 0
    assert m.source.value("select sum(v) from t") == m.shadow.value("select sum(v) from t")


@pytest.mark.parametrize("failpoint, accepted, said", [
    ("collect.lose=error@3", 1, r'out of balance: "public"\."t", partition \d+, ordinals \S+: (\d+) records are counted, the stream has'),
    ("batch.twice=error@3", -1, r'out of balance: "public"\."t", partition \d+, ordinals \S+: (\d+) records are counted, the stream has')])
def test_what_the_shadow_lost_or_applied_twice(migration, failpoint, accepted, said):
    """A row that a later change of the same transaction has overwritten: no comparison sees it."""
    m, roles, pages = windows_with(migration, "shadow", failpoint)
    m.source.execute("begin; update t set v = 1 where id = 5; update t set v = 2 where id = 5; update t set v = 3 where id = 5; "
                     "update t set v = 4 where id = 5; commit")
    assert_stands(m, roles, pages, said)
    assert len(re.findall(r"partition \d+: \d+ records are counted up to ordinal", roles["reconcile"].log())) == 1
    code, lines, summary, stderr = seen = verify(m, "--role", "shadow")
    assert code == 4 and {role for role, _ in unbalanced(seen)} == {"shadow"} and summary["verdict"] == "failed", seen
    text = m.run_cli("verify", "--role", "shadow")
    assert text.returncode == 4 and "failed   balance on the shadow; next step:" in text.stdout, text.stdout
    # a person looks into it and accepts it
    accept(m, accepted)
    wait_open(m)
    assert "what differed on the shadow is right now" in roles["reconcile"].log()
    assert_follows(m)
    assert verify(m)[:2] == (0, [])
    m.stop()


def test_what_ingest_lost(migration):
    """Partitions and targets know nothing of it: the totals of the barriers do."""
    m, roles, pages = windows_with(migration, "ingest", "stream.lose=error@2")
    m.source.execute("begin; update t set v = 1 where id = 5; update t set v = 2 where id = 5; update t set v = 3 where id = 5; commit")
    assert_stands(m, roles, pages, r'out of balance: "public"\."t": \d+ changes are counted at barrier \S+, ingest published \d+')
    # nor does it go on under a load that lets the totals be compared now and then only
    stands = gate(m)
    load = Load(m, lambda n: f"update pairs set v = v + 1 where a = {n % 10}; update t set v = v where id = {n % 1000}", 30)
    try:
        seen = roles["reconcile"].log().count("window to")
        wait_until(lambda: roles["reconcile"].log().count("window to") > seen + 6, 60, "windows")
    finally:
        load.end()
    assert gate(m) == stands and pages.value("foreshadow_balance_error", role="shadow") == 1
    m.kill9()


def test_a_migration_that_was_not_counted_by_table(migration):
    """By an earlier version: its ordinals come out, from now on by table; totals are not compared, and that is said."""
    m = migration()
    m.source.execute(TABLES)
    m.run_until("caught-up")
    for db in m.targets():
        db.execute("drop table foreshadow.counts")
    m.source.execute("update keyed set n = 9; truncate emptied; insert into log values (1, 'late')")
    m.start()
    assert_follows(m)
    assert verify(m)[:2] == (0, [])
    m.stop()
    m.run_until("caught-up")
    code, _, checks, *_ = final(m)
    assert code == 0
    for role, db in zip(("shadow", "primary"), (m.shadow, m.target)):
        assert [f["note"] for f in checks["balance", role]["findings"]] == [True], checks["balance", role]
        assert "version that did not count by table" in checks["balance", role]["findings"][0]["seen"]
        assert_counted(m, db)
