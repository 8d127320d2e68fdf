// What the tests ask the page: its figures, and what is wrong with its layout. The last
// expression is the answer.
(() => {
  const faults = [];
  const fault = text => { if (faults.length < 20) faults.push(text); };
  const visible = e => e.getClientRects().length > 0 && getComputedStyle(e).visibility !== "hidden";
  const label = e => (e.getAttribute("class") || e.tagName) + " " + JSON.stringify(e.textContent.trim().slice(0, 40));
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth) fault("the page scrolls sideways: " + root.scrollWidth + " > " + innerWidth);
  // Boxes beside each other do not overlap, and stay in the window.
  function apart(list) {
    const boxes = list.filter(visible).map(e => [e, e.getBoundingClientRect()]).filter(([, r]) => r.width > 0 && r.height > 0);
    for (const [e, r] of boxes) if (r.left < -1 || r.right > innerWidth + 1) fault(label(e) + " leaves the window: " + r.left + " to " + r.right);
    boxes.sort((a, b) => a[1].top - b[1].top);
    for (let i = 0; i < boxes.length; i++) {
      for (let j = i + 1; j < boxes.length && boxes[j][1].top < boxes[i][1].bottom - 1; j++) {
        const a = boxes[i][1], b = boxes[j][1];
        if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1) fault(label(boxes[i][0]) + " overlaps " + label(boxes[j][0]));
      }
    }
  }
  const groups = [".top", ".top .state", "main", ".facts", ".plots", ".plot .label", ".plot .ends", ".head", ".addresses", ".body", ".block summary", "tr", "tbody", ".list", ".list li", ".notices ul", ".notices li", ".kinds"];
  for (const group of groups) for (const parent of document.querySelectorAll(group)) if (visible(parent)) apart([...parent.children].filter(e => getComputedStyle(e).display !== "contents"));
  for (const g of document.querySelectorAll(".drawing svg")) apart([...g.querySelectorAll("g.node")]);
  // Texts stay in their boxes, and no text is cut off by its box without an ellipsis.
  for (const node of document.querySelectorAll(".drawing g.node")) {
    const box = node.querySelector(".box").getBoundingClientRect();
    for (const t of node.querySelectorAll("text")) {
      const r = t.getBoundingClientRect();
      if (r.width && (r.right > box.right + 1 || r.left < box.left - 1 || r.bottom > box.bottom + 1)) fault("text " + label(t) + " leaves its box");
    }
  }
  for (const e of document.querySelectorAll("td, th, summary, summary > *, li, dd, p")) if (visible(e) && e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 && getComputedStyle(e).display !== "inline") fault(label(e) + " is wider than its box");
  // Contrast of all texts with what is behind them, at least 4.5.
  const parse = c => (c.match(/[\d.]+/g) || []).map(Number);
  const lum = ([r, g, b]) => { const f = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
  const seen = new Set();
  for (const e of document.querySelectorAll("header *, main *")) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()) || !visible(e)) continue;
    const style = getComputedStyle(e), svg = e.namespaceURI.endsWith("svg");
    let back = e, c = [0, 0, 0, 0];
    while (back && !(c = parse(getComputedStyle(back).backgroundColor), c.length === 3 || c[3] > 0)) back = back.parentElement;
    const fore = parse(svg ? style.fill : style.color), key = fore + "|" + c;
    if (seen.has(key) || svg && e.tagName === "title") continue;
    seen.add(key);
    const [x, y] = [lum(fore), lum(c)].sort((a, b) => b - a), ratio = (x + .05) / (y + .05);
    if (ratio < 4.5) fault(label(e) + " has a contrast of " + ratio.toFixed(1));
  }
  // The figures of the tables.
  const plain = e => e ? e.textContent.replace(/,/g, "").trim() : "";
  const blocks = [];
  for (const block of document.querySelectorAll(".block")) {
    const of = block.querySelector(".of").textContent, rows = {};
    for (const tr of block.querySelectorAll("tbody tr")) {
      const c = [...tr.children];
      rows[c[0].querySelector("code").textContent] = { Node: (c[0].querySelector("small") || {}).textContent, Weight: plain(c[2]), Active: plain(c[3]), Inactive: plain(c[4]), Total: plain(c[6]), State: c[1].textContent, Why: c[7].textContent };
    }
    blocks.push({ Ports: block.querySelector(".ports").textContent, Address: of.split(",")[0], Services: +((/([\d,]+) services/.exec(of) || [0, "1"])[1].replace(/,/g, "")), Rows: rows });
  }
  return JSON.stringify({
    Faults: faults, Blocks: blocks, Text: document.querySelector("main").innerText, Title: document.title,
    State: document.getElementById("state").textContent, Live: document.getElementById("live").textContent,
    Nodes: document.querySelectorAll(".drawing g.node").length, Links: document.querySelectorAll(".drawing path.link:not(.trunk)").length, Cells: document.querySelectorAll(".drawing .cell").length,
    Plots: [...document.querySelectorAll(".plot path.line")].filter(p => /L/.test(p.getAttribute("d"))).length,
  });
})()
