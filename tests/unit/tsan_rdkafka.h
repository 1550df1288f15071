// SPDX-License-Identifier: Apache-2.0
/*
 * tsan_rdkafka - lets a test that uses librdkafka run under ThreadSanitizer; include it once.
 *
 * librdkafka starts its threads and locks with C11's <threads.h>, which TSan does not intercept: a
 * thread that it has not seen being born crashes in its first malloc. The definitions here come
 * before libc's and do the same with pthreads, which TSan knows; glibc's C11 types are pthread's
 * by size. What librdkafka does to memory by itself is not instrumented, and so not judged.
 */
#ifndef TESTS_TSAN_RDKAFKA_H
#define TESTS_TSAN_RDKAFKA_H

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TESTS_TSAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define TESTS_TSAN 1
#endif

#ifdef TESTS_TSAN
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <threads.h>

const char *__tsan_default_suppressions(void)
{
	return "called_from_lib:librdkafka.so\n";
}

struct tsan_start {
	thrd_start_t run;
	void *arg;
};

static void *tsan_run(void *arg)
{
	struct tsan_start start = *(struct tsan_start *)arg;

	free(arg);
	return (void *)(intptr_t)start.run(start.arg);
}

static int tsan_result(int err)
{
	if (err == 0)
		return thrd_success;
	return err == ETIMEDOUT ? thrd_timedout : err == EBUSY ? thrd_busy : thrd_error;
}

int thrd_create(thrd_t *thread, thrd_start_t run, void *arg)
{
	struct tsan_start *start = malloc(sizeof(*start));

	*start = (struct tsan_start) { run, arg };
	return tsan_result(pthread_create(thread, NULL, tsan_run, start));
}

int thrd_join(thrd_t thread, int *ret)
{
	void *result;
	int err = pthread_join(thread, &result);

	if (ret)
		*ret = (int)(intptr_t)result;
	return tsan_result(err);
}

int thrd_detach(thrd_t thread)
{
	return tsan_result(pthread_detach(thread));
}

int mtx_init(mtx_t *m, int type)
{
	pthread_mutexattr_t attr;
	int err;

	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, type & mtx_recursive ? PTHREAD_MUTEX_RECURSIVE
							      : PTHREAD_MUTEX_NORMAL);
	err = pthread_mutex_init((pthread_mutex_t *)m, &attr);
	pthread_mutexattr_destroy(&attr);
	return tsan_result(err);
}

void mtx_destroy(mtx_t *m)
{
	pthread_mutex_destroy((pthread_mutex_t *)m);
}

int mtx_lock(mtx_t *m)
{
	return tsan_result(pthread_mutex_lock((pthread_mutex_t *)m));
}

int mtx_trylock(mtx_t *m)
{
	return tsan_result(pthread_mutex_trylock((pthread_mutex_t *)m));
}

int mtx_unlock(mtx_t *m)
{
	return tsan_result(pthread_mutex_unlock((pthread_mutex_t *)m));
}

int cnd_init(cnd_t *c)
{
	return tsan_result(pthread_cond_init((pthread_cond_t *)c, NULL));
}

void cnd_destroy(cnd_t *c)
{
	pthread_cond_destroy((pthread_cond_t *)c);
}

int cnd_signal(cnd_t *c)
{
	return tsan_result(pthread_cond_signal((pthread_cond_t *)c));
}

int cnd_broadcast(cnd_t *c)
{
	return tsan_result(pthread_cond_broadcast((pthread_cond_t *)c));
}

int cnd_wait(cnd_t *c, mtx_t *m)
{
	return tsan_result(pthread_cond_wait((pthread_cond_t *)c, (pthread_mutex_t *)m));
}

int cnd_timedwait(cnd_t *c, mtx_t *m, const struct timespec *deadline)
{
	return tsan_result(
	    pthread_cond_timedwait((pthread_cond_t *)c, (pthread_mutex_t *)m, deadline));
}
#endif

#endif
