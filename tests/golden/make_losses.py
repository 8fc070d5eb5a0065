"""Goldens of the losses: tests/golden/data/losses.bin, in the record format of make_kernels_linear.py.

On the same random log-probabilities, advantages and entropies, in float64: TRL's own GRPOTrainer, GMPOTrainer and RLOOTrainer with every correction that TRL has,
and verl's own policy losses with every aggregation, correction and rejection that verl has. A record "trl/LOSS/CORRECTION/OPTION" or "verl/LOSS/AGGREGATION/CORRECTION" is
the loss and d loss / d log-probability of each token, padding 0; tests/train/test_loss_goldens.c walks the same names. Also TRL's generalized_jsd_loss.

    VERL=CHECKOUT [VERL_VETO=CHECKOUT] python tests/golden/make_losses.py

VERL and VERL_VETO: see verl_code.py. Made with trl 1.16.0, torch 2.15.0.
"""
import dataclasses
import pathlib
import struct
import sys
import types
from collections import defaultdict
from types import SimpleNamespace

import torch
from trl import GRPOConfig
from trl.experimental.gkd import GKDTrainer
from trl.experimental.gmpo import GMPOTrainer
from trl.trainer import rloo_trainer
from trl.trainer.grpo_trainer import GRPOTrainer

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import verl_code  # noqa: E402
from make_goldens_models import geometric_ratio, trl_ratio  # noqa: E402

OUT = pathlib.Path("tests/golden/data/losses.bin")
B, T, MAX_NEW, KL = 6, 8, 12, 0.1
LENGTHS = [8, 1, 5, 7, 3, 6]
LOW, HIGH, DELTA, STALE, QUANTILE = 0.2, 0.28, 1.5, 0.02, 0.4
BOUNDS = {"token": (0.7, 1.4), "sequence": (0.5, 1.6), "geometric": (0.93, 1.06)}
torch.manual_seed(4)
out = bytearray()


def put(name, x):
    x = x.detach().float().reshape(1, -1).contiguous()
    out.extend(struct.pack("<48sIII", name.encode(), 0, *x.shape) + x.numpy().tobytes())


# Values that FP32 holds, so that the C side reads the same.
mask = torch.tensor([[1] * n + [0] * (T - n) for n in LENGTHS])
noise = lambda scale: (torch.randn(B, T) * scale).float()
lp = -(0.2 + 3 * torch.rand(B, T)).float() * mask
old = (lp + noise(0.3)) * mask
sampler = (old + noise(0.3)) * mask
ref = (lp + noise(0.4)) * mask
entropy = (3 * torch.rand(B, T)).float() * mask
advantage = torch.tensor([1.2, -0.7, -1.5, 0.4, 0.9, -0.3])
for name, x in dict(lp=lp, old=old, sampler=sampler, ref=ref, entropy=entropy, mask=mask, advantage=advantage).items():
    put(name, x)
lp, old, sampler, ref, entropy, advantage = (x.double() for x in (lp, old, sampler, ref, entropy, advantage))


def record(name, loss, leaf):
    grad, = torch.autograd.grad(loss, leaf)
    assert torch.isfinite(loss) and torch.isfinite(grad).all(), name
    put(name, torch.cat([loss.reshape(1), grad.flatten()]))


# ---- TRL ---------------------------------------------------------------------------------------------------------------------------

class Accelerator:
    num_processes, device, sync_gradients = 1, torch.device("cpu"), True
    gather = gather_for_metrics = staticmethod(lambda x: x)
    reduce = staticmethod(lambda x, reduction="sum": x)
    pad_across_processes = staticmethod(lambda x, **_: x)


TRL_LOSSES = ["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo", "luspo", "vespo", "gspo", "gmpo", "rloo"]
TRL_CORRECTIONS = ["none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "geometric_truncate", "geometric_mask"]
TRL_OPTIONS = ["plain", "kl", "kl_bias", "top_entropy", "off_policy", "delta", "entropy_kl"]


def allowed(loss, correction, option):
    """TRL corrects neither gmpo nor rloo; a ratio of sequences here wants a correction of sequences; what a loss has not is not asked of it."""
    if loss in ("gmpo", "rloo"):
        return correction == "none" and option in {"gmpo": ("plain", "kl", "top_entropy"), "rloo": ("plain",)}[loss]
    if loss in ("luspo", "gspo") and correction.startswith("token"):
        return False
    return option != "delta" or loss in ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "gspo")


