"use strict";
// Shows pictures one by one or in a grid and sends the answers. The server decides what comes next; the page only
// shows it. Data goes in as text, never as markup.

const at = (id) => document.getElementById(id);
const NAMES = { suspects: "Suspects", copies: "Opposite copies", near: "Near-duplicates", unlabelled: "Unlabelled",
                control: "Control sample", answered: "Answered" };
const AHEAD = 40, LOW = 12; // rows known ahead, and when to ask for more
const number = (n) => n.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const interval = (m) => `${percent(m.value)} [${percent(m.low)}, ${percent(m.high)}]`;

let state = null; // as api/state says
let queue = "suspects";
let rows = []; // of the queue, without those answered here
let current = null; // the row on the card
let refused = ""; // why the newest answer was not saved
const outbox = []; // answers and undos not yet acknowledged, in order
const newest = new Map(); // picture -> number of this tab's answer about it, infinite until it is acknowledged
const mine = []; // numbers of the answers of this tab that were not taken back
const cards = new Map(); // row -> promise of api/card
const ahead = new Map(); // row -> its large image, held so that it stays loaded

async function ask(path, said) {
  const how = said && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(said) };
  const reply = await fetch(path, how);
  return { status: reply.status, body: await reply.json() };
}

function element(tag, text = "", kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function say(text) { at("said").textContent = text; }

function trouble(text) {
  at("trouble").hidden = !text;
  at("trouble").textContent = text;
}

function label(value) { // a class name in its colour; names may be written from right to left
  const made = element("bdi", value || "no label");
  if (value) made.className = value === state.classes[0] ? "first" : "second";
  return made;
}

// ---- the queue

async function refill() {
  const asked = queue;
  const { status, body } = await ask(`api/queue/${asked}?count=${AHEAD}`);
  if (status !== 200 || asked !== queue) return;
  rows = body.rows.filter((row) => !(newest.get(row.picture) > row.number)); // the list may be older than an answer
  if (current) rows = rows.filter((row) => row.row !== current.row);
  else next();
  foresee();
}

function next() {
  show(rows.shift() ?? null);
  if (rows.length < LOW) refillSoon();
  foresee();
}

let refilling = false;
async function refillSoon() { // one question at a time
  if (refilling) return;
  refilling = true;
  try { await refill(); } catch { /* state() says that the server does not answer */ } finally { refilling = false; }
}

function bring(row) { // to the card, before what is there
  if (current) rows.unshift(current);
  rows = rows.filter((each) => each.row !== row.row);
  show(row);
  foresee();
}

function foresee() { // the next pictures are loaded before they are wanted
  const near = new Set([current, ...rows.slice(0, 3)].filter(Boolean).map((row) => row.row));
  for (const row of ahead.keys()) if (!near.has(row)) { ahead.delete(row); cards.delete(row); }
  for (const row of near) {
    if (ahead.has(row)) continue;
    const image = new Image();
    image.src = `image/${row}`;
    ahead.set(row, image);
    card(row).catch(() => cards.delete(row));
  }
}

function card(row) {
  if (!cards.has(row)) cards.set(row, ask(`api/card/${row}`).then(({ body }) => body));
  return cards.get(row);
}

function choose(name) {
  queue = name;
  current = null;
  rows = [];
  drawQueues();
  forgetGrid();
  refillSoon();
}

// ---- the card

function show(row) {
  current = row;
  at("large").close(); // or the next answer would be about a picture that is not on show
  at("empty").hidden = Boolean(row);
  for (const part of document.querySelectorAll("#card figure, #verdict, #answers")) part.hidden = !row;
  for (const id of ["skip", "zoom", "see"]) at(id).disabled = !row;
  if (!row) {
    at("empty").textContent = state.error ? "No picture is left here." : !state.order ? "Training the heads; the first picture comes in a moment." :
      state.queues[queue] === null ? "Still looking for neighbours." : "Nothing is left in this queue.";
    return drawEvidence(null);
  }
  picture(at("picture"), `image/${row.row}`, row, at("gone"));
  at("id").textContent = row.id;
  at("facts").textContent = `· ${row.split}`;
  drawVerdict(row);
  drawButtons(row);
  drawEvidence(row);
}

function picture(image, source, row, gone) { // or words in its place if the file is gone or changed
  if (gone) gone.hidden = true;
  image.alt = `${row.id}, ${row.label ? `labelled ${row.label}` : "no label"}; blurred until shown`;
  image.onerror = () => {
    image.hidden = false;
    image.alt = `${row.id}: no picture, its file is gone or was changed`;
    if (gone) { gone.hidden = false; gone.textContent = "no picture: its file is gone or was changed"; }
  };
  image.onload = () => { image.hidden = false; };
  image.src = source;
  image.hidden = !image.complete; // or the picture before would stand above these words until this one has come
}

function drawVerdict(row) {
  const said = row.answer && row.answer !== "skip" ? ` (${row.answer === "keep" ? "kept" : "flipped"} by review)` : "";
  at("verdict").replaceChildren("Label: ", label(row.label), said);
  if (row.p === null || queue === "control") return;
  const share = Math.max(row.p, 1 - row.p);
  at("verdict").append(" · heads that did not see it say ", label(state.classes[Number(row.p >= 0.5)]), ` (${percent(share)})`);
}

function drawButtons(row) {
  const [first, second] = state.classes, other = row.label === first ? second : first;
  button("keep", row.label && ["Keep ", row.label], "K");
  button("flip", row.label && ["Flip to ", other], "F");
  button("first", !row.label && ["It is ", first], "1");
  button("second", !row.label && ["It is ", second], "2");
}

function button(id, words, key) {
  at(id).hidden = !words;
  if (words) at(id).replaceChildren(words[0], element("bdi", words[1]), element("kbd", key));
}

async function drawEvidence(row) {
  const bare = !row || queue === "control"; // so that the eye does not lean on the head
  at("evidence").hidden = bare;
  if (bare) return;
  let found;
  try { found = await card(row.row); } catch { return; }
  if (current?.row !== row.row) return;
  at("facts").textContent = `· ${row.split} · ${found.width} × ${found.height} · ${found.path}${found.group ? ` · group ${found.group}` : ""}`;
  const votes = found.vote && Object.entries(found.vote)
    .map(([name, n]) => `${n} × ${name}`).join(", ");
  at("vote").textContent = votes || "Not known yet.";
  at("neighbours").replaceChildren(...found.neighbours.map((n) => tile(n, `cosine ${n.cosine.toFixed(2)}, ${n.split}`)));
  at("same").hidden = !found.same.length;
  at("copies").replaceChildren(...found.same.map((n) => tile(n, n.kind)));
}

function tile(other, words) {
  const made = element("li"), frame = element("figure"), image = element("img", "", "photo");
  image.alt = `${other.label ? `labelled ${other.label}` : "no label"}, ${words}`;
  image.src = `thumb/${other.row}`;
  made.title = words;
  frame.append(image);
  made.append(frame, label(other.label));
  return made;
}

// ---- answers

function answer(word, wanted) {
  const row = inGrid() ? focused() : current;
  if (!row) return;
  const [first, second] = state.classes;
  const to = { keep: row.label, skip: row.label, flip: row.label === first ? second : first, give: state.classes[wanted] }[word];
  if (!row.label && (word === "keep" || word === "flip")) return say("This picture has no label: 1 or 2 gives it one.");
  if (word === "skip" && row.answer && row.answer !== "skip") return say("It already has an answer: undo it, or give another.");
  if (newest.get(row.picture) === Infinity) return say("Its answer is still being saved.");
  const sense = word === "give" ? (to === row.label ? "keep" : "flip") : word;
  newest.set(row.picture, Infinity);
  const after = { ...row, answer: sense, label: to };
  send({ row: row.row, id: row.id, answer: sense, old: row.label, new: to, number: row.number, before: row, after });
  rows = rows.filter((each) => each.picture !== row.picture); // one answer is for all copies
  if (!inGrid()) return next();
  if (current?.picture === row.picture) current = null;
  amend(after);
  moveFocus(1);
}

function send(item) {
  outbox.push(item);
  document.body.dataset.pending = outbox.length;
  if (outbox.length === 1) deliver();
}

async function deliver() { // one after the other, in order; what was not acknowledged is sent again
  while (outbox.length) {
    const item = outbox[0];
    try {
      const { status, body } = item.undo ? await takeBack() : await ask("api/answer", item);
      acknowledged(item, status, body);
    } catch {
      trouble("Not saved: the server does not answer. Trying again; leave this tab open.");
      await new Promise((done) => setTimeout(done, 1000));
      continue;
    }
    outbox.shift();
    document.body.dataset.pending = outbox.length;
  }
  poll();
}

async function takeBack() {
  const last = mine.at(-1) ?? (await ask("api/state")).body.last;
  if (!last) return { status: 404, body: { detail: "There is nothing to undo." } };
  const reply = await ask("api/undo", { number: last });
  if (mine.at(-1) === last) mine.pop(); // in any case: if it is not the newest any more, another tab took it back
  return reply;
}

function acknowledged(item, status, body) {
  if (item.undo) return status === 200 ? takenBack(body.row) : say(body.detail);
  if (status === 200) return saved(item, body.number);
  newest.delete(item.before.picture);
  if (inGrid()) amend(status === 409 ? body.row : item.before);
  if (status === 409) {
    return say(`${body.detail}: ${body.row.id} is ${body.row.label || "without label"}. Your answer was not saved.`);
  }
  refused = `Not saved: ${typeof body.detail === "string" ? body.detail : `the server refused (${status})`}`;
  trouble(refused);
  if (!inGrid()) bring(item.before);
}

function saved(item, given) {
  refused = "";
  mine.push(given);
  newest.set(item.before.picture, given);
  if (inGrid()) amend({ ...item.after, number: given });
  say(`${{ keep: "Kept", flip: "Flipped", skip: "Skipped" }[item.answer]}: ${item.id}${item.answer === "flip" ? `, now ${item.new}` : ""}.`);
}

function takenBack(row) {
  newest.delete(row.picture);
  say(`Taken back: ${row.id}.`);
  if (inGrid()) amend(row);
  else bring(row);
}

function undo() { send({ undo: true }); }

// ---- progress

async function poll() {
  try {
    const { status, body } = await ask("api/state");
    if (status !== 200) throw new Error(status);
    const before = state;
    state = body;
    trouble(refused || state.error);
    drawState();
    if (!state.order && !state.error) return; // the first pictures come when the heads have looked at all
    if (!before?.order && !current) choose(queue);
    else if (before.order !== state.order || before.answers !== state.answers) changed(before);
  } catch {
    trouble("The server does not answer. Start make review again and open its new address.");
  }
}

function changed(before) {
  if (before.order !== state.order) {
    cards.clear(); // their labels and neighbours are out of date
    if (inGrid()) at("fresh").hidden = false; // not under the user's hands
    else drawEvidence(current);
  }
  if (!outbox.length) refillSoon();
}

function drawState() {
  at("table").textContent = `${state.table} · ${state.who}`;
  drawQueues();
  if (!current) show(null);
  const own = state.queues[queue] ?? { open: 0, done: 0 }, whole = own.open + own.done;
  at("counts").textContent = queue === "answered" ? `${number(state.answers)} entries in all` : `${number(own.done)} of ${number(whole)} answered in this queue`;
  at("progress").value = whole ? own.done / whole : 0;
  drawErrors(state.errors);
  drawAccuracy(state.validation);
  const busy = { training: "training …", neighbours: "looking for neighbours …" }[state.busy];
  at("trained").textContent = busy || (state.retrain_seconds === null ? "" : `retrained in ${Math.ceil(1000 * state.retrain_seconds)} ms`);
  at("undo").disabled = !state.last && !mine.length;
}

function drawErrors({ changed: done, control, left, guess }) {
  const fixed = `${number(done)} labels changed by review. `;
  if (control && left) {
    at("left").textContent = `${fixed}About ${number(left.value)} are still wrong [${number(left.low)}, ${number(left.high)}]: ` +
      `of ${number(control.n)} in the control sample, ${interval(control)} were.`;
  } else {
    at("left").textContent = `${fixed}${guess === null ? "" : `The heads' guess: ${number(guess)} are still wrong. `}` +
      "For an estimate with an interval, answer the first of the control sample.";
  }
}

function drawAccuracy(accuracy) {
  at("accuracy").textContent = accuracy ? `Validation accuracy ${interval(accuracy)}, n = ${number(accuracy.n)}` : "No validation accuracy yet.";
  const points = state.history, low = Math.min(...points.map((p) => p.low)), high = Math.max(...points.map((p) => p.high));
  const most = Math.max(1, ...points.map((p) => p.answers));
  const x = (p) => (200 * p.answers) / most, y = (value) => 46 - (44 * (value - low)) / (high - low || 1);
  const line = points.map((p) => `${x(p)},${y(p.value)}`);
  const band = [...points.map((p) => `${x(p)},${y(p.high)}`), ...points.map((p) => `${x(p)},${y(p.low)}`).reverse()];
  at("history").replaceChildren(shape("polygon", band), shape("polyline", line));
}

function shape(kind, points) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  made.setAttribute("points", points.join(" "));
  return made;
}

