// What the page is made of. All texts come from files: they enter it as text nodes and attributes alone, never as markup.
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
