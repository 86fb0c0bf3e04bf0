"use strict";
// Draws the page from the JSON beside it. Names reach the page as text nodes only, never as HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const two = data.runs.length === 2;
const KINDS = { bbox: "box", segm: "mask" };
const COLUMNS = {
  AP: "AP over IoU .50 to .95", AP50: "AP at IoU .50", AP75: "AP at IoU .75",
  APs: "AP of small objects, below 32² pixels", APm: "AP of medium objects", APl: "AP of large objects, above 96² pixels",
  AR1: "recall with 1 detection an image", AR10: "recall with 10 detections an image", AR100: "recall with 100 detections an image",
  ARs: "recall of small objects", ARm: "recall of medium objects", ARl: "recall of large objects",
};
const TYPES = {
  classification: ["cls", "right place, another class"],
  localization: ["loc", "right class, IoU .1 to .5"],
  both: ["both", "another class, IoU .1 to .5"],
  duplicate: ["dupe", "of an object found already"],
  background: ["bkg", "nothing there"],
  missed: ["miss", "no detection is about it"],
};
const state = { kind: data.kinds[0], curve: -1, sort: [two ? "diff" : "AP", -1], filter: "" };

const percent = (x) => (x === null || x === undefined ? "–" : (100 * x).toFixed(1));
const whole = (x) => x.toLocaleString("en-US");
const gap = (a, b) => (a === null || b === null ? null : b - a);
const signed = (x) => {
  if (x === null) return "–";
  const text = (100 * x).toFixed(1);
  return Number(text) === 0 ? "0.0" : (x > 0 ? "+" : "−") + text.replace("-", "");
};
const leaning = (x) => (x === null || Math.abs(x) < 0.0005 ? "" : x > 0 ? "up" : "down");
const letter = (run) => (two ? "AB"[run] : "");
const color = (run) => (run === 1 ? "b" : "a");
const runs = (kind) => data.numbers[kind || state.kind];

function make(space, tag, attributes, children) {
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(key, value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => make(null, tag, attributes, children);
const svg = (tag, attributes, ...children) => make("http://www.w3.org/2000/svg", tag, attributes, children);
const bar = (share, side) => el("div", { class: "track" }, el("i", { class: side, style: `width:${(100 * Math.max(0, share)).toFixed(2)}%` }));

function head() {
  const facts = {
    annotations: data.annotations, images: whole(data.truth.images), objects: whole(data.truth.objects),
    classes: whole(data.truth.classes.length),
    detections: data.runs.map((run) => whole(run.detections)).join(" / "),
    "back end": [...new Set(data.runs.map((run) => run.backend))].join(" / "),
  };
  return el("header", {},
    el("h1", {}, two ? "COCO evaluation: A and B" : data.runs[0].name),
    two ? el("ul", { class: "runs" }, data.runs.map((run, i) => el("li", {}, el("span", { class: `chip ${color(i)}` }, letter(i)), run.name)))
      : el("p", { class: "lead" }, "COCO evaluation"),
    el("dl", { class: "facts" }, Object.entries(facts).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))));
}

function toolbar() {
  const links = { metrics: "Metrics", curves: "Precision-recall", sizes: "Sizes", errors: "Errors", classes: "Classes", pictures: "Pictures" };
  const buttons = data.kinds.map((kind) => el("button", { type: "button", "aria-pressed": kind === state.kind, onclick: () => {
    state.kind = kind;
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", data.kinds[i] === kind));
    drawAll();
  } }, KINDS[kind]));
  return el("div", { class: "bar" }, el("div", {},
    el("nav", { "aria-label": "parts of the page" }, Object.entries(links).map(([id, text]) => el("a", { href: `#${id}` }, text))),
    data.kinds.length > 1 ? el("div", { class: "switch", role: "group", "aria-label": "boxes or masks" }, buttons) : null));
}

