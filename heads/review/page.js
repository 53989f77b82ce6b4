"use strict";
// Shows pictures one by one or in a grid and sends the answers. The server decides what comes next; the page only
// shows it. Data goes in as text, never as markup.

const at = (id) => document.getElementById(id);
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
const mine = []; // numbers of this tab's answers that were not undone
const cards = new Map(); // row -> promise of api/card
const ahead = new Map(); // row -> its large image, held so that it stays loaded

async function ask(path, data) {
  const options = data && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data) };
  const reply = await fetch(path, options);
  return { status: reply.status, body: await reply.json() };
}

function element(tag, text = "", kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = kind;
  return made;
}

function say(text) { at("said").textContent = text; }

function trouble(text) {
  at("trouble").hidden = !text;
  at("trouble").textContent = text;
}

function label(value, own = current?.label) { // a class name in its colour; names may be written from right to left
  return element("bdi", value || "no label", value && (value === (state.kind === "binary" ? state.classes[0] : own) ? "first" : "second"));
}

// ---- the queue

async function ofQueue(start, count) { // null if the reply comes too late; an answer may be newer than the reply
  const asked = queue;
  const { status, body } = await ask(`api/queue/${asked}?start=${start}&count=${count}`);
  if (status !== 200 || asked !== queue) return null;
  return { total: body.total, rows: body.rows.filter((row) => !(newest.get(row.picture) > row.number)) };
}

let refilling = ""; // the queue that is asked for
async function refill() { // one request at a time
  if (refilling === queue) return;
  const asked = refilling = queue;
  try {
    const part = await ofQueue(0, AHEAD);
    if (!part) return;
    rows = part.rows.filter((row) => row.row !== current?.row);
    if (current) foresee();
    else next();
  } catch { /* poll() says that the server does not answer */ } finally { if (refilling === asked) refilling = ""; }
}

function next() {
  show(rows.shift() ?? null);
  if (rows.length < LOW) refill();
  foresee();
}

function bring(row) { // to the card, before what is there
  if (current) rows.unshift(current);
  rows = rows.filter((each) => each.row !== row.row);
  show(row);
  foresee();
}

