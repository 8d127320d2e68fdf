// What page.js draws with: elements, numbers, the plots and the drawing of a VIP. It is
// the first half of the page's script. It sets texts only, never HTML, and keeps no
// state but the points of the plots.
"use strict";

// el makes an element; children are elements or texts.
function el(tag, attrs, ...children) { return fill(document.createElement(tag), attrs, children); }
function svg(tag, attrs, ...children) { return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attrs, children); }
function fill(node, attrs, children) {
  for (const [k, v] of Object.entries(attrs || {})) {
    if (typeof v === "function") node.addEventListener(k, v);
    else if (v !== null && v !== undefined && v !== false) node.setAttribute(k, v === true ? "" : v);
  }
  node.append(...children.filter(c => c !== null && c !== undefined));
  return node;
}
function say(node, text) { if (node.textContent !== text) node.textContent = text; }
function name(node, text) { if (node.getAttribute("class") !== text) node.setAttribute("class", text); }
// keep makes list the children of parent, and moves only what is not in its place.
function keep(parent, list) {
  list = list.filter(Boolean);
  let at = parent.firstChild;
  for (const node of list) {
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  while (at) { const next = at.nextSibling; at.remove(); at = next; }
}

const digits = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const num = n => digits.format(n);
const plural = (n, noun) => num(n) + " " + noun + (n === 1 ? "" : "s");
const rate = n => n > 0 && n < 10 && n % 1 ? n.toFixed(1) : num(n);
function bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
  let i = 0;
  while (n >= 999.5 && i < units.length - 1) { n /= 1000; i++; }
  return (i === 0 || n >= 100 ? n.toFixed(0) : n.toFixed(1)) + " " + units[i];
}
function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return s + "s";
  if (s < 3600) return Math.floor(s / 60) + "m " + s % 60 + "s";
  return Math.floor(s / 3600) + "h " + Math.floor(s % 3600 / 60) + "m";
}
const two = n => String(n).padStart(2, "0");
const clock = t => two(t.getHours()) + ":" + two(t.getMinutes()) + ":" + two(t.getSeconds());
const moment = t => two(t.getMonth() + 1) + "-" + two(t.getDate()) + " " + clock(t);
const classes = { "in service": "ok", "draining": "warn", "weight 0": "off" };

let skew = 0; // of the director's clock
const now = () => Date.now() + skew;

// ---- plots ----

