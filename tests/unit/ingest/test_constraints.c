// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/arena.h"
#include "ingest/constraints.h"

static struct column columns[3];
static struct span of_id[1], of_id_mail[2], of_mail[1], of_expression[2];

/* shop.t (id key, mail, n); a leaf if `table` is another name. */
static struct relation relation(const char *table)
{
	columns[0] = (struct column) { .name = span_str("id"), .target = span_str("id"), .is_key = true };
	columns[1] = (struct column) { .name = span_str("mail"), .target = span_str("mail") };
	columns[2] = (struct column) { .name = span_str("n"), .target = span_str("n") };
	return (struct relation) {
		.schema = span_str("shop"), .table = span_str(table), .root_schema = span_str("shop"),
		.root_table = span_str("t"), .target_schema = span_str("shop"), .target_table = span_str("t"),
		.merge = true, .columns = columns, .column_count = 3, .key_count = 1,
	};
}

static struct constraint plain(struct span *names, size_t n)
{
	of_id[0] = of_id_mail[0] = span_str("id");
	of_id_mail[1] = of_mail[0] = of_expression[0] = span_str("mail");
	return (struct constraint) { .role = ROLE_PRIMARY, .schema = span_str("shop"), .table = span_str("t"),
				     .name = span_str("x"), .is_plain = true, .columns = names, .column_count = n };
}

static bool is_further(struct constraint k, const struct relation *rel)
{
	struct constraints all = { .indexes = &k, .index_count = 1 };

	return constraints_further(&all, rel) != NULL;
}

static void an_index_beside_the_key_is_further(void **state)
{
	struct relation rel = relation("t");
	struct constraint k;
	(void)state;
	assert_false(is_further(plain(of_id, 1), &rel));
	assert_false(is_further(plain(of_id_mail, 2), &rel));
	assert_true(is_further(plain(of_mail, 1), &rel));
	assert_true(is_further(plain(of_expression, 2), &rel));
	k = plain(of_id, 1);
	k.is_plain = false;              /* an exclusion constraint, a looser equality */
	assert_true(is_further(k, &rel));
	k.table = span_str("other");
	assert_false(is_further(k, &rel));
	k.table = span_str("t");
	k.schema = span_str("other");
	assert_false(is_further(k, &rel));
}

static void the_reason_names_index_and_target(void **state)
{
	struct relation rel = relation("t");
	struct constraint k = plain(of_mail, 1);
	struct constraints all = { .indexes = &k, .index_count = 1 };
	struct arena a;
	(void)state;
	arena_init(&a, 1 << 16);
	constraints_route(&all, &rel, &a);
	assert_int_equal(rel.routing, ROUTE_TABLE);
	assert_true(span_eq_str(rel.routing_reason, "the primary target has a further unique index: \"x\""));
	k.is_exclusion = true;
	k.role = ROLE_SHADOW;
	rel = relation("t");
	constraints_route(&all, &rel, &a);
	assert_true(span_eq_str(rel.routing_reason, "the shadow target has a further exclusion index: \"x\""));
	arena_release(&a);
}

static void the_next_version_goes_on_as_the_last(void **state)
{
	struct relation last = relation("t"), next = relation("t");
	(void)state;
	last.routing = ROUTE_TABLE;
	last.routing_reason = span_str("because");
	constraints_follow(&next, &last);
	assert_int_equal(next.routing, ROUTE_TABLE);
	assert_true(span_eq_str(next.routing_reason, "because"));
	/* a table may become stricter: its event is exclusive */
	last = relation("t");
	constraints_follow(&next, &last);
	assert_int_equal(next.routing, ROUTE_TABLE);
	/* what came of the key goes with it */
	next = relation("t");
	last.keyless = true;
	last.routing = ROUTE_TABLE;
	constraints_follow(&next, &last);
	assert_int_equal(next.routing, ROUTE_KEY);
}

static void leaves_are_routed_alike(void **state)
{
	struct relation sibling = relation("t_1"), leaf = relation("t_2");
	(void)state;
	leaf.routing = ROUTE_TABLE;
	leaf.routing_reason = span_str("because");
	constraints_follow(&leaf, &sibling);
	assert_int_equal(leaf.routing, ROUTE_KEY);
	assert_null(leaf.routing_reason.p);
	sibling.routing = ROUTE_TABLE;
	constraints_follow(&leaf, &sibling);
	assert_int_equal(leaf.routing, ROUTE_TABLE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_index_beside_the_key_is_further),
		cmocka_unit_test(the_reason_names_index_and_target),
		cmocka_unit_test(the_next_version_goes_on_as_the_last),
		cmocka_unit_test(leaves_are_routed_alike),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
