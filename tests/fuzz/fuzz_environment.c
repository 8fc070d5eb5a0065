/* An environment's reply line: an error, or for each completion a text or none, and for each reward a finite number or none. */
#include <math.h>

#include "fuzz_files.h"
#include "runtime/environment/environment.h"

enum { MOST = 4, NAMES = 2 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[NAMES] = {"environment", "tidy"};
    for (int64_t n = 1; n <= 3; n++) {
        tdm_error err = {0};
        double reward[MOST * NAMES];
        tdm_turn_reply out[MOST];
        json_t *root = NULL;
        for (int i = 0; i < MOST * NAMES; i++) reward[i] = 12345.0;
        for (int i = 0; i < MOST; i++) out[i] = (tdm_turn_reply){.reward = reward + i * NAMES};
        if (tdm_environment_reply_parse((const char *)data, size, "environment", 3, names, NAMES, n, out, &root, &err) == TDM_OK) {
            for (int64_t i = 0; i < n; i++) {
                if (!out[i].observation != !out[i].observation_len && out[i].observation_len) abort();
                if (!out[i].observation && !out[i].done) abort();
                for (int k = 0; k < NAMES; k++)
                    if (isinf(out[i].reward[k]) || out[i].reward[k] == 12345.0) abort();
            }
        } else if (err.what[0] == 0) abort();
        for (int64_t i = n * NAMES; i < MOST * NAMES; i++)
            if (reward[i] != 12345.0) abort();
        json_decref(root);
    }
    return 0;
}
