/* A recipe, then overrides behind zero bytes: an error that says where, or a recipe whose resolved form reads back to the same. */
#include "fuzz_files.h"
#include "runtime/recipe/recipe.h"

enum { MAX_OVERRIDES = 8 };

static void again(const tdm_recipe *r)
{
    tdm_error err = {0};
    tdm_recipe *other = NULL;
    char *text = NULL, *second = NULL;
    size_t len = 0, second_len = 0;
    if (tdm_recipe_text(r, &text, &len, &err) != TDM_OK) {
        if (err.what[0] == 0) abort();
        return;
    }
    if (tdm_recipe_parse(&other, text, len, "resolved.yaml", NULL, 0, &err) != TDM_OK) abort();
    if (tdm_recipe_compare(r, other, &err) != TDM_OK) abort();
    if (tdm_recipe_text(other, &second, &second_len, &err) != TDM_OK || second_len != len || memcmp(text, second, len) != 0) abort();
    tdm_recipe_close(other);
    free(text);
    free(second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_piece rest = {(const char *)data, size}, yaml = fuzz_next(&rest);
    char *overrides[MAX_OVERRIDES], where[TDM_RECIPE_WHERE];
    int count = 0;
    tdm_error err = {0};
    tdm_recipe *r = NULL;
    const tdm_backend *be;
    if (size > 65536) return 0;
    if (tdm_backend_cpu(NULL, &be, &err) != TDM_OK) abort();
    while (rest.len && count < MAX_OVERRIDES) overrides[count++] = fuzz_text(fuzz_next(&rest));
    if (tdm_recipe_parse(&r, yaml.data, yaml.len, "fuzz.yaml", (const char *const *)overrides, count, &err) == TDM_OK) {
        if (!r->model.path[0] || !r->output[0] || r->adapter.rank < 1 || r->train.steps < 1) abort();
        (void)tdm_recipe_where(r, "train.importance.cap", where);
        (void)tdm_recipe_check_backend(r, be, &(tdm_model_config){0}, &err);
        again(r);
    } else if (err.what[0] == 0 || err.where[0] == 0 || r) abort();
    tdm_recipe_close(r);
    for (int i = 0; i < count; i++) free(overrides[i]);
    return 0;
}
