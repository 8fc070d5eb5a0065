/* What every folder uses: status and error, assertions, sizes. The leftmost header of the house. */
#ifndef TANDEM_KERNELS_BASE_H
#define TANDEM_KERNELS_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define TDM_NORETURN [[noreturn]]
extern "C" {
#else
#define TDM_NORETURN _Noreturn
#endif

#define TDM_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define TDM_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Also the exit codes of every command. */
typedef enum tdm_status {
    TDM_OK = 0,
    TDM_ERR_OTHER = 1,  /* anything else: disk full, out of host memory */
    TDM_ERR_RECIPE = 2, /* command line or recipe */
    TDM_ERR_INPUT = 3,  /* model, data or reward input */
    TDM_ERR_BUDGET = 4, /* does not fit memory.budget */
    TDM_STOPPED = 5     /* stopped by a signal after a checkpoint was saved */
} tdm_status;

/* Caller's memory, fixed size, so that reporting "out of memory" needs none. Start it as {0}. */
typedef struct tdm_error {
    tdm_status status;
    char what[256];  /* the fact: "unknown key "temprature" in rollout" */
    char where[512]; /* what the user can open: "configs/a.yaml:17:3", "model.safetensors: lm_head.weight"; may be "" */
    char hint[256];  /* what to do: "did you mean "temperature"?"; may be "" */
    const char *src; /* our own file and line, shown only with TANDEM_DEBUG=1 */
    int src_line;
} tdm_error;

/* Fills *err unless it already holds an error (the first one wins) and returns st. err may be NULL; where and hint may be NULL. */
tdm_status tdm_fail(tdm_error *err, tdm_status st, const char *src, int src_line, const char *where, const char *hint,
                    const char *fmt, ...) TDM_PRINTF(7, 8);
#define TDM_FAIL(err, st, where, hint, ...) tdm_fail((err), (st), __FILE__, __LINE__, (where), (hint), __VA_ARGS__)
#define TDM_TRY(st, call, label)                                                                                                     \
    do {                                                                                                                             \
        if (((st) = (call)) != TDM_OK) goto label;                                                                                   \
    } while (0)

/* Prints "error: what (where): hint" as one line on stderr; control characters become spaces. */
void tdm_error_print(const tdm_error *err);

/* Our own bugs only; stays on in release. */
#define TDM_ASSERT(cond) ((cond) ? (void)0 : tdm_assert_failed(__FILE__, __LINE__, #cond))
#define TDM_ASSERT_EQ(a, b)                                                                                                          \
    do {                                                                                                                             \
        long long tdm_a_ = (long long)(a), tdm_b_ = (long long)(b);                                                                  \
        if (tdm_a_ != tdm_b_) tdm_assert_eq_failed(__FILE__, __LINE__, #a " == " #b, tdm_a_, tdm_b_);                                \
    } while (0)
TDM_NORETURN void tdm_assert_failed(const char *file, int line, const char *cond);
TDM_NORETURN void tdm_assert_eq_failed(const char *file, int line, const char *cond, long long a, long long b);

static inline int64_t tdm_min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t tdm_max_i64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t tdm_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline size_t tdm_align_up(size_t n, size_t align) { return (n + align - 1) / align * align; }

/* Monotonic seconds, for measuring only. */
double tdm_now_s(void);

#ifdef __cplusplus
}
#endif

#endif
