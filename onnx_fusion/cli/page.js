"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const canvas = document.querySelector("#view canvas"), map = find("map"), about = find("about");
const pen = canvas.getContext("2d");
const COLOURS = {
  "one-to-one": "#a6d8a8", "one-to-many": "#f6c667", "many-to-many": "#8fb8f0",
  "reorganize": "#d9c2ee", "shuffle": "#f3a6b5", "opaque": "#c3c8cf",
};
const INK = "#1c2430", LINE = "#7a889a", STRONG = "#c2410c", READABLE = 0.45, STUB = 14;
let scale = 1, left = 0, top_ = 0, hovered = null, kept = null, queued = false;

function fit() {
  const { clientWidth: w, clientHeight: h } = canvas;
  const whole = Math.min(w / (data.size[0] + 80), h / (data.size[1] + 40));
  scale = Math.min(Math.max(whole, Math.min(w / (data.size[0] + 80), 1), 0.8), 1.3);
  const first = [...data.regions, ...data.nodes].reduce((a, b) => (b.box[1] < a.box[1] ? b : a));
  const wide = data.size[0] > w / scale;
  left = (wide ? first.box[0] + first.box[2] / 2 : data.size[0] / 2) - w / 2 / scale;
  top_ = -(whole >= scale ? (h / scale - data.size[1]) / 2 : 50 / scale);
}

function resize(which) {
  const dense = window.devicePixelRatio || 1;
  const w = Math.round(which.clientWidth * dense), h = Math.round(which.clientHeight * dense);
  if (which.width !== w || which.height !== h) [which.width, which.height] = [w, h];
  return dense;
}

function draw() {
  queued = false;
  const { clientWidth: w, clientHeight: h } = canvas, dense = resize(canvas);
  pen.setTransform(dense * scale, 0, 0, dense * scale, -left * scale * dense, -top_ * scale * dense);
  pen.clearRect(left, top_, w / scale, h / scale);
  const seen = ([x, y, bw, bh]) =>
    x < left + w / scale && x + bw > left && y < top_ + h / scale && y + bh > top_;
  const chosen = kept || hovered, regions = data.regions.filter((region) => seen(region.box));
  for (const region of regions) drawRegion(region, region === chosen);
  drawEdges(chosen, h / scale);
  for (const node of data.nodes) if (seen(node.box)) drawNode(node, node === chosen);
  if (scale >= READABLE) for (const region of regions) writeRegion(region);
  drawMap();
}

function rounded(box, radius) {
  pen.beginPath();
  pen.roundRect(...box, radius);
}

function drawRegion(region, strong) {
  rounded(region.box, 7);
  pen.fillStyle = COLOURS[region.kind] + "38";
  pen.strokeStyle = strong ? STRONG : "#5b6b80";
  pen.lineWidth = (strong ? 2.5 : 1.2) / Math.min(scale, 1);
  pen.fill();
  pen.stroke();
}

function writeRegion(region) {
  const [x, y, , h] = region.box;
  write(region.heading, x + 8, y + 15, "600 11px system-ui, sans-serif", "#24344d");
  write(region.outcome, x + 8, y + h - 6, "10px system-ui, sans-serif", "#56637a");
}

function write(text, x, y, font, colour) {
  pen.textAlign = "left";
  pen.font = font;
  pen.strokeStyle = "#ffffffd0";
  pen.lineWidth = 4;
  pen.strokeText(text, x, y);
  pen.fillStyle = colour;
  pen.fillText(text, x, y);
}

function drawNode(node, strong) {
  const [x, y, w, h] = node.box, alone = node.region < 0;
  rounded(node.box, 4);
  pen.fillStyle = COLOURS[node.kind];
  pen.strokeStyle = strong ? STRONG : alone ? INK : "#8290a3";
  pen.lineWidth = strong ? 2.5 : 1;
  pen.setLineDash(alone && !strong ? [4, 3] : []);
  pen.fill();
  pen.stroke();
  pen.setLineDash([]);
  if (scale < READABLE) return;
  pen.fillStyle = "#111827";
  pen.font = "11px ui-monospace, monospace";
  pen.textAlign = "center";
  pen.fillText(node.op, x + w / 2, y + h / 2 + 4, w - 4);
}

function drawEdges(chosen, visible) {
  for (const strong of [false, true]) {
    pen.strokeStyle = strong ? STRONG : LINE;
    pen.lineWidth = (strong ? 2 : 1) / Math.max(Math.min(scale, 1), 0.5);
    pen.beginPath();
    for (const edge of data.edges) {
      if (touches(edge, chosen) !== strong) continue;
      const a = data.nodes[edge.ends[0]].box, b = data.nodes[edge.ends[1]].box;
      if (a[1] > top_ + visible || b[1] + b[3] < top_) continue;
      if (edge.route || strong) trace(a, b, edge.route || []);
      else cut(a, b);
    }
    pen.stroke();
  }
}

