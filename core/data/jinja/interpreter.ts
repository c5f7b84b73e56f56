/**
 * The library's interpreter with Python's values: it goes through the template, keeps names and scopes, and binds
 * arguments; what values are, and what operators, filters, tests and methods make of them, is said here.
 *
 * @module
 */

import { Environment } from "@huggingface/jinja";
import { grow, spend } from "./budget.ts";
import { UnsupportedError } from "./errors.ts";
import { runFilter } from "./filters.ts";
import {
  ArrayValue,
  Base,
  FunctionValue,
  type Held,
  type HeldFunction,
  KeywordArguments,
  type Node,
  ObjectValue,
} from "./library.ts";
import { binary, compare, memberOf, runTest, signed, sliceOf } from "./operations.ts";
import { SIGN } from "./tokens.ts";
import { reads } from "./tree.ts";
import {
  type Call,
  fail,
  type Given,
  Items,
  itemsOf,
  joined,
  keyOf,
  Loop,
  Namespace,
  truthOf,
  typeOf,
  Undefined,
  type Value,
} from "./values.ts";
import { textOf } from "./writing.ts";

/** Part of the text that a template marks as the assistant's: where it begins and ends, in UTF-16 units. */
export type Span = readonly [start: number, end: number];

/** What a template wrote. */
export interface Written {
  readonly text: string;
  /** Parts within `{% generation %}`, in order. */
  readonly generated: readonly Span[];
}

/** Macros and captured parts within each other. */
const MAX_DEPTH = 100;

/** A loop is left, or goes on with its next item; what was written until then counts. */
class Leave {
  text = "";
  readonly kind: "Break" | "Continue";
  constructor(kind: "Break" | "Continue") {
    this.kind = kind;
  }
}

/** A value of Python's in the library's hands. */
class PythonValue implements Held {
  readonly type = "PythonValue";
  readonly value: Value;
  constructor(value: Value) {
    this.value = value;
  }

  __bool__(): { readonly value: boolean } {
    return { value: truthOf(this.value) };
  }

  toString(): string {
    return textOf(this.value);
  }
}

type Scope = Environment;

/** Runs one template once. */
export class PythonInterpreter extends Base {
  readonly #constants: ReadonlyMap<string, Value>;
  /** Functions of the library's, and what they are here. */
  readonly #functions = new WeakMap<Held, Call>();
  readonly #heldFunctions = new WeakMap<Call, Held>();
  /** Stands in the text where a marked part begins or ends. Nobody can guess it. */
  readonly #mark = `\0${crypto.randomUUID()}`;
  #depth = 0;

  /**
   * @param scope What the template may read.
   * @param constants Values of the names that stand for constants.
   */
  constructor(scope: Scope, constants: ReadonlyMap<string, Value>) {
    super(scope);
    this.#constants = constants;
  }

