// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "ingest/key.h"

static const int16_t id[] = { 1 }, mail[] = { 2 }, tenant_id[] = { 3, 1 };

/* A primary key on id that everything is right with. */
static struct key_index good(void)
{
	return (struct key_index) {
		.oid = 100, .name = span_str("t_pkey"), .is_primary = true, .is_unique = true,
		.is_immediate = true, .is_valid = true, .is_deterministic = true, .spans_root = true,
		.attnums = id, .count = 1,
	};
}

static struct key_choice choose(char identity, const struct key_index *indexes, size_t n)
{
	struct key_facts facts = { .identity = identity, .indexes = indexes, .index_count = n };
	struct key_choice c;
	key_choose(&facts, &c);
	return c;
}

static void the_primary_key_is_the_key(void **state)
{
	struct key_index x = good();
	(void)state;
	for (const char *identity = "df"; *identity; identity++) {
		struct key_choice c = choose(*identity, &x, 1);
		assert_ptr_equal(c.index, &x);
		assert_null(c.refusal);
		assert_null(c.further);
	}
}

static void identity_index_wins_over_the_primary_key(void **state)
{
	struct key_index x[] = { good(), good() };
	(void)state;
	x[1].oid = 101;
	x[1].is_primary = false;
	x[1].is_identity = true;
	x[1].attnums = mail;
	struct key_choice c = choose('i', x, 2);
	assert_ptr_equal(c.index, &x[1]);
	assert_ptr_equal(c.further, &x[0]);
}

static void identity_nothing_is_refused_with_the_way_out(void **state)
{
	struct key_index x = good();
	(void)state;
	struct key_choice c = choose('n', &x, 1);
	assert_string_equal(c.refusal, "its replica identity is NOTHING");
	assert_string_equal(c.remedy, "REPLICA IDENTITY DEFAULT");
	c = choose('n', NULL, 0);
	assert_string_equal(c.remedy, "REPLICA IDENTITY FULL");
}

static void default_without_primary_key_is_refused(void **state)
{
	(void)state;
	struct key_choice c = choose('d', NULL, 0);
	assert_string_equal(c.refusal, "it has no primary key");
	assert_string_equal(c.remedy, "REPLICA IDENTITY FULL");
}

static void each_flaw_of_an_index_refuses_it(void **state)
{
	struct key_index flawed[] = { good(), good(), good(), good(), good(), good(), good(), good() };
	(void)state;
	flawed[0].is_valid = false;
	flawed[1].is_unique = false;
	flawed[2].is_immediate = false;
	flawed[3].is_partial = true;
	flawed[4].has_expressions = true;
	flawed[5].is_nullable = true;
	flawed[6].has_generated = true;
	flawed[7].spans_root = false;
	for (size_t i = 0; i < 8; i++) {
		struct key_choice c = choose('d', &flawed[i], 1);
		assert_null(c.index);
		assert_non_null(c.refusal);
		assert_ptr_equal(c.refused, &flawed[i]);
		/* Full old rows: no key is needed. */
		c = choose('f', &flawed[i], 1);
		assert_null(c.index);
		assert_null(c.refusal);
	}
}

static void a_further_unique_index_is_found(void **state)
{
	struct key_index x[] = { good(), good() };
	(void)state;
	x[1].oid = 101;
	x[1].is_primary = false;
	x[1].attnums = mail;
	assert_ptr_equal(choose('d', x, 2).further, &x[1]);
}

static void a_unique_index_that_comes_late_does_not_count(void **state)
{
	struct key_index x[] = { good(), good(), good(), good() }, root = good();
	struct key_facts facts = { .identity = 'd', .indexes = x, .index_count = 2, .spares_unique = true };
	struct key_choice c;
	(void)state;
	for (size_t i = 1; i < 4; i++) {
		x[i].oid = 100 + (uint32_t)i;
		x[i].is_primary = false;
		x[i].attnums = mail;
	}
	assert_true(key_is_secondary(&x[1]));
	key_choose(&facts, &c);
	assert_null(c.further);
	/* a root's index without a part here */
	root.oid = 500;
	root.is_primary = false;
	facts.root_indexes = &root;
	facts.root_index_count = 1;
	key_choose(&facts, &c);
	assert_null(c.further);
	facts.root_index_count = 0;
	/* an exclusion constraint comes with the rest of the schema */
	facts.index_count = 3;
	x[2].is_unique = false;
	assert_false(key_is_secondary(&x[2]));
	key_choose(&facts, &c);
	assert_ptr_equal(c.further, &x[2]);
	facts.spares_exclusion = true;
	key_choose(&facts, &c);
	assert_null(c.further);
	/* a primary key beside the identity index is there from the start */
	facts.identity = 'i';
	facts.index_count = 4;
	x[3].is_identity = true;
	assert_false(key_is_secondary(&x[3]));
	key_choose(&facts, &c);
	assert_ptr_equal(c.index, &x[3]);
	assert_ptr_equal(c.further, &x[0]);
}

static void an_index_with_all_key_columns_is_implied(void **state)
{
	struct key_index x[] = { good(), good() };
	(void)state;
	x[1].is_primary = false;
	x[1].attnums = tenant_id;
	x[1].count = 2;
	assert_null(choose('d', x, 2).further);
	x[1].is_deterministic = false;
	assert_ptr_equal(choose('d', x, 2).further, &x[1]);
	x[1].is_deterministic = true;
	x[1].is_unique = false;                 /* an exclusion constraint */
	assert_ptr_equal(choose('d', x, 2).further, &x[1]);
}

static void an_index_of_the_root_that_has_no_part_here_is_further(void **state)
{
	struct key_index x = good(), root[2] = { good(), good() };
	struct key_facts facts = { .identity = 'd', .indexes = &x, .index_count = 1,
				   .root_indexes = root, .root_index_count = 1 };
	struct key_choice c;
	(void)state;
	root[0].oid = x.root_oid = 500;
	key_choose(&facts, &c);
	assert_null(c.further);
	root[1].oid = 501;
	facts.root_index_count = 2;
	key_choose(&facts, &c);
	assert_ptr_equal(c.further, &root[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_primary_key_is_the_key),
		cmocka_unit_test(identity_index_wins_over_the_primary_key),
		cmocka_unit_test(identity_nothing_is_refused_with_the_way_out),
		cmocka_unit_test(default_without_primary_key_is_refused),
		cmocka_unit_test(each_flaw_of_an_index_refuses_it),
		cmocka_unit_test(a_further_unique_index_is_found),
		cmocka_unit_test(a_unique_index_that_comes_late_does_not_count),
		cmocka_unit_test(an_index_with_all_key_columns_is_implied),
		cmocka_unit_test(an_index_of_the_root_that_has_no_part_here_is_further),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
