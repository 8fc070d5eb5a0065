(() => {
'use strict';
const data = JSON.parse(document.getElementById('data').textContent);
const $ = id => document.getElementById(id);
/* Everything that comes from a run enters the page as text, never as markup. */
const el = (tag, cls, text) => { const e = document.createElement(tag); if (cls) e.className = cls; if (text !== undefined) e.textContent = text; return e; };
const svg = (tag, attrs) => { const e = document.createElementNS('http://www.w3.org/2000/svg', tag); for (const k in attrs) e.setAttribute(k, attrs[k]); return e; };
const color = i => `var(--c${i % 12})`;
const isNum = v => typeof v === 'number' && isFinite(v);

/* ---- numbers ---- */
const trim = s => s.includes('.') && !s.includes('e') ? s.replace(/\.?0+$/, '') : s;
function plain(v) {
  if (!isNum(v)) return '–';
  const a = Math.abs(v);
  if (a === 0) return '0';
  if (a >= 1e9) return trim((v / 1e9).toFixed(2)) + 'B';
  if (a >= 1e6) return trim((v / 1e6).toFixed(2)) + 'M';
  if (a >= 1e4) return trim((v / 1e3).toFixed(1)) + 'k';
  if (a >= 1e-3) return trim(v.toPrecision(4));
  return v.toExponential(2).replace('e-', 'e−').replace('.00', '');
}
function bytes(v) {
  if (!isNum(v)) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let i = 0;
  while (v >= 1024 && i < 4) { v /= 1024; i++; }
  if (Number.isInteger(v)) return v + ' ' + units[i];
  return (v >= 100 ? v.toFixed(0) : v.toFixed(v >= 10 ? 1 : 2)) + ' ' + units[i];
}
function duration(s) {
  if (!isNum(s)) return '–';
  if (s === 0) return '0 s';
  if (s < 1) return plain(s * 1000) + ' ms';
  if (s < 60) return trim(s.toFixed(1)) + ' s';
  const m = Math.round(s / 60);
  if (s < 3600) return Math.floor(s / 60) + ' min' + (Math.round(s % 60) % 60 ? ` ${Math.round(s % 60)} s` : '');
  return m < 1440 ? Math.floor(m / 60) + ' h ' + m % 60 + ' min' : Math.floor(m / 1440) + ' d ' + Math.floor(m % 1440 / 60) + ' h';
}
const percent = v => isNum(v) ? trim((100 * v).toFixed(v && Math.abs(v) < 0.1 ? 2 : 1)) + ' %' : '–';

/* ---- runs and their series ---- */
/* The first run has the page; the curves of the others lie over its own, each run in one colour throughout. */
const runs = [data, ...(data.others || [])], compare = runs.length > 1, n = data.steps.length;
const hasIn = (run, key) => Object.hasOwn(run.series, key) && run.series[key].v.some(isNum);
const has = key => hasIn(data, key);
const last = (run, key) => Object.hasOwn(run.last, key) ? run.last[key] : null;
const nameOf = key => key.slice(key.indexOf('/') + 1);
const keys = [...new Set(runs.flatMap(r => Object.keys(r.series)))].sort();
const family = prefix => keys.filter(k => k.startsWith(prefix));
function averaged(v) { /* exponential, with the weight of what is there: no drag from a start at zero */
  const decay = Math.exp(-1 / Math.max(2, v.length / 40));
  let sum = 0, weight = 0;
  return v.map(x => {
    if (!isNum(x)) return null;
    sum = sum * decay + x; weight = weight * decay + 1;
    return sum / weight;
  });
}

/* A colour is a series where there is one run, and a run where there are several: then the series of a chart differ by their dashes,
 * those of a whole family get a chart each, and times are lines, as stacks cannot lie over one another. */
const apart = (title, prefix, more) => compare ? family(prefix).map(k => ({ title: `${title}: ${nameOf(k)}`, series: [[k, nameOf(k)]], ...more }))
  : [{ title: title === 'Reward' ? 'Rewards one by one' : title, series: family(prefix).map(k => [k, nameOf(k)]), ...more }];
const specs = [
  { title: 'Reward', wide: true, series: [['reward_mean', 'mean']], band: 'reward_std', bandName: 'standard deviation' },
  ...apart('Reward', 'reward/'),
  ...apart('Evaluation', 'eval/', { dots: true }),
  { title: 'Loss', series: [['loss', 'loss']] },
  { title: 'KL to the reference', series: [['kl', 'KL']], zero: true },
  { title: 'Entropy', series: [['entropy', 'entropy']] },
  { title: 'Gradient norm', series: [['grad_norm', 'norm']], zero: true },
  { title: 'Learning rate', series: [['lr', 'lr']], zero: true, step: true },
  { title: 'Clip fraction', series: [['clip_fraction', 'clipped']], fmt: percent, zero: true },
  { title: 'Completion length', unit: 'tokens', series: [['completion_tokens_mean', 'mean'], ['completion_tokens_max', 'longest']], zero: true },
  { title: 'Turns of a completion', series: [['turns_mean', 'mean'], ['turns_max', 'most']], zero: true },
  { title: 'Observed', unit: 'tokens of a step', series: [['observation_tokens', 'tokens']], zero: true },
  { title: 'Environment', unit: 'with a call to answer, in a step', fmt: duration, series: [['environment_s', 'time']], zero: true },
  { title: 'Environment errors', series: [['environment_errors', 'samples of a step']], zero: true },
  { title: 'Replies of judges without a score', series: [['judge/parse_failed', 'of a step']], zero: true },
  { title: 'Judges', unit: 'tokens of a step', series: [['judge_tokens', 'tokens']], zero: true },
  { title: 'Judges', unit: 'in a step', fmt: duration, series: [['judge_s', 'time']], zero: true },
  { title: 'Truncated completions', series: [['truncated_fraction', 'truncated']], fmt: percent, zero: true },
  { title: 'Trainer against sampler', unit: '|Δ log-probability|', series: [['mismatch_mean', 'mean'], ['mismatch_max', 'largest']], zero: true },
  { title: 'Importance weights', unit: 'trainer to sampler', series: [['importance_mean', 'mean'], ['importance_min', 'least'], ['importance_max', 'greatest']] },
  { title: 'Ratios out of bounds', series: [['importance_fraction_high', 'above the cap'], ['importance_fraction_low', 'below the floor']], fmt: percent, zero: true },
  { title: 'KL of trainer from sampler', unit: 'nats', series: [['mismatch_kl', 'sampler − trainer'], ['mismatch_k3_kl', 'k3']] },
  { title: 'Effective sample size', unit: 'of the weights', series: [['rollout_is_eff_sample_size', 'size']], fmt: percent, zero: true },
  { title: 'Left out of the loss', series: [['rollout_rs_masked_fraction', 'rejected tokens'], ['rollout_rs_seq_masked_fraction', 'completions with one'], ['rollout_is_veto_fraction', 'vetoed'], ['off_policy', 'off policy']], fmt: percent, zero: true },
  { title: 'Critic: values and returns', series: [['critic/values/mean', 'value'], ['critic/returns/mean', 'return']] },
  { title: 'Critic: loss', series: [['critic/vf_loss', 'loss']], zero: true },
  { title: 'Critic: explained variance', series: [['critic/vf_explained_var', 'explained']] },
  { title: 'Throughput', unit: 'tokens per second', series: [['rollout_tokens_per_s', 'rollout'], ['train_tokens_per_s', 'train']], zero: true },
  compare ? { title: 'Time of a step', fmt: duration, zero: true, series: [['step_s', 'step'], ['rollout_s', 'rollout'], ['train_s', 'train']] }
    : { title: 'Time of a step', stack: true, fmt: duration, series: [['rollout_s', 'rollout'], ['reward_s', 'reward'], ['train_s', 'train'], ['flip_s', 'phase change']] },
  { title: 'Peak memory', series: [['memory_peak_bytes', 'peak']], fmt: bytes, zero: true },
];
const known = new Set(['step_s', 'reward_s', 'flip_s', 'prompt_tokens', 'completion_tokens', 'reward_std', ...specs.flatMap(s => s.series.map(x => x[0]))]);
for (const key of keys) if (!known.has(key)) specs.push({ title: key, series: [[key, key]] });

/* ---- charts ---- */
const charts = [];
let smooth = false;

/* Round figures; of bytes, those round in binary. */
function ticks(lo, hi, count, binary) {
  if (binary) {
    const step = 2 ** Math.ceil(Math.log2((hi - lo) / count)), out = [];
    for (let i = Math.ceil(lo / step); i * step <= hi; i++) out.push(i * step);
    return out;
  }
  const raw = (hi - lo) / count, power = 10 ** Math.floor(Math.log10(raw)), unit = raw / power;
  const step = (unit > 5 ? 10 : unit > 2 ? 5 : unit > 1 ? 2 : 1) * power, out = [];
  for (let i = Math.ceil(lo / step - 1e-9); i * step <= hi + step * 1e-9; i++) out.push(Math.abs(i * step) < step * 1e-9 ? 0 : i * step);
  return out;
}

const dashes = ['', '6 4', '1.5 4', '10 4 2 4'];
const swatch = background => { const i = el('i'); i.style.background = background; return i; };
/* A run's mark is followed by its name, cut where it is long: the whole name stands in the table of runs. */
const runMark = r => { const name = el('span', 'name', r.name); name.title = r.name; return [swatch(color(runs.indexOf(r))), name]; };

function makeChart(spec) {
  const labels = spec.series.filter(s => runs.some(r => hasIn(r, s[0])));
  const shown = runs.flatMap((run, r) => labels.map(([key, label], i) => ({ run, key, label, i, r })).filter(s => hasIn(run, s.key))).map(s => {
    const v = s.run.series[s.key];
    return { ...s, color: color(compare ? s.r : s.i), dash: compare ? dashes[s.i % 4] : '', steps: s.run.steps, raw: v.v, lo: v.lo, hi: v.hi, mean: spec.dots ? v.v : averaged(v.v) };
  });
  if (!shown.length) return;
  const fmt = spec.fmt || plain, card = el('div', 'card chart' + (spec.wide ? ' wide' : '')), row = el('div', 'row');
  row.append(el('h3', '', spec.title), el('span', 'now', spec.unit || ''));
  const band = spec.band && !compare && has(spec.band) ? data.series[spec.band].v : null;
  card.append(row, compare ? runLegend(shown, labels, fmt) : seriesLegend(spec, shown, band, fmt));
  $('charts').append(card);
  charts.push({ spec, shown, band, fmt, card, picture: null });
}

function seriesLegend(spec, shown, band, fmt) {
  const legend = el('div', 'legend');
  for (const s of shown) {
    const item = el('span');
    item.append(swatch(s.color));
    if (shown.length > 1) item.append(s.label);
    item.append(el('b', '', fmt(last(data, s.key))));
    legend.append(item);
  }
  if (band) {
    const item = el('span'), dot = swatch(shown[0].color);
    dot.style.opacity = .25;
    item.append(dot, '± ' + spec.bandName, el('b', '', fmt(last(data, spec.band))));
    legend.append(item);
  }
  return legend;
}

/* Runs with their last figures, in the order of the dashes that stand before them. */
function runLegend(shown, labels, fmt) {
  const legend = el('div', 'legend');
  if (labels.length > 1) labels.forEach(([, label], i) => {
    const item = el('span', 'dashes'), line = svg('svg', { viewBox: '0 0 22 8', width: 22, height: 8 });
    line.append(svg('line', { x1: 0, x2: 22, y1: 4, y2: 4, 'stroke-dasharray': dashes[i % 4] }));
    item.append(line, label);
    legend.append(item);
  });
  for (const run of new Set(shown.map(s => s.run))) {
    const item = el('span');
    item.append(...runMark(run), el('b', '', labels.map(([key]) => fmt(last(run, key))).join(' · ')));
    legend.append(item);
  }
  return legend;
}

/* What is drawn, as arrays: stacked areas, or lines with an optional band. */
function layers(chart) {
  const { spec, shown, band } = chart;
  if (spec.stack) {
    let base = data.steps.map(() => 0);
    return shown.map(s => {
      const v = smooth ? s.mean : s.raw, lo = base, hi = base.map((b, i) => b + (isNum(v[i]) ? v[i] : 0));
      base = hi;
      return { color: s.color, steps: s.steps, lo, hi, fill: .82 };
    });
  }
  const out = [];
  if (band) {
    const v = smooth ? shown[0].mean : shown[0].raw, d = smooth ? averaged(band) : band, c = shown[0].color;
    out.push({ color: c, steps: data.steps, lo: v.map((x, i) => isNum(x) && isNum(d[i]) ? x - d[i] : null), hi: v.map((x, i) => isNum(x) && isNum(d[i]) ? x + d[i] : null), fill: .16 });
  }
  for (const s of [...shown].reverse()) { /* the first on top */
    const base = { color: s.color, steps: s.steps };
    if (s.lo && !band && !smooth) out.push({ ...base, lo: s.lo, hi: s.hi, fill: compare ? .13 : .2 });
    if (smooth && !s.dash) out.push({ ...base, line: s.raw, opacity: compare ? .2 : .28, width: 1 });
    out.push({ ...base, line: smooth ? s.mean : s.raw, width: 1.7, dash: s.dash, dots: !s.dash });
  }
  return out;
}

function draw(chart) {
  const { spec, fmt, card } = chart, width = Math.max(220, card.clientWidth - 28), height = 190;
  const all = layers(chart), values = all.flatMap(l => [l.line, l.lo, l.hi]).flatMap(v => v || []).filter(isNum);
  let lo = spec.zero || spec.stack ? Math.min(0, ...bounds(values)) : bounds(values)[0], hi = bounds(values)[1];
  if (hi - lo <= Math.abs(hi) * 1e-9) { const pad = Math.abs(hi) * .1 || 1; hi += pad; if (!(spec.zero && lo === 0)) lo -= pad; }
  else { hi += (hi - lo) * .05; if (!(spec.zero || spec.stack) || lo < 0) lo -= (hi - lo) * .05; }
  const yTicks = ticks(lo, hi, 5, fmt === bytes), labels = yTicks.map(fmt), left = Math.max(26, ...labels.map(l => l.length * 6.4 + 8)), bottom = 20, top = 6, right = 6;
  let [x0, x1] = bounds(runs.flatMap(r => r.steps.length ? [r.steps[0], r.steps[r.steps.length - 1]] : []));
  const first = x0, end = x1;
  if (x0 === x1) { x0 -= 1; x1 += 1; }
  const X = s => left + (s - x0) / (x1 - x0) * (width - left - right), Y = v => top + (hi - v) / (hi - lo) * (height - top - bottom);
  const picture = svg('svg', { viewBox: `0 0 ${width} ${height}`, height, role: 'img', 'aria-label': `${spec.title}: ` + chart.shown.map(s => `${compare ? s.run.name + ' ' : ''}${s.label} ${fmt(last(s.run, s.key))}`).join(', ') + ' at the last step' });
  yTicks.forEach((v, i) => {
    const y = Y(v).toFixed(1);
    picture.append(svg('line', { class: v === 0 ? 'axis' : 'grid', x1: left, x2: width - right, y1: y, y2: y }));
    const t = svg('text', { x: left - 6, y: +y + 4, 'text-anchor': 'end' });
    t.textContent = labels[i];
    picture.append(t);
  });
  const xTicks = [...new Set(ticks(x0, x1, Math.max(3, Math.floor(width / 75))).map(Math.round))].filter(s => s >= first && s <= end);
  for (const s of xTicks) {
    const x = X(s), t = svg('text', { x: x.toFixed(1), y: height - 4, 'text-anchor': x > width - 24 ? 'end' : 'middle' });
    t.textContent = s;
    picture.append(t);
  }
  for (const l of all) {
    const steps = l.steps, point = (v, i) => X(steps[i]).toFixed(1) + ' ' + Y(v).toFixed(1);
    if (l.lo) for (const [a, b] of stretches(l.lo)) {
      let d = '';
      for (let i = a; i < b; i++) d += (i > a ? 'L' : 'M') + point(l.hi[i], i);
      for (let i = b - 1; i >= a; i--) d += 'L' + point(l.lo[i], i);
      if (b - a === 1) picture.append(svg('line', { x1: X(steps[a]), x2: X(steps[a]), y1: Y(l.lo[a]), y2: Y(l.hi[a]), stroke: l.color, 'stroke-width': 12, opacity: l.fill }));
      else picture.append(svg('path', { d: d + 'Z', fill: l.color, opacity: l.fill }));
    }
    if (l.line) for (const [a, b] of stretches(l.line, spec.dots)) {
      let d = '';
      for (let i = a; i < b; i++) if (isNum(l.line[i])) d += (!d ? 'M' : spec.step ? 'H' + X(steps[i]).toFixed(1) + 'L' : 'L') + point(l.line[i], i);
      picture.append(svg('path', { d, fill: 'none', stroke: l.color, 'stroke-width': l.width, 'stroke-linejoin': 'round', 'stroke-linecap': 'round', 'stroke-dasharray': l.dash || 'none', opacity: l.opacity || 1 }));
      if (l.dots && (steps.length <= 40 || spec.dots || b - a === 1)) for (let i = a; i < b; i++)
        if (isNum(l.line[i])) picture.append(svg('circle', { cx: X(steps[i]).toFixed(1), cy: Y(l.line[i]).toFixed(1), r: 2.4, fill: l.color }));
    }
  }
  const cursor = svg('line', { class: 'cursor', y1: top, y2: height - bottom, visibility: 'hidden' });
  picture.append(cursor);
  picture.addEventListener('pointermove', e => {
    const box = picture.getBoundingClientRect(), s = x0 + ((e.clientX - box.left) / box.width * width - left) / (width - left - right) * (x1 - x0);
    const near = chart.shown.map(c => c.steps[nearest(c.steps, s)]);
    point_at(chart, near[nearest(near, s)]);
  });
  picture.addEventListener('pointerleave', () => point_at(null));
  if (chart.picture) chart.picture.replaceWith(picture);
  else card.append(picture);
  Object.assign(chart, { picture, cursor, X, left });
}

const bounds = v => { let a = Infinity, b = -Infinity; for (const x of v) { if (x < a) a = x; if (x > b) b = x; } return [a, b]; };
/* Stretches [a, b) without a gap; sparse series (an evaluation each 20 steps) are one stretch. */
function stretches(v, sparse) {
  if (sparse) return [[0, v.length]];
  const out = [];
  for (let i = 0; i < v.length; i++) {
    if (!isNum(v[i])) continue;
    if (out.length && out[out.length - 1][1] === i) out[out.length - 1][1] = i + 1;
    else out.push([i, i + 1]);
  }
  return out;
}

/* The index of what is nearest to x in a list that is not empty. */
const nearest = (list, x) => list.reduce((best, v, i) => Math.abs(v - x) < Math.abs(list[best] - x) ? i : best, 0);

const tip = el('div', 'tip');
/* The cursor stands at the same step in every chart; the figures beside the pointer are of the chart it is in, and of each run's step
 * nearest to the cursor where the run has come that far. */
function point_at(chart, step) {
  for (const c of charts) {
    c.cursor.setAttribute('visibility', chart ? 'visible' : 'hidden');
    if (chart) for (const k of ['x1', 'x2']) c.cursor.setAttribute(k, c.X(step).toFixed(1));
  }
  if (!chart) { tip.remove(); return; }
  const grouped = chart.shown.some(s => s.run.bucket > 1);
  tip.replaceChildren(el('div', 'dim', grouped ? `steps from ${step}` : `step ${step}`));
  for (const s of chart.shown) {
    const i = nearest(s.steps, step);
    if (Math.abs(s.steps[i] - step) > s.run.bucket) continue;
    let text = chart.fmt(s.raw[i]);
    if (compare ? chart.shown.some(o => o.run === s.run && o !== s) : chart.shown.length > 1) text = `${s.label} ${text}`;
    if (compare) text = `${s.run.name}: ${text}`;
    if (chart.band && isNum(chart.band[i])) text += ` ± ${chart.fmt(chart.band[i])}`;
    if (s.lo && isNum(s.lo[i])) text += `  (${chart.fmt(s.lo[i])} to ${chart.fmt(s.hi[i])})`;
    const line = el('div', '', text);
    line.style.color = s.color;
    tip.append(line);
  }
  chart.card.append(tip);
  const x = 14 + chart.X(step), w = tip.offsetWidth, room = chart.card.clientWidth;
  tip.style.left = Math.max(4, x + 12 + w < room ? x + 12 : x - 12 - w) + 'px';
  tip.style.top = chart.picture.getBoundingClientRect().top - chart.card.getBoundingClientRect().top + 8 + 'px'; /* SVG has no offsetTop */
}

/* ---- the parts of the page ---- */
function tile(label, value, unit, more) {
  const t = el('div', 'card tile'), v = el('div', 'value', value);
  if (unit) v.append(el('small', '', unit));
  t.append(el('div', 'label', label), v);
  if (more) t.append(el('div', 'more', more));
  $('tiles').append(t);
}

function showTiles() {
  const t = data.totals;
  tile('Steps', String(data.rows), '', n && data.first_step !== 1 ? `from ${data.first_step} to ${data.last_step}` : '');
  if (has('reward_mean')) {
    tile('Reward, last tenth', plain(data.end.reward_mean), '', n > 1 ? `${plain(data.start.reward_mean)} in the first` : '');
  } else if (has('loss')) tile('Loss, last tenth', plain(data.end.loss), '', n > 1 ? `${plain(data.start.loss)} in the first` : '');
  if (isNum(t.step_s)) tile('Time', duration(t.step_s), '', `${duration(t.step_s / data.rows)} a step`);
  if (isNum(t.completion_tokens)) tile('Tokens generated', plain(t.completion_tokens), '', has('rollout_tokens_per_s') ? `${plain(data.end.rollout_tokens_per_s)} / s in rollout` : '');
  if (has('completion_tokens_mean')) tile('Completion length', plain(data.end.completion_tokens_mean), 'tokens', has('truncated_fraction') ? `${percent(data.end.truncated_fraction)} truncated` : '');
  if (has('mismatch_max')) tile('Mismatch', plain(t.mismatch_max), '', t.mismatch_max === 0 ? 'the same bits' : 'largest |Δ log-prob|');
  if (has('memory_peak_bytes')) tile('Peak memory', bytes(t.memory_peak_bytes), '', data.memory && isNum(data.memory.budget_bytes) ? `of ${bytes(data.memory.budget_bytes)}` : '');
}

function table(head, rows) {
  const t = el('table'), top = t.createTHead().insertRow(), body = t.createTBody(), box = el('div', 'card scroll');
  for (const h of head) { const c = el('th'); c.append(h); top.append(c); }
  for (const cells of rows) {
    const row = body.insertRow();
    for (const c of cells) { const d = row.insertCell(); d.append(...[c].flat()); }
  }
  box.append(t);
  return box;
}

/* The keys of a recipe with their values as they are written, "train.importance.cap": "2"; entries of a list by their number. */
function flat(recipe) {
  const out = new Map(), path = [];
  for (const line of (recipe || '').split('\n')) {
    const m = /^((?:  |- )*)([\w-]+):(?: (.*))?$/.exec(line);
    if (!m) continue;
    const depth = m[1].length / 2, item = m[1].endsWith('- ');
    path.length = Math.min(path.length, depth);
    if (path.length < depth - (item ? 1 : 0) || (item && depth < 2)) continue; /* not as grpo_train writes it */
    if (item) path[depth - 1] = { name: `[${(path[depth - 2].items = (path[depth - 2].items ?? -1) + 1)}]` };
    path[depth] = { name: m[2] };
    if (m[3] !== undefined) out.set(path.map(p => p.name).join('.').replaceAll('.[', '['), m[3]);
  }
  return out;
}

function showRuns() {
  if (!compare) { $('runs').remove(); document.querySelector('nav a[href="#runs"]').remove(); return; }
  const columns = [['Reward, last tenth', r => plain(r.end.reward_mean), 'reward_mean'], ['Loss, last tenth', r => plain(r.end.loss), 'loss'],
    ['Time', r => duration(r.totals.step_s), 'step_s'], ['Time of a step', r => duration(r.totals.step_s / r.rows), 'step_s'],
    ['Rollout tokens / s', r => plain(r.end.rollout_tokens_per_s), 'rollout_tokens_per_s'], ['Train tokens / s', r => plain(r.end.train_tokens_per_s), 'train_tokens_per_s'],
    ['Mismatch, largest', r => plain(r.totals.mismatch_max), 'mismatch_max'], ['Peak memory', r => bytes(r.totals.memory_peak_bytes), 'memory_peak_bytes']]
    .filter(c => runs.some(r => hasIn(r, c[2])));
  const mark = r => { const box = el('span', 'run'); box.append(...runMark(r)); return box; };
  $('runs-body').append(table(['Run', 'Steps', ...columns.map(c => c[0])], runs.map(r => [mark(r), String(r.rows), ...columns.map(c => hasIn(r, c[2]) ? c[1](r) : '–')])));
  const recipes = runs.map(r => flat(r.recipe)), all = [...new Set(recipes.flatMap(m => [...m.keys()]))].filter(k => k !== 'output');
  const differ = all.filter(k => recipes.some(m => m.get(k) !== recipes[0].get(k)));
  if (recipes.some(m => m.size === 0)) return;
  if (differ.length) $('runs-body').append(table(['Recipe', ...runs.map(mark)], differ.map(k => [el('code', '', k), ...recipes.map(m => el('code', '', m.get(k) ?? '–'))])));
  else $('runs-body').append(el('p', 'note', 'Their recipes are the same but for the folder.'));
}

function showMemory() {
  const m = data.memory, body = $('memory-body');
  const layouts = m && Array.isArray(m.layouts) ? m.layouts.filter(l => l && Array.isArray(l.regions)) : [];
  if (!layouts.length) { $('memory').remove(); return; }
  const card = el('div', 'card memory'), sum = l => l.regions.reduce((a, r) => a + (isNum(r.bytes) ? r.bytes : 0), 0);
  const full = Math.max(...layouts.map(sum), isNum(m.budget_bytes) ? m.budget_bytes : 0) || 1, colors = new Map();
  for (const l of layouts) for (const r of l.regions) if (!colors.has(String(r.name))) colors.set(String(r.name), color(colors.size));
  for (const l of layouts) {
    const box = el('div', 'layout'), row = el('div', 'row'), bar = el('div', 'bar'), list = el('div', 'regions'), total = sum(l);
    row.append(el('h3', '', String(l.name)), el('span', '', isNum(m.budget_bytes) && m.budget_bytes > 0 ? `${bytes(total)} of ${bytes(m.budget_bytes)}, ${percent(total / m.budget_bytes)}` : bytes(total)));
    for (const r of l.regions) {
      if (!isNum(r.bytes) || r.bytes <= 0) continue;
      const part = el('div', '', r.bytes / full > .09 ? String(r.name) : ''), item = el('div'), dot = el('i');
      part.style.cssText = `width:${100 * r.bytes / full}%;background:${colors.get(String(r.name))}`;
      part.title = `${r.name}: ${bytes(r.bytes)}`;
      bar.append(part);
      dot.style.background = colors.get(String(r.name));
      item.append(dot, el('span', '', String(r.name)), el('b', '', bytes(r.bytes)));
      list.append(item);
    }
    box.append(row, bar, list);
    card.append(box);
  }
  body.append(card);
}

function chip(text, value) {
  return el('span', 'chip' + (isNum(value) ? value > 0 ? ' good' : ' bad' : ''), text);
}

function sampleCard(s) {
  const card = el('article', 'card sample'), chips = el('div', 'chips');
  chips.append(chip(`reward ${plain(s.reward)}`, s.reward));
  const parts = Object.entries(s.rewards || {});
  if (parts.length > 1) for (const [k, v] of parts) chips.append(chip(`${k} ${v === null ? 'none' : plain(v)}`));
  if (isNum(s.tokens)) chips.append(chip(`${s.tokens} tokens`));
  if (s.truncated) chips.append(chip('truncated', 0));
  card.append(chips, el('div', 'what', 'Prompt'), el('p', 'text prompt', s.prompt));
  if (s.turns) card.append(...turnsOf(s));
  else card.append(el('div', 'what', 'Completion'), el('p', 'text completion', s.completion + (s.cut ? ' …' : '')));
  return card;
}

/* Who wrote what, and what a turn earned. */
function turnsOf(s) {
  let model = 0;
  return s.turns.flatMap(t => {
    const own = t.role === 'assistant', what = el('div', 'what', own ? `Turn ${++model}` : t.role === 'tool' ? 'Observed' : `Observed, as ${t.role}`);
    for (const [k, v] of Object.entries(t.rewards)) what.append(' ', chip(`${k} ${plain(v)}`, v));
    return [what, el('p', 'text' + (own ? '' : ' prompt observed'), t.content)];
  });
}

function sampleColumn(start) {
  const column = el('div', 'column'), row = el('div', 'row'), body = el('div'), select = el('select'), pager = el('span', 'pager');
  const back = el('button', '', '‹'), next = el('button', '', '›'), where = el('span');
  let which = start, at = 0;
  back.setAttribute('aria-label', 'previous sample'); next.setAttribute('aria-label', 'next sample'); select.setAttribute('aria-label', 'step');
  data.rollouts.forEach((r, i) => { const o = el('option', '', `Step ${r.step}`); o.value = i; select.append(o); });
  select.value = start;
  const show = () => {
    const list = data.rollouts[which].samples;
    at = Math.min(at, Math.max(0, list.length - 1));
    where.textContent = list.length ? `${at + 1} of ${list.length}` : 'none';
    back.disabled = at === 0; next.disabled = at >= list.length - 1;
    body.replaceChildren(...(list.length ? [sampleCard(list[at])] : []));
  };
  select.addEventListener('change', () => { which = +select.value; show(); });
  back.addEventListener('click', () => { at--; show(); });
  next.addEventListener('click', () => { at++; show(); });
  pager.append(back, where, next);
  row.append(select, pager);
  column.append(row, body);
  show();
  return column;
}

function showSamples() {
  const body = $('samples-body');
  if (!data.rollouts.length) { body.append(el('p', 'card empty', 'No rollouts were logged. Set log.rollouts to keep samples of every n-th step.')); return; }
  const box = el('div', data.rollouts.length > 1 ? 'compare' : '');
  box.append(sampleColumn(0));
  if (data.rollouts.length > 1) box.append(sampleColumn(data.rollouts.length - 1));
  body.append(box);
}

function showRecipe() {
  if (typeof data.recipe !== 'string') { $('recipe').remove(); return; }
  const pre = el('pre', 'card yaml');
  for (const line of data.recipe.replace(/\n+$/, '').split('\n')) {
    const m = /^(\s*(?:- )?)([\w./-]+:)(.*)$/.exec(line);
    if (/^\s*#/.test(line)) pre.append(el('span', 'c', line));
    else if (m) pre.append(m[1], el('span', 'k', m[2]), m[3]);
    else pre.append(line);
    pre.append('\n');
  }
  $('recipe-body').append(pre);
}

/* ---- start ---- */
document.title = `${data.name} · Tandem`;
$('name').textContent = data.name;
$('sub').textContent = [n ? `step ${data.last_step}` : 'no steps yet', data.written, compare ? `beside ${runs.length === 2 ? 'another run' : runs.length - 1 + ' other runs'}` : ''].filter(Boolean).join(' · ');
showTiles();
showRuns();
showMemory();
showSamples();
showRecipe();
if (runs.some(r => r.rows)) {
  specs.forEach(makeChart);
  /* The last row of three is filled by charts that have use for the width. */
  let cells = charts.reduce((a, c) => a + (c.spec.wide ? 2 : 1), 0);
  for (const title of ['Time of a step', 'Throughput', 'Loss'])
    for (const c of charts) if (c.spec.title === title && cells % 3 && charts.length > 3) { c.card.classList.add('wide'); cells++; }
  const notes = [], of = r => compare ? `${r.name}: ` : '';
  for (const r of runs) if (r.bucket > 1) notes.push(`${of(r)}${r.rows} steps, drawn in groups of ${r.bucket}.`);
  if (notes.length) notes.push('The line is the mean of a group, the shade reaches from its least to its greatest value.');
  for (const r of runs) if (r.skipped) notes.push(`${of(r)}${r.skipped} unreadable lines of metrics.jsonl were left out.`);
  $('curves-note').textContent = notes.join(' ');
  $('curves-note').hidden = !notes.length;
  const all = () => charts.forEach(draw);
  all();
  $('smooth').addEventListener('change', e => { smooth = e.target.checked; all(); });
  let pending = 0, width = innerWidth;
  addEventListener('resize', () => { if (innerWidth === width) return; width = innerWidth; cancelAnimationFrame(pending); pending = requestAnimationFrame(all); });
} else {
  $('charts').append(el('p', 'card empty', 'metrics.jsonl has no steps yet.'));
  document.querySelector('.toggle').remove();
}
$('foot').textContent = 'Written by tandem report. This file needs no network.';
})();
