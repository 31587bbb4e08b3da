"use strict";

const at = (id) => document.getElementById(id);
let said = []; // of a chat, the turns so far
let under_way = null;

const chats = () => at("chat").checked;

function headers() {
  const key = at("key").value;
  const all = { "Content-Type": "application/json" };
  if (key) all["Authorization"] = "Bearer " + key;
  return all;
}

function body(text) {
  const number = (id) => (at(id).value === "" ? undefined : Number(at(id).value));
  const common = {
    stream: true,
    max_tokens: number("max_tokens"),
    temperature: number("temperature"),
    top_p: number("top_p"),
    seed: number("seed"),
  };
  return chats()
    ? { ...common, messages: [...said, { role: "user", content: text }], logprobs: true, top_logprobs: 8 }
    : { ...common, prompt: text, logprobs: 8 };
}

// A choice of an event as its text and tokens of one form.
function piece(choice) {
  const told = choice.logprobs;
  if (choice.delta) {
    const tokens = (told ? told.content : []).map((one) => ({
      text: one.token,
      logprob: one.logprob,
      likely: one.top_logprobs.map((other) => [other.token, other.logprob]),
    }));
    return { text: choice.delta.content || "", tokens };
  }
  const tokens = (told ? told.tokens : []).map((text, i) => ({
    text,
    logprob: told.token_logprobs[i],
    likely: Object.entries(told.top_logprobs[i]).sort((a, b) => b[1] - a[1]),
  }));
  return { text: choice.text, tokens };
}

function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  return (share >= 10 ? share.toFixed(0) : share >= 0.1 ? share.toFixed(1) : "<0.1") + "%";
}

function shade(logprob) {
  const p = Math.exp(logprob);
  return p > 0.8 ? "p0" : p > 0.4 ? "p1" : p > 0.15 ? "p2" : p > 0.03 ? "p3" : "p4";
}

// What else the model thought of.
function show(token) {
  at("which").textContent = token.text;
  at("likely").replaceChildren();
  const rows = [...token.likely];
  if (!rows.some(([text]) => text === token.text)) rows.push([token.text, token.logprob]);
  for (const [text, logprob] of rows) {
    const row = document.createElement("tr");
    if (text === token.text) row.className = "drawn";
    for (const cell of [JSON.stringify(text), percent(logprob)]) {
      const td = document.createElement("td");
      td.textContent = cell;
      row.append(td);
    }
    at("likely").append(row);
  }
  at("token").hidden = false;
}

function add(paragraph, token) {
  const span = document.createElement("span");
  span.className = "token " + shade(token.logprob);
  span.textContent = token.text;
  span.title = percent(token.logprob);
  span.tabIndex = 0;
  span.addEventListener("click", () => show(token));
  span.addEventListener("keydown", (event) => { if (event.key === "Enter") show(token); });
  paragraph.append(span);
}

function paragraph(kind, text) {
  const p = document.createElement("p");
  p.className = kind;
  p.textContent = text;
  at("said").append(p);
  return p;
}

// The events of a stream, as they come.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function ask(text) {
  const chat = chats();
  at("error").textContent = "";
  under_way = new AbortController();
  at("go").disabled = true;
  at("stop").disabled = false;
  paragraph("user", text);
  const answer = paragraph("model", "");
  let whole = "";
  try {
    const path = chat ? "/v1/chat/completions" : "/v1/completions";
    const response = await fetch(path, {
      method: "POST", headers: headers(), body: JSON.stringify(body(text)), signal: under_way.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) {
      if (event.error) throw new Error(event.error.message);
      for (const choice of event.choices) {
        const { text, tokens } = piece(choice);
        whole += text;
        for (const token of tokens) add(answer, token);
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") at("error").textContent = error.message;
  }
  if (chat && whole) said.push({ role: "user", content: text }, { role: "assistant", content: whole });
  under_way = null;
  at("go").disabled = false;
  at("stop").disabled = true;
}

function clear() {
  said = [];
  at("said").replaceChildren();
  at("token").hidden = true;
  at("error").textContent = "";
  at("prompt").placeholder = chats() ? "A question" : "The beginning of a text";
}

async function begin() {
  clear();
  try {
    const response = await fetch("/v1/models", { headers: headers() });
    const model = (await response.json()).data[0];
    at("name").textContent = model.id;
    at(model.chats ? "chat" : "text").checked = true;
    clear();
  } catch {
    at("name").textContent = "A model";
  }
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = at("prompt").value;
  if (under_way || (chats() && !text.trim())) return;
  if (chats()) at("prompt").value = "";
  ask(text);
});
at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
});
at("stop").addEventListener("click", () => under_way && under_way.abort());
at("clear").addEventListener("click", clear);
at("key").addEventListener("change", begin);
for (const id of ["chat", "text"]) at(id).addEventListener("change", clear);
begin();
