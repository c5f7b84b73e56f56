/**
 * What `@huggingface/jinja` has no place for, as what it has: the tokens of a template are put into others before
 * its parser reads them.
 *
 * Constants become names of a table, since the parser's numbers are floats. Tests become filters, as they may have
 * arguments then. `{% with %}` and `{% generation %}` become `{% if %}` with a sign, `{% filter %}` a part that is
 * written elsewhere first. Each operator keeps the number of the bracket that it is in.
 *
 * @module
 */

import type { parse } from "@huggingface/jinja";
import { UnsupportedError } from "./errors.ts";
import { CLOSING, cut, type Token } from "./lexer.ts";
import { FILTER_NAMES, TEST_NAMES } from "./names.ts";
import { fail, Items, type Value } from "./values.ts";

/** A token of the library's. */
type Put = Parameters<typeof parse>[0][number] & { readonly group: number };

/** What begins a name that no template can write. */
export const SIGN = "#";

/** Tags of jinja2 that are not done here. */
const UNSUPPORTED = ["block", "extends", "include", "import", "from", "print", "autoescape"];
/** Words that are no values. */
const WORDS = new Set("and or not in is if else".split(" "));
const COMPARISONS = ["==", "!=", "<", "<=", ">", ">="];
/** Most signs before a value, conditions after one another, and tags within each other. */
const MAX_DEPTH = 100;
/** Most operators, keys, filters and calls of one value. */
const MAX_CHAIN = 500;

const TYPES: Readonly<Record<string, Put["type"]>> = {
  ...{ "(": "OpenParen", ")": "CloseParen", "[": "OpenSquareBracket", "]": "CloseSquareBracket" },
  ...{
    "{": "OpenCurlyBracket",
    "}": "CloseCurlyBracket",
    ",": "Comma",
    ".": "Dot",
    ":": "Colon",
    "|": "Pipe",
  },
  ...{ "=": "Equals", "**": "ExponentiationBinaryOperator" },
  ...Object.fromEntries(["+", "-", "~"].map((sign) => [sign, "AdditiveBinaryOperator"])),
  ...Object.fromEntries(["*", "/", "//", "%"].map((sign) => [sign, "MultiplicativeBinaryOperator"])),
  ...Object.fromEntries([...COMPARISONS, "not in"].map((sign) => [sign, "ComparisonBinaryOperator"])),
};

/** Tags that are open, from the outermost on. */
interface Open {
  readonly tag: string;
  readonly isLoop: boolean;
}

class Lowering {
  readonly put: Put[] = [];
  readonly constants = new Map<string, Value>();
  #open: Open[] = [];
  #groups = 0;
  /** Whether what is read may never be run, so that unknown names in it are no mistake yet. */
  #isConditional = false;

  run(source: string): void {
    for (const piece of cut(source)) {
      if (piece.kind === "data") {
        if (piece.text !== "") this.#add(piece.text, "Text", 0);
        continue;
      }
      const { kind, tokens } = piece;
      this.#isConditional = this.#open.some(({ tag }) => tag === "if") ||
        tokens.some((token) => isWord(token, "if"));
      if (kind === "{{") this.#output(tokens);
      else this.#tag(tokens);
    }
    const open = this.#open.at(-1);
    if (open !== undefined) fail(`unexpected end of template, end${open.tag} is missing`);
  }

