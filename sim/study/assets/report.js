"use strict";

/* Draw every figure from the data beside it. */
const plots = Array.from(document.querySelectorAll(".plot"));
const config = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"]};

function draw(plot) {
  const spec = JSON.parse(document.querySelector(`script[data-for="${plot.id}"]`).textContent);
  return Plotly.newPlot(plot, spec.data, spec.layout, config);
}

document.documentElement.dataset.figures = "drawing";
Promise.all(plots.map(draw)).then(() => { document.documentElement.dataset.figures = "drawn"; });

/* Paper is narrower than most screens: figures are laid out again for it, and folded tables unfold. */
const PAPER_PX = 670;

addEventListener("beforeprint", () => {
  for (const plot of plots) Plotly.relayout(plot, {width: PAPER_PX, autosize: false});
  for (const fold of document.querySelectorAll("details:not([open])")) {
    fold.open = true;
    fold.dataset.unfolded = "";
  }
});

addEventListener("afterprint", () => {
  for (const plot of plots) Plotly.relayout(plot, {width: null, autosize: true});
  for (const fold of document.querySelectorAll("details[data-unfolded]")) {
    fold.open = false;
    delete fold.dataset.unfolded;
  }
});

/* Tables sort by the column whose heading is clicked, or reached with Tab and pressed; empty cells stay last. */
function compare(a, b, numeric) {
  if (a === "" || b === "") return (a === "") - (b === "") || 0;
  return numeric ? Number(a) - Number(b) : a.localeCompare(b, "en", {numeric: true});
}

function sortBy(header) {
  const table = header.closest("table");
  const body = table.tBodies[0];
  const column = header.cellIndex;
  const numeric = header.classList.contains("number");
  const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  const value = (row) => row.cells[column].dataset.value;
  const rows = Array.from(body.rows).sort((a, b) => {
    const empty = (value(a) === "") - (value(b) === "");
    return empty || direction * compare(value(a), value(b), numeric);
  });
  body.append(...rows);
  for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.parentElement));
}
