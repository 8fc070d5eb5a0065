/* Recorded rollouts: an error, or rows whose ids, log-probabilities and groups are within their bounds. */
#include <math.h>

#include "fuzz_files.h"
#include "runtime/data/replay.h"

enum { VOCAB = 1000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    const int fd = fuzz_file((fuzz_piece){(const char *)data, size}, path);
    tdm_error err = {0};
    tdm_replay r = {0};
    if (tdm_replay_open(&r, path, VOCAB, &err) == TDM_OK) {
        if (r.rows < 1 || r.groups < 1 || r.groups > r.rows || r.group_start[0] != 0 || r.group_start[r.groups] != r.rows) abort();
        for (int64_t g = 0; g < r.groups; g++)
            if (r.group_start[g] >= r.group_start[g + 1] || r.group_start[g + 1] - r.group_start[g] > r.largest_group) abort();
        for (int64_t i = 0; i < r.rows; i++) {
            const tdm_replay_row *row = &r.row[i];
            if (row->prompt < 1 || row->count <= row->prompt || isinf(row->reward) || !row->logprob != !r.row[0].logprob) abort();
            for (int64_t t = 0; t < row->count; t++)
                if (row->tokens[t] < 0 || row->tokens[t] >= VOCAB) abort();
            for (int64_t t = 0; row->mask && t < row->count - row->prompt; t++)
                if (row->mask[t] > 1) abort();
            for (int64_t t = 0; row->logprob && t < row->count - row->prompt; t++)
                if (!isfinite(row->logprob[t])) abort();
        }
    } else if (err.what[0] == 0) abort();
    tdm_replay_close(&r);
    close(fd);
    return 0;
}