def trl_case(loss, correction, option):
    leaf = lp.clone().requires_grad_()
    level, _, how = correction.partition("_")
    corrected = correction != "none"
    inputs = {"prompt_ids": torch.zeros(B, 1, dtype=torch.long), "prompt_mask": torch.ones(B, 1, dtype=torch.long), "completion_ids": torch.zeros(B, T, dtype=torch.long),
              "completion_mask": mask, "num_items_in_batch": mask.sum(), "advantages": advantage, "sampling_per_token_logps": sampler,
              "old_per_token_logps": old if corrected else sampler, "ref_per_token_logps": ref}
    inputs["old_logps"] = (inputs["old_per_token_logps"] * mask).sum(1)
    if corrected:
        floor, cap = BOUNDS[level]
        case = {"level": level, "correction": how, "cap": cap, "floor": floor}
        source = {"old_per_token_logps": old, "sampling_per_token_logps": sampler, "mask": mask}
        inputs["importance_sampling_ratio"] = (geometric_ratio(**source, case=case) if level == "geometric" else trl_ratio(source, case))[1]
    settings = {f.name: f.default for f in dataclasses.fields(GRPOConfig)} | {"steps_per_generation": 1}
    settings |= {"use_bias_correction_kl": option == "kl_bias", "delta": DELTA if option == "delta" else None}
    by_entropy = option in ("top_entropy", "entropy_kl")
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (leaf, entropy, None), top_entropy_quantile=QUANTILE if by_entropy else 1.0,
        off_policy_mask_threshold=STALE if option == "off_policy" else None, importance_sampling_level="sequence" if loss in ("gspo", "luspo") else "token",
        beta=KL if option in ("kl", "kl_bias", "entropy_kl") else 0.0, loss_type="grpo" if loss == "gspo" else loss, epsilon_low=LOW,
        epsilon_high=1 + HIGH if loss == "cispo" else HIGH, get_gamma_weights=GRPOTrainer.get_gamma_weights, get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
        use_vllm=corrected, vllm_importance_sampling_correction=corrected, args=SimpleNamespace(**settings), model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1, accelerator=Accelerator, max_completion_length=MAX_NEW, aux_loss_enabled=False, _entropy_bonus_enabled=False,
        use_adaptive_entropy=False, _metrics={"train": defaultdict(list)})
    trainer.get_high_entropy_mask = types.MethodType(GRPOTrainer.get_high_entropy_mask, trainer)
    own = {"gmpo": GMPOTrainer._compute_loss, "rloo": rloo_trainer.RLOOTrainer._compute_loss}
    record(f"trl/{loss}/{correction}/{option}", own.get(loss, GRPOTrainer._compute_loss)(trainer, trainer.model, inputs), leaf)


# ---- verl --------------------------------------------------------------------------------------------------------------------------

AGGREGATIONS = {"token_mean": "token-mean", "token_sum": "token-sum", "sequence_mean": "seq-mean-token-mean", "sequence_sum": "seq-mean-token-sum", "constant": "seq-mean-token-sum-norm"}
REJECTS = {"token_k1": "0.75_1.4", "token_k2": "0.05", "token_k3": "0.05", "seq_sum_k1": "0.6_1.6", "seq_sum_k2": "0.25", "seq_sum_k3": "0.25", "seq_mean_k1": "0.9_1.1",
           "seq_mean_k2": "0.05", "seq_mean_k3": "0.05", "seq_max_k2": "0.1", "seq_max_k3": "0.1"}
VETO = 0.6
# name: rollout_is, its threshold, normalized, rejection
VERL = {"none": (None, None, False, None), "token_tis": ("token", 1.2, False, None), "token_tis_norm": ("token", 1.2, True, None), "icepop": ("token", "0.7_1.4", False, None),
        "icepop_norm": ("token", "0.7_1.4", True, None), "seq_tis": ("sequence", 1.6, False, None), "seq_tis_norm": ("sequence", 1.6, True, None), "seq_mis": ("sequence", "0.5_1.6", False, None),
        **{f"reject_{k}": (None, None, False, k) for k in REJECTS}, "veto": (None, None, False, "veto"), "reject_two": (None, None, False, "token_k3,seq_mean_k1"),
        "token_tis_reject": ("token", 1.2, False, "seq_mean_k1"), "seq_tis_norm_reject": ("sequence", 1.6, True, "token_k2")}


ANY = ("vanilla", "cispo", "dppo_tv", "dppo_kl", "gpg")  # with every aggregation


def verl_allowed(loss, aggregation, correction):
    """gspo's gradient of a token has that token's weight in verl and the mean of all in TRL and here; it, sapo and geo_mean have one aggregation, dual clip stands in vanilla alone."""
    if loss in ("gspo", "geo_mean") and VERL[correction][0] == "token":
        return False
    return loss in ANY or aggregation == "sequence_mean"


