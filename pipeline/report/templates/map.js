// The map of the features.
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
