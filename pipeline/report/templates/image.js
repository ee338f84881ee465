// One image: its picture, what runs said of it, and the dialog that shows it.
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
