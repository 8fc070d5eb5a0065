/* labels: unit
 * What config.json may say and what is refused, by name; defaults are those of transformers' config classes. The
 * positive side against transformers itself stands in test_model_files.c. */
#include "memory/fp8_checkpoint.h"
#include "memory/model_config.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define SHAPE                                                                                                          \
    "\"num_hidden_layers\":4,\"hidden_size\":64,\"intermediate_size\":128,\"num_attention_heads\":4,\"num_key_value_"  \
    "heads\":2,\"vocab_size\":100"

static tdm_status parse(tdm_model_config *c, const char *type, const char *more, const char *generation, tdm_error *err)
{
    char text[4096];
    snprintf(text, sizeof text, "{\"model_type\":\"%s\"," SHAPE "%s%s}", type, *more ? "," : "", more);
    return tdm_model_config_parse(c, text, strlen(text), generation, generation ? strlen(generation) : 0, "config.json",
                                  err);
}

static void refused(const char *type, const char *more, const char *what)
{
    tdm_error err = {0};
    tdm_model_config c;
    const tdm_status st = parse(&c, type, more, NULL, &err);
    if (st != TDM_ERR_INPUT || !strstr(err.what, what))
        fail_msg("%s {%s}: \"%s\", expected something with \"%s\"", type, more, err.what, what);
    assert_string_equal(err.where, "config.json");
}

static tdm_model_config read(const char *type, const char *more)
{
    tdm_error err = {0};
    tdm_model_config c;
    if (parse(&c, type, more, NULL, &err) != TDM_OK) fail_msg("%s {%s}: %s", type, more, err.what);
    return c;
}

static void what_is_not_computed_is_refused_by_name(void **state)
{
    (void)state;
    refused("gemma2", "", "model_type gemma2");
    refused("qwen2_moe", "", "model_type qwen2_moe");
    refused("qwen3_moe", "", "num_experts is missing");
    refused("qwen3_moe", "\"num_experts\":4,\"moe_intermediate_size\":8", "num_experts_per_tok is missing");
    refused("qwen3_moe", "\"num_experts\":4,\"moe_intermediate_size\":8,\"num_experts_per_tok\":5", "num_experts_per_tok is 5, there are 4 experts");
    refused("qwen3_moe", "\"num_experts\":4,\"moe_intermediate_size\":8,\"num_experts_per_tok\":2,\"mlp_only_layers\":7", "mlp_only_layers is not a list");
    refused("llama", "\"hidden_act\":\"gelu\"", "hidden_act gelu");
    refused("llama", "\"partial_rotary_factor\":0.5", "partial_rotary_factor");
    refused("llama", "\"num_local_experts\":8", "mixture of experts");
    refused("qwen2", "\"use_mrope\":true", "use_mrope");
    refused("llama", "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}", "type yarn");
    refused("llama", "\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":4}", "type dynamic");
    refused("llama", "\"rope_parameters\":{\"rope_type\":\"longrope\"}", "type longrope");
    refused("llama", "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}", "differs between layers");
    refused("llama", "\"rope_parameters\":{\"partial_rotary_factor\":0.25}", "partial_rotary_factor");
    refused("qwen2",
            "\"layer_types\":[\"sliding_attention\",\"full_attention\",\"sliding_attention\",\"full_attention\"]",
            "layer 0 has a sliding window");
    refused("qwen2", "\"layer_types\":[\"full_attention\",\"full_attention\",\"linear_attention\",\"full_attention\"]",
            "layer 2 is \"linear_attention\"");
    refused("llama", "\"layer_types\":[\"full_attention\"]", "layer_types");
}

