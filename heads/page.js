"use strict";
// Draws the curves that comparison.html holds as JSON, in the colours of the reader's light or dark theme.
const charts = JSON.parse(document.getElementById("charts").textContent);
const dashes = ["solid", "dash", "dot", "dashdot", "10px,3px", "3px,8px"];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const axes = {
  roc: ["false positive rate", "true positive rate"],
  pr: ["recall", "precision"],
  loss: ["epoch", "loss"],
};

function line(trace, kind) {
  return {
    x: trace.x, y: trace.y, text: trace.thresholds, name: trace.name, mode: "lines",
    hovertemplate: `${kind === "loss" ? "epoch %{x}" : `p ≥ %{text}<br>${axes[kind][0]} %{x:.4f}`}<br>${axes[kind][1]} %{y:.4f}`,
    line: {
      color: colour(`--line-${trace.colour % 8}`),
      dash: dashes[trace.colour % dashes.length],
      width: trace.strong ? 3 : 1.75,
      shape: kind === "pr" ? "vh" : "linear",
    },
  };
}

function guess(chart) { // what a head that knows nothing would draw
  const y = chart.kind === "roc" ? [0, 1] : [chart.share, chart.share];
  return { x: [0, 1], y, mode: "lines", name: "by chance", hoverinfo: "skip",
           line: { color: colour("--soft"), width: 1 } };
}

function axis(title, unit) {
  return { title: { text: title }, fixedrange: true, gridcolor: colour("--line"), zeroline: false, automargin: true,
           tickangle: 0, ...(unit ? { range: [-0.01, 1.01], tickformat: ".1f", dtick: 0.2 } : {}) };
}

function draw() {
  for (const chart of charts) {
    const unit = chart.kind !== "loss";
    const traces = chart.traces.map((trace) => line(trace, chart.kind));
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

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
draw();
