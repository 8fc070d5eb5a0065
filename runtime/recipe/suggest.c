/* What an error proposes for a key or a word that is not known. */
#include "runtime/recipe/schema.h"

#include <stdio.h>
#include <string.h>

enum { WORD_MAX = 48 };

/* Edits between two words, a swap of neighbours counting as one (optimal string alignment). */
static int edit_distance(const char *a, const char *b)
{
    const int n = (int)strlen(a), m = (int)strlen(b);
    int row[3][WORD_MAX + 1];
    if (n > WORD_MAX || m > WORD_MAX) return WORD_MAX;
    for (int j = 0; j <= m; j++) row[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = row[i % 3], *up = row[(i + 2) % 3], *up2 = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int best = up[j - 1] + (a[i - 1] != b[j - 1]);
            if (up[j] + 1 < best) best = up[j] + 1;
            if (now[j - 1] + 1 < best) best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && up2[j - 2] + 1 < best) best = up2[j - 2] + 1;
            now[j] = best;
        }
    }
    return row[n % 3][m];
}

/* A third of the letters may be wrong; beyond that a guess confuses. */
static int tolerance(const char *word)
{
    return (int)strlen(word) / 3 + 1;
}

const char *tdm_word_nearest(const char *word, const char *const *words)
{
    const char *best = NULL;
    int least = tolerance(word) + 1;
    for (; *words; words++) {
        const int d = edit_distance(word, *words);
        if (d < least) {
            least = d;
            best = *words;
        }
    }
    return best;
}

/* The i-th key's name right under section, or false; "train.importance.cap" gives "importance" under "train". */
static bool child_of(const tdm_key_table *t, int i, const char *section, char name[WORD_MAX])
{
    const size_t len = strlen(section);
    const char *path = t->keys[i].path;
    if (len) {
        if (strncmp(path, section, len) != 0 || path[len] != '.') return false;
        path += len + 1;
    }
    snprintf(name, WORD_MAX, "%.*s", (int)strcspn(path, "."), path);
    return true;
}

static bool suggest_sibling(const tdm_key_table *t, const char *section, const char *key, char hint[256])
{
    char best[WORD_MAX] = "";
    int least = tolerance(key) + 1;
    const bool top_list = !section[0] && t == &tdm_recipe_keys;
    for (int i = 0; i < t->count + top_list; i++) {
        char name[WORD_MAX] = "reward"; /* the one list of the top level is in no row */
        if (i < t->count && !child_of(t, i, section, name)) continue;
        const int d = edit_distance(key, name);
        if (d >= least) continue;
        least = d;
        memcpy(best, name, sizeof best);
    }
    if (best[0]) snprintf(hint, 256, "did you mean \"%s\"?", best);
    return best[0] != 0;
}

/* The key exists, elsewhere: under another section. */
static bool suggest_section(const char *key, char hint[256])
{
    for (int i = 0; i < tdm_recipe_keys.count; i++) {
        const char *path = tdm_recipe_keys.keys[i].path, *dot = strrchr(path, '.');
        if (!dot || strcmp(dot + 1, key) != 0) continue;
        snprintf(hint, 256, "it belongs to %.*s", (int)(dot - path), path);
        return true;
    }
    return false;
}

static void list_keys(const tdm_key_table *t, const char *section, char hint[256])
{
    char name[WORD_MAX], last[WORD_MAX] = "";
    size_t used = (size_t)snprintf(hint, 256, "keys here:");
    for (int i = 0; i < t->count; i++) {
        if (!child_of(t, i, section, name) || strcmp(name, last) == 0) continue;
        if (used + strlen(name) + 8 > 256) {
            snprintf(hint + used, 256 - used, ", ...");
            return;
        }
        used += (size_t)snprintf(hint + used, 256 - used, "%s %s", last[0] ? "," : "", name);
        memcpy(last, name, sizeof last);
    }
}

void tdm_key_suggest(const tdm_key_table *t, const char *section, const char *key, char hint[256])
{
    if (suggest_sibling(t, section, key, hint) || suggest_section(key, hint)) return;
    list_keys(t, section, hint);
}
