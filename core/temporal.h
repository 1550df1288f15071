// SPDX-License-Identifier: Apache-2.0
/*
 * temporal - dates, times and timestamps: PostgreSQL's numbers ↔ PostgreSQL's ISO text.
 *
 * The numbers are those of the binary format: days or microseconds since 2000-01-01, the extremes
 * of the type for ±infinity. The text is what a session with DateStyle ISO and TimeZone UTC prints;
 * the calendar is the proleptic Gregorian one, the year before 0001 is 0001 BC. Parsing is strict:
 * it reads what the server prints and refuses the rest, other offsets than +00 among it.
 */
#ifndef CORE_TEMPORAL_H
#define CORE_TEMPORAL_H

#include "core/span.h"

/* From 1970-01-01 to 2000-01-01. */
#define TEMPORAL_EPOCH_DAYS INT64_C(10957)
#define TEMPORAL_EPOCH_US   INT64_C(946684800000000)
#define TEMPORAL_DAY_US     INT64_C(86400000000)
/* 0001-01-01 and the day after 9999-12-31, from 1970-01-01: what other systems call a date. */
#define TEMPORAL_FIRST_DAY INT64_C(-719162)
#define TEMPORAL_END_DAY   INT64_C(2932897)

/* Holds the longest text: 294276-12-31 23:59:59.999999+00, or with a shorter year and BC. */
enum { TEMPORAL_TEXT = 40 };

bool temporal_parse_date(struct span text, int32_t *ret_days);
/* 0 ... TEMPORAL_DAY_US: 24:00:00 is a time. */
bool temporal_parse_time(struct span text, int64_t *ret_us);
bool temporal_parse_timestamp(struct span text, bool with_zone, int64_t *ret_us);

/* Is it a number the type can have? Only such a number may be printed. */
bool temporal_date_is_valid(int32_t days);
bool temporal_time_is_valid(int64_t us);
bool temporal_timestamp_is_valid(int64_t us);

/* Write the text into out[TEMPORAL_TEXT], without a NUL; return its length. */
size_t temporal_print_date(int32_t days, char *out);
size_t temporal_print_time(int64_t us, char *out);
size_t temporal_print_timestamp(int64_t us, bool with_zone, char *out);

#endif
