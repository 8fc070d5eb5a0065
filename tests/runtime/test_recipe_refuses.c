/* labels: unit
 *
 * Recipes a person gets wrong, each with the exact line it earns; overrides that are none; a recipe that is too large. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/recipe/yaml.h"
#include "testing/recipe_case.h"

#define JUDGE "model: {path: m}\ndata: {train: t}\nreward: [{type: judge"

static const struct { const char *text, *line; } broken[] = {
    {"", "nothing in it (a.yaml): start from a recipe in configs/"},
    {"# only a comment\n", "nothing in it (a.yaml): start from a recipe in configs/"},
    {"hello\n", "a recipe wants keys, found hello (a.yaml:1:1): write its keys below it, indented"},
    {"- 1\n", "a recipe wants keys, found a list (a.yaml:1:1): write its keys below it, indented"},
    {OK "rollout:\n  temprature: 1\n", "unknown key \"temprature\" in rollout (a.yaml:5:3): did you mean \"temperature\"?"},
    {OK "rolout: {}\n", "unknown key \"rolout\" (a.yaml:4:1): did you mean \"rollout\"?"},
    {OK "rewards: []\n", "unknown key \"rewards\" (a.yaml:4:1): did you mean \"reward\"?"},
    {OK "rollout: {learning_rate_of_the_model: 1}\n",
     "unknown key \"learning_rate_of_the_model\" in rollout (a.yaml:4:11): keys here: prompts_per_step, generations, max_new_tokens, "
     "temperature, top_p, top_k, min_p, repetition_penalty, stop, stop_token_ids, ignore_eos, replay, max_sequences, filter_groups"},
    {OK "data: {}\n", "key data stands here twice (a.yaml:4:1): the first is on line 2; keep one"},
    {OK "train: {lr: 1, lr: 2}\n", "key lr stands here twice (a.yaml:4:16): the first is on line 4; keep one"},
    {OK "memory: {max_grad_norm: 1}\n", "unknown key \"max_grad_norm\" in memory (a.yaml:4:10): it belongs to train"},
    {OK "train: {importance: {levl: token}}\n", "unknown key \"levl\" in train.importance (a.yaml:4:22): did you mean \"level\"?"},
    {OK "rollout: {temperature: hot}\n", "rollout.temperature wants a number, found hot (a.yaml:4:24): write digits, as in 0.5 or 1e-5"},
    {OK "rollout: {temperature: \"0.5\"}\n", "rollout.temperature wants a number, found \"0.5\" (a.yaml:4:24): remove the quotes"},
    {OK "rollout: {temperature: -1}\n", "rollout.temperature is -1, the range is 0 to 100 (a.yaml:4:24): the default is 1.0"},
    {OK "rollout: {temperature: .inf}\n", "rollout.temperature wants a number, found .inf (a.yaml:4:24): write digits, as in 0.5 or 1e-5"},
    {OK "rollout: {temperature: [1]}\n", "rollout.temperature wants a number, found a list (a.yaml:4:24): write digits, as in 0.5 or 1e-5"},
    {OK "rollout: {top_p: 0}\n", "rollout.top_p is 0, the range is above 0 up to 1 (a.yaml:4:18): the default is 1.0"},
    {OK "adapter: {dropout: 1}\n", "adapter.dropout is 1, the range is 0 to below 1 (a.yaml:4:20): the default is 0.0"},
    {OK "adapter: {rank: 8.0}\n", "adapter.rank wants a whole number, found 8.0 (a.yaml:4:17): write digits only, without leading zeros"},
    {OK "adapter: {rank: 010}\n", "adapter.rank wants a whole number, found 010 (a.yaml:4:17): write digits only, without leading zeros"},
    {OK "adapter: {rank: }\n", "adapter.rank wants a whole number, found nothing (a.yaml:4:17): write digits only, without leading zeros"},
    {OK "seed: -1\n", "seed is -1, the range is 0 or more (a.yaml:4:7): the default is 1"},
    {OK "seed: 99999999999999999999\n", "seed wants a whole number, found 99999999999999999999 (a.yaml:4:7): write digits only, without leading zeros"},
    {OK "log: {report: 1}\n", "log.report wants true or false, found 1 (a.yaml:4:15): write it without quotes"},
    {OK "log: 5\n", "log wants keys, found 5 (a.yaml:4:6): write its keys below it, indented"},
    {OK "numerics: exakt\n", "numerics is exakt, not one of fast, exact (a.yaml:4:11): did you mean \"exact\"?"},
    {OK "numerics: [fast]\n", "numerics wants one of fast, exact, found a list (a.yaml:4:11): write one of these words"},
    {OK "train: {algorithm: dppo}\n", "train.algorithm is dppo, not one of grpo, ppo, sft, dpo, orpo, kto, reward, distill (a.yaml:4:20): did you mean \"ppo\"?"},
    {OK "train: {gamma: 0.9}\n", "train.gamma is of a critic, and train.algorithm: grpo has none (a.yaml:4:16): remove it, or use train.algorithm: ppo"},
    {OK "train: {critic: {warmup: 3}}\n",
     "train.critic.warmup is of a critic, and train.algorithm: grpo has none (a.yaml:4:26): remove it, or use train.algorithm: ppo"},
    {OK "train: {algorithm: ppo, critic: {warmup: 101}}\n", "train.critic.warmup is 101, train.steps is 100 (a.yaml:4:42): warm up for fewer steps"},
    {OK "train: {algorithm: ppo, advantage: none}\n",
     "train.advantage compares a group's completions, ppo's advantages are of the critic's values (a.yaml:4:36): remove it, or use train.algorithm: grpo"},
    {OK "train: {algorithm: ppo, loss: gmpo}\n",
     "train.loss: gmpo has one ratio a completion, and ppo's advantages are of tokens (a.yaml:4:31): use dapo, grpo, bnpo, dr_grpo, cispo or sapo"},
    {OK "train: {algorithm: ppo, loss: gspo}\n",
     "a ratio of the sequence is one number a completion, and ppo's advantages are of tokens (a.yaml:4:31): use importance.ratio: token, and no gspo"},
    {OK "train: {algorithm: ppo, importance: {ratio: sequence}}\n",
     "a ratio of the sequence is one number a completion, and ppo's advantages are of tokens (a.yaml:4:45): use importance.ratio: token, and no gspo"},
    {OK "train: {algorithm: ppo, off_policy_threshold: 1}\n",
     "train.off_policy_threshold looks at a completion's advantage, and ppo's are of tokens (a.yaml:4:47): remove it"},
    {OK "train: {algorithm: ppo}\nrollout: {filter_groups: {enable: true}}\n",
     "rollout.filter_groups drops groups that tell no completion from another, and ppo compares with the critic (a.yaml:5:35): remove it, or use "
     "train.algorithm: grpo"},
    {PREFER "reward, kl: 0.1}\n", "train.kl is of a policy, and train.algorithm: reward trains none (a.yaml:3:32): remove it"},
    {PREFER "reward, preference: {beta: 0.3}}\n",
     "train.preference.beta is of dpo, orpo and kto, and train.algorithm is reward (a.yaml:3:47): remove it, or use that algorithm"},
    {PREFER "dpo, preference: {center_rewards_coefficient: 0.01}}\n",
     "train.preference.center_rewards_coefficient is of reward, and train.algorithm is dpo (a.yaml:3:66): remove it, or use that algorithm"},
    {OK "adapter: {targets: [q_proj, kproj]}\n",
     "adapter.targets is kproj, not one of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, qkv_proj, gate_up_proj (a.yaml:4:29): did you mean \"k_proj\"?"},
    {OK "adapter: {targets: []}\n", "adapter.targets wants at least one projection, found a list (a.yaml:4:20): an adapter on nothing learns nothing"},
    {OK "rollout: {stop: a}\n", "rollout.stop wants a list of texts, found a (a.yaml:4:17): write [\"first\", \"second\"]"},
    {OK "rollout: {stop: [\"\"]}\n", "rollout.stop wants texts that are not empty, found \"\" (a.yaml:4:18): write a text, or remove the entry"},
    {OK "train: {betas: [0.9]}\n", "train.betas wants two numbers, found 1 (a.yaml:4:16): write [0.9, 0.999]"},
    {OK "memory: {budget: 8G}\n", "memory.budget wants auto or a size, found 8G (a.yaml:4:18): write it as in 8GiB, 512MiB or 8GB"},
    {OK "memory: {budget: 12}\n", "memory.budget is 12, the range is 1024KiB to 900TiB (a.yaml:4:18): write it as in 8GiB, 512MiB or 8GB, or auto"},
    {OK "memory: {kv: fp4}\n", "memory.kv wants auto, bf16, fp8 or a size, found fp4 (a.yaml:4:14): write it as in 8GiB, 512MiB or 8GB"},
    {OK "train: &t {lr: 1}\n", "anchors are not allowed in a recipe (a.yaml:4:8): write the value out"},
    {OK "train: *t\n", "aliases are not allowed in a recipe (a.yaml:4:8): write the value out"},
    {OK "train: {<<: {lr: 1}}\n", "merge keys are not allowed in a recipe (a.yaml:4:9): write the keys out"},
    {OK "seed: !!int 3\n", "tags are not allowed in a recipe (a.yaml:4:7): remove the tag"},
    {OK "--- \nseed: 1\n", "a second document starts here (a.yaml:4:1): one file is one recipe: remove what follows ---"},
    {OK "train: {lr: 1\n", "not valid YAML: did not find expected ',' or '}', while parsing a flow mapping (a.yaml:5:1): check quotes, colons and indentation"},
    {OK "train:\n\tlr: 1\n", "not valid YAML: found character that cannot start any token, while scanning for the next token (a.yaml:5:1): check quotes, "
                            "colons and indentation"},
    {OK "output: \"a\\0b\"\n", "NUL byte in a text (a.yaml:4:9): remove the \\0"},
    {OK "output: \xff\n", "not UTF-8 text (a.yaml:4:9): save the file as UTF-8 text"},
    {OK "? [a]\n: 1\n", "a key must be a word (a.yaml:4:3): quote a text that starts with { or ["},
    {OK "x: [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]\n", "nested deeper than 16 levels (a.yaml:4:20): a recipe is sections of keys"},
    {"model: {path: }\n", "model.path wants a text, found nothing (a.yaml:1:15): write a value"},
    {"seed: 1\n", "model.path is missing (a.yaml: model.path): give a model folder or a .gguf file"},
    {OK "rollout: {filter_groups: {enable: true}}\ntrain: {algorithm: sft}\n",
     "rollout.filter_groups looks at rewards, and this algorithm has none (a.yaml:4:35): remove it, or use train.algorithm: grpo"},
    {"model: {path: m}\nrollout: {replay: r, filter_groups: {enable: true}}\n",
     "rollout.filter_groups generates other groups, and a replay has only its own (a.yaml:2:46): remove it, or generate"},
    {OK "rollout: {filter_groups: {enable: true, difficulty_low_threshold: 0.9, difficulty_high_threshold: 0.1}}\n",
     "rollout.filter_groups.difficulty_low_threshold is 0.9, the high one is 0.1 (a.yaml:4:67): use a low threshold below the high one"},
    {OK "rollout: {filter_groups: {max_num_gen_batches: 1}}\n", "rollout.filter_groups.max_num_gen_batches is 1, the range is 2 to 1000000 (a.yaml:4:48): the default is 10"},
    {"model: {path: m}\nrollout: {replay: r}\ntrain: {advantage: gdpo}\n",
     "train.advantage: gdpo normalizes the rewards one by one, and a replay has their sum alone (a.yaml:3:20): use group_std, batch_std, none or "
     "leave_one_out"},
    {OK "eval: {best: reward_mean}\n", "eval.best is of the evaluation, and there is no data.eval (a.yaml:4:14): give data.eval"},
    {EVAL "eval: {generations: 4}\n",
     "eval.generations is 4, and at eval.temperature 0 they would all be the same (a.yaml:4:21): give eval.temperature, or 1 generation"},
    {EVAL "eval: {generations: 65, temperature: 1}\n",
     "eval.generations is 65, and a step, for which memory is planned, has 64 completions (a.yaml:4:21): use fewer"},
    {EVAL "eval: {generations: 4, temperature: 1, pass_at: [1, 8]}\n", "eval.pass_at has 8, and eval.generations is 4 (a.yaml:4:49): raise eval.generations"},
    {EVAL "eval: {generations: 4, temperature: 1, pass_at: [4, 1]}\n", "eval.pass_at has 1 after 4 (a.yaml:4:49): write them rising, each once"},
    {EVAL "eval: {pass_metric: x}\n", "eval.pass_metric: no reward is called \"x\" (a.yaml:4:21): name one of the recipe's rewards: number"},
    {EVAL "eval: {best: pass@8, pass_at: [1]}\n",
     "eval.best: an evaluation has no figure \"pass@8\" (a.yaml:4:14): use reward_mean, a reward's name, or pass@K with K in eval.pass_at"},
    {EVAL "eval: {patience: 2}\n",
     "eval.patience waits for a better eval.best, and none is named (a.yaml:4:18): name it, as in eval.best: reward_mean"},
    {"model: {path: m}\ntrain: {algorithm: sft}\ndata: {train: [{path: a, prompt: '{q}'}]}\n",
     "data.train[0]: sft reads rows as they are, and no reward judges them (a.yaml:3:34): keep path and weight"},
    {"model: {path: m}\nreward: [{type: number}]\ndata: {train: []}\n",
     "data.train has 0 entries, a list may have 1 to 256 (a.yaml:3:15): write a path, or entries as in - {path: a.jsonl, weight: 1}"},
    {"model: {path: m}\nreward: [{type: number}]\ndata: {train: [{weight: 2}]}\n", "data.train[0]: path is missing (a.yaml:3:16): give a JSONL file"},
    {"model: {path: m}\nreward: [{type: number}]\ndata: {train: [{path: a, wait: 2}]}\n",
     "unknown key \"wait\" in data.train[0] (a.yaml:3:26): keys here: path, weight, system, prompt, rewards"},
    {"model: {path: m}\nreward: [{type: number}]\ndata: {train: [{path: a, rewards: [x]}]}\n",
     "data.train[0]: no reward is called \"x\" (a.yaml:3:35): name rewards of the recipe, or leave it away for all of them"},
    {"model: {path: m}\n", "data.train is missing (a.yaml: data.train): give a JSONL file, or rollout.replay"},
    {"model: {path: m}\ndata: {train: t}\n", "no reward to learn from (a.yaml: reward): add one, as in reward: [{type: number, answer: \"{answer}\"}]"},
    {"model: {path: m}\ndata: {train: t}\nreward: {type: number}\n", "reward wants a list, found a mapping (a.yaml:3:9): start each reward with a dash"},
    {"model: {path: m}\ndata: {train: t}\nreward: [number]\n", "reward[0] wants keys, found number (a.yaml:3:10): write its keys below it, indented"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{weight: 1}]\n",
     "reward[0] has no type (a.yaml:3:10): write type: number, exact, regex, format, length, environment, model or judge, or python:, command: or plugin:"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: number, python: a.py:f}]\n", "reward[0] has both type and python (a.yaml:3:25): make them two rewards"},
    {JUDGE "}]\n", "reward[0]: no prompt (a.yaml:3:10): write what the judge is asked, with {prompt} and {completion}"},
    {JUDGE ", prompt: 'Is it good?'}]\n",
     "reward[0]: the prompt does not show {completion} to the judge (a.yaml:3:32): write {completion} where the answer belongs"},
    {JUDGE ", prompt: '{completion}'}]\n", "reward[0]: no parse (a.yaml:3:10): give a pattern of the score, as in 'Score: ([0-9]+)'"},
    {JUDGE ", prompt: '{completion}', parse: x, range: [1, 1]}]\n", "reward[0]: range is empty (a.yaml:3:65): write the lowest and the highest score"},
    {JUDGE ", prompt: '{completion}', parse: x, range: [1]}]\n", "reward[0].range wants two numbers, found 1 (a.yaml:3:65): write [0.0, 1.0]"},
    {JUDGE ", prompt: '{completion}', parse: x, weights: fp8_block}]\n",
     "reward[0]: weights are of a judge with a model of its own, and model: self reads the base's (a.yaml:3:67): remove it, or set model.weights"},
    {JUDGE ", prompt: '{completion}', parse: x}]\nrollout: {replay: r}\n",
     "reward[0]: a judge judges completions that are sampled (a.yaml:3:17): remove it; a replay has its rewards in the file"},
    {JUDGE ", prompt: '{completion}', parse: x}]\ntrain: {algorithm: sft}\n",
     "reward[0]: a judge judges completions that are sampled, and this algorithm samples none (a.yaml:3:17): remove it, or use train.algorithm: grpo"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: numbr}]\n",
     "reward[0].type is numbr, not one of number, exact, regex, format, length, environment, model, judge (a.yaml:3:17): did you mean \"number\"?"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: number, patern: x}]\n", "unknown key \"patern\" in reward[0] (a.yaml:3:25): did you mean \"pattern\"?"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: number, pattern: x}]\n",
     "reward[0].pattern means nothing to a number reward (a.yaml:3:25): it belongs to regex format"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: number, answer: {answer}}]\n",
     "reward[0].answer wants a text, found a mapping (a.yaml:3:33): put quotes around it, as in \"{answer}\""},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: format}]\n", "reward[0]: no pattern (a.yaml:3:10): give a regular expression"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: length}]\n",
     "reward[0]: length needs buffer (a.yaml:3:10): give the tokens over which the reward falls"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: length, buffer: 300}]\n",
     "reward[0]: buffer is 300 tokens, max is 256 (a.yaml:3:33): use a buffer within max"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{python: a.py}]\n", "reward[0]: python names no function (a.yaml:3:19): write file.py:function"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: number, name: a}, {type: exact, name: a}]\n",
     "reward[0]: another reward has this name (a.yaml:3:31): give each its own name"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: number, name: a/b}]\n",
     "reward[0]: the name becomes a metric's key, reward/NAME, and cannot have this character (a.yaml:3:31): use letters, digits, _, - and ."},
    {OK "numerics: exact\nadapter: {dropout: 0.1}\n",
     "numerics: exact cannot hold with adapter.dropout 0.1: the trainer would drop what the sampler used (a.yaml:5:20): use adapter.dropout: 0, or "
     "numerics: fast"},
    {"model: {path: m, weights: fp8_tensor}\ndata: {train: t.jsonl}\nreward: [{type: number}]\nnumerics: exact\n",
     "numerics: exact cannot hold with fp8_tensor and dynamic activations: their one scale depends on the batch (a.yaml:4:11): use model.weights: "
     "fp8_channel, activations: static or none, or numerics: fast"},
    {"model: {path: m, activations: static}\n",
     "model.activations: static needs one scale for each tensor, and model.weights has more (a.yaml:1:31): use model.weights: fp8_tensor, or "
     "activations: dynamic"},
    {"model: {path: m, weights: fp8_block, activations: static}\n",
     "model.activations: static needs one scale for each tensor, and model.weights has more (a.yaml:1:51): use model.weights: fp8_tensor, or "
     "activations: dynamic"},
    {"model: {path: m, activation_scales: s.json}\n",
     "model.activation_scales is of static activations and of an FP8 KV cache, and the recipe has neither (a.yaml:1:37): use model.weights: fp8_tensor and "
     "activations: static, or memory.kv: fp8, or remove it"},
    {"model: {path: m, fmt: e5m2}\n",
     "model.fmt: e5m2 is not supported: its range is of no use to values with scales, and it has half of e4m3's precision (a.yaml:1:23): use "
     "model.fmt: e4m3"},
    {"model: {path: m, weight_block_size: [128, 128]}\n",
     "model.weight_block_size is of fp8_block alone (a.yaml:1:37): use model.weights: fp8_block, or remove it"},
    {"model: {path: m, weights: fp8_block, weight_block_size: [128, 64]}\n",
     "model.weight_block_size is not [128, 128] (a.yaml:1:57): use [128, 128], the blocks that checkpoints and kernels have"},
    {"model: {path: m, weights: fp8_block, weight_block_size: [128]}\n",
     "model.weight_block_size is not [128, 128] (a.yaml:1:57): use [128, 128], the blocks that checkpoints and kernels have"},
    {"model: {path: m, pow2_scale: true, pow2_activation_scales: false}\n",
     "model.pow2_scale is for weights and activations, and model.pow2_activation_scales says no (a.yaml:1:60): remove model.pow2_scale, and set each of "
     "the two"},
    {"model: {path: m, lm_head: fp8, keep_bf16: [down_proj, head]}\n",
     "model.lm_head: fp8, and model.keep_bf16 keeps \"head\" (a.yaml:1:27): remove it, or take the name out of model.keep_bf16"},
    {"model: {path: m, embedding: fp8, keep_bf16: [embed_tokens]}\n",
     "model.embedding: fp8, and model.keep_bf16 keeps \"embed_tokens\" (a.yaml:1:29): remove it, or take the name out of model.keep_bf16"},
    {"model: {path: m}\ntrain: {algorithm: sft}\n",
     "train.algorithm: sft needs data.train (a.yaml: data.train): give a JSONL file of messages, or of prompt and completion"},
    {"model: {path: m}\ntrain: {algorithm: kto}\n",
     "train.algorithm: kto needs data.train (a.yaml: data.train): give a JSONL file of prompt, completion and label"},
    {PAIRS "rollout: {replay: r}\n", "train.algorithm: dpo replays no rollouts (a.yaml:4:19): remove it, or use train.algorithm: grpo"},
    {PAIRS "reward: [{type: number}]\n",
     "train.algorithm: dpo learns from the data's answers, not from rewards (a.yaml:4:9): remove it, or use train.algorithm: grpo"},
    {"model: {path: m}\ndata: {train: t, prompt: '{q}'}\ntrain: {algorithm: orpo}\n",
     "train.algorithm: orpo takes its prompts from the rows as they are (a.yaml:2:26): remove it, and write the messages into the rows"},
    {"model: {path: m}\ndata: {train: t, system: be kind}\ntrain: {algorithm: kto}\n",
     "train.algorithm: kto takes its prompts from the rows as they are (a.yaml:2:26): remove it, and write the messages into the rows"},
    {OK "train: {preference: {beta: 0.5}}\n",
     "train.preference.beta is of dpo, orpo and kto, and train.algorithm is grpo (a.yaml:4:28): remove it, or use that algorithm"},
    {PREFER "orpo, preference: {loss: ipo}}\n",
     "train.preference.loss is of dpo, and train.algorithm is orpo (a.yaml:3:45): remove it, or use that algorithm"},
    {PREFER "kto, preference: {sft: 1}}\n", "train.preference.sft is of dpo, and train.algorithm is kto (a.yaml:3:43): remove it, or use that algorithm"},
    {PREFER "dpo, preference: {desirable_weight: 2}}\n",
     "train.preference.desirable_weight is of kto, and train.algorithm is dpo (a.yaml:3:56): remove it, or use that algorithm"},
    {PREFER "dpo, preference: {loss: ipo, label_smoothing: 0.1}}\n",
     "train.preference.label_smoothing is of the sigmoid and the robust loss, the hinge and ipo have none (a.yaml:3:66): use train.preference.loss: "
     "sigmoid or robust, or no smoothing"},
    {PREFER "dpo, preference: {label_smoothing: 0.5}}\n",
     "train.preference.label_smoothing is 0.5, the range is 0 to below 0.5 (a.yaml:3:55): the default is 0.0"},
    {PREFER "kto, delta: 4}\n",
     "train.delta is of completions that were sampled, and train.algorithm is kto (a.yaml:3:32): remove it, or use train.algorithm: grpo"},
    {PREFER "sft, entropy_coef: 0.01}\n",
     "train.entropy_coef is of completions that were sampled, and train.algorithm is sft (a.yaml:3:39): remove it, or use train.algorithm: grpo"},
    {PREFER "dpo, kl: 0.1}\n",
     "train.kl is grpo's: train.algorithm dpo is held to its reference by beta (a.yaml:3:29): remove it, and set train.preference.beta"},
    {PREFER "dpo, epochs_per_rollout: 2}\n",
     "train.epochs_per_rollout is 2, and train.algorithm: dpo has no rollout (a.yaml:3:45): use more steps"},
    {PREFER "dpo, mask_truncated: true}\n",
     "train.mask_truncated is of completions that were sampled, and train.algorithm is dpo (a.yaml:3:41): remove it"},
    {PREFER "dpo, batch_size: 4, minibatches: 5}\n",
     "train.minibatches is 5, train.batch_size is 4 (a.yaml:3:53): use fewer minibatches"},
    {PREFER "kto, batch_size: 5, minibatches: 3}\n",
     "train.algorithm: kto estimates the KL from the answers of other prompts in the minibatch, and it has one only (a.yaml:3:37): use a batch of two or "
     "more for each minibatch"},
    {OK "train: {loss: gspo, importance: {level: token}}\n",
     "train.loss: gspo is over sequences, importance.level is token (a.yaml:4:41): remove the level, or use loss: grpo"},
    {OK "train: {loss: gspo, importance: {ratio: token}}\n",
     "train.loss: gspo is over sequences, importance.ratio is token (a.yaml:4:41): remove the ratio, or use loss: grpo"},
    {OK "train: {loss: luspo, importance: {ratio: token}}\n",
     "train.loss: luspo is over sequences, importance.ratio is token (a.yaml:4:42): remove the ratio, or use loss: grpo"},
    {OK "train: {loss: gmpo, importance: {level: token}}\n",
     "train.loss: gmpo is over sequences, importance.level is token (a.yaml:4:41): use importance.level: geometric or sequence"},
    {OK "train: {loss: vespo, importance: {ratio: sequence}}\n",
     "train.loss: vespo makes its own ratio of a sequence's tokens (a.yaml:4:42): remove the ratio"},
    {OK "train: {loss: sapo, clip_high: 0.3}\n", "train.loss: sapo clips no ratio (a.yaml:4:32): remove it, or use another loss"},
    {OK "train: {loss: cispo, delta: 9}\n",
     "train.delta bounds the ratio of grpo, bnpo, dr_grpo, dapo, gspo, luspo and dppo (a.yaml:4:29): remove it, or use another loss"},
    {OK "train: {delta: 1.2}\n", "train.delta is 1.2: the ratio is clipped at 1 + train.clip_high, 1.2 (a.yaml:4:16): use a greater one"},
    {OK "train: {kl_in: reward, kl: 0.1, advantage: gdpo}\n",
     "train.advantage: gdpo normalizes the rewards one by one, and train.kl_in: reward takes the KL from their sum (a.yaml:4:44): use kl_in: loss, or "
     "another advantage"},
    {OK "train: {loss: rloo, aggregation: token_mean}\n",
     "train.loss: rloo has one value a completion, which leaves only aggregation: sequence_mean (a.yaml:4:34): remove it, or use another loss"},
    {OK "train: {kl_in: reward}\n", "train.kl_in: reward takes the KL from the rewards, and train.kl is 0 (a.yaml:4:16): give train.kl, or remove it"},
    {OK "train: {loss: rloo, importance: {level: token}}\n",
     "train.loss: rloo is over sequences, importance.level is token (a.yaml:4:41): use importance.level: geometric or sequence"},
    {OK "train: {kl_output_clamp: 10}\n", "train.kl_output_clamp bounds the KL term, and train.kl is 0 (a.yaml:4:26): give train.kl, or remove it"},
    {OK "train: {sapo: {temperature_neg: 2}}\n", "train.sapo.temperature_neg is of train.loss: sapo (a.yaml:4:33): remove it, or use that loss"},
    {OK "train: {loss: sapo, vespo: {k_pos: 1}}\n", "train.vespo.k_pos is of train.loss: vespo (a.yaml:4:36): remove it, or use that loss"},
    {OK "train: {importance: {correction: none, level: geometric}}\n",
     "train.importance.level: geometric is of the correction, and importance.correction is none (a.yaml:4:47): use importance.correction: mask or "
     "truncate, or another level"},
    {OK "train: {importance: {correction: none, floor: 0.5}}\n",
     "train.importance.floor bounds the correction, and importance.correction is none (a.yaml:4:47): use importance.correction: mask or truncate, or "
     "remove the floor"},
    {OK "train: {importance: {floor: 0.9, cap: 0.9}}\n", "train.importance.floor is 0.9, importance.cap is 0.9 (a.yaml:4:29): use a floor below the cap"},
    {OK "train: {importance: {floor: 1.5}}\n", "train.importance.floor is 1.5, the range is 0 to 1 (a.yaml:4:29): the default is 0.0"},
    {OK "train: {importance: {correction: mask, cap: 0.9}}\n",
     "train.importance.cap is 0.9: mask would drop what sampler and trainer agree on (a.yaml:4:45): use a cap of 1 or more, or importance.correction: "
     "truncate"},
    {OK "train: {importance: {reject: [seq_mean_k4], reject_threshold: [1]}}\n",
     "train.importance.reject: there is no rule \"seq_mean_k4\" (a.yaml:4:30): use token_k1, k2 or k3, seq_sum_k1, k2 or k3, seq_mean_k1, k2 or k3, seq_max_k2 or k3"},
    {OK "train: {importance: {reject: [token_k1, token_k3, token_k2], reject_threshold: [0.5_2, 0.1]}}\n",
     "train.importance.reject has 3 rules, reject_threshold 2 values (a.yaml:4:80): give one for all rules, or one for each"},
    {OK "train: {importance: {reject_threshold: [0.1]}}\n",
     "train.importance.reject_threshold is of rules, and there are none (a.yaml:4:40): name rules in train.importance.reject, or remove it"},
    {OK "train: {importance: {reject: [token_k3, token_k3], reject_threshold: [0.1]}}\n",
     "train.importance.reject has token_k3 twice (a.yaml:4:30): write each once"},
    {OK "train: {importance: {reject: [token_k3], reject_threshold: [0.5_2]}}\n",
     "train.importance.reject_threshold: \"0.5_2\" does not bound token_k3 (a.yaml:4:60): write one bound above 0, as in \"0.01\""},
    {OK "train: {importance: {reject: [seq_mean_k1], reject_threshold: [1.1_1.2]}}\n",
     "train.importance.reject_threshold: \"1.1_1.2\" does not bound seq_mean_k1 (a.yaml:4:63): write two ratios around 1, as in \"0.999_1.001\", or the upper one"},
    {OK "train: {importance: {correction: none, batch_normalize: true}}\n",
     "train.importance.batch_normalize divides the correction's weights, and importance.correction is none (a.yaml:4:57): use importance.correction: "
     "truncate or mask, or remove it"},
    {OK "train: {loss: vespo, importance: {batch_normalize: true}}\n",
     "train.importance.batch_normalize divides weights, and train.loss: vespo has them in its own (a.yaml:4:52): remove it, or use another loss"},
    {OK "train: {kl_in: token, kl: 0.1}\n",
     "train.kl_in: token gives each token an advantage of its own, and train.advantage makes one a completion (a.yaml:4:16): use kl_in: reward, or "
     "advantage: reinforce_pp or reinforce_pp_baseline"},
    {OK "train: {loss: gspo, kl_in: token, kl: 0.1, advantage: reinforce_pp}\n",
     "train.kl_in: token gives each token an advantage of its own, and this ratio is of the completion (a.yaml:4:28): use kl_in: reward, or a loss whose "
     "ratio is of tokens"},
    {OK "train: {kl_bias_correction: true}\n",
     "train.kl_bias_correction weighs the KL term of the loss, and there is none (a.yaml:4:29): give train.kl, with kl_in: loss, or remove it"},
    {OK "train: {kl_bias_correction: true, kl: 0.1, loss: gmpo}\n",
     "train.kl_bias_correction weighs a token's KL by its ratio, and train.loss: gmpo has one of the completion's clipped ones (a.yaml:4:29): remove it, or "
     "use another loss"},
    {OK "train: {top_entropy_quantile: 0.2, loss: rloo}\n",
     "train.top_entropy_quantile leaves tokens out, and train.loss: rloo has one value a completion (a.yaml:4:31): remove it, or use another loss"},
    {PREFER "dpo, top_entropy_quantile: 0.2}\n",
     "train.top_entropy_quantile is of completions that were sampled, and train.algorithm is dpo (a.yaml:3:47): remove it, or use train.algorithm: grpo"},
    {PREFER "dpo, importance: {veto: 0.1}}\n",
     "train.importance.veto is of completions that were sampled, and train.algorithm is dpo (a.yaml:3:44): remove it, or use train.algorithm: grpo"},
    {OK "train: {loss: dppo_kl, importance: {ratio: sequence}}\n",
     "train.loss: dppo_kl is over tokens, the ratio is of sequences (a.yaml:4:44): use importance.ratio: token"},
    {OK "train: {loss: reinforce, importance: {level: sequence}}\n",
     "train.loss: reinforce is over tokens, the ratio is of sequences (a.yaml:4:46): use importance.ratio: token"},
    {OK "train: {loss: reinforce, clip_low: 0.1}\n", "train.loss: reinforce clips no ratio (a.yaml:4:36): remove it, or use another loss"},
    {OK "train: {entropy_target: 0.5}\n", "train.entropy_target is of an adaptive coefficient, and it is fixed (a.yaml:4:25): give train.use_adaptive_entropy: true, or remove it"},
    {OK "train: {use_adaptive_entropy: true, entropy_coef: 2}\n",
     "train.entropy_coef is 2, train.entropy_coef_min is 0 and entropy_coef_max 1 (a.yaml:4:51): begin within the bounds"},
    {OK "train: {distill: {beta: 0.5}}\n", "train.distill.beta is of train.algorithm: distill (a.yaml:4:25): remove it, or use that algorithm"},
    {OK "train: {algorithm: distill, entropy_coef: 0.1}\n",
     "train.entropy_coef is of a policy gradient, and train.distill.loss is full (a.yaml:4:43): remove it, or use train.distill.loss: sampled"},
    {OK "train: {algorithm: distill, loss: gspo}\n",
     "train.loss is of a policy gradient, and train.distill.loss is full (a.yaml:4:35): remove it, or use train.distill.loss: sampled"},
    {OK "train: {algorithm: distill}\nrollout: {top_p: 0.9}\n",
     "rollout.top_p leaves tokens out, and train.distill.loss: full compares whole distributions (a.yaml:5:18): remove it, or use train.distill.loss: sampled"},
    {OK "train: {algorithm: distill}\nrollout: {repetition_penalty: 1.1}\n",
     "rollout.repetition_penalty changes the distribution by what came before, and train.distill.loss: full compares it as the model gives it (a.yaml:5:31): "
     "remove it, or use train.distill.loss: sampled"},
    {OK "train: {algorithm: distill, distill: {loss: sampled, beta: 0.5}}\n",
     "train.distill.beta is of whole distributions, and train.distill.loss is sampled (a.yaml:4:60): remove it, or use train.distill.loss: full"},
    {OK "train: {algorithm: distill, loss: gspo, distill: {loss: sampled}}\n",
     "train.distill.loss: sampled gives each token an advantage of its own, and this ratio is of the completion (a.yaml:4:35): use a loss whose ratio is of tokens"},
    {OK "train: {algorithm: distill, kl: 0.1}\n",
     "train.algorithm: distill is held to its teacher, and has no other reference (a.yaml:4:33): remove it"},
    {OK "train: {algorithm: distill, advantage: none}\n",
     "train.advantage is of rewards, and train.algorithm: distill learns from its teacher (a.yaml:4:40): remove it, or use train.algorithm: grpo"},
    {"model: {path: m}\ndata: {train: t, eval: e}\ntrain: {algorithm: distill}\n",
     "data.eval is scored by the rewards, and there are none (a.yaml:2:24): add a reward, which is not learned from"},
    {OK "train: {algorithm: distill}\nrollout: {filter_groups: {enable: true}}\n",
     "rollout.filter_groups looks at rewards, and this algorithm has none (a.yaml:5:35): remove it, or use train.algorithm: grpo"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: model}]\n",
     "reward[0]: no path (a.yaml:3:10): give the folder of an adapter that train.algorithm: reward has made"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: model, path: a}, {type: model, path: a}, {type: model, path: a}, {type: model, path: a}, "
     "{type: model, path: a}, {type: model, path: a}, {type: model, path: a}, {type: model, path: a}]\n",
     "reward[7]: the eighth reward model, and a run has room for seven (a.yaml:3:178): use fewer"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: number, path: a}]\n",
     "reward[0].path means nothing to a number reward (a.yaml:3:25): it belongs to model"},
    {OK "environment: {python: a.py:C, command: [b]}\n", "environment has both python and command (a.yaml:4:40): keep one of them"},
    {OK "environment: {python: a.py}\n", "environment.python names no class (a.yaml:4:23): write file.py:Class"},
    {OK "environment: {max_turns: 3}\n",
     "environment.max_turns is of an environment, and there is none (a.yaml:4:26): give environment.python or environment.command"},
    {OK "environment: {max_turns: 0, python: a.py:C}\n", "environment.max_turns is 0, the range is 1 to 1000 (a.yaml:4:26): the default is 8"},
    {OK "environment: {python: a.py:C, max_observation_tokens: 512}\n",
     "environment.max_observation_tokens is 512, and a completion has 256 tokens, observations among them (a.yaml:4:55): use a smaller one, or raise "
     "rollout.max_new_tokens"},
    {OK "environment: {python: a.py:C, render: system}\n",
     "environment.render is system, not one of tool, user, text (a.yaml:4:39): write one of these words"},
    {OK "environment: {command: [a]}\nrollout: {replay: r}\n",
     "environment.command answers completions that are sampled, and a replay has its own turns (a.yaml:4:24): remove it; a replay's \"mask\" says what "
     "was observed"},
    {PREFER "dpo}\nenvironment: {python: a.py:C}\n",
     "environment.python answers completions that are sampled, and train.algorithm: dpo samples none (a.yaml:4:23): remove it, or use train.algorithm: "
     "grpo"},
    {PREFER "sft}\nenvironment: {on_error: skip}\n",
     "environment.on_error answers completions that are sampled, and train.algorithm: sft samples none (a.yaml:4:25): remove it, or use "
     "train.algorithm: grpo"},
    {"model: {path: m}\ndata: {train: t}\nreward: [{type: environment}]\n",
     "reward[0]: it is what an environment gives, and there is none (a.yaml:3:17): give environment.python or environment.command"},
    {OK "rollout: {generations: 1}\n",
     "rollout.generations is 1: a completion has nothing to be better than (a.yaml:4:24): use 2 or more"},
    {OK "rollout: {temperature: 0}\n",
     "rollout.temperature is 0: every completion of a prompt would be the same (a.yaml:4:24): use a temperature above 0"},
    {OK "rollout: {ignore_eos: true}\ntrain: {mask_truncated: true}\n",
     "train.mask_truncated leaves nothing to learn from: with rollout.ignore_eos every completion is cut at rollout.max_new_tokens (a.yaml:5:25): give "
     "rollout.stop, or ignore_eos: false"},
    {"model: {path: m.gguf, random_weights: true}\n",
     "model.random_weights takes its shapes from a config.json, and model.path is a GGUF file (a.yaml:1:39): give a folder with config.json and "
     "tokenizer.json as model.path"},
    {OK "train: {checkpointing: none}\nmemory: {offload: activations}\n",
     "memory.offload: activations moves the inputs of layers that are computed again, and train.checkpointing is none (a.yaml:4:24): use "
     "train.checkpointing: layer or auto"},
    {OK "train: {warmup_steps: 101}\n", "train.warmup_steps is 101, train.steps is 100 (a.yaml:4:23): warm up for fewer steps"},
    {OK "train: {minibatches: 65}\n", "train.minibatches is 65, a step has 64 completions (a.yaml:4:22): use fewer minibatches"},
};

static void a_broken_recipe_earns_its_line(void **state)
{
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(broken); i++) {
        tdm_error err;
        tdm_recipe *r = NULL;
        assert_int_equal(parse(broken[i].text, &r, &err), TDM_ERR_RECIPE);
        assert_null(r);
        expect_line(&err, broken[i].line);
    }
}

static const struct { const char *override, *line; } broken_overrides[] = {
    {"seed", "not an override (command line: seed): write section.key=value"},
    {"=3", "not a key before = (command line: =3): write section.key=value"},
    {"seed=", "no value after = (command line: seed=): write section.key=value"},
    {"rollout..top_p=1", "not a key before = (command line: rollout..top_p=1): write section.key=value"},
    {"rollout.temprature=1", "unknown key \"temprature\" in rollout (command line: rollout.temprature=1): did you mean \"temperature\"?"},
    {"rollout.top_p=high", "rollout.top_p wants a number, found high (command line: rollout.top_p=high): write digits, as in 0.5 or 1e-5"},
    {"rollout.top_p=2", "rollout.top_p is 2, the range is above 0 up to 1 (command line: rollout.top_p=2): the default is 1.0"},
    {"rollout=2", "rollout wants keys, found 2 (command line: rollout=2): write its keys below it, indented"},
    {"rollout.stop=[a", "not valid YAML: did not find expected ',' or ']', while parsing a flow sequence (command line: rollout.stop=[a): check "
                        "quotes, colons and indentation"},
    {"reward[1].weight=2", "no entry [1], the list has 1 (command line: reward[1].weight=2): entries count from 0"},
    {"reward[x].weight=2", "a list index must be a number in brackets (command line: reward[x].weight=2): write it as in reward[0].weight=2"},
    {"reward.weight=2", "a list has entries, not keys (command line: reward.weight=2): write it as in reward[0].weight=2"},
    {"model.path=", "model.path wants a text, found nothing (command line: model.path=): write a value"},
};

static void a_broken_override_is_named(void **state)
{
    (void)state;
    for (size_t i = 0; i < TDM_COUNT(broken_overrides); i++) {
        tdm_error err = {0};
        tdm_recipe *r = NULL;
        assert_int_equal(tdm_recipe_parse(&r, OK, strlen(OK), "a.yaml", &broken_overrides[i].override, 1, &err), TDM_ERR_RECIPE);
        assert_null(r);
        expect_line(&err, broken_overrides[i].line);
    }
}

static void a_recipe_that_is_too_large_is_refused(void **state)
{
    (void)state;
    tdm_error err = {0};
    tdm_recipe *r = NULL;
    const size_t len = TDM_YAML_BYTES + 1;
    char *text = malloc(len);
    assert_non_null(text);
    memset(text, '#', len);
    assert_int_equal(tdm_recipe_parse(&r, text, len, "a.yaml", NULL, 0, &err), TDM_ERR_RECIPE);
    expect_line(&err, "1048577 bytes, a recipe may have 1048576 (a.yaml): a recipe is a page or two");
    for (size_t i = 0; i + 1 < len; i += 2) memcpy(text + i, "- ", 2);
    err = (tdm_error){0};
    assert_int_equal(tdm_recipe_parse(&r, text, len - 1, "a.yaml", NULL, 0, &err), TDM_ERR_RECIPE);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_broken_recipe_earns_its_line),
        cmocka_unit_test(a_broken_override_is_named),
        cmocka_unit_test(a_recipe_that_is_too_large_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
