#include "memory/plan.h"

#include <string.h>

static bool is_guest(tdm_phase phase) { return phase >= TDM_PHASE_GUEST && phase < TDM_PHASE_GUEST + TDM_GUESTS; }

static const char *phase_name(const tdm_plan *p, tdm_phase phase)
{
    static const char *const names[TDM_PHASE_COUNT] = {
        [TDM_PHASE_ALWAYS] = "always", [TDM_PHASE_ROLLOUT] = "rollout", [TDM_PHASE_TRAIN] = "train", [TDM_PHASE_DRIVER] = "driver", [TDM_PHASE_HOST] = "host"};
    return is_guest(phase) ? p->guest[phase - TDM_PHASE_GUEST] : names[phase];
}

void tdm_plan_init(tdm_plan *p) { memset(p, 0, sizeof *p); }

int tdm_plan_add(tdm_plan *p, tdm_phase phase, const char *name, size_t bytes, const char *hint)
{
    TDM_ASSERT(p->count < TDM_PLAN_ITEMS);
    tdm_plan_item *it = &p->item[p->count];
    snprintf(it->name, sizeof it->name, "%s", name);
    snprintf(it->hint, sizeof it->hint, "%s", hint ? hint : "");
    it->phase = phase;
    it->bytes = bytes;
    return p->count++;
}

static size_t lay_phase(tdm_plan *p, tdm_phase phase, size_t offset)
{
    const size_t start = offset;
    for (int i = 0; i < p->count; i++) {
        tdm_plan_item *it = &p->item[i];
        if (it->phase != phase) continue;
        it->offset = offset;
        offset += tdm_align_up(it->bytes, TDM_PLAN_ALIGN);
    }
    p->phase_bytes[phase] = offset - start;
    return offset;
}

static bool laid_out(tdm_phase p) { return p != TDM_PHASE_HOST && p != TDM_PHASE_DRIVER; }

static bool may_coexist(tdm_phase a, tdm_phase b)
{
    if (!laid_out(a) || !laid_out(b)) return false;
    return a == b || a == TDM_PHASE_ALWAYS || b == TDM_PHASE_ALWAYS;
}

static void assert_no_overlap(const tdm_plan *p)
{
    for (int i = 0; i < p->count; i++)
        for (int j = 0; j < i; j++) {
            const tdm_plan_item *a = &p->item[i], *b = &p->item[j];
            if (!may_coexist(a->phase, b->phase)) continue;
            TDM_ASSERT(a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset);
        }
}

void tdm_plan_layout(tdm_plan *p)
{
    p->phase_offset = lay_phase(p, TDM_PHASE_ALWAYS, 0);
    p->slab_bytes = p->phase_offset;
    for (int phase = TDM_PHASE_ALWAYS + 1; phase < TDM_PHASE_DRIVER; phase++) {
        const size_t end = lay_phase(p, (tdm_phase)phase, p->phase_offset);
        if (end > p->slab_bytes) p->slab_bytes = end;
    }
    p->phase_bytes[TDM_PHASE_HOST] = p->phase_bytes[TDM_PHASE_DRIVER] = 0;
    for (int i = 0; i < p->count; i++)
        if (!laid_out(p->item[i].phase)) p->phase_bytes[p->item[i].phase] += p->item[i].bytes;
    p->total_bytes = p->slab_bytes + p->phase_bytes[p->device ? TDM_PHASE_DRIVER : TDM_PHASE_HOST];
    assert_no_overlap(p);
}

const char *tdm_bytes_text(char buf[24], size_t bytes)
{
    if (bytes >= (size_t)1 << 30) snprintf(buf, 24, "%.2f GiB", (double)bytes / 0x1p30);
    else if (bytes >= (size_t)1 << 20) snprintf(buf, 24, "%.1f MiB", (double)bytes / 0x1p20);
    else if (bytes >= (size_t)1 << 10) snprintf(buf, 24, "%.1f KiB", (double)bytes / 0x1p10);
    else snprintf(buf, 24, "%zu B", bytes);
    return buf;
}

