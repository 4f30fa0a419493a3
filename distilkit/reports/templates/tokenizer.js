"use strict";
// Cuts texts into token ids as the model's tokenizer does. What it does to single characters comes as tables,
// which `distilkit export` reads off that tokenizer: a browser's own tables are of another version of Unicode.

class Tokenizer {
  // `data` is what data.js holds of the tokenizer.
  constructor(data) {
    this.data = data;
    this.vocabulary = new Map(data.vocabulary);
    this.replacements = new Map(data.replacements);
    const added = data.added.map(([token]) => token).sort((a, b) => b.length - a.length);
    this.added = new Map(data.added);
    this.addedPattern = added.length
      ? new RegExp(`(${added.map((token) => token.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&")).join("|")})`, "u")
      : null;
  }

  // Returns {ids, typeIds, tokens, cut} of a text, or of two.
  encode(text, pair = null) {
    const parts = [text, pair].filter((part) => part !== null).map((part) => this.tokenize(part));
    const template = parts.length > 1 ? this.data.pair : this.data.single;
    const room = this.data.maxLength - template.filter(([piece]) => typeof piece === "number").length;
    const lengths = Tokenizer.shorten(parts.map((part) => part.length), room);
    const kept = parts.map((part, index) =>
      this.data.cutsLeft ? part.slice(part.length - lengths[index]) : part.slice(0, lengths[index]));
    const ids = [], typeIds = [];
    for (const [piece, typeId] of template) {
      const pieceIds = typeof piece === "number" ? [piece] : kept[piece === "A" ? 0 : 1];
      for (const id of pieceIds) {
        ids.push(id);
        typeIds.push(typeId);
      }
    }
    const read = kept.flat();
    return { ids, typeIds, read, cut: parts.flat().length - read.length };
  }

  // Returns how many tokens of each part are read, of the longest first fewer, so that they fit.
  static shorten(lengths, room) {
    if (lengths.length === 1) return [Math.min(lengths[0], room)];
    if (lengths[0] + lengths[1] <= room) return lengths;
    let [shorter, longer] = [...lengths].sort((a, b) => a - b);
    longer = shorter > room ? shorter : Math.max(shorter, room - shorter);
    if (shorter + longer > room) {
      shorter = Math.floor(room / 2);
      longer = shorter + (room % 2);
    }
    return lengths[0] > lengths[1] ? [longer, shorter] : [shorter, longer];
  }

  // Returns the ids of a text without special tokens around it.
  tokenize(text) {
    const ids = [];
    for (const piece of this.addedPattern ? text.split(this.addedPattern) : [text]) {
      const id = this.added.get(piece);
      if (id !== undefined) ids.push(id);
      else for (const word of this.split(this.normalize(piece))) ids.push(...this.lookUp(word));
    }
    return ids;
  }

  normalize(text) {
    const { removed, spaced, decomposesHangul } = this.data;
    let normalized = "";
    for (let character of text) {
      let code = character.codePointAt(0);
      if (code >= 0xd800 && code <= 0xdfff) [character, code] = ["\ufffd", 0xfffd]; // half of a pair
      const replacement = this.replacements.get(character);
      if (replacement !== undefined) normalized += replacement;
      else if (isWithin(removed, code)) continue;
      else if (isWithin(spaced, code)) normalized += ` ${character} `;
      else if (decomposesHangul && code >= 0xac00 && code <= 0xd7a3) normalized += character.normalize("NFD");
      else normalized += character;
    }
    // Marks that stay, in their canonical order.
    return decomposesHangul ? normalized.replace(/\p{M}{2,}/gu, (run) => run.normalize("NFD")) : normalized;
  }

  // Returns words and marks.
  split(text) {
    const words = [];
    let word = "";
    for (const character of text) {
      const code = character.codePointAt(0);
      const isMark = isWithin(this.data.punctuation, code);
      if (isMark || isWithin(this.data.white, code)) {
        if (word) words.push(word);
        word = "";
        if (isMark) words.push(character);
      } else word += character;
    }
    if (word) words.push(word);
    return words;
  }

  // Returns the ids of a word: one, or those of its longest known pieces from the left.
  lookUp(word) {
    const { vocabulary } = this;
    const { unknown, prefix, maxCharacters } = this.data;
    if (prefix === null) return [vocabulary.get(word) ?? unknown];
    const characters = [...word];
    if (characters.length > maxCharacters) return [unknown];
    const ids = [];
    for (let start = 0; start < characters.length;) {
      let end = characters.length, id;
      for (; end > start; end--) {
        const piece = characters.slice(start, end).join("");
        id = vocabulary.get(start ? prefix + piece : piece);
        if (id !== undefined) break;
      }
      if (id === undefined) return [unknown];
      ids.push(id);
      start = end;
    }
    return ids;
  }
}

// Returns whether `code` is in sorted ranges: first, last, first, last and so on.
function isWithin(ranges, code) {
  let low = 0, high = ranges.length / 2;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (code > ranges[2 * middle + 1]) low = middle + 1;
    else high = middle;
  }
  return 2 * low < ranges.length && code >= ranges[2 * low];
}

if (typeof module !== "undefined") module.exports = { Tokenizer };
