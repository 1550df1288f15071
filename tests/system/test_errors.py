# SPDX-License-Identifier: Apache-2.0
"""What goes wrong is said: the object, what was seen, what was wanted, the next step; and the exit code."""
import contextlib
import os
import pwd
import threading
from pathlib import Path

import pytest

from following import assert_follows, wait_caught_up, wait_live
from rig import place, wait_until
from rig.process import run

TABLE = "create table t (id int primary key, v text); insert into t select i, 'v' from generate_series(1, 10) i"


def failing_run(m, timeout=60, args=()):
    process = m.start(args=args)
    code = process.wait(timeout)
    m.check_sanitizers()
    return code, process.log()


def assert_says(log, *words):
    missing = [w for w in words if w not in log]
    assert not missing, f"missing {missing} in:\n{log}"


def no_replication_right(m):
    m.source.execute("create role plain login; grant all on all tables in schema public to plain")
    m.write({**m.config, "source": {"uri": m.source.uri(user="plain")}})


def identity_nothing(m):
    m.source.execute("create table bare (a int); create table none (id int primary key);"
                     "alter table none replica identity nothing;"
                     "create table later (id int primary key deferrable)")


def target_table_exists(m):
    m.target.execute("create table t (id int)")


def target_has_rows(m):
    for db in (m.target, m.shadow):
        db.execute(TABLE)
    m.write({**m.config, "schema": "exists"})


def target_column_missing(m):
    for db in (m.target, m.shadow):
        db.execute("create table t (id int primary key)")
    m.write({**m.config, "schema": "exists"})


def with_config(**changes):
    def provoke(m):
        m.write({**m.config, **changes})
    return provoke


def down(what):
    def provoke(m):
        port = place.free_port()
        if what == "kafka":
            m.write({**m.config, "kafka": {**m.config["kafka"], "bootstrap.servers": f"127.0.0.1:{port}"}})
        else:
            m.write({**m.config, what: {"uri": f"postgresql://postgres@127.0.0.1:{port}/x"}})
    return provoke


