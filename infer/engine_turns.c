/* Sequences of several turns: who waits for what is added to it, and comes back. */
#include "infer/engine_internal.h"

static void swap_slots(tdm_slot *a, tdm_slot *b)
{
    const tdm_slot slot = *a;
    *a = *b;
    *b = slot;
}

/* Takes the pages of parked slot i, which is then none. One that may run again has to wait in the list for that now. */
static void give_up(tdm_engine *e, int64_t i)
{
    tdm_slot *slot = &e->parked[i];
    const int64_t sample = slot->sample;
    const bool ready = slot->ready;
    tdm_slot_release(e, slot);
    for (; i + 1 < e->parked_count; i++) swap_slots(&e->parked[i], &e->parked[i + 1]);
    e->parked_count--;
    if (ready) tdm_engine_wait(e, sample);
}

bool tdm_engine_evict(tdm_engine *e)
{
    int64_t i = e->parked_count - 1;
    while (i > 0 && e->parked[i].ready) i--; /* rather one whose answer is still to come */
    if (i < 0) return false;
    give_up(e, i);
    e->stats.preemptions++;
    return true;
}

void tdm_engine_park(tdm_engine *e, int64_t b)
{
    if (e->parked_count == e->spec.sequences) (void)tdm_engine_evict(e);
    tdm_slot *place = &e->parked[e->parked_count++];
    swap_slots(place, &e->slot[b]);
    place->ready = false;
    e->sample[place->sample].away = true;
}

void tdm_engine_unpark(tdm_engine *e)
{
    for (int64_t i = 0; i < e->parked_count && e->running < e->spec.sequences;) {
        if (!e->parked[i].ready) {
            i++;
            continue;
        }
        for (int64_t k = i; k + 1 < e->parked_count; k++) swap_slots(&e->parked[k], &e->parked[k + 1]);
        swap_slots(&e->parked[--e->parked_count], &e->slot[e->running++]);
    }
}

/* The sample, which nobody has to answer any more, and its parked slot; -1: its pages were taken. */
static int64_t answered(tdm_engine *e, int64_t request, int64_t index, int64_t *slot)
{
    const int64_t sample = e->hold[request].first + index;
    TDM_ASSERT(e->sample[sample].away);
    e->sample[sample].away = false;
    *slot = -1;
    for (int64_t i = 0; i < e->parked_count; i++)
        if (e->parked[i].sample == sample) *slot = i;
    return sample;
}

void tdm_engine_continue(tdm_engine *e, int64_t request, int64_t index)
{
    int64_t slot;
    const int64_t sample = answered(e, request, index, &slot);
    tdm_sequence *seq = tdm_engine_sequence(e, sample);
    TDM_ASSERT(seq->count < seq->room);
    seq->turn = seq->count;
    seq->finish = TDM_FINISH_NONE;
    if (slot >= 0) e->parked[slot].ready = true;
    else tdm_engine_wait(e, sample);
}

void tdm_engine_end(tdm_engine *e, int64_t request, int64_t index)
{
    int64_t slot;
    const int64_t sample = answered(e, request, index, &slot);
    if (slot >= 0) give_up(e, slot);
    tdm_engine_done(e, sample);
}
