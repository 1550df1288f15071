# SPDX-License-Identifier: Apache-2.0
"""kill -9 of everything, in the copy and in the stream, at seeded random moments, half of them while
the last recovery is still going on: equal afterwards, nothing applied twice, nothing lost."""
import time

import psycopg
import pytest

from following import assert_balanced, assert_follows, copies_live, exists, wait_live
from rig import Kafka, Postgres, wait_until

VICTIMS = ["all", "ingest", "shadow", "primary", "kafka", "source", "target"]

SETUP = """
create table keyed (id bigint primary key, n int not null default 0, v text);
insert into keyed select i, 0, md5(i::text) from generate_series(1, {rows}) i;
create table log (at bigint, v text); alter table log replica identity full;
insert into log select i % 100, 'start' from generate_series(1, {rows} / 4) i;
create table counter (id bigint generated always as identity primary key, v int);
create sequence moves start 1000000;
"""

TRAFFIC = """
\\set id random(1, 2000)
begin;
update keyed set n = n + 1 where id = :id;
insert into log values (:id, 'traffic');
insert into counter (v) values (:id);
update keyed set id = nextval('moves') where id = :id + 2000;
commit;
delete from log where ctid = (select ctid from log where at = :id % 100 limit 1);
"""


@pytest.fixture(scope="module")
def servers():
    """Source, target and Kafka of this module alone: they are killed too."""
    made = Postgres("victim-source").init().start(), Postgres("victim-target").init().start(), Kafka("victim-kafka").format().start()
    yield made
    for server in made:
        server.remove()


class Scene:
    """The migration, its servers, and what may be killed: roles in processes of their own, or all in one."""

    def __init__(self, migration, servers, names, rows):
        self.servers = dict(zip(("source", "target", "kafka"), servers))
        for server in servers:
            if not server.running():  # a test failed between a kill and the start after it
                server.start()
        self.m = migration(source_server=servers[0], server=servers[1], kafka_server=servers[2], kafka={"partitions": 3})
        self.m.source.execute(SETUP.format(rows=rows))
        self.script = self.m.folder / "traffic.sql"
        self.script.write_text(TRAFFIC)
        self.script.chmod(0o644)
        self.names = names
        self.processes = {}
        self.client = None

    def start(self, name):
        self.processes[name] = self.m.start(role=None if name == "all" else name)

    def start_all(self):
        for name in self.names:
            self.start(name)

    def start_traffic(self):
        if not (self.client and self.client.running()):
            self.client = self.m.source.start_pgbench("-n", "-c", "2", "-R", "200", "-T", "600", "-f", str(self.script))

    def kill(self, victim):
        """And start it again. Nothing else may have ended by itself."""
        self.assert_running()
        if victim in self.servers:
            self.servers[victim].kill9()
            self.servers[victim].start()
        else:
            self.processes[victim].kill9()
            self.start(victim)
        self.start_traffic()

    def assert_running(self):
        ended = [p.name for p in self.processes.values() if not p.running()]
        assert not ended, f"ended by themselves: {ended}\n{self.m.tail()}"

    def ask(self, sql):
        """Something of progress in the target; 0 while there is none, or no server."""
        try:
            return self.m.target.value(f"select coalesce(sum({sql}), 0)::bigint from foreshadow.progress") or 0
        except psycopg.Error:
            return 0

    def is_live(self):
        self.assert_running()
        try:
            return all(exists(db) and copies_live(db, self.m.name) for db in self.m.targets())
        except psycopg.Error:
            return False

    def wait_live(self, seconds):
        wait_until(self.is_live, seconds, lambda: f"the copies to be live\n{self.m.tail()}")

    def wait_moved(self, seconds):
        """Until the target moved, or the time is over: a recovery may take longer than the test waits."""
        before, deadline = self.ask("next_offset"), time.monotonic() + seconds
        wait_until(lambda: time.monotonic() > deadline or self.ask("next_offset") > before, seconds + 30, "the target to move")

    def wait_copying(self):
        """Until rows of a copy are on the target, and more are to come."""
        wait_until(lambda: self.ask("changes) filter (where right(topic, 9) = '.snapshot'") > 0, 60,
                   lambda: f"copied rows\n{self.m.tail()}", interval=0.01)


def sleep_some(seconds):
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, seconds + 5, "the seeded moment")


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("phase", ["copy", "stream"])
def test_kill(migration, servers, rng, is_long, phase, victim):
    rows = {"copy": 400_000 if is_long else 240_000, "stream": 20_000}[phase]
    scene = Scene(migration, servers, ["all"] if victim == "all" else ["ingest", "shadow", "primary"], rows)
    scene.start_all()
    scene.start_traffic()
    if phase == "stream":
        scene.wait_live(120)
    for turn in range(20 if is_long else 2):
        if turn == 0 and phase == "copy":
            scene.wait_copying()
            sleep_some(rng.random() * 0.5)
            assert not scene.is_live(), "the copy was over before the kill: more rows are needed"
        elif turn % 2 == 0:
            scene.wait_moved(10)
            sleep_some(rng.random() * 1.5)
        else:
            sleep_some(rng.random() * 1.5)  # in the middle of the recovery
        scene.kill(victim)
    scene.wait_live(180)
    scene.wait_moved(5)
    scene.client.kill9()
    assert_follows(scene.m, timeout=180)
    for db in scene.m.targets():
        assert db.value("select count(*) = count(distinct id) from counter")
        assert_balanced(scene.m, db)
    scene.assert_running()
    scene.m.stop()


def test_one_copy_cut_off_while_another_is_whole(migration):
    """The whole table's changes stand in front of the event that begins the other's next copy."""
    m = migration()
    m.source.execute("create table small (id int primary key, n int); insert into small values (1, 0);"
                     "create table large (id int primary key, small int references small, v text);"
                     "insert into large select i, 1, md5(i::text) from generate_series(1, 30000) i")
    m.start(role="shadow")
    m.start(role="primary")
    first = m.start(role="ingest", env={"FORESHADOW_FAILPOINTS": "ingest.copy_complete=stop@2"})
    wait_until(first.is_stopped, 60, lambda: f"one copy to be complete\n{first.tail()}")
    first.kill9()
    m.source.execute("update small set n = 1; insert into small values (2, 0); insert into large values (0, 2, 'new')")
    m.start(role="ingest")
    wait_until(lambda: all(exists(db) and db.value("select to_regclass('foreshadow.copies') is not null") and
                           db.value("select max(attempt) = 2 from foreshadow.copies") for db in m.targets()), 60,
               lambda: f"the second copy's event\n{m.tail()}")
    wait_live(m)
    assert_follows(m)
    for db in m.targets():
        assert db.sql("select attempt from foreshadow.copies order by oid") == [(1,), (2,)]
        assert_balanced(m, db)
        assert db.value("select count(*) from pg_constraint where contype = 'f'") == 1
    m.stop()
