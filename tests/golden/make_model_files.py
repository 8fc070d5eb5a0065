"""Goldens of the readers of model files: tiny checkpoints as other programs write them, and the values they hold.

Writes tests/golden/data/files/:
  NAME/                 folders of safetensors saved by transformers (one file and sharded, old and new config style), and FP8 checkpoints
                        in the layouts of compressed-tensors and of quant_method fp8
  NAME.gguf             the same models as llama.cpp stores them, written by the gguf package
  quants.gguf, quants.safetensors   rows of every quantized type, and what gguf.quants.dequantize makes of them
  expect.json           by file and scheme: facts of the config, and the SHA-256 of every tensor's dequantized f32 values

Run: python tests/golden/make_model_files.py   (torch, transformers, safetensors, gguf, numpy)
Sources: ggml-org/llama.cpp convert_hf_to_gguf.py (LlamaModel.permute, rope_freqs); compressed-tensors quant_args.py; vLLM fp8.py.
"""
import hashlib, json, math, pathlib, shutil

import gguf
import numpy as np
import safetensors
import torch
import transformers
from safetensors.torch import load_file, save_file

OUT = pathlib.Path(__file__).parent / "data" / "files"
PROJ = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FP8 = torch.float8_e4m3fn


def sha(t):
    return hashlib.sha256(t.detach().to(torch.float32).contiguous().numpy().tobytes()).hexdigest()


def is_proj(name):
    return name.endswith(".weight") and name.split(".")[-2] in PROJ


# ---- quantization, as the schemes are defined: scale = amax / 448 in f32 (1 where amax is 0), code = e4m3(clamp(w / scale)) ----

def scale_of(amax, pow2=False):
    s = torch.where(amax == 0, torch.ones_like(amax), amax / torch.tensor(448.0))
    return torch.exp2(torch.ceil(torch.log2(s.double()))).float() if pow2 else s


def quantize(w, scheme, pow2=False):
    """codes, scale as stored, and the values they stand for"""
    w = w.float()
    if scheme == "fp8_tensor":
        s = scale_of(w.abs().max().reshape(1, 1), pow2)
        full = s
    elif scheme == "fp8_channel":
        s = full = scale_of(w.abs().amax(1, keepdim=True), pow2)
    else:
        n, k = math.ceil(w.shape[0] / 128), math.ceil(w.shape[1] / 128)
        s = torch.stack([torch.stack([scale_of(w[i * 128:i * 128 + 128, j * 128:j * 128 + 128].abs().max(), pow2) for j in range(k)]) for i in range(n)])
        full = s.repeat_interleave(128, 0).repeat_interleave(128, 1)[: w.shape[0], : w.shape[1]]
    codes = (w / full).clamp(-448, 448).to(FP8)
    return codes, s, codes.float() * full


# ---- models ----

def save_model(name, config, shard="5GB", rewrite=None, **generation):
    torch.manual_seed(len(name) + config.hidden_size)
    model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    for p_name, p in model.named_parameters():
        with torch.no_grad():
            p.copy_(torch.randn_like(p) * 0.05 + (1.0 if "norm" in p_name else 0.0))
    with torch.no_grad():  # a row of zeros needs a scale too
        model.model.layers[0].mlp.up_proj.weight[3] = 0
    model.generation_config = transformers.GenerationConfig(**generation)
    model.save_pretrained(OUT / name, max_shard_size=shard)
    if rewrite:
        path = OUT / name / "config.json"
        c = json.loads(path.read_text())
        rewrite(c)
        path.write_text(json.dumps(c, indent=2))
    return model


def inv_freq_of(model):
    """in f32: the model's own buffer was rounded to BF16 with the rest"""
    return type(model.model.rotary_emb)(model.config).inv_freq


