// What reaches the chat page outside its own questions: messages of people and timers, hand-offs, approvals asked of anyone.
// Loaded before app.js, whose small tools it uses. A server without these endpoints is fine: then nothing arrives.
"use strict";

const AUTHORS = { human: "Colleague", timer: "Reminder" };
const MAX_EVENT_RETRIES = 8;
const DECIDED = { approve: "Approved", deny: "Denied" };

const ownTurns = new Set(); // turns that this page began or whose messages it has shown
const cards = new Map(); // turn id → its ApprovalCard
let following = null; // the event stream: {session, abort}

// ---- approvals --------------------------------------------------------------------------------------------------

// Asks about the calls of one turn. `onDecided` is called when nothing is left to decide.
class ApprovalCard {
  constructor({ turn_id, calls, message }, onDecided = () => {}) {
    this.turnId = turn_id;
    this.onDecided = onDecided;
    this.rows = new Map();
    const list = make("ul", {});
    for (const call of calls) list.append(this.row(call));
    const title = message || "The agent asks for approval before it goes on:";
    this.node = make("div", { class: "approval", role: "group", "aria-label": "Approval" }, make("p", { text: title }), list);
    cards.set(turn_id, this);
    ui.announce.textContent = `Approval needed: ${calls.map((call) => call.name).join(", ")}. ${message || ""}`;
  }

  row({ call_id, name, arguments: values }) {
    const said = make("span", { class: "said" });
    const choices = Object.entries({ approve: "Approve", deny: "Deny" }).map(([decision, text]) => make("button", { type: "button", class: decision, "data-decision": decision, "aria-label": `${text} ${name}`, text, onclick: () => this.decide(call_id, decision) }));
    const box = make("details", {}, make("summary", {}, make("code", { text: name })), make("pre", { "data-label": "arguments", text: pretty(values) }));
    this.rows.set(call_id, { said, choices });
    return make("li", {}, box, ...choices, said);
  }

  async decide(callId, decision) {
    const row = this.rows.get(callId);
    for (const button of row.choices) button.disabled = true;
    row.choice = decision;
    try {
      const response = await fetch(`/api/v1/turns/${encodeURIComponent(this.turnId)}/approval`, {
        method: "POST", body: JSON.stringify({ decision, call_id: callId, by: "user" }), headers: { "Content-Type": "application/json", ...authorization() },
      });
      if (!response.ok) throw new Refused(await problemOf(response));
      this.decided(callId, decision);
    } catch (error) {
      row.said.textContent = error instanceof Refused ? error.message : "The server cannot be reached.";
      row.said.setAttribute("role", "alert");
      for (const button of row.choices) button.disabled = false;
    }
  }

  decided(callId, decision, by) {
    const row = this.rows.get(callId);
    if (!row || row.done) return;
    row.done = true;
    for (const button of row.choices) button.remove();
    row.said.removeAttribute("role");
    row.said.textContent = `${DECIDED[decision] || "Decided"}${by && by !== "user" ? ` by ${by}` : ""}.`;
    if ([...this.rows.values()].some((one) => !one.done)) return;
    if (row.choice) ui.message.focus(); // the button that had it is gone
    this.onDecided();
  }

  // The turn goes on: whatever was open has been decided elsewhere.
  settle() {
    this.onDecided = () => {};
    for (const [callId, { choice }] of this.rows) this.decided(callId, choice || "");
  }
}

// An approval that is asked for in no answer of this page: by a timer, in another window, before a reload.
function askApart(data) {
  if (cards.has(data.turn_id)) return;
  ui.welcome.hidden = true;
  ui.log.append(make("li", { class: "theirs" }, new ApprovalCard(data).node));
}

// ---- messages and notes -----------------------------------------------------------------------------------------

function addTheirs(text, author) {
  const label = AUTHORS[author];
  ui.welcome.hidden = true;
  const item = make("li", { class: "theirs", "data-author": author || "agent" }, make("span", { class: "hidden", text: `${label || "Agent"}: ` }), make("div", { class: "bubble", text }));
  if (label) item.append(make("p", { class: "facts note", "aria-hidden": "true", text: label }));
  ui.log.append(item);
}

