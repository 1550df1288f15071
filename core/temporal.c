// SPDX-License-Identifier: Apache-2.0
#include "core/temporal.h"

#include "core/cursor.h"

/*
 * What the types can hold, from PostgreSQL's datatype/timestamp.h: from 4714-11-24 BC (Julian day
 * 0) to before 5874898-01-01 (dates) and 294277-01-01 (timestamps).
 */
#define DATE_FIRST      INT64_C(-2451545)
#define DATE_END        INT64_C(2145031949)
#define TIMESTAMP_FIRST INT64_C(-211813488000000000)
#define TIMESTAMP_END   INT64_C(9223371331200000000)

struct date {
	int64_t year; /* astronomical: 0 is 1 BC */
	int month, day;
};

/* Days from 2000-01-01. Years are counted from March, so the leap day is a year's last. */
static int64_t days_from_date(struct date d)
{
	int64_t year = d.month <= 2 ? d.year - 1 : d.year;
	int64_t era = (year >= 0 ? year : year - 399) / 400;
	int64_t year_of_era = year - era * 400;
	int64_t day_of_year = (153 * ((d.month + 9) % 12) + 2) / 5 + d.day - 1;
	int64_t day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;

	return era * 146097 + day_of_era - 730425; /* 0000-03-01 to 2000-01-01 */
}

static struct date date_from_days(int64_t days)
{
	int64_t n = days + 730425;
	int64_t era = (n >= 0 ? n : n - 146096) / 146097;
	int64_t day_of_era = n - era * 146097;
	int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 -
			       day_of_era / 146096) /
			      365;
	int day_of_year = (int)(day_of_era -
				(365 * year_of_era + year_of_era / 4 - year_of_era / 100));
	int month_from_march = (5 * day_of_year + 2) / 153;
	struct date d = {
		.year = year_of_era + era * 400,
		.month = month_from_march < 10 ? month_from_march + 3 : month_from_march - 9,
		.day = day_of_year - (153 * month_from_march + 2) / 5 + 1,
	};

	if (d.month <= 2)
		d.year++;
	return d;
}

static int days_in_month(int64_t year, int month)
{
	static const char days[] = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 };
	bool is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

	return month == 2 && is_leap ? 29 : days[month - 1];
}

/* Readers: each takes what it wants off the front of the cursor; a cut cursor is a refusal. */

static void read_char(struct cursor *c, char wanted)
{
	if (cursor_u8(c) != (uint8_t)wanted)
		c->cut = true;
}

static int read_two(struct cursor *c)
{
	struct span s = cursor_bytes(c, 2);
	unsigned high, low;

	if (c->cut)
		return 0;
	high = (unsigned)(s.p[0] - '0');
	low = (unsigned)(s.p[1] - '0');
	if (high <= 9 && low <= 9)
		return (int)(high * 10 + low);
	c->cut = true;
	return 0;
}

/* Digits up to the first byte that is none; their number goes to *ret_count. */
static int64_t read_digits(struct cursor *c, int max, int *ret_count)
{
	int64_t v = 0;
	int n = 0;

	for (; n < max && cursor_left(c) > 0 && *c->p >= '0' && *c->p <= '9'; n++)
		v = v * 10 + (*c->p++ - '0');
	*ret_count = n;
	return v;
}

static struct date read_date(struct cursor *c)
{
	struct date d;
	int digits;

	d.year = read_digits(c, 7, &digits);
	read_char(c, '-');
	d.month = read_two(c);
	read_char(c, '-');
	d.day = read_two(c);
	if (digits < 4 || d.year == 0)
		c->cut = true;
	return d;
}

static int64_t read_time(struct cursor *c)
{
	static const int unit[] = { 0, 100000, 10000, 1000, 100, 10, 1 };
	int hour, minute, second, digits;
	int64_t us = 0;

	hour = read_two(c);
	read_char(c, ':');
	minute = read_two(c);
	read_char(c, ':');
	second = read_two(c);
	if (cursor_left(c) > 0 && *c->p == '.') {
		c->p++;
		us = read_digits(c, 6, &digits);
		us *= unit[digits];
		if (digits == 0)
			c->cut = true;
	}
	if (hour > 24 || minute > 59 || second > 59)
		c->cut = true;
	return ((hour * 60 + minute) * 60 + second) * INT64_C(1000000) + us;
}

/* Turns a year BC into an astronomical one: " BC" is the end of the text. */
static void read_era(struct cursor *c, struct date *d)
{
	if (cursor_left(c) > 0) {
		read_char(c, ' ');
		read_char(c, 'B');
		read_char(c, 'C');
		d->year = 1 - d->year;
	}
	if (cursor_left(c) > 0 || d->month < 1 || d->month > 12 || d->day < 1)
		c->cut = true;
	else if (d->day > days_in_month(d->year, d->month))
		c->cut = true;
}

