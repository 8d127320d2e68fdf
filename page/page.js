// Draws the page from /page.json and keeps it up to date while it is visible. It is the
// second half of the page's script, after draw.js. It asks for nothing but the figures.

const byId = id => document.getElementById(id);
const main = byId("main"), live = byId("live"), pill = byId("state"), page = document.querySelector(".top");

let state = null, query = "", answered = 0, failed = "";

// ---- the filter ----

// wants is what is typed, as words that must all be found; a number is also a port.
function words() { return query.toLowerCase().split(/\s+/).filter(Boolean); }
function hasPort(block, word) {
  const m = /^(\d{1,5})(?:\/(tcp|udp|sctp))?$/.exec(word);
  return Boolean(m) && block.ports.some(p => {
    const r = /^(\d+)(?:-(\d+))?\/(\w+)$/.exec(p);
    return r && (!m[2] || r[3] === m[2]) && +m[1] >= +r[1] && +m[1] <= +(r[2] || r[1]);
  });
}
// pick returns the rows of a block that match, null if the block has nothing to show.
function pick(vip, block, list) {
  if (!list.length) return block.rows;
  const head = (vip.name + " " + vip.addresses.join(" ") + " " + (block.address || "") + " " + block.scheduler + " " + block.ports.join(" ")).toLowerCase();
  const rest = list.filter(w => !head.includes(w) && !hasPort(block, w));
  if (!rest.length) return block.rows;
  const rows = block.rows.filter(r => { const t = [r.server, r.node, r.state, r.why, r.probes].join(" ").toLowerCase(); return rest.every(w => t.includes(w)); });
  return rows.length ? rows : null;
}

// ---- blocks and VIPs ----

