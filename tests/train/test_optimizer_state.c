/* labels: unit
 * Where the optimizer keeps a tensor's state: adamw_8bit over the whole adapter is the operation over each tensor by itself, small tensors in 32 bits,
 * and no two tensors share a byte. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "memory/arch/arch.h"
#include "testing/backend.h"
#include "train/optimizer.h"

/* q 96 x 64, k and v 32 x 64, o 64 x 96, gate and up 80 x 64, down 64 x 80; the head 64, below what is kept in 8 bits */
static const tdm_model_config model = {.arch = &tdm_arch_llama, .layers = 2, .width = 64, .ffn = 80, .heads = 3, .kv_heads = 1, .head_dim = 32};
static const tdm_optimizer_config config = {.kind = TDM_OPTIMIZER_ADAMW_8BIT, .lr = 1e-2, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1};

typedef struct opened {
    test_stream s;
    tdm_adapter adapter;
    tdm_optimizer o;
    void *region;
} opened;

static const tdm_limits limits = {.tokens = 1, .width = 64, .vocab = 32, .head_rows = 1, .heads = 1, .head_dim = 32, .rank = 1, .context = 1};

static void open_optimizer(opened *t, int64_t rank, bool head)
{
    const tdm_adapter_spec spec = {.rank = rank, .alpha = 1.0f, .target = {true, true, true, true, true, true, true}, .head = head};
    t->s = test_stream_open(test_reference(), &limits, 2);
    tdm_adapter_init(&t->adapter, &spec, &model);
    const size_t bytes = tdm_optimizer_bytes(&t->adapter, config.kind);
    t->region = aligned_alloc(64, bytes);
    memset(t->region, 0xff, bytes);
    TEST_OK(tdm_optimizer_init(&t->o, &config, t->s.be, t->s.s, &t->adapter, t->region, err));
    assert_true((char *)t->o.state + t->o.state_bytes == (char *)t->region + bytes);
    uint32_t seed = 3;
    for (int64_t i = 0; i < t->o.count; i++) t->o.master[i] = test_noise(&seed);
}

static void close_optimizer(opened *t)
{
    test_stream_close(&t->s);
    free(t->region);
}

/* Each tensor's own copy, stepped by itself. */
enum { ROOM = 128 * 96 };
typedef struct lone {
    float master[ROOM], m[ROOM], v[ROOM], m_most[ROOM / TDM_ADAMW_BLOCK], v_most[ROOM / TDM_ADAMW_BLOCK];
    uint8_t m_code[ROOM], v_code[ROOM];
} lone;

static void step_lone(const opened *t, lone *l, const tdm_optimizer_tensor *of, int64_t step)
{
    const tdm_optimizer_config *c = &config;
    const float *grad = t->o.grad + of->first;
    const tdm_backend *be = t->s.be;
    if (of->count < TDM_ADAMW_8BIT_LEAST) {
        const tdm_adamw a = {.master = l->master, .m = l->m, .v = l->v, .grad = grad, .n = of->count, .step = step, .lr = (float)c->lr, .beta1 = (float)c->beta1,
                             .beta2 = (float)c->beta2, .eps = (float)c->eps, .weight_decay = (float)c->weight_decay, .grad_scale = 1.0f};
        TEST_OK(be->adamw(t->s.s, &a, err));
        return;
    }
    const tdm_adamw_8bit a = {.master = l->master, .m = l->m_code, .v = l->v_code, .m_most = l->m_most, .v_most = l->v_most, .grad = grad, .n = of->count,
                              .step = step, .lr = (float)c->lr, .beta1 = (float)c->beta1, .beta2 = (float)c->beta2, .eps = (float)c->eps,
                              .weight_decay = (float)c->weight_decay, .grad_scale = 1.0f};
    TEST_OK(be->adamw_8bit(t->s.s, &a, err));
}

