# SPDX-License-Identifier: Apache-2.0
"""Who wrote a row that differs: foreshadow's lanes are replication origins where the target keeps commit times."""
from following import assert_follows, wait_caught_up, wait_live
from rig import wait_until
from test_verify import verify

TABLE = "create table t (id int primary key, v text); insert into t select i, 'a' from generate_series(1, 100) i"
ORIGINS = "select count(*) from pg_replication_origin where roname ~ 'foreshadow_'"


def differ(m):
    """Row 5: we have written it last, and wrongly. Row 6: somebody else. Row 7: deleted. Row 1000: somebody's own."""
    m.source.execute("update t set v = 'b' where id = 5")
    wait_caught_up(m)
    for db in m.targets():
        db.execute("set session_replication_role = replica; update t set v = 'x' where id = 6; delete from t where id = 7; insert into t values (1000, 'y')")


def writers(m, role):
    code, differences, summary, stderr = verify(m, "--role", role)
    assert code == 4
    return {int(d["key"]["id"]): (d["kind"], d["writer"], d["written_at"] is not None) for d in differences if "key" in d}


def test_foreign_writes_are_told_from_our_own(migration, new_postgres):
    target = new_postgres("target", version=18, track_commit_timestamp="on", max_replication_slots="40")
    m = migration(server=target)
    m.source.execute(TABLE)
    m.start(env={"FORESHADOW_FAILPOINTS": "collect.lose=error@1"})
    wait_live(m)
    assert_follows(m)
    differ(m)
    seen = writers(m, "primary") | {("shadow", key): value for key, value in writers(m, "shadow").items()}
    expected = {6: ("mismatch", "foreign", True), 7: ("missing", "unknown", False), 1000: ("extraneous", "foreign", True)}
    for key, value in expected.items():
        assert seen[key] == value and seen["shadow", key] == value, seen
    lost = [value for key, value in seen.items() if key in (5, ("shadow", 5))]
    assert lost == [("mismatch", "foreshadow", True)], seen
    assert m.target.value(ORIGINS) > 0
    m.stop()
    wait_until(lambda: m.run_cli("drop", "--yes").returncode == 0, 30, "the groups to be empty")
    assert target.database("postgres").value(ORIGINS) == 0


def test_where_a_lane_gets_no_origin_nobody_knows(migration, new_postgres):
    """A server without room for origins; and one that keeps no commit times."""
    for settings in {"track_commit_timestamp": "on", "max_replication_slots": "0"}, {}:
        target = new_postgres(f"target{len(settings)}", version=15, **settings)
        m = migration(server=target)
        m.source.execute("drop table if exists t;" + TABLE)
        m.start()
        wait_live(m)
        assert_follows(m)
        m.target.execute("update t set v = 'x' where id = 6")
        assert writers(m, "primary") == {6: ("mismatch", "unknown", bool(settings))}
        assert ("will not say who wrote a row" in m.log()) == bool(settings)
        m.stop()
