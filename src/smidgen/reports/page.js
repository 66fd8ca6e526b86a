"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
  const tip = $("#tip");

  // ---- the tooltip, shared by galleries and map; names enter as text only
  function showTip(src, name, note, x, y) {
    tip.replaceChildren();
    if (src) {
      const image = document.createElement("img");
      image.alt = "";
      image.addEventListener("load", () => {
        const k = Math.max(1, Math.round(112 / Math.max(image.naturalWidth, image.naturalHeight)));
        image.style.width = `${image.naturalWidth * k}px`;
      });
      image.src = src;
      tip.append(image);
    }
    const title = document.createElement("b");
    const words = document.createElement("span");
    title.dir = "auto";
    title.textContent = name;
    words.textContent = note;
    tip.append(title, words);
    tip.hidden = false;
    placeTip(x, y);
    requestAnimationFrame(() => placeTip(x, y));
  }
  function placeTip(x, y) {
    const w = tip.offsetWidth, h = tip.offsetHeight, page = document.documentElement;
    let left = x + 16, top = y + 16;
    if (left + w > page.clientWidth - 8) left = Math.max(8, x - w - 16);
    if (top + h > page.clientHeight - 8) top = Math.max(8, y - h - 16);
    tip.style.transform = `translate(${left + scrollX}px, ${top + scrollY}px)`;
  }
  const hideTip = () => { tip.hidden = true; };

  document.addEventListener("mouseover", (event) => {
    const image = event.target.closest(".gallery [data-row]");
    if (!image) return;
    const box = image.getBoundingClientRect();
    showTip(image.src, image.alt || image.getAttribute("aria-label"), image.dataset.note, box.right - 10, box.bottom - 10);
  });
  document.addEventListener("mouseout", (event) => { if (event.target.closest(".gallery [data-row]")) hideTip(); });

  // ---- the map
  const canvas = $("#points");
  if (!canvas) return;
  const data = JSON.parse($("#data").textContent);
  const thumbnails = JSON.parse($("#thumbnails").textContent);
  for (const image of $$(".gallery img[data-row]")) thumbnails[image.dataset.row] ??= image.src;
  const n = data.x.length, wrong = new Set(data.wrong), pictures = new Map();
  const state = { mode: "cluster", draw: "points", onlyWrong: false, chosen: new Set(), point: -1, zoom: 1, dx: 0, dy: 0 };
  const context = canvas.getContext("2d");
  let width = 0, height = 0;

  const groups = () => (state.mode === "class" ? data.classes : data.clusters);
  const groupOf = (i) => (state.mode === "class" ? data.class[i] : data.cluster[i]);
  const colourOf = (i) => groups()[groupOf(i)]?.[1] ?? "#888888";
  const isShown = (i) => (!state.chosen.size || state.chosen.has(groupOf(i))) && (!state.onlyWrong || wrong.has(i));
  const property = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function place(i) {
    const [kx, ky] = scales();
    const x = (data.x[i] / 1000 - 0.5) * kx, y = (data.y[i] / 1000 - 0.5) * ky;
    return [width / 2 + (x + state.dx) * state.zoom, height / 2 + (y + state.dy) * state.zoom];
  }
  // The plane's axes mean nothing in themselves: the canvas is filled by stretching one of them a little.
  const span = (values) => Math.max(1, Math.max(...values) - Math.min(...values)) / 1000;
  const spans = [span(data.x), span(data.y)];
  function scales() {
    const kx = (width - 48) / spans[0], ky = (height - 48) / spans[1];
    return [Math.min(kx, 1.5 * ky), Math.min(ky, 1.5 * kx)];
  }

  function picture(i) {
    const src = thumbnails[data.row[i]];
    if (!src) return null;
    if (!pictures.has(i)) {
      const image = new Image();
      image.onload = schedule;
      image.src = src;
      pictures.set(i, image);
    }
    const image = pictures.get(i);
    return image.complete && image.naturalWidth ? image : null;
  }

  let waiting = false;
  function schedule() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; paint(); });
  }

  function paint() {
    const ratio = window.devicePixelRatio || 1;
    width = canvas.clientWidth;
    height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const radius = Math.max(2.2, Math.min(4.6, 150 / Math.sqrt(n))) * Math.sqrt(state.zoom);
    const faint = property("--line");
    for (let i = 0; i < n; i++) if (!isShown(i)) dot(i, radius * 0.8, faint, 1);
    for (let i = 0; i < n; i++) if (isShown(i)) state.draw === "images" ? drawPicture(i) : dot(i, radius, colourOf(i), 0.82);
    if (state.draw === "points") names();
    if (state.point >= 0) ring(state.point, radius);
  }

  function dot(i, radius, colour, alpha) {
    const [x, y] = place(i);
    if (x < -9 || y < -9 || x > width + 9 || y > height + 9) return;
    context.globalAlpha = alpha;
    context.fillStyle = colour;
    context.beginPath();
    context.arc(x, y, radius, 0, 7);
    context.fill();
    context.globalAlpha = 1;
  }

  function drawPicture(i) {
    const [x, y] = place(i), image = picture(i), half = pictureHalf();
    if (x < -half || y < -half || x > width + half || y > height + half) return;
    if (!image) { dot(i, 3, colourOf(i), 0.8); return; }
    context.imageSmoothingEnabled = property("--rendering") !== "pixelated" || half * 2 < image.naturalWidth;
    context.fillStyle = colourOf(i);
    context.fillRect(x - half - 1.5, y - half - 1.5, 2 * half + 3, 2 * half + 3);
    context.drawImage(image, x - half, y - half, 2 * half, 2 * half);
  }
  const pictureHalf = () => 9 * Math.max(0.7, Math.min(2, Math.sqrt(500 / n))) * Math.sqrt(state.zoom);

  function ring(i, radius) {
    const [x, y] = place(i), size = state.draw === "images" ? pictureHalf() + 5 : radius + 4;
    context.strokeStyle = property("--ink");
    context.lineWidth = 2;
    context.beginPath();
    if (state.draw === "images") context.rect(x - size, y - size, 2 * size, 2 * size);
    else context.arc(x, y, size, 0, 7);
    context.stroke();
  }

  // Each group's name stands at the point nearest to the group's middle, so colours are never the only guide.
  function names() {
    const list = groups();
    if (list.length > 60) return;
    context.font = `650 15px ${getComputedStyle(document.body).fontFamily}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineJoin = "round";
    list.forEach((group, g) => {
      const members = [];
      for (let i = 0; i < n; i++) if (groupOf(i) === g && isShown(i)) members.push(place(i));
      if (!members.length) return;
      const middle = [0, 1].map((axis) => members.map((p) => p[axis]).sort((a, b) => a - b)[members.length >> 1]);
      const text = group[2].length > 18 ? `${group[2].slice(0, 17)}…` : group[2];
      context.lineWidth = 5;
      context.strokeStyle = property("--halo");
      context.strokeText(text, ...middle);
      context.fillStyle = property("--ink");
      context.fillText(text, ...middle);
    });
  }

  // ---- choosing a point: mouse, touch, arrow keys, #row=… in the address
  function nearest(x, y) {
    let best = -1, least = 22 * 22;
    for (let i = 0; i < n; i++) {
      if (!isShown(i)) continue;
      const [px, py] = place(i), d = (px - x) ** 2 + (py - y) ** 2;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }
  function choose(i, speak = false) {
    if (i === state.point && !speak) return;
    state.point = i;
    schedule();
    if (i < 0) { hideTip(); return; }
    const box = canvas.getBoundingClientRect(), [x, y] = place(i);
    showTip(thumbnails[data.row[i]], data.id[i], data.note[i], box.left + x, box.top + y);
    if (speak) $(".spoken").textContent = `${data.id[i]}, ${data.note[i]}`;
  }
  function step(ux, uy) {
    const [x, y] = state.point >= 0 ? place(state.point) : [width / 2, height / 2];
    let best = -1, least = Infinity;
    for (let i = 0; i < n; i++) {
      if (i === state.point || !isShown(i)) continue;
      const [px, py] = place(i), along = (px - x) * ux + (py - y) * uy, aside = Math.abs((px - x) * uy) + Math.abs((py - y) * ux);
      if (along > 0.5 && along + 2.5 * aside < least) { least = along + 2.5 * aside; best = i; }
    }
    if (best >= 0) choose(best, true);
  }
  function zoom(factor, x = width / 2, y = height / 2) {
    const next = Math.min(16, Math.max(1, state.zoom * factor)), k = 1 / next - 1 / state.zoom;
    state.dx = next === 1 ? 0 : state.dx + (x - width / 2) * k;
    state.dy = next === 1 ? 0 : state.dy + (y - height / 2) * k;
    state.zoom = next;
    canvas.style.touchAction = next > 1 ? "none" : "pan-y";
    choose(-1);
    schedule();
  }

  let grip = null;
  const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => {
    choose(nearest(...at(event)), true);
    if (state.zoom > 1) { grip = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); }
  });
  canvas.addEventListener("pointermove", (event) => {
    if (grip && event.buttons) {
      state.dx += (event.clientX - grip[0]) / state.zoom;
      state.dy += (event.clientY - grip[1]) / state.zoom;
      grip = [event.clientX, event.clientY];
      state.point = -1;
      hideTip();
      schedule();
    } else choose(nearest(...at(event)));
  });
  canvas.addEventListener("pointerup", () => { grip = null; });
  canvas.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") choose(-1); });
  canvas.addEventListener("dblclick", (event) => zoom(2, ...at(event)));
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;  // a plain wheel scrolls the page
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 200), ...at(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const actions = {
      ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
      "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), Escape: () => choose(-1),
    };
    if (!actions[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    actions[event.key]();
  });

  // ---- legend and switches
  function legend() {
    const counts = groups().map(() => 0), box = $("#legend");
    for (let i = 0; i < n; i++) if (groupOf(i) >= 0) counts[groupOf(i)]++;
    box.replaceChildren(...groups().map(([name, colour, , total], g) => {
      const button = document.createElement("button"), swatch = document.createElement("i");
      const words = document.createElement("span"), count = document.createElement("small");
      button.type = "button";
      button.setAttribute("aria-pressed", state.chosen.has(g));
      swatch.style.background = colour;
      words.textContent = state.mode === "class" ? `class ${name}` : name;
      words.dir = "auto";
      words.title = name;
      count.textContent = total.toLocaleString("en");
      count.title = counts[g] < total ? `${counts[g]} of ${total} are on the map` : "";
      button.append(swatch, words, count);
      button.addEventListener("click", () => { state.chosen.has(g) ? state.chosen.delete(g) : state.chosen.add(g); refresh(g); });
      return button;
    }));
    box.classList.toggle("chosen", state.chosen.size > 0);
    if (!state.chosen.size) return;
    const clear = document.createElement("button");
    clear.type = "button";
    clear.className = "clear";
    clear.textContent = "show all";
    clear.addEventListener("click", () => { state.chosen.clear(); refresh(); });
    box.append(clear);
  }
  function refresh(focus = -1) {
    legend();
    if (focus >= 0) $$("#legend button")[focus].focus();
    for (const b of $$("[data-mode]")) b.setAttribute("aria-pressed", b.dataset.mode === state.mode);
    for (const b of $$("[data-draw]")) b.setAttribute("aria-pressed", b.dataset.draw === state.draw);
    for (const b of $$("[data-wrong]")) b.setAttribute("aria-pressed", state.onlyWrong);
    choose(-1);
    schedule();
  }
  for (const b of $$("[data-mode]")) b.addEventListener("click", () => { state.mode = b.dataset.mode; state.chosen.clear(); refresh(); });
  for (const b of $$("[data-draw]")) b.addEventListener("click", () => { state.draw = b.dataset.draw; refresh(); });
  for (const b of $$("[data-wrong]")) b.addEventListener("click", () => { state.onlyWrong = !state.onlyWrong; refresh(); });
  for (const b of $$("[data-zoom]")) b.addEventListener("click", () => zoom(Number(b.dataset.zoom)));
  for (const a of $$("a[data-cluster]")) a.addEventListener("click", () => {
    state.mode = "cluster";
    state.chosen = new Set([Number(a.dataset.cluster)]);
    refresh();
  });

  // ---- begin: #row=17&mode=class&draw=images opens the page with that shown
  function fromAddress() {
    const wanted = new URLSearchParams(location.hash.slice(1)), row = wanted.get("row");
    if (wanted.get("mode") === "class" && data.class) state.mode = "class";
    if (wanted.get("draw") === "images") state.draw = "images";
    if (wanted.has("cluster")) state.chosen = new Set([Number(wanted.get("cluster"))]);
    refresh();
    paint();
    if (row !== null) choose(data.row.indexOf(Number(row)), true);
  }
  new ResizeObserver(schedule).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", schedule);
  addEventListener("hashchange", () => { if (location.hash.includes("=")) fromAddress(); });
  fromAddress();
})();
