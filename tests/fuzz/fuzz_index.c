/* model.safetensors.index.json, a zero byte, the one shard there is: an error, or a set whose tensors are the index's. */
#include "fuzz_files.h"
#include "memory/model_shards.h"

static void leave(void)
{
    static const char *const names[] = {"model.safetensors.index.json", "model-00001-of-00001.safetensors", ""};
    fuzz_folder_remove(names, 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool made;
    fuzz_piece rest = {(const char *)data, size}, index = fuzz_next(&rest);
    tdm_error err = {0};
    tdm_shards s = {0};
    if (!made) atexit(leave);
    made = true;
    fuzz_put("model.safetensors.index.json", index);
    fuzz_put("model-00001-of-00001.safetensors", rest);
    if (tdm_shards_open(&s, fuzz_folder(), &err) == TDM_OK) {
        if (s.count > 1) abort(); /* only one name leads anywhere */
    } else if (err.what[0] == 0) abort();
    tdm_shards_close(&s);
    return 0;
}
