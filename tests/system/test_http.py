# SPDX-License-Identifier: Apache-2.0
"""/metrics and /healthz of a run: read as Prometheus reads it, and answered whatever the servers do."""
import http.client
import json
import re
import socket

import pytest

from following import assert_follows, wait_live
from rig import place, wait_until

TABLE = "create table t (id int primary key, v text); insert into t select i, 'v' from generate_series(1, 10) i"
NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(,|$)')
SAMPLE = re.compile(rf"({NAME})(?:\{{(.+)\}})? (-?[0-9]+(?:\.[0-9]+)?)")
# Longer than health's patience of 30 s.
STUCK_AFTER = 60


def parse_labels(text):
    labels, at = {}, 0
    while at < len(text):
        found = LABEL.match(text, at)
        assert found, f"labels {text!r}"
        name, value, comma = found.groups()
        assert name not in labels and bool(comma) == (found.end() < len(text)), f"labels {text!r}"
        labels[name] = re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), value)
        at = found.end()
    return labels


def parse(text):
    """The text format 0.0.4, strictly: {name: {frozenset of (label, value): number}}. Every metric has HELP and TYPE,
    once, directly in front of its samples; no series is there twice."""
    assert text.endswith("\n") and "\n\n" not in text
    metrics, name, helped = {}, None, None
    for line in text[:-1].split("\n"):
        if found := re.fullmatch(rf"# HELP ({NAME}) (.+)", line):
            helped = found[1]
        elif found := re.fullmatch(rf"# TYPE ({NAME}) (counter|gauge)", line):
            name = found[1]
            assert name == helped and name not in metrics, line
            assert name.endswith("_total") == (found[2] == "counter"), line
            metrics[name] = {}
        else:
            found = SAMPLE.fullmatch(line)
            assert found and found[1] == name, f"line {line!r} under {name}"
            series = frozenset(parse_labels(found[2] or "").items())
            assert series not in metrics[name], line
            metrics[name][series] = float(found[3])
    assert all(metrics.values()), f"a metric without samples: {metrics}"
    return metrics


def test_the_parser_is_strict():
    head = "# HELP a_total x\n# TYPE a_total counter\n"
    assert parse(head + 'a_total{b="\\"c\\\\",d="e"} 1\n') == {"a_total": {frozenset({("b", '"c\\'), ("d", "e")}): 1}}
    for wrong in ["a_total 1\n", head, head + "a_total 1", head + "a_total 1\na_total 2\n", head + 'a_total{b="c} 1\n',
                  head + 'a_total{b="c",} 1\n', head + "a_total\n", head + "b_total 1\n", head.replace("_total", "") + "a 1\n",
                  head + 'a_total{} 1\n', head + "a_total NaN\n", head + "\na_total 1\n"]:
        with pytest.raises(AssertionError):
            parse(wrong)