function drawQueues() {
  if (!at("queues").children.length) {
    for (const name of Object.keys(NAMES)) {
      const made = element("button", NAMES[name] + " ");
      made.type = "button";
      made.dataset.queue = name;
      made.append(element("span"));
      made.addEventListener("click", () => choose(name));
      at("queues").append(made);
    }
  }
  for (const made of at("queues").children) {
    const { queue: name } = made.dataset, found = state?.queues[name];
    made.setAttribute("aria-current", name === queue);
    made.lastChild.textContent = name === "answered" ? "" : found ? number(found.open) : "…";
  }
}

// ---- the grid: only what is seen is in the page

const PAGE = 200;
let pages = new Map(), total = 0, focus = 0, drawn = new Map(), columns = 1, high = 0, quiet = 0, seen = [0, 0];
const inGrid = () => !at("all").hidden;

function forgetGrid() {
  pages = new Map();
  total = 0;
  at("fresh").hidden = true;
  for (const index of drawn.keys()) drop(index);
  if (inGrid()) { at("grid").scrollTop = 0; focus = 0; drawGrid(); }
}

const rowAt = (index) => pages.get(Math.floor(index / PAGE))?.[index % PAGE];

async function loadPage(page, name, into) {
  if (into.has(page)) return;
  into.set(page, null);
  try {
    const { body } = await ask(`api/queue/${name}?start=${page * PAGE}&count=${PAGE}`);
    if (into !== pages) return; // of a queue that is not shown any more
    into.set(page, body.rows);
    total = body.total;
    drawGrid();
  } catch { into.delete(page); }
}

