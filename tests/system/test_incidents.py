# SPDX-License-Identifier: Apache-2.0
"""foreshadow incidents: what could not be applied is listed, and shown with the change itself."""
import json

import pytest

from following import assert_follows, wait_live
from rig import wait_until


def incidents(m, *args):
    seen = m.run_cli("incidents", *args)
    assert seen.returncode == 0, seen.stderr
    return seen.stdout


@pytest.mark.parametrize("framing", ["single_object", "registry"])
def test_a_row_that_cannot_be_applied(migration, request, framing):
    more = {"kafka": {"schema.registry.url": request.getfixturevalue("registry").url}} if framing == "registry" else {}
    m = migration(**more)
    m.source.execute("create table t (id int primary key, v text, n numeric(8,2), big text);"
                     "alter table t alter big set storage external;"
                     "insert into t select i, 'v', i, repeat('x', 9000) from generate_series(1, 10) i")
    m.start()
    wait_live(m)
    assert incidents(m, "list") == ""
    m.target.execute("alter table t add constraint narrow check (v <> 'wide \"<é>')")
    m.source.execute("update t set v = 'wide \"<é>', n = 1.50 where id = 7")
    wait_until(lambda: incidents(m, "list"), 60, "an incident")
    line = incidents(m, "list")
    assert line.startswith("0:0 ") and line.count("\n") == 1, line
    for word in "primary", "23514", "public.t", "7", "narrow":
        assert word in line, line
    listed, = [json.loads(text) for text in incidents(m, "list", "--json").splitlines()]
    assert listed["id"] == "0:0" and listed["topic"] == f"{m.name}.changes" and listed["op"] == "u"
    shown = json.loads(incidents(m, "show", "0:0", "--json"))
    assert shown.items() >= listed.items() and "change_unread" not in shown, shown
    assert shown["after"] == {"id": "7", "v": 'wide "<é>', "n": "1.50", "big": {"unchanged": True}}
    assert "after         {" in incidents(m, "show", "0:0") and "narrow" in incidents(m, "show", "0:0")
    for args in ("show", "0:99"), ("show", "x"), ("show",), ("list", "all"), ():
        assert m.run_cli("incidents", *args).returncode == 2, args
    m.target.execute("alter table t drop constraint narrow")
    m.stop()
    m.start()
    assert_follows(m)
    m.stop()
