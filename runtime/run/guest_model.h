/* A guest: a second model that shares the device with the policy by taking the phase region in turns. Its weights wait in standby (memory/standby.h) and come
 * into the region when its turn begins; behind them lie its own KV pages and decode buffers. Whatever other phases left there is gone then, as theirs is at any
 * change of phase. The slab is as large as the greatest of the layouts, so a budget that could not hold both models holds each in its turn.
 *
 *   created   tdm_guest_open, from the model's headers; the session plans and loads it (tdm_session_spec.guests)
 *   turn      [tdm_guest_prefetch, at the start of a rollout;] tdm_guest_enter; run `engine` (tdm_engine_run, tdm_engine_score); any tdm_session_enter ends it
 *   released  tdm_session_close, then tdm_guest_close */
#ifndef TANDEM_RUNTIME_RUN_GUEST_MODEL_H
#define TANDEM_RUNTIME_RUN_GUEST_MODEL_H

#include "infer/engine.h"
#include "memory/plan.h"
#include "memory/standby.h"
#include "runtime/run/language.h"

typedef struct tdm_session tdm_session;

typedef struct tdm_guest {
    /* what the owner chooses before the session's plan; borrowed strings */
    const char *role;            /* "judge": its layout's name in the plan */
    const char *name;            /* of this one, for the plan's rows and errors */
    const char *where;           /* where the recipe asks for it */
    const char *folder;          /* for what waits on a CPU; made when it is loaded */
    tdm_weights_options weights;
    tdm_engine_spec engine_spec; /* kv_pages: chosen by the plan */
    /* opened */
    tdm_model_file *file;
    const tdm_model_config *config;
    tdm_language language;
    /* the session's */
    tdm_phase phase;
    int item_image, item_kv, item_buffers;
    size_t weights_bytes;        /* the image is the weights, then the RoPE tables */
    tdm_standby standby;
    tdm_weights *w;
    tdm_model model;
    tdm_engine *engine;
    bool here;                   /* its turn has begun */
    bool ahead;                  /* bytes from `ahead_from` on are there or on their way */
    size_t ahead_from;
} tdm_guest;

tdm_status tdm_guest_open(tdm_guest *g, const char *path, tdm_error *err);
void tdm_guest_close(tdm_guest *g);
/* Begins the guest's turn: its weights are there for what the stream is given next. Nothing when it has begun. */
tdm_status tdm_guest_enter(tdm_session *s, tdm_guest *g, tdm_error *err);
/* In a rollout: begins to bring what fits beside the rollout's layout, while the stream works. Nothing on a CPU, which reads its file at once. */
tdm_status tdm_guest_prefetch(tdm_session *s, tdm_guest *g, tdm_error *err);

/* For session.c: options checked; rows of the plan; the greatest limits; pages that fit beside; loaded, into standby; closed; a change of phase. */
tdm_status tdm_guests_check(tdm_session *s, tdm_error *err);
tdm_status tdm_guests_plan(tdm_session *s, size_t *host, size_t *loading, tdm_error *err);
void tdm_guests_limits(const tdm_session *s, tdm_limits *limits);
void tdm_guests_choose_pages(tdm_session *s);
int64_t tdm_guests_layers(const tdm_session *s);
tdm_status tdm_guests_load(tdm_session *s, tdm_error *err);
void tdm_guests_close(tdm_session *s);
void tdm_guests_leave(tdm_session *s, tdm_phase next);

#endif
