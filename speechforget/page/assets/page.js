"use strict";
// State lives in the fragment of the address (#result=...&sort=...), so that a link shows what its sender saw.
const one = (query, within = document) => within.querySelector(query);
const all = (query, within = document) => [...within.querySelectorAll(query)];
const make = (tag, text = "", attributes = {}) => {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
const address = {
  read() {
    const text = location.hash.slice(1);
    return new URLSearchParams(text.includes("=") ? text : "");
  },
  get: (name) => address.read().get(name) ?? "",
  set(name, value) {
    const words = address.read();
    if (value) words.set(name, value);
    else words.delete(name);
    const text = words.toString();
    if (text !== location.hash.slice(1)) history.replaceState(null, "", text ? `#${text}` : "#");
  },
};

const watchers = []; // called with the identity of the chosen result
const results = all("article[data-result]").map((article) => article.dataset.result);
let chosen = "";

function choose(identity) {
  const found = results.find((each) => identity && each.startsWith(identity)) ?? results[0];
  if (found === chosen) return;
  chosen = found;
  for (const article of all("article.chosen")) article.classList.remove("chosen");
  document.getElementById(`r${chosen}`)?.classList.add("chosen");
  if (one("#chooser")) one("#chooser").value = chosen;
  for (const part of all(".part")) part.classList.toggle("elsewhere", !one(`a[href="#result=${chosen}"]`, part)); // in print
  for (const watcher of watchers) watcher(chosen);
}

const number = (cell) => (cell?.dataset.v === undefined ? null : Number(cell.dataset.v));

function columnsOf(table) {
  return all("thead th", table).map((heading) => heading.dataset.sort ?? "");
}

function sortTable(table, column, direction) {
  const place = columnsOf(table).indexOf(column);
  for (const heading of all("thead th[data-sort]", table)) {
    const word = heading.dataset.sort === column ? direction : "none";
    heading.setAttribute("aria-sort", word);
  }
  const body = one("tbody.rows", table);
  if (place < 0 || !body) return;
  const sign = direction === "descending" ? -1 : 1;
  const compare = (left, right) => {
    if (place === 0) return sign * left.cells[0].textContent.localeCompare(right.cells[0].textContent);
    const [first, second] = [number(left.cells[place]), number(right.cells[place])];
    if (first === null || second === null) return (first === null) - (second === null); // missing numbers stay last
    return sign * (first - second);
  };
  body.append(...[...body.rows].sort(compare));
}

function addSorting(table, save) {
  for (const heading of all("thead th[data-sort]", table)) {
    const button = make("button", heading.textContent, { type: "button", class: "sort" });
    button.addEventListener("click", () => {
      const direction = heading.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
      sortTable(table, heading.dataset.sort, direction);
      save(`${heading.dataset.sort},${direction}`);
    });
    heading.replaceChildren(button);
    heading.setAttribute("aria-sort", "none");
  }
}

const grids = all("table.grid");

function applySort() {
  const [column, direction] = address.get("sort").split(",");
  if (column) for (const table of grids) sortTable(table, column, direction === "descending" ? direction : "ascending");
}

function applyFilter() {
  const words = one("#filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const outside = one("#outside").checked;
  let [shown, total] = [0, 0];
  for (const table of grids) {
    const about = table.dataset.words.toLowerCase();
    let left = 0;
    for (const row of one("tbody.rows", table).rows) {
      const text = `${about} ${row.cells[0].textContent.toLowerCase()}`;
      row.hidden = !words.every((word) => text.includes(word)) || (outside && !one("td.outside", row));
      left += !row.hidden;
      total += 1;
    }
    table.closest(".part").hidden = left === 0 && (words.length > 0 || outside);
    shown += left;
  }
  one("#shown").textContent = words.length || outside ? `${shown} of ${total} rows` : `${total} rows`;
}

function pinnedRows() {
  return address.get("pin").split(",").filter(Boolean).map((name) => document.getElementById(name)).filter(Boolean);
}

function applyPins() {
  const rows = pinnedRows();
  for (const box of all("input.pin")) {
    const row = box.closest("tr");
    box.checked = rows.includes(row);
    row.classList.toggle("pinned", box.checked);
  }
  const panel = one("#pinned");
  panel.hidden = rows.length === 0;
  panel.replaceChildren();
  if (rows.length === 0) return;
  panel.append(make("h3", rows.length === 1 ? "Pinned: pin a second row to compare" : "Two rows side by side"));
  const titles = rows.map((row) => row.cells[0].textContent);
  const table = make("table");
  const head = make("tr");
  for (const title of ["Number", ...titles, ...(rows.length === 2 ? ["Difference"] : [])]) head.append(make("th", title, { scope: "col" }));
  table.append(make("caption", "Pinned rows"), make("thead"), make("tbody"));
  one("thead", table).append(head);
  const headings = all("thead th", rows[0].closest("table")).map((heading) => heading.textContent.replace(/ [↕↑↓]$/, ""));
  headings.slice(1, -2).forEach((heading, index) => {
    const line = make("tr");
    line.append(make("th", heading, { scope: "row" }));
    const cells = rows.map((row) => row.cells[index + 1]);
    for (const cell of cells) {
      const copied = cell.cloneNode(true);
      line.append(copied);
    }
    if (rows.length === 2) line.append(make("td", difference(cells), { class: "number" }));
    one("tbody", table).append(line);
  });
  const wide = make("div", "", { class: "wide", role: "region", tabindex: "0", "aria-label": "Numbers of the pinned rows" });
  wide.append(table);
  const clear = make("button", "Unpin all", { type: "button" });
  clear.addEventListener("click", () => {
    address.set("pin", "");
    applyPins();
  });
  panel.append(wide, clear);
}

function difference(cells) {
  // In the unit that is shown: the text holds the rounded number, the data the number itself.
  const [first, second] = cells.map(number);
  if (first === null || second === null) return "–";
  const shown = parseFloat(cells[0].textContent);
  const factor = first && Math.abs(shown / first) > 10 ? 100 : 1;
  return `${second > first ? "+" : ""}${(factor * (second - first)).toPrecision(3)}`;
}

function pin(box) {
  const names = pinnedRows().map((row) => row.id).filter((name) => name !== box.value);
  if (box.checked) names.push(box.value);
  address.set("pin", names.slice(-2).join(","));
  applyPins();
}

async function copy(button) {
  const text = button.dataset.copy ?? button.previousElementSibling.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = make("textarea", text);
    document.body.append(field);
    field.select();
    document.execCommand("copy"); // where a page from a file may not use the clipboard
    field.remove();
  }
  button.classList.add("copied");
  const label = button.firstChild;
  const before = label.textContent;
  label.textContent = "Copied";
  setTimeout(() => { label.textContent = before; }, 1200);
}

function restore() {
  choose(address.get("result"));
  one("#filter").value = address.get("filter");
  one("#outside").checked = address.get("outside") === "1";
  applySort();
  applyFilter();
  applyPins();
}

for (const table of grids) addSorting(table, (value) => { address.set("sort", value); applySort(); });
for (const form of all("form")) form.addEventListener("submit", (event) => event.preventDefault());
one("#filter").addEventListener("input", (event) => { address.set("filter", event.target.value); applyFilter(); });
one("#outside").addEventListener("change", (event) => { address.set("outside", event.target.checked ? "1" : ""); applyFilter(); });
one("#chooser")?.addEventListener("change", (event) => { address.set("result", event.target.value); choose(event.target.value); });
document.addEventListener("change", (event) => { if (event.target.matches("input.pin")) pin(event.target); });
document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (button) copy(button);
  const link = event.target.closest('a[href^="#"]');
  if (!link) return;
  event.preventDefault(); // a link within the page keeps the state in the address
  const target = link.getAttribute("href").slice(1);
  if (target.startsWith("result=")) {
    address.set("result", target.slice(7));
    choose(target.slice(7));
  }
  const place = target.startsWith("result=") ? one("#verdicts") : document.getElementById(target);
  place?.scrollIntoView();
  if (target === "main") place.focus();
});
window.addEventListener("hashchange", restore);