/* The item that would give most if it shrank, among those that a recipe key can shrink. */
static const tdm_plan_item *largest_with_hint(const tdm_plan *p)
{
    tdm_phase bigger = TDM_PHASE_TRAIN;
    for (int phase = TDM_PHASE_ALWAYS + 1; phase < TDM_PHASE_DRIVER; phase++)
        if (p->phase_bytes[phase] > p->phase_bytes[bigger]) bigger = (tdm_phase)phase;
    const tdm_plan_item *best = NULL;
    for (int i = 0; i < p->count; i++) {
        const tdm_plan_item *it = &p->item[i];
        if (!it->hint[0] || (it->phase != TDM_PHASE_ALWAYS && it->phase != bigger)) continue;
        if (!best || it->bytes > best->bytes) best = it;
    }
    return best;
}

tdm_status tdm_plan_check(const tdm_plan *p, size_t budget_bytes, const char *where, tdm_error *err)
{
    if (p->total_bytes <= budget_bytes) return TDM_OK;
    char need[24], have[24], item[24], hint[256];
    const tdm_plan_item *big = largest_with_hint(p);
    if (big)
        snprintf(hint, sizeof hint, "\"%s\" takes %s: %s, or raise the budget; --plan shows every region", big->name,
                 tdm_bytes_text(item, big->bytes), big->hint);
    else snprintf(hint, sizeof hint, "raise the budget; --plan shows every region");
    return TDM_FAIL(err, TDM_ERR_BUDGET, where, hint, "the run needs %s, memory.budget is %s", tdm_bytes_text(need, p->total_bytes),
                    tdm_bytes_text(have, budget_bytes));
}

static void print_phase(const tdm_plan *p, tdm_phase phase, FILE *out)
{
    char text[24];
    for (int i = 0; i < p->count; i++) {
        const tdm_plan_item *it = &p->item[i];
        if (it->phase != phase) continue;
        if (!laid_out(phase))
            fprintf(out, "%-8s %-28s %14s  %16zu  %s\n", phase_name(p, phase), it->name, "-", it->bytes, tdm_bytes_text(text, it->bytes));
        else
            fprintf(out, "%-8s %-28s %14zu  %16zu  %s\n", phase_name(p, phase), it->name, it->offset, it->bytes,
                    tdm_bytes_text(text, it->bytes));
    }
}

void tdm_plan_print(const tdm_plan *p, size_t budget_bytes, FILE *out)
{
    char a[24], b[24], c[24];
    fprintf(out, "%-8s %-28s %14s  %16s\n", "phase", "region", "offset", "bytes");
    for (int phase = 0; phase < TDM_PHASE_COUNT; phase++) print_phase(p, (tdm_phase)phase, out);
    fprintf(out, "\nphase region: rollout %s over train %s", tdm_bytes_text(a, p->phase_bytes[TDM_PHASE_ROLLOUT]),
            tdm_bytes_text(b, p->phase_bytes[TDM_PHASE_TRAIN]));
    for (int g = 0; g < TDM_GUESTS; g++)
        if (p->guest[g]) fprintf(out, " over %s %s", p->guest[g], tdm_bytes_text(a, p->phase_bytes[TDM_PHASE_GUEST + g]));
    fprintf(out, ", at the same addresses\n");
    const tdm_phase beside = p->device ? TDM_PHASE_DRIVER : TDM_PHASE_HOST;
    fprintf(out, "slab %s + %s %s = predicted peak %s (%zu bytes)\n", tdm_bytes_text(a, p->slab_bytes), phase_name(p, beside),
            tdm_bytes_text(b, p->phase_bytes[beside]), tdm_bytes_text(c, p->total_bytes), p->total_bytes);
    fprintf(out, "memory.budget %s: %s\n", tdm_bytes_text(a, budget_bytes), p->total_bytes <= budget_bytes ? "fits" : "DOES NOT FIT");
    if (p->total_bytes > budget_bytes) {
        const tdm_plan_item *big = largest_with_hint(p);
        fprintf(out, "short by %s%s%s%s%s\n", tdm_bytes_text(b, p->total_bytes - budget_bytes), big ? "; largest that can shrink: " : "",
                big ? big->name : "", big ? ": " : "", big ? big->hint : "");
    }
}
