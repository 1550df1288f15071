# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the system tests.

Shared by all tests of a run, started at first use: kafka, source (PostgreSQL 15), target (15),
target18, registry. A test that breaks a server for good, or needs settings of its own, makes one
with new_postgres or new_kafka; a test that stops a shared server starts it again.

migration() gives a test its own databases and migration name on the shared servers.
"""
import os
import random
import re
from pathlib import Path

import pytest

from rig import Database, Foreshadow, Kafka, Postgres, Registry, place


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run the long forms too")
    parser.addoption("--seed", type=int, help="seed of everything random (default: a new one, printed)")
    parser.addoption("--binary", default=str(place.TOP / "build/asan/foreshadow"),
                     help="the foreshadow to test; helper programs are looked for beside it")
    parser.addoption("--keep", action="store_true", help="keep the folder with data and logs")


def pytest_configure(config):
    if config.getoption("--seed") is None:
        config.option.seed = random.SystemRandom().randrange(1_000_000)


def pytest_report_header(config):
    return f"seed: {config.getoption('--seed')} (again with --seed), binary: {config.getoption('--binary')}"


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="needs --long"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    setattr(item, f"report_{call.when}", outcome.get_result())


def pytest_unconfigure(config):
    if config.getoption("--keep"):
        if place._root:
            print(f"kept: {place._root}")
    else:
        place.remove_root()


def _failed(request):
    return any(getattr(getattr(request.node, f"report_{when}", None), "failed", False)
               for when in ("setup", "call"))


@pytest.fixture(scope="session")
def binary(request):
    return Path(request.config.getoption("--binary")).resolve()


@pytest.fixture(scope="session")
def programs(binary):
    """The folder with the helper programs of tests/programs."""
    return binary.parent


@pytest.fixture(scope="session")
def is_long(request):
    return request.config.getoption("--long")


@pytest.fixture
def rng(request):
    """Seeded by --seed and the test's name: a test's story does not depend on which others run."""
    return random.Random(f"{request.config.getoption('--seed')}/{request.node.name}")


@pytest.fixture(scope="session")
def kafka():
    server = Kafka().format().start()
    yield server
    server.remove()


def _shared_postgres(name, version):
    server = Postgres(name, version).init().start()
    yield server
    server.remove()


@pytest.fixture(scope="session")
def source():
    yield from _shared_postgres("source", 15)


@pytest.fixture(scope="session")
def target():
    yield from _shared_postgres("target", 15)


@pytest.fixture(scope="session")
def target18():
    yield from _shared_postgres("target18", 18)


@pytest.fixture(scope="session")
def registry():
    if not Registry.fetched():
        pytest.skip("the Apicurio registry is not fetched: tools/setup --registry")
    server = Registry().start()
    yield server
    server.stop()


@pytest.fixture
def new_postgres():
    """new_postgres("name", version=15, **settings) -> a started Postgres of this test alone; prepare: called with
    it before it starts; standby_of: of which server it is a standby."""
    servers = []

    def make(name, version=15, prepare=None, standby_of=None, **settings):
        server = Postgres(name, version, settings)
        servers.append(server)
        server.init_standby(standby_of) if standby_of else server.init()
        if prepare:
            prepare(server)
        return server.start()
    yield make
    for server in servers:
        server.remove()


@pytest.fixture
def new_kafka():
    """new_kafka(**{"some.setting": value}) -> a started Kafka of this test alone."""
    servers = []

    def make(**settings):
        server = Kafka(settings=settings)
        servers.append(server)
        return server.format().start()
    yield make
    for server in servers:
        server.remove()


def merged(base, changes):
    """base with changes laid over it, dict by dict; None as a value removes the key."""
    result = dict(base)
    for key, value in changes.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


class Migration(Foreshadow):
    """A Foreshadow with databases of its own: m.name, m.source, m.target, m.shadow (Database each;
    the shadow is foreshadow's to create unless asked for), m.kafka, and topic(kind), slot."""

    def __init__(self, name, source, target, shadow, kafka, config, binary, env):
        self.name = name
        self.source, self.target, self.shadow, self.kafka = source, target, shadow, kafka
        self.slot = f"foreshadow_{name}"
        super().__init__(config, binary, env)

    def topic(self, kind):
        return f"{self.name}.{kind}"

    def targets(self):
        return [self.shadow, self.target]

    def drop_everything(self):
        """As far as the servers run: a test may have left one down."""
        for db in (self.source, self.target, self.shadow):
            if db.server.running():
                db.drop()
        if self.kafka.running():
            self.kafka.delete_topics(*self.kafka.topics(f"{self.name}."))


_numbers = iter(range(1, 1_000_000))


@pytest.fixture
def migration(request, binary):
    """Factory of migrations with fresh names and databases.

        m = migration(schema="exists", kafka={"partitions": 12})     keywords lay over the YAML
        m = migration(server=target18)                               another target server
        m = migration(source_server=…, kafka_server=…, env={…}, create_shadow=True)
        m = migration(shadow_server=…)                               the shadow, made here, is on a server of its own

    The YAML has migration, source, target, kafka (4 partitions) and tables: include public.*; a
    keyword of None removes a key. Databases <name>_src and <name>_dst exist and are empty, the
    shadow (<name>_dst_shadow) only with create_shadow. At the end of the test all processes are
    killed and slots, topics and databases dropped; if it failed, the ends of the logs are shown.
    """
    made = []
    word = re.sub(r"[^a-z0-9]+", "_", request.node.name.lower().removeprefix("test_"))[:16].strip("_")

    def make(server=None, source_server=None, kafka_server=None, shadow_server=None, create_shadow=False, env=None, **config):
        source = source_server or request.getfixturevalue("source")
        target = server or request.getfixturevalue("target")
        kafka = kafka_server or request.getfixturevalue("kafka")
        name = f"t{next(_numbers)}_{word}_{os.getpid() % 10000}"
        source_db = source.createdb(f"{name}_src")
        target_db = target.createdb(f"{name}_dst")
        shadow_db = Database(shadow_server or target, f"{name}_dst_shadow")
        if create_shadow or shadow_server:
            shadow_db.server.createdb(shadow_db.name)
        base = {
            "migration": name,
            "source": {"uri": source_db.uri()},
            "target": {"uri": target_db.uri()},
            "kafka": {"bootstrap.servers": kafka.bootstrap, "partitions": 4},
            "tables": {"include": ["public.*"]},
            "verify": {"window": "off"},  # the default would have every test wait for a gate
        }
        if shadow_server:
            base["shadow"] = {"uri": shadow_db.uri()}
        m = Migration(name, source_db, target_db, shadow_db, kafka, merged(base, config), binary, env)
        made.append(m)
        return m

    yield make
    reports = []
    for m in made:
        try:
            m.close()
        except AssertionError as report:
            reports.append(str(report))
        if _failed(request) or reports:
            print(f"=== {m.name}, files in {m.folder}\n{m.tail()}")
        m.drop_everything()
    assert not reports, "\n".join(reports)
