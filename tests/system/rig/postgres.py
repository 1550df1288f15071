# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL servers and their databases."""
import os
import shutil
import signal
from contextlib import contextmanager, nullcontext
from pathlib import Path
from urllib.parse import quote

import psycopg

from . import place
from .process import Process, children_of, run, server_user
from .wait import wait_until

DEBIAN = Path("/usr/lib/postgresql")

# What the text form of a value depends on. reg* types print by search_path, so it is pinned too.
PINNED = {
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "lc_monetary": "C",
    "bytea_output": "hex",
    "xmloption": "content",
    "client_encoding": "UTF8",
    "search_path": "pg_catalog",
}

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "wal_level": "logical",
    "max_wal_senders": 20,
    "max_replication_slots": 20,
    "max_connections": 200,
    "max_worker_processes": 16,
    "shared_buffers": "64MB",
    "fsync": "off",  # a killed process loses nothing; only a crash of the machine would
    "max_wal_size": "4GB",
    "log_line_prefix": "%m [%p] %q%u@%d %a ",
}


def binaries(version):
    """The bin folder of a major version: Debian's, else the one that tools/setup fetched.

    15 means Debian's PostgreSQL: where the release has another one, its newest."""
    debian = DEBIAN / str(version) / "bin"
    if (debian / "postgres").exists():
        return debian
    fetched = place.cache() / f"postgresql-{version}.1" / "bin"
    if (fetched / "postgres").exists():
        return fetched
    newest = sorted((int(p.name) for p in DEBIAN.glob("[0-9]*")), reverse=True)
    if version == 15 and newest:
        return DEBIAN / str(newest[0]) / "bin"
    raise RuntimeError(f"no PostgreSQL {version}: run tools/setup")


def client_program(name):
    """psql, pgbench, pg_dump…: the fetched binaries have none, Debian's newest talk to all."""
    newest = max((int(p.name) for p in DEBIAN.glob("[0-9]*")), default=None)
    path = DEBIAN / str(newest) / "bin" / name
    return path if path.exists() else name


def quote_identifier(name):
    return '"' + name.replace('"', '""') + '"'


def quote_table(name):
    """`orders`, `public.orders`; a name with dots or quotes comes quoted: `public."a.b"`."""
    if '"' in name:
        return name
    schema, _, table = name.rpartition(".")
    return f"{quote_identifier(schema or 'public')}.{quote_identifier(table)}"


def pin(connection, settings):
    connection.execute("select " + ", ".join(["set_config(%s, %s, false)"] * len(settings)),
                       [text for setting in settings.items() for text in setting])


