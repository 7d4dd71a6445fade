"use strict";
// Charts are drawn when they come into view, from the data of the chosen result.
const island = (name) => JSON.parse(document.getElementById(name)?.textContent ?? "null");
const specs = island("specs");
let data = null;
const chartsOf = (identity) => (data ??= island("charts")).results[identity];
const objects = (chart) => chart.rows.map((row) => Object.fromEntries(chart.columns.map((name, place) => [name, row[place]])));
const MISSING = "This result is not among those whose charts are kept.";

function chartData(name) {
  if (name === "cost") { data ??= island("charts"); return data.all.cost; }
  const found = chartsOf(chosen);
  if (!found) return { reason: MISSING };
  return name === "margins" ? found.utterances : found[name];
}

function colors() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(`--${name}`).trim();
}

function filled(value, sizes, color) {
  if (typeof value === "string" && value.startsWith("$")) return sizes[value.slice(1)] ?? color(value.slice(1));
  if (Array.isArray(value)) return value.map((each) => filled(each, sizes, color));
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, filled(each, sizes, color)]));
  return value;
}

function sizesFor(width) {
  const [columns, thirds] = width > 480 ? [2, 3] : [1, 1];
  const panel = (parts) => Math.max(130, Math.floor((width - 60) / parts) - 18);
  return { columns, panel: panel(columns), thirds, third_panel: panel(thirds), width: Math.max(160, width - 70), bars: Math.max(140, width - 150), cells: Math.max(170, width - 140) };
}

function theme(color) {
  const axis = { labelColor: color("soft"), titleColor: color("ink"), gridColor: color("line"), domainColor: color("muted"), tickColor: color("muted"), gridOpacity: 0.6, titleFontWeight: "normal" };
  return { background: "transparent", font: "system-ui, sans-serif", axis, view: { stroke: color("line") }, legend: { symbolOpacity: 1, labelColor: color("ink"), titleColor: color("ink"), orient: "bottom", symbolStrokeColor: color("ink"), labelLimit: 300 }, header: { labelColor: color("ink"), titleColor: color("ink"), labelFontWeight: "bold" }, text: { color: color("ink") }, rule: { color: color("muted") } };
}

async function draw(figure) {
  const name = figure.dataset.chart;
  const chart = chartData(name);
  const plot = one(".plot", figure);
  const note = one("p.note", figure);
  figure.dataset.drawn = chosen;
  one("details", figure).hidden = Boolean(chart.reason);
  fillTable(one("details", figure), null);
  plot.classList.toggle("empty", Boolean(chart.reason));
  note.textContent = chart.note ?? "";
  if (chart.reason) {
    plot.removeAttribute("role");
    plot.removeAttribute("aria-label");
    plot.replaceChildren(chart.reason);
    return;
  }
  const about = specs[name];
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", about.about);
  const color = colors();
  const spec = filled(about.spec ?? specs[about.like].spec, sizesFor(plot.clientWidth), color);
  const own = { ...spec, data: { values: objects(chart) }, config: theme(color), $schema: "https://vega.github.io/schema/vega-lite/v6.json" };
  if (!own.facet) own.autosize = { type: "pad" };
  await vegaEmbed(plot, own, { renderer: "svg", actions: false, ast: true, defaultStyle: false });
  for (const inner of all("svg, svg [role], svg [aria-label]", plot)) {
    inner.removeAttribute("role"); // the picture has one name, and its data stand in a table
    inner.removeAttribute("aria-label");
    inner.removeAttribute("aria-roledescription");
  }
}

const queue = [];
async function drain() {
  if (queue.busy) return;
  queue.busy = true;
  while (queue.length) await draw(queue.shift());
  queue.busy = false;
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    entry.target.dataset.visible = entry.isIntersecting ? "1" : "";
    if (entry.isIntersecting && entry.target.dataset.drawn !== chosen) queue.push(entry.target);
  }
  drain();
}, { rootMargin: "200px" });

function redraw() {
  const known = results.length > 1 ? one("article.chosen h2").textContent : "";
  one("#plots-of").textContent = known ? `Of the chosen result: ${known}. The last chart is of all results.` : "";
  for (const figure of all("figure[data-chart]")) {
    figure.dataset.drawn = "";
    if (figure.dataset.visible) queue.push(figure);
  }
  drain();
}

function fillTable(details, chart) {
  for (const old of all(".wide", details)) old.remove();
  if (!chart) { if (details.open) fillTable(details, chartData(details.closest("figure").dataset.chart)); return; }
  if (chart.reason) return;
  const name = details.closest("figure").dataset.chart;
  const about = specs[name];
  const wide = make("div", "", { class: "wide", role: "region", tabindex: "0", "aria-label": `Data: ${about.title}` });
  wide.append(tableOf(about.title, chart.columns.map((column) => about.labels[column] ?? column.replaceAll("_", " ")), chart.rows));
  details.append(wide);
}