# name: provocation, command, exit code, words
ERRORS = {
    "literal password": (with_config(source={"uri": "postgresql://u:hunter2@127.0.0.1/x"}), "run", 2,
                         ["source", "password", "${"]),
    "unknown key": (with_config(tabels={"include": ["public.*"]}), "run", 2, ["tabels", "tables"]),
    "refused kafka key": (with_config(kafka={"bootstrap.servers": "x:1", "acks": 1}), "run", 2, ["acks"]),
    "not in this version": (with_config(limits={"memory": "256MB"}), "run", 2, ["limits.memory", "not in this version"]),
    "source down": (down("source"), "check", 1, ["cannot connect to the source (host 127.0.0.1, port", "user postgres", "next step: check that the server runs"]),
    "source down at start": (down("source"), "run", 1, ["cannot connect to the source (host 127.0.0.1, port", "user postgres",
                                                        "next step: check that the server runs"]),
    "target down": (down("target"), "check", 1, ["cannot connect to the target (host 127.0.0.1, port", "user postgres", "next step: check that the server runs"]),
    "target down at start": (down("target"), "run", 1, ["cannot connect to the target (host 127.0.0.1, port", "next step: check that the server runs"]),
    "kafka down": (down("kafka"), "check", 1, ["kafka", "the brokers", "bootstrap.servers", "next step"]),
    "kafka down at start": (down("kafka"), "run", 1, ["kafka", "the brokers", "bootstrap.servers", "next step"]),
    "no replication right": (no_replication_right, "run", 3, ["plain", "REPLICATION", "ALTER ROLE"]),
    "no identity": (identity_nothing, "run", 3, ['"public"."bare"', '"public"."none"', '"public"."later"', "REPLICA IDENTITY", "ALTER TABLE"]),
    "target table exists": (target_table_exists, "run", 3, ["t", "exists", "schema: exists"]),
    "target has rows": (target_has_rows, "run", 3, ["t", "rows", "TRUNCATE"]),
    "target column missing": (target_column_missing, "run", 3, ["t", "v", "ALTER TABLE"]),
    "nothing in scope": (with_config(tables={"include": ["nowhere.*"]}), "run", 3, ["tables:", "include"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_error(migration, name):
    provoke, command, exit_code, words = ERRORS[name]
    m = migration(create_shadow="target_" in name or name.startswith("target has") or name.startswith("target column"))
    m.source.execute(TABLE)
    provoke(m)
    if command == "run":
        code, log = failing_run(m)
    else:
        result = m.run_cli(command)
        code, log = result.returncode, result.stdout + result.stderr
    assert_says(log, *words)
    assert code == exit_code, log
    assert "hunter2" not in log


def test_wal_level_replica(migration, new_postgres):
    m = migration(source_server=new_postgres("source", wal_level="replica"))
    m.source.execute(TABLE)
    code, log = failing_run(m)
    assert code == 3
    assert_says(log, "wal_level", "replica", "logical", "ALTER SYSTEM")


def test_wrong_password(migration, new_postgres):
    server = new_postgres("source")
    m = migration(source_server=server)
    server.execute("create role walled login superuser password 'right'")
    server.add_hba("host all walled 127.0.0.1/32 scram-sha-256")
    m.write({**m.config, "source": {"uri": m.source.uri(user="walled")}})
    process = m.start(env={"PGPASSWORD": "canary-wrong"})
    assert process.wait(60) == 3
    assert_says(process.log(), "cannot connect to the source", "user walled", "password", "next step: give the right password by ${VAR}")
    assert "canary-wrong" not in process.log()


def test_slot_already_active(migration):
    m = migration()
    m.source.execute(TABLE)
    m.start(role="ingest")
    m.source.poll("select coalesce(bool_or(active), false) from pg_replication_slots where slot_name = '%s'" % m.slot)
    second = m.start(role="ingest", instance="b")
    assert second.wait(60) == 3
    assert_says(second.log(), m.slot, "active for pid", "pg_terminate_backend")


def test_the_same_instance_twice(migration):
    m = migration()
    m.source.execute(TABLE)
    m.start(role="ingest")
    first = m.start(role="shadow", instance="one")
    wait_live(m, [m.shadow])
    second = m.start(role="shadow", instance="one")
    assert second.wait(60) == 3, second.tail()
    assert_says(second.log(), "another process runs role shadow", "one", "--instance")
    assert first.running()


def test_target_read_only_is_waited_for(migration):
    m = migration()
    m.source.execute(TABLE)
    process = m.start()
    wait_live(m)
    m.target.execute(f"alter database {m.target.name} set default_transaction_read_only = on;"
                     f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{m.target.name}' and pid <> pg_backend_pid()")
    m.source.execute("insert into t values (100, 'x')")
    process.wait_log("read-only")
    assert_says(process.log(), f"database {m.target.name} on 127.0.0.1", "promote the server if it is a standby")
    with m.target.connect(options="-c default_transaction_read_only=off") as c:
        c.execute(f"alter database {m.target.name} reset default_transaction_read_only")
        c.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{m.target.name}' and pid <> pg_backend_pid()")
    assert_follows(m)
    assert process.running()


def test_target_disk_full_is_waited_for(migration, tmp_path):
    """The target's database lives on a small tmpfs: it fills, is reported, is enlarged, and all arrives."""
    m = migration(create_shadow=True)
    small = place.folder("small")
    assert os.geteuid() == 0, "mounting a small file system needs root"
    run(["mount", "-t", "tmpfs", "-o", f"size=24m,uid={pwd.getpwnam('postgres').pw_uid}", "tmpfs", small])
    tablespace = f"small_{m.name}"
    try:
        m.target.drop()
        m.target.server.execute(f"create tablespace {tablespace} location '{small}'")
        m.target.server.execute(f"create database {m.target.name} tablespace {tablespace}")
        m.source.execute(TABLE)
        process = m.start()
        wait_live(m)
        m.source.execute("insert into t select i, repeat('x', 200) from generate_series(1000, 200000) i")
        process.wait_log("No space left on device", 60)
        assert_says(process.log(), f"database {m.target.name} on 127.0.0.1", "make room on that server's disk")
        run(["mount", "-o", "remount,size=400m", small])
        assert_follows(m)
        assert process.running()
    finally:
        m.kill9()
        m.target.drop()
        m.target.server.execute(f"drop tablespace if exists {tablespace}")
        run(["umount", "-l", small])
        m.target.server.createdb(m.target.name)


def wait_stands_still(m, ingest):
    """Until the walsender has more, and nobody takes it."""
    sent = []

    def stands_still():
        sent.append(m.source.value("select sent_lsn from pg_stat_replication where pid = (select active_pid from"
                                   " pg_replication_slots where slot_name = %s) and sent_lsn < pg_current_wal_lsn()", m.slot))
        return len(sent) > 8 and sent[-1] is not None and sent[-1] == sent[-8]

    wait_until(stands_still, 90, lambda: f"ingest to stand still\n{ingest.tail()}", interval=0.25)


def test_kafka_down_in_the_middle(migration, new_kafka):
    """The slot holds what Kafka has not taken, memory stays bounded, and everything arrives afterwards."""
    kafka = new_kafka()
    m = migration(kafka_server=kafka)
    m.source.execute(TABLE)
    process = m.start(env={"ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=1"})
    wait_live(m)
    wait_caught_up(m)
    kafka.kill9()
    before, peak = m.source.value("select pg_current_wal_lsn()"), process.peak_rss()
    m.source.execute("insert into t select i, repeat('x', 1000) from generate_series(1000, 201000) i")  # 200 MB
    process.wait_log("no broker answers: ingest waits, and the slot keeps the source's WAL")
    wait_stands_still(m, process)
    assert process.peak_rss() - peak < 150e6, f"{peak} -> {process.peak_rss()}"
    assert m.source.value("select confirmed_flush_lsn <= %s::pg_lsn from pg_replication_slots where slot_name = %s", before, m.slot)
    kafka.start()
    assert_follows(m, timeout=120)
    process.wait_log("brokers answer again")
    assert process.running() and process.log().count("no broker answers") == 1


@pytest.mark.parametrize("kind", ["changes", "snapshot", "incidents", "control"])
def test_topic_deleted(migration, kind):
    """It is said, by consumers too, and nothing is made in its place that would keep the old one from being put back."""
    m = migration()
    m.source.execute(TABLE)
    m.start()
    wait_live(m)
    m.stop()
    m.kafka.delete_topics(m.topic(kind))
    code, log = failing_run(m)
    assert code == 3
    assert_says(log, m.topic(kind), "restore", "foreshadow drop")
    if kind == "control":  # nobody can know that there was one before the other topics are looked at
        return
    assert m.topic(kind) not in m.kafka.topics(f"{m.name}.")
    code, log = failing_run(m, args=["--role", "primary"])
    assert code == 3
    assert_says(log, m.topic(kind), "restore")


@pytest.mark.parametrize("is_again", [False, True], ids=["gone", "made_again"])
def test_a_slot_that_is_not_the_one_of_before(migration, is_again):
    m = migration()
    m.source.execute(TABLE)
    m.start()
    wait_live(m)
    assert_follows(m)
    m.stop()
    m.source.poll("select active from pg_replication_slots where slot_name = '%s'" % m.slot, False)
    m.source.sql("select pg_drop_replication_slot(%s)", m.slot)
    m.source.execute("insert into t values (200, 'unseen')")
    if is_again:
        m.source.sql("select pg_create_logical_replication_slot(%s, 'pgoutput')", m.slot)
    code, log = failing_run(m)
    assert code == 3
    assert_says(log, *(["Kafka lost", ".."] if is_again else [f"the replication slot {m.slot} is gone", "a gap from", "foreshadow drop"]))


def test_a_source_that_is_another_server(migration):
    m = migration()
    m.source.execute(TABLE)
    m.start()
    wait_live(m)
    m.stop()
    other = m.target.server.createdb(f"{m.name}_other")
    other.execute(TABLE)
    m.write({**m.config, "source": {"uri": other.uri()}})
    code, log = failing_run(m)
    other.drop()
    assert code == 3
    assert_says(log, "the source is system", "this migration began on system", "a gap from", "foreshadow drop")


def test_table_that_left_the_publication_and_comes_back(migration):
    m = migration()
    m.source.execute(TABLE + "; create table other (id int primary key)")
    m.start()
    wait_live(m)
    m.stop()
    m.source.execute(f"alter publication {m.slot} drop table t; insert into t values (500, 'unseen')")
    code, log = failing_run(m)
    assert code == 3
    assert_says(log, "public.t", m.slot, "lost", "foreshadow drop")


def test_partition_count_changed(migration):
    m = migration()
    m.source.execute(TABLE)
    m.start()
    wait_live(m)
    m.stop()
    m.kafka.add_partitions(m.topic("changes"), 9)
    code, log = failing_run(m)
    assert code == 3
    assert_says(log, m.topic("changes"), "9", "4", "partition")


class CommandLines(threading.Thread):
    """Those of all processes of the machine, again and again."""

    def __init__(self):
        super().__init__()
        self.seen, self.stopping = set(), threading.Event()
        self.start()

    def run(self):
        while not self.stopping.wait(0.002):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.seen.add(path.read_bytes())

    def end(self):
        self.stopping.set()
        self.join()
        return b"\n".join(self.seen)


def test_secrets_appear_nowhere(migration, new_postgres, kafka):
    secret = "canary-7f3a9"
    server = new_postgres("walled")
    server.execute(f"create role app login superuser password '{secret}'")
    server.add_hba("host all app 127.0.0.1/32 scram-sha-256")
    m = migration(source_server=server, server=server, env={"APP_PASSWORD": secret})
    for part, db in (("source", m.source), ("target", m.target)):
        m.config[part] = {"uri": db.uri(user="app").replace("app@", "app:${APP_PASSWORD}@")}
    m.write(m.config)
    m.source.execute(TABLE)
    outputs = [m.run_cli("check")]
    assert outputs[0].returncode == 0
    lines = CommandLines()
    process = m.start()
    wait_live(m)
    m.source.execute("insert into t values (1000, 'x')")
    assert_follows(m)
    seen = lines.end()
    assert b"pg_dump" in seen and b"pg_restore" in seen and secret.encode() not in seen
    outputs += [m.run_cli(command, "--json") for command in ("status", "verify", "incidents")]
    server.execute("alter role app password 'changed'; select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'")
    process.wait_log("app")
    m.kill9()
    outputs += [m.run_cli(command) for command in ("status", "check", "verify", "incidents")]
    for topic in kafka.topics(f"{m.name}."):
        for record in kafka.consume(topic):
            assert secret.encode() not in (record.key() or b"") + (record.value() or b"")
    outputs.append(m.run_cli("drop", "--yes"))
    assert secret not in m.log() + "".join(seen.stdout + seen.stderr for seen in outputs)


def test_an_update_that_a_target_cannot_take_is_refused(migration):
    """Of a GENERATED ALWAYS column, which only an INSERT can write: left out of the UPDATE, it would be wrong from then on."""
    m = migration(schema="exists", create_shadow=True)
    m.source.execute("create table t (id int primary key, n int, v text); insert into t values (1, 1, 'a'), (2, 2, 'b')")
    for db in m.targets():
        db.execute("create table t (id int primary key, n int generated always as identity, v text)")
    process = m.start()
    wait_live(m)
    m.source.execute("update t set v = 'x' where id = 1")
    assert_follows(m)
    m.source.execute("update t set n = 7 where id = 2")
    process.wait_log("-> stopped", 60)
    assert_says(process.log(), "public.t update", "GENERATED ALWAYS", "SET GENERATED BY DEFAULT")
    assert m.target.sql("select * from t order by id") == [(1, 1, "x"), (2, 2, "b")]


def test_the_copied_row_that_a_target_refuses_is_named(migration):
    """One of thousands that are written together."""
    m = migration(schema="exists", create_shadow=True)
    m.source.execute("create table t (id int primary key, v text); insert into t select i, 'v' || i from generate_series(1, 3000) i")
    for db in m.targets():
        db.execute("create table t (id int primary key, v text check (v <> 'v1234'))")
    process = m.start()
    process.wait_log("-> stopped", 60)
    assert_says(process.log(), "t_v_check", '"1234"')
    assert m.target.value("select count(*) from t where id = 1234") == 0


def test_truncate_while_other_tables_are_copied(migration):
    """A copy holds a table only while it reads a part of it: an application's TRUNCATE of another one does not wait, and that
    one is copied again."""
    m = migration(copy={"jobs": 1})
    m.source.execute(TABLE + "; create table big as select i as id, 'row ' || i as v from generate_series(1, 30000) i; alter table big add primary key (id)")
    m.start(role="shadow")
    m.start(role="primary")
    ingest = m.start(role="ingest", env={"FORESHADOW_FAILPOINTS": "copy.row=stop@20000"})
    wait_until(ingest.is_stopped, 60, ingest.log)
    m.source.execute("set statement_timeout = '20s'; truncate t; insert into t values (77, 'later')")
    ingest.sigcont()
    wait_live(m)
    assert_follows(m)
    assert m.target.sql("select * from t") == [(77, "later")] and m.target.value("select count(*) from big") == 30000
    ingest.wait_log("truncated around its point", 30)
    m.stop()


def test_stop_while_an_application_holds_a_table(migration):
    """Publishing the table waits for it, and so does its copy; neither keeps the process from ending."""
    m = migration()
    m.source.execute(TABLE)
    waiting = "select count(*) > 0 from pg_locks where relation = 't'::regclass and not granted"
    release = m.folder / "release"
    with m.source.connect(autocommit=False) as application:
        application.execute("lock table t in access exclusive mode")
        process = m.start(role="ingest")
        m.source.poll(waiting, True, 60)
        process.signal(15)
        assert process.wait(20) == 0, process.tail()
        application.rollback()
        process = m.start(role="ingest", env={"FORESHADOW_FAILPOINTS": "copy.point=hang", "FORESHADOW_FAILPOINT_RELEASE": str(release)})
        process.wait_log("failpoint copy.point fired", 60)
        application.execute("lock table t in access exclusive mode")
        release.touch()
        process.wait_log("waits for a lock", 60)
        process.signal(15)
        assert process.wait(20) == 0, process.tail()
        application.rollback()
    m.start()
    wait_live(m)
    assert_follows(m)


def test_stop_while_kafka_takes_nothing(migration, new_kafka):
    """In the middle of a transaction, with the producer's queue full: the process ends all the same, and says so."""
    kafka = new_kafka()
    m = migration(kafka_server=kafka)
    m.source.execute(TABLE)
    ingest = m.start(role="ingest")
    ingest.wait_log("copy round ends", 60)
    kafka.process.sigstop()
    m.source.execute("insert into t select i, 'v' from generate_series(100, 400000) i")
    wait_stands_still(m, ingest)
    ingest.signal(15)
    assert ingest.wait(30) == 0, ingest.tail()
    assert_says(ingest.log(), "not acknowledged by Kafka", "publishes them again")
    kafka.process.sigcont()
    m.start()
    wait_live(m)
    assert_follows(m)
