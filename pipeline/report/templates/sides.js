// Two names side by side.
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