function touches(edge, chosen) {
  if (!chosen) return false;
  const inside = (n) => data.nodes[n] === chosen || (chosen.nodes && chosen.nodes.includes(n));
  return inside(edge.ends[0]) !== inside(edge.ends[1]);
}

function trace(a, b, route) {
  let x = a[0] + a[2] / 2, y = a[1] + a[3];
  pen.moveTo(x, y);
  for (const [tx, ty] of [...route, [b[0] + b[2] / 2, b[1]]]) {
    const middle = (y + ty) / 2;
    pen.bezierCurveTo(x, middle, tx, middle, tx, ty);
    x = tx;
    y = ty;
  }
}

function cut(a, b) {
  pen.moveTo(a[0] + a[2] / 2, a[1] + a[3]);
  pen.lineTo(a[0] + a[2] / 2 + STUB / 2, a[1] + a[3] + STUB);
  pen.moveTo(b[0] + b[2] / 2 - STUB / 2, b[1] - STUB);
  pen.lineTo(b[0] + b[2] / 2, b[1]);
}

function mapScale() {
  return Math.min((map.clientWidth - 8) / data.size[0], (map.clientHeight - 8) / data.size[1]);
}

function drawMap() {
  const dense = resize(map), by = mapScale(), brush = map.getContext("2d");
  const shift = (map.clientWidth - data.size[0] * by) / 2;
  brush.setTransform(dense, 0, 0, dense, 0, 0);
  brush.clearRect(0, 0, map.clientWidth, map.clientHeight);
  const fill = ([x, y, w, h], colour) => {
    brush.fillStyle = colour;
    brush.fillRect(shift + x * by, 4 + y * by, Math.max(w * by, 2), Math.max(h * by, 1));
  };
  for (const node of data.nodes) if (node.region < 0) fill(node.box, "#8b95a5");
  for (const region of data.regions) fill(region.box, COLOURS[region.kind]);
  brush.strokeStyle = STRONG;
  brush.lineWidth = 1.5;
  const w = canvas.clientWidth / scale * by, h = canvas.clientHeight / scale * by;
  const x = Math.max(shift + left * by, 1), y = Math.max(4 + top_ * by, 1);
  brush.strokeRect(x, y, Math.min(w, map.clientWidth - x - 1), Math.max(h, 3));
}

function ask() {
  if (!queued) requestAnimationFrame(draw);
  queued = true;
}

function at(event) {
  const box = canvas.getBoundingClientRect();
  const x = (event.clientX - box.left) / scale + left, y = (event.clientY - box.top) / scale + top_;
  const hit = ({ box: [bx, by, w, h] }) => x >= bx && x <= bx + w && y >= by && y <= by + h;
  return data.nodes.find(hit) || data.regions.find(hit) || null;
}

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function list(title, lines) {
  if (!lines.length) return;
  element("b", title, about);
  const items = element("ul", undefined, about);
  for (const line of lines) element("li", line, items);
}

function amount(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let size = bytes, k = 0;
  for (; size >= 1024 && k < 3; k++) size /= 1024;
  return (k && size < 100 ? size.toFixed(1) : Math.round(size)) + " " + units[k];
}

function tell(item) {
  about.replaceChildren();
  if (!item) return;
  const region = item.program !== undefined ? item : data.regions[item.region];
  if (item !== region) {
    element("h2", item.op + " · " + item.kind + (region ? "" : " · not fused"), about);
    if (item.why) element("p", item.why, about);
    list("in the model", item.names);
    list("reads", item.in);
    list("writes", item.out);
  }
  if (!region) return;
  element("h2", region.heading + " · " + region.kind, about);
  element("p", "saves " + amount(region.saved) + " of intermediate results", about);
  element("pre", region.program, about);
  list("reads", region.in);
  list("writes", region.out);
  if (item === region) list("nodes", region.nodes.map((n) => data.nodes[n].names.join(", ")));
}

function show(item) {
  if (!item) return;
  kept = item;
  const [x, y, w, h] = item.box;
  scale = Math.max(scale, 0.8);
  left = x + w / 2 - canvas.clientWidth / 2 / scale;
  top_ = y + h / 2 - canvas.clientHeight / 2 / scale;
  tell(item);
  ask();
}

function lookUp(name) {
  return data.nodes.find((n) => n.names.includes(name)) || data.regions.find((r) => r.name === name)
    || data.nodes.find((n) => n.names.some((m) => m.includes(name)) || n.op === name);
}

function gather(items, key) {
  const found = new Map();
  for (const item of items) {
    const its = key(item);
    if (!found.has(its)) found.set(its, []);
    found.get(its).push(item);
  }
  return [...found].sort((a, b) => b[1].length - a[1].length);
}

// One line for reasons that differ in names and numbers of dims only.
function general(reason) {
  return reason.replace(/ \([^()]*[/:_][^()]*\)/g, "").replace(/'[^']*'/g, "a value")
    .replace(/\bD\d+\b/g, "D").replace(/\bregion_\d+\b/g, "a region");
}

