"use strict";

/* Draw the figures of a notebook from the data beside them. */
addEventListener("DOMContentLoaded", () => {
  const config = {responsive: true, displaylogo: false};
  const draw = (plot) => {
    const {data, layout} = JSON.parse(document.querySelector(`script[data-for="${plot.id}"]`).textContent);
    layout.paper_bgcolor = layout.plot_bgcolor = "#ffffff";
    return Plotly.newPlot(plot, data, {...layout, width: undefined, autosize: true}, config);
  };
  Promise.all([...document.querySelectorAll(".plot")].map(draw))
    .then(() => { document.documentElement.dataset.figures = "drawn"; });
});
