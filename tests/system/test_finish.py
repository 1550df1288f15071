# SPDX-License-Identifier: Apache-2.0
"""Indexes and constraints are built when the copies are whole, which may take hours: a stop or a crash in the middle ends
it at once, on the server too, and the next start builds the rest."""
import os
import signal
from contextlib import contextmanager, ExitStack

import psycopg

from following import assert_follows, wait_live
from rig import wait_until
from rig.process import children_of

SETUP = """
    create table parts (id int, v int, primary key (id)) partition by range (id);
    create table parts_1 partition of parts for values from (0) to (100);
    create table parts_2 partition of parts for values from (100) to (200);
    create index parts_v on parts (v);
    create table plain (id int primary key, a int, b int check (b > 0), part int references parts);
    create index plain_a on plain (a); create index plain_b on plain (b); create index plain_ab on plain (a, b);
    create index plain_abs on plain (abs(b)); create statistics plain_s on a, b from plain;
    insert into parts select i, i from generate_series(1, 199) i;
    insert into plain select i, i % 10, i, i from generate_series(1, 199) i"""

BUILT = """
    select string_agg(line, E'\\n' order by line) from (
        select indexdef || ' ' || i.indisvalid || ' ' || coalesce(h.inhparent::regclass::text, '-') as line
        from pg_indexes x join pg_class c on c.oid = format('%I.%I', x.schemaname, x.indexname)::regclass
        join pg_index i on i.indexrelid = c.oid left join pg_inherits h on h.inhrelid = c.oid where x.schemaname = 'public'
        union all select conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(oid) || ' ' || convalidated
        from pg_constraint where connamespace = 'public'::regnamespace
        union all select 'statistics ' || stxname from pg_statistic_ext) lines"""

BUILDERS = ("select coalesce(array_agg(pid order by pid), '{}') from pg_stat_activity where datname = current_database()"
            " and query like 'CREATE INDEX%' and state = 'active'")


SCHEMA_LOCK = 0x666f7265
WAITERS = "select count(*) from pg_locks where locktype = 'advisory' and not granted and database ="\
          " (select oid from pg_database where datname = current_database())"


def hold(stack, db, statement):
    connection = stack.enter_context(db.connect(autocommit=False))
    connection.execute(statement)
    return connection


@contextmanager
def held_up(m):
    """A migration whose copies are whole, and whose indexes wait for somebody's transaction on the targets.

    The schema's lock holds it up in between: copying empties the tables first, which would wait for that transaction."""
    process = m.start(env={"FORESHADOW_FAILPOINTS": "schema.restored=stop@2"})
    wait_until(process.is_stopped, 60, "both targets' tables to be made")
    with ExitStack() as stack:
        copying = hold(stack, m.source, "lock table plain")
        process.sigcont()
        locks = [hold(stack, db, f"select pg_advisory_xact_lock({SCHEMA_LOCK}, 1)") for db in m.targets()]
        copying.rollback()
        for db, lock in zip(m.targets(), locks):
            db.poll(WAITERS, 1)
            hold(stack, db, "lock table plain, parts_2 in row exclusive mode")
            lock.rollback()
            wait_until(lambda: db.value(BUILDERS), 60, lambda: f"{db}: the build to wait\n{m.tail()}")
        yield process


def slot_is_dropped(m):
    """Ingest connects again at once."""
    m.source.execute("select pg_terminate_backend(active_pid, 10000) from pg_replication_slots where slot_name = %s", m.slot)
    try:
        m.source.execute("select pg_drop_replication_slot(%s)", m.slot)
    except psycopg.errors.ObjectInUse:
        return False
    return True


def wait_no_builders(m):
    for db in m.targets():
        db.poll(BUILDERS, [], timeout=20)


def assert_built(m):
    wait_live(m)
    assert_follows(m)
    expected = m.source.value(BUILT)
    for db in m.targets():
        db.poll("select state in ('finished', 'complete') from foreshadow.schemas")
        assert db.value(BUILT) == expected
    assert "stopped in front of" not in m.log()


def test_a_stop_does_not_wait_for_indexes(migration):
    m = migration()
    m.source.execute(SETUP)
    with held_up(m) as process:
        assert process.stop(30) == 0
        wait_no_builders(m)
        assert "pg_restore was stopped, as we are" in process.log()
    m.start()
    assert_built(m)


def test_a_role_that_fails_does_not_wait_for_indexes(migration):
    m = migration()
    m.source.execute(SETUP)
    with held_up(m) as process:
        wait_until(lambda: slot_is_dropped(m), 30, "the slot to be dropped")
        assert process.wait(60) == 3
        wait_no_builders(m)


def test_what_builds_ends_with_us(migration):
    m = migration()
    m.source.execute(SETUP)
    with held_up(m) as process:
        process.kill9()
        wait_no_builders(m)
    m.start()
    assert_built(m)


def test_what_a_crash_left_on_the_server_is_ended(migration):
    """A container that is killed takes pg_restore with it, and the server goes on building."""
    m = migration()
    m.source.execute(SETUP)
    with held_up(m) as process:
        process.sigstop()
        for leader in children_of(process.pid):
            for pid in (*children_of(leader), leader):
                os.kill(pid, signal.SIGKILL)
        process.kill9()
        left = {db: set(db.value(BUILDERS)) for db in m.targets()}
        assert all(left.values())
        m.start()
        for db in m.targets():
            wait_until(lambda: set(db.value(BUILDERS)) - left[db], 60, lambda: f"{db}: another build\n{m.tail()}")
            assert not set(db.value(BUILDERS)) & left[db]
    assert_built(m)


def test_a_stop_while_tables_are_made(migration):
    m = migration()
    m.source.execute(SETUP)
    with m.source.connect(autocommit=False) as c:
        c.execute("lock table plain")
        process = m.start()
        m.source.poll("select count(*) from pg_stat_activity where application_name ~ ' schema$' and wait_event_type = 'Lock'"
                      " and datname = current_database()", 1)
        assert process.stop(30) == 0
    m.start()
    assert_built(m)


def test_an_index_that_was_built_and_not_attached(migration):
    """A leaf's index and its place in the parent's are two steps: a crash may come between them."""
    m = migration()
    m.source.execute(SETUP)
    with held_up(m) as process:
        assert process.stop(30) == 0
    for db in m.targets():
        db.execute("create index parts_2_v_idx on parts_2 (v)")
    m.start()
    assert_built(m)


def test_until_waits_for_what_is_owed(migration):
    """Tables may be live before everything is built: the roles end without it, the run does not."""
    m = migration()
    m.source.execute(SETUP)
    m.run_until()
    for db in m.targets():
        db.execute("drop index plain_a; update foreshadow.schemas set state = 'prepared'")
    with ExitStack() as stack:
        locks = [hold(stack, db, "lock table plain in row exclusive mode") for db in m.targets()]
        process = m.start(args=["--until", "caught-up"])
        process.wait_log("primary ended")
        process.wait_log("shadow ended")
        for db, lock in zip(m.targets(), locks):
            wait_until(lambda: db.value(BUILDERS), 60, lambda: f"{db}: the build to wait\n{m.tail()}")
            lock.rollback()
        assert process.wait(60) == 0
    for db in m.targets():
        assert db.value(BUILT) == m.source.value(BUILT)
        assert db.value("select state from foreshadow.schemas") == "complete"
