"use strict";
// Runs the model of model.js with onnxruntime-web, and shows its scores for what is typed.

(async () => {
  const { manifest, labels, tokenizer: tokenizerData } = globalThis.distilkit;
  const form = document.querySelector("form"), status = document.querySelector("#status");
  const list = document.querySelector("#scores"), fields = [...form.querySelectorAll("textarea")];
  const PAUSE_MILLISECONDS = 150; // after the last key, before the model runs
  let session = null, turn = 0, timer;

  const decode = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const report = (text, isFault = false) => {
    status.textContent = text;
    status.className = isFault ? "alarm" : "pale";
  };

  // Returns the logits of a row of ids.
  async function run(ids, mask, typeIds) {
    const values = { input_ids: ids, attention_mask: mask, token_type_ids: typeIds };
    const inputs = {};
    for (const name of manifest.inputs) {
      inputs[name] = new ort.Tensor("int64", BigInt64Array.from(values[name], BigInt), [1, ids.length]);
    }
    return Array.from((await session.run(inputs)).logits.data);
  }

  async function load() {
    // Everything lies in scripts, because a page that is opened from a disk may fetch nothing.
    const runtime = globalThis.distilkitRuntime;
    ort.env.wasm.numThreads = 1;
    if (runtime) {
      const loader = new Blob([decode(runtime.loader)], { type: "text/javascript" });
      ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(loader) };
      ort.env.wasm.wasmBinary = decode(runtime.wasm);
    }
    session = await ort.InferenceSession.create(decode(globalThis.distilkitModel));
    globalThis.distilkitModel = null;
    const { inputs, logits: { [manifest.graph]: expected }, tolerance } = manifest.check;
    const logits = await run(inputs.input_ids, inputs.attention_mask, inputs.token_type_ids);
    const difference = Math.max(...logits.map((logit, index) => Math.abs(logit - expected[index])));
    if (!(difference <= tolerance)) throw new Error(`in this browser its logits are wrong by ${difference}`);
  }

  async function classify() {
    const mine = ++turn, texts = fields.map((field) => field.value);
    if (texts.some((text) => !text.trim())) {
      list.replaceChildren();
      return report(fields.length > 1 ? "Type both texts." : "Type a text.");
    }
    const start = performance.now();
    const { ids, typeIds, read, cut } = tokenizer.encode(...texts);
    const isEmpty = !ids.length; // is read as one token of padding
    const logits = isEmpty
      ? await run([manifest.padding.id], [0], [0])
      : await run(ids, ids.map(() => 1), typeIds);
    const milliseconds = performance.now() - start;
    if (mine !== turn) return; // something else was typed meanwhile
    const largest = Math.max(...logits), exponents = logits.map((logit) => Math.exp(logit - largest));
    const sum = exponents.reduce((total, exponent) => total + exponent);
    show(exponents.map((exponent) => exponent / sum));
    const unknown = read.filter((id) => id === tokenizerData.unknown).length;
    report([
      `${read.length} ${read.length === 1 ? "token" : "tokens"}`,
      ...(unknown ? [`${unknown} unknown to the model`] : []),
      ...(cut ? [`${cut} more not read`] : []),
      `${milliseconds.toFixed(1)} ms`,
    ].join(", "));
  }

  function show(scores) {
    const order = scores.map((_, index) => index).sort((a, b) => scores[b] - scores[a]);
    list.replaceChildren(...order.map((index, rank) => {
      const item = document.createElement("li"), name = document.createElement("span");
      const score = document.createElement("span"), bar = document.createElement("div");
      item.className = rank ? "" : "likeliest";
      name.textContent = labels[index];
      score.textContent = scores[index].toFixed(4);
      score.className = "score";
      bar.className = "bar";
      bar.style.setProperty("--share", scores[index]);
      bar.setAttribute("aria-hidden", "true");
      item.append(name, score, bar);
      return item;
    }));
  }

  const tokenizer = new Tokenizer(tokenizerData);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (session) classify();
  });
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => session && classify(), PAUSE_MILLISECONDS);
  });
  // A link may bring the text along: index.html#a%20great%20film
  const brought = decodeURIComponent(location.hash.slice(1)).split("\t");
  fields.forEach((field, index) => { field.value ||= brought[index] ?? ""; });
  try {
    if (typeof ort === "undefined") throw new Error("onnxruntime-web is missing; the page needs the internet");
    await load();
  } catch (error) {
    session = null;
    return report(`The model cannot run: ${error.message}.`, true);
  }
  form.querySelector("button").disabled = false;
  await classify();
})();