function metrics() {
  const tiles = data.kinds.flatMap((kind) => ["AP", "AP50", "AP75"].map((column) => {
    const [first, second] = runs(kind).map((run) => run.stats[column]);
    const change = two ? gap(first, second) : null;
    return el("div", { class: "tile" },
      el("div", { class: "name" }, `${KINDS[kind]} ${column}`, two ? el("span", { class: "chip b" }, "B") : null),
      el("div", { class: "value" }, percent(two ? second : first)),
      two ? el("div", { class: "was" }, el("span", { class: "chip a" }, "A"), `${percent(first)}  `, el("span", { class: leaning(change) }, signed(change))) : null);
  }));
  const rows = data.kinds.flatMap((kind) => {
    const stats = runs(kind).map((run) => run.stats);
    const row = (name, cells, kindOf) => el("tr", { class: kindOf }, el("th", { scope: "row" }, name), cells);
    const lines = stats.map((stat, i) => row([two ? el("span", { class: `chip ${color(i)}` }, letter(i)) : null, KINDS[kind]],
      Object.keys(COLUMNS).map((column) => el("td", {}, percent(stat[column]))), i ? "" : "group"));
    if (two) lines.push(row("difference", Object.keys(COLUMNS).map((column) => {
      const change = gap(stats[0][column], stats[1][column]);
      return el("td", { class: leaning(change) }, signed(change));
    }), "diff"));
    return lines;
  });
  return el("section", { id: "metrics" },
    el("h2", {}, "COCO metrics"), el("p", { class: "lead" }, "In percent. Hover over a column to see what it is."),
    el("div", { class: "tiles" }, tiles),
    el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", {}), Object.entries(COLUMNS).map(([name, title]) => el("th", { scope: "col", title }, name)))),
      el("tbody", {}, rows))));
}

// Of the class chosen, or of the mean, one panel for each IoU.
function drawCurves(place) {
  const names = data.truth.classes.map((entry) => entry.name);
  const known = names.map((name, i) => [name, i]).filter(([, i]) => runs()[0].curves.classes[i]);
  const curvesOf = (run) => (state.curve < 0 ? run.curves.mean : run.curves.classes[state.curve]);
  const select = el("select", { onchange: (event) => { state.curve = Number(event.target.value); drawCurves(place); } },
    el("option", { value: -1 }, "mean of all classes"),
    known.sort((a, b) => a[0].localeCompare(b[0])).map(([name, i]) => el("option", { value: i }, name)));
  select.value = state.curve;
  const panels = data.curves.map((iou, panel) => curvePanel(iou, runs().map((run) => (curvesOf(run) || [])[panel])));
  place.replaceChildren(
    el("div", { class: "tools" }, el("label", {}, "Class ", select)),
    el("div", { class: "panels" }, panels));
}

function curvePanel(iou, curves) {
  const [width, height, left, bottom] = [330, 240, 30, 30];
  const x = (recall) => left + recall * (width - left - 8);
  const y = (precision) => 8 + (1 - precision) * (height - bottom - 8);
  const path = (curve) => curve.map((p, i) => `${i ? "L" : "M"}${x(i / 100).toFixed(1)} ${y(p).toFixed(1)}`).join("");
  const shown = curves.map((curve, i) => [curve, i]).filter(([curve]) => curve);
  const ap = (curve) => percent(curve.reduce((sum, p) => sum + p, 0) / curve.length);
  const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1];
  const cross = svg("line", { class: "cross", y1: y(0), y2: y(1), visibility: "hidden" });
  const dots = shown.map(([, i]) => svg("circle", { r: 4, class: color(i), visibility: "hidden" }));
  const reading = el("div", { class: "small reading" }, "hover to read the curve");
  const chart = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `precision over recall at IoU ${iou}` },
    ticks.map((t) => [
      svg("line", { class: "grid", x1: x(0), x2: x(1), y1: y(t), y2: y(t) }),
      svg("text", { class: "axis", x: left - 5, y: y(t) + 4, "text-anchor": "end" }, t.toFixed(1)),
      svg("text", { class: "axis", x: x(t), y: height - bottom + 15, "text-anchor": "middle" }, t.toFixed(1)),
    ]),
    svg("text", { class: "axis", x: x(1), y: height - 2, "text-anchor": "end" }, "recall →"),
    svg("text", { class: "axis", x: x(0) + 5, y: y(0) - 6 }, "↑ precision"),
    two ? null : shown.map(([curve]) => svg("path", { class: "area", d: `${path(curve)}L${x(1)} ${y(0)}L${x(0)} ${y(0)}Z` })),
    shown.map(([curve, i]) => svg("path", { class: `curve ${color(i)}`, d: path(curve) })),
    cross, dots);
  const move = (event) => {
    const frame = chart.getBoundingClientRect();
    const recall = ((event.clientX - frame.left) / frame.width * width - left) / (width - left - 8);
    const at = Math.round(100 * Math.min(1, Math.max(0, recall)));
    [cross, ...dots].forEach((node) => node.setAttribute("visibility", "visible"));
    cross.setAttribute("x1", x(at / 100)); cross.setAttribute("x2", x(at / 100));
    shown.forEach(([curve], k) => { dots[k].setAttribute("cx", x(at / 100)); dots[k].setAttribute("cy", y(curve[at])); });
    reading.textContent = `recall ${(at / 100).toFixed(2)}: precision ` + shown.map(([curve, i]) => `${letter(i)} ${curve[at].toFixed(3)}`.trim()).join(", ");
  };
  chart.addEventListener("pointermove", move);
  chart.addEventListener("pointerdown", move);
  return el("figure", {},
    el("figcaption", {}, el("strong", {}, `IoU ${iou}`), el("span", {}, shown.length
      ? ["AP ", shown.map(([curve, i]) => [i ? " " : "", two ? el("span", { class: `chip ${color(i)}` }, letter(i)) : null, el("strong", {}, ap(curve))])]
      : "no objects")),
    chart, reading);
}