  /** Runs a template. */
  write(program: Node, scope: Scope): Written {
    const pieces = String(this.evaluate(program, scope)).split(this.#mark);
    const generated: Span[] = [];
    let at = 0;
    pieces.forEach((piece, i) => {
      if (i % 2 === 1) generated.push([at, at + piece.length]);
      at += piece.length;
    });
    return { text: pieces.join(""), generated };
  }

  /** Makes a name known. */
  declare(scope: Scope, name: string, value: Value): void {
    // The library takes whatever has the fields of its values.
    scope.setVariable(name, this.#hold(value) as unknown as ReturnType<Scope["lookupVariable"]>);
  }

  #hold(value: Value): Held {
    if (typeof value !== "function") return new PythonValue(value);
    let held = this.#heldFunctions.get(value);
    if (held === undefined) {
      held = new FunctionValue(() => fail("a function cannot be called there"));
      this.#heldFunctions.set(value, held);
      this.#functions.set(held, value);
    }
    return held;
  }

  #valueOf(held: Held): Value {
    if (held instanceof PythonValue) return held.value;
    const { type, value } = held;
    switch (type) {
      case "FunctionValue":
        return this.#functions.get(held) ?? fail("such a function cannot be used");
      case "UndefinedValue":
        return new Undefined("parameter was not provided");
      case "ArrayValue":
        return new Items((value as Held[]).map((item) => this.#valueOf(item)), "tuple");
      case "ObjectValue":
        return this.#fieldsOf(held);
      default:
        return value as Value;
    }
  }

  #value(node: Node, scope: Scope): Value {
    return this.#valueOf(this.evaluate(node, scope));
  }

  override evaluate(node: Node | undefined, scope: Scope): Held {
    spend(1);
    const made = this.#expression(node!, scope);
    if (made !== undefined) return this.#hold(made);
    switch (node!.type) {
      case "Set":
        return this.#set(node!, scope);
      case "For":
        return this.#hold(this.#for(node!, scope));
      case "Macro":
        return this.#macro(node!, scope);
      case "CallStatement":
        return this.#callBlock(node!, scope);
      case "Generation":
        return this.#hold(this.#generation(node!.body, scope));
      case "With": {
        const inner = new Environment(scope);
        // Each value is that of the outside.
        const values = node!.values.map(([name, value]: [string, Node]) => [name, this.#value(value, scope)]);
        for (const [name, value] of values) this.declare(inner, name, value);
        return this.evaluateBlock(node!.body, inner);
      }
      case "Break":
      case "Continue":
        throw new Leave(node!.type as "Break" | "Continue");
      case "Items":
        return new ArrayValue(
          itemsOf(this.#value(node!.value, scope)).map((item) => this.#hold(item)),
        );
      case "Fields": {
        const value = this.#value(node!.value, scope);
        if (!(value instanceof Map)) return fail("argument after ** must be a mapping");
        return new ObjectValue(new Map([...value].map(([key, field]) => [key, this.#hold(field)])));
      }
      default:
        return super.evaluate(node, scope);
    }
  }

  override evaluateBlock(body: readonly Node[], scope: Scope): Held {
    let text = "";
    for (const node of body) {
      try {
        const written = this.evaluate(node, scope);
        if (written.type !== "NullValue") text += textOf(this.#valueOf(written));
      } catch (error) {
        if (error instanceof Leave) error.text = text + error.text;
        throw error;
      }
      grow(text.length);
    }
    spend(text.length);
    return this.#hold(text);
  }

  /** What a body writes elsewhere first. */
  #captured(write: () => Held): Held {
    if (++this.#depth > MAX_DEPTH) throw new UnsupportedError(`macros more than ${MAX_DEPTH} deep`);
    try {
      return write();
    } catch (error) {
      if (!(error instanceof Leave)) throw error;
      throw new UnsupportedError("leaving a loop from a part that is written elsewhere");
    } finally {
      this.#depth--;
    }
  }

  #generation(body: readonly Node[], scope: Scope): string {
    if (this.#depth > 0) throw new UnsupportedError("{% generation %} in a macro or a captured part");
    return this.#mark + this.#captured(() => this.evaluateBlock(body, new Environment(scope))) + this.#mark;
  }

  #set(node: Node, scope: Scope): Held {
    let target = node.assignee;
    let value: Value;
    if (node.value !== null) value = this.#value(node.value, scope);
    else {
      value = this.#valueOf(this.#captured(() => this.evaluateBlock(node.body, new Environment(scope))));
      const filters: Node[] = [];
      for (; target.type === "FilterExpression"; target = target.operand) filters.unshift(target.filter);
      for (const filter of filters) value = this.#filtered(value, filter, scope);
    }
    this.#assign(target, value, scope);
    return super.evaluate({ type: "Comment" }, scope);
  }

  #assign(target: Node, value: Value, scope: Scope): void {
    if (target.type === "Identifier") return this.declare(scope, target.value, value);
    if (target.type === "MemberExpression") {
      const namespace = this.#value(target.object, scope);
      const field: string = target.property.value;
      if (!(namespace instanceof Namespace)) return fail("cannot assign attribute on non-namespace object");
      if (field.startsWith("_")) return fail("a namespace cannot have fields that begin with an underscore");
      namespace.fields.set(field, value);
      return;
    }
    const items = itemsOf(value);
    const targets: readonly Node[] = target.value;
    if (items.length !== targets.length) {
      return fail(`cannot unpack ${items.length} values into ${targets.length} names`);
    }
    targets.forEach((one, i) => this.#assign(one, items[i]!, scope));
  }

  #for(node: Node, scope: Scope): string {
    const isFiltered = node.iterable.type === "SelectExpression";
    const iterable = this.#value(isFiltered ? node.iterable.lhs : node.iterable, scope);
    const items = itemsOf(iterable);
    let at = 0;
    const isKept = (item: Value): boolean => {
      if (!isFiltered) return true;
      const inner = new Environment(scope);
      this.#assign(node.loopvar, item, inner);
      return truthOf(this.#value(node.iterable.test, inner));
    };
    const next = (): Value | undefined => {
      while (at < items.length) {
        const item = items[at++]!;
        if (isKept(item)) return item;
      }
      return undefined;
    };
    const loop = new Loop(next);
    let text = "";
    for (let item = loop.advance(); item !== undefined; item = loop.advance()) {
      spend(1);
      const inner = new Environment(scope);
      this.#assign(node.loopvar, item, inner);
      this.declare(inner, "loop", loop);
      try {
        text += this.evaluateBlock(node.body, inner);
      } catch (error) {
        if (!(error instanceof Leave)) throw error;
        text += error.text;
        if (error.kind === "Break") break;
      }
      grow(text.length);
    }
    return loop.index0 < 0 ? String(this.evaluateBlock(node.defaultBlock, new Environment(scope))) : text;
  }

  /** A macro sees what is around it, and not what is around its call. */
  #macro(node: Node, scope: Scope): Held {
    const done = super.evaluateMacro(node, scope);
    const name: string = node.name.value;
    const { value: run } = scope.variables.get(name) as unknown as HeldFunction;
    const takesCaller = reads(node.body, "caller");
    this.declare(scope, name, ({ positional, named }) => {
      const { caller, ...rest } = Object.fromEntries(named);
      if (caller !== undefined && !takesCaller) fail(`macro '${name}' takes no keyword argument 'caller'`);
      const outer = new Environment(scope);
      this.declare(outer, "caller", caller ?? new Undefined("No caller defined"));
      const args = this.#arguments({ positional, named: new Map(Object.entries(rest)) });
      return this.#valueOf(this.#captured(() => run(args, outer)));
    });
    return done;
  }

  /** The library makes a function of the body, which is given to the one that is called. */
  #callBlock(node: Node, scope: Scope): Held {
    const called = this.#value(node.call.callee, scope);
    const inner = new Environment(scope);
    const stand: Call = () => fail("such a function cannot be called there");
    const take = new FunctionValue((args, given) => {
      const { value: run } = given.lookupVariable("caller") as unknown as HeldFunction;
      const named = new Map(this.#fieldsOf(args.at(-1)!));
      named.set("caller", (more) => this.#valueOf(this.#captured(() => run(this.#arguments(more), given))));
      const positional = args.slice(0, -1).map((value) => this.#valueOf(value));
      return this.#hold(this.#called(called, { positional, named }));
    });
    this.#functions.set(take, stand);
    this.#heldFunctions.set(stand, take);
    this.declare(inner, node.call.callee.value, stand);
    return super.evaluateCallStatement(node, inner);
  }

  #arguments({ positional, named }: Given): Held[] {
    const fields = new Map([...named].map(([name, value]) => [name, this.#hold(value)]));
    return [...positional.map((value) => this.#hold(value)), new KeywordArguments(fields)];
  }

  #fieldsOf(held: Held): Map<string, Value> {
    return new Map([...held.value as Map<string, Held>].map(([key, value]) => [key, this.#valueOf(value)]));
  }

  #given(args: readonly Node[], scope: Scope): Given {
    const [positional, named] = this.evaluateArguments(args, scope);
    return {
      positional: positional.map((value) => this.#valueOf(value)),
      named: new Map([...named].map(([name, value]) => [name, this.#valueOf(value)])),
    };
  }

  #called(called: Value, given: Given): Value {
    if (called instanceof Undefined) return fail(`${called.hint} is undefined`);
    return typeof called === "function" ? called(given) : fail(`'${typeOf(called)}' object is not callable`);
  }

  /** A value after a filter; tests come as filters too. */
  #filtered(value: Value, filter: Node, scope: Scope): Value {
    const { value: name } = filter.callee ?? filter;
    const given = this.#given(filter.args ?? [], scope);
    const [, kind, test] = /^#(is|not):(.*)$/.exec(name) ?? [];
    return test === undefined
      ? runFilter(name, value, given)
      : runTest(test, value, given) === (kind === "is");
  }

  /** The value of an expression; `undefined` if the library knows it, or it is none. */
  #expression(node: Node, scope: Scope): Value | undefined {
    const value = (part: Node) => this.#value(part, scope);
    const operator = node.operator?.value;
    switch (node.type) {
      case "Identifier":
        return this.#named(node.value, scope);
      case "MemberExpression":
        return this.#member(node, scope);
      case "CallExpression":
        if (node.callee.value === `${SIGN}tuple`) return new Items(node.args.map(value), "tuple");
        return this.#called(value(node.callee), this.#given(node.args, scope));
      case "FilterExpression":
        return this.#filtered(value(node.operand), node.filter, scope);
      case "ArrayLiteral":
        return new Items(node.value.map(value));
      case "TupleLiteral":
        return new Items(node.value.map(value), "tuple");
      case "ObjectLiteral":
        return new Map(
          [...node.value].map(([key, field]: [Node, Node]) => [keyOf(value(key)), value(field)]),
        );
      case "UnaryExpression":
        return operator === "not" ? undefined : signed(operator, value(node.argument));
      case "BinaryExpression":
        if (operator === "and" || operator === "or") return undefined;
        return binary(operator, value(node.left), value(node.right));
      case "Sum":
        return this.#sum(node, value);
      case "Compare": {
        let left = value(node.first);
        for (const [sign, expression] of node.rest) {
          const right = value(expression);
          if (!compare(sign, left, right)) return false;
          left = right;
        }
        return true;
      }
      default:
        return undefined;
    }
  }

  #named(name: string, scope: Scope): Value {
    const constant = this.#constants.get(name);
    if (constant !== undefined) return constant;
    for (let at: Scope | undefined = scope; at !== undefined; at = at.parent) {
      const held = at.variables.get(name) as unknown as Held | undefined;
      // The library puts a function of its own named "namespace" into every scope.
      const isForeign = held?.type === "FunctionValue" && !this.#functions.has(held);
      if (held !== undefined && !isForeign) return this.#valueOf(held);
    }
    if (["self", "super", "lipsum"].includes(name)) throw new UnsupportedError(`"${name}"`);
    return new Undefined(`'${name}'`);
  }

  #member({ object, property, computed }: Node, scope: Scope): Value {
    const value = this.#value(object, scope);
    if (!computed) return memberOf(value, property.value, "attribute");
    if (property.type !== "SliceExpression") return memberOf(value, this.#value(property, scope), "item");
    const parts = [property.start, property.stop, property.step];
    return sliceOf(value, parts.map((part) => part === undefined ? null : this.#value(part, scope)));
  }

  /** Sums and differences; what is between them is put together as text first. */
  #sum({ first, rest }: Node, value: (part: Node) => Value): Value {
    const terms: { readonly operator: string; readonly parts: Node[] }[] = [{ operator: "", parts: [first] }];
    for (const [operator, part] of rest) {
      if (operator === "~") terms.at(-1)!.parts.push(part);
      else terms.push({ operator, parts: [part] });
    }
    const [begin, ...others] = terms;
    const valueOf = (parts: readonly Node[]): Value =>
      parts.length === 1 ? value(parts[0]!) : joined("", parts.map((part) => textOf(value(part))));
    return others.reduce(
      (sum, { operator, parts }) => binary(operator, sum, valueOf(parts)),
      valueOf(begin!.parts),
    );
  }
}
