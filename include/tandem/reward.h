/* The ABI of a reward plugin: a shared object that exports `tandem_reward`.
 *
 *   static int score(void *self, const tandem_reward_sample *s, int64_t n, double *rewards, char *error, size_t error_bytes)
 *   {
 *       for (int64_t i = 0; i < n; i++) rewards[i] = s[i].completion_len < 100 ? 1.0 : 0.0;
 *       return 0;
 *   }
 *   const tandem_reward_plugin tandem_reward = {TANDEM_REWARD_ABI, NULL, score, NULL};
 *
 * cc -shared -fPIC -o libreward.so reward.c; then in the recipe: reward: [{plugin: ./libreward.so}] */
#ifndef TANDEM_REWARD_H
#define TANDEM_REWARD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TANDEM_REWARD_ABI 1

typedef struct tandem_reward_sample {
    const char *prompt_json;   /* a string, or the list of messages, as JSON text */
    const char *completion;    /* UTF-8, NUL-terminated; of several turns the last */
    size_t completion_len;
    const int32_t *ids;        /* [ids_count], the completion's tokens */
    int64_t ids_count;
    const char *row_json;      /* the dataset's row, an object, as JSON text */
} tandem_reward_sample;

typedef struct tandem_reward_plugin {
    uint32_t abi;              /* TANDEM_REWARD_ABI */
    /* Once, before the first score; the returned pointer is handed to score and close. May be NULL: self is NULL then.
     * Returning NULL with a text in error fails the start. */
    void *(*open)(char *error, size_t error_bytes);
    /* rewards [n]: filled; NaN: no opinion on this sample. Returns 0, or another number with a one-line text in error. */
    int (*score)(void *self, const tandem_reward_sample *samples, int64_t n, double *rewards, char *error, size_t error_bytes);
    void (*close)(void *self); /* may be NULL */
} tandem_reward_plugin;

extern __attribute__((visibility("default"))) const tandem_reward_plugin tandem_reward;

#ifdef __cplusplus
}
#endif

#endif
