/* labels: model
 * The real SmolLM2-135M-Instruct (Q4_1 GGUF): its facts, that it loads under every scheme without a non-finite value,
 * and that the process does not keep the file in memory. Path in TANDEM_SMOLLM2, or
 * models/SmolLM2-135M-Instruct.Q4_1.gguf. */
#include "memory/arch/arch.h"
#include "memory/gguf.h"
#include "memory/weights.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

static const char *path;

static long rss_file_kb(void)
{
    char line[256];
    long kb = -1;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "RssFile: %ld", &kb) == 1) break;
    if (f) fclose(f);
    return kb;
}

static void its_facts_are_those_of_the_model_card(void **state)
{
    tdm_error err = {0};
    tdm_model_file *f;
    (void)state;
    if (tdm_model_file_open(&f, path, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
    const tdm_model_config *c = tdm_model_file_config(f);
    assert_ptr_equal(c->arch, &tdm_arch_llama);
    assert_int_equal(c->layers, 30);
    assert_int_equal(c->width, 576);
    assert_int_equal(c->ffn, 1536);
    assert_int_equal(c->heads, 9);
    assert_int_equal(c->kv_heads, 3);
    assert_int_equal(c->head_dim, 64);
    assert_int_equal(c->vocab, 49152);
    assert_int_equal(c->context, 8192);
    assert_true(c->rope_theta == 100000 && c->rope == TDM_ROPE_PLAIN);
    assert_true(c->tied_head && !c->qkv_bias && !c->qk_norm);
    assert_int_equal(c->bos, 1);
    assert_int_equal(c->eos_count, 1);
    assert_int_equal(c->eos[0], 2);
    assert_int_equal(tdm_gguf_array_count(tdm_model_file_gguf(f), "tokenizer.ggml.tokens"), 49152);
    tdm_model_file_close(f);
}

static void it_loads_under_every_scheme(void **state)
{
    (void)state;
    for (int scheme = TDM_SCHEME_BF16; scheme <= TDM_SCHEME_FP8_BLOCK; scheme++) {
        tdm_error err = {0};
        tdm_model_file *f;
        tdm_weights *w;
        size_t bytes;
        const tdm_weights_options o = {.scheme = (tdm_scheme)scheme, .act = TDM_ACT_DYNAMIC};
        const long before = rss_file_kb();
        const double start = tdm_now_s();
        if (tdm_model_file_open(&f, path, &err) != TDM_OK || tdm_weights_bytes(f, &o, &bytes, &err) != TDM_OK)
            fail_msg("%s (%s)", err.what, err.where);
        void *region = aligned_alloc(64, bytes);
        if (tdm_weights_open(&w, f, &o, &(tdm_region){region, bytes, NULL, NULL}, &err) != TDM_OK) fail_msg("%s (%s)", err.what, err.where);
        const long grown = rss_file_kb() - before;
        print_message("         scheme %d: %.1f MiB in %.2f s, %ld KiB of the file still resident\n", scheme,
                      (double)bytes / 1048576, tdm_now_s() - start, grown);
        assert_true(grown < 20000); /* of 96 MB: the metadata (vocabulary and merges), no tensors to speak of */
        assert_true(bytes > (scheme == TDM_SCHEME_BF16 ? 269000000 : 162000000) &&
                    bytes < (scheme == TDM_SCHEME_BF16 ? 270000000 : 165000000));
        tdm_weights_close(w);
        tdm_model_file_close(f);
        free(region);
    }
}

int main(void)
{
    path = getenv("TANDEM_SMOLLM2");
    if (!path) path = "models/SmolLM2-135M-Instruct.Q4_1.gguf";
    if (access(path, R_OK) != 0) {
        printf("skipped: %s is not there; set TANDEM_SMOLLM2 to the file\n", path);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(its_facts_are_those_of_the_model_card),
        cmocka_unit_test(it_loads_under_every_scheme),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