const kept = new Map(); // points by VIP, "" for all: {t, v: [active, inactive, new, bytes]}
const leastWindow = 10 * 60e3, mostPoints = 400;
let windowMs = leastWindow;
function remember(vip, t, load) {
  let list = kept.get(vip);
  if (!list) kept.set(vip, list = []);
  list.push({ t, v: [load.connections.active, load.connections.inactive, load.traffic.conns_per_sec, load.traffic.in_bytes_per_sec] });
  while (list.length && list[0].t < t - windowMs) list.shift();
  if (list.length > mostPoints) kept.set(vip, list.filter((p, i) => i % 2 || i > mostPoints / 2));
}
function recall(series) {
  const times = series.times;
  if (times.length) windowMs = Math.max(leastWindow, times[times.length - 1] - times[0]);
  for (const [vip, points] of Object.entries(series.vips)) {
    const from = times.length - points.length;
    kept.set(vip, points.map((v, i) => ({ t: times[from + i], v })));
  }
}
class Plot {
  constructor(vip, label, index, format) {
    Object.assign(this, { vip, index, format });
    this.value = el("b");
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "line" });
    this.cursor = svg("line", { y1: 0, y2: 40, visibility: "hidden" });
    this.svg = svg("svg", { viewBox: "0 0 300 40", preserveAspectRatio: "none", role: "img",
      pointermove: e => this.point(e), pointerleave: () => { this.at = null; this.draw(); } }, this.area, this.line, this.cursor);
    this.from = el("span"); this.to = el("span");
    this.label = label;
    this.el = el("div", { class: "plot" }, el("div", { class: "label" }, el("span", null, label), this.value), this.svg, el("div", { class: "ends" }, this.from, this.to));
  }
  point(e) {
    const box = this.svg.getBoundingClientRect();
    this.at = (e.clientX - box.left) / box.width;
    this.draw();
  }
  draw() {
    const list = kept.get(this.vip) || [], end = now(), i = this.index;
    // A young series fills the plot, too.
    const long = Math.min(windowMs, Math.max(60e3, list.length ? end - list[0].t : 0)), start = end - long;
    const shown = list.filter(p => p.t >= start);
    const most = Math.max(1e-9, ...shown.map(p => p.v[i]));
    const x = p => ((p.t - start) / long * 300).toFixed(1), y = p => (38 - p.v[i] / most * 35).toFixed(1);
    const d = shown.map((p, n) => (n ? "L" : "M") + x(p) + " " + y(p)).join("");
    this.line.setAttribute("d", d);
    this.area.setAttribute("d", shown.length ? d + "L" + x(shown[shown.length - 1]) + " 40L" + x(shown[0]) + " 40Z" : "");
    const last = shown.length ? shown[shown.length - 1] : null;
    let text = last ? this.format(last.v[i]) : "–";
    if (this.at != null && last) {
      const t = start + this.at * long;
      const p = shown.reduce((a, b) => Math.abs(b.t - t) < Math.abs(a.t - t) ? b : a);
      this.cursor.setAttribute("x1", x(p)); this.cursor.setAttribute("x2", x(p));
      text = this.format(p.v[i]) + " at " + clock(new Date(p.t));
    }
    this.cursor.setAttribute("visibility", this.at != null && last ? "visible" : "hidden");
    say(this.value, text);
    say(this.from, "−" + (long < 120e3 ? Math.round(long / 1e3) + " s" : Math.round(long / 60e3) + " min"));
    say(this.to, "max " + this.format(most < 1e-8 ? 0 : most));
    this.svg.setAttribute("aria-label", this.label + ": now " + text + ", at most " + this.to.textContent.slice(4));
  }
}
function plots(vip) {
  const all = [new Plot(vip, "Active", 0, num), new Plot(vip, "New/s", 2, rate), new Plot(vip, "Bytes in/s", 3, bytes)];
  return { el: el("div", { class: "plots" }, ...all.map(p => p.el)), draw: () => all.forEach(p => p.draw()) };
}

// ---- the drawing of a VIP ----

const namedBlocks = 8, namedServers = 12, nodeH = 38, gapY = 8, cell = 9, cellGap = 3;
const cut = (text, width, per) => { const n = Math.max(4, Math.floor(width / per)); return text.length <= n ? text : text.slice(0, Math.ceil((n - 1) / 2)) + "…" + text.slice(text.length - Math.floor((n - 1) / 2)); };
const cutEnd = (text, width, per) => { const n = Math.max(4, Math.floor(width / per)); return text.length <= n ? text : text.slice(0, n - 1) + "…"; };