static void fields_out_of_range_are_refused(void **state)
{
    (void)state;
    refused("llama", "\"rms_norm_eps\":0", "rms_norm_eps");
    refused("llama", "\"rms_norm_eps\":\"small\"", "rms_norm_eps");
    refused("llama", "\"head_dim\":15", "head width of 15");
    refused("llama", "\"head_dim\":100000", "head_dim");
    refused("llama", "\"max_position_embeddings\":0", "max_position_embeddings");
    refused("llama", "\"rope_theta\":0", "rope_theta");
    refused("llama", "\"rope_scaling\":{\"type\":\"linear\"}", "factor is missing");
    refused("llama", "\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":1}",
            "high_freq_factor");
    refused("llama", "\"rope_scaling\":[]", "not an object");
    refused("llama", "\"attention_bias\":1", "attention_bias");
    refused("llama", "\"tie_word_embeddings\":\"yes\"", "tie_word_embeddings");
    refused("llama", "\"eos_token_id\":\"2\"", "eos_token_id");
    refused("llama", "\"eos_token_id\":[1,2,3,4,5,6,7,8,9]", "8 end tokens");
    refused("llama", "\"vocab_size\":101", "duplicate");
    tdm_error err = {0};
    tdm_model_config c;
    const char *three = "{\"model_type\":\"llama\",\"num_hidden_layers\":4,\"hidden_size\":96,\"intermediate_size\":"
                        "128,\"num_attention_heads\":4,"
                        "\"num_key_value_heads\":3,\"vocab_size\":100}";
    assert_int_equal(tdm_model_config_parse(&c, three, strlen(three), NULL, 0, "config.json", &err), TDM_ERR_INPUT);
    assert_non_null(strstr(err.what, "multiple of 3"));
}

static void missing_fields_have_the_defaults_of_transformers(void **state)
{
    (void)state;
    tdm_model_config c = read("llama", "");
    assert_int_equal(c.context, 2048);
    assert_int_equal(c.head_dim, 16);
    assert_true(c.rope_theta == 10000 && c.rope == TDM_ROPE_PLAIN && !c.tied_head && !c.qkv_bias && !c.o_bias &&
                c.norm_eps == 1e-6f);
    assert_int_equal(c.bos, -1);
    assert_int_equal(c.eos_count, 0);
    c = read("qwen2", "");
    assert_true(c.qkv_bias && !c.o_bias && !c.qk_norm && c.window == 0 && c.context == 32768);
    c = read("qwen3", "");
    assert_true(!c.qkv_bias && c.qk_norm && c.head_dim == 128);
    c = read("mistral", "");
    assert_int_equal(c.window, 4096);
    c = read("mistral", "\"sliding_window\":null");
    assert_int_equal(c.window, 0);
    c = read("llama", "\"attention_bias\":true");
    assert_true(c.qkv_bias && c.o_bias);
}

static void windows_are_read_as_qwen_means_them(void **state)
{
    (void)state;
    tdm_model_config c =
        read("qwen2", "\"sliding_window\":8,\"max_window_layers\":2"); /* use_sliding_window is false */
    assert_int_equal(c.window, 0);
    c = read("qwen2", "\"use_sliding_window\":true,\"sliding_window\":8,\"max_window_layers\":2");
    assert_true(c.window == 8 && !c.sliding[1] && c.sliding[2] && c.sliding[3]);
    c = read("qwen2", "\"use_sliding_window\":true,\"sliding_window\":8,\"max_window_layers\":4");
    assert_int_equal(c.window, 0);
    c = read("qwen3", "\"use_sliding_window\":true,\"sliding_window\":8,\"layer_types\":[\"full_attention\",\"sliding_"
                      "attention\",\"sliding_attention\",\"sliding_attention\"]");
    assert_true(c.window == 8 && !c.sliding[0] && c.sliding[1] && c.sliding[3]);
    c = read("qwen2", "\"use_sliding_window\":true,\"sliding_window\":8,\"layer_types\":[\"sliding_attention\",\"full_attention\",\"sliding_"
                      "attention\",\"full_attention\"]");
    assert_true(c.window == 8 && c.sliding[0] && !c.sliding[1] && c.sliding[2] && !c.sliding[3]);
}

/* SHAPE has four layers and heads of 16. */
#define FACTORS(name, count) "\"" name "_factor\":[" count "]"