class Served:
    """The pages of one process."""

    def __init__(self, port, token=None):
        self.port, self.token = port, token

    def ask(self, path, method="GET", body=None, headers=None):
        """(status, headers, text), or None when nobody listens yet."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            given = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            connection.request(method, path, body, {**given, **(headers or {})})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        except ConnectionRefusedError:
            return None
        finally:
            connection.close()

    def metrics(self):
        status, headers, text = self.ask("/metrics")
        assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return parse(text)

    def value(self, name, **labels):
        return self.metrics().get(name, {}).get(frozenset(labels.items()))

    def health(self):
        """(status, the report)"""
        status, headers, text = self.ask("/healthz")
        assert headers["Content-Type"] == "application/json"
        report = json.loads(text)
        assert (status, report["status"]) in [(200, "ok"), (503, "stuck")], text
        return status, report

    def wait_up(self, process, timeout=30):
        def is_up():
            assert process.running(), process.tail()
            return self.ask("/healthz")
        wait_until(is_up, timeout, lambda: f"/healthz of {process.name}\n{process.tail()}")

    def wait_health(self, status, timeout=STUCK_AFTER):
        seen = []

        def is_so():
            seen[:] = self.health()
            return seen[0] == status
        wait_until(is_so, timeout, lambda: f"{status}, last seen {seen}")
        return {role["role"]: role.get("reason") for role in seen[1]["roles"]}

    def wait_value(self, wanted, name, timeout=60, **labels):
        seen = []

        def is_so():
            seen[:] = [self.value(name, **labels)]
            return seen[0] == wanted
        wait_until(is_so, timeout, lambda: f"{name}{labels} {wanted}, last seen {seen}")


def serving(migration, **config):
    """A migration that is served, and its pages."""
    port = place.free_port()
    return migration(http=f"127.0.0.1:{port}", **config), Served(port)


def changes(pages, **labels):
    return pages.value("foreshadow_changes_total", **labels) or 0


def test_metrics_count_what_happens(migration):
    m, pages = serving(migration, lanes=2)
    m.source.execute(TABLE + '; create table "Odd ""name" (id int primary key)')
    m.start()
    wait_live(m)
    assert_follows(m)
    before = pages.metrics()
    assert before["foreshadow_build_info"] == {frozenset({("version", "0.1.0"), ("migration", m.name)}): 1}
    assert before["foreshadow_lanes"] == {frozenset({("role", "shadow")}): 2, frozenset({("role", "primary")}): 2}
    assert set(before["foreshadow_apply_lag_seconds"]) == {frozenset({("role", role)}) for role in ("shadow", "primary")}
    assert "foreshadow_incidents_total" not in before and "foreshadow_slot_safe_bytes" not in before
    for role in ("shadow", "primary"):
        assert before["foreshadow_changes_total"][frozenset({("stage", "copied"), ("role", role)})] == 10
    was = {role: changes(pages, stage="applied", role=role) for role in ("shadow", "primary")}
    published = changes(pages, stage="published", table="public.t")
    m.source.execute('insert into t select i from generate_series(100, 149) i; delete from t where id < 6; insert into "Odd ""name" values (1)')
    assert_follows(m)
    pages.wait_value(published + 55, "foreshadow_changes_total", stage="published", table="public.t")
    assert changes(pages, stage="published", table='"public"."Odd ""name"') >= 1
    for role in ("shadow", "primary"):
        pages.wait_value(was[role] + 56, "foreshadow_changes_total", stage="applied", role=role)
        pages.wait_value(0, "foreshadow_apply_lag_seconds", role=role)
    pages.wait_value(0, "foreshadow_source_lag_bytes")
    assert pages.value("foreshadow_slot_retained_bytes") > 0
    assert pages.health()[0] == 200
    m.stop()


def test_lag_is_seen_while_a_target_is_held_up(migration):
    m, pages = serving(migration)
    m.source.execute(TABLE)
    m.start()
    wait_live(m)
    assert_follows(m)
    with m.target.connect(autocommit=False) as reader:
        reader.execute("lock table t")
        m.source.execute("insert into t values (1000, 'x')")
        wait_until(lambda: pages.value("foreshadow_apply_lag_seconds", role="primary") > 2, 30, "lag on the primary")
        pages.wait_value(0, "foreshadow_apply_lag_seconds", role="shadow")
        reader.rollback()
    pages.wait_value(0, "foreshadow_apply_lag_seconds", role="primary")


def test_health_while_kafka_is_away(migration, new_kafka):
    kafka = new_kafka()
    m, pages = serving(migration, kafka_server=kafka)
    m.source.execute(TABLE)
    m.start()
    wait_live(m)
    assert_follows(m)
    assert pages.health()[0] == 200
    kafka.kill9()
    m.source.execute("insert into t select i, repeat('x', 100) from generate_series(1000, 3000) i")
    assert pages.health()[0] == 200, "a moment is no reason"
    wait_until(lambda: all(pages.wait_health(503).values()), STUCK_AFTER, lambda: f"all roles to be stuck: {pages.health()}")
    reasons = pages.wait_health(503)
    assert "not acknowledged by Kafka" in reasons["ingest"]
    assert "Kafka does not answer" in reasons["shadow"] and "Kafka does not answer" in reasons["primary"]
    wait_until(lambda: (pages.value("foreshadow_source_lag_bytes") or 0) > 2000 * 100, 10, "the lag of the source")
    kafka.start()
    assert_follows(m, timeout=120)
    pages.wait_health(200)
    pages.wait_value(0, "foreshadow_source_lag_bytes")


def test_health_while_a_target_is_away(migration, new_postgres):
    target = new_postgres("leaving")
    m, pages = serving(migration, server=target)
    m.source.execute(TABLE)
    m.start()
    wait_live(m)
    assert_follows(m)
    target.stop()
    m.source.execute("insert into t values (1000, 'x')")
    assert pages.health()[0] == 200, "a moment is no reason"
    wait_until(lambda: all(map(pages.wait_health(503).get, ("shadow", "primary"))), STUCK_AFTER, lambda: f"both roles to be stuck: {pages.health()}")
    reasons = pages.wait_health(503)
    assert reasons["ingest"] is None
    assert "nothing moved for" in reasons["primary"] and str(target.port) in reasons["primary"], reasons
    target.start()
    assert_follows(m)
    assert pages.wait_health(200) == {"ingest": None, "shadow": None, "primary": None}


def test_health_of_a_stopped_partition(migration):
    """At once, with the reason; what was given as a secret is not in it, though the server quotes it."""
    secret = "canary-5d17"
    m, pages = serving(migration, env={"PGPASSWORD": secret})
    m.source.execute(TABLE)
    m.start()
    wait_live(m)
    assert_follows(m)
    m.target.execute(f"alter table t add constraint narrow check (v <> '{secret}')")
    m.source.execute(f"insert into t values (1000, '{secret}')")
    reasons = pages.wait_health(503, 20)
    assert reasons["ingest"] is None and reasons["shadow"] is None
    assert "stopped" in reasons["primary"] and "narrow" in reasons["primary"] and "***" in reasons["primary"]
    assert pages.value("foreshadow_incidents_total", **{"class": "23", "role": "primary"}) == 1
    assert secret not in pages.ask("/metrics")[2] + pages.ask("/healthz")[2]
    m.target.execute("alter table t drop constraint narrow")
    m.stop()
    pages.wait_up(m.start())
    assert_follows(m)
    assert pages.wait_health(200) == {"ingest": None, "shadow": None, "primary": None}


def test_a_role_that_waits_for_the_topics_is_served(migration):
    m, pages = serving(migration)
    m.source.execute(TABLE)
    process = m.start(role="shadow")
    pages.wait_up(process)
    process.wait_log("waiting for ingest")
    assert pages.health() == (200, {"status": "ok", "stage": "starting", "roles": [{"role": "shadow", "status": "ok"}]})
    assert set(pages.metrics()) == {"foreshadow_build_info"}


def test_only_get_of_what_is_there(migration):
    m, pages = serving(migration)
    m.source.execute(TABLE)
    pages.wait_up(m.start(role="shadow"))
    for method in ("HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
        body = "x" * 100_000 if method in ("POST", "PUT") else None
        for path in ("/metrics", "/healthz"):
            status, headers, text = pages.ask(path, method, body)
            assert status == 405 and headers["Allow"] == "GET", (method, path)
    for path in ("/", "/metrics/", "/metricsx", "/../metrics", "/nothing"):
        assert pages.ask(path)[0] == 404, path
    assert pages.ask("/metrics?x=1")[0] == 200
    assert pages.ask("/metrics", headers={"X": "x" * 100_000})[0] in (413, 431, 494)
    assert pages.ask("/healthz")[0] == 200


def test_clients_that_dawdle_keep_nobody_out_for_long(migration):
    m, pages = serving(migration)
    m.source.execute(TABLE)
    pages.wait_up(m.start(role="shadow"))
    idle = [socket.create_connection(("127.0.0.1", pages.port)) for _ in range(40)]

    def is_answered():
        try:
            return pages.ask("/healthz")
        except (OSError, http.client.HTTPException):
            return None
    wait_until(is_answered, 30, "an answer beside idle connections")
    for connection in idle:
        connection.close()


def test_a_token_is_needed_where_others_can_ask(migration):
    token = "canary-token-3f9a11"
    port = place.free_port()
    m = migration(http=f"0.0.0.0:{port}")
    m.source.execute(TABLE)
    process = m.start()
    assert process.wait(20) == 2
    assert f"0.0.0.0:{port} can be reached from other machines" in process.log() and "token" in process.log()
    m.env["HTTP_TOKEN"] = token
    m.write({**m.config, "http": {"listen": f"0.0.0.0:{port}", "token": "${HTTP_TOKEN}"}})
    pages, stranger = Served(port, token), Served(port)
    pages.wait_up(m.start())
    for path in ("/metrics", "/healthz", "/nothing"):
        for headers in ({}, {"Authorization": f"Bearer {token}x"}, {"Authorization": f"Basic {token}"}, {"X-Token": token}):
            status, answered, text = stranger.ask(path, headers=headers)
            assert status == 401 and answered["WWW-Authenticate"] == "Bearer" and token not in text
        assert stranger.ask(path, "POST", "x")[0] == 401
    wait_live(m)
    assert pages.metrics() and pages.health()[0] == 200
    assert token not in pages.ask("/metrics")[2] + pages.ask("/healthz")[2] + m.log()


def test_a_port_in_use_is_named(migration):
    m, pages = serving(migration)
    m.source.execute(TABLE)
    with socket.create_server(("127.0.0.1", pages.port)):
        process = m.start()
        assert process.wait(30) == 1
    assert f"cannot listen on 127.0.0.1:{pages.port}: Address already in use" in process.log()
    assert "ss -ltnp" in process.log()
    assert not m.kafka.topics(f"{m.name}."), "nothing was made before"