const columns = [["Real server"], ["State"], ["Weight", "n"], ["Active", "n"], ["Inactive", "n"], ["New/s", "n wide"], ["Total", "n wide"], ["Reason, probes", "why"]];
class Row {
  constructor() {
    this.cells = [el("code"), el("span", { class: "dot" }), ...columns.slice(2).map(c => el("td", { class: c[1] }))];
    this.node = el("small");
    this.el = el("tr", null, el("th", { scope: "row" }, this.cells[0], " ", this.node), el("td", null, this.cells[1]), ...this.cells.slice(2));
  }
  show(r) {
    const c = r.load.connections, t = r.load.traffic;
    name(this.cells[1], "dot " + (classes[r.state] || "off"));
    say(this.node, r.node || "");
    [r.server, r.state, num(r.weight), num(c.active), num(c.inactive), num(t.conns_per_sec), num(t.connections),
      (r.why || "") + (r.until ? ", " + span(Date.parse(r.until) - now()) + " left at most" : "") + (r.probes ? "; " + r.probes : "")].forEach((text, i) => say(this.cells[i], text));
  }
}
class Block {
  constructor() {
    this.ports = el("code"); this.of = el("span", { class: "of" }); this.serves = el("span"); this.load = el("span", { class: "load" });
    this.body = el("tbody");
    this.table = el("table", null, el("thead", null, el("tr", null, ...columns.map(c => el("th", { scope: "col", class: c[1] }, c[0])))), this.body);
    this.note = el("p", { class: "note" });
    this.el = el("details", { class: "block", toggle: () => { if (this.el.open) this.showRows(); } },
      el("summary", { click: () => { this.chosen = !this.el.open; } }, el("span", { class: "ports" }, this.ports), this.of, this.serves, this.load));
    this.rows = new Map();
  }
  show(block, rows, openAll) {
    this.block = block; this.shown = rows;
    const more = block.ports.length - 12, c = block.load;
    say(this.ports, block.ports.slice(0, 12).join(", ") + (more > 0 ? " and " + num(more) + " more" : ""));
    say(this.of, (block.address ? block.address + ", " : "") + block.scheduler + (block.persistence ? ", persistent " + num(block.persistence) + " s" : "") + (block.services > 1 ? ", " + plural(block.services, "service") : ""));
    name(this.serves, "serves" + (block.in_service === 0 ? " none" : block.in_service < block.servers ? " few" : ""));
    say(this.serves, num(block.in_service) + " of " + plural(block.servers, "real server") + " in service");
    say(this.load, num(c.connections.active) + " active, " + num(c.traffic.conns_per_sec) + " new/s");
    const open = this.chosen !== undefined ? this.chosen : openAll;
    if (this.el.open !== open) this.el.open = open;
    if (open) this.showRows();
  }
  showRows() {
    const summary = this.el.firstChild;
    if (!this.shown.length) {
      say(this.note, this.block.servers ? "The page has no room for these rows: lvs-controller status has all." : "No real server.");
      return keep(this.el, [summary, this.note]);
    }
    const before = this.rows;
    this.rows = new Map();
    keep(this.body, this.shown.map(r => {
      const row = before.get(r.server) || new Row();
      this.rows.set(r.server, row);
      row.show(r);
      return row.el;
    }));
    keep(this.el, [summary, this.table]);
  }
}
class VIP {
  constructor(vip) {
    this.title = el("h2"); this.addresses = el("p", { class: "addresses" }); this.sum = el("p", { class: "sum" });
    this.drawing = new Drawing(key => this.open(key), server => { filter.value = server; filter.dispatchEvent(new Event("input")); });
    this.plots = plots(vip.name);
    this.body = el("div", { class: "body" }, this.drawing.el, this.plots.el);
    this.list = el("div"); this.note = el("p", { class: "note" });
    this.el = el("section", { class: "vip" }, el("div", { class: "head" }, this.title, this.addresses, this.sum), this.body, this.list);
    this.blocks = new Map();
    this.near = false;
    seen.observe(this.el);
    views.set(this.el, this);
  }
  open(key) {
    const block = this.blocks.get(key);
    block.chosen = true;
    block.el.open = true;
    block.el.scrollIntoView({ block: "nearest" });
    block.el.firstChild.focus();
  }
  show(vip, shown, filtered) {
    this.vip = vip; this.shown = shown;
    say(this.title, vip.name || "not configured");
    keep(this.addresses, vip.addresses.flatMap((a, i) => {
      const at = (state.places || {})[a] || {}, pill = at.device ? "on " + at.device : at.missing ? "on no device here" : "";
      const place = pill && this.text("p" + i, "span", pill);
      if (place) { name(place, "pill " + (at.device ? "ok" : "off")); place.title = at.missing || ""; }
      return [this.text(i, "code", a), place];
    }));
    const c = vip.load.connections;
    say(this.sum, plural(vip.services, "service") + ", " + num(c.active) + " active, " + num(c.inactive) + " inactive");
    const rows = shown.reduce((n, s) => n + s.rows.length, 0), before = this.blocks;
    this.blocks = new Map();
    const list = shown.map(({ block, rows: some }) => {
      const view = before.get(block.key) || new Block();
      this.blocks.set(block.key, view);
      view.show(block, some, filtered ? rows <= 60 : block.rows.length <= 40 && vip.blocks.length <= 12);
      return view.el;
    });
    if (!vip.blocks.length) say(this.note, "No service: no real server has been in service yet.");
    else if (vip.left_out) say(this.note, plural(vip.left_out, "more service") + " not shown.");
    keep(this.list, [...list, !vip.blocks.length || vip.left_out ? this.note : null]);
    this.drawing.el.hidden = !shown.length;
    this.draw();
  }
  draw() {
    if (!this.near || !this.vip) return;
    this.plots.draw();
    if (this.shown.length) this.drawing.draw(this.vip, this.shown);
  }
  text(key, tag, text, cls) {
    this.texts = this.texts || {};
    const node = this.texts[key] = this.texts[key] || el(tag, { class: cls });
    say(node, text);
    return node;
  }
}
const views = new Map();
// Plots and drawings are made for what is near the window.
const seen = new IntersectionObserver(entries => {
  for (const e of entries) {
    const v = views.get(e.target);
    if (v) { v.near = e.isIntersecting; v.draw(); }
  }
}, { rootMargin: "400px" });