static void gemma_is_read_as_transformers_means_it(void **state)
{
    (void)state;
    tdm_model_config c = read("gemma3_text", "\"sliding_window\":8,\"sliding_window_pattern\":3,\"head_dim\":32,\"query_pre_attn_scalar\":64");
    assert_true(c.window == 8 && c.sliding[0] && c.sliding[1] && !c.sliding[2] && c.sliding[3]);
    assert_true(c.rope_theta == 1e6 && c.rope_local_theta == 1e4 && c.attention_scale == 0.125f && c.glu == TDM_GLU_GELU_TANH);
    assert_true(c.tied_head && c.qk_norm && c.head_dim == 32);
    c = read("gemma3_text", "\"rope_theta\":5000,\"rope_local_base_freq\":300,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":8}");
    assert_true(c.head_dim == 256 && c.window == 4096 && c.sliding[3] && c.rope == TDM_ROPE_LINEAR && c.rope_theta == 5000 && c.rope_local_theta == 300);
    float full[128], local[128];
    tdm_rope_inv_freq_of(&c, false, 10, full);
    tdm_rope_inv_freq_of(&c, true, 10, local);
    assert_true(full[0] == 0.125f && local[0] == 1.0f && local[64] > 0.0577f && local[64] < 0.0578f);
    c = read("gemma3_text", "\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"default\",\"rope_theta\":7},"
                            "\"full_attention\":{\"rope_type\":\"linear\",\"factor\":2,\"rope_theta\":9}}");
    assert_true(c.rope_theta == 9 && c.rope_local_theta == 7 && c.rope == TDM_ROPE_LINEAR && c.rope_factor == 2);
    refused("gemma3_text", "\"final_logit_softcapping\":30.0", "final_logit_softcapping");
    refused("gemma3_text", "\"attn_logit_softcapping\":50.0", "attn_logit_softcapping");
    refused("gemma3_text", "\"use_bidirectional_attention\":true", "use_bidirectional_attention");
    refused("gemma3_text", "\"hidden_activation\":\"silu\"", "hidden_activation silu");
    refused("gemma3_text", "\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"linear\",\"factor\":2}}", "type linear for layers with a window");
    refused("gemma3_text", "\"rope_parameters\":{\"linear_attention\":{\"rope_type\":\"default\"}}", "differs between layers");
}

static void phi_is_read_as_transformers_means_it(void **state)
{
    (void)state;
    tdm_model_config c = read("phi3", "\"max_position_embeddings\":64,\"original_max_position_embeddings\":16,\"partial_rotary_factor\":0.5,"
                                      "\"rope_scaling\":{\"type\":\"longrope\"," FACTORS("short", "1,2,3,4") "," FACTORS("long", "5,6,7,8") "}");
    assert_true(c.rope == TDM_ROPE_LONG && c.rope_dim == 8 && c.rope_original_context == 16 && c.window == 0 && c.norm_eps == 1e-5f);
    assert_true(c.rope_factors[3] == 4 && c.rope_long_factors[0] == 5);
    assert_true(c.rope_attention > 1.2247f && c.rope_attention < 1.2248f); /* sqrt(1 + ln 4 / ln 16) */
    float near[4], far[4];
    tdm_rope_inv_freq_of(&c, false, 16, near);
    tdm_rope_inv_freq_of(&c, false, 17, far);
    assert_true(near[0] == 1.0f && near[1] < 0.0501f && far[0] == 0.2f);
    c = read("phi3", "\"sliding_window\":2047");
    assert_true(c.window == 2047 && c.sliding[0] && c.sliding[3] && c.rope == TDM_ROPE_PLAIN && c.rope_dim == 0);
    refused("phi3", "\"partial_rotary_factor\":0.4", "partial_rotary_factor");
    refused("phi3", "\"head_dim\":511,\"rope_scaling\":{\"type\":\"longrope\"}", "head width of 511");
    refused("phi3", "\"rope_scaling\":{\"type\":\"longrope\"," FACTORS("short", "1,2,3") "," FACTORS("long", "5,6,7,8") "}", "short_factor is not a list of 8");
    refused("phi3", "\"partial_rotary_factor\":0.5,\"rope_scaling\":{\"type\":\"su\"," FACTORS("short", "1,2,3,4") "," FACTORS("long", "5,6,7,0") "}",
            "number 3 is not above 0");
}

