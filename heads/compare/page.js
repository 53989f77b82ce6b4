"use strict";
// Draws the curves that comparison.html holds as JSON, in the colours of the reader's light or dark theme; computes the
// figures at a threshold; blurs and clears the mistakes.
const charts = JSON.parse(document.getElementById("charts").textContent);
const dashes = ["solid", "dash", "dot", "dashdot", "10px,3px", "3px,8px"];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const axes = {
  roc: ["false positive rate", "true positive rate"],
  pr: ["recall", "precision"],
  loss: ["epoch", "loss"],
  accuracy: ["epoch", "accuracy"],
  reliability: ["predicted probability of class 1", "observed share of class 1"],
};

function line(trace, kind) {
  return {
    x: trace.x, y: trace.y, text: trace.thresholds, name: trace.name, mode: "lines",
    hovertemplate: `${axes[kind][0] === "epoch" ? "epoch %{x}" : `p ≥ %{text}<br>${axes[kind][0]} %{x:.4f}`}<br>${axes[kind][1]} %{y:.4f}`,
    line: {
      color: colour(`--line-${trace.colour % 8}`),
      dash: dashes[trace.colour % dashes.length],
      width: trace.strong ? 3 : 1.75,
      shape: kind === "pr" ? "vh" : "linear",
    },
  };
}

function points(trace) {
  const from = (ends, sign) => ends.map((end, i) => sign * (end - trace.y[i]));
  return {
    ...line(trace, "reliability"), mode: "lines+markers", customdata: trace.n.map((n, i) => [n, trace.low[i], trace.high[i]]),
    hovertemplate: "p %{x:.4f}<br>share %{y:.4f} [%{customdata[1]:.4f}, %{customdata[2]:.4f}]<br>n = %{customdata[0]}",
    error_y: { symmetric: false, array: from(trace.high, 1), arrayminus: from(trace.low, -1), width: 0,
               thickness: trace.strong ? 2 : 1 },
  };
}

function guess(chart) { // what a head that knows nothing would draw; of reliability, what a calibrated one would
  const y = chart.kind === "pr" ? [chart.share, chart.share] : [0, 1];
  return { x: [0, 1], y, mode: "lines", name: chart.kind === "reliability" ? "calibrated" : "by chance", hoverinfo: "skip",
           line: { color: colour("--soft"), width: 1 } };
}

function axis(title, unit) {
  return { title: { text: title }, fixedrange: true, gridcolor: colour("--line"), zeroline: false, automargin: true,
           tickangle: 0, ...(unit ? { range: [-0.01, 1.01], tickformat: ".1f", dtick: 0.2 } : {}) };
}

function draw() {
  for (const chart of charts) {
    const unit = axes[chart.kind][0] !== "epoch";
    const traces = chart.traces.map((trace) => chart.kind === "reliability" ? points(trace) : line(trace, chart.kind));
    const layout = {
      xaxis: axis(axes[chart.kind][0], unit), yaxis: { ...axis(axes[chart.kind][1], unit), rangemode: "tozero" },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("--text"), family: colour("--font"), size: 13 },
      hoverlabel: { bgcolor: colour("--page"), font: { color: colour("--text") }, namelength: 40 },
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom" },
      margin: { l: 8, r: 8, t: 8, b: 8 }, hovermode: "closest", dragmode: false, showlegend: true,
    };
    Plotly.react(chart.id, unit ? [guess(chart), ...traces] : traces, layout,
                 { responsive: true, displayModeBar: false });
  }
}

// ---- the threshold

const rows = JSON.parse(document.getElementById("rows").textContent);
const at = (id) => document.getElementById(id);
const scores = (text) => new Float64Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
for (const head of rows.heads)
  for (const split in head.p) head.p[split] = scores(head.p[split]);
const groupsOf = {}; // split -> how many, and the group of each row
for (const split in rows.y) {
  const of = rows.groups[split] ?? rows.y[split].map((_, row) => row);
  groupsOf[split] = { of: Uint32Array.from(of), n: of.reduce((most, group) => Math.max(most, group + 1), 0) };
}

function quantile(df) { // of Student's t at 97.5 %; above the table Cornish and Fisher's expansion, right to 1e-8
  if (df <= rows.t.length) return rows.t[df - 1];
  const z = 1.959963984540054, z2 = z * z;
  return z * (1 + (z2 + 1) / (4 * df) + ((5 * z2 + 16) * z2 + 3) / (96 * df ** 2)
              + (((3 * z2 + 19) * z2 + 17) * z2 - 15) / (384 * df ** 3));
}

// How many rows of each group have each label and call: 4 cells a group, 2 * label + call.
function count(head, split, threshold) {
  const p = head.p[split], y = rows.y[split], { of, n } = groupsOf[split], cells = new Uint32Array(4 * n);
  for (let row = 0; row < p.length; row++) cells[4 * of[row] + 2 * y[row] + (p[row] >= threshold)]++;
  return cells;
}

// metrics.proportion: the share of the cells `hits` among the cells `among`, and its Wilson interval on the effective n.
function proportion(cells, hits, among) {
  const sum = (from, which) => which.reduce((total, cell) => total + cells[from + cell], 0);
  let k = 0, n = 0, groups = 0, squares = 0;
  for (let from = 0; from < cells.length; from += 4) {
    const m = sum(from, among);
    if (m) { k += sum(from, hits); n += m; groups++; }
  }
  if (!n) return { share: null, low: 0, high: 1, n, groups };
  const share = k / n, independent = share * (1 - share) / n;
  for (let from = 0; from < cells.length; from += 4) squares += (sum(from, hits) - share * sum(from, among)) ** 2;
  const spread = groups / (groups - 1) * squares / n ** 2;
  const effective = !independent || groups < 2 ? groups : n / Math.max(1, spread / independent);
  const q = quantile(Math.max(groups - 1, 1)), z = q * q / effective, centre = (share + z / 2) / (1 + z);
  const half = q / (1 + z) * Math.sqrt(share * (1 - share) / effective + z / (4 * effective));
  return { share, low: Math.max(0, centre - half), high: Math.min(1, centre + half), n, groups };
}