class Database:
    """One database of a Postgres, as tests talk to it.

    sql, execute, value and dump open a connection of their own each time (autocommit), so they work
    after any restart; for a transaction or many calls take connect(). Parameters are psycopg's %s.

        db.sql("select * from t where id = %s", 7)   -> list of tuples
        db.value("select count(*) from t")           -> first column of the first row
        db.execute("create table …; insert …")       -> row count of the last statement
        db.connect(**kw)                             -> psycopg connection, autocommit; a context manager
        with db.held() as db:                        its calls share one connection
        db.poll("select …", expected, timeout)       until value() equals expected
        db.dump("public.t")                          -> the table's rows as sorted bytes
        db.psql(script), db.pgbench(*args)           run to the end; start_pgbench(*args) -> Process
        db.uri(user=…, sslmode=…)                    -> postgresql://…
    """

    def __init__(self, server, name):
        self.server = server
        self.name = name

    def __repr__(self):
        return f"{self.server.name}/{self.name}"

    def uri(self, **kw):
        return self.server.uri(self.name, **kw)

    def connect(self, **kw):
        kw.setdefault("autocommit", True)
        kw.setdefault("connect_timeout", 10)
        return psycopg.connect(self.uri(), **kw)

    @contextmanager
    def held(self):
        """The same database, but all its calls share a connection: for many in a row."""
        db = Database(self.server, self.name)
        with self.connect() as connection:
            db.connect = lambda **kw: nullcontext(connection)
            yield db

    def sql(self, query, *params):
        with self.connect() as connection:
            cursor = connection.execute(query, params or None)
            return cursor.fetchall() if cursor.description else []

    def execute(self, query, *params):
        with self.connect() as connection:
            return connection.execute(query, params or None).rowcount

    def value(self, query, *params):
        rows = self.sql(query, *params)
        return rows[0][0] if rows else None

    def poll(self, query, expected=True, timeout=60):
        """Until value(query) == expected. A server that is down meanwhile is waited for."""
        seen = []

        def as_expected():
            try:
                seen[:] = [self.value(query)]
            except psycopg.OperationalError as error:
                seen[:] = [error]
            return seen[0] == expected
        wait_until(as_expected, timeout,
                   lambda: f"{self}: {query} to give {expected!r}; last seen {seen[0]!r}")

    def tables(self):
        """Names of the ordinary and partitioned tables, leaves left out, foreshadow's left out."""
        return [row[0] for row in self.sql("""
            select format('%I.%I', n.nspname, c.relname)
            from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where c.relkind in ('r', 'p') and not c.relispartition
              and n.nspname not in ('information_schema', 'foreshadow') and n.nspname !~ '^pg_'
            order by 1""")]

    def columns(self, table):
        return [row[0] for row in self.sql("""
            select attname from pg_attribute
            where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped
            order by attname""", quote_table(table))]

    def dump(self, table, columns=None, settings=None):
        """The rows of COPY (SELECT columns FROM table) TO STDOUT under the pinned settings, sorted
        bytewise, a line each. Columns by name; default: all, ordered by name, so that the order in
        the table does not matter."""
        return b"".join(sorted(self.rows(table, columns, settings)))

    def rows(self, table, columns=None, settings=None):
        """The lines of dump(), unsorted."""
        names = columns or self.columns(table)
        listed = ", ".join(quote_identifier(name) for name in names)
        with self.connect() as connection:
            pin(connection, {**PINNED, **(settings or {})})
            with connection.cursor().copy(
                    f"COPY (SELECT {listed} FROM {quote_table(table)}) TO STDOUT") as copy:
                return [bytes(line) for line in copy]  # the protocol sends a row a message

    def psql(self, script, check=True, **kw):
        """Runs a script through psql, stopping at its first error; returns CompletedProcess."""
        return run([client_program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
                    "-d", self.uri(), "-c", script], check=check, **kw)

    def pgbench(self, *args, timeout=600):
        return run([client_program("pgbench"), *args, self.uri()], timeout=timeout)

    def start_pgbench(self, *args):
        """pgbench in the background: a Process."""
        folder = place.folder("pgbench")
        return Process("pgbench", [client_program("pgbench"), *args, self.uri()], folder)

    def drop(self):
        """With its slots and connections."""
        admin = self.server
        if admin.value("select 1 from pg_database where datname = %s", self.name) is None:
            return
        for slot, pid in admin.sql("select slot_name, active_pid from pg_replication_slots "
                                   "where database = %s and not temporary", self.name):
            if pid is not None:
                admin.sql("select pg_terminate_backend(%s, 10000)", pid)
            admin.sql("select pg_drop_replication_slot(%s)", slot)
        admin.execute(f"drop database {quote_identifier(self.name)} with (force)")


