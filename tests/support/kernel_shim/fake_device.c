/*
 * A device that migrates, in place of the one behind /dev/vfio/devices/vfio0: the generated engine,
 * and a stream of a hundred bytes. Its capabilities are those of FLAGS; FAULT has it do one thing
 * wrong; each request and reset is written into the file that LOG names.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <linux/vfio.h>

#include "engine.h"

enum { SIZE = 100, IOMMU = 900, DEVICE = 901, FIRST_SESSION = 1000 };

int fake_open(const char *path, int flags, ...);
int fake_close(int fd);
int fake_ioctl(int fd, unsigned long request, ...);
ssize_t fake_read(int fd, void *buffer, size_t size);
ssize_t fake_write(int fd, const void *buffer, size_t size);

static struct engine_engine engine;
static int session = -1, next_session = FIRST_SESSION;
static bool opened;
static size_t position;
static unsigned int fault, resets, requests;
static uint64_t flags_word;
static FILE *log_file;
static const char *const faults[] = {
	"none", "errno", "descriptor", "no-descriptor", "open-for-ever", "temporary-end",
	"final-end", "refuses-its-own", "reset", "second-life", "state-once", "refused-moves",
	"reopened", "accepts-anything"
};

static bool has(const char *name)
{
	return !strcmp(faults[fault], name);
}

static const struct vfio_shim_state *here(void)
{
	for (size_t i = 0;; i++) {
		if (vfio_shim_states[i].value == (uint32_t)engine_present_state(&engine))
			return &vfio_shim_states[i];
	}
}

static int take(void *device, enum engine_arc arc, enum engine_effect effect)
{
	(void)device;
	(void)arc;
	if (effect == ENGINE_EFFECT_CLOSES) {
		if (here()->transfer == 'w' && (position < SIZE || has("refuses-its-own")))
			return ENGINE_FAILED_BACK_WITH(EINVAL);
		session = -1;
	}
	if (effect == ENGINE_EFFECT_OPENS) {
		session = next_session++;
		opened = !has("no-descriptor") || requests++ < 100;
		position = 0;
	}
	return 0;
}

static int reset(void *device, enum engine_state to)
{
	(void)device;
	(void)to;
	session = -1;
	return 0;
}

static int open_device(void)
{
	static const struct engine_calls calls = { take, reset, NULL };
	static bool begun;

	if (begun) {
		if (has("reopened"))
			engine_reset(&engine);
		return DEVICE;
	}
	begun = true;
	if (getenv("LOG"))
		log_file = fopen(getenv("LOG"), "w");
	while (getenv("FAULT") && strcmp(faults[fault], getenv("FAULT")))
		fault++;
	flags_word = strtoull(getenv("FLAGS"), NULL, 10);
	return engine_init(&engine, flags_word, &calls, NULL) ? -1 : DEVICE;
}

int fake_open(const char *path, int flags, ...)
{
	(void)flags;
	return strncmp(path, "/dev/vfio/devices/", 18) ? IOMMU : open_device();
}

int fake_close(int fd)
{
	(void)fd;
	return 0;
}

static int set_state(struct vfio_device_feature_mig_state *state)
{
	int error;

	if (log_file)
		fprintf(log_file, "set %u\n", state->device_state);
	opened = has("descriptor") && requests++ > 100;
	error = engine_set_state(&engine, state->device_state);
	if (error && has("accepts-anything")) {
		state->data_fd = next_session++;
		return 0;
	}
	if (has("second-life") && resets > 40 && state->device_state == vfio_shim_states[1].value)
		error = -EBUSY;
	if (error && has("refused-moves"))
		engine_reset(&engine);
	state->data_fd = opened && !error ? session : -1;
	return has("errno") && error == -EINVAL ? -ENOTTY : error;
}

static void get_state(struct vfio_device_feature_mig_state *state)
{
	state->device_state = (uint32_t)engine_present_state(&engine);
	if (has("state-once") && requests++ == 700)
		state->device_state = 99;
}

static int answer(struct vfio_device_feature *feature)
{
	const uint32_t index = feature->flags & 0xffff;
	void *const data = feature->data;

	if (feature->argsz != sizeof(*feature) + 8) /* both payloads have that size */
		return -EINVAL;
	if (index == VFIO_DEVICE_FEATURE_MIGRATION)
		((struct vfio_device_feature_migration *)data)->flags = flags_word;
	else if (feature->flags & VFIO_DEVICE_FEATURE_SET)
		return set_state(data);
	else
		get_state(data);
	return 0;
}

int fake_ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	int error = 0;

	(void)fd;
	va_start(arguments, request);
	if (request == VFIO_GROUP_GET_DEVICE_FD) {
		va_end(arguments);
		return open_device();
	}
	if (request == VFIO_DEVICE_FEATURE) {
		error = answer(va_arg(arguments, struct vfio_device_feature *));
	} else if (request == VFIO_DEVICE_RESET) {
		resets++;
		if (log_file)
			fprintf(log_file, "reset\n");
		if (!has("reset") || resets != 70)
			engine_reset(&engine);
	}
	va_end(arguments);
	errno = -error;
	return error ? -1 : 0;
}

static bool is_open(int fd, char transfer)
{
	errno = ENODEV;
	return fd == session && here()->transfer == transfer;
}

ssize_t fake_read(int fd, void *buffer, size_t size)
{
	if (!is_open(fd, 'r'))
		return has("open-for-ever") ? 1 : -1;
	if (position == SIZE && here()->end == 't' && !has("temporary-end")) {
		errno = ENOMSG;
		return -1;
	}
	if (position == SIZE && here()->end == 'f' && has("final-end")) {
		errno = ENOMSG;
		return -1;
	}
	if (size > SIZE - position)
		size = SIZE - position;
	memset(buffer, 7, size);
	position += size;
	return (ssize_t)size;
}

ssize_t fake_write(int fd, const void *buffer, size_t size)
{
	if (!is_open(fd, 'w'))
		return has("open-for-ever") ? 1 : -1;
	if (size > SIZE - position || (size && *(const char *)buffer != 7)) {
		errno = ENOMEM;
		return -1;
	}
	position += size;
	return (ssize_t)size;
}
