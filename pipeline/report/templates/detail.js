// Name by name: confusion matrix, mistakes, classes, reliability.
const detail = { name: byId("detail-name"), run: byId("detail-run") };
const chosenRuns = (name, run) => (run === "" ? runsOf[name] : [Number(run)]);
function runChoices(name, all) {
  const own = runsOf[name].map((run) => [run, runs[run].label]);
  return own.length > 1 ? [["", all.replace("#", own.length)], ...own] : own;
}

function matrix(some) {
  const cells = classes.map(() => new Float64Array(classes.length));
  some.forEach((run) => runs[run].cells.forEach(([row, column, number]) => (cells[row][column] += number / some.length)));
  return cells;
}

function say(row, column, cells, some) {
  const own = sum(cells[row]), number = brief(cells[row][column]);
  const what = row === column ? "named rightly" : `named ${classes[column]}`;
  const over = some.length > 1 ? `, mean of ${some.length} runs` : "";
  return `${classes[row]} ${what}: ${number} of ${brief(own)} images${over}`;
}

function drawMatrix(cells, some) {
  const said = byId("confusion-said"), place = byId("confusion");
  said.textContent = "";
  const cell = (row, column) => {
    const number = cells[row][column], share = number / (sum(cells[row]) || 1);
    return el("td", {}, el("button", {
      type: "button", class: row === column ? "hit" : null, "data-row": row, "data-column": column,
      tabindex: row || column ? -1 : 0, "aria-label": say(row, column, cells, some),
      "--share": row === column ? share : Math.sqrt(share),
      onclick: () => show({ truth: row, named: column, name: detail.name.value, run: detail.run.value }),
    }, number ? brief(number) : ""));
  };
  const table = el("table", { class: "grid", "aria-labelledby": "confusion-title" },
    el("thead", {}, el("tr", {}, el("td", {}, el("span", { class: "unseen" }, "true class, then what it was named")),
      classes.map((name) => el("th", { scope: "col", title: name }, el("span", {}, name))))),
    el("tbody", {}, classes.map((name, row) => el("tr", {},
      el("th", { scope: "row", title: name }, name), classes.map((_, column) => cell(row, column))))));
  const tell = (event) => {
    const { row, column } = event.target.dataset;
    if (row !== undefined) said.textContent = say(Number(row), Number(column), cells, some);
  };
  table.addEventListener("mouseover", tell);
  table.addEventListener("focusin", tell);
  table.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || event.target.dataset.row === undefined) return;
    const row = Number(event.target.dataset.row) + step[0], column = Number(event.target.dataset.column) + step[1];
    const next = table.querySelector(`[data-row="${row}"][data-column="${column}"]`);
    if (next) rove(event.target, next);
    event.preventDefault();
  });
  place.replaceChildren(table);
  measure(place);
}

function rove(from, to) {
  from.setAttribute("tabindex", -1);
  to.setAttribute("tabindex", 0);
  to.focus();
}

function drawMistakes(cells, some) {
  const kinds = classes.flatMap((_, row) => classes.map((_, column) => [row, column]))
    .filter(([row, column]) => row !== column && cells[row][column] > 0)
    .sort((a, b) => cells[b[0]][b[1]] - cells[a[0]][a[1]]);
  const pairs = kinds.slice(0, data.mistakes), cut = pairs.length < kinds.length;
  byId("mistakes-said").textContent = cut ? `${pairs.length} of ${kinds.length} kinds of mistake, the most frequent first.` : "";
  byId("mistakes").replaceChildren(...(pairs.length ? pairs.map(([row, column]) => el("li", {}, el("button", {
    type: "button", onclick: () => show({ truth: row, named: column, name: detail.name.value, run: detail.run.value }),
  }, `${classes[row]} named ${classes[column]}: ${brief(cells[row][column])}`))) : [el("li", {}, "None.")]));
}