class Postgres(Database):
    """A PostgreSQL server in a folder of its own, in the spirit of PostgreSQL's Cluster.pm.

        server = Postgres("source", version=15, settings={"wal_sender_timeout": "5s"})
        server.init(); server.start()
        db = server.createdb("shop")          -> Database
        server.stop("fast"|"smart"|"immediate"); server.kill9(); server.start(); server.restart()

    It is itself the Database `postgres` of the server. wal_level=logical, fsync=off, trust on
    127.0.0.1 and on its socket, superuser `postgres`, UTF8 with locale C. Its port stays the same over
    restarts. As root the server runs as user postgres. add_hba() and set() change a running
    server; log() is the server log. version 15 is Debian's, 18 the one fetched by tools/setup.
    """

    def __init__(self, name, version=15, settings=None):
        super().__init__(self, "postgres")
        self.server = self
        self.name = "postgres"
        self.label = name
        self.bin = binaries(version)
        self.folder = place.folder(name)
        if server_user():
            shutil.chown(self.folder, server_user())
        self.data = self.folder / "data"
        self.port = place.free_port()
        self.settings = {**SETTINGS, "port": self.port,
                         "unix_socket_directories": self.folder, **(settings or {})}
        self.process = None

    def __repr__(self):
        return self.label

    def init(self):
        run([self.bin / "initdb", "--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8",
             "--locale=C", "-D", self.data], user=server_user())
        with open(self.data / "postgresql.conf", "a") as conf:
            for name, value in self.settings.items():
                conf.write(f"{name} = '{value}'\n")
        with open(self.data / "pg_hba.conf", "a") as hba:
            hba.write("host replication all 127.0.0.1/32 trust\n")
        return self

    def init_standby(self, primary):
        """Instead of init(): a standby of a running server, known there by its label."""
        run([client_program("pg_basebackup"), "-R", "-X", "stream", "-c", "fast", "-D", self.data, "-d", primary.uri()],
            user=server_user())
        with open(self.data / "postgresql.conf", "a") as conf:
            for name, value in {**self.settings, "cluster_name": self.label}.items():
                conf.write(f"{name} = '{value}'\n")
        return self

    def start(self, timeout=60):
        """Returns when it answers. After kill9 the shared memory may still be in use for a moment:
        the start is tried again until the deadline."""
        def spawned_and_ready():
            if self.process is None or not self.process.running():
                self.process = Process("postgres", [self.bin / "postgres", "-D", self.data],
                                       self.folder, user=server_user())
            try:
                return self.value("select 1") == 1
            except psycopg.OperationalError:
                return False
        wait_until(spawned_and_ready, timeout, lambda: f"{self.label} to start:\n{self.process.tail()}")
        return self

    def running(self):
        return self.process is not None and self.process.running()

    def stop(self, mode="fast", timeout=60):
        if self.running():
            self.process.sigcont()
            self.process.signal({"smart": signal.SIGTERM, "fast": signal.SIGINT,
                                 "immediate": signal.SIGQUIT}[mode])
            self.process.wait(timeout)

    def kill9(self):
        """SIGKILL to the postmaster and to each of its children."""
        if not self.running():
            return
        children = children_of(self.process.pid)
        self.process.kill9()
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def restart(self, mode="fast"):
        self.stop(mode)
        self.start()

    def remove(self):
        """Stops it and removes its folder."""
        self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)

    def createdb(self, name, **options):
        """createdb("shop", template="other", lc_collate="C") -> Database"""
        clauses = "".join(f" {key} = '{value}'" for key, value in options.items())
        self.execute(f"create database {quote_identifier(name)}{clauses}")
        return Database(self, name)

    def database(self, name):
        """A handle; the database need not be there yet."""
        return Database(self, name)

    def uri(self, dbname="postgres", user="postgres", password=None, host="127.0.0.1", **kw):
        account = quote(user) + (f":{quote(password, safe='')}" if password else "")
        query = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in kw.items())
        return (f"postgresql://{account}@{host}:{self.port}/{quote(dbname)}"
                + (f"?{query}" if query else ""))

    def set(self, **settings):
        """ALTER SYSTEM and reload; a value of None resets. Some settings need restart()."""
        with self.connect() as connection:
            for name, value in settings.items():
                connection.execute(f"alter system reset {name}" if value is None
                                   else f"alter system set {name} = '{value}'")
            connection.execute("select pg_reload_conf()")

    def add_hba(self, line):
        """Puts a line in front of pg_hba.conf and reloads: add_hba("host all app 127.0.0.1/32
        scram-sha-256") makes user app need a password."""
        path = self.data / "pg_hba.conf"
        path.write_text(line + "\n" + path.read_text())
        self.execute("select pg_reload_conf()")

    def log(self):
        return self.process.log() if self.process else ""
