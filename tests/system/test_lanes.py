# SPDX-License-Identifier: Apache-2.0
"""What a process takes of its machine and of a target: its threads, and how many lanes `auto` is."""
import os
import re

from following import assert_balanced, assert_follows, wait_live
from rig import wait_until


def test_all_threads_wait_their_turn(migration):
    m = migration()
    m.source.execute("create table t (id int primary key)")
    process = m.start()
    wait_live(m)
    policies = {name: os.sched_getscheduler(int(tid)) for tid in os.listdir(f"/proc/{process.pid}/task")
                for name in [open(f"/proc/{process.pid}/task/{tid}/comm").read().strip() + tid]}
    assert len(policies) > 8 and set(policies.values()) == {os.SCHED_BATCH}, policies


def start_client(m, per_second, script, clients=1):
    path = m.folder / "client.sql"
    path.write_text(script)
    path.chmod(0o644)
    return m.source.start_pgbench("-n", "-c", str(clients), "-R", str(per_second), "-T", "600", "-f", str(path))


def changes_of_lanes(process):
    """[("shadow", 2, 1), ...] from the log."""
    return [(role, int(a), int(b)) for role, a, b in re.findall(r" (shadow|primary): lanes: (\d+) -> (\d+) ", process.log())]


def test_lanes_follow_the_load(migration):
    """One is enough for a few rows at a time; two when one never rests; and both stand when there is nothing to do."""
    m = migration()
    m.source.execute("create table t (id bigint primary key); create sequence s; create table slow (v text);"
                     " alter table slow replica identity full; insert into slow select md5(i::text) from generate_series(1, 2000) i")
    process = m.start()
    wait_live(m)
    client = start_client(m, 40, "insert into t select nextval('s') from generate_series(1, 100);")
    wait_until(lambda: {("shadow", 2, 1), ("primary", 2, 1)} <= set(changes_of_lanes(process)), 60,
               lambda: f"one lane for each target\n{m.tail()}")
    client.kill9()
    # a row of a table without a key is found by looking at all of them
    client = start_client(m, 3, "update slow set v = md5(v);")
    wait_until(lambda: {("shadow", 1, 2), ("primary", 1, 2)} <= set(changes_of_lanes(process)), 60,
               lambda: f"two lanes again\n{m.tail()}")
    client.kill9()
    assert_follows(m)
    for db in m.targets():
        assert_balanced(m, db)


TRAFFIC = """\\set id random(1, 2000)
with k as (update keyed set n = n + 1 where id = :id), c as (insert into counter (v) values (:id)) insert into log values (:id, 'traffic');
"""


def test_partitions_go_from_lane_to_lane_under_load(migration, is_long):
    """At every look all partitions change lanes, TRUNCATE and kill -9 among it: nothing is applied twice or lost."""
    m = migration()
    m.source.execute("create table keyed (id bigint primary key, n int not null default 0);"
                     " insert into keyed select i from generate_series(1, 2000) i;"
                     " create table log (at bigint, v text); alter table log replica identity full;"
                     " create table counter (id bigint generated always as identity primary key, v int)")
    roles = {role: m.start(role=role, env={"FORESHADOW_FAILPOINTS": "shadow.scale=broken"}) for role in ("ingest", "shadow", "primary")}
    wait_live(m)
    seen, turns = 0, 15 if is_long else 3
    client = start_client(m, 300, TRAFFIC, clients=2)
    for turn in range(turns):
        role = ("shadow", "primary")[turn % 2]
        before = len(changes_of_lanes(roles[role]))
        wait_until(lambda: len(changes_of_lanes(roles[role])) >= before + 4, 60, lambda: f"lanes of the {role} to change\n{m.tail()}")
        m.source.execute("truncate log")
        seen += len(changes_of_lanes(roles[role]))
        roles[role].kill9()
        roles[role] = m.start(role=role, env={"FORESHADOW_FAILPOINTS": "shadow.scale=broken"})
    client.kill9()
    assert_follows(m, timeout=120)
    for db in m.targets():
        assert db.value("select count(*) = count(distinct id) from counter")
        assert_balanced(m, db)
    assert seen >= turns * 4
    m.stop()