function tableOf(title, headings, rows) {
  const table = make("table");
  const head = make("thead");
  const line = make("tr");
  line.append(...headings.map((heading) => make("th", heading, { scope: "col" })));
  head.append(line);
  const body = make("tbody");
  for (const row of rows) {
    const cells = make("tr");
    cells.append(...row.map((value) => make("td", value === null ? "–" : String(value), typeof value === "number" ? { class: "number" } : {})));
    body.append(cells);
  }
  table.append(make("caption", title), head, body);
  return table;
}

const PAGE = 25;
const percent = (share) => (share === null || share === undefined ? "–" : `${(100 * share).toFixed(0)} %`);
const digits = (value) => (value === null || value === undefined ? "–" : value.toPrecision(3));
const MODELS = ["original", "oracle", "unlearned"];
let listed = PAGE;

const recordings = () => { const found = chartsOf(chosen)?.utterances; return found?.rows ? objects(found) : []; };

function listRecordings() {
  const table = one("#recordings");
  const words = one("#find").value.trim().toLowerCase();
  const known = recordings();
  const reason = chartsOf(chosen)?.utterances?.reason ?? (chartsOf(chosen) ? chartsOf(chosen).utterances.note : MISSING);
  const matching = known.filter((each) => !words || each.name.toLowerCase().startsWith(words) || each.label.toLowerCase() === words).sort((left, right) => (right.left ?? 0) - (left.left ?? 0));
  one("#found").textContent = known.length ? `${matching.length} of ${known.length} recordings, those with the most left first. ${reason ?? ""}` : reason ?? "";
  const head = make("tr");
  for (const [title, style] of [["Recording", ""], ["Class", ""], ["Known", "number"], ["Left", "number"], ["Attack", "number"], ["Original says", ""], ["Oracle says", ""], ["Unlearned says", ""]]) head.append(make("th", title, { scope: "col", class: style }));
  one("thead", table).replaceChildren(head);
  one("tbody", table).replaceChildren(...matching.slice(0, listed).map(recordingRow));
  table.parentElement.hidden = known.length === 0;
  one("#more").hidden = matching.length <= listed;
}

function recordingRow(each) {
  const row = make("tr");
  const name = make("th", "", { scope: "row" });
  const open = make("button", each.name, { type: "button", class: "key" });
  open.addEventListener("click", () => { address.set("utterance", each.name); showRecording(each.name, true); });
  name.append(open);
  row.append(name, make("td", each.label), ...[digits(each.known), digits(each.left), percent(each.score)].map((text) => make("td", text, { class: "number" })));
  row.append(...MODELS.map((model) => make("td", each[`${model}_predicted`] ?? "–")));
  if (each.worst) row.cells[3].append(" ▲");
  return row;
}

function showRecording(name, focus = false) {
  const panel = one("#detail");
  const each = name && recordings().find((known) => known.name === name);
  panel.hidden = !each;
  panel.replaceChildren();
  if (!each) return;
  panel.append(make("h3", `Recording ${each.name}`));
  const speaker = each.speaker ? `, speaker ${each.speaker}` : "";
  const worst = each.worst ? " It is among the 5 % with the most left." : "";
  panel.append(make("p", `Class ${each.label}${speaker}. Known by the original beyond oracles: ${digits(each.known)} nats; left in the unlearned model: ${digits(each.left)} nats. Attack: its loss is below that of ${percent(each.score)} of the matching recordings that no model heard.${worst}`));
  const models = MODELS.filter((model) => each[`${model}_predicted`] !== undefined);
  panel.append(tableOf("What the models say", ["Model", "Prediction", "Probability of the class", "Margin (nats)"], models.map((model) => [model, each[`${model}_predicted`], percent(each[`${model}_probability`]), digits(each[`${model}_margin`])])));
  const sound = island("audio")?.[chosen]?.[each.name];
  if (sound) panel.append(make("audio", "", { controls: "", src: `data:audio/wav;base64,${sound}`, "aria-label": `Recording ${each.name}` }));
  if (focus) panel.focus();
}

one("#find").addEventListener("input", () => { listed = PAGE; listRecordings(); });
one("#more").addEventListener("click", () => { listed += PAGE * 4; listRecordings(); });
for (const details of all("figure details.data")) details.addEventListener("toggle", () => fillTable(details, details.open ? chartData(details.closest("figure").dataset.chart) : null));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
let width = innerWidth;
addEventListener("resize", () => { if (Math.abs(innerWidth - width) > 40) { width = innerWidth; redraw(); } });
let opened = false; // the data of charts are read when someone first comes near them
const near = new IntersectionObserver((entries) => {
  if (!opened && entries.some((entry) => entry.isIntersecting)) { opened = true; listRecordings(); showRecording(address.get("utterance")); }
}, { rootMargin: "600px" });
watchers.push(() => { redraw(); if (opened) { listed = PAGE; listRecordings(); showRecording(address.get("utterance")); } });
restore();
if (address.get("utterance")) { opened = true; listRecordings(); showRecording(address.get("utterance")); one("#detail").scrollIntoView(); }
near.observe(one("#utterances"));
for (const figure of all("figure[data-chart]")) seen.observe(figure);
window.addEventListener("hashchange", () => { if (opened) showRecording(address.get("utterance")); });
