/**
 * Chat templates that end: each is a program of whoever made the model.
 *
 * The interpreter's own hook is `evaluate`, which every part of a template goes through. There the time is looked
 * at, and no value gets beyond a size, counted as if it were written out: what holds the same list twice counts it
 * twice. The few functions that make something large of something small are bounded by what they are given.
 *
 * @module
 */

import { Environment, Interpreter, parse, Template, tokenize } from "@huggingface/jinja";
import { withinTime } from "../contracts/time_limit.ts";

type Node = NonNullable<Parameters<Interpreter["evaluate"]>[0]>;
type Value = ReturnType<Interpreter["evaluate"]>;
type Scope = Parameters<Interpreter["evaluate"]>[1];
type Program = ReturnType<typeof parse>;

/** Longest time of a conversation, in milliseconds. */
const LIMIT_MS = 1500;
/** Longest template, in characters; the longest known ones have a twentieth of it. */
const MAX_SOURCE = 2 ** 20;
/** Largest value, in characters: a quarter of a million tokens or so. */
const MAX_SIZE = 2 ** 20;
/** Most characters of all values that are read and made for a conversation. */
const MAX_WORK = 2 ** 25;
/** Largest number, and longest text, that a filter may take: columns of an indentation, separators. */
const MAX_ARGUMENT = 64;
/** What `tojson` may write with more than one space between things: columns, characters, and lists within lists. */
const MAX_JSON = { columns: 16, size: 2 ** 18, depth: 32 };
/** Most numbers of a range. */
const MAX_RANGE = 100_000;
/** Evaluations between two looks at the clock. */
const LOOK_EVERY = 1024;

/** Nodes by what is done with them; only what is read here. */
interface Parts {
  readonly type: string;
  readonly object?: Node;
  readonly operand?: Node;
  readonly argument?: Node;
  readonly value?: unknown;
  readonly body?: unknown;
  readonly filter?: {
    readonly type: string;
    readonly args?: readonly Node[];
    readonly callee?: { value?: unknown };
  };
}

function tooMuch(rule: string): RangeError {
  return new RangeError(`the template must ${rule}: it does not`);
}

/** A template that was parsed, to be rendered within limits. */
export class BoundedTemplate {
  readonly #program: Program;

  /**
   * @param source The template.
   * @throws {RangeError} If it is too long.
   * @throws {DeadlineError} If it takes too long to parse.
   * @throws {Error} If it is not valid.
   */
  constructor(source: string) {
    if (source.length > MAX_SOURCE) throw tooMuch(`have at most ${MAX_SOURCE} characters`);
    this.#program = withinTime(
      "parse the template",
      LIMIT_MS,
      () => parse(tokenize(source, { lstrip_blocks: true, trim_blocks: true })),
    );
  }

  /**
   * Renders it.
   *
   * @param names What it may read.
   * @returns The text.
   * @throws {RangeError} If it takes too long, or makes a value that is too large.
   * @throws {DeadlineError} If a single function takes too long.
   * @throws {Error} If the template refuses, or does what cannot be done.
   */
  render(names: Readonly<Record<string, unknown>>): string {
    return withinTime("render the conversation", LIMIT_MS + 500, () => {
      const scope = globals();
      for (const [name, value] of Object.entries(names)) scope.set(name, value);
      return String(new BoundedInterpreter(scope).run(this.#program).value);
    });
  }
}

/** What every template can use, as the package's `Template` has it. */
function globals(): Environment {
  const scope = new Environment();
  const constants = { true: true, false: false, none: null, True: true, False: false, None: null };
  for (const [name, value] of Object.entries(constants)) scope.set(name, value);
  scope.set("raise_exception", (message: unknown) => {
    throw new Error(String(message));
  });
  scope.set("range", boundedRange);
  // The package keeps this function to itself.
  scope.set(
    "strftime_now",
    (format: unknown) => new Template("{{ strftime_now(format) }}").render({ format }),
  );
  return scope;
}

/** Python's range. */
function boundedRange(...given: number[]): number[] {
  const [start, stop, step] = given.length < 2
    ? [0, given[0] ?? 0, 1]
    : [given[0]!, given[1]!, given[2] ?? 1];
  if (![start, stop, step].every(Number.isInteger) || step === 0) {
    throw new RangeError("range() must be given integers, and a step that is not 0");
  }
  const length = Math.max(0, Math.ceil((stop - start) / step));
  if (length > MAX_RANGE) throw tooMuch(`ask for ranges of at most ${MAX_RANGE} numbers`);
  return Array.from({ length }, (_, i) => start + i * step);
}

/** Times that a text is in another one, without overlap. */
function countOf(part: string, text: string): number {
  if (part === "") return text.length + 1;
  let count = 0;
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) count++;
  return count;
}

class BoundedInterpreter extends Interpreter {
  readonly #until = performance.now() + LIMIT_MS;
  readonly #sizes = new WeakMap<Value, number>();
  /** Arguments of filters, by the filter's name. */
  readonly #arguments = new WeakMap<Node, string>();
  /** What a method is called of, or a filter is put on. */
  readonly #operands = new WeakMap<Node, string>();
  #evaluations = 0;
  /** Sizes of all values so far. */
  #work = 0;

