"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const mistakes = byId("cell") ? [...byId("cell").childNodes] : [];

function percent(share) {
  const whole = Math.round(100 * share);
  if (whole === 0 && share > 0) return "<1 %";
  return whole === 100 && share < 1 ? ">99 %" : whole + " %";
}

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text !== null) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function fileAddress(path) {
  return data.root + "/" + path.split("/").map(encodeURIComponent).join("/");
}

function showCell(row, column) {
  const range = data.cells[row + "-" + column] || [0, 0];
  const panel = byId("cell");
  const photos = data.photos.slice(range[0], range[1]);
  const label = data.classes[row], predicted = data.classes[column];
  panel.replaceChildren();
  const back = element("button", "All mistakes", panel);
  back.type = "button";
  back.addEventListener("click", showMistakes);
  element("h3", row === column ? label + " recognised" : label + " taken for " + predicted, panel);
  element("p", photos.length + (photos.length === 1 ? " image" : " images") + ", the most confident first", panel).className = "note";
  const list = element("ul", null, panel);
  list.className = "shots";
  photos.forEach(([folder, name, confidence], offset) => {
    const path = (data.folders[folder] ? data.folders[folder] + "/" : "") + name;
    const item = element("li", null, list);
    const thumb = data.thumbs[range[0] + offset];
    if (thumb) {
      const picture = element("img", null, item);
      picture.alt = "";
      picture.src = "data:image/webp;base64," + thumb;
    }
    const link = element("a", path, item);
    link.href = fileAddress(path);
    element("div", percent(confidence), item).className = "count";
  });
}

function showMistakes() {
  byId("cell").replaceChildren(...mistakes);
  history.replaceState(null, "", location.pathname + location.search);
  for (const link of document.querySelectorAll(".plot a.chosen")) link.classList.remove("chosen");
  byId("cell").querySelector("a")?.focus({ preventScroll: true });
}

function followAddress() {
  const found = /^#cell-(\d+)-(\d+)$/.exec(location.hash);
  if (!found || !data.cells) return;
  showCell(Number(found[1]), Number(found[2]));
  for (const link of document.querySelectorAll(".plot a")) {
    link.classList.toggle("chosen", link.getAttribute("href") === location.hash);
  }
}

function followLink(event) {
  const link = event.target.closest("a[href^='#cell-']");
  if (!link) return;
  // the page stays where it is
  event.preventDefault();
  history.replaceState(null, "", link.getAttribute("href"));
  followAddress();
}

// says what a mark of a plot stands for: beside the pointer, or above the mark that the keyboard reached
function showTip(event) {
  const mark = event.target.closest("[role='graphics-symbol'][aria-label], .plot a");
  const tip = byId("tip");
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = (mark.matches("a") ? mark.querySelector("[aria-label]") : mark).getAttribute("aria-label");
  const box = tip.getBoundingClientRect(), place = mark.getBoundingClientRect();
  const [x, y] = event.type === "mousemove" ? [event.clientX, event.clientY] : [place.right, place.top];
  tip.style.left = Math.max(8, Math.min(x + 12, innerWidth - box.width - 8)) + "px";
  tip.style.top = Math.max(8, y - box.height - 12) + "px";
}

function sortBy(heading) {
  const table = heading.closest("table"), body = table.tBodies[0];
  const column = heading.cellIndex;
  const isNumber = body.rows.length > 0 && body.rows[0].cells[column].classList.contains("n");
  const rising = heading.getAttribute("aria-sort") === "none" ? !isNumber : heading.getAttribute("aria-sort") !== "ascending";
  const key = (row) => row.cells[column].textContent;
  // a cell without a figure comes before all
  const figure = (row) => (key(row) ? parseFloat(key(row)) : -1);
  const compare = isNumber ? (a, b) => figure(a) - figure(b) : (a, b) => key(a).localeCompare(key(b), undefined, { numeric: true });
  const rows = [...body.rows].sort((a, b) => (rising ? compare(a, b) : compare(b, a)));
  body.append(...rows);
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
}

function showThreshold() {
  const [threshold, covered, accuracy] = data.thresholds[Number(byId("threshold").value)];
  byId("threshold-value").textContent = threshold;
  byId("covered").textContent = covered;
  byId("accuracy").textContent = accuracy;
  document.querySelectorAll("#coverage .mark-symbol path").forEach((point, place) => {
    point.classList.toggle("chosen", place === Number(byId("threshold").value));
  });
}

async function copy(event) {
  const source = byId(event.target.dataset.copies);
  try {
    await navigator.clipboard.writeText(source.textContent);
    byId("copied").textContent = "copied";
  } catch {
    getSelection().selectAllChildren(source);
    byId("copied").textContent = document.execCommand("copy") ? "copied" : "selected: copy it with Ctrl-C";
  }
}

// what can be scrolled can be reached with the keyboard
function markScrolling() {
  for (const box of document.querySelectorAll(".scroll, .shots")) {
    if (box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
}

for (const button of document.querySelectorAll("[data-copies]")) button.addEventListener("click", copy);
for (const button of document.querySelectorAll(".sortable th button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}
document.addEventListener("click", followLink);
document.addEventListener("mousemove", showTip);
document.addEventListener("focusin", showTip);
window.addEventListener("hashchange", followAddress);
window.addEventListener("resize", markScrolling);
if (byId("threshold")) {
  byId("threshold").addEventListener("input", showThreshold);
  showThreshold();
}
followAddress();
markScrolling();