const figures = { // name -> cells that count, among which: 0 true negative, 1 false positive, 2 false negative, 3 true positive
  precision: [[3], [1, 3]],
  recall: [[3], [2, 3]],
  specificity: [[0], [0, 1]],
  accuracy: [[0, 3], [0, 1, 2, 3]],
  "review queue": [[1, 3], [0, 1, 2, 3]],
};
const whole = (n) => Math.round(n).toLocaleString("en-US");

function element(tag, parent, text = "", attributes = {}) {
  const made = parent.appendChild(Object.assign(document.createElement(tag), { textContent: text }));
  for (const name in attributes) made.setAttribute(name, attributes[name]);
  return made;
}

const shown = {}; // figure -> where its estimate, interval and n are written
for (const name in figures) {
  const row = element("tr", at("rates").tBodies[0]);
  element("th", row, name, { scope: "row" });
  const cell = element("td", row);
  shown[name] = [element("b", cell), element("small", cell), element("td", row)];
}
function heading(row, scope, name, word) {
  const cell = element("th", row, "", { scope });
  element("bdi", cell, name);
  element("small", cell, word);
}
const columns = element("tr", at("counts").tHead);
element("th", columns, " ", { scope: "col" });
for (const name of rows.classes) heading(columns, "col", name, "called");
const boxes = rows.classes.flatMap((name, label) => { // by cell: its box, count, percentage
  const row = element("tr", at("counts").tBodies[0]);
  heading(row, "row", name, "labelled");
  return [0, 1].map((call) => {
    const word = label === call ? "right" : "wrong", box = element("div", element("td", row), "", { class: `cell ${word}` });
    const found = [box, element("b", box), element("small", box)];
    element("small", box, word);
    return found;
  });
});

let threshold = 0;
function update() {
  const head = rows.heads[at("head").value], split = at("split").value, cells = count(head, split, threshold);
  const found = Object.fromEntries(Object.entries(figures).map(([name, of]) => [name, proportion(cells, ...of)]));
  for (const name in found) {
    const { share, low, high, n, groups } = found[name], few = groups < rows.few ? ", approximate" : "";
    shown[name][0].textContent = share === null ? "undefined" : share.toFixed(3);
    shown[name][1].textContent = `[${low.toFixed(3)}, ${high.toFixed(3)}]${few}`;
    shown[name][2].textContent = whole(n);
  }
  const counts = [0, 0, 0, 0];
  cells.forEach((n, i) => { counts[i % 4] += n; });
  counts.forEach((n, i) => {
    const share = n / (counts[i] + counts[i ^ 1]);
    boxes[i][0].style.setProperty("--share", share.toFixed(3));
    boxes[i][1].textContent = whole(n);
    boxes[i][2].textContent = `${(100 * share).toFixed(1)} %`;
  });
  const queue = found["review queue"], [low, middle, high] = [queue.low, queue.share, queue.high].map((x) => whole(1000 * x));
  at("said").textContent = `At ${+threshold.toPrecision(6)}, ${whole(counts[1] + counts[3])} of ${whole(queue.n)} ${split} images are called `
    + `\u2068${rows.classes[1]}\u2069 and would be looked at; of 1,000 such images ${middle} [${low}, ${high}].`;
  at("slider").value = threshold;
  at("slider").setAttribute("aria-valuetext", threshold);
  at("command").textContent = threshold > 0 && threshold < 1 ? `make compare THRESHOLD=${threshold}` : "none: it must lie between 0 and 1";
}

function move(to, from) { // from: the field that is being typed in, which keeps its text
  threshold = to;
  if (from !== at("number")) at("number").value = to;
  at("number").removeAttribute("aria-invalid");
  update();
}

function choose() { // a head, at its own threshold
  const head = rows.heads[at("head").value];
  at("own").textContent = `back to its own: ${+head.threshold.toPrecision(4)}`;
  const test = at("split").options[1];
  test.disabled = !("test" in head.p);
  if (test.disabled) at("split").value = "validation";
  move(head.threshold);
}

at("head").addEventListener("change", choose);
at("own").addEventListener("click", choose);
at("split").addEventListener("change", update);
at("slider").addEventListener("input", () => move(at("slider").valueAsNumber));
at("number").addEventListener("input", () => {
  const to = at("number").valueAsNumber;
  if (to > 0 && to < 1) move(to, at("number"));
  else at("number").setAttribute("aria-invalid", true);
});
choose();
at("explorer").hidden = false;

// ---- the mistakes

const pictures = [...document.querySelectorAll(".see")];
const pressed = (button) => button.getAttribute("aria-pressed") === "true";
function see(buttons, clear) {
  for (const button of buttons) button.setAttribute("aria-pressed", clear);
  at("clear").setAttribute("aria-pressed", pictures.every(pressed));
}
for (const picture of pictures) picture.addEventListener("click", () => see([picture], !pressed(picture)));
at("clear").addEventListener("click", () => see(pictures, !pressed(at("clear"))));
at("clear").hidden = !pictures.length;
document.addEventListener("keydown", (event) => {
  const modified = event.ctrlKey || event.metaKey || event.altKey || event.repeat;
  if (event.key.toLowerCase() === "b" && !modified && !event.target.matches("input, select")) at("clear").click();
});

// ---- the curves

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
