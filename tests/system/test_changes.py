# SPDX-License-Identifier: Apache-2.0
"""Stories of changes: what an application may do to rows, and the targets must end equal.

All stories run in one migration, each with tables of its own; a story is a setup and a list of
scripts, each run in a session of its own (several statements in one script are one transaction
unless they say otherwise).
"""
import os
import re
import threading

import pytest

import published
from conftest import Migration
from following import assert_balanced, assert_follows, wait_caught_up, wait_live
from rig import Database, wait_until

BIG = "(select string_agg(md5((n * {0})::text), '') from generate_series(1, 400) n)"

STORIES = {
    "key_chain": ("create table key_chain (id int primary key, v text);"
                  "insert into key_chain select i, 'v' || i from generate_series(1, 20) i",
                  ["update key_chain set id = 101 where id = 1; update key_chain set id = 102 where id = 101;"
                   "update key_chain set id = 103 where id = 102",
                   "update key_chain set id = id + 1000 where id between 5 and 15"]),
    "key_swap": ("create table key_swap (id int primary key, v text);"
                 "insert into key_swap select i, 'v' || i from generate_series(1, 20) i",
                 ["update key_swap set id = -1 where id = 1; update key_swap set id = 1 where id = 2;"
                  "update key_swap set id = 2 where id = -1"]),
    "key_reuse": ("create table key_reuse (id int primary key, v text);"
                  "insert into key_reuse select i, 'v' || i from generate_series(1, 20) i",
                  ["delete from key_reuse where id = 3; insert into key_reuse values (3, 'again')",
                   "delete from key_reuse where id = 3", "insert into key_reuse values (3, 'third')",
                   "begin; insert into key_reuse values (77, 'x'); delete from key_reuse where id = 77; commit",
                   "begin; delete from key_reuse where id = 4; insert into key_reuse values (4, 'y');"
                   "update key_reuse set v = 'z' where id = 4; delete from key_reuse where id = 4; commit"]),
    "unique_swap": ("create table unique_swap (id int primary key, u int unique, v text);"
                    "insert into unique_swap select i, i, 'v' from generate_series(1, 50) i",
                    ["update unique_swap set u = -1 where id = 1; update unique_swap set u = 1 where id = 2;"
                     "update unique_swap set u = 2 where id = 1",
                     "delete from unique_swap where id = 5; insert into unique_swap values (500, 5, 'took it');"
                     "update unique_swap set u = null where id = 6; insert into unique_swap values (600, 6, 'took it')"]),
    "unique_swap_deferred": (
        "create table unique_swap_deferred (id int primary key, u int unique deferrable initially deferred, v text);"
        "insert into unique_swap_deferred select i, i, 'v' from generate_series(1, 50) i",
        ["update unique_swap_deferred set u = 2 where id = 1; update unique_swap_deferred set u = 1 where id = 2",
         "update unique_swap_deferred set u = 51 - u"]),
    "deferrable_key": (
        "create table deferrable_key (id int primary key deferrable, v text);"
        "alter table deferrable_key replica identity full;"
        "insert into deferrable_key select i, 'v' || i from generate_series(1, 300) i",
        ["update deferrable_key set id = id + 1", "update deferrable_key set id = id + 500 where id > 100;"
         "delete from deferrable_key where id < 4"]),
    "swapped_keys": (
        "create table swapped_keys (id int primary key deferrable, v text);"
        "alter table swapped_keys replica identity full;"
        "insert into swapped_keys select i, 'v' || i from generate_series(1, 20) i",
        ["update swapped_keys set id = 3 - id where id in (1, 2)",
         "begin; set constraints all deferred; update swapped_keys set id = 4 where v = 'v3';"
         "update swapped_keys set id = 3 where v = 'v4'; commit",
         "update swapped_keys set id = case id when 12 then 10 else id + 1 end where id in (10, 11, 12)",
         "update swapped_keys set id = 21 - id, v = v || 'x'"]),
    "numeric_key": ("create table numeric_key (id numeric primary key, v text);"
                    "insert into numeric_key values (1.0, 'a'), (2.50, 'b'), (3, 'c')",
                    ["update numeric_key set id = 1.00, v = 'a2' where id = 1", "delete from numeric_key where id = 2.5",
                     "insert into numeric_key values (2.5000, 'b2')", "update numeric_key set v = 'c2' where id = 3.0"]),
    "float_and_blank_keys": (
        "create table float_and_blank_keys (a float8, b char(5), v int, primary key (a, b));"
        "insert into float_and_blank_keys values (0, 'x', 1), (1e300, 'y', 2)",
        ["update float_and_blank_keys set a = '-0', v = 10 where a = 0",
         "update float_and_blank_keys set v = 11, b = 'x    ' where a = 0"]),
    "savepoints": ("create table savepoints (id int primary key, v text);",
                   ["begin; insert into savepoints values (1, 'kept'); savepoint a;"
                    "insert into savepoints values (2, 'lost'); rollback to a; insert into savepoints values (3, 'kept');"
                    "savepoint b; update savepoints set v = 'lost' where id = 1; rollback to b; release b; commit",
                    "begin; insert into savepoints values (9, 'lost'); rollback"]),
    "truncate_between": ("create table truncate_a (id int primary key, v text);"
                         "create table truncate_b (id int primary key, a int references truncate_a);"
                         "insert into truncate_a select i, 'v' from generate_series(1, 50) i;"
                         "insert into truncate_b select i, i from generate_series(1, 50) i",
                         ["insert into truncate_a values (100, 'before')", "truncate truncate_b",
                          "begin; insert into truncate_b values (1, 2); truncate truncate_a, truncate_b;"
                          "insert into truncate_a values (1, 'after'); insert into truncate_b values (7, 1); commit",
                          "truncate truncate_a cascade", "insert into truncate_a values (5, 'last')"]),
    "leaves": ("create table leaves (id int, day int, v text, primary key (id, day)) partition by range (day);"
               "create table leaves_1 partition of leaves for values from (0) to (10);"
               "create table leaves_2 partition of leaves for values from (10) to (20);"
               "create table leaves_3 partition of leaves for values from (20) to (30);"
               "insert into leaves select i, i % 30, 'v' || i from generate_series(1, 300) i",
               ["insert into leaves values (1000, 15, 'before')", "truncate leaves_2",
                "insert into leaves values (1001, 15, 'after')",
                "update leaves set day = day + 10 where day = 5", "delete from leaves where id < 10",
                "truncate leaves_1, leaves_3; insert into leaves values (5, 5, 'five')"]),
    "keyless": ("create table keyless (a int, b text, j json, p point, x float8);"
                "alter table keyless replica identity full;"
                "insert into keyless select i % 3, 'b', '{\"a\": 1}', point(1, 2), 0.1 from generate_series(1, 30) i",
                ["insert into keyless values (null, null, null, null, 'nan')",
                 "delete from keyless where ctid = (select ctid from keyless where a = 1 limit 1)",
                 "update keyless set b = 'c' where ctid = (select ctid from keyless where a = 2 limit 1)",
                 "update keyless set j = '{\"b\":2}' where a is null", "insert into keyless select * from keyless"]),
    "nothing_but_key": ("create table nothing_but_key (id int primary key);",
                        ["insert into nothing_but_key select generate_series(1, 10)",
                         "update nothing_but_key set id = id where id = 3", "update nothing_but_key set id = 30 where id = 4",
                         "delete from nothing_but_key where id = 5"]),
    "identity_index": ("create table identity_index (id int primary key, code text not null unique, v text);"
                       "alter table identity_index replica identity using index identity_index_code_key;"
                       "insert into identity_index select i, 'c' || i, 'v' from generate_series(1, 20) i",
                       ["update identity_index set id = id + 100 where id < 5", "delete from identity_index where code = 'c7'",
                        "update identity_index set code = 'moved' where id = 9"]),
    "generated_and_identity": (
        "create table generated_and_identity (id int generated always as identity primary key, n int generated always as identity,"
        " a int, b int generated always as (a * 2) stored);"
        "insert into generated_and_identity (a) select generate_series(1, 10)",
        ["insert into generated_and_identity (a) values (11)", "update generated_and_identity set a = a + 1",
         "delete from generated_and_identity where id = 2", "update generated_and_identity set id = default where id = 5"]),
    "cycle": ("create table cycle_a (id int primary key, b int); create table cycle_b (id int primary key, a int references cycle_a);"
              "alter table cycle_a add foreign key (b) references cycle_b deferrable initially deferred;"
              "create table self (id int primary key, parent int references self on delete cascade);"
              "insert into self select i, nullif(i / 2, 0) from generate_series(1, 40) i",
              ["begin; insert into cycle_a values (1, 1); insert into cycle_b values (1, 1); commit",
               "delete from self where id = 4", "insert into self values (100, 1), (101, 100)",
               "begin; update cycle_a set b = null; delete from cycle_b; delete from cycle_a; commit"]),
    "one_column_at_a_time": ("create table one_column_at_a_time (id int primary key, a text, b text, c text);"
                             f"insert into one_column_at_a_time select i, {BIG.format('i')}, {BIG.format('i + 1')}, 'c' "
                             "from generate_series(1, 20) i",
                             ["begin; update one_column_at_a_time set a = 'short' where id = 1;"
                              f"update one_column_at_a_time set b = {BIG.format(9)} where id = 1;"
                              "update one_column_at_a_time set c = 'd' where id <= 5; commit"]),
    "messages": ("create table messages (id int primary key)",
                 ["begin; select pg_logical_emit_message(true, 'p', 'inside'); insert into messages values (1);"
                  "select pg_logical_emit_message(true, 'p', 'inside'); insert into messages values (2); commit",
                  "select pg_logical_emit_message(false, 'p', 'outside')", "insert into messages values (3)"]),
}

