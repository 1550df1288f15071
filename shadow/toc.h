// SPDX-License-Identifier: Apache-2.0
/*
 * toc - which entries of a pg_dump table of contents are restored, and in which stage.
 *
 * A line of `pg_restore -l` is "dumpId; classOid objectOid DESC schema tag owner". DESC may have
 * several words and the names may hold blanks, so the choice goes by DESC (a table in toc.c) and then by OIDs; three
 * kinds of entries have no OID (TABLE ATTACH, INDEX ATTACH, SEQUENCE OWNED BY) and go by "schema tag owner".
 *
 * Pure.
 */
#ifndef SHADOW_TOC_H
#define SHADOW_TOC_H

#include "core/buf.h"

/* Before the copy, after it, at the end of the migration (late.h builds those). */
enum toc_stage { TOC_EARLY, TOC_LATE, TOC_UNIQUE };

/* An object of the source that is wanted: pg_class 1259, pg_constraint 2606, pg_attrdef 2604, ... */
struct toc_object {
	uint32_t class_oid, oid;
	enum toc_stage stage;
	bool is_there;                /* exists on the target already: left out */
	struct span label;            /* "schema name owner" as the listing prints it: line ends are blanks */
};

/* Must be called before toc_filter: puts the objects into the order that looking up needs. */
void toc_sort(struct toc_object *objects, size_t n);
/* Appends to out the lines of listing that belong to stage. Returns how many. */
size_t toc_filter(struct span listing, const struct toc_object *objects, size_t n,
		  enum toc_stage stage, struct buf *out);

#endif