bool temporal_parse_date(struct span text, int32_t *ret_days)
{
	struct cursor c = cursor(text);
	struct date d;
	int64_t days;

	if (span_eq_str(text, "infinity") || span_eq_str(text, "-infinity")) {
		*ret_days = text.p[0] == '-' ? INT32_MIN : INT32_MAX;
		return true;
	}
	d = read_date(&c);
	read_era(&c, &d);
	if (c.cut)
		return false;
	days = days_from_date(d);
	if (days < DATE_FIRST || days >= DATE_END)
		return false;
	*ret_days = (int32_t)days;
	return true;
}

bool temporal_parse_time(struct span text, int64_t *ret_us)
{
	struct cursor c = cursor(text);
	int64_t us = read_time(&c);

	if (c.cut || cursor_left(&c) > 0 || us > TEMPORAL_DAY_US)
		return false;
	*ret_us = us;
	return true;
}

bool temporal_parse_timestamp(struct span text, bool with_zone, int64_t *ret_us)
{
	struct cursor c = cursor(text);
	struct date d;
	int64_t us, days;

	if (span_eq_str(text, "infinity") || span_eq_str(text, "-infinity")) {
		*ret_us = text.p[0] == '-' ? INT64_MIN : INT64_MAX;
		return true;
	}
	d = read_date(&c);
	read_char(&c, ' ');
	us = read_time(&c);
	if (with_zone) {
		read_char(&c, '+');
		read_char(&c, '0');
		read_char(&c, '0');
	}
	read_era(&c, &d);
	if (c.cut || us >= TEMPORAL_DAY_US)
		return false;
	days = days_from_date(d);
	/* The last day of the type is a whole one, so days decide. */
	if (days < DATE_FIRST || days >= TIMESTAMP_END / TEMPORAL_DAY_US)
		return false;
	*ret_us = days * TEMPORAL_DAY_US + us;
	return true;
}

bool temporal_date_is_valid(int32_t days)
{
	return days == INT32_MIN || days == INT32_MAX || (days >= DATE_FIRST && days < DATE_END);
}

bool temporal_time_is_valid(int64_t us)
{
	return us >= 0 && us <= TEMPORAL_DAY_US;
}

bool temporal_timestamp_is_valid(int64_t us)
{
	return us == INT64_MIN || us == INT64_MAX || (us >= TIMESTAMP_FIRST && us < TIMESTAMP_END);
}

/* Printers: each writes at p and returns what is behind it. */

static char *print_two(char *p, int v)
{
	p[0] = (char)('0' + v / 10);
	p[1] = (char)('0' + v % 10);
	return p + 2;
}

static char *print_text(char *p, const char *text)
{
	size_t n = strlen(text);

	memcpy(p, text, n);
	return p + n;
}

static char *print_date(char *p, struct date d)
{
	int64_t year = d.year > 0 ? d.year : 1 - d.year;

	if (year >= 1000000)
		*p++ = (char)('0' + year / 1000000);
	if (year >= 100000)
		*p++ = (char)('0' + year / 100000 % 10);
	if (year >= 10000)
		*p++ = (char)('0' + year / 10000 % 10);
	p = print_two(p, (int)(year / 100 % 100));
	p = print_two(p, (int)(year % 100));
	*p++ = '-';
	p = print_two(p, d.month);
	*p++ = '-';
	return print_two(p, d.day);
}

static char *print_time(char *p, int64_t us)
{
	int second = (int)(us / 1000000), fraction = (int)(us % 1000000);

	p = print_two(p, second / 3600);
	*p++ = ':';
	p = print_two(p, second / 60 % 60);
	*p++ = ':';
	p = print_two(p, second % 60);
	if (fraction > 0)
		*p++ = '.';
	for (int unit = 100000; fraction > 0; fraction %= unit, unit /= 10)
		*p++ = (char)('0' + fraction / unit);
	return p;
}

size_t temporal_print_date(int32_t days, char *out)
{
	struct date d;
	char *p;

	if (days == INT32_MIN || days == INT32_MAX)
		return (size_t)(print_text(out, days < 0 ? "-infinity" : "infinity") - out);
	d = date_from_days(days);
	p = print_date(out, d);
	if (d.year <= 0)
		p = print_text(p, " BC");
	return (size_t)(p - out);
}

size_t temporal_print_time(int64_t us, char *out)
{
	return (size_t)(print_time(out, us) - out);
}

size_t temporal_print_timestamp(int64_t us, bool with_zone, char *out)
{
	int64_t days, us_of_day;
	struct date d;
	char *p;

	if (us == INT64_MIN || us == INT64_MAX)
		return (size_t)(print_text(out, us < 0 ? "-infinity" : "infinity") - out);
	days = us / TEMPORAL_DAY_US;
	us_of_day = us % TEMPORAL_DAY_US;
	if (us_of_day < 0) {
		us_of_day += TEMPORAL_DAY_US;
		days--;
	}
	d = date_from_days(days);
	p = print_date(out, d);
	*p++ = ' ';
	p = print_time(p, us_of_day);
	if (with_zone)
		p = print_text(p, "+00");
	if (d.year <= 0)
		p = print_text(p, " BC");
	return (size_t)(p - out);
}