function drawSizes(place) {
  const rows = [["small", "s"], ["medium", "m"], ["large", "l"]].map(([name, end]) => [
    el("div", {}, name, el("small", {}, `${whole(data.truth.sizes[name])} objects`)),
    el("div", {}, runs().map((run, i) => bar(run.stats[`AP${end}`] || 0, color(i)))),
    ["AP", "AR"].map((column) => el("div", { class: "figure" }, runs().map((run) => el("div", {}, percent(run.stats[column + end]))))),
  ]);
  place.replaceChildren(el("div", { class: "rows wide" },
    el("div", { class: "head" }, "size"), el("div", { class: "head" }, "AP"), el("div", { class: "head figure" }, "AP"), el("div", { class: "head figure" }, "AR"), rows));
}

function drawErrors(place) {
  const top = Math.max(...runs().flatMap((run) => Object.values(run.errors).map((error) => error.cost || 0)), 0.001);
  const rows = Object.entries(TYPES).map(([name, [, meaning]]) => [
    el("div", {}, name, el("small", {}, meaning)),
    el("div", {}, runs().map((run, i) => bar((run.errors[name].cost || 0) / top, color(i)))),
    el("div", { class: "figure" }, runs().map((run) => el("div", {}, percent(run.errors[name].cost)))),
    el("div", { class: "figure" }, runs().map((run) => el("div", {}, whole(run.errors[name].count)))),
  ]);
  place.replaceChildren(el("div", { class: "rows wide" },
    el("div", { class: "head" }, "type"), el("div", { class: "head" }, "AP50 it costs"), el("div", { class: "head figure" }, "cost"), el("div", { class: "head figure" }, "errors"), rows));
}

function drawClasses(place) {
  const measures = ["AP", "AP50", "AP75", "APs", "APm", "APl"];
  const all = data.truth.classes.map((entry, k) => {
    const row = { k, name: entry.name, objects: entry.objects };
    runs().forEach((run, i) => {
      measures.forEach((measure, m) => { row[measure + letter(i)] = run.classes[k][m]; });
      row["detections" + letter(i)] = run.detections[k];
    });
    if (two) row.diff = gap(row.APA, row.APB);
    return row;
  });
  const columns = two
    ? [["name", "class"], ["diff", "B − A"], ["chart"], ["APA", "AP A"], ["APB", "AP B"], ["AP50A", "AP50 A"], ["AP50B", "AP50 B"], ["AP75A", "AP75 A"], ["AP75B", "AP75 B"], ["objects"]]
    : [["name", "class"], ["AP"], ["chart"], ...measures.slice(1).map((measure) => [measure]), ["objects"], ["detections"]];
  const [key, way] = state.sort;
  const missing = (x) => x === null || x === undefined;
  const rows = all.filter((row) => row.name.toLowerCase().includes(state.filter)).sort((a, b) => {
    if (missing(a[key]) || missing(b[key])) return missing(a[key]) - missing(b[key]); // last, whichever way
    return way * (typeof a[key] === "string" ? a[key].localeCompare(b[key]) : a[key] - b[key]) || a.k - b.k;
  });
  const reach = Math.max(...all.map((row) => Math.abs(row.diff || 0)), 0.001);
  const cell = (row, column) => {
    if (column === "chart") return el("td", { class: "chart" }, two ? lean(row.diff, reach) : bar(row.AP || 0, "a"));
    if (column === "name") return el("td", {}, el("button", { type: "button", title: "show its precision-recall curves", onclick: () => {
      state.curve = runs()[0].curves.classes[row.k] ? row.k : -1;
      drawCurves(document.querySelector("#curves .body"));
      document.getElementById("curves").scrollIntoView({ behavior: "smooth" });
    } }, row.name));
    if (column === "diff") return el("td", { class: leaning(row.diff) }, signed(row.diff));
    return el("td", {}, column === "objects" || column === "detections" ? whole(row[column]) : percent(row[column]));
  };
  const header = columns.map(([column, text]) => (column === "chart" ? el("th", {}) : el("th", {
    scope: "col", "aria-sort": column === key ? (way > 0 ? "ascending" : "descending") : null,
  }, el("button", { type: "button", onclick: () => {
    state.sort = [column, column === key ? -way : column === "name" ? 1 : -1];
    drawClasses(place);
  } }, text || column))));
  place.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, header)), el("tbody", {}, rows.map((row) => el("tr", {}, columns.map(([column]) => cell(row, column)))))));
}