// ---- the other parts ----

function notices(s) {
  const all = [], add = (level, what, texts) => (texts || []).forEach(text => all.push({ level, what, text })), st = s.status;
  if (!st.ready) add("bad", "Not ready", [st.reason]);
  if (s.fault && s.fault !== st.reason) add("bad", "Kernel", [s.fault]);
  if (st.config && st.config.wrong) add("bad", "Configuration", [st.config.path + " is refused, and the last good configuration stays in force: " + st.config.wrong]);
  add("bad", "Conflict", (st.conflicts || []).map(c => "vip " + c.vip + ": " + c.mac + (c.host ? " (" + c.host + ")" : "") + " claims " + c.address + " on " + c.device + " since " + moment(new Date(c.since)) + ": " + c.why));
  add("bad", "All probes fail", st.fail_open);
  add("bad", "Kept", (st.kept || []).map(k => "the last working real servers of " + k + " stay in service; by the inputs none would be"));
  add("bad", "Quorum", st.below_quorum);
  add("warn", "Cluster", (st.cluster || []).filter(c => c.lastError).map(c => c.name + ": " + c.lastError));
  const floods = (st.connection_table || {}).flood_defences || {};
  add("warn", "Flood", Object.keys(floods).filter(f => floods[f]).map(f => "the kernel defends itself with " + f + ", see docs/tuning.md"));
  add("warn", "Warning", st.warnings);
  return all;
}
class Section {
  constructor(cls, title, tag, listClass) {
    this.count = el("small");
    this.list = el(tag, { class: listClass });
    this.el = el("section", { class: cls }, el("h2", null, title + " ", this.count), this.list);
    this.sig = null;
  }
  // show replaces the list if texts, what it shows, has changed.
  show(count, texts, make) {
    const sig = JSON.stringify(texts);
    if (sig === this.sig) return;
    this.sig = sig;
    say(this.count, count);
    keep(this.list, texts.map(make));
  }
}
const parts = {
  notices: new Section("notices", "What is wrong", "ul", ""),
  drains: new Section("drains", "Drains", "ul", "list"),
  probes: new Section("probes", "Probes", "ul", "list"),
  changes: new Section("changes", "Last changes", "ol", "list"),
};
const kinds = el("ul", { class: "kinds" });
parts.probes.el.insertBefore(kinds, parts.probes.list);
const facts = el("dl", { class: "facts" }), factViews = new Map(), totals = plots("");
const overview = el("section", { class: "all" }, el("h2", null, "All VIPs"), facts, totals.el);
const empty = el("p", { class: "empty" }), moreVIPs = el("p", { class: "note" });
function fact(label, value, more) {
  let f = factViews.get(label);
  if (!f) {
    f = { value: el("b"), more: el("small") };
    f.el = el("div", null, el("dt", null, label), el("dd", null, f.value, " ", f.more));
    factViews.set(label, f);
  }
  say(f.value, value); say(f.more, more);
  return f.el;
}
function overall(s) {
  const st = s.status, table = st.connection_table, c = s.load.connections;
  const blocks = s.vips.reduce((n, v) => n + v.blocks.length, 0);
  keep(facts, [
    fact("VIPs", num(s.vips.length + s.more_vips), ""),
    fact("Services", num(s.load.services), "in " + plural(blocks, "block")),
    fact("Real servers", num(s.load.real_servers), num(s.load.in_service) + " in service"),
    fact("Active connections", num(c.active), num(c.inactive) + " inactive"),
    table ? fact("Connection table", num(table.buckets), "buckets" + (table.connections === undefined ? "" : ", " + num(table.connections) + " connections")) : null,
    fact("Running for", span(Date.parse(s.time) - Date.parse(st.since)), ""),
  ]);
  totals.draw();
}
function drains(s, list) {
  const left = d => Date.parse(d.until) - now(), text = d => [d.vip, d.server, d.node, d.why].join(" ").toLowerCase();
  const shown = s.drains.filter(d => list.every(w => text(d).includes(w)));
  parts.drains.show(num(s.load.drains), shown.slice(0, 100).map(d => [d.server, "leaves " + plural(d.services, "service") + " of " + d.vip + ", " + num(d.active) + " active", span(left(d)) + " left at most"]),
    ([server, text, left]) => el("li", null, el("code", null, server), el("span", null, text), el("b", { class: "left" }, left)));
  return s.load.drains ? parts.drains.el : null;
}
function probes(s, list) {
  const all = s.status.probed_down || [], left = (s.left_off || {}).probed_down || 0;
  const down = all.filter(t => list.every(w => t.toLowerCase().includes(w)));
  if (!s.probes.length && !all.length) return null;
  keep(kinds, s.probes.map(k => el("li", null, el("b", null, k.kind), " " + num(k.up) + " up, " + num(k.down) + " down, " + num(k.unknown) + " not known yet")));
  const lines = down.slice(0, 100).map(text => ["down", text]), more = down.length - lines.length + left;
  if (more) lines.push(["", "and " + num(more) + " more"]);
  parts.probes.show(plural(all.length + left, "failing target"), lines, ([down, text]) => el("li", null, down ? el("span", { class: "dot bad" }, down) : null, el("span", null, text)));
  return parts.probes.el;
}
function changes(s, list) {
  const place = c => [c.vip, c.address, c.ports].filter(Boolean).join(" ");
  const shown = s.changes.filter(c => { const t = [c.what, c.server, place(c), c.change, c.why].join(" ").toLowerCase(); return list.every(w => t.includes(w)); });
  parts.changes.show(num(s.changes.length), shown, c => el("li", null, el("time", { datetime: c.time }, moment(new Date(c.time))),
    el("span", null, el("b", null, c.what), " ", el("code", null, c.server || ""), " ", el("span", { class: "at" }, place(c)), " ", el("span", { class: "change" }, c.change || ""), " ", el("span", { class: "why" }, c.why || ""))));
  return parts.changes.el;
}