def facts(model):
    c = model.config
    return {"model_type": c.model_type, "layers": c.num_hidden_layers, "width": c.hidden_size, "ffn": c.intermediate_size,
            "heads": c.num_attention_heads, "kv_heads": c.num_key_value_heads, "vocab": c.vocab_size,
            "head_dim": getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
            "context": c.max_position_embeddings, "tied": bool(c.tie_word_embeddings), "eps": c.rms_norm_eps,
            "inv_freq": inv_freq_of(model).tolist()}


def tensors_of(model):
    state = {k: v for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    return state


def expect_scheme(state, scheme, pow2=False):
    return {k: sha(quantize(v, scheme, pow2)[2] if is_proj(k) and scheme != "bf16" else v.to(torch.bfloat16)) for k, v in state.items()}


def old_style(c):
    """config.json as transformers 4 wrote it"""
    rope = c.pop("rope_parameters")
    c["rope_theta"] = rope.pop("rope_theta")
    c["rope_scaling"] = rope if rope.get("rope_type") != "default" else None
    c["torch_dtype"] = c.pop("dtype")
    c["transformers_version"] = "4.46.0"


# ---- FP8 checkpoints ----

def fp8_folder(name, model, scheme, config, names, ignored=(), static=False, scalar=False):
    state, out, values = tensors_of(model), {}, {}
    for k, v in state.items():
        module = k.removesuffix(".weight")
        if not is_proj(k) or module in ignored:
            out[k], values[k] = v.to(torch.bfloat16).contiguous(), sha(v.to(torch.bfloat16))
            continue
        codes, s, value = quantize(v, scheme)
        if scheme == "fp8_channel":  # compressed-tensors keeps scales in the model's dtype
            s = s.to(torch.bfloat16)
            codes = (v.float() / s.float()).clamp(-448, 448).to(FP8)
            value = codes.float() * s.float()
        out[k], values[k] = codes, sha(value)
        out[f"{module}.{names[0]}"] = (s.reshape(()) if scalar else s.reshape(1)) if scheme == "fp8_tensor" else s
        if static:
            out[f"{module}.{names[1]}"] = torch.tensor([0.03125 + len(out) / 1024], dtype=torch.float32)
            values[f"{module}.input_scale"] = float(out[f"{module}.{names[1]}"])
    (OUT / name).mkdir()
    save_file(out, OUT / name / "model.safetensors", {"format": "pt"})
    c = json.loads((OUT / model.saved_as / "config.json").read_text())
    c["quantization_config"] = config
    (OUT / name / "config.json").write_text(json.dumps(c, indent=2))
    return values


def ct_config(strategy, acts, ignore):
    args = lambda s, dynamic: {"num_bits": 8, "type": "float", "symmetric": True, "strategy": s, "dynamic": dynamic, "observer": "minmax"}
    return {"quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed", "ignore": ignore,
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": args(strategy, False), "input_activations": acts and args(*acts),
                                          "output_activations": None}}}


# ---- GGUF ----

def permute(w, heads):
    """convert_hf_to_gguf.py, LlamaModel.permute"""
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
         "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def gguf_name(k):
    module, kind = k.rsplit(".", 1)
    if module in NAMES:
        return f"{NAMES[module]}.{kind}"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.{kind}"


