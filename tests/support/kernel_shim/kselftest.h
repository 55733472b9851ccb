/* As much of kselftest.h as the generated file needs. */
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define __printf(a, b) __attribute__((format(printf, a, b)))
#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

static unsigned int ksft_number, ksft_failed;

static inline void ksft_print_header(void)
{
	printf("TAP version 13\n");
}

static inline void ksft_set_plan(unsigned int plan)
{
	printf("1..%u\n", plan);
}

#define KSFT_WRITER(name, before) \
	static inline __printf(1, 2) void name(const char *format, ...) \
	{ \
		va_list arguments; \
		va_start(arguments, format); \
		before; \
		vprintf(format, arguments); \
		va_end(arguments); \
	}

KSFT_WRITER(ksft_print_msg, printf("# "))
KSFT_WRITER(ksft_test_result_pass, printf("ok %u ", ++ksft_number))
KSFT_WRITER(ksft_test_result_fail, (ksft_failed++, printf("not ok %u ", ++ksft_number)))
KSFT_WRITER(ksft_test_result_skip, printf("ok %u # SKIP ", ++ksft_number))

#define ksft_test_result(holds, ...) \
	((holds) ? ksft_test_result_pass(__VA_ARGS__) : ksft_test_result_fail(__VA_ARGS__))
#define ksft_exit_skip(...) do { printf("1..0 # SKIP " __VA_ARGS__); exit(4); } while (0)
#define ksft_exit_fail_msg(...) do { printf("Bail out! " __VA_ARGS__); exit(1); } while (0)
#define ksft_finished() exit(ksft_failed ? 1 : 0)
