# SPDX-License-Identifier: Apache-2.0
"""Are two databases equal? By the bytes that COPY prints, not by anything of the code under test."""
from collections import Counter

from .postgres import PINNED, pin, quote_identifier, quote_table

# Above this many rows the servers are asked for a count and a digest first, and the rows are
# fetched only where those differ.
LARGE = 200_000


def digest(db, table, columns=None):
    """(rows, sum of a 64-bit hash of each row's text under the pinned settings)."""
    names = columns or db.columns(table)
    listed = ", ".join(quote_identifier(name) for name in names)
    with db.connect() as connection:
        pin(connection, PINNED)
        return connection.execute(
            f"select count(*), coalesce(sum(hashtextextended(row({listed})::text, 0)::numeric), 0) "
            f"from {quote_table(table)}").fetchone()


def _pairs(a, tables):
    if tables is None:
        tables = a.tables()
    return list(tables.items()) if isinstance(tables, dict) else [(name, name) for name in tables]


def _shown(lines):
    text = [line[:200].decode(errors="replace").rstrip("\n") for line in sorted(lines)[:5]]
    return "".join(f"\n    {line}" for line in text)


def _difference(a, b, table_a, table_b):
    """What differs in one pair of tables, as text; None when equal."""
    title = table_a if table_a == table_b else f"{table_a} / {table_b}"
    columns_a, columns_b = a.columns(table_a), b.columns(table_b)
    if not columns_a or not columns_b:
        return f"{title}: not there in {b if columns_a else a}"
    if columns_a != columns_b:
        return f"{title}: columns {columns_a} in {a}, {columns_b} in {b}"
    rows = a.value(f"select count(*) from {quote_table(table_a)}")
    if rows > LARGE and digest(a, table_a) == digest(b, table_b):
        return None
    in_a, in_b = Counter(a.rows(table_a)), Counter(b.rows(table_b))
    if in_a == in_b:
        return None
    only_a, only_b = in_a - in_b, in_b - in_a
    text = f"{title} ({', '.join(columns_a)}): {in_a.total()} rows in {a}, {in_b.total()} in {b}"
    for db, lines in ((a, only_a), (b, only_b)):
        if lines:
            text += f"\n  {lines.total()} only in {db}:{_shown(lines)}"
    return text


def differences(a, b, tables=None):
    """A text for each table that differs between the databases a and b; [] when they are equal.

    tables: names, or {name in a: name in b}; default: all tables of a.
    """
    with a.held() as x, b.held() as y:
        found = [_difference(x, y, *pair) for pair in _pairs(x, tables)]
    return [text for text in found if text]


def tables_equal(a, b, tables=None):
    """For conditions of wait_until; a test ends with assert_equal, which says what differs."""
    return not differences(a, b, tables)


def assert_equal(a, b, tables=None):
    found = differences(a, b, tables)
    assert not found, "\n" + "\n".join(found)
