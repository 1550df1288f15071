# SPDX-License-Identifier: Apache-2.0
"""An outsider reads our topics with fastavro, confluent-kafka and, in one of the framings, a registry, and rebuilds each
table from the records alone: nothing but ingest runs."""
import json
import re
import sys

import pytest

import published
from rebuilt import Rebuilt, assert_rebuilt, lsn
from rig import place, wait_until
from rig.process import run
import test_types

SHOP = place.TOP / "tools/shop"
# A fifth of the shop's orders and fewer of pgbench's accounts do: each row is looked at one by one here.
FEWER = ("delete from order_line where order_id > 4000; delete from orders where id > 4000;"
         "delete from pgbench_accounts where aid > 5000; alter table pgbench_history replica identity full;")

# Beside what the shop does: keys that change, most of them into another partition, with large values that stay.
MOVED = ("create table moved (id int primary key, n int, big text, flag bool default true);"
         "alter table moved alter big set storage external;"
         "insert into moved select i, i, case when i % 3 > 0 then repeat(md5(i::text), 100) end from generate_series(1, 120) i;"
         "create table whole (like moved including all); alter table whole replica identity full; insert into whole select * from moved;"
         "create table forgotten (id int primary key, v text); insert into forgotten select i, 'v' from generate_series(1, 50) i;")
MOVES = ["update {0} set id = id + 1000 where id <= 60",
         "begin; update {0} set id = 5001 where id = 61; update {0} set n = 9 where id = 5001; update {0} set id = 5002 where id = 5001;"
         "update {0} set big = null where id = 5002; insert into {0} values (61, 61, 'taken again'); commit",
         "begin; update {0} set id = 0 where id = 62; update {0} set id = 62 where id = 64; update {0} set id = 64 where id = 0; commit",
         "update {0} set n = n + 1 where id > 1000; delete from {0} where id between 70 and 79",
         "alter table {0} add late date, drop flag; update {0} set late = '2026-02-28' where id % 2 = 0"]
TRUNCATES = ["begin; insert into event_log (what) values ('lost'); truncate event_log;"
             "insert into event_log select '2026-01-01Z', 'kept' from generate_series(1, 9) i;"
             "update event_log set amount = 'nan' where ctid = (select max(ctid) from event_log);"
             "delete from event_log where ctid = (select min(ctid) from event_log); commit",
             "truncate visit_old, pgbench_history"]
WIDE = "create table wide (id int primary key, t text); insert into wide values (1, repeat('0123456789', 1000000));"


@pytest.fixture(params=["single-object", "registry"])
def registry_or_none(request):
    return request.getfixturevalue("registry") if request.param == "registry" else None


@pytest.fixture(scope="module")
def shop(source):
    db = source.createdb("outsider_shop")
    db.psql((SHOP / "schema.sql").read_text())
    db.pgbench("-i", "-q")
    db.execute(FEWER + MOVED)
    yield db
    db.drop()


@pytest.fixture(scope="module")
def torture(source):
    db = source.createdb("outsider_torture")
    with db.connect() as c:
        c.execute(test_types.USER_TYPES + WIDE)
        for t in test_types.all_tables():
            c.execute(t.setup() + t.insert(0))
    yield db
    db.drop()


def migration_of(db, migration, registry):
    """Its source is a copy of db."""
    m = migration(**({"kafka": {"schema.registry.url": registry.url}} if registry else {}))
    m.source.drop()
    m.source.server.createdb(m.source.name, template=db.name, strategy="file_copy")
    return m


def wait_copied(m):
    m.processes[-1].wait_log("copy round ends", 120)


def wait_written(m):
    """All that the source has committed is in the topics. Returns where its WAL ended."""
    end = m.source.value("select pg_current_wal_insert_lsn()::text")
    m.source.execute("select txid_current(), pg_logical_emit_message(false, 'test', 'tick')")
    confirmed = "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s"
    wait_until(lambda: m.running() and m.source.value(confirmed, end, m.slot), 120, m.tail)
    return lsn(end)


def copy_cut_off(m):
    """Ingest is killed when one copy is whole and others have begun: those are void. What is written then comes before the
    point of the next ones."""
    first = m.start(role="ingest", env={"FORESHADOW_FAILPOINTS": "ingest.copy_complete=stop@2"})
    wait_until(first.is_stopped, 60, m.tail)
    first.kill9()
    m.source.execute("update customer set tags = '{early}' where id <= 40; update moved set id = id + 500 where id <= 5;"
                     "truncate forgotten; insert into forgotten values (1, 'early'), (2, null); delete from pgbench_tellers where tid = 1;"
                     "insert into event_log (what) select 'twice' from generate_series(1, 2)")
    m.start(role="ingest")
    wait_copied(m)


