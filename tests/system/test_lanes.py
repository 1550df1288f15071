# SPDX-License-Identifier: Apache-2.0
"""What a process takes of its machine and of a target: its threads, and how many lanes `auto` is."""
import contextlib
import os
import re
import time
from pathlib import Path

from following import assert_balanced, assert_follows, wait_live
from rig import wait_until


def test_all_threads_wait_their_turn(migration):
    m = migration()
    m.source.execute("create table t (id int primary key)")
    process = m.start()
    wait_live(m)
    policies = {}
    for tid in os.listdir(f"/proc/{process.pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            policies[Path(f"/proc/{process.pid}/task/{tid}/comm").read_text().strip() + tid] = os.sched_getscheduler(int(tid))
    assert len(policies) > 8 and set(policies.values()) == {os.SCHED_BATCH}, policies


def start_client(m, per_second, script, clients=1):
    path = m.folder / "client.sql"
    path.write_text(script)
    path.chmod(0o644)
    return m.source.start_pgbench("-n", "-c", str(clients), "-R", str(per_second), "-T", "600", "-f", str(path))


def changes_of_lanes(process):
    """[("shadow", 2, 1), ...] from the log."""
    return [(role, int(a), int(b)) for role, a, b in re.findall(r" (shadow|primary): lanes: (\d+) -> (\d+) ", process.log())]


def has_changed(process, a, b):
    return {("shadow", a, b), ("primary", a, b)} <= set(changes_of_lanes(process))


def test_lanes_follow_the_load(migration):
    """One is enough for a few rows at a time; two when one never rests; and both stand when there is nothing to do."""
    m = migration()
    m.source.execute("create table t (id bigint primary key); create sequence s; create table slow (v text);"
                     " alter table slow replica identity full; insert into slow select md5(i::text) from generate_series(1, 2000) i")
    process = m.start()
    wait_live(m)
    for rate in (20, 40, 80, 160, 320, 640):  # what is little depends on the machine
        client = start_client(m, rate, "insert into t select nextval('s') from generate_series(1, 100);")
        enough = time.monotonic() + 6
        wait_until(lambda: has_changed(process, 2, 1) or time.monotonic() > enough, 10, "lanes")
        client.kill9()
    assert has_changed(process, 2, 1), f"one lane for each target\n{m.tail()}"
    # a row of a table without a key is found by looking at all of them
    client = start_client(m, 3, "update slow set v = md5(v);")
    wait_until(lambda: has_changed(process, 1, 2), 60, lambda: f"two lanes again\n{m.tail()}")
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


def test_a_lane_that_is_late_keeps_its_partitions(migration):
    """Its transaction is open for longer than a move waits: it goes on with what it has, and nobody ends its session."""
    m = migration()
    m.source.execute("create table t (id int primary key, v int)")
    release = m.folder / "release"
    m.start(role="ingest")
    primary = m.start(role="primary", env={"FORESHADOW_FAILPOINTS": "shadow.scale=broken;apply.before_commit=hang",
                                           "FORESHADOW_FAILPOINT_RELEASE": str(release)})
    wait_live(m, dbs=[m.target])
    # all partitions in one lane's hands, and soon to be divided
    wait_until(lambda: changes_of_lanes(primary)[-1:] == [("primary", 2, 1)], 30, "one lane", interval=0.01)
    m.source.execute("insert into t select i, i from generate_series(1, 1000) i")
    wait_until(lambda: primary.log().count("still waits for the target") >= 2, 60, lambda: f"a move that waits for a lane\n{m.tail()}")
    release.touch()
    assert_follows(m, dbs=[m.target])
    assert_balanced(m, m.target)
    assert not re.search("fenced|terminat|did not run|holds its progress row", primary.log())
