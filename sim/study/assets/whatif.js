/* What if: the table under the sliders. Everything is looked up in the frames "whatif" and "ladder"; two things are
   computed: a latency between two simulated rates, and what whole GPUs carry and cost. */
const whatif = document.getElementById("whatif");

function rowsOf(frame) {
  const names = Object.keys(frame);
  return frame[names[0]].map((_, i) => Object.fromEntries(names.map((name) => [name, frame[name][i]])));
}

function grouped(rows, ...names) {
  const groups = new Map();
  for (const row of rows) {
    const key = names.map((name) => row[name]).join("|");
    groups.set(key, [...(groups.get(key) ?? []), row]);
  }
  return groups;
}

const three = new Intl.NumberFormat("en", {minimumSignificantDigits: 3, maximumSignificantDigits: 3});
const whole = new Intl.NumberFormat("en");
const money = new Intl.NumberFormat("en", {minimumFractionDigits: 2, maximumFractionDigits: 2});
const SAID = {gain: (x) => `${x.toFixed(2)}x`, dollars_per_hour: money.format, quality: three.format};
const say = (value) => (value === null ? "—" : Number.isInteger(value) ? whole.format(value) : three.format(value));

/* The latency at a rate: its logarithm is linear between two rungs, and constant below the lowest. */
function latency(rungs, qps, name) {
  const above = rungs.findIndex((rung) => rung.qps >= qps);
  if (above <= 0) return rungs[above === 0 ? 0 : rungs.length - 1][name];
  const [low, high] = [rungs[above - 1], rungs[above]];
  const share = (qps - low.qps) / (high.qps - low.qps);
  return Math.exp((1 - share) * Math.log(low[name]) + share * Math.log(high[name]));
}

function startWhatIf() {
  const {frames, provenance: {question}} = JSON.parse(document.getElementById("data").textContent);
  const cells = grouped(rowsOf(frames.whatif), "strategy", "strength");
  const ladders = grouped(rowsOf(frames.ladder), "strategy", "strength");
  const strategies = [...new Set(frames.whatif.strategy)];
  const looks = JSON.parse(whatif.dataset.looks);
  const form = whatif.querySelector("form");
  const table = whatif.querySelector("table");

  const at = (name) => {
    const input = form.elements[name];
    return JSON.parse(input.dataset.positions)[Number(input.value)];
  };

  /* What one strategy answers to the question, or why it has no answer. */
  function answer(strategy, asked) {
    const turns = [...cells.keys()].filter((key) => key.startsWith(`${strategy}|`)).length > 1;
    const key = `${strategy}|${turns ? asked.strength : 1}`;
    const cell = cells.get(key)?.find((c) => c.slo_ttft_ms === asked.ttft && c.slo_tpot_ms === asked.tpot);
    if (!cell) return {strategy, plan: strategy, why: "there is no such plan for this model"};
    const known = {strategy, plan: cell.plan, quality: cell.quality, how: cell.quality_how};
    if (asked.floor > 0 && cell.quality === null) return {...known, why: "its quality was not measured"};
    if (cell.quality !== null && cell.quality < asked.floor) return {...known, why: "below the quality floor"};
    if (cell.max_qps === null) return {...known, why: "no capacity was found within these limits"};
    const replicas = Math.ceil(asked.demand / cell.max_qps);
    const gpus = replicas * question.gpus_per_replica;
    const each = asked.demand / replicas;
    return {
      ...known,
      qps: cell.max_qps / question.gpus_per_replica,
      gpus,
      dollars_per_hour: gpus * asked.price,
      dollars: (gpus * asked.price * 1e6) / (3600 * asked.demand * question.output_tokens_mean),
      ttft: latency(ladders.get(key), each, "ttft_ms"),
      tpot: latency(ladders.get(key), each, "tpot_ms"),
    };
  }

  function cell(row, column, name, widest) {
    const td = document.createElement("td");
    const value = row[name];
    td.dataset.value = name === "strategy" ? row.plan : (value ?? "");
    if (name === "strategy") {
      const [said, colour] = looks[row.plan];
      const swatch = Object.assign(document.createElement("span"), {className: "swatch"});
      swatch.style.background = colour;
      td.append(swatch, said);
      if (row.why) td.append(Object.assign(document.createElement("small"), {textContent: row.why}));
      return td;
    }
    td.className = "number";
    td.textContent = value === null || value === undefined ? "—" : SAID[name]?.(value) ?? say(value);
    if (name === "quality" && row.quality === null) td.textContent = "not measured";
    if (name === "quality" && row.how) td.append(Object.assign(document.createElement("small"), {textContent: row.how}));
    if (name === "qps" && value) {
      const bar = Object.assign(document.createElement("span"), {className: "bar"});
      bar.style.cssText = `width:${(100 * value) / widest}%;background:${looks[row.plan][1]}`;
      td.append(bar);
    }
    return td;
  }

  function fill(rows) {
    const widest = Math.max(...rows.map((row) => row.qps ?? 0));
    table.tBodies[0].replaceChildren(...rows.map((row) => {
      const tr = document.createElement("tr");
      tr.className = row.why ? "out" : "";
      tr.append(...[...table.tHead.rows[0].cells].map((th, i) => cell(row, i, th.dataset.column, widest)));
      return tr;
    }));
    const names = [...table.tHead.rows[0].cells].map((th) => th.dataset.column);
    const lines = rows.map((row) => names.map((name) => `"${String(row[name === "strategy" ? "plan" : name] ?? "")}"`));
    const csv = [names, ...lines].map((line) => line.join(",")).join("\n");
    whatif.querySelector(".download a").href = `data:text/csv;charset=utf-8,${encodeURIComponent(csv + "\n")}`;
  }

  function sentence(rows, asked) {
    const [best] = rows.filter((row) => !row.why);
    const dense = rows.find((row) => row.strategy === "dense");
    const asks = `${say(asked.demand)} requests per second within TTFT ${say(asked.ttft)} ms and TPOT ${say(asked.tpot)} ms`;
    if (!best) return `${asks}: none of these strategies can.`;
    const than = !dense || dense.why ? `; dense: ${dense?.why ?? "not asked"}` : `; dense: ${say(dense.gpus)} GPUs`;
    return `${asks}: ${say(best.gpus)} GPUs, $${money.format(best.dollars_per_hour)} per hour, with ${looks[best.plan][0]}`
      + (best === dense ? "." : `${than}.`);
  }

  function update() {
    const asked = {};
    for (const input of form.querySelectorAll("input")) {
      asked[input.name] = at(input.name);
      const [value, unit] = [say(asked[input.name]), input.dataset.unit];
      const said = input.name === "floor" && !asked.floor ? "none" : unit === "$" ? `$${value}` : value + unit;
      form.querySelector(`output[for="${input.id}"]`).textContent = said;
      input.setAttribute("aria-valuetext", said);
    }
    const rows = strategies.map((strategy) => answer(strategy, asked));
    const base = rows.find((row) => row.strategy === "dense")?.qps;
    for (const row of rows) if (!row.why && base) row.gain = row.qps / base;
    rows.sort((a, b) => (a.gpus ?? Infinity) - (b.gpus ?? Infinity) || (b.qps ?? 0) - (a.qps ?? 0));
    fill(rows);
    whatif.querySelector(".answer").textContent = sentence(rows, asked);
    const sorted = table.querySelector('th[aria-sort$="cending"]');
    if (sorted) sortRows(sorted);
  }

  form.addEventListener("input", update);
  form.addEventListener("reset", () => setTimeout(update));
  update();
}

if (whatif) startWhatIf();