def verl_case(algos, helper, veto_helper, loss, aggregation, correction):
    leaf = lp.clone().requires_grad_()
    level, threshold, normalize, reject = VERL[correction]
    if reject == "veto":
        weights, kept, _ = veto_helper.compute_rollout_correction_and_rejection_mask(old, sampler, mask, rollout_token_veto_threshold=VETO)
    else:
        bounds = ",".join(REJECTS[k] for k in reject.split(",")) if reject else None
        weights, kept, _ = helper.compute_rollout_correction_and_rejection_mask(old, sampler, mask, rollout_is=level, rollout_is_threshold=threshold,
                                                                                rollout_is_batch_normalize=normalize, rollout_rs=reject, rollout_rs_threshold=bounds)
    if reject:
        assert 0 < kept.sum() < mask.sum(), (correction, kept)
    low, high = (0.04, 0.06) if loss.startswith("dppo") else (LOW, HIGH)  # of probabilities
    config = verl_code.ActorConfig(clip_ratio=low, clip_ratio_low=low, clip_ratio_high=high, clip_ratio_c=DELTA, tau_pos=1.0, tau_neg=1.05,
                         global_batch_info={"batch_num_tokens": kept.sum(), "global_batch_size": B, "loss_scale_factor": MAX_NEW})
    if loss in ANY and aggregation != "constant":
        del config.global_batch_info["loss_scale_factor"]
    value, _ = algos.get_policy_loss_fn(loss)(old_log_prob=old, log_prob=leaf, advantages=advantage.unsqueeze(1).expand(B, T) * mask, response_mask=kept,
                                              loss_agg_mode=AGGREGATIONS[aggregation], config=config, rollout_is_weights=weights.batch["rollout_is_weights"] if weights else None)
    record(f"verl/{loss}/{aggregation}/{correction}", value, leaf)


# ---- REINFORCE++ with the KL in each token's reward: verl's returns, OpenRLHF's normalization (not Bessel's, as NeMo-RL's) -----------------------------------

def token_advantages(algos):
    rewards = torch.zeros(B, T, dtype=torch.float64)
    for i, n in enumerate(LENGTHS):
        rewards[i, n - 1] = advantage[i]
    rewards = algos.compute_rewards(rewards, old, ref, KL) * mask
    _, returns = algos.compute_reinforce_plus_plus_outcome_advantage(rewards, mask, config=SimpleNamespace(gamma=1.0))
    mean = (returns * mask).sum() / mask.sum()
    variance = ((returns - mean) ** 2 * mask).sum() / mask.sum()
    put("advantages_by_token", (returns - mean) * variance.clamp(min=1e-8).rsqrt() * mask)


# ---- Distillation: TRL's generalized Jensen-Shannon divergence and its gradient in the student's logits ----------------------------------------------------

def divergences():
    rows, vocab, temperature = 3, 37, 0.8
    student, teacher = torch.randn(rows, vocab) * 2, torch.randn(rows, vocab) * 2
    put("distill/student", student)
    put("distill/teacher", teacher)
    labels = torch.zeros(1, rows, dtype=torch.long)
    for beta in (0.0, 0.25, 0.5, 1.0):
        leaf = student.double().unsqueeze(0).requires_grad_()
        each = [GKDTrainer.generalized_jsd_loss(leaf[:, i:i + 1], teacher.double().unsqueeze(0)[:, i:i + 1], labels[:, i:i + 1], beta, temperature, num_items_in_batch=1) for i in range(rows)]
        grad, = torch.autograd.grad(sum(each), leaf)
        put(f"distill/{beta}", torch.cat([torch.stack(each), grad.flatten()]))


def main():
    algos, helper, veto = verl_code.load()
    for loss in TRL_LOSSES:
        for correction in TRL_CORRECTIONS:
            for option in TRL_OPTIONS:
                if allowed(loss, correction, option):
                    trl_case(loss, correction, option)
    for loss in ("vanilla", "gspo", "sapo", "cispo", "geo_mean", "dppo_tv", "dppo_kl", "gpg"):
        for aggregation in AGGREGATIONS:
            for correction in VERL:
                if verl_allowed(loss, aggregation, correction):
                    verl_case(algos, helper, veto, loss, aggregation, correction)
    token_advantages(algos)
    divergences()
    OUT.write_bytes(bytes(out))
    print(OUT, len(out), "bytes")


if __name__ == "__main__":
    main()