  override evaluate(node: Node | undefined, scope: Scope): Value {
    if (++this.#evaluations % LOOK_EVERY === 0 && performance.now() > this.#until) {
      throw tooMuch(`be done within ${LIMIT_MS} ms`);
    }
    if (node !== undefined) node = this.#marked(node);
    const value = super.evaluate(node, scope);
    // Filters of empty lists give nothing at all.
    if (value === undefined) return value;
    const size = this.#sizeOf(value);
    if (node === undefined) return value;
    const taker = this.#arguments.get(node);
    if (taker !== undefined) checkArgument(value, taker);
    const use = this.#operands.get(node);
    if (use !== undefined) this.#checkOperand(value, use, size);
    return value;
  }

  /** Notes what the parts of a node are used for. */
  #marked(node: Node): Node {
    const { type, object, operand, filter, body } = node as Parts;
    if (type === "MemberExpression") this.#operands.set(object!, "");
    if (type === "FilterStatement") {
      // As an expression, since the text of a block would go to the filter out of sight.
      const always = { type: "IntegerLiteral", value: 1 };
      const block = { type: "If", test: always, body, alternate: [] };
      return this.#marked({ type: "FilterExpression", operand: block, filter } as unknown as Node);
    }
    if (type !== "FilterExpression") return node;
    const name = String(filter!.callee?.value ?? "");
    this.#operands.set(operand!, name);
    // These make nothing longer than what they are given, or are looked at elsewhere.
    if (["replace", "default", "int", "float"].includes(name)) return node;
    for (const argument of filter!.args ?? []) {
      const { type, value, argument: spread } = argument as Parts;
      this.#arguments.set(type === "KeywordArgumentExpression" ? value as Node : spread ?? argument, name);
    }
    return node;
  }

  #checkOperand(value: Value, filter: string, size: number): void {
    if (value.type === "StringValue") this.#boundReplace(value);
    if (filter === "tojson" && (size > MAX_JSON.size || !isWithin(value, MAX_JSON.depth))) {
      throw tooMuch(`lay out JSON of at most ${MAX_JSON.size} characters, ${MAX_JSON.depth} levels deep`);
    }
  }

  /** Bounds `replace` of a text by what it would make. */
  #boundReplace(text: Value): void {
    const { builtins } = text as unknown as {
      builtins: Map<string, { value: (...args: unknown[]) => Value }>;
    };
    const method = builtins.get("replace")!;
    const replace = method.value;
    method.value = (args: unknown, scope: unknown) => {
      const [before, after] = (args as Value[]).map(({ value }) => value);
      if (typeof before === "string" && typeof after === "string" && after.length > before.length) {
        const source = String(text.value);
        const size = source.length + countOf(before, source) * (after.length - before.length);
        if (size > MAX_SIZE) throw tooMuch(`make texts of at most ${MAX_SIZE} characters`);
      }
      return replace(args, scope);
    };
  }

  /** Size of a value as if it were written out, with all that it holds. */
  #sizeOf(value: Value): number {
    const known = this.#sizes.get(value);
    if (known !== undefined) return known;
    let size = 1;
    const inside: unknown = value.value;
    if (typeof inside === "string") size += inside.length;
    else if (Array.isArray(inside)) { for (const item of inside as Value[]) size += this.#partOf(item); }
    else if (inside instanceof Map) {
      for (const [key, item] of inside as Map<string, Value>) size += key.length + this.#partOf(item);
    }
    if (size > MAX_SIZE) throw tooMuch(`make values of at most ${MAX_SIZE} characters`);
    // What a namespace holds may change.
    if (value.type === "NamespaceValue") return size;
    if ((this.#work += size) > MAX_WORK) throw tooMuch(`read and make at most ${MAX_WORK} characters in all`);
    if (typeof inside === "object") this.#sizes.set(value, size);
    return size;
  }

  #partOf(item: Value): number {
    // It could come to hold what it is part of.
    if (item.type === "NamespaceValue") {
      throw tooMuch("keep namespaces out of lists, mappings and namespaces");
    }
    return this.#sizeOf(item);
  }
}

/** Says whether lists and mappings are at most so many within each other. */
function isWithin(value: Value, depth: number): boolean {
  const inside: unknown = value.value;
  if (!Array.isArray(inside) && !(inside instanceof Map)) return true;
  return depth > 0 && [...inside.values() as Iterable<Value>].every((item) => isWithin(item, depth - 1));
}

/** Checks what a filter is given. */
function checkArgument(value: Value, filter: string): void {
  const inside: unknown = value.value;
  const parts = inside instanceof Map || Array.isArray(inside)
    ? [...inside.values() as Iterable<Value>]
    : [value];
  const largest = filter === "tojson" ? MAX_JSON.columns : MAX_ARGUMENT;
  for (const { value: part } of parts) {
    if (typeof part === "number" && Math.abs(part) > largest) {
      throw tooMuch(`give "${filter}" numbers of at most ${largest}`);
    }
    if (typeof part === "string" && part.length > largest) {
      throw tooMuch(`give "${filter}" texts of at most ${largest} characters`);
    }
  }
}
