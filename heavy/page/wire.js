// How the chat page talks to the server: requests, problems, streams of events that survive a broken connection. It shows nothing.
// Loaded before app.js, which knows the key, the session and what to do with events.
"use strict";

const MAX_RESUMES = 6;
const TERMINAL = new Set(["complete", "error", "cancelled"]);

// ---- server-sent events over fetch ------------------------------------------------------------------------------

// Yields {id, event, data} for each event of a response body, whatever way its bytes are cut.
async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  let event = { data: [] };
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    buffer += value;
    const lines = buffer.split(/\r\n|\n|\r(?!$)/);
    buffer = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (event.data.length) yield { id: event.id, event: event.event, data: JSON.parse(event.data.join("\n")) };
        event = { data: [] };
      } else if (!line.startsWith(":")) {
        const at = line.indexOf(":");
        const name = at < 0 ? line : line.slice(0, at);
        const text = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
        if (name === "data") event.data.push(text);
        else if (name === "id") event.id = text;
        else if (name === "event") event.event = text;
      }
    }
  }
}

class Refused extends Error {
  constructor(problem) {
    super(problem.detail || problem.title || "The server refused the request.");
    this.problem = problem;
  }
}

async function problemOf(response) {
  const fallback = { title: `HTTP ${response.status}`, status: response.status, detail: response.statusText || "The server gave no reason." };
  try { return { ...fallback, ...(await response.json()) }; } catch { return fallback; }
}

function authorization() {
  return ui.key.value ? { Authorization: `Bearer ${ui.key.value}` } : {};
}

function ask(body, turn) {
  return fetch("/api/v1/query/stream", {
    method: "POST", signal: turn.abort.signal, body: JSON.stringify(body),
    headers: { "Content-Type": "application/json", Accept: "text/event-stream", "Idempotency-Key": crypto.randomUUID ? crypto.randomUUID() : newSessionId(), ...authorization() },
  });
}

function resume(turn) {
  return fetch(`/api/v1/turns/${encodeURIComponent(turn.turnId)}/stream`, {
    signal: turn.abort.signal, headers: { Accept: "text/event-stream", "Last-Event-ID": turn.lastId || "0", ...authorization() },
  });
}

// Yields the events of one turn from a response on. A stream that breaks before its end is taken up again after the last event seen;
// while a person has to decide, it may end and is taken up later.
async function* turnEvents(response, turn) {
  for (let broken = 0; ;) {
    if (!response.ok) throw new Refused(await problemOf(response));
    try {
      for await (const item of serverEvents(response)) {
        if (item.id) turn.lastId = item.id;
        if (item.data.type === "start") turn.turnId = item.data.data.turn_id;
        broken = 0;
        yield item.data;
        if (TERMINAL.has(item.data.type)) return;
      }
    } catch (error) {
      if (error.name === "AbortError") throw error;
    }
    for (;;) { // the stream ended or broke before its terminal event
      if (turn.turnId && turn.paused) return;
      if (!turn.turnId || ++broken > MAX_RESUMES) throw new Error("The connection broke before the answer was complete.");
      turn.show(`Connection lost, reconnecting (${broken})`);
      await new Promise((resolve) => setTimeout(resolve, Math.min(1000 * 2 ** (broken - 1), 8000)));
      try {
        response = await resume(turn);
        if (response.status < 500) break;
      } catch (error) {
        if (error.name === "AbortError") throw error;
      }
    }
    turn.show("");
  }
}