function drawGrid() {
  const wide = at("grid").clientWidth;
  columns = Math.max(2, Math.floor(wide / 170));
  const side = Math.floor(wide / columns);
  high = side + 28;
  at("total").textContent = `${number(total)} pictures.`;
  at("tall").style.height = `${Math.ceil(total / columns) * high}px`;
  const from = Math.max(0, Math.floor(at("grid").scrollTop / high) - 1) * columns;
  const to = Math.min(total, (Math.ceil((at("grid").scrollTop + at("grid").clientHeight) / high) + 1) * columns);
  for (const index of drawn.keys()) if (index < from || index >= to) drop(index);
  for (let index = from; index < to; index++) place(index, side);
  seen = [from, Math.max(from, to - 1)];
  quiet ||= setTimeout(load, 80); // pictures that are only scrolled past are never loaded
}

function place(index, side) {
  const row = rowAt(index);
  if (row && drawn.has(index) && drawn.get(index).dataset.row !== String(row.row)) drop(index);
  let made = drawn.get(index);
  if (row && !made) {
    made = gridTile(row, index);
    drawn.set(index, made);
    at("tall").append(made);
  }
  if (!made) return;
  made.style.width = `${side}px`;
  made.style.height = `${high}px`;
  made.style.transform = `translate(${(index % columns) * side}px, ${Math.floor(index / columns) * high}px)`;
  made.setAttribute("aria-selected", index === focus);
}

