// SPDX-License-Identifier: Apache-2.0
#include "reconcile/pace.h"

static const double SLOW = 4, FORGETS = 1.01, BACKOFF_MAX = 8;
static const double LATENCY_LEAST = 5000; /* below this nothing is slow */

void pace_init(struct pace *p, double share)
{
	*p = (struct pace) { .share = share, .backoff = 1 };
}

void pace_took(struct pace *p, int64_t now_us, int64_t took_us)
{
	double pause = (double)took_us * (1 / p->share - 1) * p->backoff;

	if (p->backoff > 1 && pause < (double)took_us)
		pause = (double)took_us; /* with a share of 1, too */
	if (p->next_us < now_us)
		p->next_us = now_us;
	p->next_us += (int64_t)pause;
}

void pace_answered(struct pace *p, int64_t latency_us)
{
	double latency = (double)latency_us > LATENCY_LEAST ? (double)latency_us : LATENCY_LEAST;
	bool is_slow = p->usual > 0 && latency > SLOW * p->usual;

	p->backoff = is_slow ? p->backoff * 2 : p->backoff / 2;
	if (p->backoff > BACKOFF_MAX)
		p->backoff = BACKOFF_MAX;
	if (p->backoff < 1)
		p->backoff = 1;
	p->usual *= FORGETS;
	if (p->usual == 0 || latency < p->usual)
		p->usual = latency;
}

int64_t pace_wait(const struct pace *p, int64_t now_us)
{
	return p->next_us > now_us ? p->next_us - now_us : 0;
}

bool pace_backs_off(const struct pace *p)
{
	return p->backoff > 1;
}