static void one_tower_of_several_is_read(void **state)
{
    (void)state;
    tdm_error err = {0};
    tdm_model_config c;
    const char *text = "{\"model_type\":\"qwen3_vl\",\"tie_word_embeddings\":true,\"eos_token_id\":[5,6],\"text_config\":{\"model_type\":\"qwen3_vl_text\"," SHAPE
                       ",\"tie_word_embeddings\":false,\"rope_scaling\":{\"rope_type\":\"default\",\"mrope_section\":[24,20,20]}},\"vision_config\":{}}";
    assert_int_equal(tdm_model_config_parse(&c, text, strlen(text), NULL, 0, "config.json", &err), TDM_OK);
    assert_true(c.towers && c.qk_norm && c.tied_head && c.head_dim == 128 && c.eos_count == 2);
    assert_string_equal(c.model_type, "qwen3");
    const char *const bad[][2] = {
        {"{\"model_type\":\"gemma3\"}", "text_config"},
        {"{\"model_type\":\"mistral3\",\"text_config\":{\"model_type\":\"ministral3\"," SHAPE "}}", "text_config of model_type ministral3"},
    };
    for (size_t i = 0; i < TDM_COUNT(bad); i++) {
        err = (tdm_error){0};
        assert_int_equal(tdm_model_config_parse(&c, bad[i][0], strlen(bad[i][0]), NULL, 0, "config.json", &err), TDM_ERR_INPUT);
        if (!strstr(err.what, bad[i][1])) fail_msg("%s", err.what);
    }
}

static void both_styles_of_rope_are_read(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "\"rope_theta\":500000.0,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
        "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64}",
        "\"rope_parameters\":{\"rope_theta\":500000,\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,\"high_freq_"
        "factor\":4,\"original_max_position_embeddings\":64},\"rope_scaling\":null"};
    for (size_t i = 0; i < TDM_COUNT(texts); i++) {
        const tdm_model_config c = read("llama", texts[i]);
        assert_int_equal(c.rope, TDM_ROPE_LLAMA3);
        assert_true(c.rope_theta == 500000 && c.rope_factor == 8 && c.rope_low_freq == 1 && c.rope_high_freq == 4 &&
                    c.rope_original_context == 64);
    }
}

static void end_tokens_come_from_both_files_once(void **state)
{
    tdm_error err = {0};
    tdm_model_config c;
    (void)state;
    assert_int_equal(parse(&c, "llama", "\"bos_token_id\":1,\"eos_token_id\":7", "{\"eos_token_id\":[9,7,5000]}", &err),
                     TDM_OK);
    assert_int_equal(c.bos, 1);
    assert_int_equal(c.eos_count, 2); /* 5000 is outside the vocabulary: it can never be drawn */
    assert_int_equal(c.eos[0], 7);
    assert_int_equal(c.eos[1], 9);
}

static void quantization_refused(const char *text, const char *what)
{
    tdm_error err = {0};
    tdm_fp8_checkpoint *q;
    json_t *root = json_pack("{s:o}", "quantization_config", json_loads(text, 0, NULL));
    assert_non_null(root);
    const tdm_status st = tdm_fp8_checkpoint_read(&q, root, "config.json", &err);
    if (st != TDM_ERR_INPUT || !strstr(err.what, what))
        fail_msg("%s: \"%s\", expected something with \"%s\"", text, err.what, what);
    json_decref(root);
}

#define ARGS(strategy, dynamic)                                                                                        \
    "{\"type\":\"float\",\"num_bits\":8,\"strategy\":\"" strategy "\",\"dynamic\":" dynamic "}"
#define GROUP(weights, acts)                                                                                           \
    "{\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"g\":{\"targets\":[\"Linear\"],\"weights\":" weights \
    ",\"input_activations\":" acts "}}}"

