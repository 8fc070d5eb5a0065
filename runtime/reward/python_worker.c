/* The programs that python workers run, handed to the interpreter with -c. They keep the pipes for themselves: what the function or the
 * environment prints goes to stderr and cannot disturb the protocol. */
#include "runtime/reward/worker.h"

/* Finds the name in the file, and greets. */
#define BEGINNING                                                                                                                                    \
    "import asyncio, importlib.util, inspect, json, os, sys\n"                                                                                       \
    "out = os.fdopen(os.dup(1), 'w', encoding='utf-8')\n"                                                                                            \
    "inp = os.fdopen(os.dup(0), encoding='utf-8')\n"                                                                                                 \
    "os.dup2(2, 1)\n"                                                                                                                                \
    "os.dup2(os.open(os.devnull, os.O_RDONLY), 0)\n"                                                                                                 \
    "def say(reply):\n"                                                                                                                              \
    "    out.write(json.dumps(reply) + '\\n')\n"                                                                                                    \
    "    out.flush()\n"                                                                                                                              \
    "def describe(e):\n"                                                                                                                             \
    "    t, line = e.__traceback__, ''\n"                                                                                                            \
    "    while t:\n"                                                                                                                                 \
    "        if t.tb_frame.f_code.co_filename == path: line = ', line %d' % t.tb_lineno\n"                                                           \
    "        t = t.tb_next\n"                                                                                                                        \
    "    return (type(e).__name__ + ': ' + str(e)).splitlines()[0] + line\n"                                                                         \
    "def named(f, arguments):\n"                                                                                                                     \
    "    parameters = inspect.signature(f).parameters.values()\n"                                                                                    \
    "    if any(p.kind == p.VAR_KEYWORD for p in parameters): return arguments\n"                                                                    \
    "    taken = {p.name for p in parameters}\n"                                                                                                     \
    "    return {k: v for k, v in arguments.items() if k in taken}\n"                                                                                \
    "path, name = os.path.abspath(sys.argv[1]), sys.argv[2]\n"                                                                                       \
    "try:\n"                                                                                                                                         \
    "    sys.path.insert(0, os.path.dirname(path))\n"                                                                                                \
    "    spec = importlib.util.spec_from_file_location('tandem_worker', path)\n"                                                                     \
    "    module = importlib.util.module_from_spec(spec)\n"                                                                                           \
    "    sys.modules['tandem_worker'] = module\n"                                                                                                    \
    "    spec.loader.exec_module(module)\n"                                                                                                          \
    "    it = module\n"                                                                                                                              \
    "    for part in name.split('.'): it = getattr(it, part)\n"                                                                                      \
    "    check(it)\n"                                                                                                                                \
    "except BaseException as e:\n"                                                                                                                   \
    "    say({'error': describe(e)})\n"                                                                                                              \
    "    sys.exit(1)\n"                                                                                                                              \
    "say({'ready': True})\n"

const char tdm_python_reward[] =
    "def check(f): inspect.signature(f)\n" BEGINNING
    "for line in inp:\n"
    "    q = json.loads(line)\n"
    "    try:\n"
    "        arguments = dict(q['columns'], prompts=q['prompts'], completions=q['completions'], completion_ids=q['completion_ids'])\n"
    "        rewards = it(**named(it, arguments))\n"
    "        if inspect.isawaitable(rewards): rewards = asyncio.run(rewards)\n"
    "        rewards = [None if r is None or r != r else float(r) for r in rewards]\n"
    "        say({'id': q['id'], 'rewards': rewards})\n"
    "    except BaseException as e:\n"
    "        if isinstance(e, KeyboardInterrupt): break\n"
    "        say({'id': q['id'], 'error': describe(e)})\n";

/* Environments live by their keys from their first turn to their last. One that fails fails alone. Steps that are coroutines run together. */
const char tdm_python_environment[] =
    "def check(c):\n"
    "    for f in ('reset', 'step'):\n"
    "        if not callable(getattr(c, f, None)): raise TypeError(name + ' has no method ' + f)\n" BEGINNING
    "alive, newest = {}, None\n"
    "async def finish(x): return await x if inspect.isawaitable(x) else x\n"
    "def number(r):\n"
    "    if isinstance(r, dict): return {str(k): number(v) for k, v in r.items()}\n"
    "    return None if r is None or r != r else float(r)\n"
    "def parts(x):\n"
    "    if isinstance(x, dict):\n"
    "        extra = set(x) - {'observation', 'reward', 'done'}\n"
    "        if extra: raise ValueError('step returned a dict with %s' % sorted(extra)[0])\n"
    "        x = (x.get('observation'), x.get('reward'), x.get('done', False))\n"
    "    elif not isinstance(x, tuple): x = (x,)\n"
    "    if len(x) > 3: raise ValueError('step returned %d values, not observation, reward, done' % len(x))\n"
    "    observation, reward, done = (tuple(x) + (None, False))[:3] if len(x) == 1 else (tuple(x) + (False,))[:3]\n"
    "    return None if observation is None else str(observation), number(reward), bool(done)\n"
    "async def turn(key, q, i):\n"
    "    columns = {k: v[i] for k, v in q['columns'].items()}\n"
    "    try:\n"
    "        if q['turns'][i] == 1:\n"
    "            alive[key] = e = it()\n"
    "            first = await finish(e.reset(**named(e.reset, dict(dict(seed=q['seeds'][i], messages=q['messages'][i][:-1]), **columns))))\n"
    "            if first is not None: raise ValueError('reset returned something, and the prompt is the data\\'s')\n"
    "        e = alive[key]\n"
    "        arguments = dict(completion=q['completions'][i], messages=q['messages'][i], turn=q['turns'][i], last=q['last'][i], truncated=q['truncated'][i])\n"
    "        return parts(await finish(e.step(**named(e.step, arguments)))) + (None,)\n"
    "    except Exception as e:\n"
    "        return None, None, True, describe(e)\n"
    "async def all_of(keys, q): return await asyncio.gather(*(turn(k, q, i) for i, k in enumerate(keys)))\n"
    "for line in inp:\n"
    "    q = json.loads(line)\n"
    "    keys = [tuple(k) for k in q['keys']]\n"
    "    try:\n"
    "        if keys[0][0] != newest: alive, newest = {}, keys[0][0]\n"
    "        got = asyncio.run(all_of(keys, q))\n"
    "        for k, g, last in zip(keys, got, q['last']):\n"
    "            if g[2] or last: alive.pop(k, None)\n"
    "        say({'id': q['id'], 'observations': [g[0] for g in got], 'rewards': [g[1] for g in got], 'done': [g[2] for g in got], 'errors': [g[3] for g in got]})\n"
    "    except BaseException as e:\n"
    "        if isinstance(e, KeyboardInterrupt): break\n"
    "        say({'id': q['id'], 'error': describe(e)})\n";
