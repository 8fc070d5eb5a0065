/* A template, a zero byte, rows as JSONL: each row is an error or the messages that it asks with. */
#include "fuzz_files.h"
#include "runtime/data/dataset.h"

static void use(const tdm_dataset *d, int64_t row, const char *prompt)
{
    char where[512], *text = NULL;
    size_t len = 0;
    json_t *o = NULL, *messages = NULL;
    tdm_error err = {0}, filled = {0};
    if (tdm_dataset_row(d, row, &o, &err) != TDM_OK) {
        if (err.what[0] == 0 || o) abort();
        return;
    }
    tdm_dataset_where(d, row, where);
    if (tdm_template_fill(prompt, o, where, &text, &len, &filled) == TDM_OK) {
        if (text[len] != 0) abort();
    } else if (filled.what[0] == 0 || text) abort();
    free(text);
    for (int own = 0; own < 2; own++) { /* the row's own messages, then the template's */
        tdm_error asked = {0};
        if (tdm_row_messages(o, "be brief", own ? "" : prompt, where, &messages, &asked) == TDM_OK) {
            if (json_array_size(messages) < 1) abort();
        } else if (asked.what[0] == 0 || messages) abort();
        json_decref(messages);
        messages = NULL;
    }
    json_decref(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_piece rest = {(const char *)data, size};
    char path[64], *prompt = fuzz_text(fuzz_next(&rest));
    const int fd = fuzz_file(rest, path);
    tdm_error err = {0};
    tdm_dataset *d = NULL;
    if (tdm_dataset_open(&d, path, &err) == TDM_OK) {
        const int64_t rows = tdm_dataset_rows(d);
        if (rows < 1) abort();
        for (int64_t i = 0; i < rows && i < 32; i++) {
            const int64_t row = tdm_dataset_draw(d, 7, true, i);
            if (row < 0 || row >= rows) abort();
            use(d, row, prompt);
        }
    } else if (err.what[0] == 0 || d) abort();
    tdm_dataset_close(d);
    close(fd);
    free(prompt);
    return 0;
}