static void other_quantizations_are_refused_by_name(void **state)
{
    (void)state;
    quantization_refused("{}", "quant_method none");
    quantization_refused("{\"quant_method\":\"gptq\"}", "quant_method gptq");
    quantization_refused("{\"quant_method\":\"bitsandbytes\"}", "quant_method bitsandbytes");
    quantization_refused("{\"quant_method\":\"fp8\",\"weight_block_size\":[64,64]}", "weight_block_size");
    quantization_refused("{\"quant_method\":\"fp8\",\"fmt\":\"e5m2\"}", "e5m2");
    quantization_refused("{\"quant_method\":\"fp8\",\"activation_scheme\":\"sometimes\"}", "sometimes");
    quantization_refused("{\"quant_method\":\"fp8\",\"activation_scheme\":\"static\",\"weight_block_size\":[128,128]}",
                         "static");
    quantization_refused("{\"quant_method\":\"fp8\",\"modules_to_not_convert\":[\"(\"]}", "regular expression");
    quantization_refused("{\"quant_method\":\"compressed-tensors\",\"format\":\"pack-quantized\"}", "pack-quantized");
    quantization_refused("{\"quant_method\":\"compressed-tensors\"}", "config_groups");
    quantization_refused(GROUP("{\"type\":\"int\",\"num_bits\":8}", "null"), "type int");
    quantization_refused(GROUP("{\"type\":\"float\",\"num_bits\":4}", "null"), "4 bits");
    quantization_refused(GROUP(ARGS("group", "false"), "null"), "group");
    quantization_refused(GROUP(ARGS("block", "false"), "null"), "block_structure");
    quantization_refused(GROUP(ARGS("channel", "false"), ARGS("tensor", "true")), "dynamic activations by tensor");
}

static void module_of(const tdm_fp8_checkpoint *q, const char *name, bool quantized)
{
    tdm_error err = {0};
    tdm_fp8_module m;
    assert_int_equal(tdm_fp8_checkpoint_module(q, name, &m, &err), TDM_OK);
    if (m.quantized != quantized) fail_msg("%s", name);
}

static void modules_left_out_are_found(void **state)
{
    tdm_error err = {0};
    tdm_fp8_checkpoint *q;
    (void)state;
    json_t *root = json_loads("{\"quantization_config\":{\"quant_method\":\"fp8\",\"modules_to_not_convert\":[\"model."
                              "layers.1\",\"o_proj\",\"model.layers.3.*.up_proj\"]}}",
                              0, NULL);
    assert_int_equal(tdm_fp8_checkpoint_read(&q, root, "config.json", &err), TDM_OK);
    module_of(q, "model.layers.1.mlp.up_proj", false);
    module_of(q, "model.layers.11.mlp.up_proj", true); /* a boundary stands after the 1 */
    module_of(q, "model.layers.3.mlp.up_proj", false);
    module_of(q, "model.layers.2.self_attn.o_proj", false);
    module_of(q, "model.layers.2.self_attn.q_proj", true);
    module_of(q, "lm_head", false);
    tdm_fp8_checkpoint_free(q);
    json_decref(root);
}

static void an_expression_that_explodes_is_an_error(void **state)
{
    tdm_error err = {0};
    tdm_fp8_checkpoint *q;
    tdm_fp8_module m;
    (void)state;
    json_t *root = json_loads("{\"quantization_config\":{\"quant_method\":\"compressed-tensors\",\"ignore\":[\"re:((m|"
                              "mo|o|d|e|l|.)+)+[#$]\"],\"config_groups\":{\"g\":{"
                              "\"weights\":" ARGS("channel", "false") "}}}}",
                              0, NULL);
    assert_int_equal(tdm_fp8_checkpoint_read(&q, root, "config.json", &err), TDM_OK);
    assert_int_equal(tdm_fp8_checkpoint_module(q, "model.layers.1.self_attn.q_proj", &m, &err), TDM_ERR_INPUT);
    assert_non_null(strstr(err.what, "too long"));
    tdm_fp8_checkpoint_free(q);
    json_decref(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_computed_is_refused_by_name),
        cmocka_unit_test(fields_out_of_range_are_refused),
        cmocka_unit_test(missing_fields_have_the_defaults_of_transformers),
        cmocka_unit_test(windows_are_read_as_qwen_means_them),
        cmocka_unit_test(both_styles_of_rope_are_read),
        cmocka_unit_test(gemma_is_read_as_transformers_means_it),
        cmocka_unit_test(phi_is_read_as_transformers_means_it),
        cmocka_unit_test(one_tower_of_several_is_read),
        cmocka_unit_test(end_tokens_come_from_both_files_once),
        cmocka_unit_test(other_quantizations_are_refused_by_name),
        cmocka_unit_test(modules_left_out_are_found),
        cmocka_unit_test(an_expression_that_explodes_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
