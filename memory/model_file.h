/* An opened checkpoint: a folder of safetensors (one file, or shards with an index) with its config.json, or one .gguf file.
 * mmap'd and validated when opened; nothing is copied. All names are those transformers uses ("model.layers.0.self_attn.q_proj.weight"),
 * whatever the file calls them. */
#ifndef TANDEM_MEMORY_MODEL_FILE_H
#define TANDEM_MEMORY_MODEL_FILE_H

#include "memory/model_config.h"
#include "memory/tensor.h"

typedef struct tdm_model_file tdm_model_file;

/* path: a folder, or a file that ends in .gguf. */
tdm_status tdm_model_file_open(tdm_model_file **f, const char *path, tdm_error *err);
/* No weights: every tensor of the config's model is listed without bytes, and tdm_weights_open draws them at random. path: a folder, of which
 * config.json and generation_config.json alone are read (weights and a quantization_config in it are not looked at), or a config.json. */
tdm_status tdm_model_file_open_random(tdm_model_file **f, const char *path, tdm_error *err);
bool tdm_model_file_random(const tdm_model_file *f);
void tdm_model_file_close(tdm_model_file *f);
const tdm_model_config *tdm_model_file_config(const tdm_model_file *f);
const tdm_gguf *tdm_model_file_gguf(const tdm_model_file *f); /* NULL for a folder; for the tokenizer */
const char *tdm_model_file_path(const tdm_model_file *f);

/* The tensors, sorted by name. */
int64_t tdm_model_file_count(const tdm_model_file *f);
const tdm_tensor *tdm_model_file_at(const tdm_model_file *f, int64_t i);
const tdm_tensor *tdm_model_file_find(const tdm_model_file *f, const char *name); /* NULL: not there */
/* How a checkpoint that is FP8 already is quantized; NULL: it is not. */
struct tdm_fp8_checkpoint;
const struct tdm_fp8_checkpoint *tdm_model_file_fp8(const tdm_model_file *f);

#endif