def run_shop(m):
    """Its traffic and pgbench's; in the middle ingest is killed, keys move, and tables are emptied."""
    clients = [m.source.start_pgbench("-n", "-c", "2", "-t", "150", "-R", "200", "-f", str(SHOP / "traffic.sql")),
               m.source.start_pgbench("-n", "-c", "2", "-t", "150", "-R", "200")]
    wait_until(lambda: m.source.value("select count(*) > 50 from pgbench_history"), 60, "traffic")
    for process in m.running():
        process.kill9()
    m.source.execute(TRUNCATES[0])
    m.start(role="ingest")
    for script in [move.format(table) for table in ("moved", "whole") for move in MOVES] + TRUNCATES[1:]:
        m.source.execute(script)
    for client in clients:
        assert client.wait(60) == 0, client.tail()


def forge(m):
    """At the ends of the topics: what an ingest of before has written late, a duplicate, and a record behind a gap. Returns
    their partition. Each is an insert of a row that is there."""
    insert = next(r for r in m.kafka.consume(m.topic("changes")) if r.key() and published.head_of(r.value())["op"] == "c")
    p, part = insert.partition(), published.read_changes(m)[insert.partition()]
    head = {"generation": part.generation, "commit_lsn": part.barrier - 1, "seq": 1_000_000}
    again = {"generation": part.generation}
    for changed in ({**head, "generation": 1, "ordinal": part.ordinal + 1}, again, {**head, "ordinal": part.ordinal + 2}):
        m.kafka.produce(m.topic("changes"), published.with_head(insert.value(), **changed), insert.key(), p)
    copied = next(r for r in m.kafka.consume(m.topic("snapshot"), [p]) if published.head_of(r.value())["attempt"] == 2)
    m.kafka.produce(m.topic("snapshot"), published.with_head(copied.value(), generation=1), copied.key(), p)
    return p


def assert_decoded(rebuilt, registry):
    """Records of every kind were there, and the registry knows each under its subject."""
    names, m = rebuilt.reader.names, rebuilt.reader.m
    fixed = {"foreshadow.Barrier", "foreshadow.Marker", "foreshadow.Exclusive"}
    assert fixed <= names["changes"] and "foreshadow.Marker" in names["snapshot"]
    for kind in names:
        assert all(".Envelope" in name for name in names[kind] - fixed) and names[kind] - fixed
    if registry:
        assert {f"{m.topic(kind)}-{name}" for kind in names for name in names[kind]} <= set(registry.subjects())


def assert_published_reader_reads(m):
    """The program in the docs, as it stands there, prints every change."""
    program, = re.findall("```python\n(.*?)```", (place.TOP / "docs/records.md").read_text(), re.S)
    lines = run([sys.executable, "-c", program, m.kafka.bootstrap, m.name]).stdout.splitlines()
    keys = sorted(str(json.loads(r.key())) for r in m.kafka.consume(m.topic("changes")) if r.key())
    assert sorted(line[:line.index("]") + 1] for line in lines) == keys


# Each is a rule of its own: the story above is made to have them all.
KINDS = {"r", "c", "u", "d", "unchanged", "copy", "relation", "truncate", "truncate in place", "rekey", "key change in one partition",
         "key change over partitions", "r of an attempt that does not count", "change that the copy has", "event that the copy has",
         "stale copied"}


def test_the_shop_is_rebuilt(migration, shop, registry_or_none):
    m = migration_of(shop, migration, registry_or_none)
    copy_cut_off(m)
    run_shop(m)
    end = wait_written(m)
    m.stop()
    forged = forge(m)
    rebuilt = Rebuilt(m, registry_or_none)
    assert rebuilt.until >= end
    assert_rebuilt(rebuilt, m.source)
    missing = {kind for kind in KINDS if not rebuilt.seen[kind]}
    assert not missing, f"no record of these kinds: {missing} in {rebuilt.seen}"
    part = rebuilt.parts[forged]
    assert (part.generation, part.stale[1], part.duplicates, part.gaps) == (3, 1, 1, 1)
    assert_decoded(rebuilt, registry_or_none)
    if not registry_or_none:
        assert_published_reader_reads(m)


def test_the_type_torture_is_rebuilt(migration, torture, registry_or_none):
    """Every value in every column, from a copy and as a change, comes out as the text that the source prints: no type is left out."""
    m = migration_of(torture, migration, registry_or_none)
    m.start(role="ingest")
    wait_copied(m)
    with m.source.connect() as c:
        for t in test_types.all_tables():
            c.execute(t.insert(1000) + t.changes())
        c.execute("insert into wide values (2, repeat('abcdefghij', 1000000)); update wide set id = 3 where id = 1")
    end = wait_written(m)
    m.stop()
    rebuilt = Rebuilt(m, registry_or_none)
    assert rebuilt.until >= end
    assert_rebuilt(rebuilt, m.source)
    assert_decoded(rebuilt, registry_or_none)