  #add(value: string, type: Put["type"], group: number): void {
    this.put.push({ value, type, group });
  }

  #constant(value: Value): void {
    const name = `${SIGN}${this.constants.size}`;
    this.constants.set(name, value);
    this.#add(name, "Identifier", 0);
  }

  #output(inside: readonly Token[]): void {
    this.#add("{{", "OpenExpression", 0);
    this.#bracketed(inside);
    this.#add("}}", "CloseExpression", 0);
  }

  /** Tokens in brackets: one value, or a tuple of several. */
  #bracketed(inside: readonly Token[]): void {
    if (isOperator(inside.at(-1), ",")) {
      this.#add(`${SIGN}tuple`, "Identifier", 0);
      inside = inside.slice(0, -1);
    }
    this.#add("(", "OpenParen", 0);
    this.#expression(inside);
    this.#add(")", "CloseParen", 0);
  }

  #statement(words: readonly string[], write: () => void): void {
    this.#add("{%", "OpenStatement", 0);
    for (const word of words) this.#add(word, "Identifier", 0);
    write();
    this.#add("%}", "CloseStatement", 0);
  }

  #tag(inside: readonly Token[]): void {
    const [first, ...rest] = inside;
    if (first?.kind !== "name") fail("a tag must have a name");
    const tag = first.text;
    const end = /^end(.+)$/.exec(tag)?.[1];
    const last = this.#open.at(-1)?.tag;
    if (end !== undefined) {
      if (last !== end || rest.length > 0) fail(`unexpected tag '${tag}'`);
      this.#open.pop();
      const isIf = end === "with" || end === "generation";
      this.#statement([isIf ? "endif" : end === "filter" ? "endset" : tag], () => {});
      if (end === "filter") {
        this.#add("{{", "OpenExpression", 0);
        this.#add(`${SIGN}filter`, "Identifier", 0);
        this.#add("}}", "CloseExpression", 0);
      }
      return;
    }
    if (tag === "elif" || tag === "else") {
      if (last !== "if" && !(last === "for" && tag === "else")) fail(`unexpected tag '${tag}'`);
      return this.#statement([tag], () => this.#expression(rest));
    }
    if (tag === "break" || tag === "continue") {
      const inner = this.#open.findLast(({ isLoop, tag }) => isLoop || tag === "macro" || tag === "call");
      if (inner?.isLoop !== true || rest.length > 0) fail(`'${tag}' outside loop`);
      return this.#statement([tag], () => {});
    }
    this.#opening(tag, rest);
  }

  #opening(tag: string, rest: readonly Token[]): void {
    if (this.#open.length >= MAX_DEPTH) throw new UnsupportedError(`nesting more than ${MAX_DEPTH} deep`);
    const isBlock = tag !== "set" || topLevel(rest, (token) => isOperator(token, "=")) < 0;
    if (isBlock) this.#open.push({ tag, isLoop: tag === "for" });
    switch (tag) {
      case "call":
        return this.#statement([tag], () => this.#call(rest));
      case "if":
      case "set":
      case "macro":
        return this.#statement([tag], () => this.#expression(rest));
      case "for":
        return this.#statement([tag], () => this.#loop(rest));
      case "filter":
        return this.#statement(["set", `${SIGN}filter`], () => {
          this.#expression([{ kind: "operator", text: "|" }, ...rest]);
        });
      case "with":
        return this.#statement(["if", `${SIGN}with`], () => {
          this.#add("(", "OpenParen", 0);
          this.#expression(rest);
          this.#add(")", "CloseParen", 0);
        });
      case "generation":
        return this.#statement(["if", `${SIGN}generation`], () => this.#expression(rest));
      default:
        if (UNSUPPORTED.includes(tag)) throw new UnsupportedError(`{% ${tag} %}`);
        fail(`Encountered unknown tag '${tag}'`);
    }
  }

  /** Parameters of what is called back may come first. */
  #call(rest: readonly Token[]): void {
    const end = isOperator(rest[0], "(") ? closeOf(rest, 0) + 1 : 0;
    if (end > 0) {
      this.#add("(", "OpenParen", 0);
      this.#expression(rest.slice(1, end - 1));
      this.#add(")", "CloseParen", 0);
    }
    this.#expression(rest.slice(end));
  }

  /** `if` is a condition of the loop there, and not of the expression. */
  #loop(rest: readonly Token[]): void {
    if (isWord(rest.at(-1), "recursive")) {
      throw new UnsupportedError("{% for ... recursive %}");
    }
    const middle = topLevel(rest, (token) => isWord(token, "in"));
    if (middle < 0) fail("expected 'in'");
    const condition = topLevel(rest, (token) => isWord(token, "if"));
    const end = condition < 0 ? rest.length : condition;
    this.#expression(rest.slice(0, middle));
    this.#add("in", "Identifier", 0);
    this.#bracketed(rest.slice(middle + 1, end));
    if (condition < 0) return;
    this.#add("if", "Identifier", 0);
    this.#bracketed(rest.slice(condition + 1));
  }

  #expression(tokens: readonly Token[]): void {
    const group = ++this.#groups;
    let signs = 0;
    let links = 0;
    for (let at = 0; at < tokens.length;) {
      const token = tokens[at]!;
      if (beginsValue(token) && endsValue(tokens[at - 1]) && !isCall(tokens, at)) {
        if (token.kind !== "string" || tokens[at - 1]!.kind !== "string") {
          fail(`unexpected '${token.text}'`);
        }
      }
      signs = isSign(token) ? signs + 1 : 0;
      if (isOperator(token, ",") || isOperator(token, ":")) links = 0;
      else if (endsValue(tokens[at - 1]) && token.kind !== "string") links += isWord(token, "if") ? 5 : 1;
      if (links > MAX_CHAIN) throw new UnsupportedError(`a value of more than ${MAX_CHAIN} parts`);
      if (signs > MAX_DEPTH) throw new UnsupportedError(`nesting more than ${MAX_DEPTH} deep`);
      at = token.kind === "operator" ? this.#operator(tokens, at, group) : this.#value(tokens, at, group);
    }
  }

  /** Puts what begins with an operator; the place after it. */
  #operator(tokens: readonly Token[], at: number, group: number): number {
    const { text } = tokens[at]!;
    if (text in CLOSING) {
      const end = closeOf(tokens, at);
      const inside = tokens.slice(at + 1, end);
      if (text === "(" && !isCall(tokens, at)) {
        if (inside.length === 0) this.#constant(new Items([], "tuple"));
        else this.#bracketed(inside);
        return end + 1;
      }
      if (isOperator(inside[0], ",")) fail("unexpected ','");
      this.#add(text, TYPES[text]!, group);
      this.#expression(inside);
      this.#add(CLOSING[text]!, TYPES[CLOSING[text]!]!, group);
      return end + 1;
    }
    const type = TYPES[text] ?? fail(`unexpected '${text}'`);
    if (text === "," && isOperator(tokens[at + 1], ",")) fail("unexpected ','");
    this.#add(text, type, group);
    const next = tokens[at + 1];
    if (text === "." && next?.kind !== "name" && next?.kind !== "integer") {
      fail("expected name or number");
    }
    if (text === "|") {
      if (next?.kind !== "name") fail("expected name");
      if (!this.#isConditional && !FILTER_NAMES.has(next.text)) fail(`no filter named '${next.text}'`);
    }
    if ((text === "." || text === "|") && next!.kind === "name") {
      this.#add(next!.text, "Identifier", group);
      return at + 2;
    }
    return at + 1;
  }

  /** Puts what begins with a name or a constant; the place after it. */
  #value(tokens: readonly Token[], at: number, group: number): number {
    const { kind, text } = tokens[at]!;
    if (kind === "string") {
      let all = text;
      while (tokens[++at]?.kind === "string") all += tokens[at]!.text;
      this.#constant(all);
      return at;
    }
    if (kind === "integer") {
      if (text.length > 1000) throw new UnsupportedError("a whole number of that size");
      this.#constant(BigInt(text.toLowerCase()));
    } else if (kind === "float") this.#constant(Number(text));
    else if (text === "is") return this.#test(tokens, at + 1, group);
    else if (["true", "True", "false", "False"].includes(text)) this.#constant(text.toLowerCase() === "true");
    else if (text === "none" || text === "None") this.#constant(null);
    else if (text === "not" && isWord(tokens[at + 1], "in")) {
      this.#add("not in", TYPES["not in"]!, group);
      return at + 2;
    } else this.#add(text, "Identifier", group);
    return at + 1;
  }

  /** Puts a test as a filter; the place after it. */
  #test(tokens: readonly Token[], at: number, group: number): number {
    const isNegated = isWord(tokens[at], "not");
    const name = tokens[isNegated ? ++at : at];
    if (name?.kind !== "name") fail("expected name");
    if (!this.#isConditional && !TEST_NAMES.has(name.text)) fail(`no test named '${name.text}'`);
    this.#add("|", "Pipe", group);
    this.#add(`${SIGN}${isNegated ? "not" : "is"}:${name.text}`, "Identifier", group);
    const next = tokens[++at];
    if (next === undefined || isOperator(next, "(")) return at;
    const isArgument = next.kind === "operator"
      ? "[{".includes(next.text)
      : !["else", "or", "and"].includes(next.text);
    if (!isArgument) return at;
    if (isWord(next, "is")) fail("You cannot chain multiple tests with is");
    const end = endOfPrimary(tokens, at);
    this.#add("(", "OpenParen", group);
    this.#expression(tokens.slice(at, end));
    this.#add(")", "CloseParen", group);
    return end;
  }
}

