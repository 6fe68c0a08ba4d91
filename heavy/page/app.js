// The chat page: sends a message, follows its stream, shows the answer, the route, tool calls, time, tokens and cost.
// It knows the public API only. Everything from the server is set as text, never as markup.
"use strict";

const SUGGESTIONS = [
  "What are your opening hours?", "Where is my order A1001?", "Is the red kettle in stock?", "I want to return order A1002, it arrived damaged",
  "Recommend a coffee machine under $100", "水壶怎么除垢?", "订单A1005到哪了", "Talk to a human",
];
const SUGGESTED_FOR = "lumen-home"; // the agent of examples/customer_service
const MATCHED_BY = { none: "no match", llm: "LLM", learned: "learned route" };
const $ = (id) => document.getElementById(id);
const ui = Object.fromEntries(["log", "welcome", "suggestions", "composer", "message", "send", "stop", "session", "new-session", "health", "health-text", "user", "context", "key", "announce", "options"].map((id) => [id, $(id)]));

let running = null; // the turn that streams now: {turnId, abort}
const waiting = new Set(); // answers that wait for a person's decision

// ---- small tools ------------------------------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// Storage may be blocked (private windows, policies); the page then only forgets on reload.
function recall(store, name) {
  try { return store.getItem(name) || ""; } catch { return ""; }
}
function remember(store, name, value) {
  try { store.setItem(name, value); } catch { /* see above */ }
}

