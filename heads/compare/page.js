"use strict";
// Draws the curves that comparison.html holds as JSON, in the colours of the reader's light or dark theme; shows the
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
  chosen: ["predicted probability of the chosen class", "share of images where it is right"],
  labels: ["predicted probability of a label", "observed share that has it"],
};
const reliable = (kind) => ["reliability", "chosen", "labels"].includes(kind);

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
  return { x: [0, 1], y, mode: "lines", name: reliable(chart.kind) ? "calibrated" : "by chance", hoverinfo: "skip",
           line: { color: colour("--soft"), width: 1 } };
}

function axis(title, unit) {
  return { title: { text: title }, fixedrange: true, gridcolor: colour("--line"), zeroline: false, automargin: true,
           tickangle: 0, ...(unit ? { range: [-0.01, 1.01], tickformat: ".1f", dtick: 0.2 } : {}) };
}

function draw() {
  for (const chart of charts) {
    const unit = axes[chart.kind][0] !== "epoch";
    const traces = chart.traces.map((trace) => reliable(chart.kind) ? points(trace) : line(trace, chart.kind));
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

// ---- the threshold, of two classes

const at = (id) => document.getElementById(id);
if (at("explorer")) {
  const heads = JSON.parse(document.getElementById("steps").textContent);
  const whole = (n) => Math.round(n).toLocaleString("en-US");
  const rates = [...at("rates").tBodies[0].rows], boxes = [...document.querySelectorAll("#counts .cell")];

  let threshold = 0;
  function update() {
    const split = at("split").value;
    const { counts, figures } = heads[at("head").value].steps[split].findLast((step) => step.threshold <= threshold);
    figures.forEach(([value, low, high, n, approximate], i) => {
      const [estimate, interval] = rates[i].cells[1].children;
      estimate.textContent = value === null ? "undefined" : value.toFixed(3);
      interval.textContent = `[${low.toFixed(3)}, ${high.toFixed(3)}]${approximate ? ", approximate" : ""}`;
      rates[i].cells[2].textContent = whole(n);
    });
    counts.flat().forEach((n, i, all) => {
      const share = n / (all[i] + all[i ^ 1]), [count, percentage] = boxes[i].children;
      boxes[i].style.setProperty("--share", share.toFixed(3));
      count.textContent = whole(n);
      percentage.textContent = `${(100 * share).toFixed(1)} %`;
    });
    const [queue, low, high, n] = figures.at(-1), positive = at("counts").tHead.querySelector("th:last-child bdi").textContent;
    at("said").textContent = `At ${+threshold.toPrecision(6)}, ${whole(counts[0][1] + counts[1][1])} of ${whole(n)} ${split} images are called `
      + `\u2068${positive}\u2069 and would be looked at; of 1,000 such images ${whole(1000 * queue)} [${whole(1000 * low)}, ${whole(1000 * high)}].`;
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
    const head = heads[at("head").value];
    at("own").textContent = `back to its own: ${+head.threshold.toPrecision(4)}`;
    const test = at("split").options[1];
    test.disabled = !("test" in head.steps);
    if (test.disabled) at("split").value = "validation";
    move(head.threshold);
  }

  at("head").addEventListener("change", choose);
  at("own").addEventListener("click", choose);
  at("split").addEventListener("change", update);
  at("slider").addEventListener("input", () => move(at("slider").valueAsNumber));
  at("number").addEventListener("input", () => {
    if (at("number").checkValidity()) move(at("number").valueAsNumber, at("number"));
    else at("number").setAttribute("aria-invalid", true);
  });
  choose();
  at("explorer").hidden = false;
}

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