# Unchanged TOAST: a value that is not sent must stay, whatever else happens to the row. The identity, its key, and how a key's
# change comes to another partition: by a rekey event, as two records if the old row has the value, or not at all if a second
# unique index keeps the table in one partition.
USE_INDEX = "create unique index {t}_k on {t} (k); alter table {t} replica identity using index {t}_k;"
TOAST = {"toast_default": ("alter table {t} add primary key (id);", "id", "rekey"),
         "toast_full": ("alter table {t} add primary key (id); alter table {t} replica identity full;", "id", "two records"),
         "toast_index": (USE_INDEX, "k", "rekey"),
         "toast_beside_index": ("alter table {t} add primary key (id);" + USE_INDEX, "k", None)}
for t, (identity, _, _) in TOAST.items():
    STORIES[t] = (
        f"create table {t} (id int not null, k int not null, big text, n int); alter table {t} alter big set storage external;"
        + identity.format(t=t) + f"insert into {t} select i, i, {BIG.format('i')}, 0 from generate_series(1, 60) i",
        [f"update {t} set n = 1 where id <= 10",
         f"begin; update {t} set n = 2 where id = 11; update {t} set n = 3 where id = 11; commit",
         f"begin; update {t} set big = 'new' where id = 12; update {t} set n = 3 where id = 12; commit",
         f"begin; update {t} set n = 3 where id = 13; update {t} set big = {BIG.format(77)} where id = 13; commit",
         # some keys stay in their partition and some do not: assert_keys_moved
         f"update {t} set id = id + 1000, k = k + 1000 where id between 20 and 50",
         f"begin; update {t} set id = 2001, k = 2001 where id = 51; update {t} set n = 9 where id = 2001;"
         f"update {t} set id = 2002, k = 2002 where id = 2001; update {t} set big = null where id = 2002; commit",
         f"begin; update {t} set id = 2003, k = 2003 where id = 52; delete from {t} where id = 2003; commit",
         f"begin; update {t} set n = 5 where id = 53; update {t} set id = 2004, k = 2004 where id = 53;"
         f"insert into {t} values (53, 53, 'taken again', 1); commit"])


