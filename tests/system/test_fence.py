# SPDX-License-Identifier: Apache-2.0
"""A process that was stopped and wakes after somebody else took over writes nothing."""
import time

import pytest

from following import assert_balanced, assert_follows, wait_caught_up, wait_live
from rig import assert_equal, wait_until

SESSION_TIMEOUT = 10  # the group's, as design fixes it
SETUP = """create table t (id int primary key, n int not null default 0);
insert into t select i from generate_series(1, 500) i;
create table log (v int, at int); alter table log replica identity full"""


def owners(m):
    return {owner for owner, in m.target.sql("select distinct owner_instance from foreshadow.progress where topic = %s",
                                             m.topic("changes"))}


@pytest.mark.parametrize("point", ["apply.before_first", "apply.between_statements", "apply.before_commit"])
def test_stopped_consumer_writes_nothing_when_it_wakes(migration, point):
    m = migration()
    m.source.execute(SETUP)
    m.start(role="ingest")
    first = m.start(role="primary", instance="zombie")
    wait_live(m, [m.target])
    wait_caught_up(m, [m.target])
    first.kill9()
    zombie = m.start(role="primary", instance="zombie", env={"FORESHADOW_FAILPOINTS": f"{point}=stop@3"})
    step = iter(range(1, 100000))

    def provoke():
        i = next(step)
        m.source.execute(f"begin; update t set n = n + 1 where id <= 40; insert into log values ({i}, 1); delete from t where id = {100 + i}; commit")
        return zombie.is_stopped()

    wait_until(provoke, 60, lambda: f"the failpoint\n{zombie.tail()}", interval=0.1)
    heir = m.start(role="primary", instance="heir")
    m.source.execute("update t set n = n + 1 where id > 300; insert into log values (0, 2)")
    stopped = time.monotonic()
    wait_caught_up(m, [m.target], timeout=SESSION_TIMEOUT + 5 + 15)  # start of a process under a sanitizer included
    took = time.monotonic() - stopped
    assert owners(m) == {"heir"}, owners(m)
    written = m.target.value("select sum(changes) from foreshadow.progress")
    zombie.sigcont()
    zombie.wait_log("fenced", 30)
    m.source.execute("insert into log values (0, 3)")
    assert_follows(m, dbs=[m.target])
    assert m.target.value("select sum(changes) from foreshadow.progress") == written + 1
    assert_balanced(m, m.target)
    assert took < SESSION_TIMEOUT + 5 + 10, f"the heir went on after {took:.1f} s\n{heir.tail()}"


@pytest.mark.parametrize("point", ["publish.after_produce", "ingest.before_feedback"])
def test_stopped_ingest_publishes_nothing_when_it_wakes(migration, point, new_postgres):
    """The source ends the walsender of a silent ingest; another takes the slot; the first one wakes."""
    m = migration(source_server=new_postgres("impatient", wal_sender_timeout="3s"))
    m.source.execute(SETUP)
    zombie = m.start(role="ingest", instance="zombie", env={"FORESHADOW_FAILPOINTS": f"{point}=stop@400"})
    m.start(role="primary")
    wait_live(m, [m.target])
    step = iter(range(1, 100000))

    def provoke():
        m.source.execute(f"insert into log values ({next(step)}, 1); update t set n = n + 1")
        return zombie.is_stopped()

    wait_until(provoke, 120, lambda: f"the failpoint\n{zombie.tail()}", interval=0.05)
    m.source.poll(f"select not active from pg_replication_slots where slot_name = '{m.slot}'", True, 60)
    m.start(role="ingest", instance="heir")
    m.source.execute("insert into log values (0, 2)")
    assert_follows(m, dbs=[m.target])
    zombie.sigcont()
    m.source.execute("insert into log values (0, 3)")
    wait_until(lambda: not zombie.running() or "generation" in zombie.tail(5) or "active" in zombie.tail(5), 30,
               lambda: f"the zombie to say something\n{zombie.tail()}")
    m.source.execute("update t set n = n + 1")
    assert_follows(m, dbs=[m.target])
    assert_balanced(m, m.target)


def test_acknowledged_tail_lost(migration, new_kafka):
    """Kafka comes back without what it had acknowledged: ingest says what is missing and stops."""
    kafka = new_kafka()
    m = migration(kafka_server=kafka)
    m.source.execute(SETUP)
    m.start()
    wait_live(m)
    wait_caught_up(m)
    m.stop()
    kafka.stop()
    before = kafka.snapshot_logs()
    kafka.start()
    m.start()
    m.source.execute("update t set n = n + 1; insert into log select i, 7 from generate_series(1, 1000) i")
    assert_follows(m)
    m.stop()
    m.source.poll(f"select confirmed_flush_lsn > restart_lsn from pg_replication_slots where slot_name = '{m.slot}'")
    kafka.stop()
    kafka.restore_logs(before)
    kafka.start()
    process = m.start(role="ingest")
    assert process.wait(60) == 3, process.tail()
    assert "Kafka lost" in process.log(), process.tail()
    for db in m.targets():
        assert_equal(m.source, db)


def test_scale_out_and_in(migration, is_long):
    """Two, then three processes of one role; one leaves by SIGTERM, one by -9; exclusive events in each phase."""
    m = migration(kafka={"partitions": 12})
    m.source.execute(SETUP + "; create table side (id int primary key); create table ids (id bigint generated always as identity primary key, v int)")
    script = m.folder / "traffic.sql"
    script.write_text("\\set id random(1, 500)\nupdate t set n = n + 1 where id = :id;\ninsert into ids (v) values (:id);\n"
                      "insert into log values (:id, 1);\n")
    script.chmod(0o644)
    m.start(role="ingest")
    members = {name: m.start(role="primary", instance=name) for name in ("a", "b")}
    wait_live(m, [m.target])
    client = m.source.start_pgbench("-n", "-c", "2", "-R", "500", "-T", "600", "-f", str(script))

    def phase(names):
        wait_until(lambda: owners(m) == set(names), 60, lambda: f"{names} to own partitions, owners {owners(m)}\n{m.tail()}")
        before = dict(m.target.sql("select owner_instance, sum(changes) from foreshadow.progress where topic = %s group by 1", m.topic("changes")))
        m.source.execute("insert into side values (1), (2); truncate side; insert into side values (3); truncate side")
        wait_caught_up(m, [m.target])

        def all_applied():
            now = dict(m.target.sql("select owner_instance, sum(changes) from foreshadow.progress where topic = %s group by 1", m.topic("changes")))
            return all(now.get(name, 0) > before.get(name, 0) for name in names)

        wait_until(all_applied, 60, lambda: f"each of {names} to apply something\n{m.tail()}")

    phase("ab")
    members["c"] = m.start(role="primary", instance="c")
    phase("abc")
    members["a"].signal(15)
    assert members["a"].wait(60) == 0, members["a"].tail()
    phase("bc")
    members["b"].kill9()
    phase("c")
    client.kill9()
    assert_follows(m, dbs=[m.target])
    assert m.target.value("select count(*) = count(distinct id) from ids")
    assert_balanced(m, m.target)
