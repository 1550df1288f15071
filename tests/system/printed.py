# SPDX-License-Identifier: Apache-2.0
"""What PostgreSQL prints for a value that fastavro has read: DateStyle ISO, TimeZone UTC, extra_float_digits 3."""
import struct
from datetime import date, datetime, timedelta
from decimal import Decimal

import fastavro

# As the record has them: Python's own types know no infinity and no 24:00:00, and would refuse what is wrong.
for logical in ("int-date", "long-time-micros", "long-timestamp-micros", "long-local-timestamp-micros", "string-uuid"):
    fastavro.read.LOGICAL_READERS[logical] = lambda data, *_: data

EPOCH = datetime(1970, 1, 1)


def printer(union):
    """For a column's union of null, native and perhaps string: value -> text, where a value is not null. A string is
    PostgreSQL's own text, whatever its column has beside it."""
    native = union[1]
    kind = native.get("logicalType", native["type"]) if isinstance(native, dict) else native
    if kind in ("string", "uuid"):
        return lambda value: value
    form = FORMS[kind]
    return (lambda value: value if isinstance(value, str) else form(value)) if "string" in union[2:] else form


def of_boolean(value):
    return "t" if value else "f"


def of_bytes(value):
    return "\\x" + value.hex()


def of_decimal(value):
    assert value.is_finite() and not (value.is_zero() and value.is_signed()), f"{value} belongs into the string branch"
    return format(value, "f")


def of_float4(value):
    """The fewest digits that are this number again, of the 32 bits that it has."""
    return of_float(next((text for text in (f"{value:.{n}g}" for n in range(1, 10)) if as_float4(text) == value), repr(value)), 6)


def as_float4(text):
    try:
        return struct.unpack("f", struct.pack("f", float(text)))[0]
    except OverflowError:
        return None


def of_float8(value):
    return of_float(repr(value), 15)


def of_float(text, most):
    """text: digits enough; most: of them before the point, beyond that PostgreSQL writes an exponent."""
    if text in ("nan", "inf", "-inf"):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[text]
    sign, digits, exponent = Decimal(text).normalize().as_tuple()
    power = exponent + len(digits) - 1
    if digits == (0,) or -4 <= power < most:
        return format(Decimal((sign, digits, exponent)), "f")
    first, *others = map(str, digits)
    return f"{'-' * sign}{first}{'.' * bool(others)}{''.join(others)}e{'-' if power < 0 else '+'}{abs(power):02}"


def of_date(days):
    return (date(1970, 1, 1) + timedelta(days)).isoformat()


def without_zeros(text):
    """Of the fraction."""
    return text.rstrip("0").rstrip(".")


def of_time(micros):
    assert 0 <= micros < 86_400_000_000, f"{micros} is no time of day"
    return without_zeros((EPOCH + timedelta(microseconds=micros)).time().isoformat("microseconds"))


def of_timestamp(micros):
    return without_zeros((EPOCH + timedelta(microseconds=micros)).isoformat(" ", "microseconds"))


FORMS = {
    "boolean": of_boolean, "bytes": of_bytes, "int": str, "long": str, "float": of_float4, "double": of_float8,
    "decimal": of_decimal, "date": of_date, "time-micros": of_time, "local-timestamp-micros": of_timestamp,
    "timestamp-micros": lambda micros: of_timestamp(micros) + "+00",
}