// A bar to the right where B is better, to the left where A is.
function lean(change, reach) {
  const share = 50 * Math.abs(change || 0) / reach;
  const side = change > 0 ? `left:50%;width:${share}%` : `left:${50 - share}%;width:${share}%`;
  return el("div", { class: "track middle" }, el("i", { class: change > 0 ? "b" : "a", style: side }));
}

// Things over an image. A label that would lie on another one is left to the pointer.
function shot(picture, things, tag, looks, words) {
  const { width, height } = picture;
  const overlay = svg("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" },
    things.map((thing) => {
      const [x, y, w, h] = thing.box;
      return svg("g", { class: looks(thing) }, svg("title", {}, words(thing).join(" ")),
        thing.outline ? svg("path", { d: thing.outline, "fill-rule": "evenodd" }) : null,
        svg("rect", { x, y, width: w, height: h, "pointer-events": "all" }));
    }));
  const taken = [];
  const labels = [...things].sort((a, b) => (b.score || 0) - (a.score || 0)).map((thing) => {
    const [name, score, kind] = words(thing);
    const text = [name, score, kind in TYPES ? TYPES[kind][0] : kind].filter(Boolean).join(" ");
    // In percent of the picture, taken to be 200 pixels high, which it is or more.
    const [w, h] = [50 * (7 * text.length + 10) * height / width / 100, 7.5];
    const left = Math.max(0, Math.min(100 * thing.box[0] / width, 100 - w));
    const above = 100 * thing.box[1] / height - h;
    const top = above < 0 ? Math.max(0, above + h) : above;
    if (taken.some(([x, y, v]) => left < x + v && x < left + w && Math.abs(top - y) < h)) return null;
    taken.push([left, top, w]);
    return el("b", { class: looks(thing), style: `left:${left.toFixed(2)}%;top:${top.toFixed(2)}%` }, text);
  });
  return el("div", { class: "shot" }, el("img", { src: picture.uri, alt: `${picture.file}, ${tag}`, width, height }), overlay, labels, el("span", { class: "tag" }, tag));
}

function pictureOf(item) {
  const name = (thing) => data.truth.classes[thing.label].name;
  const finders = (thing) => (two && thing.found.some(Boolean) && !thing.found.every(Boolean) ? `${letter(thing.found.indexOf(true))} only` : "");
  const truth = shot(item, item.truth, "truth",
    (thing) => (thing.crowd ? "crowd" : thing.found.some(Boolean) ? "right" : "wrong"),
    (thing) => [name(thing), thing.crowd ? "crowd" : finders(thing), ""]);
  const found = item.runs.map((things, i) => shot(item, things, two ? letter(i) : "detections",
    (thing) => (thing.outcome === "correct" ? "right" : "wrong"),
    (thing) => [name(thing), thing.score.toFixed(2), thing.outcome === "correct" ? "" : thing.outcome]));
  const facts = item.runs.map((_, i) => `${letter(i)} F1 ${percent(item.f1[i])}, ${item.errors[i]} ${item.errors[i] === 1 ? "error" : "errors"}`.trim());
  const aspect = (1 + found.length) * item.width / item.height; // rows of equal height
  return el("figure", { style: `flex:${aspect.toFixed(3)} 1 ${Math.round(190 * aspect)}px;max-width:${Math.round(330 * aspect)}px` },
    el("div", { class: "shots" }, truth, found), el("figcaption", {}, [item.file, ...facts].join(" · ")));
}

