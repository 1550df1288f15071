# SPDX-License-Identifier: Apache-2.0
"""kill -9 of everything, in the copy and in the stream, at seeded random moments, half of them while
the last recovery is still going on: equal afterwards, nothing applied twice, nothing lost."""
import time

import psycopg
import pytest

from following import assert_follows, assert_balanced, copies_live, exists
from rig import wait_until

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


class Scene:
    """Roles in processes of their own and servers of their own, so that each can be killed alone."""

    def __init__(self, migration, new_postgres, new_kafka, rows):
        self.source, self.target = new_postgres("source"), new_postgres("target")
        self.kafka = new_kafka()
        self.m = migration(source_server=self.source, server=self.target, kafka_server=self.kafka,
                           kafka={"partitions": 3})
        self.m.source.execute(SETUP.format(rows=rows))
        self.script = self.m.folder / "traffic.sql"
        self.script.write_text(TRAFFIC)
        self.script.chmod(0o644)
        self.roles = {}
        self.client = None

    def start_roles(self):
        for role in ("ingest", "shadow", "primary"):
            if role not in self.roles or not self.roles[role].running():
                self.roles[role] = self.m.start(role=role)

    def start_traffic(self):
        if not (self.client and self.client.running()) and self.source.running():
            self.client = self.m.source.start_pgbench("-n", "-c", "2", "-R", "200", "-T", "600", "-f", str(self.script))

    def kill(self, victim):
        servers = {"kafka": self.kafka, "source": self.source, "target": self.target}
        if victim in servers:
            servers[victim].kill9()
            servers[victim].start()
        elif victim == "all":
            for process in self.roles.values():
                process.kill9()
        else:
            self.roles[victim].kill9()
        self.start_roles()
        self.start_traffic()

    def applied(self):
        """Something that grows while the copy or the stream moves on the target."""
        try:
            return self.m.target.value(
                "select coalesce(sum(next_offset), 0)::bigint from foreshadow.progress where migration = %s",
                self.m.name) or 0
        except psycopg.Error:
            return 0

    def is_live(self):
        try:
            return all(exists(db) and copies_live(db, self.m.name) for db in self.m.targets())
        except psycopg.Error:
            return False


def wait_progress(scene, seconds):
    """Until the target moved, or the time is over: the moment is random, the wait is bounded."""
    before, deadline = scene.applied(), time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > deadline or scene.applied() > before, seconds + 30, "the target to move")


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("phase", ["copy", "stream"])
def test_kill(migration, new_postgres, new_kafka, rng, is_long, phase, victim):
    kills = 20 if is_long else 2
    scene = Scene(migration, new_postgres, new_kafka, rows=400_000 if phase == "copy" and is_long else 20_000)
    scene.start_roles()
    scene.start_traffic()
    if phase == "stream":
        wait_until(scene.is_live, 120, lambda: f"the copies to be live\n{scene.m.tail()}")
    for turn in range(kills):
        if turn % 2 == 0:
            wait_progress(scene, 10)       # after recovery; otherwise in the middle of it
        moment = time.monotonic() + rng.random() * 1.5
        wait_until(lambda: time.monotonic() >= moment, 5, "the seeded moment")
        scene.kill(victim)
    wait_until(scene.is_live, 180, lambda: f"the copies to be live\n{scene.m.tail()}")
    wait_progress(scene, 5)
    scene.client.kill9()
    assert_follows(scene.m, timeout=180)
    for db in scene.m.targets():
        assert db.value("select count(*) = count(distinct id) from counter")
        assert_balanced(scene.m, db)
    scene.m.stop()