class Drawing {
  constructor(open, pickServer) {
    this.open = open; this.pickServer = pickServer;
    this.el = el("div", { class: "drawing" });
    this.sig = "";
  }
  // model is what is drawn: the blocks and servers that match, the first by name.
  model(vip, shown) {
    const servers = new Map();
    shown.forEach(({ block, rows }, i) => {
      for (const r of rows) {
        let s = servers.get(r.server);
        if (!s) servers.set(r.server, s = { name: r.server, state: r.state, weights: new Set(), active: 0, until: 0, blocks: new Map() });
        if (s.state !== r.state) s.state = s.state === "in service" || r.state === "in service" ? "in service" : "draining";
        s.weights.add(r.weight);
        s.active += r.load.connections.active;
        s.until = Math.max(s.until, r.until ? Date.parse(r.until) : 0);
        s.blocks.set(i, r);
      }
    });
    const all = [...servers.values()];
    let named = all, rest = [];
    if (all.length > namedServers) {
      const odd = all.filter(s => s.state !== "in service").slice(0, namedServers - 4);
      named = odd; rest = all.filter(s => !odd.includes(s));
    }
    return { blocks: shown.slice(0, shown.length > namedBlocks ? namedBlocks - 1 : namedBlocks), more: shown.length > namedBlocks ? shown.length - namedBlocks + 1 : 0, named, rest, total: all.length };
  }
  draw(vip, shown) {
    const width = this.el.clientWidth;
    if (!width) return;
    const m = this.model(vip, shown);
    const sig = [width, m.more, m.blocks.map(b => b.block.key), m.named.map(s => s.name + s.state + [...s.blocks.keys()]), m.rest.map(s => s.name + s.state)].join("|");
    if (sig !== this.sig) { this.sig = sig; this.build(vip, m, width); }
    this.update(m);
  }
  build(vip, m, width) {
    const narrow = width < 560;
    const wV = narrow ? 0 : Math.min(170, Math.floor(width * .2));
    const wB = narrow ? Math.floor(width * .43) : Math.min(270, Math.floor(width * .3));
    const wS = narrow ? Math.floor(width * .45) : Math.min(270, Math.floor(width * .3));
    const xS = width - wS - 1, xB = narrow ? 0 : Math.floor((wV + xS - wB) / 2), step = nodeH + gapY;
    const cols = Math.max(1, Math.floor((wS - 20 + cellGap) / (cell + cellGap)));
    const gridRows = Math.ceil(m.rest.length / cols), gridH = m.rest.length ? 30 + gridRows * (cell + cellGap) + 6 : 0;
    const countB = m.blocks.length + (m.more ? 1 : 0) + (narrow ? 1 : 0);
    const hB = countB * step, hS = m.named.length * step + (gridH ? gridH + gapY : 0);
    const height = Math.max(hB, hS, step) - gapY + 2;
    const top = narrow ? 1 : Math.max(1, (height - hB + gapY) / 2), topS = narrow ? 1 : Math.max(1, (height - hS + gapY) / 2);
    const links = svg("g"), nodes = svg("g");
    this.links = []; this.texts = { blocks: [], named: [] };
    const root = svg("svg", { width, height, viewBox: "0 0 " + width + " " + height, role: "group",
      "aria-label": "VIP " + vip.name + ": " + plural(m.blocks.length + m.more, "block") + " of services, " + plural(m.total, "real server") }, links, nodes);
    const light = (key, on) => { root.classList.toggle("lit", on); this.links.forEach(l => l.path.classList.toggle("on", on && l.keys.includes(key))); };
    const node = (x, y, w, h, title, act, key) => {
      const g = svg("g", { transform: "translate(" + x + " " + y + ")", class: "node" }, svg("rect", { class: "box", x: .5, y: .5, width: w - 1, height: h - 1, rx: 5 }));
      if (act) {
        fill(g, { role: "button", tabindex: 0, "aria-label": title, click: act, keydown: e => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); act(); } },
          mouseenter: () => light(key, true), mouseleave: () => light(key, false), focus: () => light(key, true), blur: () => light(key, false) }, []);
      }
      nodes.append(g);
      return g;
    };
    const line = (x1, y1, x2, y2, cls, keys) => {
      const c = Math.max(12, (x2 - x1) / 2);
      const path = svg("path", { class: "link " + cls, d: "M" + x1 + " " + y1 + "C" + (x1 + c) + " " + y1 + " " + (x2 - c) + " " + y2 + " " + x2 + " " + y2, "stroke-width": 1.5 });
      links.append(path);
      this.links.push({ path, keys });
      return path;
    };
    // The VIP: a column at the left, or above the services where there is no room.
    let xIn = xB, yB = top;
    const title = vip.name || "not configured", addresses = vip.addresses.length > 1 ? vip.addresses.length + " addresses" : vip.addresses[0] || "";
    const yV = narrow ? top : Math.max(1, (height - nodeH) / 2);
    const v = node(narrow ? xB : 0, yV, narrow ? wB : wV, nodeH, "", null, "");
    v.append(svg("text", { x: 10, y: 16 }, cut(title, (narrow ? wB : wV) - 18, 7.4)), svg("text", { class: "sub", x: 10, y: 30 }, cut(addresses, (narrow ? wB : wV) - 18, 6.4)));
    if (narrow) { yB += step; xIn = xB + 12; }
    const wIn = wB - (xIn - xB), middle = y => y + nodeH / 2, yOf = [];
    const trunk = y => {
      if (narrow) links.append(svg("path", { class: "link trunk", d: "M" + (xB + 5) + " " + (yV + nodeH) + "V" + middle(y) + "H" + xIn }));
      else line(wV, middle(yV), xIn, middle(y), "trunk", []);
    };
    m.blocks.forEach(({ block }, i) => {
      const y = yB + i * step, ports = block.ports.join(", ");
      yOf.push(y);
      trunk(y);
      const g = node(xIn, y, wIn, nodeH, ports + ": show the real servers", () => this.open(block.key), "b" + i);
      const sub = svg("text", { class: "sub", x: 10, y: 30 });
      g.append(svg("title", null, ports), svg("text", { x: 10, y: 16 }, cutEnd(ports, wIn - 18, 7.4)), sub);
      this.texts.blocks.push({ sub, width: wIn - 18 });
    });
    if (m.more) {
      const y = yB + m.blocks.length * step;
      trunk(y);
      node(xIn, y, wIn, nodeH, "", null, "").append(svg("text", { x: 10, y: 16 }, "+ " + plural(m.more, "block")), svg("text", { class: "sub", x: 10, y: 30 }, cutEnd("in the list below", wIn - 18, 6)));
    }
    // The real servers: by name, or as cells if there are many.
    m.named.forEach((s, i) => {
      const y = topS + i * step, cls = classes[s.state] || "off";
      const g = node(xS, y, wS, nodeH, s.name + ", " + s.state + ": show it alone", () => this.pickServer(s.name), "s" + i);
      const sub = svg("text", { class: "sub", x: 12, y: 29 }), bar = svg("rect", { class: "bar", x: 1, y: nodeH - 3, height: 2, width: 0 });
      g.append(svg("title", null, s.name), svg("rect", { class: "mark " + cls, x: 0, y: 0, width: 4, height: nodeH, rx: 2 }), svg("text", { x: 12, y: 15 }, cut(s.name, wS - 18, 7.4)), sub, bar);
      this.texts.named.push({ sub, bar, width: wS - 18, full: wS - 2 });
      for (const [b] of s.blocks) {
        if (b >= m.blocks.length) continue;
        const r = s.blocks.get(b);
        const path = line(xIn + wIn, middle(yOf[b]), xS, middle(y), classes[r.state] || "off", ["b" + b, "s" + i]);
        Object.assign(this.links[this.links.length - 1], { server: i, block: b, path });
      }
    });
    if (m.rest.length) {
      const y = topS + m.named.length * step;
      const g = node(xS, y, wS, gridH, "", null, "");
      const by = new Map();
      m.rest.forEach(s => by.set(s.state, (by.get(s.state) || 0) + 1));
      g.append(svg("text", { class: "sub", x: 10, y: 18 }, cutEnd([...by].map(([s, n]) => num(n) + " " + s).join(", "), wS - 18, 6)));
      m.rest.forEach((s, i) => g.append(svg("rect", { class: "cell " + (classes[s.state] || "off"), x: 10 + i % cols * (cell + cellGap), y: 28 + Math.floor(i / cols) * (cell + cellGap), width: cell, height: cell, rx: 2 }, svg("title", null, s.name + ", " + s.state))));
      m.blocks.forEach((b, i) => {
        if (m.rest.some(s => s.blocks.has(i))) line(xIn + wIn, middle(yOf[i]), xS, y + Math.min(gridH / 2, 60), "ok", ["b" + i]);
      });
    }
    if (!m.total) node(xS, middle(yOf[0]) - nodeH / 2, wS, nodeH, "", null, "").append(svg("text", { class: "sub", x: 12, y: 23 }, "no real server"));
    keep(this.el, [root]);
  }
  update(m) {
    const busiest = Math.max(1, ...m.named.map(s => s.active));
    m.blocks.forEach(({ block, rows }, i) => {
      const t = this.texts.blocks[i];
      say(t.sub, cutEnd(block.scheduler + " · " + num(block.load.connections.active) + " active", t.width, 6));
    });
    m.named.forEach((s, i) => {
      const t = this.texts.named[i], least = Math.min(...s.weights), most = Math.max(...s.weights);
      const what = s.state === "draining" && s.until ? "draining, " + span(s.until - now()) + " left" : s.state === "in service" ? "weight " + (least < most ? least + "–" + most : most) : s.state;
      say(t.sub, cutEnd(what + " · " + num(s.active) + " active", t.width, 6));
      t.bar.setAttribute("width", (s.active / busiest * t.full).toFixed(1));
    });
    for (const l of this.links) {
      if (l.server === undefined) continue;
      const s = m.named[l.server], r = s && s.blocks.get(l.block);
      if (r) l.path.setAttribute("stroke-width", (1.3 + 3.2 * Math.sqrt(r.load.connections.active / busiest)).toFixed(1));
    }
  }
}
