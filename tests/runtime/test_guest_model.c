/* labels: unit
 *
 * A guest's bytes are what was loaded at each of its turns, whatever other phases wrote over them and however much of it came ahead of its turn; so are its
 * answers. On the CPU, and on the CPU's operations as if they were a device's, with memory of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/run/session.h"
#include "testing/scratch.h"

#define OK(call)                                                                                                                                     \
    do {                                                                                                                                             \
        tdm_error err_ = {0}, *err = &err_;                                                                                                          \
        if ((call) != TDM_OK) fail_msg("%s (%s)", err->what, err->where);                                                                            \
    } while (0)

enum { CONTEXT = 64, NEW = 16 };

typedef struct house {
    tdm_session s;
    tdm_guest g;
    char *image, *want;
    size_t bytes;
    int32_t first[CONTEXT]; /* what it said when it was loaded */
} house;

/* What any other phase may do to the region: all of it, or a rollout's part. */
static void write_over(house *h, bool all, int with)
{
    const tdm_plan *p = &h->s.plan;
    memset(h->s.slab.base + p->phase_offset, with, all ? h->s.slab.bytes - p->phase_offset : p->phase_bytes[TDM_PHASE_ROLLOUT]);
}

static void speak(house *h, int32_t tokens[CONTEXT])
{
    float logprob[NEW];
    tdm_sequence seq = {.tokens = tokens, .prompt = 3, .count = 3, .turn = 3, .room = 3 + NEW, .logprob = logprob};
    tdm_request request = {.sequence = &seq, .samples = 1, .sampling = {.temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f}, .seed = 5};
    memcpy(tokens, (int32_t[]){7, 8, 9}, 3 * sizeof *tokens);
    OK(tdm_engine_run(h->g.engine, NULL, &request, 1, NULL, NULL, err));
    assert_int_equal(seq.count, 3 + NEW);
}

/* rollout: bytes of the rollout's layout. */
static void open_house(house *h, const tdm_backend *be, size_t rollout, const char *dir)
{
    size_t host = 0, loading = 0;
    tdm_session *s = &h->s;
    memset(h, 0, sizeof *h);
    OK(tdm_guest_open(&h->g, "tests/golden/data/models/mistral", err));
    h->g.role = h->g.name = "judge";
    h->g.folder = dir;
    h->g.weights = (tdm_weights_options){.scheme = TDM_SCHEME_FP8_BLOCK, .scheme_given = true, .act = TDM_ACT_DYNAMIC};
    h->g.engine_spec = (tdm_engine_spec){.sequences = 2, .samples = 2, .requests = 2, .context = CONTEXT, .batch_tokens = 64, .head_rows = 2};
    s->be = be;
    s->spec = (tdm_session_spec){.guests = &h->g, .guest_count = 1, .kv_dtype = TDM_DTYPE_BF16, .threads = 1};
    OK(tdm_guests_check(s, err));
    tdm_limits limits = {0};
    tdm_guests_limits(s, &limits);
    tdm_plan_init(&s->plan);
    s->plan.device = be->device;
    s->item_workspace = tdm_plan_add(&s->plan, TDM_PHASE_ALWAYS, "workspace", be->workspace_bytes(&limits, 1), "");
    tdm_plan_add(&s->plan, TDM_PHASE_ROLLOUT, "rollout", rollout, "");
    OK(tdm_guests_plan(s, &host, &loading, err));
    tdm_plan_layout(&s->plan);
    OK(tdm_slab_open(&s->slab, be, &s->plan, err));
    OK(be->stream_open(&s->stream, tdm_slab_at(&s->slab, &s->plan, s->item_workspace), s->plan.item[s->item_workspace].bytes, &(tdm_stream_options){.threads = 1}, err));
    OK(tdm_guests_load(s, err));
    h->bytes = s->plan.item[h->g.item_image].bytes;
    h->image = tdm_slab_at(&s->slab, &s->plan, h->g.item_image);
    h->want = malloc(h->bytes);
    memcpy(h->want, h->image, h->bytes);
    speak(h, h->first);
}

static void close_house(house *h)
{
    tdm_session_close(&h->s);
    tdm_guest_close(&h->g);
    free(h->want);
}

static void expect_turn(house *h)
{
    int32_t said[CONTEXT] = {0};
    OK(tdm_guest_enter(&h->s, &h->g, err));
    assert_memory_equal(h->image, h->want, h->bytes);
    speak(h, said);
    assert_memory_equal(said, h->first, (3 + NEW) * sizeof *said);
}

static void take_turns(const tdm_backend *be, size_t rollout, const char *dir, bool comes_ahead)
{
    house h;
    open_house(&h, be, rollout, dir);
    for (int round = 0; round < 2; round++) {
        tdm_session_enter(&h.s, TDM_PHASE_TRAIN);
        write_over(&h, true, 0xaa);
        tdm_session_enter(&h.s, TDM_PHASE_ROLLOUT);
        OK(tdm_guest_prefetch(&h.s, &h.g, err));
        assert_int_equal(h.g.ahead, comes_ahead);
        write_over(&h, false, 0xbb);
        expect_turn(&h);
        expect_turn(&h); /* it is here: nothing comes again */
        /* what came ahead is lost to another phase */
        tdm_session_enter(&h.s, TDM_PHASE_ROLLOUT);
        OK(tdm_guest_prefetch(&h.s, &h.g, err));
        tdm_session_enter(&h.s, TDM_PHASE_TRAIN);
        assert_false(h.g.ahead);
        write_over(&h, true, 0xcc);
        tdm_session_enter(&h.s, TDM_PHASE_ROLLOUT);
        expect_turn(&h);
    }
    OK(tdm_guest_prefetch(&h.s, &h.g, err)); /* it is here */
    assert_false(h.g.ahead);
    tdm_session_enter(&h.s, TDM_PHASE_ROLLOUT);
    OK(tdm_guest_prefetch(&h.s, &h.g, err)); /* on its way when all is closed */
    close_house(&h);
}

static void every_turn_finds_what_was_loaded(void **state)
{
    (void)state;
    char *dir = test_scratch_new();
    const tdm_backend *cpu;
    OK(tdm_backend_open("cpu", NULL, &cpu, err));
    tdm_backend device = *cpu;
    device.device = true;
    house h;
    open_house(&h, cpu, 0, dir);
    const tdm_plan_item *image = &h.s.plan.item[h.g.item_image];
    const size_t before = image->offset - h.s.plan.phase_offset, half = before + image->bytes / 2, beyond = before + image->bytes + TDM_PLAN_ALIGN;
    close_house(&h);
    take_turns(cpu, half, dir, false);
    take_turns(&device, 0, dir, true);
    take_turns(&device, half, dir, true);
    take_turns(&device, beyond, dir, false);
    test_scratch_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_turn_finds_what_was_loaded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
