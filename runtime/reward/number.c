/* The number a solution ends in. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/reward/reward.h"

/* Reads a number at p: sign, digits with thousands commas, fraction, exponent, or a ratio of two integers. Returns its end, or NULL. */
static const char *read_number(const char *p, const char *end, double *value)
{
    char digits[64];
    size_t n = 0;
    const char *q = p;
    bool any = false;
    if (q < end && (*q == '-' || *q == '+')) digits[n++] = *q++;
    if (q < end && *q == '$') q++;
    for (; q < end && n < sizeof digits - 8; q++) {
        if (isdigit((unsigned char)*q)) any = true;
        else if (*q == ',' && any && end - q > 3 && isdigit((unsigned char)q[1]) && isdigit((unsigned char)q[2]) && isdigit((unsigned char)q[3]) &&
                 (end - q == 4 || !isdigit((unsigned char)q[4])))
            continue; /* 1,234: a comma before exactly three digits */
        else break;
        digits[n++] = *q;
    }
    if (q < end && *q == '.' && q + 1 < end && isdigit((unsigned char)q[1])) {
        digits[n++] = *q++;
        for (; q < end && isdigit((unsigned char)*q); q++, any = true)
            if (n < sizeof digits - 8) digits[n++] = *q;
    }
    if (!any) return NULL;
    if (q + 1 < end && (*q == 'e' || *q == 'E')) {
        const char *e = q + 1 + (q[1] == '-' || q[1] == '+');
        if (e < end && isdigit((unsigned char)*e)) {
            for (; q < e; q++) digits[n++] = *q;
            for (int k = 0; q < end && isdigit((unsigned char)*q); q++)
                if (k++ < 4) digits[n++] = *q;
        }
    }
    digits[n] = 0;
    *value = strtod(digits, NULL);
    return q;
}

static const char *read_value(const char *p, const char *end, double *value)
{
    double below;
    const char *q = read_number(p, end, value);
    if (!q || q + 1 >= end || *q != '/' || !isdigit((unsigned char)q[1])) return q;
    const char *r = read_number(q + 1, end, &below);
    if (!r || below == 0.0) return q;
    *value /= below;
    return r;
}

/* A sign belongs to a number only where it does not subtract: "3-2" ends in 2. */
static bool is_sign(const char *text, const char *p) { return p == text || !(isalnum((unsigned char)p[-1]) || p[-1] == ')' || p[-1] == '.'); }

static bool last_number(const char *text, const char *end, double *value)
{
    bool found = false;
    for (const char *p = text; p < end;) {
        double v;
        const char *q = NULL;
        if (isdigit((unsigned char)*p) || (*p == '.' && p + 1 < end && isdigit((unsigned char)p[1]))) q = read_value(p, end, &v);
        else if ((*p == '-' || *p == '+') && is_sign(text, p)) q = read_value(p, end, &v);
        if (!q) {
            p++;
            continue;
        }
        *value = v;
        found = isfinite(v);
        p = q;
    }
    return found;
}

static bool first_number(const char *text, const char *end, double *value)
{
    for (const char *p = text; p < end && *p != '\n'; p++) {
        const char *q = isdigit((unsigned char)*p) || *p == '-' || *p == '+' || *p == '.' ? read_value(p, end, value) : NULL;
        if (q) return isfinite(*value);
    }
    return false;
}

/* Start of the last `word` in the text, or NULL. */
static const char *last_of(const char *text, size_t len, const char *word)
{
    const char *found = NULL;
    const size_t n = strlen(word);
    for (const char *p = text; (p = memmem(p, (size_t)(text + len - p), word, n)) != NULL; p += n) found = p;
    return found;
}

bool tdm_reward_number_find(const char *text, size_t len, double *value)
{
    const char *mark = last_of(text, len, "####"), *end = text + len;
    if (mark && first_number(mark + 4, end, value)) return true;
    const char *box = last_of(text, len, "\\boxed{");
    if (box) {
        const char *open = box + 7, *close = open;
        for (int depth = 1; close < end; close++) {
            depth += (*close == '{') - (*close == '}');
            if (depth == 0) break;
        }
        if (last_number(open, close, value)) return true;
    }
    return last_number(text, end, value);
}
