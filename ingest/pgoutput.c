// SPDX-License-Identifier: Apache-2.0
/*
 * The wire grammar of protocol version 1 (PostgreSQL's documentation, "Logical Replication Message
 * Formats"), big-endian; text is NUL-terminated:
 *
 *   Begin     'B'  u64 commit LSN · i64 time · u32 xid
 *   Message   'M'  u8 flags (1: transactional) · u64 lsn · text prefix · i32 n · n bytes
 *   Commit    'C'  u8 flags (0) · u64 commit LSN · u64 end LSN · i64 time
 *   Origin    'O'  u64 lsn · text name
 *   Relation  'R'  u32 oid · text schema · text table · u8 identity · i16 n ·
 *                  n × (u8 flags (1: identity) · text name · u32 type · i32 typmod)
 *   Type      'Y'  u32 oid · text schema · text name
 *   Insert    'I'  u32 oid · 'N' tuple
 *   Update    'U'  u32 oid · [ 'K' tuple | 'O' tuple ] · 'N' tuple
 *   Delete    'D'  u32 oid · ( 'K' tuple | 'O' tuple )
 *   Truncate  'T'  i32 n · u8 flags (1: cascade, 2: restart identity) · n × u32 oid
 *   tuple          i16 n · n × ( 'n' | 'u' | ('t' | 'b') i32 n · n bytes )
 *
 * Times are microseconds since 2000-01-01. Stream Abort ('A') belongs to version 2, yet servers have
 * sent it to version 1 when a large transaction was aborted: it says nothing about what we were given,
 * so it is ignored whatever its length.
 */
#include "ingest/pgoutput.h"

#include "core/cursor.h"

/* Microseconds from 1970-01-01 to 2000-01-01. */
#define EPOCH_2000_US INT64_C(946684800000000)

/* What is being parsed, for the messages. */
struct parse {
	struct cursor c;
	struct arena *arena;
	uint64_t lsn;
	char kind;
	struct fault *f;
};

static bool broken(struct parse *p, const char *what)
{
	char lsn[LSN_TEXT];
	return fault(p->f, FAULT_INPUT,
		     "pgoutput: message '%c' (0x%02x) at %s: %s at byte %zu of %zu", p->kind,
		     (unsigned char)p->kind, lsn_format(p->lsn, lsn), what, cursor_offset(&p->c),
		     (size_t)(p->c.end - p->c.start));
}

static void *take(struct parse *p, size_t count, size_t size)
{
	void *m = arena_alloc(p->arena, (count ? count : 1) * size);
	if (!m)
		fault(p->f, FAULT_INTERNAL, "pgoutput: no memory for %zu elements of %zu bytes",
		      count, size);
	return m;
}

static bool read_time(struct parse *p, int64_t *ret_us)
{
	int64_t us = cursor_i64(&p->c);
	if (us > INT64_MAX - EPOCH_2000_US)
		return broken(p, "time out of range");
	*ret_us = us + EPOCH_2000_US;
	return true;
}

static struct span read_schema(struct parse *p)
{
	struct span s = cursor_cstr(&p->c);
	return s.n || p->c.cut ? s : span_str("pg_catalog");
}

static bool read_begin(struct parse *p, struct pgoutput *ret)
{
	ret->kind = PGOUTPUT_BEGIN;
	ret->begin.commit.v = cursor_u64(&p->c);
	if (!read_time(p, &ret->begin.ts_us))
		return false;
	ret->begin.xid = cursor_u32(&p->c);
	return true;
}

static bool read_commit(struct parse *p, struct pgoutput *ret)
{
	ret->kind = PGOUTPUT_COMMIT;
	if (cursor_u8(&p->c) != 0)
		return broken(p, "commit flags that are not 0");
	ret->commit.commit.v = cursor_u64(&p->c);
	ret->commit.end.v = cursor_u64(&p->c);
	if (!read_time(p, &ret->commit.ts_us))
		return false;
	if (!p->c.cut && !boundary_has(ret->commit.end, ret->commit.commit))
		return broken(p, "commit that ends before it starts");
	return true;
}

static bool read_origin(struct parse *p, struct pgoutput *ret)
{
	ret->kind = PGOUTPUT_IGNORED;
	cursor_u64(&p->c);
	cursor_cstr(&p->c);
	return true;
}

static bool read_stream_abort(struct parse *p, struct pgoutput *ret)
{
	ret->kind = PGOUTPUT_IGNORED;
	cursor_bytes(&p->c, cursor_left(&p->c));
	return true;
}

static bool read_relation(struct parse *p, struct pgoutput *ret)
{
	enum { COLUMN_BYTES = 1 + 1 + 4 + 4 };  /* with an empty name */
	struct pgoutput_relation *rel = &ret->relation;

	ret->kind = PGOUTPUT_RELATION;
	rel->oid = cursor_u32(&p->c);
	rel->schema = read_schema(p);
	rel->table = cursor_cstr(&p->c);
	rel->identity = (char)cursor_u8(&p->c);
	if (!p->c.cut && (!rel->identity || !strchr("dnif", rel->identity)))
		return broken(p, "replica identity that is none of d n i f");
	rel->column_count = cursor_u16(&p->c);
	if (rel->column_count > cursor_left(&p->c) / COLUMN_BYTES)
		return broken(p, "more columns than bytes");
	rel->columns = take(p, rel->column_count, sizeof(*rel->columns));
	if (!rel->columns)
		return false;
	for (size_t i = 0; i < rel->column_count && !p->c.cut; i++) {
		rel->columns[i].is_identity = cursor_u8(&p->c) & 1;
		rel->columns[i].name = cursor_cstr(&p->c);
		rel->columns[i].type_oid = cursor_u32(&p->c);
		rel->columns[i].typmod = cursor_i32(&p->c);
	}
	return true;
}

