/* Speed of the tokenizer on one core:  bench_tokenizer MODEL TEXT-FILE  (MODEL: a folder with tokenizer.json, or a .gguf)
 * Best of five runs; one JSON object: seconds to open, MB/s and ids/s of encode, MB/s of decode. A comparison with the reference on
 * the same text:  python -m timeit with Tokenizer.from_file(...).encode(text). */
#include <stdio.h>
#include <stdlib.h>

#include "memory/fs.h"
#include "runtime/text/tokenizer.h"

enum { RUNS = 5, TEXT_BYTES_MAX = 1 << 30 };

int main(int argc, char **argv)
{
    tdm_error err = {0};
    tdm_status st = TDM_OK;
    tdm_tokenizer *t = NULL;
    tdm_ids ids = {0};
    tdm_text text = {0};
    char *data = NULL;
    size_t bytes = 0;
    double opened = 0, encoded = 1e30, decoded = 1e30;
    if (argc != 3) {
        fputs("usage: bench_tokenizer MODEL TEXT-FILE\n", stderr);
        return 2;
    }
    TDM_TRY(st, tdm_fs_read(argv[2], TEXT_BYTES_MAX, &data, &bytes, &err), done);
    opened = tdm_now_s();
    TDM_TRY(st, tdm_tokenizer_open(&t, argv[1], NULL, &err), done);
    opened = tdm_now_s() - opened;
    for (int i = 0; i < RUNS; i++) {
        ids.count = 0;
        text.len = 0;
        const double start = tdm_now_s();
        TDM_TRY(st, tdm_tokenizer_encode(t, data, bytes, true, &ids, &err), done);
        const double middle = tdm_now_s();
        TDM_TRY(st, tdm_tokenizer_decode(t, ids.data, ids.count, false, &text, &err), done);
        const double end = tdm_now_s();
        if (middle - start < encoded) encoded = middle - start;
        if (end - middle < decoded) decoded = end - middle;
    }
    printf("{\"model\":\"%s\",\"bytes\":%zu,\"ids\":%lld,\"open_s\":%.3f,\"encode_mb_per_s\":%.1f,\"encode_ids_per_s\":%.0f,\"decode_mb_per_s\":%.1f}\n",
           argv[1], bytes, (long long)ids.count, opened, (double)bytes / encoded / 1e6, (double)ids.count / encoded, (double)text.len / decoded / 1e6);
done:
    if (st != TDM_OK) tdm_error_print(&err);
    free(data);
    tdm_ids_free(&ids);
    tdm_text_free(&text);
    tdm_tokenizer_close(t);
    return (int)st;
}