function isOperator(token: Token | undefined, text: string): boolean {
  return token?.kind === "operator" && token.text === text;
}

function isWord(token: Token | undefined, text: string): boolean {
  return token?.kind === "name" && token.text === text;
}

function isSign(token: Token): boolean {
  return token.kind === "name"
    ? token.text === "not"
    : token.kind === "operator" && "+-".includes(token.text);
}

function endsValue(token: Token | undefined): boolean {
  if (token === undefined) return false;
  if (token.kind === "operator") return ")]}".includes(token.text);
  return token.kind !== "name" || !WORDS.has(token.text);
}

function beginsValue(token: Token): boolean {
  if (token.kind === "operator") return "([{".includes(token.text);
  return token.kind !== "name" || !WORDS.has(token.text);
}

/** Whether brackets follow a value: of a call, or of a key. */
function isCall(tokens: readonly Token[], at: number): boolean {
  return endsValue(tokens[at - 1]) && (isOperator(tokens[at], "(") || isOperator(tokens[at], "["));
}

/** Where the bracket closes that is open here. */
function closeOf(tokens: readonly Token[], at: number): number {
  let depth = 0;
  for (let i = at;; i++) {
    const { kind, text } = tokens[i]!;
    if (kind !== "operator") continue;
    if ("([{".includes(text)) depth++;
    else if (")]}".includes(text) && --depth === 0) return i;
  }
}