@pytest.fixture(scope="module")
def stories(request, binary, source, target, kafka):
    name = "stories"
    src, dst = source.createdb(f"{name}_src"), target.createdb(f"{name}_dst")
    m = Migration(name, src, dst, Database(target, f"{name}_dst_shadow"), kafka,
                  {"migration": name, "source": {"uri": src.uri()}, "target": {"uri": dst.uri()},
                   "kafka": {"bootstrap.servers": kafka.bootstrap, "partitions": 5},
                   "tables": {"include": ["public.*"]}, "risk": {"shadow_threshold": 0}}, binary, {})
    for setup, _ in STORIES.values():
        src.execute(setup)
    m.start()
    wait_live(m)
    yield m
    m.close()
    m.drop_everything()


@pytest.mark.parametrize("story", STORIES)
def test_story(stories, story):
    _, scripts = STORIES[story]
    for script in scripts:
        stories.source.execute(script)
    assert stories.running(), stories.tail()
    tables = [t for t in stories.source.tables() if t.split(".")[-1].startswith(story.split("_between")[0]) or
              (story == "cycle" and t.split(".")[-1] in ("cycle_a", "cycle_b", "self"))]
    assert tables
    assert_follows(stories, tables)
    if story in TOAST:
        _, key, way = TOAST[story]
        stayed, ways = key_changes(stories, story, key)
        assert stayed and ways == ({way} if way else set()), (stayed, ways)


