// SPDX-License-Identifier: Apache-2.0
/* Tables are one letter, in schema s; t_1 and t_2 are leaves of t. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/arena.h"
#include "ingest/families.h"

enum { TABLES = 8 };

static struct relation relations[TABLES];
static struct relation *all[TABLES];
static size_t count;
static struct constraints_key keys[16];
static struct constraints c;
static struct arena a;

static struct relation *table(const char *name, const char *root)
{
	struct span schema = span_str("s");

	relations[count] = (struct relation) {
		.schema = schema, .table = span_str(name), .root_schema = schema, .root_table = span_str(root),
		.target_schema = schema, .target_table = span_str(root),
	};
	all[count] = &relations[count];
	return all[count++];
}

/* "ab": a references b */
static void key(const char *child_parent)
{
	static char names[16][2][2];
	size_t i = c.source_key_count++;

	names[i][0][0] = child_parent[0];
	names[i][1][0] = child_parent[1];
	keys[i] = (struct constraints_key) {
		.schema = span_str("s"), .table = span_str(names[i][0]), .name = span_str("k"),
		.to_schema = span_str("s"), .to_table = span_str(names[i][1]), .is_enforced = true,
	};
}

static int set_up(void **state)
{
	(void)state;
	arena_init(&a, 1 << 20);
	count = 0;
	c = (struct constraints) { .lacks_replica = { true, false }, .source_keys = keys };
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	arena_release(&a);
	return 0;
}

static void assert_family(const struct relation *rel, const char *family)
{
	if (!family) {
		assert_int_not_equal(rel->routing, ROUTE_GROUP);
		assert_null(rel->family.p);
		return;
	}
	assert_int_equal(rel->routing, ROUTE_GROUP);
	assert_true(span_eq_str(rel->family, family));
}

static void tables_that_keys_connect_are_a_family_called_by_the_first(void **state)
{
	struct relation *d = table("d", "d"), *x = table("x", "x"), *b = table("b", "b"), *e = table("e", "e"),
			*f = table("f", "f");
	(void)state;
	key("db");
	key("xd");
	key("ef");
	table("z", "z");
	families_route(&c, all, count, &a);
	assert_family(d, "s.b");
	assert_family(x, "s.b");
	assert_family(b, "s.b");
	assert_family(e, "s.e");
	assert_family(f, "s.e");
	assert_family(all[5], NULL);
	assert_true(span_eq_str(d->routing_reason,
				"family s.b of 3 tables: the role on the shadow target may not set session_replication_role, "
				"so foreign keys are enforced while changes are applied"));
}

static void cycles_and_a_table_that_references_itself_are_families(void **state)
{
	(void)state;
	table("a", "a");
	table("b", "b");
	table("c", "c");
	key("ab");
	key("ba");
	key("cc");
	families_route(&c, all, count, &a);
	assert_family(all[0], "s.a");
	assert_family(all[1], "s.a");
	assert_family(all[2], "s.c");
}

static void where_both_targets_run_as_replica_there_are_none(void **state)
{
	(void)state;
	table("a", "a");
	key("aa");
	c.lacks_replica[0] = false;
	families_route(&c, all, count, &a);
	assert_family(all[0], NULL);
}

static void keys_out_of_scope_or_not_enforced_connect_nothing(void **state)
{
	(void)state;
	table("a", "a");
	table("b", "b");
	key("aq");
	key("qa");
	key("ab");
	keys[2].is_enforced = false;
	families_route(&c, all, count, &a);
	assert_family(all[0], NULL);
	assert_family(all[1], NULL);
}

static void leaves_go_together_whichever_has_the_key(void **state)
{
	(void)state;
	table("u", "t");
	table("v", "t");
	table("w", "w");
	key("uw");
	families_route(&c, all, count, &a);
	for (size_t i = 0; i < count; i++)
		assert_family(all[i], "s.t");
	assert_non_null(strstr(arena_str(&a, all[2]->routing_reason), "family s.t of 2 tables"));
}

static void a_new_table_joins_the_family_that_is_there(void **state)
{
	(void)state;
	table("a", "a");
	table("b", "b")->routing = ROUTE_GROUP;
	all[1]->family = span_str("s.b");
	key("ab");
	families_route(&c, all, count, &a);
	assert_family(all[0], "s.b");
	assert_family(all[1], "s.b");
}

static void whole_transactions_have_one_partition_anyway(void **state)
{
	(void)state;
	table("a", "a")->routing = ROUTE_TRANSACTION;
	key("aa");
	families_route(&c, all, count, &a);
	assert_int_equal(all[0]->routing, ROUTE_TRANSACTION);
}

static void versions_and_new_leaves_follow(void **state)
{
	struct relation *old = table("a", "a"), *next = table("a", "a");
	(void)state;
	key("aa");
	families_route(&c, all, 1, &a);
	next->keyless = true;
	constraints_follow(next, old);
	assert_family(next, "s.a");
}

static void a_key_that_changes_keyless_rows_is_refused(void **state)
{
	(void)state;
	table("a", "a");
	key("ab");
	keys[0].rewrites = true;
	assert_null(families_refuse(&c, all[0], &a));
	all[0]->keyless = true;
	assert_non_null(strstr(families_refuse(&c, all[0], &a), "s.a has no key, and foreign key \"k\""));
	c.lacks_replica[0] = false;
	assert_null(families_refuse(&c, all[0], &a));
}

#define unit(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		unit(tables_that_keys_connect_are_a_family_called_by_the_first),
		unit(cycles_and_a_table_that_references_itself_are_families),
		unit(where_both_targets_run_as_replica_there_are_none),
		unit(keys_out_of_scope_or_not_enforced_connect_nothing),
		unit(leaves_go_together_whichever_has_the_key),
		unit(a_new_table_joins_the_family_that_is_there),
		unit(whole_transactions_have_one_partition_anyway),
		unit(versions_and_new_leaves_follow),
		unit(a_key_that_changes_keyless_rows_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
