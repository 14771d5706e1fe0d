// The Wander tab: a handle on a simplex, its loss surface, and a player of paths between modes.
//
// Gradio runs this with `element`, `props`, `server` and `watch`. All text comes in as data and goes into the page as
// text, so that a label is never read as HTML. At most one request of a kind is on its way; of the positions in
// between, only the last is asked for.

const SVG = "http://www.w3.org/2000/svg";
// matplotlib's cividis at 0, 1/8, ..., 1: readable with every common colour blindness.
const COLOURS = [
  [0, 34, 78], [26, 56, 111], [67, 78, 108], [97, 101, 111], [125, 124, 120],
  [155, 148, 118], [188, 174, 108], [222, 201, 88], [254, 232, 56],
];
const TRIANGLE = [[50, 9], [7, 83], [93, 83]];
const LINE = [[10, 46], [90, 46]];
const STEP = 0.02;
const REST_MS = 250;
const PLAY_MS = 6000;
const UNITS = { loss: "nats", accuracy: "%" };

const state = {
  region: 0,
  coordinates: null,
  quantity: "loss",
  path: 0,
  t: 0,
  visited: 0,
  frame: null,
  answers: 0,
};
const busy = { move: false, settle: false };
const waiting = { move: false, settle: false };
let rest = null;
let data = null;
let parts = {};

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function draw(tag, attributes, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

function percent(share) {
  if (share >= 0.995 && share < 1) return `${Math.min(100 * share, 99.9).toFixed(1)} %`;
  return `${(100 * share).toFixed(0)} %`;
}

function shown(value, quantity) {
  if (value === null || value === undefined) return "unknown";
  return quantity === "accuracy" ? `${(100 * value).toFixed(1)} %` : `${value.toFixed(3)} nats`;
}

function colour(share) {
  const place = Math.min(Math.max(share, 0), 1) * (COLOURS.length - 1);
  const low = Math.min(Math.floor(place), COLOURS.length - 2);
  return COLOURS[low].map((value, index) => value + (place - low) * (COLOURS[low + 1][index] - value));
}

// ---- geometry -------------------------------------------------------------------------------------------------

function region() {
  return data.regions[state.region];
}

function corners() {
  return region().vertices.length === 3 ? TRIANGLE : region().vertices.length === 2 ? LINE : [[50, 46]];
}

function position(shares) {
  return [0, 1].map((axis) => corners().reduce((sum, corner, index) => sum + shares[index] * corner[axis], 0));
}

/** Barycentric coordinates of a position; outside of the triangle they are negative. */
function sharesAt(x, y) {
  const [a, b, c] = corners();
  if (!b) return [1];
  if (!c) {
    const t = ((x - a[0]) * (b[0] - a[0]) + (y - a[1]) * (b[1] - a[1])) / ((b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2);
    return [1 - t, t];
  }
  const whole = (b[1] - c[1]) * (a[0] - c[0]) + (c[0] - b[0]) * (a[1] - c[1]);
  const first = ((b[1] - c[1]) * (x - c[0]) + (c[0] - b[0]) * (y - c[1])) / whole;
  const second = ((c[1] - a[1]) * (x - c[0]) + (a[0] - c[0]) * (y - c[1])) / whole;
  return [first, second, 1 - first - second];
}

function inside(shares) {
  const cut = shares.map((share) => Math.max(share, 0));
  const total = cut.reduce((sum, share) => sum + share, 0);
  return cut.map((share) => share / total);
}

function ownShares() {
  const shares = region().vertices.map((vertex) => state.coordinates[vertex]);
  const total = shares.reduce((sum, share) => sum + share, 0);
  return total > 1 - 1e-6 ? shares : null;
}

function spread(shares) {
  const coordinates = new Array(data.num_vertices).fill(0);
  region().vertices.forEach((vertex, index) => { coordinates[vertex] = shares[index]; });
  return coordinates;
}

// ---- surface --------------------------------------------------------------------------------------------------

function valueOf(table, counts) {
  const found = table.get(counts.join(","));
  return found === undefined || found === null ? NaN : found;
}

/** Linear interpolation on the lattice, as hf_simplex.explorer.lattice does it. */
function interpolate(table, shares) {
  const r = data.resolution;
  const sums = [];
  for (let index = 1; index < shares.length; index += 1) {
    const sum = r * shares.slice(index).reduce((total, share) => total + share, 0);
    const near = Math.round(sum);
    sums.push(Math.min(Math.max(Math.abs(sum - near) < 1e-9 ? near : sum, 0), r));
  }
  const low = sums.map(Math.floor);
  const over = sums.map((sum, index) => sum - low[index]);
  const order = over.map((_, index) => index).sort((one, other) => over[other] - over[one] || one - other);
  let value = 0;
  for (let step = 0; step <= order.length; step += 1) {
    if (step) low[order[step - 1]] += 1;
    const before = step ? over[order[step - 1]] : 1;
    const weight = before - (step < order.length ? over[order[step]] : 0);
    if (weight > 0) {
      const ends = [r, ...low, 0];
      value += weight * valueOf(table, shares.map((_, index) => ends[index] - ends[index + 1]));
    }
  }
  return value;
}

function paint() {
  const canvas = parts.canvas;
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  context.clearRect(0, 0, width, height);
  const column = state.quantity === "loss" ? 1 : 2;
  const points = region().points;
  const finite = points.map((point) => point[column]).filter((value) => value !== null);
  parts.legend.hidden = !finite.length;
  if (!points.length) return;
  const table = new Map(points.map((point) => [point[0].join(","), point[column]]));
  const least = Math.min(...finite);
  const most = Math.max(...finite);
  const image = context.createImageData(width, height);
  const flat = corners().length === 2;
  for (let row = 0; row < height; row += 1) {
    const y = (100 * (row + 0.5)) / width;
    if (flat && Math.abs(y - LINE[0][1]) > 5) continue;
    for (let place = 0; place < width; place += 1) {
      const shares = sharesAt((100 * (place + 0.5)) / width, y);
      if (Math.min(...shares) < -0.004) continue;
      const value = interpolate(table, inside(shares));
      const [red, green, blue] = Number.isFinite(value)
        ? colour(most > least ? (value - least) / (most - least) : 0)
        : [153, 153, 153];
      image.data.set([red, green, blue, 255], 4 * (row * width + place));
    }
  }
  context.putImageData(image, 0, 0);
  parts.least.textContent = shown(least, state.quantity);
  parts.most.textContent = shown(most, state.quantity);
}

function drawCorners() {
  const layer = parts.corners;
  layer.replaceChildren();
  const places = corners();
  layer.append(draw("polygon", { points: places.map((place) => place.join(",")).join(" "), class: "sx-edge" }));
  region().names.forEach((name, index) => {
    const [x, y] = places[index];
    const top = places.length === 3 && index === 0;
    layer.append(draw("circle", { cx: x, cy: y, r: 1.4, class: "sx-corner" }));
    const anchor = top || places.length === 1 ? "middle" : index === places.length - 1 ? "end" : "start";
    const shift = anchor === "middle" ? 0 : anchor === "end" ? 5 : -5;
    layer.append(draw("text", { x: x + shift, y: top ? y - 3 : y + 9, "text-anchor": anchor, class: "sx-name" }, name));
  });
}

// ---- the handle -----------------------------------------------------------------------------------------------

function describe(coordinates) {
  const named = coordinates
    .map((share, vertex) => [share, data.vertex_names[vertex]])
    .filter(([share]) => share > 0.0005)
    .map(([share, name]) => `${name} ${(100 * share).toFixed(0)} %`);
  return named.join(", ");
}

function place() {
  const shares = ownShares();
  parts.handle.style.display = shares ? "" : "none";
  if (shares) {
    const [x, y] = position(shares);
    parts.handle.setAttribute("transform", `translate(${x} ${y})`);
    parts.handle.setAttribute("aria-valuenow", String(Math.round(100 * shares[0])));
    parts.handle.setAttribute("aria-valuetext", describe(state.coordinates));
    region().vertices.forEach((vertex, index) => {
      const slider = parts.sliders[index];
      if (!slider) return;
      slider.input.value = String(Math.round(1000 * shares[index]) / 10);
      slider.input.setAttribute("aria-valuetext", `${(100 * shares[index]).toFixed(1)} %`);
      slider.output.textContent = `${(100 * shares[index]).toFixed(0)} %`;
    });
  }
  parts.where.textContent = describe(state.coordinates);
}

function moveTo(coordinates) {
  state.coordinates = coordinates;
  // The score is that of the former point.
  parts.exact.textContent = "";
  place();
  ask("move");
  clearTimeout(rest);
  rest = setTimeout(() => ask("settle"), REST_MS);
}

function moveShares(shares) {
  stop();
  moveTo(spread(inside(shares)));
}

function dragTo(event) {
  const box = parts.svg.getBoundingClientRect();
  const scale = 100 / box.width;
  moveShares(sharesAt((event.clientX - box.left) * scale, (event.clientY - box.top) * scale));
}

function pressed(event) {
  const shares = ownShares();
  if (!shares) return;
  const size = STEP * 90 * (event.shiftKey ? 5 : 1);
  const [x, y] = position(shares);
  const moves = {
    ArrowLeft: [-size, 0], ArrowRight: [size, 0], ArrowUp: [0, -size], ArrowDown: [0, size],
  };
  const number = Number(event.key) - 1;
  if (event.key in moves) {
    const [right, down] = moves[event.key];
    moveShares(sharesAt(x + right, y + down));
  } else if (event.key === "Home") {
    moveShares(shares.map(() => 1));
  } else if (event.key.length === 1 && number >= 0 && number < shares.length) {
    moveShares(shares.map((_, index) => Number(index === number)));
  } else {
    return;
  }
  event.preventDefault();
}

// ---- the server -----------------------------------------------------------------------------------------------

async function ask(kind) {
  if (!data.token && kind === "move") return;
  if (busy[kind]) {
    waiting[kind] = true;
    return;
  }
  busy[kind] = true;
  const started = performance.now();
  const asked = state.coordinates;
  parts.root.setAttribute("aria-busy", "true");
  const slow = setTimeout(() => { parts.status.textContent = "Computing ..."; }, 400);
  try {
    const answer = await server[kind]({ token: data.token, coordinates: asked });
    if (answer.error) {
      parts.status.textContent = answer.error;
    } else if (kind === "move") {
      parts.status.textContent = "";
      showAnswer(answer);
      parts.root.dataset.roundTrip = String(performance.now() - started);
      parts.root.dataset.server = String(answer.milliseconds);
    } else if (asked === state.coordinates) {
      parts.status.textContent = "";
      showScore(answer);
    }
  } catch (error) {
    parts.status.textContent = "The server does not answer. Reload the page if this stays.";
  } finally {
    clearTimeout(slow);
    busy[kind] = false;
    parts.root.setAttribute("aria-busy", "false");
    if (waiting[kind]) {
      waiting[kind] = false;
      ask(kind);
    }
  }
}

function bar(share, kind) {
  const fill = make("span", { class: `sx-fill sx-${kind}` });
  fill.style.width = `${100 * share}%`;
  return make("span", { class: "sx-track" }, fill);
}

function showAnswer(answer) {
  const rows = answer.rows.map((row) => {
    const point = make("td", { "data-point": row.point }, bar(row.point, "point"), percent(row.point));
    const whole = make("td", { "data-ensemble": row.ensemble }, bar(row.ensemble, "ensemble"), percent(row.ensemble));
    return make("tr", { "data-label": row.label }, make("th", { scope: "row" }, row.label), point, whole);
  });
  parts.rows.replaceChildren(...rows);
  parts.loss.textContent = shown(answer.loss, "loss");
  parts.accuracy.textContent = shown(answer.accuracy, "accuracy");
  if (data.jumps) {
    state.coordinates = answer.coordinates;
    place();
  }
  state.answers += 1;
  parts.root.dataset.answers = String(state.answers);
}

function showScore(answer) {
  parts.exact.textContent = answer.images
    ? `${shown(answer.nll, "loss")}, ${shown(answer.accuracy, "accuracy")} on ${answer.images} images`
    : "no validation images";
  parts.root.dataset.nll = String(answer.nll);
  parts.root.dataset.accuracy = String(answer.accuracy);
  const [best] = parts.rows.children;
  const label = best ? `, ${best.dataset.label} ${percent(Number(best.children[1].dataset.point))}` : "";
  parts.live.textContent = `${describe(state.coordinates)}${label}; ${parts.exact.textContent}`;
}

// ---- the page -------------------------------------------------------------------------------------------------

function choose(index) {
  state.region = index;
  parts.region.value = String(index);
  parts.sliderBox.replaceChildren();
  parts.sliders = region().names.map((name, own) => {
    const output = make("output", {});
    const input = make("input", { type: "range", min: "0", max: "100", step: "0.1", "aria-label": `share of ${name}` });
    input.addEventListener("input", () => {
      const share = Number(input.value) / 100;
      const shares = ownShares() || region().names.map(() => 1 / region().names.length);
      const others = 1 - shares[own];
      const count = shares.length - 1;
      moveShares(shares.map((each, other) => {
        if (other === own) return share;
        return others > 1e-9 ? (each / others) * (1 - share) : (1 - share) / count;
      }));
    });
    parts.sliderBox.append(make("label", { class: "sx-slider" }, make("span", {}, name), input, output));
    return { input, output };
  });
  parts.sliderBox.hidden = region().names.length < 2;
  drawCorners();
  paint();
}

function select(label, options, action) {
  const box = make("select", { class: "sx-select" });
  options.forEach((option, index) => box.append(make("option", { value: String(index) }, option)));
  box.addEventListener("change", () => action(Number(box.value)));
  return [make("label", { class: "sx-field" }, make("span", {}, label), box), box];
}

function build() {
  const root = element.querySelector(".sx-wander");
  root.replaceChildren();
  parts = { root, sliders: [] };
  const names = data.regions.map((each) => each.name);
  const [regionField, regionBox] = select("Component", names, (index) => {
    stop();
    choose(index);
    moveTo(spread(region().names.map(() => 1 / region().names.length)));
  });
  regionBox.dataset.testid = "component";
  parts.region = regionBox;
  const [quantityField] = select("Colour", ["loss", "accuracy"], (index) => {
    state.quantity = ["loss", "accuracy"][index];
    paint();
  });
  regionField.classList.add("sx-wide");
  const fields = make("div", { class: "sx-fields" }, regionField);
  if (data.regions.some((each) => each.points.length)) fields.append(quantityField);

  parts.canvas = make("canvas", { width: 400, height: 376, "aria-hidden": "true" });
  parts.svg = draw("svg", { viewBox: "0 0 100 94", class: "sx-svg" });
  parts.corners = draw("g", { "aria-hidden": "true" });
  parts.handle = draw("g", {
    class: "sx-handle", tabindex: "0", role: "slider", "aria-valuemin": "0", "aria-valuemax": "100",
    "aria-label": "Point in the simplex. Arrow keys move it, Home takes it to the centre, number keys to a vertex.",
  });
  parts.handle.append(draw("circle", { r: 7, class: "sx-grip" }), draw("circle", { r: 3, class: "sx-knob" }));
  parts.svg.append(parts.corners, parts.handle);
  parts.svg.addEventListener("pointerdown", (event) => {
    parts.svg.setPointerCapture(event.pointerId);
    parts.handle.focus({ preventScroll: true });
    dragTo(event);
    event.preventDefault();
  });
  parts.svg.addEventListener("pointermove", (event) => {
    if (parts.svg.hasPointerCapture(event.pointerId)) dragTo(event);
  });
  parts.handle.addEventListener("keydown", pressed);
  parts.least = make("span", {});
  parts.most = make("span", {});
  parts.legend = make("div", { class: "sx-legend" }, parts.least, make("span", { class: "sx-ramp" }), parts.most);
  parts.sliderBox = make("div", { class: "sx-sliders" });
  const stage = make("div", { class: "sx-stage" }, parts.canvas, parts.svg);
  const map = make("div", { class: "sx-map" }, fields, stage, parts.legend, parts.sliderBox);

  parts.where = make("p", { class: "sx-where" });
  parts.rows = make("tbody", {});
  const head = ["label", "this point", "ensemble"].map((text) => make("th", { scope: "col" }, text));
  const table = make("table", { class: "sx-table" }, make("thead", {}, make("tr", {}, ...head)), parts.rows);
  parts.status = make("p", { class: "sx-status", role: "status" });
  parts.loss = make("dd", { "data-testid": "loss" });
  parts.accuracy = make("dd", { "data-testid": "accuracy" });
  parts.exact = make("dd", { "data-testid": "exact" });
  const list = make("dl", { class: "sx-numbers" });
  if (data.batch) {
    list.append(make("dt", {}, "loss, interpolated"), parts.loss);
    list.append(make("dt", {}, "accuracy, interpolated"), parts.accuracy);
    list.append(make("dt", {}, "computed at rest"), parts.exact);
  }
  if (!data.token) parts.rows.append(make("tr", {}, make("td", { colspan: "3" }, "Choose an image first.")));
  const panel = make("div", { class: "sx-panel" }, make("h3", {}, "At this point"), parts.where, table, list, parts.status);
  if (data.paths.length) panel.append(pathPlayer());
  parts.live = make("div", { class: "sx-hidden", "aria-live": "polite" });
  const notes = data.notes.map((note) => make("p", { class: "sx-note" }, note));
  root.append(make("div", { class: "sx-columns" }, map, panel), ...notes, parts.live);
  if (state.coordinates === null || state.coordinates.length !== data.num_vertices) {
    state.coordinates = spread(region().names.map(() => 1 / region().names.length));
  }
  choose(Math.min(state.region, data.regions.length - 1));
  if (data.paths.length) drawCurve();
  place();
}

function update() {
  const fresh = props.value;
  if (!fresh || !fresh.regions) return;
  data = fresh;
  stop();
  state.region = Math.min(state.region, data.regions.length - 1);
  state.path = Math.min(state.path, Math.max(data.paths.length - 1, 0));
  build();
  if (data.token) moveTo(state.coordinates);
}

watch("value", update);
update();