def gguf_file(name, arch, model, qtype, eos, rope_freqs=False):
    c, state, values = model.config, tensors_of(model), {}
    w = gguf.GGUFWriter(OUT / f"{name}.gguf", arch)
    w.add_block_count(c.num_hidden_layers)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(c.rope_parameters["rope_theta"])
    head_dim = facts(model)["head_dim"]
    if head_dim != c.hidden_size // c.num_attention_heads:
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    if c.rope_parameters["rope_type"] == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(c.rope_parameters["factor"])
    w.add_vocab_size(c.vocab_size)
    w.add_tokenizer_model("gpt2")
    w.add_token_list([f"t{i}" for i in range(c.vocab_size)])
    w.add_eos_token_id(eos)
    if rope_freqs:
        plain = 1.0 / (c.rope_parameters["rope_theta"] ** (torch.arange(0, head_dim, 2).float() / head_dim))
        w.add_tensor("rope_freqs.weight", (plain / inv_freq_of(model)).numpy().astype(np.float32))
    for k, v in state.items():
        data = v.float().numpy()
        t = qtype if v.dim() == 2 else gguf.GGMLQuantizationType.F32
        stored = gguf.quants.quantize(data, t)
        values[k] = sha(torch.from_numpy(gguf.quants.dequantize(stored, t).astype(np.float32)).to(torch.bfloat16))
        if arch == "llama" and k.split(".")[-2] in ("q_proj", "k_proj"):
            stored = permute(stored, c.num_attention_heads if "q_proj" in k else c.num_key_value_heads)
        w.add_tensor(gguf_name(k), np.ascontiguousarray(stored), raw_dtype=t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return values


def random_blocks(rng, t, rows, cols):
    """valid blocks of a type gguf-py cannot quantize to: random bytes with sane f16 scales"""
    size, width = gguf.GGML_QUANT_SIZES[t]
    blocks = rng.integers(0, 256, (rows * cols // size, width), dtype=np.uint8)
    where = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}[t.name]
    for at in where:
        blocks[:, at:at + 2] = rng.normal(0, 0.02, (len(blocks), 1)).astype(np.float16).view(np.uint8)
    return blocks.reshape(rows, -1)


def quants():
    rng, rows, cols = np.random.default_rng(7), 2, 512
    w, values = gguf.GGUFWriter(OUT / "quants.gguf", "llama"), {}
    w.add_custom_alignment(64)
    w.add_array("test.ints", [-3, 0, 2 ** 31 - 1])
    w.add_array("test.texts", ["", "one", "zwei"])
    w.add_array("test.floats", [0.5, -2.25])
    w.add_bool("test.bool", True)
    w.add_uint64("test.u64", 2 ** 40)
    w.add_float64("test.f64", 0.1)
    for name in ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"):
        t = gguf.GGMLQuantizationType[name]
        if name.endswith("_K"):
            data = random_blocks(rng, t, rows, cols)
        else:
            x = rng.normal(0, 1, (rows, cols)).astype(np.float32)
            x[0, :4] = (6e-8, -3e-6, 0.0, -0.0)  # f16 subnormals and both zeros
            data = gguf.quants.quantize(x, t)
        values[name] = torch.from_numpy(np.ascontiguousarray(gguf.quants.dequantize(data, t).astype(np.float32)))
        w.add_tensor(name, data, raw_dtype=t)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    save_file(values, OUT / "quants.safetensors")


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    small = dict(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                 bos_token_id=1, dtype="bfloat16")
    llama3 = {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 64}
    cases = []

    def case(path, model, scheme, values, eos, **more):
        cases.append({"path": path, "scheme": scheme, "config": facts(model), "eos": eos, "values": values} | more)

    def keep(name, model):
        model.saved_as = name
        return model

    llama = keep("llama", save_model("llama", transformers.LlamaConfig(**small, eos_token_id=2, max_position_embeddings=512, rope_parameters=llama3,
                 attention_bias=True, mlp_bias=True, tie_word_embeddings=False), shard="20KB", rewrite=old_style, eos_token_id=[2, 5]))
    qwen2 = keep("qwen2", save_model("qwen2", transformers.Qwen2Config(**small, eos_token_id=3, max_position_embeddings=256, tie_word_embeddings=True,
                 use_sliding_window=True, sliding_window=8, max_window_layers=1, rope_parameters={"rope_type": "default", "rope_theta": 1e6}), eos_token_id=3))
    qwen3 = keep("qwen3", save_model("qwen3", transformers.Qwen3Config(**small, head_dim=16, eos_token_id=4, max_position_embeddings=256, tie_word_embeddings=False,
                 rope_parameters={"rope_type": "default", "rope_theta": 1e6}), eos_token_id=4))
    mistral = keep("mistral", save_model("mistral", transformers.MistralConfig(**small, eos_token_id=2, max_position_embeddings=256, sliding_window=16,
                   tie_word_embeddings=False, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}), eos_token_id=2))
    wide = keep("wide", save_model("wide", transformers.LlamaConfig(**small | dict(hidden_size=136, intermediate_size=132, num_hidden_layers=1, num_attention_heads=4,
                num_key_value_heads=1, vocab_size=32), eos_token_id=2, max_position_embeddings=256, tie_word_embeddings=True), eos_token_id=2))
    for m, eos in ((llama, [2, 5]), (qwen2, [3]), (qwen3, [4]), (mistral, [2])):
        case(m.saved_as, m, "bf16", expect_scheme(tensors_of(m), "bf16"), eos)
    for scheme in ("fp8_tensor", "fp8_channel", "fp8_block"):
        for pow2 in (False, True):
            case("wide", wide, scheme, expect_scheme(tensors_of(wide), scheme, pow2), [2], pow2=pow2)
    case("llama", llama, "fp8_channel", expect_scheme(tensors_of(llama), "fp8_channel"), [2, 5])

    plain = keep("plain", save_model("plain", transformers.LlamaConfig(**small, eos_token_id=2, max_position_embeddings=256, tie_word_embeddings=False), eos_token_id=2))
    ignored = ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    case("ct_channel", plain, "fp8_channel", fp8_folder("ct_channel", plain, "fp8_channel", ct_config("channel", ("token", True), ["lm_head", r"re:.*\.down_proj$"]),
         ("weight_scale",), ignored), [2], act="dynamic", stored=True)
    case("ct_tensor", plain, "fp8_tensor", fp8_folder("ct_tensor", plain, "fp8_tensor", ct_config("tensor", ("tensor", False), ["lm_head"]),
         ("weight_scale", "input_scale"), static=True), [2], act="static", stored=True)
    case("ct_token", plain, "fp8_channel", fp8_folder("ct_token", plain, "fp8_tensor", ct_config("tensor", ("token", True), ["lm_head"]),
         ("weight_scale",)), [2], act="dynamic", stored=True)
    case("fp8_static", plain, "fp8_tensor", fp8_folder("fp8_static", plain, "fp8_tensor", {"quant_method": "fp8", "activation_scheme": "static",
         "ignored_layers": ["lm_head", "down_proj"]}, ("weight_scale", "input_scale"), ignored, static=True, scalar=True), [2], act="static", stored=True)
    case("fp8_block", wide, "fp8_block", fp8_folder("fp8_block", wide, "fp8_block", {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3",
         "weight_block_size": [128, 128], "modules_to_not_convert": None}, ("weight_scale_inv",)), [2], act="dynamic", stored=True)
    shutil.rmtree(OUT / "plain")

    q = gguf.GGMLQuantizationType
    case("llama.gguf", llama, "bf16", gguf_file("llama", "llama", llama, q.BF16, 2, rope_freqs=True), [2])
    case("qwen2.gguf", qwen2, "bf16", gguf_file("qwen2", "qwen2", qwen2, q.Q8_0, 3), [3])
    case("qwen3.gguf", qwen3, "bf16", gguf_file("qwen3", "qwen3", qwen3, q.Q4_1, 4), [4])
    case("mistral.gguf", mistral, "bf16", gguf_file("mistral", "llama", mistral, q.F16, 2), [2])
    cases[-1]["config"]["model_type"] = "llama"  # GGUF has no other word for it
    quants()
    versions = {m.__name__: m.__version__ for m in (torch, transformers, safetensors, np)}
    (OUT / "expect.json").write_text(json.dumps({"versions": versions, "cases": cases}, separators=(",", ":")))


if __name__ == "__main__":
    main()
