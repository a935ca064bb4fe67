// The page of gardu: it reads the API of the daemon that serves it, and changes nothing. Whatever it shows is put in as text, since
// names, reasons and packets are the world's.

const every = 2000; // ms between two readings
const kept = 120; // readings in the graph
const most = 200; // rows of a table

const verdicts = ["pass", "forward", "redirect", "reject", "drop"];

// ---- what is shown

const number = n => (n ?? 0).toLocaleString("en");
const short = n => n < 1000 ? String(Math.round(n * 10) / 10) : n < 1e6 ? (n / 1e3).toPrecision(3) + " k" : (n / 1e6).toPrecision(3) + " M";
const when = text => text ? text.replace("T", " ").replace(/\.\d+/, "") : "";

// A column is a title, and a cell made of a row and of that row a while ago: {row, seconds}, absent the first time.
const text = (title, of) => ({title, cell: of, sort: of});
const count = (title, of) => ({title, cell: row => number(of(row)), sort: of, number: true});
const rate = (title, of) => {
  const perSecond = (row, ago) => ago ? Math.max(0, of(row) - of(ago.row)) / ago.seconds : undefined;
  return {title, cell: (row, ago) => ago ? short(perSecond(row, ago)) : "", sort: perSecond, number: true};
};

// Every table: which path of the API it is of, its rows in the answer, what tells one row from another, its columns.
const tables = [
  {caption: "Services", path: "v1/services", key: r => r.name, columns: [
    text("name", r => r.name), text("address", r => r.address), text("port", r => r.port), text("proto", r => r.proto),
    text("forward", r => r.forward), text("up", r => `${r.backends_up} of ${r.backends}`), rate("packets/s", r => r.packets),
    count("packets", r => r.packets), count("flows", r => r.flows)]},
  {caption: "Backends", path: "v1/backends", key: r => r.service + "/" + r.name, bad: r => r.state === "down", columns: [
    text("service", r => r.service), text("name", r => r.name), text("address", r => r.address), count("weight", r => r.weight),
    text("state", r => r.state), text("why", r => r.why), text("since", r => when(r.since)), rate("packets/s", r => r.packets),
    count("packets", r => r.packets), count("active flows", r => r.active)]},
  {caption: "Rules", path: "v1/rules", key: r => r.name, columns: [
    text("name", r => r.name), text("match", r => r.match || "everything"), text("action", r => [r.shadow_rule && "shadow", r.action, r.to].filter(Boolean).join(" ")),
    rate("packets/s", r => r.packets), count("packets", r => r.packets), count("decided", r => r.shadow_rule ? r.shadow : r.decided)]},
  {caption: "Reasons", path: "v1/status", rows: s => Object.entries(s.reasons).map(([name, c]) => ({name, ...c})), key: r => r.name, columns: [
    text("verdict", r => r.verdict), text("reason", r => r.name), rate("packets/s", r => r.packets), count("packets", r => r.packets),
    count("bytes", r => r.bytes)]},
  {caption: "Interfaces", path: "v1/status", rows: s => s.interfaces, key: r => r.name, bad: r => !r.attached, columns: [
    text("name", r => r.name), text("path", r => r.path ?? "not attached"), rate("received/s", r => r.received?.packets),
    rate("dropped/s", r => r.dropped?.packets), rate("sent/s", r => r.sent?.packets), text("why", r => r.error ?? r.why)]},
  {caption: "Sets", path: "v1/sets", key: r => r.name, bad: r => r.state === "kept", columns: [
    text("name", r => r.name), text("kind", r => r.kind), count("in the kernel", r => r.kernel), count("wanted", r => r.wanted),
    text("state", r => r.state), count("packets", r => r.packets), text("source", r => r.file ?? "inline"), text("remark", r => r.error ?? r.difference)]},
  {caption: "Blocks", path: "v1/blocks", key: r => r.prefix, columns: [
    text("prefix", r => r.prefix), count("packets", r => r.packets), text("expires", r => when(r.expires) || "never"),
    text("origin", r => r.origin), text("why", r => r.why)]},
  {caption: "Tables", path: "v1/status", rows: s => s.tables, key: r => r.name, bad: r => r.entries > 0.8 * r.max, columns: [
    text("name", r => r.name), count("entries", r => r.entries), count("room for", r => r.max),
    {title: "full", cell: r => Math.round(100 * r.entries / (r.max || 1)) + " %", sort: r => r.entries / (r.max || 1), number: true}]},
  {caption: "Events", path: "v1/events?last=50", key: r => r.time + r.text, newestFirst: true, columns: [
    text("time", r => when(r.time)), text("kind", r => r.kind), text("verdict", r => r.verdict), text("rule", r => r.rule),
    text("what", r => r.text ?? r.packet)]},
];

