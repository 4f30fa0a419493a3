"use strict";
const form = document.querySelector("form");
const results = document.getElementById("results");
const message = document.getElementById("message");
const sentence = document.getElementById("sentence");
const percent = share => (100 * share).toFixed(1) + " %";

function showScores(panel, scores) {
  const list = panel.querySelector("ol");
  list.replaceChildren(...scores.map(({ label, score }) => {
    const item = document.createElement("li");
    for (const [name, text] of [["label", label], ["score", percent(score)]]) {
      const part = document.createElement("span");
      part.className = name;
      part.textContent = text;
      item.append(part);
    }
    const bar = document.createElement("div");
    bar.className = "bar";
    bar.style.width = Math.max(0.5, 100 * score) + "%";
    item.append(bar);
    return item;
  }));
}

function show({ student, teacher, threshold }, seconds) {
  const isSure = threshold === null || student[0].score >= threshold;
  for (const [name, scores, answers] of [["student", student, isSure], ["teacher", teacher, !isSure]]) {
    const panel = document.getElementById(name);
    panel.hidden = scores === null;
    panel.classList.toggle("answers", answers);
    if (scores !== null) showScores(panel, scores);
  }
  const time = `${(1000 * seconds).toFixed(0)} ms for the whole request.`;
  const sure = `The student is ${percent(student[0].score)} sure`;
  sentence.textContent = threshold === null ? time
    : isSure ? `${sure}, at least the threshold of ${percent(threshold)}: it answers alone. ${time}`
    : `${sure}, less than the threshold of ${percent(threshold)}: the teacher answers. ${time}`;
  results.hidden = false;
}

form.addEventListener("submit", async event => {
  event.preventDefault();
  const field = name => form.elements.namedItem(name)?.value ?? "";
  const button = form.querySelector("button");
  const headers = { "content-type": "application/json" };
  if (field("token")) headers.authorization = "Bearer " + field("token");
  const inputs = form.elements.namedItem("pair")
    ? { text: field("text"), text_pair: field("pair") } : { text: field("text") };
  button.disabled = true;
  message.hidden = true;
  const started = performance.now();
  try {
    const answer = await fetch("compare", {
      method: "POST", headers, body: JSON.stringify({ inputs, parameters: { top_k: 10 } }),
    });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error);
    show(content, (performance.now() - started) / 1000);
  } catch (error) {
    message.textContent = error instanceof TypeError ? "The server does not answer." : error.message;
    message.hidden = false;
    results.hidden = true;
  } finally {
    button.disabled = false;
  }
});

form.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
