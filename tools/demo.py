# SPDX-License-Identifier: Apache-2.0
"""The demo: a shop moves while people use it, and processes die. Started by tools/demo."""
import argparse
import sys
import time
from pathlib import Path

from rig import Foreshadow, Kafka, Postgres, place
from rig.digest import digest
from rig.wait import wait_until

TOP = Path(__file__).resolve().parent.parent
SHOP = TOP / "tools/shop"
ROLES = ("shadow", "primary")


def say(text):
    print(text, flush=True)


def start_servers():
    source, shadow, primary = (Postgres(name).init().start() for name in ("source", "shadow", "primary"))
    kafka = Kafka().format().start()
    return source, shadow, primary, kafka


def load(source):
    shop = source.createdb("shop")
    shop.psql((SHOP / "schema.sql").read_text())
    shop.pgbench("-i", "-q", "-s", "2")
    shop.execute("ALTER TABLE pgbench_history REPLICA IDENTITY FULL")
    return shop


def start_roles(f):
    return {role: f.start(role=role) for role in ("ingest", *ROLES, "reconcile")}


def is_live(role):
    return "copy" in role and role["copy"]["tables_live"] == role["copy"]["tables"] > 0


def copied(f):
    return all(is_live(role) for role in f.json("status")["roles"])


def caught_up(f, end):
    return all(is_live(role) and lsn(role["barrier_lsn"]) >= end for role in f.json("status")["roles"])


def lsn(text):
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def run_traffic(shop, seconds, at_half):
    clients = [shop.start_pgbench("-n", "-c", "2", "-T", str(seconds), "-f", str(SHOP / "traffic.sql")),
               shop.start_pgbench("-n", "-c", "2", "-T", str(seconds), "-R", "300")]
    middle = time.monotonic() + seconds / 2
    wait_until(lambda: time.monotonic() >= middle, seconds, "the middle of the traffic")
    at_half()
    for client in clients:
        code = client.wait(seconds + 60)
        if code != 0:
            raise SystemExit(f"pgbench ended with exit code {code}\n{client.tail()}")


def compare(shop, targets):
    say(f"\n{'table':<28}{'rows':>9}  {'shadow':<10}{'primary':<10}")
    different = 0
    for table in shop.tables():
        wanted = digest(shop, table)
        seen = {role: digest(db, table) == wanted for role, db in targets.items()}
        different += not all(seen.values())
        words = {True: "equal", False: "DIFFERENT"}
        say(f"{table:<28}{wanted[0]:>9}  {words[seen['shadow']]:<10}{words[seen['primary']]:<10}")
    return different


def main():
    parser = argparse.ArgumentParser(description="the main job on real servers, end to end")
    parser.add_argument("--seconds", type=int, default=20, help="of traffic (default 20)")
    parser.add_argument("--keep", action="store_true", help="keep the folder with data and logs")
    options = parser.parse_args()
    started = time.monotonic()
    servers = start_servers()
    source, shadow, primary, kafka = servers
    try:
        shop = load(source)
        targets = {"shadow": shadow.createdb("shop"), "primary": primary.createdb("shop")}
        say(f"servers are up and the shop is loaded ({time.monotonic() - started:.0f} s)")
        f = Foreshadow({"migration": "shop",
                        "source": {"uri": shop.uri()}, "target": {"uri": targets["primary"].uri()},
                        "shadow": {"uri": targets["shadow"].uri()},
                        "kafka": {"bootstrap.servers": kafka.bootstrap, "partitions": 12},
                        "tables": {"include": ["public.*"]}, "risk": {"shadow_threshold": 0}},
                       TOP / "build/release/foreshadow")
        say(f.run_cli("check").stdout.rstrip())
        processes = start_roles(f)
        copying = time.monotonic()
        wait_until(lambda: copied(f), 120, lambda: f"the copies to be live\n{f.tail()}")
        say(f"copied, compared on the shadow, and live on both targets ({time.monotonic() - copying:.1f} s); now the traffic")

        def kill_two():
            for role in ("ingest", "shadow"):
                say(f"kill -9 {role}")
                processes[role].kill9()
                processes[role] = f.start(role=role)

        run_traffic(shop, options.seconds, kill_two)
        stopped, end = time.monotonic(), lsn(shop.value("select pg_current_wal_insert_lsn()::text"))
        wait_until(lambda: caught_up(f, end), 60, "shadow and primary to catch up")
        status = f.json("status")
        say(f"caught up {time.monotonic() - stopped:.1f} s after the last write")
        different = compare(shop, targets)
        for role in status["roles"]:
            say(f"{role['role']:<8} {role['changes']} changes applied, "
                f"{role['changes'] / options.seconds:.0f} a second of traffic")
        say(f"compared and found equal up to {status['gate']['verified_lsn']}: the primary got nothing before that")
        f.stop()
        say(f.run_cli("drop", "--yes").stdout.rstrip())
        say(f"demo took {time.monotonic() - started:.0f} s")
        return 1 if different else 0
    finally:
        for server in servers:
            server.remove()
        if options.keep:
            say(f"kept: {place.root()}")
        else:
            place.remove_root()


if __name__ == "__main__":
    sys.exit(main())
