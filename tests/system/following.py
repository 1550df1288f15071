# SPDX-License-Identifier: Apache-2.0
"""What most system tests wait for: both targets contain what the source has now, and are equal to it."""
import published
from rig import assert_equal, wait_until


def contains(db, name, lsn):
    """Has every partition of the migration applied a barrier at or past lsn on this target?"""
    if not db.value("select to_regclass('foreshadow.progress') is not null"):
        return False
    return db.value("select count(*) > 0 and min(barrier_lsn) >= %s::pg_lsn from foreshadow.progress"
                    " where migration = %s and topic = %s", lsn, name, f"{name}.changes")


def copies_live(db, name):
    if not db.value("select to_regclass('foreshadow.copies') is not null"):
        return False
    return db.value("select count(*) > 0 and bool_and(state = 'live') from foreshadow.copies where migration = %s",
                    name)


def where(m):
    """For the message of a wait that ran out."""
    text = "\n".join(f"{db}: {db.sql('select topic, partition, ordinal, barrier_lsn, waiting_at from foreshadow.progress order by 1, 2')}"
                     for db in m.targets() if exists(db) and db.value("select to_regclass('foreshadow.progress') is not null"))
    return f"{text}\n{m.tail()}"


def exists(db):
    return db.server.value("select exists (select from pg_database where datname = %s)", db.name)


def is_running(m):
    """Nothing will be waited for that nobody does any more."""
    assert m.running(), f"every process has ended\n{m.tail()}"
    return True


def wait_live(m, dbs=None, timeout=90):
    wait_until(lambda: is_running(m) and all(exists(db) and copies_live(db, m.name) for db in dbs or m.targets()), timeout,
               lambda: f"the copies to be live\n{where(m)}")


def wait_caught_up(m, dbs=None, timeout=90):
    lsn = str(m.source.value("select pg_current_wal_insert_lsn()"))
    # an idle source still says where it is: make sure there is a record past lsn
    m.source.execute("select txid_current(), pg_logical_emit_message(false, 'test', 'tick')")
    wait_until(lambda: is_running(m) and all(contains(db, m.name, lsn) for db in dbs or m.targets()), timeout,
               lambda: f"{lsn} on the targets\n{where(m)}")


def assert_follows(m, tables=None, dbs=None, timeout=90):
    """Both targets catch up with the source as it is now, and are equal to it."""
    wait_caught_up(m, dbs, timeout)
    for db in dbs or m.targets():
        assert_equal(m.source, db, tables)


def assert_counted(m, db):
    """The sums over the tables of each partition are what its row of progress says."""
    rows = db.sql("select p.partition, p.ordinal, p.changes, p.covered, coalesce(sum(applied + c.covered + passed), 0),"
                  " coalesce(sum(applied), 0), coalesce(sum(c.covered), 0) from foreshadow.progress p left join foreshadow.counts c"
                  " on c.migration = p.migration and c.partition = p.partition where p.migration = %s and p.topic = %s"
                  " group by p.partition, p.ordinal, p.changes, p.covered order by 1", m.name, m.topic("changes"))
    wrong = [row for row in rows if row[1:4] != tuple(map(int, row[4:]))]
    assert rows and not wrong, f"{db}: (partition, ordinal, changes, covered) and the sums of counts: {wrong}"


def assert_balanced(m, db):
    """Every change record of the topic was applied, or covered by a copy, once: the counts of the rows are those
    of the records. For a target that has caught up with an idle source. Returns the topic's partitions."""
    parts = published.read_changes(m)
    expected = {("changes", p): (parts[p].ordinal, count) for p, count in published.expected_counts(parts).items()}
    expected |= {("snapshot", p): (0, count) for p, count in published.read_snapshot(m).items()}
    rows = db.sql("select topic, partition, ordinal, changes + covered from foreshadow.progress"
                  " where migration = %s order by 1, 2", m.name)
    seen = {(topic.removeprefix(f"{m.name}."), p): (ordinal, count) for topic, p, ordinal, count in rows}
    wrong = {key: (seen.get(key), value) for key, value in expected.items() if seen.get(key) != value}
    assert not wrong, f"{db}: (ordinal, changes + covered) of the target, of the topic: {wrong}"
    assert_counted(m, db)
    return parts