function newSessionId() {
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  return "web-" + Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

function milliseconds(value) {
  if (value < 1) return "<1 ms";
  return value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
}

function pretty(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

function scrollDown() {
  const main = ui.log.parentElement;
  main.scrollTop = main.scrollHeight;
}

// ---- the conversation -------------------------------------------------------------------------------------------

function addMine(text) {
  ui.welcome.hidden = true;
  ui.log.append(make("li", { class: "mine" }, make("span", { class: "hidden", text: "You: " }), make("div", { class: "bubble", text })));
  scrollDown();
}

// One answer on the page, filled event by event.
class Answer {
  constructor() {
    this.tools = new Map();
    this.text = "";
    this.sentAt = performance.now();
    this.list = make("ol", { class: "tools", "aria-label": "Tool calls" });
    this.bubble = make("div", { class: "bubble waiting" });
    this.notice = make("p", { class: "facts note" });
    this.facts = make("dl", { class: "facts" });
    this.node = make("li", { class: "theirs", "aria-busy": "true" }, make("span", { class: "hidden", text: "Agent: " }), this.list, this.bubble, this.notice, this.facts);
    this.list.hidden = this.notice.hidden = true;
    ui.log.append(this.node);
    scrollDown();
  }

  show(text) {
    this.notice.textContent = text;
    this.notice.hidden = !text;
  }

  take({ type, data }) {
    const handler = this[`on_${type}`];
    if (this.card && type !== "awaiting_approval") this.goOn();
    if (handler) handler.call(this, data); // unknown events are for newer pages
    scrollDown();
  }

  on_start({ turn_id }) {
    ownTurns.add(turn_id);
  }

  on_awaiting_approval(data) {
    this.card = new ApprovalCard({ turn_id: this.turn.turnId, ...data }, () => takeUp(this));
    this.bubble.className = "bubble";
    this.bubble.hidden = !this.text;
    this.node.insertBefore(this.card.node, this.notice);
    this.node.removeAttribute("aria-busy");
  }

  // The user has decided by a message: its own answer tells what comes of it.
  goOnElsewhere() {
    this.card.settle();
    waiting.delete(this);
  }

  // A person has decided, here or elsewhere.
  goOn() {
    this.card.settle();
    this.card = null;
    this.bubble.hidden = false;
    this.bubble.className = "bubble waiting";
    this.node.setAttribute("aria-busy", "true");
  }

  on_route(route) {
    this.route = route;
    this.drawFacts();
  }

  on_text({ delta }) {
    this.firstAt ??= performance.now();
    this.text += delta;
    this.bubble.textContent = this.text;
    this.bubble.className = "bubble writing";
  }

  on_tool_call({ call_id, name, arguments: values }) {
    const took = make("span", { class: "took", text: "running" });
    const box = make("details", { class: "tool", "data-tool": name }, make("summary", {}, make("code", { text: name }), took), make("pre", { "data-label": "arguments", text: pretty(values) }));
    this.list.append(make("li", {}, box));
    this.list.hidden = false;
    this.tools.set(call_id, { box, took });
  }

  on_tool_result({ call_id, ok, result, duration_ms }) {
    const tool = this.tools.get(call_id);
    if (!tool) return;
    tool.took.textContent = `${ok ? "✓" : "failed,"} ${milliseconds(duration_ms)}`;
    tool.box.classList.toggle("bad", !ok);
    tool.box.append(make("pre", { "data-label": ok ? "result" : "error", text: pretty(result) }));
  }

  on_complete(reply) {
    this.route = reply.route;
    this.usage = reply.usage;
    if (reply.message !== undefined) this.text = reply.message;
    this.close(reply.status);
    const said = { transferred: "A colleague will answer here.", closed: "This chat is closed; the next message opens it again.", queued: "This waits for a decision.", silent: "Noted, without an answer." }[reply.status];
    this.show(said || "");
    ui.announce.textContent = `Agent: ${this.text || said || ""}`;
  }

  on_cancelled({ reason }) {
    this.close("cancelled");
    this.show(`Stopped${reason ? `: ${reason}` : ""}.`);
    ui.announce.textContent = "Stopped.";
  }

  on_error(problem) {
    this.fail(problem);
  }

  fail(problem, again) {
    this.close("error");
    const box = make("div", { class: "failed", role: "alert" }, make("strong", { text: problem.title || "Something went wrong" }), make("span", { text: problem.message || problem.detail || "" }));
    const facts = [problem.code, problem.status && `status ${problem.status}`, problem.retry_after && `retry after ${problem.retry_after} s`, problem.request_id && `request ${problem.request_id}`];
    if (facts.some(Boolean)) box.append(make("small", { text: facts.filter(Boolean).join(" · ") }));
    if (again) box.append(make("button", { type: "button", text: "Send again", onclick: () => { box.remove(); again(); } }));
    this.node.insertBefore(box, this.facts);
  }

  close(status) {
    this.endedAt = performance.now();
    this.status = status;
    this.bubble.textContent = this.text;
    this.bubble.className = "bubble";
    this.bubble.hidden = !this.text;
    this.node.removeAttribute("aria-busy");
    for (const { took } of this.tools.values()) if (took.textContent === "running") took.textContent = "stopped";
    this.drawFacts();
  }

  drawFacts() {
    const { route, usage } = this;
    const rows = [];
    if (route) {
      rows.push(["Tier", make("span", { class: `tier ${route.tier}`, text: route.tier })]);
      rows.push(["Action", route.action_target ? `${route.action_type} ${route.action_target}` : route.action_type]);
      rows.push(["Matched by", `by ${MATCHED_BY[route.matched_by] || route.matched_by}`]);
    }
    if (this.endedAt) {
      const first = this.firstAt ? `first token ${milliseconds(this.firstAt - this.sentAt)}, ` : "";
      rows.push(["Time", `${first}total ${milliseconds(this.endedAt - this.sentAt)}`]);
    }
    if (usage) {
      const cached = usage.cached_tokens ? ` (${usage.cached_tokens} cached)` : "";
      const tokens = usage.llm_calls ? `${usage.llm_calls} LLM ${usage.llm_calls === 1 ? "call" : "calls"}, ${usage.input_tokens}${cached} + ${usage.output_tokens} tokens` : "no tokens";
      rows.push(["Tokens", tokens], ["Cost", usage.cost_usd ? `$${usage.cost_usd.toFixed(6).replace(/0{1,4}$/, "")}` : "$0"]);
    }
    if (route && route.pattern) rows.push(["Pattern", make("code", { text: route.pattern })]);
    this.facts.replaceChildren(...rows.map(([name, value]) => make("div", { "data-fact": name.toLowerCase().replace(" ", "-") }, make("dt", { text: name }), make("dd", {}, value))));
  }
}

function requestBody(message) {
  const body = { message, session_id: ui.session.value };
  if (ui.user.value) body.user_id = ui.user.value;
  if (ui.context.value.trim()) body.context = JSON.parse(ui.context.value);
  return body;
}

async function say(message) {
  const answer = new Answer();
  const turn = answer.turn = { abort: new AbortController(), show: (text) => answer.show(text), lastId: "", turnId: "", paused: false };
  for (const other of waiting) part(other); // what the message decides is told in its own answer
  await listen(answer, () => ask(requestBody(message), turn), () => { answer.node.remove(); say(message); });
}

// Shows a turn's events until it ends, pauses or breaks. `open` gives the response, `again` asks the same once more.
async function listen(answer, open, again) {
  const turn = answer.turn;
  running = turn;
  busy(true);
  try {
    for await (const event of turnEvents(await open(), turn)) {
      if (event.type === "start") waiting.forEach((other) => other !== answer && other.turn.turnId === turn.turnId && other.goOnElsewhere());
      turn.paused = event.type === "awaiting_approval";
      answer.take(event);
      if (turn.paused) { waiting.add(answer); release(turn); } else if (waiting.delete(answer)) { running = turn; busy(true); }
      if (turn.turnId) { remember(localStorage, "loadsplit.talked", ui.session.value); followSession(ui.session.value); }
    }
  } catch (error) {
    if (error instanceof Refused) answer.fail(error.problem, error.problem.retryable ? again : null);
    else if (error.name === "AbortError") { if (!turn.paused) answer.on_cancelled({ reason: "" }); }
    else if (error instanceof SyntaxError) answer.fail({ title: "The context is not valid JSON", detail: error.message });
    else answer.fail({ title: "No connection", detail: error instanceof TypeError ? "The server cannot be reached." : error.message }, again);
  } finally {
    turn.parted = turn.paused;
    release(turn);
    scrollDown();
  }
}

function release(turn) {
  if (running === turn) { running = null; busy(false); }
}

// Stops listening to a turn that waits for a decision; it can still be taken up.
function part(answer) {
  answer.turn.abort.abort();
}

// A decision was taken: what comes of it belongs to the answer that asked, if nobody listens to it any more.
function takeUp(answer) {
  const { turn } = answer;
  if (!turn.parted || !waiting.has(answer)) return;
  turn.parted = false;
  turn.abort = new AbortController();
  listen(answer, () => resume(turn), null);
}

// Leaves a running turn behind: it is cancelled on the server, and the page is free at once.
function leave() {
  stop();
  waiting.forEach(part);
  waiting.clear();
  running = null;
  busy(false);
}

async function stop() {
  const turn = running;
  if (!turn) return;
  ui.stop.disabled = true;
  if (!turn.turnId) return turn.abort.abort();
  try {
    const response = await fetch(`/api/v1/turns/${encodeURIComponent(turn.turnId)}/cancel`, { method: "POST", headers: authorization() });
    if (!response.ok) turn.abort.abort(); // else the stream itself brings `cancelled`
  } catch { turn.abort.abort(); }
}

function busy(state) {
  ui.stop.hidden = !state;
  ui.stop.disabled = false;
  ui.send.hidden = state;
  if (!state) ui.message.focus();
}

// ---- session and server -----------------------------------------------------------------------------------------

function openSession(id) {
  leaveEvents();
  ui.session.value = id;
  remember(localStorage, "loadsplit.session", id);
  ui.log.replaceChildren();
  ui.welcome.hidden = false;
}

async function checkHealth() {
  let state = "away";
  let text = "server away";
  try {
    const response = await fetch("/api/v1/health", { headers: authorization() });
    const health = await response.json();
    if (health.status) {
      state = health.status;
      ui.suggestions.hidden = Array.isArray(health.agents) && !health.agents.includes(SUGGESTED_FOR);
      text = `${health.status}${health.config_hash ? ` · config ${String(health.config_hash).slice(0, 8)}` : ""}`;
    }
  } catch { /* shown as away */ }
  ui.health.className = `dot ${state}`;
  ui["health-text"].textContent = text;
}

function fit() {
  ui.message.style.height = "auto";
  ui.message.style.height = `${ui.message.scrollHeight + 2}px`;
}

function submit() {
  const text = ui.message.value;
  if (!text.trim() || running) return;
  if (!ui.session.reportValidity() || !ui.session.value) return ui.session.focus();
  ui.message.value = "";
  fit();
  addMine(text);
  say(text);
}

function begin() {
  openSession(recall(localStorage, "loadsplit.session") || newSessionId());
  ui.user.value = recall(localStorage, "loadsplit.user");
  ui.key.value = recall(sessionStorage, "loadsplit.key");
  ui.user.addEventListener("change", () => remember(localStorage, "loadsplit.user", ui.user.value));
  ui.key.addEventListener("change", () => remember(sessionStorage, "loadsplit.key", ui.key.value));
  ui.session.addEventListener("change", () => { if (ui.session.reportValidity() && ui.session.value) { leave(); openSession(ui.session.value); } });
  ui["new-session"].addEventListener("click", () => { leave(); openSession(newSessionId()); });
  ui.composer.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  ui.stop.addEventListener("click", stop);
  ui.message.addEventListener("input", fit);
  ui.message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
  });
  for (const text of SUGGESTIONS) ui.suggestions.append(make("li", {}, make("button", { type: "button", text, onclick: () => { ui.message.value = text; submit(); } })));
  ui.message.focus();
  checkHealth();
  setInterval(checkHealth, 30000);
  showHistory();
}

begin();
