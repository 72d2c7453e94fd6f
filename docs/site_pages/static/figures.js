"use strict";

/* Draw the figures of a notebook from the data beside them. */
addEventListener("DOMContentLoaded", () => {
  const displayModeBar = matchMedia("(hover: hover)").matches ? "hover" : false;
  const config = {responsive: true, displaylogo: false, displayModeBar};
  const draw = (plot) => {
    const {data, layout, frames} = JSON.parse(document.querySelector(`script[data-for="${plot.id}"]`).textContent);
    if (layout.meta?.min_width) plot.style.minWidth = `${layout.meta.min_width}px`;
    layout.paper_bgcolor = layout.plot_bgcolor = "#ffffff";
    return Plotly.newPlot(plot, {data, frames, config, layout: {...layout, width: undefined, autosize: true}});
  };
  Promise.all([...document.querySelectorAll(".plot")].map(draw))
    .then(() => { document.documentElement.dataset.figures = "drawn"; });
});