function addNote(text) {
  ui.log.append(make("li", { class: "happened", text }));
  ui.announce.textContent = text;
}

const HAPPENED = {
  "session.message": ({ from, text, turn_id }) => {
    if (ownTurns.has(turn_id)) return;
    if (from === "user") return addMine(text);
    addTheirs(text, from);
    ui.announce.textContent = `${AUTHORS[from] || "Agent"}: ${text}`;
  },
  "task.completed": ({ result }) => {
    if (!result.message) return;
    addTheirs(result.message);
    ui.announce.textContent = `Agent: ${result.message}`;
  },
  "session.transferred": ({ turn_id }) => ownTurns.has(turn_id) || addNote("A colleague will answer here."),
  "session.accepted": () => addNote("A colleague has joined."),
  "session.released": () => addNote("The assistant answers again."),
  "session.closed": ({ turn_id }) => ownTurns.has(turn_id) || addNote("This chat is closed; the next message opens it again."),
  "session.awaiting_approval": (data) => ownTurns.has(data.turn_id) || askApart(data),
  "session.approval_decided": ({ turn_id, call_id, decision, by }) => {
    const card = cards.get(turn_id);
    if (card) card.decided(call_id, decision, by);
  },
};

// ---- the stream of events ---------------------------------------------------------------------------------------

function lastEvent(session) {
  const [of, id] = recall(localStorage, "loadsplit.events").split(" ");
  return of === session ? id : "";
}

function leaveEvents() {
  if (following) following.abort.abort();
  following = null;
  ownTurns.clear();
  cards.clear();
}

// Follows what happens in the session until another one is opened. `after` is the last event that is known already.
async function followSession(session, after = 0) {
  if (following) return;
  const me = following = { session, abort: new AbortController() };
  let last = lastEvent(session) || String(after);
  for (let broken = 0; following === me && broken < MAX_EVENT_RETRIES; broken++) {
    try {
      const response = await fetch(`/api/v1/session/${encodeURIComponent(session)}/events`, { signal: me.abort.signal, headers: { Accept: "text/event-stream", "Last-Event-ID": last, ...authorization() } });
      if (response.status < 500 && !response.ok) break; // there are no events here, or not for us
      for await (const item of response.ok ? serverEvents(response) : []) {
        broken = 0;
        last = item.id || last;
        remember(localStorage, "loadsplit.events", `${session} ${last}`);
        const happened = HAPPENED[item.data.type];
        if (happened) happened(item.data.data); // unknown events are for newer pages
        scrollDown();
      }
    } catch (error) {
      if (error.name === "AbortError") return;
    }
    await new Promise((resolve) => setTimeout(resolve, Math.min(1000 * 2 ** broken, 15000)));
  }
  if (following === me) following = null;
}

// What was said before, what waits for a decision, and from then on what happens. Only a session that has talked is asked for, so a new
// one causes no 404.
async function showHistory() {
  const session = ui.session.value;
  if (recall(localStorage, "loadsplit.talked") !== session) return;
  let known = 0;
  try {
    const response = await fetch(`/api/v1/session/${encodeURIComponent(session)}?include=messages&limit=100`, { headers: authorization() });
    if (!response.ok || ui.log.childElementCount || ui.session.value !== session) return;
    const { messages = [], awaiting_approval = [], last_event_id = 0 } = await response.json();
    known = last_event_id;
    for (const { role, content, author, turn_id } of messages) {
      if (turn_id) ownTurns.add(turn_id);
      if (typeof content !== "string" || !content || (role === "user" && author)) continue;
      if (role === "user") addMine(content);
      else if (role === "assistant") addTheirs(content, author);
    }
    for (const turnId of awaiting_approval) {
      const turn = await fetch(`/api/v1/turns/${encodeURIComponent(turnId)}`, { headers: authorization() });
      const { calls = [], decisions = {} } = turn.ok ? (await turn.json()).approval || {} : {};
      if (calls.length) askApart({ turn_id: turnId, calls: calls.filter((call) => !decisions[call.call_id]) });
    }
    scrollDown();
  } catch { return; /* history is a courtesy: the next message will tell if the server is away */ }
  followSession(session, known);
}