// ---- all of it ----

const vips = new Map();
function render() {
  const s = state, list = words();
  if (!s) return;
  const before = new Map(vips), sections = [];
  let blocks = 0;
  for (const vip of s.vips) {
    const shown = [], seenKeys = new Map();
    for (const block of vip.blocks) {
      const id = (block.address || "") + " " + block.scheduler + " " + block.ports[0];
      block.key = id + (seenKeys.has(id) ? " " + seenKeys.get(id) : "");
      seenKeys.set(id, (seenKeys.get(id) || 0) + 1);
      const rows = pick(vip, block, list);
      if (rows) shown.push({ block, rows });
    }
    if (list.length && !shown.length && !(!vip.blocks.length && list.every(w => (vip.name + " " + vip.addresses.join(" ")).toLowerCase().includes(w)))) continue;
    const view = before.get(vip.name) || new VIP(vip);
    before.delete(vip.name);
    vips.set(vip.name, view);
    sections.push([view, vip, shown]);
    blocks += shown.length;
  }
  if (!list.length) for (const [key, view] of before) { vips.delete(key); views.delete(view.el); seen.unobserve(view.el); }
  const wrong = notices(s);
  const off = s.left_off || {}, total = wrong.length + (off.fail_open || 0) + (off.kept || 0) + (off.below_quorum || 0) + (off.warnings || 0), listed = wrong.slice(0, 100);
  if (total > 100) listed.push({ level: "", what: "", text: "and " + num(total - 100) + " more: lvs-controller status -o json has all" });
  parts.notices.show(num(total), listed, n => el("li", { class: n.level }, el("b", null, n.what), n.text.length <= 200 ? el("span", null, n.text)
    : el("details", null, el("summary", null, n.text.slice(0, 200) + "…"), el("span", null, n.text))));
  say(empty, list.length ? "Nothing matches “" + query.trim() + "”." : s.fault ? "" : "No VIP is known yet.");
  say(moreVIPs, plural(s.more_vips, "more VIP") + " not shown: lvs-controller status has all.");
  overall(s);
  keep(main, [wrong.length ? parts.notices.el : null, overview, sections.length ? null : empty, ...sections.map(x => x[0].el), s.more_vips ? moreVIPs : null,
    drains(s, list), probes(s, list), changes(s, list)]);
  for (const [view, vip, shown] of sections) view.show(vip, shown, list.length > 0);
  say(matches, list.length ? plural(blocks, "block") + " of services shown" : "");
  head(s);
}
function head(s) {
  const st = s.status, [cls, word] = st.drained ? ["warn", "Drained"] : st.ready ? ["ok", "Ready"] : ["bad", "Not ready"];
  name(pill, "pill " + cls);
  say(pill, word);
  document.title = (st.ready ? "" : word + ": ") + s.host + " – lvs-controller";
  const colour = { ok: "%2317754a", warn: "%23c98a00", bad: "%23c02b22" }[cls];
  const href = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'><circle cx='8' cy='8' r='7' fill='" + colour + "'/><\/svg>";
  if (icon.getAttribute("href") !== href) icon.setAttribute("href", href);
}
function age() {
  const late = failed !== "" || answered && Date.now() - answered > 15e3;
  name(live, late ? "late" : "");
  say(live, late ? "no answer for " + span(Date.now() - answered) : "live");
  live.title = failed;
}
const icon = el("link", { rel: "icon" });
document.head.append(icon);
const filter = el("input", { type: "search", id: "filter", placeholder: "Filter: VIP, port, server, state", autocomplete: "off", spellcheck: "false", "aria-label": "Filter",
  input: () => { query = filter.value; render(); } });
