# SPDX-License-Identifier: Apache-2.0
"""The rig itself: servers start, are killed, come back; tables compare; nothing leaks out."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rig import Process, assert_equal, differences, place, wait_until
from rig.foreshadow import to_yaml


def test_postgres_keeps_committed_rows_over_kill9(new_postgres):
    server = new_postgres("victim")
    db = server.createdb("d")
    db.execute("create table t (id int primary key, v text); insert into t values (1, 'a'), (2, null)")
    server.kill9()
    server.start()
    assert db.sql("select * from t where id < %s order by id", 9) == [(1, "a"), (2, None)]
    server.restart("immediate")
    db.poll("select count(*) from t", 2)


def test_target18_is_postgresql_18(target18):
    assert target18.value("show server_version_num").startswith("18")
    assert target18.value("show wal_level") == "logical"


def test_tables_differ_and_agree(source, target18, migration):
    m = migration(server=target18)
    for db in (m.source, m.target):
        db.execute("""create table t (id int primary key, at timestamptz, x float8, m money, r regtype);
                      insert into t values (1, '2020-01-01 00:00+02', 0.1, '$1.50', 'text'),
                                           (2, 'infinity', 'nan', null, 'int4')""")
    assert_equal(m.source, m.target)
    m.target.execute("update t set x = 0.2 where id = 1; create table only_here ()")
    found = differences(m.source, m.target)
    assert len(found) == 1 and "only in" in found[0] and "2019-12-31 22:00:00+00" in found[0]
    assert m.source.dump("t") == b"".join(sorted(m.source.dump("public.t").splitlines(True)))


def test_a_multiset_is_compared(migration):
    m = migration()
    for db, copies in ((m.source, 2), (m.target, 1)):
        db.execute(f"create table k (v int); insert into k select 7 from generate_series(1, {copies}); "
                   "insert into k values (8)")
    assert "1 only in" in differences(m.source, m.target)[0]


def test_kafka_returns_what_was_written(kafka):
    kafka.create_topic("rig-a", 3)
    for n in range(6):
        kafka.produce("rig-a", f"v{n}".encode(), key=b"k", partition=n % 3, headers=[("h", b"1")])
    records = kafka.consume("rig-a")
    assert [(r.partition(), r.offset(), r.value()) for r in records] == [
        (0, 0, b"v0"), (0, 1, b"v3"), (1, 0, b"v1"), (1, 1, b"v4"), (2, 0, b"v2"), (2, 1, b"v5")]
    assert kafka.end_offsets("rig-a") == {0: 2, 1: 2, 2: 2}
    kafka.delete_topics("rig-a", "rig-never-made")
    assert "rig-a" not in kafka.topics()


def test_kafka_forgets_what_came_after_a_snapshot(new_kafka):
    kafka = new_kafka()
    kafka.create_topic("t")
    kafka.produce("t", b"kept")
    kafka.stop()
    before = kafka.snapshot_logs()
    kafka.start()
    kafka.produce("t", b"lost")
    kafka.kill9()
    kafka.start()
    assert [r.value() for r in kafka.consume("t")] == [b"kept", b"lost"]
    kafka.stop()
    kafka.restore_logs(before)
    kafka.start()
    assert [r.value() for r in kafka.consume("t")] == [b"kept"]


def test_registry_serves_a_schema(registry):
    assert isinstance(registry.subjects(), list)


def test_migration_writes_its_yaml(migration):
    m = migration(schema="exists", kafka={"partitions": 12, "linger.ms": "5"}, risk={"shadow_threshold": 0})
    text = m.yaml.read_text()
    assert f"migration: {m.name}\n" in text
    assert "  partitions: 12\n" in text and '  linger.ms: "5"\n' in text and "  shadow_threshold: 0\n" in text
    assert m.source.value("select current_database()") == f"{m.name}_src"


def test_yaml_of_nested_lists():
    assert to_yaml({"a": [{"from": "x.y", "columns": {"c": None}}], "e": []}) == (
        'a:\n  -\n    from: "x.y"\n    columns:\n      c: ~\ne: []\n')


def test_a_process_is_stopped_and_continued():
    p = Process("sleeper", ["sh", "-c", "echo up; echo oops >&2; exec sleep 60"], place.folder("sleeper"))
    p.wait_log("up")
    p.wait_log("oops")
    assert p.out() == "up\n" and p.err() == "oops\n"
    p.sigstop()
    assert p.is_stopped()
    p.sigcont()
    assert p.peak_rss() > 0
    assert p.stop() == -15


def test_children_die_with_the_runner():
    folder = place.folder("orphan")
    script = ("import sys, threading; sys.path.insert(0, sys.argv[1])\n"
              "from rig import Process\n"
              "def start(): print(Process('s', ['sleep', '600'], sys.argv[2]).pid, flush=True)\n"
              "t = threading.Thread(target=start); t.start(); t.join()\n"
              "sys.stdin.read()\n")
    runner = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent), str(folder)],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child = int(runner.stdout.readline())
    # alive though the thread that started it is gone; and asked to die with its parent by now
    wait_until(lambda: Path(f"/proc/{child}/comm").read_text() == "sleep\n", 10, "the child to become the command")
    runner.kill()
    runner.wait()
    wait_until(lambda: _gone(child), 10, "the child to die")


def _gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_wait_says_what_it_waited_for():
    with pytest.raises(TimeoutError, match="the moon"):
        wait_until(lambda: False, 0.05, "the moon")
