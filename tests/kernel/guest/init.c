/*
 * The first and only process of the guest: for each set of capabilities it loads a device, has it led
 * through the suite, and prints what the probes recorded. Between lines "=== NAME" is a part of the
 * output; the last one is "=== end". The probes are in /probes, the modules in /modules, in order.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define TRACING "/sys/kernel/tracing/"
#define DEVICE "vfio_mig_device"

static void fail(const char *what)
{
	printf("failed: %s: %m\n", what);
	fflush(stdout);
	reboot(RB_AUTOBOOT);
}

static void load(const char *path, const char *parameters)
{
	const int file = open(path, O_RDONLY);

	if (file < 0 || syscall(SYS_finit_module, file, parameters, 0))
		fail(path);
	close(file);
}

static void put(const char *path, const char *text)
{
	const int file = open(path, O_WRONLY | O_TRUNC);

	if (file < 0 || write(file, text, strlen(text)) != (ssize_t)strlen(text))
		fail(path);
	close(file);
}

static void show(const char *path)
{
	static char buffer[1 << 16];
	FILE *const file = fopen(path, "r");
	size_t size;

	if (!file)
		fail(path);
	while ((size = fread(buffer, 1, sizeof(buffer), file)) > 0)
		fwrite(buffer, 1, size, stdout);
	fclose(file);
}

static void run(char **words)
{
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (!child) {
		execv(words[0], words);
		fail(words[0]);
	}
	if (waitpid(child, &status, 0) != child)
		fail("waitpid");
	printf("status %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}

/* Returns the path of the group of the device. */
static char *group(void)
{
	static char path[64];
	char link[256];
	const ssize_t size = readlink("/sys/devices/faux/" DEVICE "/iommu_group", link, sizeof(link) - 1);

	if (size < 0)
		fail("iommu_group");
	link[size] = 0;
	snprintf(path, sizeof(path), "/dev/vfio/%s", strrchr(link, '/') + 1);
	return path;
}

static void lead(const char *flags, char *depth)
{
	char parameters[32];
	char *words[] = { "/vfio_mig_test", "-k", "-d", depth, NULL, DEVICE, NULL };

	snprintf(parameters, sizeof(parameters), "flags=%s", flags);
	load("/device.ko", parameters);
	put(TRACING "trace", "");
	words[4] = group();
	printf("=== suite %s\n", flags);
	run(words);
	printf("=== trace %s\n", flags);
	show(TRACING "trace");
	printf("=== between\n");
	if (syscall(SYS_delete_module, DEVICE, 0))
		fail("delete_module");
}

static void add_probes(void)
{
	static char line[1024];
	FILE *const probes = fopen("/probes", "r");

	if (!probes)
		fail("/probes");
	while (fgets(line, sizeof(line), probes)) {
		const int file = open(TRACING "dynamic_events", O_WRONLY | O_APPEND);

		if (file < 0 || write(file, line, strlen(line)) != (ssize_t)strlen(line))
			fail(line);
		close(file);
	}
	fclose(probes);
	put(TRACING "buffer_size_kb", "16384");
	put(TRACING "events/vfio/enable", "1");
}

/* Called with the depth of the suite and the flags words. */
int main(int argc, char **argv)
{
	struct dirent **modules;
	int count, i;

	mount("none", "/dev", "devtmpfs", 0, NULL);
	mount("none", "/sys", "sysfs", 0, NULL);
	mount("none", TRACING, "tracefs", 0, NULL);
	count = scandir("/modules", &modules, NULL, alphasort);
	for (i = 0; i < count; i++) {
		char path[300];

		snprintf(path, sizeof(path), "/modules/%s", modules[i]->d_name);
		if (modules[i]->d_name[0] != '.')
			load(path, "");
	}
	add_probes();
	for (i = 2; i < argc; i++)
		lead(argv[i], argv[1]);
	printf("=== end\n");
	fflush(stdout);
	sync();
	reboot(RB_AUTOBOOT);
	return 0;
}
