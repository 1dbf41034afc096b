// What a page does by itself: a job that goes on, and answers that come as they are made.
// Without this script every page says the same when it is loaded again.
"use strict";

function follow(live) {
  // Browsers keep six connections to a host for all of their tabs: one that nobody sees needs none.
  let source = null;
  const look = () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (source === null && !live.dataset.ended) {
      source = followed(live);
    }
  };
  document.addEventListener("visibilitychange", look);
  look();
}

function followed(live) {
  const said = document.getElementById("live-said");
  const source = new EventSource(live.dataset.live);
  source.addEventListener("job", (event) => {
    // What the server has escaped is parsed as its page was; the policy runs nothing in it.
    const focused = live.contains(document.activeElement) ? document.activeElement.id : "";
    const open = live.querySelector(".sure[open]");
    if (open) return;
    const scrolled = live.querySelector(".events")?.scrollTop ?? 0;
    const unfolded = live.querySelector("details.card")?.open ?? false;
    live.innerHTML = event.data;
    const events = live.querySelector(".events");
    if (events) events.scrollTop = scrolled;
    const folded = live.querySelector("details.card");
    if (folded) folded.open = unfolded;
    if (focused) document.getElementById(focused)?.focus();
    if (said) said.textContent = "This page follows the job.";
  });
  source.addEventListener("end", () => {
    source.close();
    if (said) said.textContent = "The job has ended.";
    live.dataset.ended = "yes";
  });
  source.addEventListener("lost", (event) => {
    source.close();
    live.dataset.ended = "lost";
    if (said) said.textContent = "No longer followed: " + event.data + " Load the page again.";
  });
  source.addEventListener("error", () => {
    if (said) said.textContent = "The console does not answer; trying again.";
  });
  return source;
}

function element(kind, classes, text) {
  const made = document.createElement(kind);
  made.className = classes;
  made.textContent = text ?? "";
  return made;
}

async function stream(form, side, text, box, stopping) {
  const fields = new URLSearchParams(new FormData(form));
  fields.set("text", text);
  fields.set("side", side);
  const shown = element("p", "text");
  shown.dir = "auto";
  box.append(shown);
  const fail = (why) => {
    box.classList.add("failed");
    shown.textContent += (shown.textContent ? "\n" : "") + why;
  };
  let answer = null;
  try {
    const response = await fetch(form.dataset.answer, { method: "POST", body: fields, signal: stopping });
    if (!response.ok || !response.headers.get("content-type").startsWith("application/x-ndjson")) {
      fail("The console answers " + response.status + ": load the page again.");
      return null;
    }
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        const piece = JSON.parse(line);
        if (piece.text !== undefined) shown.textContent += piece.text;
        else if (piece.failed !== undefined) fail(piece.failed);
        else {
          answer = shown.textContent;
          const from = (piece.version || "base model") + " · " + piece.tokens + " tokens";
          box.append(element("p", "from", from + (piece.finish ? " · ended by " + piece.finish : "")));
        }
      }
    }
    if (answer === null && !box.classList.contains("failed")) fail("The answer broke off.");
  } catch (error) {
    fail(stopping.aborted ? "Stopped." : "The console does not answer: " + error.message);
  }
  return answer;
}

function chat(form) {
  const [text, send, stop] = ["text", "send", "stop"].map((id) => document.getElementById(id));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const asked = text.value;
    const sides = ["left", "right"].filter((side) => form.elements[side].value);
    if (!asked.trim() || !sides.length || send.disabled) return;
    const turn = document.createElement("li");
    const row = element("div", "sides");
    const question = element("p", "asked", asked);
    question.dir = "auto";
    turn.append(question, row);
    document.getElementById("talk").append(turn);
    const stopping = new AbortController();
    stop.onclick = () => stopping.abort();
    send.disabled = true;
    stop.hidden = false;
    text.value = "";
    const answers = await Promise.all(sides.map((side) => {
      const box = element("div", "answer " + side);
      row.append(box);
      return stream(form, side, asked, box, stopping.signal);
    }));
    if (form.elements.as.value === "chat" && answers.every((answer) => answer !== null)) {
      const history = JSON.parse(form.elements.history.value || "[]");
      const said = Object.fromEntries(sides.map((side, index) => [side, answers[index]]));
      form.elements.history.value = JSON.stringify([...history, { text: asked, ...said }]);
    } else if (!text.value) {
      text.value = asked;
    }
    send.disabled = false;
    stop.hidden = true;
    text.focus();
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
}

const live = document.querySelector("[data-live]");
if (live) follow(live);
const form = document.getElementById("chat");
if (form) chat(form);