function drawClasses(some) {
  const tables = some.map((run) => matrix([run]));
  // The mean over the runs that have any; a share of nothing is none.
  const bar = (hits, all, colour) => {
    const shares = hits.map((hit, n) => hit / all[n]).filter((share) => !Number.isNaN(share)), share = mean(shares);
    if (!shares.length) return el("td", {}, "–");
    return el("td", {}, el("span", { class: "bar" }, el("span", { "--share": share, "--fill": `var(--${colour})` }), percent(share)));
  };
  byId("classes").replaceChildren(...classes.map((name, own) => {
    const held = tables.map((cells) => sum(cells[own]));
    const named = tables.map((cells) => sum(cells.map((row) => row[own])));
    const hits = tables.map((cells) => cells[own][own]);
    return el("tr", {}, el("th", { scope: "row" }, breakable(name)),
      bar(hits, held, "right"), bar(hits, named, "train"),
      el("td", { class: "number" }, brief(mean(held))));
  }));
}

function drawTrust(some) {
  const bins = runs[some[0]].bins.map((_, bin) => {
    const own = some.map((run) => runs[run].bins[bin]), images = sum(own.map((one) => one[0]));
    return { images, right: sum(own.map((one) => one[0] * one[1])) / (images || 1) };
  });
  const error = mean(some.map((run) => runs[run].error));
  const said = `Expected calibration error: ${error.toFixed(3)}${some.length > 1 ? `, mean of ${some.length} runs` : ""}`;
  byId("trust-said").textContent = said;
  const x = (share) => 44 + 400 * share, y = (share) => 270 - 240 * share;
  const text = (left, top, words, anchor = "middle") => svg("text", { x: left, y: top, "text-anchor": anchor, "font-size": 12 }, words);
  const ticks = [0, 0.25, 0.5, 0.75, 1];
  byId("trust").replaceChildren(svg("svg", { viewBox: "0 0 460 310", role: "img", "aria-label": `Reliability diagram. ${said}` },
    ticks.map((tick) => [
      svg("path", { d: `M${x(0)} ${y(tick)}H${x(1)}`, stroke: "var(--line)" }),
      text(x(tick), 288, String(tick)), text(36, y(tick) + 4, String(tick), "end")]),
    bins.map((bin, n) => (bin.images ? [
      svg("rect", { x: x(n / bins.length) + 1.5, y: y(bin.right), width: 400 / bins.length - 3, height: 240 * bin.right, fill: "var(--right)", "fill-opacity": 0.75 },
        svg("title", {}, `confidence up to ${((n + 1) / bins.length).toFixed(2)}: ${bin.images} images, accuracy ${bin.right.toFixed(2)}`))] : [])),
    svg("path", { d: `M${x(0)} ${y(0)}L${x(1)} ${y(1)}`, stroke: "var(--ink)", "stroke-width": 1.5, "stroke-dasharray": "5 4", fill: "none" }),
    // After the line, with a halo, so that it strikes none of them through.
    bins.map((bin, n) => (bin.images ? [svg("text", {
      class: "count", x: x((n + 0.5) / bins.length), y: y(bin.right) - 4, "text-anchor": "middle", "font-size": 9.5,
    }, String(bin.images))] : [])),
    text(x(0.5), 306, "confidence"), text(x(0), 16, "accuracy", "start")));
}

function drawDetail() {
  const some = chosenRuns(Number(detail.name.value), detail.run.value), cells = matrix(some);
  if (data.matrix) drawMatrix(cells, some);
  drawMistakes(cells, some);
  drawClasses(some);
  drawTrust(some);
  document.querySelectorAll(".curves").forEach((one) => (one.hidden = one.dataset.name !== detail.name.value));
}
fill(detail.name, names.map((name, n) => [n, name]));
detail.name.addEventListener("change", () => {
  fill(detail.run, runChoices(Number(detail.name.value), "mean of all # runs"));
  drawDetail();
});
detail.run.addEventListener("change", drawDetail);
