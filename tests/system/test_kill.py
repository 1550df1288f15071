# SPDX-License-Identifier: Apache-2.0
"""kill -9 of everything, in the copy and in the stream, at seeded random moments, every second one while
the recovery from the one before is still going on: equal afterwards, nothing applied twice, nothing lost."""
import time

import psycopg
import pytest

from following import assert_balanced, assert_follows, copies_live, exists, wait_live
from rig import Kafka, Postgres, wait_until

SERVERS = ["source", "target", "shadow-server", "kafka"]
VICTIMS = ["all", "ingest", "shadow", "primary", *SERVERS]

# What a process writes when it does its work again, and within how many seconds of its start the second kill comes:
# about what a recovery takes.
AT_WORK = {"all": "streaming generation=", "ingest": "streaming generation=", "shadow": "group gave us", "primary": "group gave us"}
RECOVERY = 0.4

SETUP = """
create table keyed (id bigint primary key, n int not null default 0, v text);
insert into keyed select i, 0, md5(i::text) from generate_series(1, {rows}) i;
create table log (at bigint, v text); alter table log replica identity full;
insert into log select i % 100, 'start' from generate_series(1, {rows} / 4) i;
create table counter (id bigint generated always as identity, v int); alter table counter replica identity full;
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
    """Of this module alone: they are killed too."""
    made = [*(Postgres(f"victim-{name}").init().start() for name in SERVERS[:3]), Kafka("victim-kafka").format().start()]
    yield made
    for server in made:
        server.remove()


class Scene:
    """The migration, its servers, and what may be killed: roles in processes of their own, or all in one."""

    def __init__(self, migration, servers, victim, rows):
        self.servers = dict(zip(SERVERS, servers))
        for server in servers:
            if not server.running():  # a test failed between a kill and the start after it
                server.start()
        self.m = migration(source_server=servers[0], server=servers[1], shadow_server=servers[2], kafka_server=servers[3],
                           kafka={"partitions": 3})
        self.m.source.execute(SETUP.format(rows=rows))
        self.script = self.m.folder / "traffic.sql"
        self.script.write_text(TRAFFIC)
        self.script.chmod(0o644)
        self.names = ["all"] if victim == "all" else ["ingest", "shadow", "primary"]
        self.processes = {}
        self.client = None
        self.offsets = 0

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
            self.offsets = self.applied(victim)
        else:
            self.processes[victim].kill9()
            self.start(victim)
        self.start_traffic()

    def assert_running(self):
        ended = [p.name for p in self.processes.values() if not p.running()]
        assert not ended, f"ended by themselves: {ended}\n{self.m.tail()}"

    def ask(self, sql, db=None):
        """Something of progress in the target, or in db; 0 while there is none, or no server."""
        try:
            return (db or self.m.target).value(f"select coalesce(sum({sql}), 0)::bigint from foreshadow.progress") or 0
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

    def applied(self, victim):
        """Behind this server."""
        return self.ask("next_offset", self.m.shadow if victim == "shadow-server" else None)

    def is_at_work(self, victim):
        """Is its recovery over: a process says so, behind a server something is applied again."""
        if victim in self.servers:
            return self.applied(victim) > self.offsets
        return AT_WORK[victim] in self.processes[victim].log()

    def wait_in_recovery(self, victim, seconds):
        """For the seeded moment, at most until the recovery is over; true when it was not."""
        moment = time.monotonic() + seconds
        wait_until(lambda: time.monotonic() >= moment or self.is_at_work(victim), seconds + 30, "the seeded moment", longest=0.02)
        return not self.is_at_work(victim)

    def wait_copying(self):
        """Until rows of a copy are on the target, and more are to come."""
        wait_until(lambda: self.ask("changes) filter (where right(topic, 9) = '.snapshot'") > 0, 60,
                   lambda: f"copied rows\n{self.m.tail()}", interval=0.01)


    def assert_recovers(self):
        """Everything is there, once, and everybody runs; and ends it."""
        self.wait_live(180)
        self.wait_moved(5)
        self.client.kill9()
        assert_follows(self.m, timeout=180)
        for db in self.m.targets():
            assert db.value("select count(*) = count(distinct id) from counter")
            assert_balanced(self.m, db)
        self.assert_running()
        self.m.stop()


def sleep_some(seconds):
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, seconds + 5, "the seeded moment")


@pytest.mark.parametrize("victim", VICTIMS)
def test_kill_in_the_copy(migration, servers, rng, is_long, victim):
    """Every pair of kills in a copy of its own: most victims go on with theirs, and it would soon be over."""
    in_copy = in_recovery = 0
    for _ in range(10 if is_long else 1):
        scene = Scene(migration, servers, victim, 240_000)
        scene.start_all()
        scene.start_traffic()
        scene.wait_copying()
        sleep_some(rng.random() * 0.5)
        assert not scene.is_live(), "the copy was over before the kill: more rows are needed"
        scene.kill(victim)
        in_recovery += scene.wait_in_recovery(victim, rng.random() * RECOVERY)
        in_copy += not scene.is_live()
        scene.kill(victim)
        scene.assert_recovers()
    print(f"of the second kills {in_recovery} were in the first one's recovery, {in_copy} in the copy")
    assert in_copy > 0 and (in_recovery > 0 or not is_long)


@pytest.mark.parametrize("victim", VICTIMS)
def test_kill_in_the_stream(migration, servers, rng, is_long, victim):
    in_recovery = 0
    scene = Scene(migration, servers, victim, 20_000)
    scene.start_all()
    scene.start_traffic()
    scene.wait_live(120)
    for _ in range(10 if is_long else 1):
        scene.wait_moved(10)
        sleep_some(rng.random() * 1.5)
        scene.kill(victim)
        in_recovery += scene.wait_in_recovery(victim, rng.random() * RECOVERY)
        scene.kill(victim)
    print(f"of the second kills {in_recovery} were in the first one's recovery")
    assert in_recovery > 0 or not is_long
    scene.assert_recovers()


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
