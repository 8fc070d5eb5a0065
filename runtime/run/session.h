/* A session: the model file, the plan, the slab and what is cut from it, opened in the order that promise 4 asks for: first the
 * headers are read and the plan is made and checked, then a byte is loaded. Every command that computes opens one. */
#ifndef TANDEM_RUNTIME_RUN_SESSION_H
#define TANDEM_RUNTIME_RUN_SESSION_H

#include "infer/engine.h"
#include "memory/slab.h"
#include "runtime/run/guest_model.h"
#include "train/optimizer.h"
#include "train/peft.h"
#include "train/trainer.h"

/* For errors: what a person can open to change the choice. Borrowed until load. */
typedef struct tdm_session_where {
    const char *device, *budget;
    tdm_weights_where weights;
} tdm_session_where;

/* A role beside the policy on the same base: an adapter of its own, with a head where it gives values. */
enum { TDM_SESSION_ROLES = 8 };
typedef struct tdm_role_spec {
    const char *name, *hint;         /* of the plan's row */
    const char *dir;                 /* a PEFT adapter to load, with a head where adapter.head is set, or NULL */
    tdm_adapter_spec adapter;        /* fresh, where dir is NULL */
    const tdm_optimizer_config *optimizer; /* NULL: it is not trained, and has parameters alone */
    uint64_t seed;
} tdm_role_spec;

typedef struct tdm_role {
    tdm_peft *peft;                  /* until load */
    tdm_adapter adapter;
    tdm_optimizer optimizer;         /* of one that is trained */
    int item;
} tdm_role;

typedef struct tdm_session_spec {
    const char *device;            /* "auto", "cpu", "cuda"; NULL: $TANDEM_DEVICE, or auto */
    bool exact;                    /* numerics: exact */
    const char *model;             /* folder or .gguf */
    tdm_weights_options weights;
    const char *adapter_dir;       /* a PEFT adapter to load, or NULL */
    const tdm_adapter_spec *adapter; /* a fresh adapter, or NULL; with adapter_dir too: what the loaded one must be */
    const tdm_optimizer_config *optimizer; /* NULL: the adapter is not trained */
    uint64_t adapter_seed;
    const tdm_role_spec *roles;    /* [role_count], borrowed until load */
    int role_count;
    tdm_guest *guests;             /* [guest_count], opened, borrowed until close: other models that take turns in the phase region */
    int guest_count;
    bool rollout, train, forward_only; /* which layouts are needed; forward_only: a train layout without a tape */
    tdm_engine_spec engine;        /* kv_pages 0: chosen by the plan; rank is filled in */
    tdm_trainer_spec trainer;      /* rank is filled in; checkpointing: see below */
    bool checkpointing_auto;       /* the plan chooses: off when it fits the budget */
    tdm_dtype kv_dtype;
    int64_t kv_bytes;              /* for pages; 0: as many as useful within the budget */
    int64_t budget_bytes;          /* 0: what the machine has free */
    tdm_session_where where;
    size_t host_bytes;             /* host memory the caller will use besides */
    int threads;
    bool plan_only;                /* nothing will be loaded: a device that is planned for need not be there */
    bool without_adapter;          /* the engine also runs with the adapter off */
    bool random_weights;           /* model gives the shapes (a config.json, or its folder), weights are drawn */
} tdm_session_spec;

struct tdm_session {
    tdm_session_spec spec;         /* as resolved */
    const tdm_backend *be;
    tdm_model_file *file;
    const tdm_model_config *config;
    tdm_peft *peft;                /* adapter_dir, until load */
    tdm_plan plan;
    size_t budget_bytes;
    size_t driver_bytes;           /* of a device, beside the slab */
    size_t peak_bytes;             /* of a device, as seen so far */
    bool there;                    /* the device is; false: only planned for */
    tdm_slab slab;
    tdm_stream *stream;
    tdm_weights *weights;
    tdm_model model;
    bool has_adapter;
    tdm_adapter adapter;
    tdm_optimizer optimizer;       /* masters also without training: an adapter is loaded through them */
    tdm_role role[TDM_SESSION_ROLES];
    int role_count;
    tdm_engine *engine;
    tdm_trainer *trainer;
    int item_weights, item_tables, item_adapter, item_workspace, item_kv, item_rollout, item_tape, item_train_kv, item_scratch;
};

/* Reads headers, makes the plan. The session is usable for printing it; nothing big is allocated. */
tdm_status tdm_session_plan(tdm_session *s, const tdm_session_spec *spec, tdm_error *err);
/* Checks the budget, opens the slab, loads the weights, opens engine and trainer. */
tdm_status tdm_session_load(tdm_session *s, tdm_error *err);
void tdm_session_close(tdm_session *s);
/* The adapter to use in a forward, or NULL. */
const tdm_adapter *tdm_session_adapter(const tdm_session *s);
/* Bytes of the memory that memory.budget speaks of, at most so far: this process's resident set, or what it holds of the device. */
size_t tdm_session_peak_bytes(tdm_session *s);
/* Enters a phase. All layouts lie over the same bytes, so nothing moves; a guest's is entered by tdm_guest_enter, which brings its weights. */
void tdm_session_enter(tdm_session *s, tdm_phase phase);
/* Copies a PEFT adapter's tensors (NULL: fresh ones) into the masters and publishes them. */
tdm_status tdm_session_take_adapter(tdm_session *s, const tdm_peft *p, tdm_error *err);

/* session_roles.c: which adapter each role has, before the plan; its bytes; its parameters, into the slab. */
tdm_status tdm_session_describe(const tdm_session *s, const char *dir, const tdm_adapter_spec *fresh, tdm_peft **peft, tdm_adapter *a, tdm_error *err);
tdm_status tdm_roles_describe(tdm_session *s, tdm_error *err);
void tdm_roles_plan(tdm_session *s);
tdm_status tdm_roles_load(tdm_session *s, tdm_error *err);
void tdm_roles_close(tdm_session *s);
/* Masters [count], malloc'd, the caller's: of peft, or fresh where that is NULL. */
tdm_status tdm_session_masters(const tdm_adapter *a, const tdm_peft *peft, uint64_t seed, float **master, tdm_error *err);

/* Bytes this process holds now and held at most (VmRSS, VmHWM), and what the machine or its container still has. */
size_t tdm_process_resident_bytes(void);
size_t tdm_process_peak_bytes(void);
size_t tdm_machine_available_bytes(void);

#endif
