/**
 * Runs a parsed template.
 *
 * @module
 */

import { UnsupportedError } from "./errors.ts";
import type { FilterContext } from "./filter.ts";
import { runFilter } from "./filters.ts";
import { attributeOf, itemOf, sliceOf } from "./members.ts";
import { binary, compare, signed } from "./operations.ts";
import type { Scope } from "./scope.ts";
import type { Arguments, Expression, Parameters, Statement, Target } from "./syntax.ts";
import { runTest } from "./tests.ts";
import {
  type Budget,
  Callable,
  Dict,
  fail,
  type Given,
  List,
  Loop,
  Namespace,
  Once,
  requireItems,
  truthOf,
  Tuple,
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

/** A place that text is written to. */
class Output {
  readonly #parts: string[] = [];
  length = 0;

  put(text: string, budget: Budget): void {
    this.length += text.length;
    budget.spend(text.length);
    budget.checkSize(this.length);
    this.#parts.push(text);
  }

  toString(): string {
    return this.#parts.join("");
  }
}

/** How a loop's body ended. */
type Signal = "break" | "continue" | null;

/** Runs one template once. */
export class Interpreter {
  readonly #budget: Budget;
  readonly #context: FilterContext;
  readonly #generated: Span[] = [];
  #output = new Output();
  /** In how many macros and captured parts the run is: what is written there is no part of the text yet. */
  #captures = 0;
  #depth = 0;

  /** @param budget What it may take. */
  constructor(budget: Budget) {
    this.#budget = budget;
    this.#context = {
      budget,
      filter: (name, value, given) => runFilter(name, value, given, this.#context),
      test: (name, value, given) => runTest(name, value, given, budget),
      item: (value, key) => itemOf(value, key, budget),
    };
  }

  /**
   * Runs a template.
   *
   * @param body What it says.
   * @param scope What it may read.
   */
  run(body: readonly Statement[], scope: Scope): Written {
    this.#block(body, scope);
    return { text: this.#output.toString(), generated: this.#generated };
  }

  #block(body: readonly Statement[], scope: Scope): Signal {
    for (const statement of body) {
      this.#budget.spend(1);
      const signal = this.#statement(statement, scope);
      if (signal !== null) return signal;
    }
    return null;
  }

  #statement(statement: Statement, scope: Scope): Signal {
    switch (statement.type) {
      case "data":
        this.#output.put(statement.text, this.#budget);
        return null;
      case "output":
        this.#output.put(textOf(this.#value(statement.value, scope), this.#budget), this.#budget);
        return null;
      case "if": {
        const branch = statement.branches.find(([test]) =>
          test === null || truthOf(this.#value(test, scope))
        );
        return branch === undefined ? null : this.#block(branch[1], scope);
      }
      case "for":
        return this.#for(statement, scope);
      case "set":
        this.#assign(statement.target, this.#value(statement.value, scope), scope);
        return null;
      case "break":
      case "continue":
        return statement.type;
      case "generation":
        this.#generation(statement.body, scope);
        return null;
      default:
        this.#capturing(statement, scope);
        return null;
    }
  }

  /** Statements whose body is written elsewhere first. */
  #capturing(
    statement: Statement & { readonly type: "capture" | "macro" | "callBlock" | "filterBlock" | "with" },
    scope: Scope,
  ): void {
    switch (statement.type) {
      case "capture": {
        const text = this.#captured(statement.body, scope.inner());
        this.#assign(statement.target, this.#filtered(statement.filter, text, scope), scope);
        return;
      }
      case "filterBlock": {
        const text = this.#captured(statement.body, scope.inner());
        this.#output.put(textOf(this.#filtered(statement.filter, text, scope), this.#budget), this.#budget);
        return;
      }
      case "macro":
        return scope.set(statement.name, this.#macro(statement, scope));
      case "callBlock": {
        const { call, parameters, body, reads } = statement;
        const caller = this.#macro({ name: "caller", parameters, body, reads }, scope);
        const value = this.#call(call, scope, caller);
        return this.#output.put(textOf(value, this.#budget), this.#budget);
      }
      default: {
        // Each value is that of the outside.
        const values = statement.values.map(([target, value]) =>
          [target, this.#value(value, scope)] as const
        );
        const inner = scope.inner();
        for (const [target, value] of values) this.#assign(target, value, inner);
        if (this.#block(statement.body, inner) !== null) {
          throw new UnsupportedError("leaving a loop from {% with %}");
        }
      }
    }
  }

  /** What a body writes. */
  #captured(body: readonly Statement[], scope: Scope): string {
    if (++this.#depth > 100) throw new UnsupportedError("macros more than 100 deep");
    const outer = this.#output;
    this.#output = new Output();
    this.#captures++;
    const signal = this.#block(body, scope);
    const text = this.#output.toString();
    this.#output = outer;
    this.#captures--;
    this.#depth--;
    if (signal !== null) throw new UnsupportedError("leaving a loop from a part that is written elsewhere");
    return text;
  }

  #filtered(filter: Expression | null, text: string, scope: Scope): Value {
    if (filter === null) return text;
    if (filter.type !== "filter") throw new UnsupportedError("such a filter");
    const value = filter.operand === null ? text : this.#filtered(filter.operand, text, scope);
    return runFilter(filter.name, value, this.#given(filter.args, scope), this.#context);
  }

  #generation(body: readonly Statement[], scope: Scope): void {
    if (this.#captures > 0) throw new UnsupportedError("{% generation %} in a macro or a captured part");
    const start = this.#output.length;
    if (this.#block(body, scope.inner()) !== null) {
      throw new UnsupportedError("leaving a loop from {% generation %}");
    }
    this.#generated.push([start, this.#output.length]);
  }

  #for(statement: Statement & { readonly type: "for" }, scope: Scope): Signal {
    if (statement.recursive) throw new UnsupportedError("{% for ... recursive %}");
    const { target, test, body, otherwise } = statement;
    const iterable = this.#value(statement.iterable, scope);
    const items = requireItems(iterable, this.#budget);
    let at = 0;
    const isKept = (item: Value): boolean => {
      if (test === null) return true;
      const inner = scope.inner();
      this.#assign(target, item, inner);
      return truthOf(this.#value(test, inner));
    };
    const next = (): Value | undefined => {
      while (at < items.length) {
        const item = items[at++]!;
        if (isKept(item)) return item;
      }
      return undefined;
    };
    const loop = new Loop(next, test === null && !(iterable instanceof Once) ? items.length : null, 0);
    let count = 0;
    for (let item = loop.advance(); item !== undefined; item = loop.advance()) {
      count++;
      this.#budget.spend(1);
      const inner = scope.inner();
      this.#assign(target, item, inner);
      inner.set("loop", loop);
      if (this.#block(body, inner) === "break") break;
    }
    return count === 0 ? this.#block(otherwise, scope.inner()) : null;
  }

  #assign(target: Target, value: Value, scope: Scope): void {
    if (target.type === "name") return scope.set(target.name, value);
    if (target.type === "field") {
      const namespace = scope.get(target.name);
      if (!(namespace instanceof Namespace)) return fail("cannot assign attribute on non-namespace object");
      if (target.field.startsWith("_")) {
        return fail("a namespace cannot have fields that begin with an underscore");
      }
      namespace.fields.set(target.field, value);
      return;
    }
    const items = requireItems(value, this.#budget);
    if (items.length !== target.items.length) {
      return fail(`cannot unpack ${items.length} values into ${target.items.length} names`);
    }
    target.items.forEach((one, i) => this.#assign(one, items[i]!, scope));
  }

  #macro(
    { name, parameters, body, reads }: {
      readonly name: string;
      readonly parameters: Parameters;
      readonly body: readonly Statement[];
      readonly reads: ReadonlySet<string>;
    },
    scope: Scope,
  ): Callable {
    const names = new Set(parameters.map(([parameter]) => parameter));
    for (const special of ["caller", "varargs", "kwargs"]) {
      if (names.has(special)) throw new UnsupportedError(`a parameter named "${special}"`);
    }
    return new Callable(name, ({ positional, named }) => {
      const inner = scope.inner();
      const rest = new Map(named);
      parameters.forEach(([parameter, fallback], i) => {
        if (i < positional.length && rest.has(parameter)) {
          fail(`macro '${name}' got multiple values for '${parameter}'`);
        }
        const given = positional[i] ?? (i < positional.length ? null : rest.get(parameter));
        rest.delete(parameter);
        inner.set(
          parameter,
          given !== undefined
            ? given
            : fallback === null
            ? new Undefined(`parameter '${parameter}' was not provided`)
            : this.#value(fallback, inner),
        );
      });
      const extra = positional.slice(parameters.length);
      const caller = rest.get("caller");
      rest.delete("caller");
      if (caller !== undefined && !reads.has("caller")) {
        fail(`macro '${name}' takes no keyword argument 'caller'`);
      }
      if (reads.has("caller")) inner.set("caller", caller ?? new Undefined("No caller defined"));
      if (reads.has("varargs")) inner.set("varargs", new Tuple(extra));
      else if (extra.length > 0) fail(`macro '${name}' takes not more than ${parameters.length} argument(s)`);
      if (reads.has("kwargs")) inner.set("kwargs", new Dict(rest));
      else if (rest.size > 0) fail(`macro '${name}' takes no keyword argument '${[...rest.keys()][0]}'`);
      return this.#captured(body, inner);
    });
  }

  #given({ positional, named, list, mapping }: Arguments, scope: Scope): Given {
    const places = positional.map((value) => this.#value(value, scope));
    const names = new Map(named.map(([name, value]) => [name, this.#value(value, scope)]));
    if (list !== null) places.push(...requireItems(this.#value(list, scope), this.#budget));
    if (mapping !== null) {
      const more = this.#value(mapping, scope);
      if (!(more instanceof Dict)) return fail("argument after ** must be a mapping");
      for (const [key, value] of more.entries) {
        if (typeof key !== "string") return fail("keywords must be strings");
        if (names.has(key)) return fail(`got multiple values for keyword argument '${key}'`);
        names.set(key, value);
      }
    }
    return { positional: places, named: names };
  }

  #call({ callee, args }: Expression & { readonly type: "call" }, scope: Scope, caller?: Callable): Value {
    const called = this.#value(callee, scope);
    const given = this.#given(args, scope);
    if (called instanceof Undefined) return fail(`${called.hint} is undefined`);
    if (!(called instanceof Callable)) return fail(`'${typeOf(called)}' object is not callable`);
    if (caller === undefined) return called.call(given);
    return called.call({ ...given, named: new Map([...given.named, ["caller", caller]]) });
  }

  #value(expression: Expression, scope: Scope): Value {
    this.#budget.spend(1);
    switch (expression.type) {
      case "constant":
        return expression.value;
      case "name":
        return scope.get(expression.name);
      case "attribute":
        return attributeOf(this.#value(expression.object, scope), expression.name, this.#budget);
      case "item":
        return this.#item(expression, scope);
      case "call":
        return this.#call(expression, scope);
      case "filter":
        if (expression.operand === null) throw new UnsupportedError("such a filter");
        return runFilter(
          expression.name,
          this.#value(expression.operand, scope),
          this.#given(expression.args, scope),
          this.#context,
        );
      case "test":
        return runTest(
          expression.name,
          this.#value(expression.operand, scope),
          this.#given(expression.args, scope),
          this.#budget,
        );
      case "slice":
        throw new UnsupportedError("a slice among several keys");
      default:
        return this.#composed(expression, scope);
    }
  }

  #item({ object, key }: Expression & { readonly type: "item" }, scope: Scope): Value {
    const value = this.#value(object, scope);
    if (key.type !== "slice") return itemOf(value, this.#value(key, scope), this.#budget);
    const parts = key.parts.map((part) => part === null ? null : this.#value(part, scope));
    return sliceOf(value, parts, this.#budget);
  }

  /** What is made of other values. */
  #composed(
    expression: Exclude<
      Expression,
      { readonly type: "constant" | "name" | "attribute" | "item" | "call" | "filter" | "test" | "slice" }
    >,
    scope: Scope,
  ): Value {
    const value = (part: Expression) => this.#value(part, scope);
    switch (expression.type) {
      case "list":
        return new List(expression.items.map(value));
      case "tuple":
        return new Tuple(expression.items.map(value));
      case "dict":
        return new Dict(expression.pairs.map(([key, field]) => [value(key), value(field)]));
      case "unary": {
        const operand = value(expression.operand);
        return expression.operator === "not" ? !truthOf(operand) : signed(expression.operator, operand);
      }
      case "binary":
        return binary(expression.operator, value(expression.left), value(expression.right), this.#budget);
      case "and": {
        const left = value(expression.left);
        return truthOf(left) ? value(expression.right) : left;
      }
      case "or": {
        const left = value(expression.left);
        return truthOf(left) ? left : value(expression.right);
      }
      case "compare":
        return this.#compare(expression, scope);
      case "concat": {
        const texts = expression.parts.map((part) => textOf(value(part), this.#budget));
        const text = texts.join("");
        this.#budget.spend(text.length);
        this.#budget.checkSize(text.length);
        return text;
      }
      case "condition":
        if (truthOf(value(expression.test))) return value(expression.then);
        return expression.otherwise === null
          ? new Undefined("the inline if-expression evaluated to false and no else section was defined.")
          : value(expression.otherwise);
    }
  }

  #compare({ first, rest }: Expression & { readonly type: "compare" }, scope: Scope): boolean {
    let left = this.#value(first, scope);
    for (const [operator, expression] of rest) {
      const right = this.#value(expression, scope);
      if (!compare(operator, left, right, this.#budget)) return false;
      left = right;
    }
    return true;
  }
}
