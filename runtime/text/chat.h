/* Chat templates: a bounded interpreter of the Jinja subset that the models' own templates use. No host access: a template sees
 * only the variables it is given; steps, output bytes and nesting have limits, and passing one is an error.
 *
 * Rendering equals transformers' apply_chat_template: trim_blocks, lstrip_blocks, the loop controls, {% generation %},
 * raise_exception, transformers' tojson, Python's str() and repr() of what is printed. Where it differs, on purpose:
 *   clock      strftime_now reads the variable "date" ("2026-01-31" or "2026-01-31T12:34:56"), so a run repeats itself. Without
 *              "date" the function is undefined, and templates that test for it take their own fixed date.
 *   integers   64 bits; passing them is an error
 *   laziness   map, select and the like run at once, so an error in one that nobody reads is still an error
 *   absent     other templates (extends, include, import), autoescape, `self`, host-flavoured filters (urlize, urlencode, random,
 *              pprint, xmlattr, striptags, wordwrap, filesizeformat), str.encode, translate and format_map, dict.fromkeys, attributes of
 *              numbers; a group of groupby is a plain pair, without .grouper and .list
 *   Unicode    classes of characters are utf8proc's; another version of Unicode than Python's knows more letters
 *   addresses  what Python prints with an address ("<generator object ... at 0x...>") is printed without one
 * Source  Jinja 3.1.6 and transformers' utils/chat_template_utils.py. */
#ifndef TANDEM_RUNTIME_TEXT_CHAT_H
#define TANDEM_RUNTIME_TEXT_CHAT_H

#include <jansson.h>

#include "runtime/text/tokenizer.h"

/* Limits of one template and of one rendering. */
#define TDM_CHAT_MAX_TEMPLATE_BYTES (1u << 20)
#define TDM_CHAT_MAX_PARSE_BYTES (256u << 20) /* host memory the parsed template takes */
#define TDM_CHAT_MAX_STEPS 20000000           /* nodes evaluated; long strings count one more per 64 bytes touched */
#define TDM_CHAT_MAX_OUTPUT_BYTES (16u << 20)
#define TDM_CHAT_MAX_MEMORY_BYTES (256u << 20) /* host memory of one rendering, released when it ends */
#define TDM_CHAT_MAX_NESTING 100               /* brackets and tags inside each other in the text of a template */
#define TDM_CHAT_MAX_DEPTH 800                 /* evaluations inside each other, recursive macros included */
#define TDM_CHAT_MAX_DATA_DEPTH 200            /* lists and objects inside each other */
#define TDM_CHAT_MAX_RANGE 100000              /* items of range(), as in Jinja's sandbox */

typedef struct tdm_chat tdm_chat;

/* Parses once. name is what errors call it ("tokenizer_config.json: chat_template"); where is "name:line".
 * Errors  TDM_ERR_INPUT: the template is not one, or is past a limit; TDM_ERR_OTHER: out of memory. */
tdm_status tdm_chat_open(tdm_chat **c, const char *template_text, const char *name, tdm_error *err);
void tdm_chat_close(tdm_chat *c);
/* Appends the rendered text; leaves *out alone on failure. vars: a JSON object, "messages", "add_generation_prompt", "tools",
 * "enable_thinking", "bos_token", "date" (above), ... As in transformers, "tools" and "documents" are none and add_generation_prompt
 * is false when they are not given, and a message's "reasoning_content", "thinking" or "reasoning" is found under the first two names.
 * Any thread; c does not change.
 * Errors  TDM_ERR_INPUT: what the template refuses (raise_exception, with its message), a fault in it, a limit passed. */
tdm_status tdm_chat_render(const tdm_chat *c, const json_t *vars, tdm_text *out, tdm_error *err);

#endif
