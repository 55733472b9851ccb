/*
 * As much of KUnit, and of what a kernel has for it, as the generated file needs. A program that is
 * made with it runs one suite and prints TAP; its exit status is 1 if a case failed.
 */
#ifndef SHIM_KUNIT_TEST_H
#define SHIM_KUNIT_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <linux/kernel.h>

struct kunit {
	void *priv;
	jmp_buf end;
	bool failed;
	bool skipped;
};

struct kunit_case {
	void (*run_case)(struct kunit *test);
	const char *name;
};

struct kunit_suite {
	const char name[64];
	int (*init)(struct kunit *test);
	struct kunit_case *test_cases;
};

#define KUNIT_CASE(function) { .run_case = (function), .name = #function }
#define GFP_KERNEL 0
#define kunit_kzalloc(test, size, flags) calloc(1, size)

__attribute__((format(printf, 3, 4)))
static inline void shim_state(struct kunit *test, const char *what, const char *format, ...)
{
	va_list arguments;

	(void)test;
	va_start(arguments, format);
	printf("    # %s: ", what);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
}

#define KUNIT_EXPECT_EQ_MSG(test, left, right, ...) do { \
	const long long left_ = (left), right_ = (right); \
	if (left_ != right_) { \
		printf("    # %lld instead of %lld\n", left_, right_); \
		shim_state(test, "EXPECTATION FAILED", __VA_ARGS__); \
		(test)->failed = true; \
	} \
} while (0)

#define KUNIT_ASSERT_FALSE_MSG(test, condition, ...) do { \
	if (condition) { \
		shim_state(test, "ASSERTION FAILED", __VA_ARGS__); \
		(test)->failed = true; \
		longjmp((test)->end, 1); \
	} \
} while (0)

#define kunit_skip(test, ...) do { \
	shim_state(test, "SKIP", __VA_ARGS__); \
	(test)->skipped = true; \
	longjmp((test)->end, 1); \
} while (0)

static inline void shim_run_case(const struct kunit_case *one, struct kunit *test)
{
	if (!setjmp(test->end))
		one->run_case(test);
}

static inline int shim_run(const struct kunit_suite *suite)
{
	int number = 0, failed = 0;

	printf("    # Subtest: %s\n", suite->name);
	for (const struct kunit_case *one = suite->test_cases; one->run_case; one++) {
		struct kunit test = { 0 };

		if (suite->init(&test))
			abort();
		shim_run_case(one, &test);
		printf("    %sok %d %s%s\n", test.failed ? "not " : "", ++number, one->name,
		       test.skipped ? " # SKIP" : "");
		failed |= test.failed;
		free(test.priv);
	}
	return failed;
}

#define kunit_test_suite(suite) \
	int main(void) { return shim_run(&(suite)); } _Static_assert(1, "")

#endif