function pictures() {
  const section = el("section", { id: "pictures" }, el("h2", {}, "Pictures"));
  if (!data.pictures) {
    section.append(el("p", { class: "lead" }, "No images were given, so there are none here: --images FOLDER embeds some."));
    return section;
  }
  const { kind, groups } = data.pictures;
  const titles = { worst: "Worst", best: "Best", gained: "Where B makes fewer errors", lost: "Where B makes more errors" };
  const kept = runs(kind).map((run, i) => `${letter(i)} ${run.best.threshold.toFixed(2)}`.trim()).join(", ");
  const order = two ? "the change in errors from A to B" : "F1";
  section.append(
    el("p", { class: "lead" }, `Chosen by ${order}, matching ${kind === "bbox" ? "boxes" : "masks"} at IoU .50. Shown and counted are detections that score at least ${kept}, where F1 over all images is highest. Point at a thing to read it.`),
    el("ul", { class: "key" },
      el("li", {}, el("span", {}), "object found, correct detection"),
      el("li", {}, el("span", { class: "wrong" }), "object not found, wrong detection"),
      el("li", {}, el("span", { class: "crowd" }), "crowd, which does not count"),
      el("li", {}, Object.entries(TYPES).filter(([name]) => name !== "missed").map(([name, [short]]) => (name === short ? null : `${short}: ${name}`)).filter(Boolean).join(", "))));
  for (const [group, items] of Object.entries(groups)) {
    section.append(el("h3", {}, titles[group]), items.length ? el("div", { class: "pictures" }, items.map(pictureOf)) : el("p", { class: "lead" }, "None."));
  }
  return section;
}

function notes() {
  const best = runs(data.kinds[0]).map((run, i) => `${two ? `${letter(i)}: ` : ""}score ${run.best.threshold.toFixed(2)}, precision ${percent(run.best.precision)}, recall ${percent(run.best.recall)}, F1 ${percent(run.best.f1)}`).join("; ");
  return el("footer", {}, el("h2", {}, "How to read this page"),
    el("p", {}, "AP and AR are COCO's, in percent, with up to 100 detections an image and class. A dash: there is no such object. Objects leave out crowds. Small is up to 32² pixels of area, large from 96² on."),
    el("p", {}, "Curves have COCO's 101 recalls; a precision is the highest at that recall or above it, and their mean is AP."),
    el("p", {}, "Errors are those of TIDE (arXiv:2008.08115) at IoU .50, and IoU .10 for the background. Their cost is the AP50 gained if errors of one type alone were put right; costs do not add up. Matching is COCO's own, with 100 detections an image and class, where the authors' code has 100 an image."),
    el("p", {}, `Where F1 is highest (${KINDS[data.kinds[0]]}, IoU .50, all classes together): ${best}.`));
}

const parts = { curves: drawCurves, sizes: drawSizes, errors: drawErrors, classes: drawClasses };
function part(id, title, lead, extra) {
  return el("section", { id }, el("h2", {}, title), el("p", { class: "lead" }, lead), extra || null, el("div", { class: `body ${id}` }));
}
function drawAll() {
  for (const [id, draw] of Object.entries(parts)) draw(document.querySelector(`#${id} .body`));
}

const filter = el("input", { type: "search", placeholder: "filter classes", "aria-label": "filter classes", oninput: (event) => {
  state.filter = event.target.value.toLowerCase();
  drawClasses(document.querySelector("#classes .body"));
} });
document.getElementById("page").append(head(), toolbar(), el("main", {}, metrics(),
  part("curves", "Precision-recall curves", "Click a class in the table below, or choose one here."),
  el("div", { class: "columns" },
    part("sizes", "By size of the object", "Small is below 32² pixels of area, large above 96². AR is the recall with 100 detections an image and class."),
    part("errors", "Errors by type", "What goes wrong, and the AP50 that each type costs.")),
  part("classes", "Classes", two ? "Sorted by the difference: a bar to the right means that B is better." : "Click a column to sort by it.", el("div", { class: "tools" }, filter)),
  pictures()), notes());
drawAll();
