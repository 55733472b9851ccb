/* What the generated sources take from the kernel's headers. All the other headers lead here. */
#ifndef SHIM_LINUX_KERNEL_H
#define SHIM_LINUX_KERNEL_H

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/time.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef int64_t s64;

#define U32_MAX UINT32_MAX
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))
#define READ_ONCE(one) (*(volatile __typeof__(one) *)&(one))
#define WRITE_ONCE(one, value) (*(volatile __typeof__(one) *)&(one) = (value))
#define container_of(pointer, type, member) \
	((type *)((char *)(pointer) - offsetof(type, member)))
#define WARN_ON(condition) (condition)

#define EXPORT_SYMBOL_GPL(name) _Static_assert(1, "")
#define MODULE_DESCRIPTION(text) _Static_assert(1, "")
#define MODULE_LICENSE(text) _Static_assert(1, "")
#define MODULE_PARM_DESC(name, text) _Static_assert(1, "")
/* A parameter is set by an environment variable of its name. */
#define module_param(name, type, mode) \
	static void __attribute__((constructor)) set_##name(void) { name = getenv(#name); } \
	_Static_assert(1, "")

/*
 * One timer, which counts the time that this process uses, so that a busy machine is no slow one.
 * Like an interrupt it comes in the middle of what is running.
 */
struct timer_list {
	void (*function)(struct timer_list *timer);
};

#define HZ 1000
#define SHIM_FASTER 20 /* than a kernel: so many times */
#define jiffies 0UL

static struct timer_list *shim_timer;

static inline void shim_expired(int number)
{
	(void)number;
	shim_timer->function(shim_timer);
}

static inline void shim_arm(unsigned long ticks)
{
	const unsigned long us = ticks * (1000000 / HZ) / SHIM_FASTER;
	const struct itimerval when = {
		.it_value = { .tv_sec = us / 1000000, .tv_usec = us % 1000000 }
	};

	if (setitimer(ITIMER_VIRTUAL, &when, NULL))
		abort();
}

static inline void timer_setup(struct timer_list *timer, void (*function)(struct timer_list *),
			       unsigned int flags)
{
	sigset_t set;

	(void)flags;
	timer->function = function;
	signal(SIGVTALRM, shim_expired);
	sigemptyset(&set);
	sigaddset(&set, SIGVTALRM);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static inline int mod_timer(struct timer_list *timer, unsigned long expires)
{
	shim_timer = timer;
	shim_arm(expires);
	return 0;
}

static inline int timer_delete_sync(struct timer_list *timer)
{
	(void)timer;
	shim_arm(0);
	return 0;
}

#endif
