"use strict";

/* Draw every figure from the data beside it. */
const plots = Array.from(document.querySelectorAll(".plot"));
const config = {
  responsive: true,
  displaylogo: false,
  displayModeBar: matchMedia("(hover: hover)").matches ? "hover" : false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};

/* A legend of many lines takes its room from the plot; the figure grows by what goes beyond one line. */
const LEGEND_PX = 34;

async function fit(plot, size) {
  plot.style.height = `${plot.dataset.height}px`;
  await Plotly.relayout(plot, {...size, height: Number(plot.dataset.height)});
  const legend = plot.querySelector(".legend .bg");
  const extra = legend ? Math.round(legend.getBBox().height) - LEGEND_PX : 0;
  if (extra <= 0) return;
  plot.style.height = `${Number(plot.dataset.height) + extra}px`;
  await Plotly.relayout(plot, {height: Number(plot.dataset.height) + extra});
}

/* The drawing library lies in the page packed, as text. */
async function unpack() {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

async function draw(plot) {
  const spec = JSON.parse(document.querySelector(`script[data-for="${plot.id}"]`).textContent);
  plot.dataset.height = spec.layout.height;
  await Plotly.newPlot(plot, {...spec, config});
  await fit(plot, {});
}

function drawn() {
  document.documentElement.dataset.figures = "drawn";
}

document.documentElement.dataset.figures = "drawing";
if (!plots.length) {
  drawn();
} else if (typeof DecompressionStream === "undefined") {
  for (const plot of plots) plot.textContent = "Figures need a browser of 2023 or later; the tables hold their data.";
  drawn();
} else {
  unpack().then(() => Promise.all(plots.map(draw))).then(drawn);
}

/* Paper is narrower than most screens: figures are laid out again for it, those longer than a sheet made smaller. */
const PAPER_PX = 670;
const SHEET_PX = 900;

addEventListener("beforeprint", () => {
  for (const plot of plots) {
    const shrink = Math.max(1, plot.layout.height / SHEET_PX, parseFloat(plot.style.minWidth) / PAPER_PX);
    plot.style.zoom = 1 / shrink;
    Plotly.relayout(plot, {width: PAPER_PX * shrink, autosize: false});
  }
});

addEventListener("afterprint", () => {
  for (const plot of plots) {
    plot.style.zoom = "";
    fit(plot, {width: null, autosize: true});
  }
});

/* Tables sort by the column whose heading is clicked, or reached with Tab and pressed; empty cells stay last. */
function compare(a, b, numeric) {
  return numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", {numeric: true});
}

function sortRows(header) {
  const body = header.closest("table").tBodies[0];
  const column = header.cellIndex;
  const numeric = header.classList.contains("number");
  const direction = header.getAttribute("aria-sort") === "descending" ? -1 : 1;
  const value = (row) => row.cells[column].dataset.value;
  const rows = Array.from(body.rows).sort((a, b) => {
    const empty = (value(a) === "") - (value(b) === "");
    return empty || direction * compare(value(a), value(b), numeric);
  });
  body.append(...rows);
}

function sortBy(header) {
  const next = header.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", next);
  sortRows(header);
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}

/* All frames and the provenance, as one file. */
document.getElementById("download")?.addEventListener("click", () => {
  const file = new Blob([document.getElementById("data").textContent], {type: "application/json"});
  const link = Object.assign(document.createElement("a"), {href: URL.createObjectURL(file), download: "study.json"});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href));
});