function foldOut(parent, title, small, count, fill) {
  const block = element("details", undefined, parent), head = element("summary", title, block);
  if (small) element("small", " " + small, head);
  element("b", count, head);
  block.addEventListener("toggle", () => fill(element("table", undefined, block)), { once: true });
}

function listRegions(panel) {
  const table = element("table", undefined, panel), head = element("tr", undefined, table);
  for (const [k, name] of ["region", "nodes", "saves", "what it is"].entries())
    element("th", name, head).className = k === 1 || k === 2 ? "number" : "";
  for (const region of [...data.regions].sort((a, b) => b.saved - a.saved)) {
    const row = table.insertRow(), kind = region.anchor || region.kind;
    row.onclick = () => show(region);
    element("td", region.name, row);
    element("td", region.nodes.length, row).className = "number";
    element("td", amount(region.saved), row).className = "number";
    element("td", region.template ? kind + ", " + region.template : kind, row);
  }
  if (!data.regions.length) panel.textContent = "nothing was fused";
}

function listRefusals(panel) {
  element("p", "Pairs of neighbours that stay apart, and why.", panel);
  for (const [reason, pairs] of gather(data.refusals, ([why]) => general(why))) {
    foldOut(panel, reason, "", pairs.length, (table) => {
      for (const [why, ...names] of pairs) {
        const row = table.insertRow();
        row.title = why;
        for (const name of names) element("td", name, row).onclick = () => show(lookUp(name));
      }
    });
  }
  if (!data.refusals.length) panel.textContent = "nothing was refused";
}

function listLeft(panel) {
  element("p", "Nodes in no region, by operator.", panel);
  for (const [op, nodes] of gather(data.nodes.filter((n) => n.region < 0), (n) => n.op)) {
    foldOut(panel, op, nodes[0].why, nodes.length, (table) => {
      for (const node of nodes) element("td", node.names.join(", "), table.insertRow()).onclick = () => show(node);
    });
  }
}

function addTabs() {
  const alone = data.nodes.filter((n) => n.region < 0).length, buttons = [];
  for (const [name, fill] of [
    [`Regions (${data.regions.length})`, listRegions],
    [`Not fused (${data.refusals.length})`, listRefusals],
    [`Left as they are (${alone})`, listLeft],
  ]) {
    const button = element("button", name, find("tabs"));
    buttons.push(button);
    button.onclick = () => {
      for (const other of buttons) other.className = other === button ? "on" : "";
      find("panel").replaceChildren();
      fill(find("panel"));
    };
  }
  buttons[0].onclick();
}

function addKinds() {
  for (const [kind, colour] of Object.entries(COLOURS)) {
    const count = data.nodes.filter((n) => n.kind === kind).length;
    if (!count) continue;
    const part = element("div", undefined, find("bar")), line = element("span", undefined, find("legend"));
    part.style.background = element("i", undefined, line).style.background = colour;
    part.style.flex = count;
    part.title = line.title = `${count} nodes are ${kind}`;
    line.append(`${kind} ${count}`);
  }
}

let from = null, moved = false;
canvas.addEventListener("pointerdown", (event) => {
  from = [event.clientX, event.clientY];
  moved = false;
  canvas.setPointerCapture(event.pointerId);
});
canvas.addEventListener("pointermove", (event) => {
  if (from) {
    left -= (event.clientX - from[0]) / scale;
    top_ -= (event.clientY - from[1]) / scale;
    moved = moved || Math.abs(event.clientX - from[0]) + Math.abs(event.clientY - from[1]) > 2;
    from = [event.clientX, event.clientY];
    return ask();
  }
  const item = at(event);
  if (item === hovered) return;
  hovered = item;
  if (!kept && item) tell(item);
  if (!kept) ask();
});
canvas.addEventListener("pointerup", (event) => {
  from = null;
  if (moved) return;
  kept = at(event);
  if (kept) tell(kept);
  ask();
});
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
  const next = Math.min(Math.max(scale * Math.exp(-event.deltaY / 500), 0.01), 4);
  left += x / scale - x / next;
  top_ += y / scale - y / next;
  scale = next;
  ask();
}, { passive: false });
function goTo(event) {
  if (!event.buttons) return;
  const box = map.getBoundingClientRect(), by = mapScale();
  const shift = (map.clientWidth - data.size[0] * by) / 2;
  left = (event.clientX - box.left - shift) / by - canvas.clientWidth / 2 / scale;
  top_ = (event.clientY - box.top - 4) / by - canvas.clientHeight / 2 / scale;
  ask();
}
map.addEventListener("pointerdown", goTo);
map.addEventListener("pointermove", goTo);
find("find").addEventListener("change", (event) => show(lookUp(event.target.value)));
window.addEventListener("resize", ask);

for (const region of data.regions) element("option", undefined, find("names")).value = region.name;
addKinds();
addTabs();
fit();
draw();
if (location.hash.length > 1) show(lookUp(decodeURIComponent(location.hash.slice(1))));
