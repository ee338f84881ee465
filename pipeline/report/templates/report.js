"use strict";
// All texts come from files: they enter the page as text nodes and attributes alone, never as markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { classes, names, paths, labels, runs } = data;
  const PAGE = 48; // images that a gallery shows at once
  const SHAPES = ["M-9 0a9 9 0 1 0 18 0a9 9 0 1 0-18 0Z", "M-8-8H8V8H-8Z", "M0-11 10 8H-10Z", "M0-11 10 0 0 11-10 0Z"];
  const every = (count) => [...Array(count).keys()];
  const byId = (id) => document.getElementById(id);
  const percent = (share) => `${Math.round(100 * share)} %`;
  const chance = (value) => (value / 1000).toFixed(2);
  const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
  const mean = (numbers) => (numbers.length ? numbers.reduce((sum, one) => sum + one, 0) / numbers.length : 0);
  const brief = (number) => number.toFixed(1).replace(/\.0$/, "");
  const sum = (numbers) => numbers.reduce((all, one) => all + one, 0);

  function make(space, tag, attributes, children) {
    const made = space ? document.createElementNS(space, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (name.startsWith("--")) made.style.setProperty(name, value);
      else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.flat(Infinity).filter((child) => child !== null));
    return made;
  }
  const el = (tag, attributes = {}, ...children) => make(null, tag, attributes, children);
  const svg = (tag, attributes = {}, ...children) => make("http://www.w3.org/2000/svg", tag, attributes, children);

  function fill(select, choices, chosen) {
    select.replaceChildren(...choices.map(([value, text]) => el("option", { value: String(value) }, text)));
    if (chosen !== undefined) select.value = String(chosen);
  }

  // What each run answered: image -> position in the run's lists.
  const where = runs.map((run) => run.images && new Map(run.images.map((image, place) => [image, place])));
  function answer(run, image) {
    const place = where[run] ? where[run].get(image) : image;
    if (place === undefined || place >= runs[run].named.length) return null;
    const { named, sure, truth } = runs[run];
    return { run, named: named[place], sure: sure[place], truth: truth[place], right: named[place] === labels[image] };
  }
  const runsOf = names.map((_, name) => every(runs.length).filter((run) => runs[run].name === name));
  const answers = (some, image) => some.map((run) => answer(run, image)).filter((one) => one !== null);
  const splitsOf = (some) => new Set(some.map((run) => runs[run].split)).size;
  function held(image) { // in how many splits it is of this part, where that is not in all
    const own = splitsOf(answers(every(runs.length), image).map((one) => one.run)), all = splitsOf(every(runs.length));
    return own < all ? `a ${data.part} image in ${own} of ${all} splits` : "";
  }
  const missed = labels.map((_, image) => mean(answers(every(runs.length), image).map((one) => Number(!one.right))));

  // Names may break behind a sign such as _ and within long words, never before a lone last letter.
  const WORDS = /[([{]*[\p{L}\p{M}\p{N}]+(?:(?![([{])[^\p{L}\p{M}\p{N}])*|[^\p{L}\p{M}\p{N}]+/gu, LONG = 12;
  function breakable(name) {
    const parts = (name.match(WORDS) || []).flatMap((word) => {
      const letters = word.match(/^\P{M}*$/u) ? [...word] : [word], pieces = Math.ceil(letters.length / LONG);
      return every(pieces).map((n) => letters.slice(Math.round(n * letters.length / pieces), Math.round((n + 1) * letters.length / pieces)).join(""));
    });
    return parts.flatMap((part, n) => (n ? [el("wbr"), part] : [part]));
  }
  document.querySelectorAll(".name").forEach((one) => one.replaceChildren(...breakable(one.textContent)));

  // What is larger than its place scrolls there, and the page says so.
  const measure = (place) => place.classList.toggle("cut", // a pixel may be lost to rounding
    place.scrollWidth > place.clientWidth + 1 || place.scrollHeight > place.clientHeight + 1);
  const measured = new ResizeObserver((changes) => changes.forEach((change) => measure(change.target)));
  document.querySelectorAll(".sideways, .legend").forEach((place) => measured.observe(place));

  // --- One image ---
  function picture(image) {
    const source = data.pictures[image];
    if (source) return el("img", { src: `data:image/jpeg;base64,${source}`, alt: "" });
    return el("span", { class: "none" }, paths[image]);
  }

  function lines(image, some) {
    const wrong = [], right = [];
    for (const name of some) {
      const own = answers(runsOf[name], image), misses = own.filter((one) => !one.right);
      const times = own.length > 1 ? ` (${misses.length} of ${own.length} runs)` : "";
      if (!own.length) continue;
      if (!misses.length) { right.push(name); continue; }
      const tally = new Map();
      misses.forEach((one) => tally.set(one.named, [...(tally.get(one.named) || []), one.sure]));
      const [named, sure] = [...tally].sort((a, b) => b[1].length - a[1].length || a[0] - b[0])[0];
      wrong.push(["✗ ", breakable(names[name]), ": ", breakable(classes[named]), ` ${chance(mean(sure))}${times}`]);
    }
    const more = wrong.length > 4 ? `✗ and ${wrong.length - 3} names more` : null;
    const shown = more ? [...wrong.slice(0, 3), more] : wrong;
    const who = right.length > 3 ? count(right.length, "name") : right.map((name) => names[name]).join(", ");
    return [
      ...shown.map((text) => el("span", { class: "miss" }, text)),
      right.length ? el("span", { class: "hit-text" }, `✓ ${who}`) : null,
    ];
  }

  function shot(image, some) {
    return el("button", { type: "button", class: "shot", "data-image": image, onclick: () => open(image) },
      picture(image),
      el("span", {}, el("b", {}, classes[labels[image]]), lines(image, some), el("span", { class: "path" }, paths[image].split("/").pop()),
        held(image) ? el("span", { class: "path" }, held(image)) : null));
  }

  function drawGallery(place, images, some, page = PAGE) {
    const more = el("button", { type: "button", class: "more-images", onclick: grow }, "Show more");
    let shown = 0;
    function grow() {
      const next = images.slice(shown, shown + page).map((image) => shot(image, some));
      if (shown) more.before(...next);
      else place.replaceChildren(...(next.length ? next : [el("p", { class: "empty" }, "No image is like that.")]), more);
      if (shown) next[0].focus();
      shown += next.length;
      more.hidden = shown >= images.length;
    }
    grow();
  }

  function open(image) {
    const row = (one) => el("tr", {},
      el("th", { scope: "row" }, names[runs[one.run].name]), el("td", {}, runs[one.run].label),
      el("td", {}, el("span", { class: one.right ? "hit-text" : "miss" }, `${one.right ? "✓" : "✗"} ${classes[one.named]}`)),
      el("td", { class: "number" }, chance(one.sure)), el("td", { class: "number" }, chance(one.truth)));
    const heads = ["name", "run", "named", "probability", "of the true class"];
    const dialog = byId("one");
    dialog.replaceChildren(
      el("h2", { id: "one-title" }, classes[labels[image]]),
      el("button", { type: "button", class: "close", onclick: () => dialog.close() }, "Close"),
      picture(image),
      el("p", { class: "path" }, paths[image]),
      el("p", {}, `Missed by ${percent(missed[image])} of ${count(answers(every(runs.length), image).length, "run")}${held(image) && `: it is ${held(image)}`}.`),
      el("div", { class: "sideways", role: "region", tabindex: 0, "aria-labelledby": "one-title" }, el("table", { class: "plain" },
        el("thead", {}, el("tr", {}, heads.map((head, n) => el("th", { scope: "col", class: n > 2 ? "number" : null }, head)))),
        el("tbody", {}, answers(every(runs.length), image).map(row)))));
    dialog.showModal();
    measure(dialog.querySelector(".sideways"));
  }

  // --- Name by name ---
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

  // --- The gallery ---
  const by = Object.fromEntries(["truth", "named", "name", "run", "order", "sure"].map((key) => [key, byId(`by-${key}`)]));

  function matches(image) {
    const some = by.run.value !== "" ? [Number(by.run.value)] : by.name.value !== "" ? runsOf[Number(by.name.value)] : every(runs.length);
    if (by.truth.value !== "" && labels[image] !== Number(by.truth.value)) return null;
    const fits = answers(some, image).filter((one) =>
      (by.named.value === "" ? !one.right : one.named === Number(by.named.value)) && one.sure >= 1000 * Number(by.sure.value));
    return fits.length ? Math.max(...fits.map((one) => one.sure)) : null;
  }

  function drawMatches() {
    const found = every(paths.length).map((image) => [image, matches(image)]).filter(([, sure]) => sure !== null);
    const orders = {
      missed: (a, b) => missed[b[0]] - missed[a[0]] || b[1] - a[1],
      sure: (a, b) => b[1] - a[1],
      path: () => 0,
    };
    found.sort(orders[by.order.value]);
    const some = by.name.value === "" ? every(names.length) : [Number(by.name.value)];
    byId("by-sure-said").textContent = Number(by.sure.value).toFixed(2);
    byId("gallery-said").textContent = count(found.length, "image");
    drawGallery(byId("gallery"), found.map(([image]) => image), some);
  }

  function filterBy({ truth = "", named = "", name = "", run = "", sure = 0 }) {
    by.truth.value = String(truth);
    by.named.value = String(named);
    by.name.value = String(name);
    fillRuns();
    by.run.value = String(run);
    by.sure.value = sure;
    drawMatches();
  }
  function fillRuns() {
    fill(by.run, by.name.value === "" ? [["", "any"]] : [["", "any"], ...runsOf[Number(by.name.value)].map((run) => [run, runs[run].label])]);
  }
  function show(filters) {
    filterBy(filters);
    byId("images-title").focus({ preventScroll: true });
    byId("images").scrollIntoView();
  }
  fill(by.truth, [["", "any"], ...classes.map((name, n) => [n, name])]);
  fill(by.named, [["", "wrongly"], ...classes.map((name, n) => [n, name])]);
  fill(by.name, [["", "any"], ...names.map((name, n) => [n, name])]);
  by.name.addEventListener("change", fillRuns);
  Object.values(by).forEach((control) => control.addEventListener("input", drawMatches));
  byId("by-reset").addEventListener("click", () => filterBy({}));

  // --- Side by side ---
  const sides = { a: byId("side-a"), b: byId("side-b") };
  const isRight = (name, image) => {
    const own = answers(runsOf[name], image);
    return own.length ? own.filter((one) => one.right).length * 2 > own.length : null;
  };
  function drawSides() {
    const [a, b] = [Number(sides.a.value), Number(sides.b.value)];
    const verdicts = every(paths.length).map((image) => [image, isRight(a, image), isRight(b, image)]);
    const differing = verdicts.filter(([, one, other]) => one !== null && other !== null && one !== other);
    byId("sides-said").textContent = `${names[a]} and ${names[b]} differ on ${count(differing.length, "image")}`;
    for (const [side, own, other, mine] of [["a", a, b, 1], ["b", b, a, 2]]) {
      const found = differing.filter((verdict) => verdict[mine]);
      byId(`side-${side}-title`).textContent = `Only ${names[own]} is right: ${found.length}`;
      drawGallery(byId(`side-${side}-gallery`), found.map(([image]) => image), [own, other], PAGE / 4);
    }
  }
  if (sides.a) {
    Object.values(sides).forEach((side, n) => {
      fill(side, names.map((name, number) => [number, name]), n);
      side.addEventListener("change", drawSides);
    });
    drawSides();
  }

  // --- The map ---
  const map = { which: byId("map-which"), layout: byId("map-layout"), name: byId("map-name") };
  const colour = (label) => `var(--map-${label % data.colours})`;
  const shape = (label) => SHAPES[Math.floor(label / data.colours) % SHAPES.length];
  let alone = null;
  function drawMap() {
    const one = data.maps[Number(map.which.value)], places = one.layouts[map.layout.value];
    const some = map.name.value === "" ? one.names : [Number(map.name.value)];
    const wrong = (image) => some.some((name) => isRight(name, image) === false);
    // Mistakes are drawn last, so that nothing hides them.
    const order = every(places.length).sort((a, b) => wrong(one.images[a]) - wrong(one.images[b]) || a - b);
    const spots = order.map((n, turn) => {
      const image = one.images[n], label = labels[image], miss = wrong(image);
      return svg("path", {
        d: shape(label), fill: colour(label), transform: `translate(${places[n][0]} ${places[n][1]})${miss ? " scale(1.35)" : ""}`,
        class: `spot${miss ? " wrong" : ""}${alone !== null && label !== alone ? " faint" : ""}`, "data-image": image, role: "button",
        tabindex: turn ? -1 : 0, "aria-label": `${paths[image]}, ${classes[label]}${miss ? ", missed" : ""}`,
      });
    });
    const [left, top, right, bottom] = [Math.min, Math.max].flatMap((end) => [0, 1].map((axis) => places.reduce((far, spot) => end(far, spot[axis]), places[0][axis])));
    const drawing = svg("svg", { viewBox: `${left - 24} ${top - 24} ${right - left + 48} ${bottom - top + 48}`, role: "group", "aria-label": "Map of the features; arrow keys go from image to image" }, spots);
    const tell = (event) => {
      if (event.target.dataset.image !== undefined) byId("map-said").replaceChildren(shot(Number(event.target.dataset.image), one.names));
    };
    drawing.addEventListener("mouseover", tell);
    drawing.addEventListener("focusin", tell);
    drawing.addEventListener("click", (event) => event.target.dataset.image !== undefined && open(Number(event.target.dataset.image)));
    drawing.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      const next = spots[spots.indexOf(event.target) + step];
      if (next) rove(event.target, next);
      if (step) event.preventDefault();
      if (event.key === "Enter" || event.key === " ") { open(Number(event.target.dataset.image)); event.preventDefault(); }
    });
    byId("map-drawing").replaceChildren(drawing);
    byId("map-said").replaceChildren(el("p", { class: "empty" }, "Point at an image of the map to see it here."));
  }
  function drawLegend() {
    const present = new Set(data.maps[Number(map.which.value)].images.map((image) => labels[image]));
    const markers = data.colours * SHAPES.length, used = new Set([...present].map((label) => label % markers));
    byId("legend-title").textContent = "Press a class to see it alone."
      + (used.size < present.size ? ` There are ${markers} markers for ${present.size} classes, so some classes share one.` : "");
    byId("legend").replaceChildren(...every(classes.length).filter((label) => present.has(label)).map((label) => el("li", {}, el("button", {
      type: "button", "aria-pressed": String(alone === label), onclick: (event) => {
        alone = alone === label ? null : label;
        byId("legend").querySelectorAll("button").forEach((button) => button.setAttribute("aria-pressed", "false"));
        event.currentTarget.setAttribute("aria-pressed", String(alone === label));
        drawMap();
      },
    }, svg("svg", { viewBox: "-12 -12 24 24", "aria-hidden": "true" }, svg("path", { d: shape(label), fill: colour(label) })), classes[label]))));
    measure(byId("legend"));
  }
  function chooseMap() {
    const one = data.maps[Number(map.which.value)];
    fill(map.layout, Object.keys(one.layouts).map((way) => [way, way]));
    fill(map.name, [...(one.names.length > 1 ? [["", "any name"]] : []), ...one.names.map((name) => [name, names[name]])]);
    drawLegend();
    drawMap();
  }
  if (map.which) {
    map.which.addEventListener("change", chooseMap);
    map.layout.addEventListener("change", drawMap);
    map.name.addEventListener("change", drawMap);
    chooseMap();
  }

  // --- The scheme, and print ---
  const theme = byId("theme"), system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => (theme.textContent = isDark() ? "Light colours" : "Dark colours");
  theme.hidden = false;
  theme.addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; nameTheme(); });
  system.addEventListener("change", nameTheme);
  window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
  nameTheme();

  detail.name.dispatchEvent(new Event("change"));
  filterBy({});
})();