function foresee() { // the next pictures are loaded before they are wanted
  const near = [current, ...rows.slice(0, 3)].filter(Boolean).map((row) => row.row);
  for (const row of ahead.keys()) if (!near.includes(row)) { ahead.delete(row); cards.delete(row); }
  for (const row of near) {
    if (!ahead.has(row)) ahead.set(row, Object.assign(new Image(), { src: `image/${row}` }));
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
  if (inGrid()) fill(0);
  refill();
}

// ---- the card

function show(row) {
  current = row;
  at("large").close(); // or the next answer would be about a picture that is not on show
  at("empty").hidden = Boolean(row);
  for (const part of document.querySelectorAll("#card figure, #verdict, #answers, #classes")) part.hidden = !row;
  for (const id of ["skip", "zoom", "see"]) at(id).disabled = !row;
  drawEvidence(row);
  if (!row) {
    at("empty").textContent = state.error ? "No picture is left here." : !state.order ? "Training the heads; the first picture comes in a moment." :
      queue === "near" && !state.queues.near ? "Still looking for neighbours." : "Nothing is left in this queue.";
    return;
  }
  at("gone").hidden = true;
  picture(at("picture"), `image/${row.row}`, row);
  at("picture").hidden = !at("picture").complete; // or the picture before would stand above these words until then
  at("id").textContent = row.id;
  at("facts").textContent = `· ${row.split}`;
  drawVerdict(row);
  marks = ofLabel(row.label);
  at("find").value = "";
  at("find").blur();
  drawButtons(row);
}

function picture(image, source, row) {
  image.alt = `${row.id}, ${row.label ? `labelled ${row.label}` : "no label"}; blurred until shown`;
  image.src = source;
}

function drawVerdict(row) {
  const review = { keep: " (kept by review)", flip: " (flipped by review)" }[row.answer] ?? "";
  at("verdict").replaceChildren("Label: ", label(row.label), review);
  if (row.says === null || queue === "control") return;
  at("verdict").append(" · heads that did not see it say ", label(row.says), ` (${percent(sure(row))})`);
}

function sure({ p }) { return state.kind === "binary" ? Math.max(p, 1 - p) : p; }

function drawButtons(row) {
  const [first, second] = state.kind === "binary" ? state.classes : [];
  for (const [id, name] of Object.entries({ keep: row.label, flip: flipped(row), first, second })) {
    at(id).hidden = !name || (state.kind === "binary" && Boolean(row.label) !== (id === "keep" || id === "flip"));
    at(id).querySelector("bdi").textContent = name;
  }
  drawChoices(row);
}

function flipped(row) { // what F makes of a label: the other class or, of many, the one that the heads say
  if (state.kind === "binary") return state.classes[row.label === state.classes[0] ? 1 : 0];
  return state.kind === "multiclass" && queue !== "control" && row.says !== row.label ? row.says : null;
}

// ---- many classes: a list to choose from; several labels: their answers, changed one by one and saved together

const WORDS = { 1: "yes", 0: "no", "-1": "?" };
const TURNS = { 1: [1, 0, -1], 0: [0, 1, -1], "-1": [-1, 1, 0] }; // by the answer that a label had: the order of changes
let marks = []; // of several labels, as they stand on the card: 1, 0, or -1 for unknown

function ofLabel(value) {
  const words = value.split("|");
  return state.classes.map((name) => (!value || words.includes(`?${name}`) ? -1 : Number(words.includes(name))));
}

function toLabel(answers) { // as ofLabel reads it; the server refuses any other form
  const words = state.classes.map((name, place) => ({ 1: name, "-1": `?${name}` })[answers[place]]).filter(Boolean);
  return answers.every((each) => each < 0) ? "" : words.join("|") || "none";
}

function choices(row) { // names, the first nine with a key
  const wanted = at("find").value.trim().toLowerCase(), places = (name) => name.toLowerCase().indexOf(wanted);
  if (wanted) return state.classes.filter((name) => places(name) >= 0).sort((a, b) => places(a) - places(b)).slice(0, 9);
  if (state.kind === "multilabel") return state.classes;
  const likely = queue === "control" ? [] : row.likely.map(([name]) => name);
  return [...new Set([row.label, ...likely, ...state.classes].filter(Boolean))].slice(0, 9);
}

function drawChoices(row) {
  at("find").placeholder = `/ finds one of ${number(state.classes.length)} ${state.kind === "multiclass" ? "classes" : "labels"}`;
  if (state.kind === "binary") return;
  const likely = new Map(queue === "control" ? [] : row.likely), before = ofLabel(row.label);
  at("choices").replaceChildren(...choices(row).map((name, index) => {
    const item = element("li"), made = element("button"), p = likely.get(name), place = state.classes.indexOf(name);
    made.type = "button";
    made.append(element("bdi", name), element("span", p === undefined ? "" : percent(p)));
    if (state.kind === "multilabel") {
      made.append(element("b", WORDS[marks[place]]));
      made.classList.toggle("doubtful", p !== undefined && before[place] >= 0 && Number(p >= 0.5) !== before[place]);
    }
    if (index < 9 && !at("find").value) made.append(element("kbd", index + 1));
    made.title = name;
    made.setAttribute("aria-pressed", state.kind === "multiclass" ? name === row.label : marks[place] === 1);
    made.addEventListener("click", () => pick(name));
    item.append(made);
    return item;
  }));
}

function pick(name) { // answer with it or, of several labels, change its answer
  if (!current || !name) return;
  if (state.kind === "multiclass") return answer("give", name);
  const place = state.classes.indexOf(name), turns = TURNS[ofLabel(current.label)[place]];
  marks[place] = turns[(turns.indexOf(marks[place]) + 1) % 3];
  at("find").value = "";
  drawChoices(current);
  say(`${name}: ${WORDS[marks[place]]}.`);
}

function digit(n) {
  if (state.kind === "binary") return n < 3 && answer("give", state.classes[n - 1]);
  if (inGrid()) return say("K keeps and F flips; Enter opens the picture for other answers.");
  if (current) pick(choices(current)[n - 1]);
}

function save() {
  const to = toLabel(marks);
  if (!inGrid()) return to ? answer("give", to) : say("Nothing is answered yet: 1 to 9 or / answer a label.");
}

async function drawEvidence(row) {
  const bare = !row || queue === "control"; // so that the eye does not lean on the head
  at("evidence").hidden = bare;
  if (bare) return;
  let found;
  try { found = await card(row.row); } catch { return; }
  if (current?.row !== row.row) return;
  const { file, group, neighbours, same } = found;
  at("facts").textContent = `· ${row.split} · ${file.width} × ${file.height} · ${file.path}${group ? ` · group ${group}` : ""}`;
  const names = state.kind === "binary" ? state.classes : [...new Set(neighbours.map((each) => each.label))];
  const votes = names.map((name) => `${neighbours.filter((each) => each.label === name).length} × ${name}`);
  at("vote").textContent = neighbours.length ? votes.join(", ") : "Not known yet.";
  at("neighbours").replaceChildren(...neighbours.map(beside));
  at("same").hidden = !same.length;
  at("copies").replaceChildren(...same.map(beside));
}

function beside(other) {
  const made = element("li"), frame = element("figure"), image = element("img", "", "photo");
  image.alt = `${other.label ? `labelled ${other.label}` : "no label"}, ${other.why}`;
  image.src = `thumb/${other.row}`;
  made.title = other.why;
  frame.append(image);
  made.append(frame, label(other.label));
  return made;
}

// ---- answers

function answer(word, wanted) { // wanted: of "give", the label
  const row = inGrid() ? tiles[focus] : current;
  if (!row) return;
  const binary = state.kind === "binary", to = { keep: row.label, skip: row.label, flip: flipped(row), give: wanted }[word];
  if (!row.label && (word === "keep" || (binary && word === "flip"))) {
    return say(`This picture has no label: ${binary ? "1 or 2" : "1 to 9 or /"} gives it one.`);
  }
  if (word === "flip" && !to) return say("The heads say nothing else here: 1 to 9 or / give another answer.");
  if (word === "skip" && row.answer && row.answer !== "skip") return say("It already has an answer: undo it, or give another.");
  if (newest.get(row.picture) === Infinity) return say("Its answer is still being saved.");
  const sense = word === "give" ? (to === row.label ? "keep" : "flip") : word;
  newest.set(row.picture, Infinity);
  const after = { ...row, answer: sense, label: to };
  send({ row: row.row, answer: sense, old: row.label, new: to, number: row.number }, row, after);
  rows = rows.filter((each) => each.picture !== row.picture); // one answer is for all copies
  if (!inGrid()) return next();
  if (current?.picture === row.picture) current = null;
  amend(after);
  moveFocus(1);
}

function send(data, before, after) { // data: null to undo
  outbox.push({ data, before, after });
  document.body.dataset.pending = outbox.length;
  if (outbox.length === 1) deliver();
}

async function deliver() { // one after the other, in order; what was not acknowledged is sent again
  while (outbox.length) {
    const { data, before, after } = outbox[0];
    try {
      if (data) answered(await ask("api/answer", data), before, after);
      else await undoLast();
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

function answered({ status, body }, before, after) {
  if (status === 200) {
    refused = "";
    mine.push(body.number);
    newest.set(before.picture, body.number);
    if (inGrid()) amend({ ...after, number: body.number });
    return say(`${{ keep: "Kept", flip: "Flipped", skip: "Skipped" }[after.answer]}: ${after.id}${after.answer === "flip" ? `, now ${after.label}` : ""}.`);
  }
  newest.delete(before.picture);
  if (inGrid()) amend(body.row ?? before);
  if (status === 409) {
    return say(`${body.detail}: ${body.row.id} is ${body.row.label || "without label"}. Your answer was not saved.`);
  }
  refused = `Not saved: ${body.detail}`;
  trouble(refused);
  if (!inGrid()) bring(before);
}

async function undoLast() { // this tab's own newest answer, or else the newest of all
  const last = mine.at(-1) ?? (await ask("api/state")).body.last;
  if (!last) return say("There is nothing to undo.");
  const { status, body } = await ask("api/undo", { number: last });
  mine.pop(); // in any case: if it is not the newest any more, another tab has undone it
  if (status !== 200) return say(body.detail);
  newest.delete(body.row.picture);
  say(`Undone: ${body.row.id}.`);
  if (inGrid()) amend(body.row);
  else bring(body.row);
}

// ---- progress

async function poll() {
  try {
    const { status, body } = await ask("api/state");
    if (status !== 200) throw new Error(status);
    const before = state;
    state = body;
    document.body.dataset.kind = state.kind;
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
  if (!outbox.length) refill();
}

function drawState() {
  at("table").textContent = `${state.table} · ${state.who}`;
  drawQueues();
  if (!current) show(null);
  const own = state.queues[queue] ?? { open: 0, done: 0 }, whole = own.open + own.done;
  at("counts").textContent = queue === "answered" ? `${number(state.answers)} entries in all` : `${number(own.done)} of ${number(whole)} answered in this queue`;
  at("progress").value = whole ? own.done / whole : 0;
  drawErrors(state.errors);
  drawAccuracy(state.validation, state.history);
  const busy = { training: "training …", neighbours: "looking for neighbours …" }[state.busy];
  at("busy").textContent = busy ?? "";
  at("undo").disabled = !state.last && !mine.length;
}

function drawErrors({ changed: done, control, left, guess }) {
  at("left").textContent = `${number(done)} labels changed by review. ` + (control ?
    `About ${number(left.value)} are still wrong [${number(left.low)}, ${number(left.high)}]: of ${number(control.n)} in the control sample, ${interval(control)} were.` :
    `${guess === null ? "" : `The heads' guess: ${number(guess)} are still wrong. `}For an estimate with an interval, answer the first of the control sample.`);
}

function drawAccuracy(accuracy, history) { // history: pairs of answers and accuracy
  at("accuracy").textContent = accuracy ? `Validation accuracy ${interval(accuracy)}, n = ${number(accuracy.n)}` : "No validation accuracy yet.";
  const low = Math.min(...history.map(([, m]) => m.low)), high = Math.max(...history.map(([, m]) => m.high));
  const most = Math.max(1, ...history.map(([answers]) => answers));
  const line = (end) => history.map(([answers, m]) => `${(200 * answers) / most},${46 - (44 * (m[end] - low)) / (high - low || 1)}`);
  at("band").setAttribute("points", [...line("high"), ...line("low").reverse()].join(" "));
  at("line").setAttribute("points", line("value").join(" "));
}

function drawQueues() {
  for (const made of at("queues").children) {
    const { queue: name } = made.dataset, progress = state?.queues[name];
    made.setAttribute("aria-current", name === queue);
    made.lastChild.textContent = name === "answered" ? "" : progress ? number(progress.open) : "…";
  }
}

// ---- the grid: PART pictures of the queue at a time

const PART = 200;
let start = 0, total = 0; // where this part begins, and how long the queue was when it was loaded
let loaded = [], tiles = [], focus = 0; // its rows as they came, and as they are now
const inGrid = () => !at("all").hidden;

async function fill(from, last = false) {
  drawGrid([]);
  let part;
  try { part = await ofQueue(from, PART); } catch { return; } // poll() says that the server does not answer
  if (!part) return;
  [start, total] = [from, part.total];
  drawGrid(part.rows);
  moveFocus(last ? tiles.length - 1 : 0);
}

function drawGrid(found) {
  [loaded, tiles, focus] = [found, [...found], 0];
  at("grid").replaceChildren(...tiles.map(tile));
  at("grid").scrollTop = 0;
  at("fresh").hidden = true;
  at("from").value = start + 1;
  at("total").textContent = `to ${number(start + tiles.length)} of ${number(total)}`;
  at("earlier").disabled = !start;
  at("later").disabled = start + tiles.length >= total;
}

function turn(by) { // to the part before or after; rows answered here have left the queue
  const left = queue === "answered" ? 0 : tiles.filter((row, index) => row !== loaded[index]).length;
  return by < 0 ? fill(Math.max(0, start - PART), true) : fill(start + tiles.length - left);
}

function tile(row, index) {
  const made = element("div", "", "tile"), frame = element("figure"), image = element("img", "", "photo");
  made.id = `tile-${index}`;
  made.setAttribute("role", "option");
  image.loading = "lazy";
  picture(image, `thumb/${row.row}`, row);
  frame.append(image);
  made.append(frame, element("p"));
  write(made, row);
  return made;
}

function write(made, row) { // the words of a tile
  const heads = row.p === null || queue === "control" ? [] : state.kind === "binary" ? [` ${percent(row.p)}`] :
    row.says === row.label ? [` ${percent(row.p)}`] : [" → ", label(row.says, row.label), ` ${percent(row.p)}`];
  made.lastChild.replaceChildren(label(row.label, row.label), ...heads, ` ${row.id}`);
  made.setAttribute("aria-label", `${row.id}, ${row.label || "no label"}${row.answer ? `, ${row.answer}` : ""}`);
  made.classList.toggle("answered", Boolean(row.answer));
}

function moveFocus(by) {
  at("large").close();
  if (!tiles.length) return;
  const to = focus + by, grid = at("grid");
  if (to < 0 && start) return turn(-1);
  if (to >= tiles.length && start + tiles.length < total) return turn(1);
  grid.children[focus]?.setAttribute("aria-selected", false);
  focus = Math.max(0, Math.min(tiles.length - 1, to));
  grid.children[focus]?.setAttribute("aria-selected", true);
  grid.children[focus]?.scrollIntoView({ block: "nearest" });
  grid.setAttribute("aria-activedescendant", `tile-${focus}`);
}

function amend(row) { // its tile and, for the same answer is theirs, those of its copies
  const { label, answer, number } = row;
  tiles.forEach((each, index) => {
    if (each.picture !== row.picture) return;
    tiles[index] = each.row === row.row ? row : { ...each, label, answer, number };
    write(at("grid").children[index], tiles[index]);
  });
}

function view() {
  at("large").close();
  for (const part of document.querySelectorAll("#all, #card, aside")) part.hidden = !part.hidden;
  at("view").firstChild.textContent = inGrid() ? "Card " : "Grid ";
  if (inGrid()) { fill(0); at("grid").focus(); }
  else if (!current) refill();
}

function open() {
  const row = tiles[focus];
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
  const row = inGrid() ? tiles[focus] : current;
  if (!row) return;
  picture(at("zoomed"), `image/${row.row}`, row);
  at("large").showModal();
}

const columns = () => getComputedStyle(at("grid")).gridTemplateColumns.split(" ").length;
const ACTIONS = { keep: () => answer("keep"), flip: () => answer("flip"), first: () => digit(1), second: () => digit(2), save,
                  skip: () => answer("skip"), undo: () => send(null), zoom, blur, view, help: () => at("keys").showModal(),
                  close: () => at("large").close(), fresh: () => fill(0), earlier: () => turn(-1), later: () => turn(1) };
const KEYS = { k: "keep", f: "flip", s: "skip", u: "undo", z: "zoom", b: "blur", g: "view", "?": "help" };
const MOVES = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns(), ArrowDown: columns };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !state || event.target.matches("input")) return;
  if (event.key === " ") { event.preventDefault(); return see(true); } // never presses the focused button
  if (at("keys").open) return;
  if (inGrid() && MOVES[event.key] && !at("large").open) { event.preventDefault(); return moveFocus(MOVES[event.key]()); }
  if (inGrid() && event.key === "Enter" && event.target === at("grid")) return open();
  if (/^[1-9]$/.test(event.key) && !event.repeat) { event.preventDefault(); return digit(Number(event.key)); }
  if (event.key === "/" && state.kind !== "binary" && !inGrid()) { event.preventDefault(); return at("find").focus(); }
  if (event.key === "Enter" && state.kind === "multilabel" && !event.repeat && !event.target.closest("nav, .tools, dialog")) {
    event.preventDefault();
    return save();
  }
  const action = KEYS[event.key.toLowerCase()];
  if (action && !event.repeat) { event.preventDefault(); ACTIONS[action](); }
});
at("find").addEventListener("input", () => current && drawChoices(current));
at("find").addEventListener("keydown", (event) => {
  if (event.key === "Escape") { at("find").value = ""; at("find").blur(); if (current) drawChoices(current); }
  if (event.key !== "Enter" || !current) return;
  event.preventDefault();
  if (at("find").value.trim()) return pick(choices(current)[0]);
  at("find").blur();
  if (state.kind === "multilabel") save();
});
document.addEventListener("keyup", (event) => { if (event.key === " ") { event.preventDefault(); see(false); } });
window.addEventListener("blur", () => see(false));

for (const id of ["see", "frame", "zoomed"]) {
  at(id).addEventListener("pointerdown", () => see(true));
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) at(id).addEventListener(end, () => see(false));
  at(id).addEventListener("contextmenu", (event) => event.preventDefault()); // a long touch
}
for (const [id, action] of Object.entries(ACTIONS)) at(id).addEventListener("click", action);
for (const made of at("queues").children) made.addEventListener("click", () => choose(made.dataset.queue));
at("from").addEventListener("change", () => { fill(Math.max(0, Math.min(total, at("from").value) - 1)); at("grid").focus(); });
at("grid").addEventListener("click", (event) => {
  const made = event.target.closest(".tile");
  if (made) { moveFocus(Number(made.id.slice(5)) - focus); if (event.detail === 2) open(); }
});
at("picture").addEventListener("load", () => { at("picture").hidden = false; });
document.addEventListener("error", ({ target }) => { // of any picture: its file is gone or changed
  target.alt = "no picture: its file is gone or was changed";
  if (target === at("picture")) at("gone").hidden = false;
}, true);
window.addEventListener("beforeunload", (event) => { if (outbox.length) event.preventDefault(); });
setInterval(() => { if (!document.hidden && !outbox.length) poll(); }, 1000);
poll();
