"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const canvas = document.querySelector("canvas"), about = document.getElementById("about");
const pen = canvas.getContext("2d");
const COLOURS = {
  "one-to-one": "#a6d8a8", "one-to-many": "#f6c667", "many-to-many": "#8fb8f0",
  "reorganize": "#d9c2ee", "shuffle": "#f3a6b5", "opaque": "#c3c8cf",
};
let scale = 1, left = 0, top_ = 0, hovered = null, kept = null, queued = false;

function fit() {
  const { clientWidth: w, clientHeight: h } = canvas;
  scale = Math.max(Math.min(w / (data.size[0] + 80), h / (data.size[1] + 40), 1.2), 0.55);
  left = data.size[0] / 2 - w / 2 / scale;
  top_ = -20 / scale;
}

function draw() {
  queued = false;
  const { clientWidth: w, clientHeight: h } = canvas, dense = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(w * dense) || canvas.height !== Math.round(h * dense)) {
    canvas.width = Math.round(w * dense);
    canvas.height = Math.round(h * dense);
  }
  pen.setTransform(dense * scale, 0, 0, dense * scale, -left * scale * dense, -top_ * scale * dense);
  pen.clearRect(left, top_, w / scale, h / scale);
  const seen = ([x, y, bw, bh]) =>
    x < left + w / scale && x + bw > left && y < top_ + h / scale && y + bh > top_;
  const chosen = kept || hovered;
  for (const region of data.regions) if (seen(region.box)) drawRegion(region, region === chosen);
  drawEdges(chosen, h / scale);
  for (const node of data.nodes) if (seen(node.box)) drawNode(node, node === chosen);
}

function drawRegion(region, strong) {
  const [x, y, w, h] = region.box;
  pen.fillStyle = COLOURS[region.kind] + "38";
  pen.strokeStyle = strong ? "#c2410c" : "#5b6b80";
  pen.lineWidth = (strong ? 2.5 : 1.2) / Math.min(scale, 1);
  pen.beginPath();
  pen.roundRect(x, y, w, h, 7);
  pen.fill();
  pen.stroke();
  if (scale < 0.35) return;
  pen.fillStyle = "#3b4a5e";
  pen.font = "11px system-ui, sans-serif";
  pen.textAlign = "left";
  pen.fillText(region.name + (region.template ? " · " + region.template : ""), x + 8, y + 15, w - 12);
}

function drawNode(node, strong) {
  const [x, y, w, h] = node.box;
  pen.fillStyle = COLOURS[node.kind];
  pen.strokeStyle = strong ? "#c2410c" : node.region < 0 ? "#3b4a5e" : "#8290a3";
  pen.lineWidth = strong ? 2.5 : 1;
  pen.setLineDash(node.region < 0 && !strong ? [4, 3] : []);
  pen.beginPath();
  pen.roundRect(x, y, w, h, 4);
  pen.fill();
  pen.stroke();
  pen.setLineDash([]);
  if (scale < 0.35) return;
  pen.fillStyle = "#111827";
  pen.font = "11px ui-monospace, monospace";
  pen.textAlign = "center";
  pen.fillText(node.op, x + w / 2, y + h / 2 + 4, w - 4);
}

function drawEdges(chosen, visible) {
  for (const strong of [false, true]) {
    pen.strokeStyle = strong ? "#c2410c" : "#7a889a";
    pen.lineWidth = strong ? 2 : 1 / Math.max(Math.min(scale, 1), 0.5);
    pen.beginPath();
    for (const edge of data.edges) {
      if (touches(edge, chosen) !== strong) continue;
      const a = data.nodes[edge.ends[0]].box, b = data.nodes[edge.ends[1]].box;
      if (a[1] > top_ + visible || b[1] + b[3] < top_) continue;
      trace(a, b, edge.route);
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

function tell(item) {
  about.replaceChildren();
  if (!item) return;
  const region = item.program !== undefined ? item : data.regions[item.region];
  if (item !== region) {
    element("h2", item.op + " · " + item.kind + (region ? "" : " · not fused"), about);
    list("in the model", item.names);
    list("reads", item.in);
    list("writes", item.out);
  }
  if (!region) return;
  const template = region.template ? ", template " + region.template : "";
  element("h2", region.name + " · " + region.kind + template, about);
  element("div", "saves " + region.saved.toLocaleString("en") + " B of intermediate results", about);
  if (item === region) list("nodes", region.nodes.map((n) => data.nodes[n].names.join(", ")));
  list("reads", region.in);
  list("writes", region.out);
  element("pre", region.program, about);
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

function listRefusals() {
  const parent = document.getElementById("refusals"), reasons = new Map();
  for (const [reason, producer, consumer] of data.refusals) {
    if (!reasons.has(reason)) reasons.set(reason, []);
    reasons.get(reason).push([producer, consumer]);
  }
  for (const [reason, pairs] of [...reasons].sort((a, b) => b[1].length - a[1].length)) {
    const block = element("details", undefined, parent), head = element("summary", reason, block);
    element("b", pairs.length, head);
    block.addEventListener("toggle", () => {
      if (block.querySelector("table")) return;
      const table = element("table", undefined, block);
      for (const pair of pairs) {
        const row = table.insertRow();
        for (const name of pair) element("td", name, row).onclick = () => show(lookUp(name));
      }
    }, { once: true });
  }
  if (!reasons.size) parent.textContent = "nothing was refused";
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
  if (!kept) {
    tell(item);
    ask();
  }
});
canvas.addEventListener("pointerup", (event) => {
  from = null;
  if (moved) return;
  kept = at(event);
  tell(kept);
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
document.getElementById("find").addEventListener("change", (event) => show(lookUp(event.target.value)));
window.addEventListener("resize", ask);

const used = new Set(data.nodes.map((n) => n.kind));
for (const [kind, colour] of Object.entries(COLOURS)) {
  if (!used.has(kind)) continue;
  const line = element("div", undefined, document.getElementById("legend"));
  element("i", undefined, line).style.background = colour;
  line.append(kind);
}
for (const region of data.regions) element("option", undefined, document.getElementById("names")).value = region.name;
listRefusals();
fit();
draw();
if (location.hash.length > 1) show(lookUp(decodeURIComponent(location.hash.slice(1))));