// Of a sample of flows the columns are those it was grouped by, and what they did in the time between two readings.
const flowColumns = group => [
  ...group.split(",").map((name, i) => text(name, r => r.other ? (i ? "" : "all others") : r.group[name])),
  ...[["packets/s", "packets", 1], ["back/s", "packets_reply", 1], ["bit/s", "bytes", 8], ["back bit/s", "bytes_reply", 8]].map(([title, name, times]) => ({
    title, number: true, sort: r => r[name] ?? 0, cell: (r, _, seconds) => short(times * (r[name] ?? 0) / seconds)})),
];

// ---- drawing

const $ = id => document.getElementById(id);

function element(name, attributes = {}, ...inside) {
  const svg = name === "svg" || name === "polyline";
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...inside);
  return made;
}

// Grid is a table that is drawn again and again; a click on a title sorts by it, another one the other way round.
class Grid {
  constructor(caption, columns) {
    Object.assign(this, {columns, by: undefined, descending: false, drawn: () => {}});
    this.body = element("tbody");
    this.titles = columns.map((column, i) => {
      const button = element("button", {type: "button"}, column.title);
      button.addEventListener("click", () => {
        this.descending = this.by === i ? !this.descending : Boolean(column.number);
        this.by = i;
        this.drawn();
      });
      return element("th", {scope: "col", class: column.number && "number"}, button);
    });
    this.caption = element("caption", {}, caption);
    this.element = element("div", {class: "scroll"},
      element("table", {}, this.caption, element("thead", {}, element("tr", {}, ...this.titles)), this.body));
  }

  // draw shows rows; ago finds what a row was a while ago, and bad says which to mark.
  draw(rows, {ago = () => undefined, bad = () => false, seconds = 1} = {}) {
    this.drawn = () => {
      let sorted = [...rows];
      if (this.by !== undefined) {
        const of = this.columns[this.by].sort;
        const less = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a ?? "").localeCompare(String(b ?? ""), "en", {numeric: true});
        sorted.sort((a, b) => (this.descending ? -1 : 1) * less(of(a, ago(a)), of(b, ago(b))));
      }
      this.titles.forEach((title, i) => i === this.by ? title.setAttribute("aria-sort", this.descending ? "descending" : "ascending") : title.removeAttribute("aria-sort"));
      this.body.replaceChildren(...sorted.slice(0, most).map(row => element("tr", {class: bad(row) && "bad"}, ...this.columns.map(column =>
        element("td", {class: column.number && "number"}, String(column.cell(row, ago(row), seconds) ?? ""))))));
    };
    this.drawn();
  }
}

const history = []; // of packets a second by verdict

function drawNow(status, before, seconds) {
  const sums = s => {
    const all = Object.fromEntries(verdicts.map(v => [v, 0]));
    for (const {verdict, packets} of Object.values(s.reasons)) all[verdict] += packets;
    return all;
  };
  const total = sums(status);
  if (before) {
    const then = sums(before);
    history.push(Object.fromEntries(verdicts.map(v => [v, Math.max(0, total[v] - then[v]) / seconds])));
    if (history.length > kept) history.shift();
  }
  const now = history.at(-1) ?? {};
  $("now").querySelector("dl").replaceChildren(...verdicts.flatMap(v => [
    element("dt", {class: v}, v), element("dd", {}, before ? short(now[v]) + " /s" : ""), element("dd", {}, number(total[v]))]));
  const top = Math.max(1, ...history.flatMap(h => Object.values(h)));
  $("now").querySelector("svg").replaceChildren(...verdicts.filter(v => history.some(h => h[v] > 0)).map(v => element("polyline", {class: v,
    points: history.map((h, i) => `${600 - 600 * (history.length - 1 - i) / (kept - 1)},${118 - 116 * h[v] / top}`).join(" ")})));
}

function drawAbout(status) {
  $("about").textContent = `${status.version}, revision ${status.revision}` +
    (status.config ? ` from ${status.config}, applied ${when(status.applied)}` : "") + (status.waiting ? ", waits for gardu confirm" : "");
  document.title = `gardu, revision ${status.revision}`;
  $("warnings").replaceChildren(...(status.warnings ?? []).map(w => element("li", {}, w)));
}

function say(what, good) {
  $("state").textContent = what;
  $("state").className = good ? "good" : "bad";
}

// ---- asking

// A token lives as long as this tab: what the daemon tells nobody else, it tells who shows one.
const token = {
  get: () => sessionStorage.getItem("token"),
  set: text => sessionStorage.setItem("token", text),
};

