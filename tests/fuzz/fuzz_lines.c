/* JSONL of {"ids":[...]} as score and tokenize read it: an error that names the line, or lists of token ids. */
#include "fuzz_files.h"
#include "runtime/cmd/id_lines.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    const int fd = fuzz_file((fuzz_piece){(const char *)data, size}, path);
    tdm_error err = {0};
    tdm_id_lines in = {0};
    if (tdm_id_lines_read(&in, path, &err) == TDM_OK) {
        int64_t tokens = 0;
        for (int64_t i = 0; i < in.count; i++) {
            tokens += in.line[i].count;
            for (int64_t t = 0; t < in.line[i].count; t++)
                if (in.line[i].ids[t] < 0) abort();
        }
        if (tokens != in.tokens) abort();
    } else if (err.what[0] == 0) abort();
    tdm_id_lines_free(&in);
    close(fd);
    return 0;
}