/** The first token outside of brackets that is one of those asked for; -1 without one. */
function topLevel(tokens: readonly Token[], isWanted: (token: Token) => boolean): number {
  for (let at = 0; at < tokens.length; at++) {
    if (isWanted(tokens[at]!)) return at;
    if (tokens[at]!.kind === "operator" && tokens[at]!.text in CLOSING) at = closeOf(tokens, at);
  }
  return -1;
}

/** Where a value ends that begins here, with its keys, attributes and calls. */
function endOfPrimary(tokens: readonly Token[], at: number): number {
  const begin = at;
  if (tokens[at]!.kind === "operator") at = closeOf(tokens, at) + 1;
  else while (++at < tokens.length && tokens[begin]!.kind === "string" && tokens[at]!.kind === "string");
  while (at < tokens.length) {
    if (isOperator(tokens[at], ".")) at += 2;
    else if (isOperator(tokens[at], "(") || isOperator(tokens[at], "[")) at = closeOf(tokens, at) + 1;
    else break;
  }
  return at;
}

/**
 * Cuts a template into tokens of the library's.
 *
 * @param source The template.
 * @returns The tokens, and the values of constants by the names that stand for them.
 * @throws {TemplateError} If it is not valid.
 * @throws {UnsupportedError} If it has a tag that is not done here.
 */
export function lower(source: string): { readonly tokens: Put[]; readonly constants: Map<string, Value> } {
  const lowering = new Lowering();
  lowering.run(source);
  return { tokens: lowering.put, constants: lowering.constants };
}
