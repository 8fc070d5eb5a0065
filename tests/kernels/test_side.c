/* labels: unit
 * Copies beside the stream: they begin after what was given before, and what is given after the join finds them done. */
#include "testing/ops_case.h"

enum { N = 1 << 20 };

/* Out of an array that is filled just before, then over it; back in to where something lay until just before. Many times: an order that is not kept
 * shows in some of them. */
static void copies_keep_their_place(void **state)
{
    (void)state;
    OPS_EACH_BACKEND(be) {
        test_stream s = test_stream_open(be, &ops_limits, 2);
        uint16_t *x = test_noise_bf16(1, N, 3);
        void *pinned[TDM_SIDE_SLOTS];
        float *got = malloc(N * sizeof *got);
        const tdm_cview in = test_in(&s, (tdm_cview){x, TDM_DTYPE_BF16, 1, N, N});
        const tdm_view wide = tdm_view_make(test_scratch(&s, N * sizeof(float)), TDM_DTYPE_F32, 1, N);
        const tdm_view back = tdm_view_make(test_scratch(&s, N * sizeof(float)), TDM_DTYPE_F32, 1, N);
        for (int i = 0; i < TDM_SIDE_SLOTS; i++) TEST_OK(be->host_open(&pinned[i], N * sizeof(float), err));
        for (int round = 0; round < 6; round++) {
            const int slot = round % TDM_SIDE_SLOTS;
            TEST_OK(be->convert(s.s, wide, in, err));
            TEST_OK(be->side_out(s.s, slot, pinned[slot], wide.data, N * sizeof(float), err));
            TEST_OK(be->side_join(s.s, slot, err));
            TEST_OK(be->zero(s.s, wide, err)); /* only once the copy has left */
            TEST_OK(be->zero(s.s, back, err)); /* the copy comes after this */
            TEST_OK(be->side_in(s.s, slot, back.data, pinned[slot], N * sizeof(float), err));
            TEST_OK(be->side_join(s.s, slot, err));
            TEST_OK(be->download(s.s, got, back.data, N * sizeof(float), err));
            TEST_OK(be->stream_sync(s.s, err));
            for (int i = 0; i < N; i++)
                if (got[i] != tdm_bf16_to_f32(x[i])) fail_msg("%s: round %d, element %d is %g, should be %g", be->name, round, i, (double)got[i], (double)tdm_bf16_to_f32(x[i]));
        }
        TEST_OK(be->side_out(s.s, 0, pinned[0], wide.data, 0, err));
        TEST_OK(be->side_join(s.s, 0, err));
        test_sync(&s);
        for (int i = 0; i < TDM_SIDE_SLOTS; i++) be->host_close(pinned[i], N * sizeof(float));
        test_stream_close(&s);
        free(got);
        free(x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_keep_their_place),
    };
    return OPS_TESTS(tests);
}