const matches = el("span", { id: "matches", role: "status", hidden: true });
page.append(el("label", null, filter, matches));
document.addEventListener("keydown", e => {
  if (e.key === "/" && document.activeElement !== filter && !e.ctrlKey && !e.metaKey && !e.altKey) { e.preventDefault(); filter.focus(); filter.select(); }
  if (e.key === "Escape" && document.activeElement === filter) { filter.value = ""; query = ""; filter.blur(); render(); }
});

// take shows an answer. It reports whether it can: another process than the last one has
// other changes, and an answer for one who knows the newest may be without them.
function take(next) {
  if (state && !next.series && state.status.since !== next.status.since) return false;
  skew = Date.parse(next.time) - Date.now();
  if (!next.changes) next.changes = state ? state.changes : [];
  if (next.series) recall(next.series);
  if (next.read && !next.fault && (!state || next.read !== state.read)) {
    const t = Date.parse(next.read);
    remember("", t, next.load);
    const there = new Set([""]);
    for (const v of next.vips) { remember(v.name, t, v.load); there.add(v.name); }
    for (const key of kept.keys()) if (!there.has(key)) kept.delete(key);
  }
  state = next;
  render();
  return true;
}
let timer = 0, asking = false, whole = true; // whole: the next answer must have all
async function ask() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  let wait = 2000;
  try {
    const answer = await fetch("/page.json" + (state && !failed && !whole ? "?known=" + state.number : ""), { cache: "no-store", signal: AbortSignal.timeout(20e3) });
    if (!answer.ok) throw new Error(answer.status + " " + (await answer.text()).slice(0, 200));
    const next = await answer.json();
    failed = "";
    answered = Date.now();
    whole = !take(next);
    wait = whole ? 0 : Math.max(wait, next.next_ms);
  } catch (e) {
    failed = String(e && e.message || e);
  }
  asking = false;
  age();
  timer = setTimeout(ask, wait);
}
document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
let width = 0;
new ResizeObserver(() => { if (main.clientWidth !== width) { width = main.clientWidth; for (const v of vips.values()) v.draw(); } }).observe(main);
setInterval(() => { if (!document.hidden && state) age(); }, 5000);
answered = Date.now();
ask();