def key_changes(m, table, key):
    """Of one table's key changes beside a large value that was left alone: how many stayed in their partition, and in which
    ways others came to another one."""
    schemas, stayed, ways, gone = published.read_schemas(m), 0, set(), set()
    records = [published.whole(r.value(), schemas) for r in m.kafka.consume(m.topic("changes"))]
    for name, record in records:
        if record.get("kind") == "rekey":
            inner = [change for of, change in (published.whole(value, schemas) for value in record["changes"]) if f".{table}." in of]
            assert all(c["op"] == "u" and c["unchanged"] == ["big"] and c["before"][key] != c["after"][key] for c in inner), inner
            ways |= {"rekey"} if inner else set()
        elif f".{table}." in name and record["op"] == "d":
            gone.add((record["source"]["commit_lsn"], record["source"]["seq"]))
        elif f".{table}." in name and record["op"] == "u" and record["before"]:
            stayed += record["before"][key] != record["after"][key] and (record["unchanged"] == ["big"] or record["after"]["big"] is not None)
    moved = [r for name, r in records if f".{table}." in name and r["op"] == "c" and (r["source"]["commit_lsn"], r["source"]["seq"]) in gone]
    assert all(r["after"]["big"] and not r["unchanged"] for r in moved), moved
    return stayed, ways | ({"two records"} if moved else set())