static bool read_type(struct parse *p, struct pgoutput *ret)
{
	ret->kind = PGOUTPUT_TYPE;
	ret->type.oid = cursor_u32(&p->c);
	ret->type.schema = read_schema(p);
	ret->type.name = cursor_cstr(&p->c);
	return true;
}

static bool read_cell(struct parse *p, struct cell *ret)
{
	ret->format = (char)cursor_u8(&p->c);
	switch (ret->format) {
	case 'n':
	case 'u':
		return true;
	case 't':
	case 'b':
		break;
	default:
		return p->c.cut || broken(p, "cell that is none of n u t b");
	}
	int32_t n = cursor_i32(&p->c);
	if (n < 0)
		return broken(p, "negative length of a cell");
	ret->bytes = cursor_bytes(&p->c, (size_t)n);
	return true;
}

static bool read_tuple(struct parse *p, struct pgoutput_tuple *ret)
{
	ret->count = cursor_u16(&p->c);
	if (ret->count > cursor_left(&p->c))    /* a cell is one byte or more */
		return broken(p, "more cells than bytes");
	ret->cells = take(p, ret->count, sizeof(*ret->cells));
	if (!ret->cells)
		return false;
	for (size_t i = 0; i < ret->count && !p->c.cut; i++)
		if (!read_cell(p, &ret->cells[i]))
			return false;
	return true;
}

static bool read_new(struct parse *p, char mark, struct pgoutput_change *ch)
{
	if (mark != 'N')
		return p->c.cut || broken(p, "no new row ('N')");
	ch->has_new = true;
	return read_tuple(p, &ch->new);
}

static bool read_insert(struct parse *p, struct pgoutput *ret)
{
	ret->kind = PGOUTPUT_INSERT;
	ret->change.oid = cursor_u32(&p->c);
	return read_new(p, (char)cursor_u8(&p->c), &ret->change);
}

static bool read_update(struct parse *p, struct pgoutput *ret)
{
	ret->kind = PGOUTPUT_UPDATE;
	ret->change.oid = cursor_u32(&p->c);
	char mark = (char)cursor_u8(&p->c);
	if (mark == 'K' || mark == 'O') {
		ret->change.old_kind = mark;
		if (!read_tuple(p, &ret->change.old))
			return false;
		mark = (char)cursor_u8(&p->c);
	}
	return read_new(p, mark, &ret->change);
}

static bool read_delete(struct parse *p, struct pgoutput *ret)
{
	ret->kind = PGOUTPUT_DELETE;
	ret->change.oid = cursor_u32(&p->c);
	ret->change.old_kind = (char)cursor_u8(&p->c);
	if (ret->change.old_kind != 'K' && ret->change.old_kind != 'O')
		return p->c.cut || broken(p, "no old row ('K' or 'O')");
	return read_tuple(p, &ret->change.old);
}

static bool read_truncate(struct parse *p, struct pgoutput *ret)
{
	ret->kind = PGOUTPUT_TRUNCATE;
	ret->truncate.count = cursor_u32(&p->c);
	uint8_t flags = cursor_u8(&p->c);
	ret->truncate.cascade = flags & 1;
	ret->truncate.restart_identity = flags & 2;
	if (ret->truncate.count > cursor_left(&p->c) / sizeof(uint32_t))
		return broken(p, "more tables than bytes");
	ret->truncate.oids = take(p, ret->truncate.count, sizeof(uint32_t));
	if (!ret->truncate.oids)
		return false;
	for (size_t i = 0; i < ret->truncate.count; i++)
		ret->truncate.oids[i] = cursor_u32(&p->c);
	return true;
}

static bool read_message(struct parse *p, struct pgoutput *ret)
{
	ret->kind = PGOUTPUT_MESSAGE;
	ret->message.is_transactional = cursor_u8(&p->c) & 1;
	ret->message.lsn = cursor_u64(&p->c);
	ret->message.prefix = cursor_cstr(&p->c);
	int32_t n = cursor_i32(&p->c);
	if (n < 0)
		return broken(p, "negative length of a logical message");
	ret->message.content = cursor_bytes(&p->c, (size_t)n);
	return true;
}

static const struct {
	char kind;
	bool (*read)(struct parse *p, struct pgoutput *ret);
} readers[] = {
	{ 'I', read_insert },   { 'U', read_update },   { 'D', read_delete },
	{ 'B', read_begin },    { 'C', read_commit },   { 'R', read_relation },
	{ 'Y', read_type },     { 'T', read_truncate }, { 'M', read_message },
	{ 'O', read_origin },   { 'A', read_stream_abort },
};

bool pgoutput_parse(struct span message, uint64_t lsn, struct arena *a, struct pgoutput *ret,
		    struct fault *f)
{
	struct parse p = { .c = cursor(message), .arena = a, .lsn = lsn, .f = f };

	*ret = (struct pgoutput) { 0 };
	p.kind = (char)cursor_u8(&p.c);
	if (p.c.cut) {
		char text[LSN_TEXT];
		return fault(f, FAULT_INPUT, "pgoutput: empty message at %s", lsn_format(lsn, text));
	}
	for (size_t i = 0; i < sizeof(readers) / sizeof(readers[0]); i++) {
		if (readers[i].kind != p.kind)
			continue;
		if (!readers[i].read(&p, ret))
			return false;
		if (p.c.cut)
			return broken(&p, "cut");
		if (cursor_left(&p.c) > 0)
			return broken(&p, "bytes that do not belong to it");
		return true;
	}
	p.c.p = p.c.start;
	return broken(&p, "unknown kind of message");
}