// request returns an answer that is none of a problem: a problem is an error with its text.
async function request(path, options = {}) {
  const headers = {...options.headers, ...(token.get() && {Authorization: "Bearer " + token.get()})};
  const answer = await fetch(path, {cache: "no-store", ...options, headers});
  if (answer.ok) return answer;
  $("key").hidden = answer.status !== 401 && $("key").hidden;
  const body = await answer.text();
  let problem;
  try { problem = JSON.parse(body); } catch { problem = {detail: body}; }
  throw new Error(problem.detail || problem.title || `${path}: ${answer.status}`);
}

// ask returns what the API answers, JSON or a JSON value a line.
async function ask(path, options) {
  const answer = await request(path, options);
  const body = await answer.text();
  const lines = answer.headers.get("Content-Type").startsWith("application/x-ndjson");
  return lines ? body.split("\n").filter(Boolean).map(line => JSON.parse(line)) : JSON.parse(body);
}

// lines calls take with each JSON value that comes, until signal says that it is enough.
async function lines(path, signal, take) {
  const answer = await request(path, {signal});
  const decoder = new TextDecoder();
  let rest = "";
  for (const reader = answer.body.getReader();;) {
    const {value, done} = await reader.read();
    if (done) return;
    rest += decoder.decode(value, {stream: true});
    const whole = rest.split("\n");
    rest = whole.pop();
    whole.filter(Boolean).forEach(line => take(JSON.parse(line)));
  }
}

const limited = path => path.includes("?") || path === "v1/status" ? path : path + "?limit=" + most;

const grids = tables.map(table => {
  const grid = new Grid(table.caption, table.columns);
  $("tables").append(grid.element);
  return {table, grid, before: new Map()};
});

let last; // reading: {status, at}

async function read() {
  const paths = [...new Set(tables.map(t => limited(t.path)))];
  const answers = new Map(await Promise.all(paths.map(async path => [path, await ask(path)])));
  const at = performance.now(), status = answers.get("v1/status"), seconds = last ? (at - last.at) / 1000 : 0;
  drawAbout(status);
  drawNow(status, last?.status, seconds);
  for (const shown of grids) {
    const {table, grid} = shown, answer = answers.get(limited(table.path));
    const rows = table.rows ? table.rows(answer) : answer;
    if (table.newestFirst) rows.reverse();
    const before = shown.before;
    grid.caption.textContent = rows.length < most ? table.caption : `${table.caption}, the first ${most}`;
    grid.element.hidden = rows.length === 0;
    grid.draw(rows, {bad: table.bad, ago: row => before.has(table.key(row)) ? {row: before.get(table.key(row)), seconds} : undefined});
    shown.before = new Map(rows.map(row => [table.key(row), row]));
  }
  last = {status, at};
}

// Nobody looks at a hidden page: it asks for nothing.
async function keepReading() {
  for (;;) {
    if (!document.hidden) {
      try {
        await read();
        say("live", true);
      } catch (error) {
        last = undefined;
        say(`no answer from the daemon: ${error.message}`, false);
      }
    }
    await new Promise(done => setTimeout(done, every));
  }
}

let watching = new AbortController();

async function watchFlows() {
  watching.abort();
  if (document.hidden) return;
  const mine = watching = new AbortController();
  const group = $("group").value, grid = new Grid("", flowColumns(group));
  $("wrong").textContent = "";
  const query = new URLSearchParams({group, sort: "bytes", limit: 20, every: every + "ms", filter: $("filter").value});
  try {
    await lines("v1/top?" + query, mine.signal, sample => {
      if (!grid.element.isConnected) $("flows").replaceChildren(grid.element);
      grid.caption.textContent = sample.groups.length ? "" : "none moved";
      grid.draw(sample.groups, {seconds: (new Date(sample.until) - new Date(sample.since)) / 1000});
    });
  } catch (error) {
    if (mine.signal.aborted) return;
    $("wrong").textContent = error.message;
  }
}

async function explain() {
  const answer = $("answer");
  answer.hidden = false;
  answer.className = "";
  try {
    const told = await ask("v1/explain", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({packet: $("packet").value})});
    const width = Math.max(...told.steps.map(s => s.step.length));
    answer.textContent = [
      ...told.steps.map(s => s.step.padEnd(width + 2) + s.result), "",
      `${told.verdict}, ${told.reason}: ${told.help}`, ...(told.out ?? []).map(o => `leaves by ${o.interface}: ${o.text}`)].join("\n");
  } catch (error) {
    answer.className = "bad";
    answer.textContent = error.message;
  }
}

$("key").addEventListener("submit", event => {
  event.preventDefault();
  token.set($("token").value.trim());
  $("key").hidden = true;
  $("token").value = "";
  watchFlows();
});
$("ask").addEventListener("submit", event => { event.preventDefault(); explain(); });
$("pick").addEventListener("submit", event => { event.preventDefault(); watchFlows(); });
$("group").addEventListener("change", watchFlows);
document.addEventListener("visibilitychange", watchFlows);
watchFlows();
keepReading();
