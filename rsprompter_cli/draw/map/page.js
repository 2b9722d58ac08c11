"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const canvas = byId("map"), pen = canvas.getContext("2d", { alpha: false });
  const BUCKETS = 6, TOGETHER = 50, SLOW = 24, IDLE = 90, TAP = 5;

  // Numbers are varints of their zigzag code, in base64.
  function numbers(text) {
    const raw = atob(text);
    let count = 0;
    for (let i = 0; i < raw.length; i++) count += raw.charCodeAt(i) < 128;
    const out = new Float64Array(count);
    for (let i = 0, at = 0, value = 0, scale = 1; i < raw.length; i++) {
      const byte = raw.charCodeAt(i);
      value += (byte & 127) * scale;
      scale *= 128;
      if (byte < 128) {
        out[at++] = value % 2 ? -(value + 1) / 2 : value / 2;
        value = 0;
        scale = 1;
      }
    }
    return out;
  }

  // Objects: ring r of object i is first[i] <= r < first[i + 1], its vertices start[r] <= v < start[r + 1].
  const rings = numbers(data.rings), sizes = numbers(data.sizes), steps = numbers(data.xy);
  const n = rings.length, first = new Uint32Array(n + 1), start = new Uint32Array(sizes.length + 1);
  const xs = new Float32Array(steps.length / 2), ys = new Float32Array(steps.length / 2);
  const box = new Float32Array(4 * n);
  for (let i = 0; i < n; i++) first[i + 1] = first[i] + rings[i];
  for (let r = 0; r < sizes.length; r++) start[r + 1] = start[r] + sizes[r];
  for (let v = 0, x = 0, y = 0; v < xs.length; v++) {
    x += steps[2 * v];
    y += steps[2 * v + 1];
    xs[v] = x * data.step;
    ys[v] = y * data.step;
  }
  for (let i = 0; i < n; i++) {
    let x0 = Infinity, y0 = Infinity, x1 = -Infinity, y1 = -Infinity;
    for (let v = start[first[i]]; v < start[first[i + 1]]; v++) {
      x0 = Math.min(x0, xs[v]);
      x1 = Math.max(x1, xs[v]);
      y0 = Math.min(y0, ys[v]);
      y1 = Math.max(y1, ys[v]);
    }
    box.set([x0, y0, x1, y1], 4 * i);
  }
  const column = {};
  for (const [name, text] of Object.entries(data.columns)) column[name] = numbers(text);
  const label = column.label, score = column.score.map((value) => value / 1e4);
  for (let i = 1; i < n; i++) column.id[i] += column.id[i - 1];
  let low = 1, high = 0;
  for (const value of score) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  const bucketOf = (value) => high > low ? Math.min(BUCKETS - 1, Math.floor(BUCKETS * (value - low) / (high - low))) : BUCKETS - 1;
  // Groups of one class and about one score are drawn in one go, the surest last.
  const groups = [];
  // Where objects have colours of their own, groups are of one colour besides.
  const tones = data.tones || [null], tone = column.tone || new Uint8Array(n), kinds = data.classes.length * tones.length;
  for (let bucket = 0; bucket < BUCKETS; bucket++) {
    for (let kind = 0; kind < data.classes.length; kind++) {
      for (const own of tones) groups.push({ bucket, kind, colour: own || data.classes[kind].colour, members: [] });
    }
  }
  for (let i = 0; i < n; i++) groups[bucketOf(score[i]) * kinds + label[i] * tones.length + tone[i]].members.push(i);

  const state = { x: 0, y: 0, k: 1, from: low, on: data.classes.map(() => true), fill: true, picture: true, chosen: -1 };
  const picture = new Image();
  let width = 0, height = 0, ratio = 1, cost = 0, timer = 0, frame = 0, drawn = null;
  const cache = document.createElement("canvas");

  const isShown = (i) => score[i] >= state.from - 1e-9 && state.on[label[i]];

  function trace(i) {
    const { x, y, k } = state;
    if (Math.max(box[4 * i + 2] - box[4 * i], box[4 * i + 3] - box[4 * i + 1]) * k < 1.5) {
      pen.rect((box[4 * i] - x) * k, (box[4 * i + 1] - y) * k, 1.5, 1.5);
      return;
    }
    for (let r = first[i]; r < first[i + 1]; r++) {
      let lastX = (xs[start[r]] - x) * k, lastY = (ys[start[r]] - y) * k;
      pen.moveTo(lastX, lastY);
      for (let v = start[r] + 1; v < start[r + 1]; v++) {
        const px = (xs[v] - x) * k, py = (ys[v] - y) * k;
        if (Math.abs(px - lastX) + Math.abs(py - lastY) < 0.8) continue;
        pen.lineTo(px, py);
        lastX = px;
        lastY = py;
      }
      pen.closePath();
    }
  }

  // The surer an object, the more of its colour.
  function paint(colour, bucket) {
    const strength = (bucket + 1) / BUCKETS;
    pen.fillStyle = pen.strokeStyle = colour;
    if (state.fill) {
      pen.globalAlpha = 0.06 + 0.3 * strength;
      pen.fill("nonzero");
    }
    pen.globalAlpha = 0.25 + 0.75 * strength;
    pen.lineWidth = state.k < 0.25 ? 1 : 1.75;
    pen.stroke();
  }

  function drawAll() {
    const began = performance.now(), { x, y, k } = state, image = data.image;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.globalAlpha = 1;
    pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--ground").trim();
    pen.fillRect(0, 0, width, height);
    if (state.picture && picture.complete && picture.naturalWidth) {
      pen.imageSmoothingEnabled = k * image.width / picture.naturalWidth < 3;
      pen.drawImage(picture, (image.x - x) * k, (image.y - y) * k, image.width * k, image.height * k);
    }
    pen.lineJoin = "round";
    const right = x + width / k, bottom = y + height / k;
    let count = 0;
    for (const { bucket, kind, colour, members } of groups) {
      if (!state.on[kind]) continue;
      let traced = 0;
      pen.beginPath();
      for (const i of members) {
        if (score[i] < state.from - 1e-9 || box[4 * i] > right || box[4 * i + 2] < x || box[4 * i + 1] > bottom || box[4 * i + 3] < y) continue;
        trace(i);
        count++;
        // A path of very many pieces takes longer than several of few.
        if (++traced % TOGETHER === 0) {
          paint(colour, bucket);
          pen.beginPath();
        }
      }
      if (traced % TOGETHER) paint(colour, bucket);
    }
    drawArea();
    if (state.chosen >= 0 && isShown(state.chosen)) {
      pen.beginPath();
      trace(state.chosen);
      pen.globalAlpha = 1;
      pen.lineWidth = 5;
      pen.strokeStyle = "#000";
      pen.stroke();
      pen.lineWidth = 2.5;
      pen.strokeStyle = "#fff";
      pen.stroke();
    }
    cache.width = canvas.width;
    cache.height = canvas.height;
    cache.getContext("2d").drawImage(canvas, 0, 0);
    drawn = { x, y, k };
    cost = performance.now() - began;
    document.body.dataset.drawn = count;
    document.body.dataset.ms = cost.toFixed(1);
    document.body.dataset.view = [x, y, k].map((value) => value.toFixed(4)).join(" ");
    drawScale();
  }

  function drawArea() {
    if (!data.area) return;
    const { x, y, k } = state;
    pen.beginPath();
    for (const ring of data.area) {
      ring.forEach(([px, py], v) => pen[v ? "lineTo" : "moveTo"]((px - x) * k, (py - y) * k));
      pen.closePath();
    }
    pen.globalAlpha = 1;
    pen.lineWidth = 2;
    pen.strokeStyle = "#000";
    pen.stroke();
    pen.setLineDash([8, 6]);
    pen.strokeStyle = "#fff";
    pen.stroke();
    pen.setLineDash([]);
  }

  // While the map moves and drawing it is slow, the last drawing is moved.
  function moveDrawn() {
    const k = state.k / drawn.k;
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.globalAlpha = 1;
    pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--ground").trim();
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(cache, (drawn.x - state.x) * state.k * ratio, (drawn.y - state.y) * state.k * ratio, cache.width * k, cache.height * k);
    drawScale();
  }

  function redraw() {
    clearTimeout(timer);
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(drawAll);
  }

  function moved() {
    movePopup();
    if (cost < SLOW || !drawn) return redraw();
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(moveDrawn);
    clearTimeout(timer);
    timer = setTimeout(redraw, IDLE);
  }

  function drawScale() {
    const perPixel = (data.metres || 1) / state.k, room = Math.min(140, width / 3) * perPixel;
    const power = 10 ** Math.floor(Math.log10(room)), nice = [5, 2, 1].find((step) => step * power <= room) * power;
    byId("bar").style.width = `${nice / perPixel}px`;
    const unit = data.metres ? (nice >= 1000 ? [nice / 1000, "km"] : nice >= 1 ? [nice, "m"] : [nice * 100, "cm"]) : [nice, "px"];
    byId("length").textContent = `${Number(unit[0].toPrecision(3))} ${unit[1]}`;
  }

  function size() {
    ratio = window.devicePixelRatio || 1;
    const x = state.x + width / 2 / state.k, y = state.y + height / 2 / state.k, had = width > 0;
    width = canvas.clientWidth;
    height = canvas.clientHeight;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    if (had) {
      state.x = x - width / 2 / state.k;
      state.y = y - height / 2 / state.k;
    } else showAll();
    redraw();
  }

  function showAll() {
    const { image } = data, panel = byId("panel");
    // Between the panel and the buttons where there is room.
    const left = panel.open && width > 800 ? panel.offsetLeft + panel.offsetWidth : 0;
    const room = (width > 800 ? byId("zoom").offsetLeft : width) - left;
    state.k = 0.96 * Math.min(room / image.width, height / image.height);
    state.x = image.x + image.width / 2 - (left + room / 2) / state.k;
    state.y = image.y + image.height / 2 - height / 2 / state.k;
    moved();
  }

  function zoom(factor, px = width / 2, py = height / 2) {
    const most = 40, least = 0.25 * Math.min(width / data.image.width, height / data.image.height);
    const k = Math.min(most, Math.max(least, state.k * factor));
    state.x += px / state.k - px / k;
    state.y += py / state.k - py / k;
    state.k = k;
    moved();
  }

  function pan(dx, dy) {
    state.x -= dx / state.k;
    state.y -= dy / state.k;
    moved();
  }

  function inside(i, x, y) {
    let odd = false;
    for (let r = first[i]; r < first[i + 1]; r++) {
      for (let v = start[r], last = start[r + 1] - 1; v < start[r + 1]; last = v++) {
        if ((ys[v] > y) !== (ys[last] > y) && x < (xs[last] - xs[v]) * (y - ys[v]) / (ys[last] - ys[v]) + xs[v]) odd = !odd;
      }
    }
    return odd;
  }

  // The smallest object under a point of the screen, -1 for none.
  function objectAt(px, py) {
    const x = state.x + px / state.k, y = state.y + py / state.k;
    let best = -1, least = Infinity;
    for (let i = 0; i < n; i++) {
      if (x < box[4 * i] || x > box[4 * i + 2] || y < box[4 * i + 1] || y > box[4 * i + 3] || !isShown(i)) continue;
      const extent = (box[4 * i + 2] - box[4 * i]) * (box[4 * i + 3] - box[4 * i + 1]);
      if (extent < least && inside(i, x, y)) [best, least] = [i, extent];
    }
    return best;
  }

  // Latitude and longitude between the control points around a place.
  function place(x, y) {
    const grid = data.grid;
    if (!grid) return `${Math.round(x)}, ${Math.round(y)} px`;
    const { image } = data, cells = grid.length - 1;
    const u = Math.min(cells, Math.max(0, cells * (x - image.x) / image.width)), v = Math.min(cells, Math.max(0, cells * (y - image.y) / image.height));
    const i = Math.min(cells - 1, Math.floor(u)), j = Math.min(cells - 1, Math.floor(v)), s = u - i, t = v - j;
    const [lon, lat] = [0, 1].map((axis) =>
      (1 - t) * ((1 - s) * grid[j][i][axis] + s * grid[j][i + 1][axis]) + t * ((1 - s) * grid[j + 1][i][axis] + s * grid[j + 1][i + 1][axis]));
    return `${lat.toFixed(6)}, ${(((lon + 540) % 360) - 180).toFixed(6)}`;
  }

  function choose(i) {
    state.chosen = i;
    const popup = byId("popup");
    popup.hidden = i < 0;
    redraw();
    if (i < 0) return;
    const x = (box[4 * i] + box[4 * i + 2]) / 2, y = (box[4 * i + 1] + box[4 * i + 3]) / 2;
    const tenth = (name, unit) => column[name] && column[name][i] >= 0 ? `${(column[name][i] / 10).toFixed(1)} ${unit}` : null;
    const rows = [
      ["id", column.id[i]],
      ["class", data.classes[label[i]].name],
      ["score", score[i].toFixed(2)],
      ["quality", column.quality && column.quality[i] >= 0 ? (column.quality[i] / 1e4).toFixed(2) : null],
      ["area", tenth("area", data.metres ? "m²" : "px²")],
      ["perimeter", tenth("perimeter", data.metres ? "m" : "px")],
      ["found in", `${column.windows[i]} window${column.windows[i] === 1 ? "" : "s"}`],
      [data.grid ? "latitude, longitude" : "position", place(x, y)],
    ];
    const table = popup.querySelector("table");
    table.textContent = "";
    for (const [name, value] of rows) {
      if (value === null) continue;
      const row = table.insertRow(), head = document.createElement("th");
      head.textContent = name;
      row.append(head);
      row.insertCell().textContent = value;
    }
    movePopup();
  }

  function movePopup() {
    const popup = byId("popup"), i = state.chosen;
    if (popup.hidden || i < 0) return;
    const left = (box[4 * i + 2] - state.x) * state.k + 10, top = (box[4 * i + 1] - state.y) * state.k;
    popup.style.left = `${Math.max(8, Math.min(left, width - popup.offsetWidth - 56))}px`;
    popup.style.top = `${Math.max(8, Math.min(top, height - popup.offsetHeight - 40))}px`;
  }

  function tell() {
    let count = 0;
    for (let i = 0; i < n; i++) count += isShown(i);
    byId("from").textContent = state.from.toFixed(2);
    byId("hint").hidden = !n;
    byId("shown").textContent = n ? `${count.toLocaleString("en")} of ${n.toLocaleString("en")} shown` : "No objects were found.";
    document.body.dataset.shown = count;
    if (state.chosen >= 0 && !isShown(state.chosen)) choose(-1);
    redraw();
  }

  function fillPanel() {
    byId("title").textContent = data.title;
    byId("about").textContent = data.about;
    data.classes.forEach((one, kind) => {
      const row = document.createElement("li"), line = document.createElement("label");
      const tick = Object.assign(document.createElement("input"), { type: "checkbox", checked: true });
      const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
      // No colour stands for a class whose objects have colours of their own.
      swatch.style.background = data.tones ? `conic-gradient(${data.tones.slice(0, 8).join(", ")}, ${data.tones[0]})` : one.colour;
      const name = Object.assign(document.createElement("span"), { className: "name", textContent: one.name });
      const count = Object.assign(document.createElement("span"), { className: "count", textContent: one.count.toLocaleString("en") });
      tick.addEventListener("change", () => {
        state.on[kind] = tick.checked;
        tell();
      });
      line.append(tick, swatch, name, count);
      row.append(line);
      byId("classes").append(row);
    });
    const slider = byId("score");
    byId("scoreline").hidden = !(high > low);
    Object.assign(slider, { min: Math.floor(low * 100) / 100, max: Math.ceil(high * 100) / 100, step: 0.01 });
    slider.value = slider.min;
    state.from = Number(slider.min);
    slider.addEventListener("input", () => {
      state.from = Number(slider.value);
      tell();
    });
    for (const name of ["fill", "picture"]) {
      byId(name).addEventListener("change", (event) => {
        state[name] = event.target.checked;
        redraw();
      });
    }
  }

  const fingers = new Map();
  let travelled = 0;
  const middle = () => {
    const all = [...fingers.values()], [a, b = a] = all;
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) };
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    if (!fingers.size) travelled = 0;
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    canvas.classList.add("moving");
  });
  canvas.addEventListener("pointermove", (event) => {
    byId("place").textContent = place(state.x + event.clientX / state.k, state.y + event.clientY / state.k);
    if (!fingers.has(event.pointerId)) return;
    const before = middle();
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const now = middle();
    travelled += Math.hypot(now.x - before.x, now.y - before.y) + Math.abs(now.apart - before.apart);
    if (travelled < TAP) return;
    if (before.apart > 0 && now.apart > 0) zoom(now.apart / before.apart, now.x, now.y);
    pan(now.x - before.x, now.y - before.y);
  });
  function lifted(event) {
    if (!fingers.delete(event.pointerId) || fingers.size) return;
    canvas.classList.remove("moving");
    if (event.type === "pointerup" && travelled < TAP) choose(objectAt(event.clientX, event.clientY));
  }
  canvas.addEventListener("pointerup", lifted);
  canvas.addEventListener("pointercancel", lifted);
  canvas.addEventListener("pointerleave", () => { byId("place").textContent = ""; });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? height : 1;
    zoom(Math.exp(-Math.max(-400, Math.min(400, event.deltaY * lines)) / 400), event.clientX, event.clientY);
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => zoom(2, event.clientX, event.clientY));
  const keys = {
    ArrowLeft: () => pan(width / 6, 0), ArrowRight: () => pan(-width / 6, 0),
    ArrowUp: () => pan(0, height / 6), ArrowDown: () => pan(0, -height / 6),
    "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: showAll,
    Enter: () => choose(objectAt(width / 2, height / 2)),
  };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") choose(-1); });
  byId("in").addEventListener("click", () => zoom(1.5));
  byId("out").addEventListener("click", () => zoom(1 / 1.5));
  byId("all").addEventListener("click", showAll);
  byId("close").addEventListener("click", () => choose(-1));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  fillPanel();
  if (window.innerWidth < 600) byId("panel").open = false;
  new ResizeObserver(size).observe(canvas);
  tell();
  const ready = () => {
    size();
    drawAll();
    document.body.dataset.ready = "1";
  };
  picture.addEventListener("load", ready);
  picture.addEventListener("error", ready);
  picture.src = data.image.src;
})();
