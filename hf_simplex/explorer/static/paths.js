// The player of paths on the Wander tab. It is read before wander.js, whose state and functions it uses.

function pathPoint(path, t) {
  const legs = path.vertices.length - 1;
  const leg = Math.min(Math.floor(t * legs), legs - 1);
  const share = t * legs - leg;
  const coordinates = new Array(data.num_vertices).fill(0);
  coordinates[path.vertices[leg]] = 1 - share;
  coordinates[path.vertices[leg + 1]] = share;
  return coordinates;
}

function goTo(t) {
  const path = data.paths[state.path];
  state.t = t;
  state.visited = Math.max(state.visited, t);
  const coordinates = pathPoint(path, t);
  const support = coordinates.flatMap((share, vertex) => (share > 0 ? [vertex] : []));
  if (!support.every((vertex) => region().vertices.includes(vertex))) {
    const other = data.regions.findIndex((each) => support.every((vertex) => each.vertices.includes(vertex)));
    if (other >= 0) choose(other);
  }
  parts.along.value = String(Math.round(1000 * t) / 10);
  parts.along.setAttribute("aria-valuetext", `${(100 * t).toFixed(0)} % of the way, ${describe(coordinates)}`);
  moveTo(coordinates);
  drawCurve();
}

function drawCurve() {
  const path = data.paths[state.path];
  const chart = parts.chart;
  chart.replaceChildren();
  const values = path.curve.filter((point) => point[1] !== null);
  if (!values.length) {
    chart.append(draw("text", { x: 150, y: 50, "text-anchor": "middle", class: "sx-axis" }, "Losses were not computed."));
    return;
  }
  const most = Math.max(...values.map((point) => point[1]));
  const x = (t) => 8 + 284 * t;
  const y = (loss) => 72 - 56 * (loss / Math.max(most, 1e-9));
  chart.append(draw("line", { x1: 8, x2: 292, y1: 72, y2: 72, class: "sx-base" }));
  path.vertices.forEach((vertex, index) => {
    const at = x(index / (path.vertices.length - 1));
    const anchor = index === 0 ? "start" : index === path.vertices.length - 1 ? "end" : "middle";
    chart.append(draw("line", { x1: at, x2: at, y1: 72, y2: 76, class: "sx-base" }));
    chart.append(draw("text", { x: at, y: 88, "text-anchor": anchor, class: "sx-axis" }, data.vertex_names[vertex]));
  });
  chart.append(draw("text", { x: 8, y: 11, class: "sx-axis" }, `loss, up to ${most.toFixed(2)} nats`));
  const now = between(path.curve, state.t);
  const gone = values.filter((point) => point[0] <= state.visited + 1e-9).map((point) => [point[0], point[1]]);
  const end = between(path.curve, state.visited);
  if (end !== null) gone.push([state.visited, end]);
  if (gone.length > 1) {
    chart.append(draw("polyline", { points: gone.map(([t, loss]) => `${x(t)},${y(loss)}`).join(" "), class: "sx-curve" }));
  }
  if (now !== null) {
    chart.append(draw("circle", { cx: x(state.t), cy: y(now), r: 4, class: "sx-here" }));
    parts.pathLoss.textContent = `${(100 * state.t).toFixed(0)} % of the way: ${shown(now, "loss")}`;
  }
}

function between(curve, t) {
  for (let index = 1; index < curve.length; index += 1) {
    const [before, low] = curve[index - 1];
    const [after, high] = curve[index];
    if (t <= after + 1e-9) {
      return low === null || high === null ? null : low + ((t - before) / (after - before)) * (high - low);
    }
  }
  return null;
}

function play() {
  if (state.frame !== null) {
    stop();
    return;
  }
  if (state.t >= 1) state.t = 0;
  if (state.t === 0) state.visited = 0;
  const from = state.t;
  const started = performance.now();
  parts.play.textContent = "Pause";
  const step = (now) => {
    const t = Math.min(from + Math.max(now - started, 0) / PLAY_MS, 1);
    if (t < 1) state.frame = requestAnimationFrame(step);
    else stop();
    goTo(t);
  };
  state.frame = requestAnimationFrame(step);
}

function stop() {
  if (state.frame !== null) cancelAnimationFrame(state.frame);
  state.frame = null;
  if (parts.play) parts.play.textContent = "Play";
}

function pathPlayer() {
  const [field, box] = select("Path", data.paths.map((path) => path.name), (index) => {
    stop();
    Object.assign(state, { path: index, t: 0, visited: 0 });
    goTo(0);
  });
  box.value = String(state.path);
  parts.play = make("button", { type: "button", class: "sx-button" }, "Play");
  parts.play.addEventListener("click", play);
  parts.along = make("input", { type: "range", min: "0", max: "100", step: "0.5", value: "0", "aria-label": "place on the path" });
  parts.along.addEventListener("input", () => {
    stop();
    goTo(Number(parts.along.value) / 100);
  });
  parts.chart = draw("svg", { viewBox: "0 0 300 92", class: "sx-chart", "aria-hidden": "true" });
  parts.pathLoss = make("p", { class: "sx-where", "data-testid": "path-loss" });
  const controls = make("div", { class: "sx-player" }, parts.play, parts.along);
  return make("div", { class: "sx-path" }, make("h3", {}, "From one vertex to another"), field, controls, parts.chart, parts.pathLoss);
}
