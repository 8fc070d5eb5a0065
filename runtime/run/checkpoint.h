/* Checkpoints: complete or absent.
 *
 *   DIR/step-000020/adapter/adapter_model.safetensors, adapter/adapter_config.json   as PEFT reads them
 *                   optimizer.safetensors   f32 masters and moments, by name
 *                   critic/...              with ppo: the critic's adapter and head, as PEFT reads them; its optimizer is in the other file
 *                   state.json              step, counters, seed, hashes, the recipe
 *                   SHA256SUMS              one line a file, as `sha256sum -c` reads it
 *
 * Written as DIR/.step-000020.tmp: every file and folder is synced, the manifest last; then one rename makes it step-000020, and DIR
 * is synced. Only after that are older ones pruned, each by renaming it away first, so that a crash leaves no half-removed folder
 * under a checkpoint's name. A name that begins with ".step-" is a leftover of a crash; writing and pruning remove it. */
#ifndef TANDEM_RUNTIME_RUN_CHECKPOINT_H
#define TANDEM_RUNTIME_RUN_CHECKPOINT_H

#include <jansson.h>

#include "memory/fs.h"
#include "memory/safetensors.h"

enum { TDM_CHECKPOINT_FORMAT = 1 };

typedef struct tdm_checkpoint_state {
    int64_t step;          /* steps done, >= 0 */
    int64_t data_position; /* examples taken from the training data since the start, over all epochs */
    uint64_t seed;
    uint64_t base_hash;    /* tdm_weights_hash of the base: an adapter belongs to one base */
    uint64_t recipe_hash;  /* tdm_checkpoint_recipe_hash */
    json_t *recipe;        /* object: the resolved recipe; lent when writing, owned after reading */
    json_t *counters;      /* object of numbers: whatever else the loop counts; may be NULL when writing */
} tdm_checkpoint_state;

/* What goes in; everything is lent. Tensor names are unique within their file. */
typedef struct tdm_checkpoint_parts {
    const tdm_checkpoint_state *state;
    const tdm_st_entry *adapter;  /* tdm_peft_entries */
    int64_t adapter_count;
    const json_t *adapter_config; /* tdm_peft_config_json */
    const tdm_st_entry *critic;   /* NULL: none */
    int64_t critic_count;
    const json_t *critic_config;
    const tdm_st_entry *optimizer;
    int64_t optimizer_count;
    int64_t best;                 /* step of the best one, at most this one's: it stays, and DIR/best leads to it; 0: none is known */
} tdm_checkpoint_parts;

/* dir is the run's checkpoints/ folder, made when missing. keep: how many complete ones stay beside the best, the new one included; 0: all.
 * A failure leaves what was there before. A step that is there already is replaced in one instant. A failure while pruning comes after the new
 * checkpoint is durable and is an error all the same. */
tdm_status tdm_checkpoint_write(const char *dir, const tdm_checkpoint_parts *parts, int64_t keep, tdm_error *err);

/* When a run resumes from `step`: later checkpoints become step-000040.old, so that the newest is again one of this run. An older
 * .old of that step is removed. */
tdm_status tdm_checkpoint_set_aside(const char *dir, int64_t step, tdm_error *err);

/* DIR/best becomes a link to the checkpoint of `step`, in one instant; 0, or one that is not there: there is no such link. Where the file system has no links, neither. */
tdm_status tdm_checkpoint_link_best(const char *dir, int64_t step, tdm_error *err);

/* The newest step in dir by name, -1: none. A folder without a manifest does not count. */
int64_t tdm_checkpoint_newest(const char *dir);
tdm_status tdm_checkpoint_path(char out[TDM_PATH_BYTES], const char *dir, int64_t step, tdm_error *err);

/* An opened checkpoint: every file was read once and agrees with the manifest. */
typedef struct tdm_checkpoint {
    char path[TDM_PATH_BYTES];        /* .../step-000020 */
    char adapter_dir[TDM_PATH_BYTES]; /* for tdm_peft_open */
    tdm_checkpoint_state state;
    tdm_safetensors *optimizer;
} tdm_checkpoint;

/* path: one checkpoint's folder. A file that is missing, changed or cut short is named. Errors: TDM_ERR_INPUT. */
tdm_status tdm_checkpoint_open(tdm_checkpoint *c, const char *path, tdm_error *err);
void tdm_checkpoint_close(tdm_checkpoint *c); /* {0} is fine */

/* state.json from its bytes (not trusted) and back (malloc'd text, NULL: out of memory). */
tdm_status tdm_checkpoint_state_parse(tdm_checkpoint_state *s, const char *text, size_t len, const char *where, tdm_error *err);
char *tdm_checkpoint_state_format(const tdm_checkpoint_state *s);
void tdm_checkpoint_state_fini(tdm_checkpoint_state *s);

/* FNV-1a 64 of the recipe with its keys sorted. */
uint64_t tdm_checkpoint_recipe_hash(const json_t *recipe);
#endif
