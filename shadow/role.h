// SPDX-License-Identifier: Apache-2.0
/*
 * role - the differences between shadow and primary, as a table. Nothing else branches on the role.
 */
#ifndef SHADOW_ROLE_H
#define SHADOW_ROLE_H

#include "core/migration.h"

struct role_traits {
	const char *name;        /* in logs, instance names, locks */
	const char *application; /* application_name of its connections */
	bool waits_for_gate;     /* applies only what is in the gate */
};

const struct role_traits *role_traits(enum role role);

#endif
