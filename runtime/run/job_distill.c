/* On-policy distillation: the student samples, the teacher, another adapter on the same base or none, says what it would have done. Over whole distributions
 * the trainer does it all (train/distill.c). Of the sampled tokens alone, a token's advantage is ln p of the teacher less that of the student that sampled it, whose
 * mean is minus the reverse KL (Lu et al., Thinking Machines, "On-Policy Distillation", 2025; tinker-cookbook's incorporate_kl_penalty with a discount of 0). */
#include "runtime/run/job_internal.h"

#include <string.h>

void tdm_job_teacher_open(tdm_job *j)
{
    const char *path = j->r->train.distill.teacher;
    j->has_teacher = tdm_job_distills(j) && strcmp(path, "base") != 0;
    if (!j->has_teacher) return;
    TDM_ASSERT(j->role_count < TDM_SESSION_ROLES);
    j->teacher_role = j->role_count++;
    j->role[j->teacher_role] = (tdm_role_spec){.name = "teacher: adapter", .hint = "", .dir = path};
}

const tdm_adapter *tdm_job_teacher(const tdm_job *j) { return j->has_teacher ? &j->session.role[j->teacher_role].adapter : NULL; }

tdm_status tdm_job_distill_reference(tdm_job *j, tdm_error *err)
{
    tdm_status st = TDM_OK;
    TDM_TRY(st, tdm_job_score(j, tdm_job_teacher(j), j->sequences.ref, j->sequence_count, err), done);
    for (int64_t i = 0; i < j->sequence_count; i++) j->item[i].ref = j->sequences.ref[i];
done:
    return st;
}

void tdm_job_distill_advantages(tdm_job *j)
{
    for (int64_t i = 0; i < j->sequence_count; i++) {
        tdm_train_item *it = &j->item[i];
        float *advantage = j->sequences.advantages[i];
        for (int64_t t = 0; t < tdm_sequence_completion(it->seq); t++) advantage[t] = it->ref[t] - it->old[t];
        it->advantages = advantage;
    }
}