static void expect_lone(const lone *l, const tdm_optimizer_tensor *of)
{
    const bool small = of->count < TDM_ADAMW_8BIT_LEAST;
    const size_t n = (size_t)of->count;
    assert_memory_equal(of->master, l->master, n * 4);
    assert_true(small == (of->m != NULL) && small == (of->v != NULL) && small == !of->m_code && small == !of->v_code && small == !of->m_most);
    if (small) {
        assert_memory_equal(of->m, l->m, n * 4);
        assert_memory_equal(of->v, l->v, n * 4);
        return;
    }
    assert_int_equal(of->blocks, tdm_ceil_div(of->count, TDM_ADAMW_BLOCK));
    assert_memory_equal(of->m_code, l->m_code, n);
    assert_memory_equal(of->v_code, l->v_code, n);
    assert_memory_equal(of->m_most, l->m_most, (size_t)of->blocks * 4);
    assert_memory_equal(of->v_most, l->v_most, (size_t)of->blocks * 4);
}

/* Ranks 128 and 64: every tensor is whole blocks, but of 64 k and v are small on one side; 61 and 50: tensors end in the middle of a block. */
static void all_tensors_step_as_each_by_itself(void **state)
{
    (void)state;
    static const int64_t ranks[] = {64, 61, 50, 128};
    enum { LAYERS = 2 * 2 * TDM_PROJ_COUNT, MOST = LAYERS + 1 };
    for (size_t k = 0; k < 2 * TDM_COUNT(ranks); k++) {
        const bool head = k % 2;
        const int tensors = LAYERS + head;
        opened t;
        lone *l = calloc(MOST, sizeof *l);
        tdm_optimizer_tensor of[MOST];
        int64_t covered = 0;
        bool eight = false;
        open_optimizer(&t, ranks[k / 2], head);
        assert_true(head == (t.adapter.head != NULL));
        for (int i = 0; i < tensors; i++) {
            of[i] = i == LAYERS ? tdm_optimizer_head_of(&t.o) : tdm_optimizer_tensor_of(&t.o, i / (2 * TDM_PROJ_COUNT), (tdm_proj)(i / 2 % TDM_PROJ_COUNT), 0, i % 2);
            assert_int_equal(of[i].first, covered);
            covered += of[i].count;
            assert_true(of[i].count <= ROOM);
            eight = eight || of[i].m_code;
            memcpy(l[i].master, of[i].master, (size_t)of[i].count * 4);
        }
        assert_int_equal(covered, t.o.count);
        assert_true(eight);
        uint32_t seed = 11;
        for (int step = 1; step <= 3; step++) {
            double norm, lr;
            for (int64_t i = 0; i < t.o.count; i++) t.o.grad[i] = i % 7 ? 1e-3f * test_noise(&seed) : 0.0f;
            for (int i = 0; i < tensors; i++) step_lone(&t, &l[i], &of[i], step);
            TEST_OK(tdm_optimizer_step(&t.o, &norm, &lr, err));
        }
        for (int i = 0; i < tensors; i++) expect_lone(&l[i], &of[i]);
        for (int64_t i = 0; i < t.o.count; i++) assert_int_equal(t.o.param[i], tdm_f32_to_bf16(t.o.master[i]));
        close_optimizer(&t);
        free(l);
    }
}

static void moments_of_eight_bits_are_small(void **state)
{
    (void)state;
    tdm_adapter a;
    const tdm_adapter_spec spec = {.rank = 128, .target = {true, true, true, true, true, true, true}};
    tdm_adapter_init(&a, &spec, &model);
    const size_t n = (size_t)a.count, full = tdm_optimizer_bytes(&a, TDM_OPTIMIZER_ADAMW), eight = tdm_optimizer_bytes(&a, TDM_OPTIMIZER_ADAMW_8BIT);
    /* two bytes and two floats for 256 elements, instead of two floats an element */
    assert_true(full - eight >= 6 * n - n / 32 - 1024 && full - eight <= 6 * n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_tensors_step_as_each_by_itself),
        cmocka_unit_test(moments_of_eight_bits_are_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
