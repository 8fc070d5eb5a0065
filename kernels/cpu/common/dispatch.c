/* Chooses the instruction set once, at start-up. */
#include "kernels/ops.h"

#include <stdlib.h>
#include <string.h>

typedef void quantize_weight_fn(const tdm_quantize_weight *a);

extern const tdm_backend tdm_cpu_backend_portable;
quantize_weight_fn tdm_cpu_quantize_weight_portable;
#if defined(__x86_64__)
extern const tdm_backend tdm_cpu_backend_avx2, tdm_cpu_backend_avx512;
quantize_weight_fn tdm_cpu_quantize_weight_avx2, tdm_cpu_quantize_weight_avx512;
#endif

typedef struct isa_entry {
    const char *name;
    const tdm_backend *backend;
    quantize_weight_fn *quantize_weight;
    bool present;
} isa_entry;

/* Best first. */
enum { ISA_MAX = 3 };
static size_t isa_list(isa_entry list[ISA_MAX])
{
    size_t n = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512bf16");
    list[n++] = (isa_entry){"avx512", &tdm_cpu_backend_avx512, tdm_cpu_quantize_weight_avx512, avx512};
    list[n++] = (isa_entry){"avx2", &tdm_cpu_backend_avx2, tdm_cpu_quantize_weight_avx2, avx2};
#endif
    list[n++] = (isa_entry){"portable", &tdm_cpu_backend_portable, tdm_cpu_quantize_weight_portable, true};
    return n;
}

tdm_status tdm_backend_cpu(const char *isa, const tdm_backend **out, tdm_error *err)
{
    isa_entry list[ISA_MAX];
    const size_t n = isa_list(list);
    const char *where = isa ? "" : "TANDEM_CPU_ISA";
    if (!isa) isa = getenv("TANDEM_CPU_ISA");
    for (size_t i = 0; i < n; i++) {
        if (isa && *isa ? strcmp(isa, list[i].name) != 0 : !list[i].present) continue;
        if (!list[i].present)
            return TDM_FAIL(err, TDM_ERR_OTHER, where, "leave it unset for the best one this CPU has",
                            "this CPU lacks the instruction set %s", isa);
        *out = list[i].backend;
        return TDM_OK;
    }
    return TDM_FAIL(err, TDM_ERR_OTHER, where, "use portable, avx2 or avx512", "unknown instruction set \"%s\"", isa);
}

void tdm_weight_quantize(const tdm_quantize_weight *a)
{
    isa_entry list[ISA_MAX];
    const size_t n = isa_list(list);
    const char *isa = getenv("TANDEM_CPU_ISA");
    const isa_entry *use = NULL;
    TDM_ASSERT(a->scheme != TDM_SCHEME_BF16 && a->codes.dtype == TDM_DTYPE_E4M3 && a->x.dtype == TDM_DTYPE_F32);
    TDM_ASSERT(a->codes.rows == a->x.rows && a->codes.cols == a->x.cols);
    for (size_t i = 0; i < n; i++) {
        if (!list[i].present) continue;
        if (!use || (isa && strcmp(isa, list[i].name) == 0)) use = &list[i];
    }
    use->quantize_weight(a);
}
