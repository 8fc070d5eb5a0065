/* A reward worker's reply line: an error, or as many finite numbers or nulls as were asked for. */
#include <math.h>

#include "fuzz_files.h"
#include "runtime/reward/reward.h"

enum { MOST = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    for (int64_t n = 1; n <= 3; n++) {
        tdm_error err = {0};
        double out[MOST];
        for (int i = 0; i < MOST; i++) out[i] = 12345.0;
        if (tdm_reward_reply_parse((const char *)data, size, "python f.py:score", 3, 10, n, out, &err) == TDM_OK) {
            for (int64_t i = 0; i < n; i++)
                if (isinf(out[i])) abort();
        } else if (err.what[0] == 0) abort();
        for (int64_t i = n; i < MOST; i++)
            if (out[i] != 12345.0) abort();
    }
    return 0;
}