def test_commit_order_differs_from_begin_order(migration, rng, is_long):
    """50 sessions that begin in one order and commit in another, on rows they share."""
    m = migration()
    m.source.execute("create table acc (id int primary key, n int not null default 0);"
                     "insert into acc select generate_series(1, 200);"
                     "create table hist (session int, step int, acc int); alter table hist replica identity full")
    m.start()
    wait_live(m)
    rounds = 20 if is_long else 3

    def session(number, seed):
        local = __import__("random").Random(seed)
        with m.source.connect() as c:
            for step in range(rounds):
                with c.transaction():
                    for account in sorted(local.sample(range(1, 201), 3)):
                        c.execute("update acc set n = n + 1 where id = %s", (account,))
                        c.execute("insert into hist values (%s, %s, %s)", (number, step, account))
                    c.execute("select pg_sleep(%s)", (local.random() / 50,))

    threads = [threading.Thread(target=session, args=(i, rng.random())) for i in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_follows(m)
    assert m.target.value("select sum(n) from acc") == rounds * 50 * 3


def ends_that_begin_another(db, start):
    """The ends of commits since that LSN at which the next commit begins."""
    end = str(db.value("select pg_current_wal_flush_lsn()"))
    return {str(lsn) for lsn, in db.sql(
        "select before from (select start_lsn, lag(end_lsn) over (order by start_lsn) as before from pg_get_wal_records_info(%s, %s)"
        " where resource_manager = 'Transaction' and record_type = 'COMMIT') x where start_lsn = before", start, end)}


def test_back_to_back_commits_over_restarts(migration, is_long):
    """One transaction's end is the next one's commit LSN; restarts in between lose and double nothing. Rounds go on until a restart
    was at such a place."""
    m = migration()
    m.source.execute("create extension pg_walinspect;"
                     "create table seq (id bigint generated always as identity primary key, who int)")
    script, gate = m.folder / "script.sql", m.folder / "gate.sql"
    script.write_text("begin \\; insert into seq (who) values (1) \\; select pg_advisory_xact_lock_shared(1) \\; commit;\n")
    # who waits for it commits together with the others
    gate.write_text("select pg_advisory_lock(1) \\; select pg_sleep(0.005) \\; select pg_advisory_unlock(1);\n")
    for file in (script, gate):
        file.chmod(0o644)
    m.start()
    wait_live(m)
    resumed, ends = set(), set()
    for number in range(20):
        start = str(m.source.value("select pg_current_wal_flush_lsn()"))
        clients = [m.source.start_pgbench("-n", "-c", "10", "-t", "200", "-f", str(script)) for _ in range(2)]
        gates = m.source.start_pgbench("-n", "-f", str(gate), "-T", "1000")
        m.source.poll(f"select confirmed_flush_lsn > '{start}' and exists (select from seq) from pg_replication_slots where slot_name = '{m.slot}'")
        m.kill9()
        process = m.start()
        for client in clients:
            assert client.wait(60) == 0, client.tail()
        gates.kill9()
        process.wait_log("streaming generation=")
        resumed |= set(re.findall(r"streaming generation=\d+ confirmed=(\S+)", process.log()))
        ends |= ends_that_begin_another(m.source, start)
        if number >= (9 if is_long else 2) and resumed & ends:
            break
    assert resumed & ends, f"no restart was where one commit ends and another begins: {resumed}, {len(ends)} such places"
    assert_follows(m)


@pytest.mark.parametrize("way", ["loopback", "socket"])
def test_many_small_transactions(migration, way):
    """Ingest reads late from a server on its host, and by its wakes from one that it cannot tell to be there."""
    m = migration()
    if way == "socket":
        m.write({**m.config, "source": {"uri": m.source.uri(host=str(m.source.server.folder).replace("/", "%2F"))}})
    m.source.execute("create table small (id int primary key, v int); create sequence seq")
    m.start()
    wait_live(m)
    threads = [threading.Thread(target=m.source.execute, args=("do $$ begin for i in 1..5000 loop insert into small values (nextval('seq'), i);"
                                                               " commit; end loop; end $$",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_follows(m)
    assert m.target.value("select count(*) from small") == 10000
    m.source.execute("update small set v = -1 where id = 77")
    m.target.poll("select v from small where id = 77", -1, 60)


def test_rows_lie_in_the_sources_order(migration):
    """A batch has records of many partitions; one partition after the other, no row would have its neighbour beside it."""
    m = migration(lanes=1)
    m.source.execute("create table ordered (id int primary key, v text)")
    m.start()
    wait_live(m)
    best = {}
    for n in range(5):  # a busy broker may hand over one partition after the other
        m.source.execute(f"insert into ordered select i, md5(i::text) from generate_series({n} * 3000, {n} * 3000 + 2999) i")
        assert_follows(m)
        for db in m.targets():
            share = db.value("select avg((id = before + 1)::int) from (select id, lag(id) over (order by ctid) as before from ordered"
                             f" where id >= {n} * 3000) x")
            best[db] = max(share, best.get(db, 0))
        if min(best.values()) > 0.5:
            break
    assert min(best.values()) > 0.5, f"of the rows lie behind the one that was made before them: {best.values()}"


def insert_many(m, first, last):
    """One transaction; returns an LSN behind it."""
    m.source.execute(f"insert into big select i, i % 7, repeat(md5(i::text), 4) from generate_series({first}, {last}) i")
    return str(m.source.value("select pg_current_wal_insert_lsn()"))


def test_one_large_transaction(migration, is_long, new_postgres):
    """Feedback goes on in its middle, however long that takes; and it is never in memory.

    Kafka stands still in the first one, which is larger than all queues, until the walsender has been in it for longer than
    wal_sender_timeout. So all queues were full when the memory is looked at first; the second one is many times larger.
    """
    first, rows = 120_000, 2_000_000 if is_long else 240_000
    server = new_postgres("impatient", wal_sender_timeout="2s", logical_decoding_work_mem="64kB")
    # what the address sanitizer keeps of freed memory is no memory of ours
    asan = ":".join(filter(None, [os.environ.get("ASAN_OPTIONS"), "detect_leaks=0:quarantine_size_mb=0:thread_local_quarantine_size_kb=0"]))
    m = migration(source_server=server, env={"ASAN_OPTIONS": asan})
    m.source.execute("create table big (id bigint primary key, a int, b text)")
    process = m.start()
    wait_live(m)
    walsender = server.sql("select pid from pg_stat_replication")
    m.kafka.process.sigstop()
    try:
        lsn = insert_many(m, 1, first)
        since = str(server.value("select clock_timestamp()"))
        server.poll(f"select clock_timestamp() > '{since}'::timestamptz + interval '4 s'")
        assert server.value("select sent_lsn < %s::pg_lsn from pg_stat_replication", lsn), "the walsender is not in its middle"
    finally:
        m.kafka.process.sigcont()
    wait_caught_up(m, timeout=600)
    peak = process.peak_rss()
    insert_many(m, first + 1, first + rows)
    m.source.execute("update big set a = a + 1 where id % 10 = 0")
    assert_follows(m, timeout=600)
    assert process.running()
    grown = (process.peak_rss() - peak) >> 20
    print(f"grown {grown} MB over {peak >> 20}")
    assert grown <= 30, f"{rows} rows took {grown} MB more than {first}"
    assert server.sql("select pid from pg_stat_replication") == walsender
    assert "terminating walsender process due to replication timeout" not in server.log()


def test_a_table_is_copied_in_ranges(migration):
    """By several connections at the same time, while its rows move from one range to another."""
    m = migration(copy={"jobs": 3})
    m.source.execute("create table t (id int primary key, n int not null default 0, v text);"
                     "insert into t select i, 0, repeat(md5(i::text), 4) from generate_series(1, 20000) i")
    m.start(role="shadow")
    m.start(role="primary")
    ingest = m.start(role="ingest", env={"FORESHADOW_FAILPOINTS": "copy.small_ranges=broken;copy.row=stop@5000", "FORESHADOW_DEBUG": "1"})
    wait_until(ingest.is_stopped, 60, lambda: f"the middle of the copy\n{ingest.tail()}")
    m.source.execute("update t set n = n + 1 where id % 3 = 0; delete from t where id % 7 = 0; insert into t select i from generate_series(30000, 30100) i")
    ingest.sigcont()
    wait_live(m)
    ranges, = map(int, re.findall(r"copy of public\.t in (\d+) ranges", ingest.log()))
    assert ranges > 40
    assert_follows(m)
    for db in m.targets():
        assert_balanced(m, db)


def test_a_new_column_is_waited_for_in_all_partitions(migration):
    """Nothing behind it is applied, by any lane, until somebody has run the DDL that the log has; then everything is."""
    m = migration()
    m.source.execute("create table t (id int primary key, v int); create table other (id int primary key);"
                     "insert into t select i, 0 from generate_series(1, 100) i")
    process = m.start()
    wait_live(m)
    m.source.execute("alter table t add column w int; update t set w = id; insert into other select generate_series(1, 100)")
    wait_until(lambda: process.log().count("waits for the target's schema") >= 2, 60, process.tail)
    assert process.log().count("ADD COLUMN") >= 2
    m.target.execute("select pg_sleep(1)")  # it has all been read by now, and is not applied
    for db in m.targets():
        assert db.value("select count(*) from other") == 0
        db.execute("alter table t add column w int")
    assert_follows(m)
    for db in m.targets():
        assert_balanced(m, db)