function drop(index) {
  drawn.get(index)?.querySelector("img")?.removeAttribute("src"); // or it would still be loaded, before what is seen
  drawn.get(index)?.remove();
  drawn.delete(index);
}

function gridTile(row, index) {
  const made = element("div", "", "tile"), frame = element("figure"), words = element("p");
  made.id = `tile-${index}`;
  made.dataset.row = row.row;
  made.setAttribute("role", "option");
  made.append(frame, words);
  words.append(label(row.label), row.p === null || queue === "control" ? "" : ` ${percent(row.p)}`, ` ${row.id}`);
  made.setAttribute("aria-label", `${row.id}, ${row.label || "no label"}${row.answer ? `, ${row.answer}` : ""}`);
  made.classList.toggle("answered", Boolean(row.answer));
  return made;
}

function load() { // what is seen now: rows and pictures
  quiet = 0;
  for (const index of seen) loadPage(Math.floor(index / PAGE), queue, pages);
  for (const [index, made] of drawn) {
    if (made.firstChild.firstChild) continue;
    const image = element("img", "", "photo");
    picture(image, `thumb/${made.dataset.row}`, rowAt(index));
    made.firstChild.append(image);
  }
}

const focused = () => rowAt(focus);

function moveFocus(by) {
  at("large").close();
  drawn.get(focus)?.setAttribute("aria-selected", false);
  focus = Math.max(0, Math.min(total - 1, focus + by));
  const top = Math.floor(focus / columns) * high, grid = at("grid");
  if (top < grid.scrollTop) grid.scrollTop = top;
  if (top + high > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + high - grid.clientHeight;
  drawGrid();
  grid.setAttribute("aria-activedescendant", `tile-${focus}`);
}

function amend(row) { // tiles, in their place: its own and, for the same answer is theirs, those of its copies
  const { label, answer, number } = row;
  for (const [page, found] of pages)
    found?.forEach((each, index) => {
      if (each.picture !== row.picture) return;
      found[index] = each.row === row.row ? row : { ...each, label, answer, number };
      drop(page * PAGE + index);
    });
  drawGrid();
}

function view() {
  at("large").close();
  at("all").hidden = inGrid();
  at("card").hidden = inGrid();
  document.querySelector("aside").hidden = inGrid();
  at("view").firstChild.textContent = inGrid() ? "Card " : "Grid ";
  if (inGrid()) { forgetGrid(); at("grid").focus(); }
  else if (!current) refillSoon();
}

function open(index) {
  const row = rowAt(index);
  if (!row) return;
  view();
  bring(row);
}

// ---- seeing, and the keys

function see(now) { document.body.classList.toggle("see", now); }

function blur() {
  const clear = document.body.classList.toggle("clear");
  at("blur").setAttribute("aria-pressed", !clear);
}

function zoom() {
  if (at("large").open) return at("large").close();
  const row = inGrid() ? focused() : current;
  if (!row) return;
  picture(at("zoomed"), `image/${row.row}`, row);
  at("large").showModal();
}

const KEYS = { k: () => answer("keep"), f: () => answer("flip"), 1: () => answer("give", 0), 2: () => answer("give", 1),
               s: () => answer("skip"), u: undo, z: zoom, b: blur, g: view, "?": () => at("keys").showModal() };
const MOVES = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns, ArrowDown: () => columns };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !state || event.target.matches("input, textarea")) return;
  if (event.key === " ") { event.preventDefault(); return see(true); } // never presses the focused button
  if (at("keys").open) return;
  if (inGrid() && MOVES[event.key] && !at("large").open) { event.preventDefault(); return moveFocus(MOVES[event.key]()); }
  if (inGrid() && event.key === "Enter" && event.target === at("grid")) return open(focus);
  const act = KEYS[event.key.toLowerCase()];
  if (act && !event.repeat) { event.preventDefault(); act(); }
});
document.addEventListener("keyup", (event) => { if (event.key === " ") { event.preventDefault(); see(false); } });
window.addEventListener("blur", () => see(false));

for (const id of ["see", "frame", "zoomed"]) {
  at(id).addEventListener("pointerdown", () => see(true));
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) at(id).addEventListener(end, () => see(false));
  at(id).addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch
}
for (const [id, act] of Object.entries({
  keep: () => answer("keep"), flip: () => answer("flip"), first: () => answer("give", 0), second: () => answer("give", 1),
  skip: () => answer("skip"), undo, zoom, blur, view, help: () => at("keys").showModal(), fresh: forgetGrid,
  close: () => at("large").close(),
})) at(id).addEventListener("click", act);
at("grid").addEventListener("scroll", () => requestAnimationFrame(drawGrid), { passive: true });
at("grid").addEventListener("click", (event) => {
  const made = event.target.closest(".tile");
  if (made) { moveFocus(Number(made.id.slice(5)) - focus); if (event.detail === 2) open(focus); }
});
window.addEventListener("resize", () => { if (inGrid()) drawGrid(); });
window.addEventListener("beforeunload", (event) => { if (outbox.length) event.preventDefault(); });
setInterval(() => { if (!document.hidden && !outbox.length) poll(); }, 1000);
poll();
