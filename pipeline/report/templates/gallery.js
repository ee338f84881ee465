// The gallery of images, and its filters.
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
