// SPDX-License-Identifier: Apache-2.0
#include "core/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { CHILD_ERROR_BYTES = 1000, CHILD_NOT_RUN = 127 /* as a shell says it */ };

static bool env_overrides(const char *const *extra, const char *entry)
{
	size_t name = strcspn(entry, "=") + 1;

	for (; extra && *extra; extra++)
		if (strncmp(*extra, entry, name) == 0)
			return true;
	return false;
}

/* Our environment with extra on top; the strings are borrowed, the array is the caller's. */
static const char **env_merge(const char *const *extra)
{
	size_t n = 0, own = 0;

	while (environ[own])
		own++;
	while (extra && extra[n])
		n++;
	const char **env = calloc(own + n + 1, sizeof(*env));
	if (!env)
		return NULL;
	size_t at = 0;
	for (size_t i = 0; i < own; i++)
		if (!env_overrides(extra, environ[i]))
			env[at++] = environ[i];
	for (size_t i = 0; i < n; i++)
		env[at++] = extra[i];
	return env;
}

/*
 * The child, between fork and exec: only what may be called there in a process with threads. It starts with no signal
 * blocked or ignored, whatever we do with ours, and is sent SIGTERM when we end, even by SIGKILL: who ended before
 * the kernel knew that is not our parent any more.
 */
__attribute__((noreturn)) static void become(const struct child *c, char *const *env, int out, int err, pid_t parent)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	sigset_t none;

	sigemptyset(&none);
	signal(SIGPIPE, SIG_DFL);
	sigprocmask(SIG_SETMASK, &none, NULL);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() != parent)
		_exit(CHILD_NOT_RUN);
	if (dup2(null, 0) == 0 && dup2(out, 1) == 1 && dup2(err, 2) == 2)
		execvpe(c->argv[0], (char *const *)c->argv, env);
	const char *why = strerrordesc_np(errno);
	if (write(err, why, strlen(why)) < 0)
		_exit(CHILD_NOT_RUN);
	_exit(CHILD_NOT_RUN);
}

static bool spawn(const struct child *c, const int out[2], const int err[2], pid_t *ret_pid, struct fault *f)
{
	const char **env = env_merge(c->env);
	pid_t parent = getpid();

	if (!env)
		return fault(f, FAULT_INTERNAL, "%s: out of memory", c->argv[0]);
	*ret_pid = fork();
	if (*ret_pid == 0)
		become(c, (char *const *)env, out[1], err[1], parent);
	free(env);
	return *ret_pid > 0 || fault(f, FAULT_ENVIRONMENT, "%s: fork: %s", c->argv[0], strerror(errno));
}

/* Keeps the last bytes of what went to stderr: the reason is at the end. */
static void keep_tail(char *tail, size_t *n, const char *p, size_t len)
{
	if (len >= CHILD_ERROR_BYTES) {
		p += len - CHILD_ERROR_BYTES;
		len = CHILD_ERROR_BYTES;
	}
	if (*n + len > CHILD_ERROR_BYTES) {
		size_t drop = *n + len - CHILD_ERROR_BYTES;
		memmove(tail, tail + drop, *n - drop);
		*n -= drop;
	}
	memcpy(tail + *n, p, len);
	*n += len;
}

/* Until nobody has the other ends any more, the children of a child neither. */
static void drain(const struct child *c, pid_t pid, int out, int err, char *tail, size_t *tail_bytes)
{
	struct pollfd fds[3] = { { out, POLLIN, 0 }, { err, POLLIN, 0 }, { c->stop_fd, POLLIN, 0 } };
	char chunk[8192];

	while (fds[0].fd >= 0 || fds[1].fd >= 0) {
		if (poll(fds, 3, -1) < 0 && errno != EINTR)
			return;
		if (fds[2].fd >= 0 && fds[2].revents) {
			kill(pid, SIGTERM);
			fds[2].fd = -1;
		}
		for (int i = 0; i < 2; i++) {
			if (fds[i].fd < 0 || !fds[i].revents)
				continue;
			ssize_t n = read(fds[i].fd, chunk, sizeof(chunk));
			if (n <= 0)
				fds[i].fd = -1;
			else if (i == 1)
				keep_tail(tail, tail_bytes, chunk, (size_t)n);
			else if (c->ret_out)
				buf_add(c->ret_out, chunk, (size_t)n);
		}
	}
}

/* How it ended. Whatever it says after a request to stop, it says for that. */
static bool judge(const struct child *c, int status, const char *tail, struct fault *f)
{
	struct pollfd stop = { c->stop_fd, POLLIN, 0 };

	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		return true;
	if (poll(&stop, 1, 0) > 0)
		return fault(f, FAULT_ENVIRONMENT, "%s was stopped, as we are", c->argv[0]);
	if (WIFEXITED(status) && WEXITSTATUS(status) == CHILD_NOT_RUN)
		return fault(f, FAULT_STOP, "cannot run %s: %s; install it or put it on PATH", c->argv[0], tail);
	if (WIFEXITED(status))
		return fault(f, FAULT_STOP, "%s ended with exit code %d: %s", c->argv[0], WEXITSTATUS(status), tail);
	return fault(f, FAULT_ENVIRONMENT, "%s was ended by signal %d: %s", c->argv[0], WTERMSIG(status), tail);
}

bool child_run(const struct child *c, struct fault *f)
{
	int out[2] = { -1, -1 }, err[2] = { -1, -1 };
	char tail[CHILD_ERROR_BYTES + 1];
	size_t tail_bytes = 0;
	pid_t pid = -1;
	int status = 0;
	bool ok = false;

	if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0) {
		fault(f, FAULT_ENVIRONMENT, "%s: pipe: %s", c->argv[0], strerror(errno));
		goto done;
	}
	if (!spawn(c, out, err, &pid, f))
		goto done;
	close(out[1]);
	close(err[1]);
	out[1] = err[1] = -1;
	drain(c, pid, out[0], err[0], tail, &tail_bytes);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	while (tail_bytes && tail[tail_bytes - 1] == '\n')
		tail_bytes--;
	tail[tail_bytes] = 0;
	ok = judge(c, status, tail, f);
done:
	for (int i = 0; i < 2; i++) {
		if (out[i] >= 0)
			close(out[i]);
		if (err[i] >= 0)
			close(err[i]);
	}
	return ok;
}
