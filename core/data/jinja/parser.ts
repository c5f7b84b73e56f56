/**
 * Parses expressions of a Jinja template.
 *
 * @module
 */

import { TemplateError, UnsupportedError } from "./errors.ts";
import type { Token, TokenKind } from "./lexer.ts";
import { FILTER_NAMES, TEST_NAMES } from "./names.ts";
import type { Arguments, Expression, Parameters, Target } from "./syntax.ts";

/** Deepest nesting of statements and signs. */
const MAX_DEPTH = 100;
const NO_ARGUMENTS: Arguments = { positional: [], named: [], list: null, mapping: null };
const COMPARISONS = ["==", "!=", "<", "<=", ">", ">="];

/** Reads expressions from tokens. */
export class ExpressionParser {
  readonly #tokens: readonly Token[];
  #at = 0;
  #depth = 0;
  /** In how many conditions the parser is: what is wrong there is found when it is reached. */
  protected conditions = 0;
  /** All names that were read. */
  protected readonly read = new Set<string>();

  /** @param tokens Of the lexer. */
  constructor(tokens: readonly Token[]) {
    this.#tokens = tokens;
  }

  /** The token that comes next, or one after it. */
  protected look(offset = 0): Token {
    return this.#tokens[Math.min(this.#at + offset, this.#tokens.length - 1)]!;
  }

  protected next(): Token {
    const token = this.look();
    this.#at++;
    return token;
  }

  protected is(kind: TokenKind, text?: string, offset = 0): boolean {
    const token = this.look(offset);
    return token.kind === kind && (text === undefined || token.text === text);
  }

  protected isOperator(text: string): boolean {
    return this.is("operator", text);
  }

  /** Goes on after a token if it is there. */
  protected skip(kind: TokenKind, text?: string): boolean {
    if (!this.is(kind, text)) return false;
    this.#at++;
    return true;
  }

  protected expect(kind: TokenKind, text?: string): Token {
    if (!this.is(kind, text)) {
      this.fail(`expected ${text || kind}, got ${this.look().text || this.look().kind}`);
    }
    return this.next();
  }

  protected fail(message: string): never {
    throw new TemplateError(`line ${this.look().line}: ${message}`);
  }

  /** Runs one level deeper. */
  protected nested<T>(run: () => T): T {
    if (++this.#depth > MAX_DEPTH) throw new UnsupportedError(`nesting more than ${MAX_DEPTH} deep`);
    const result = run();
    this.#depth--;
    return result;
  }

  protected expression(): Expression {
    let value = this.#or();
    while (this.skip("name", "if")) {
      const test = this.#or();
      this.conditions++;
      const otherwise: Expression | null = this.skip("name", "else")
        ? this.nested(() => this.expression())
        : null;
      this.conditions--;
      value = { type: "condition", test, then: value, otherwise };
    }
    return value;
  }

  /** An expression without a condition. */
  protected unconditional(): Expression {
    return this.#or();
  }

  #or(): Expression {
    let left = this.#and();
    while (this.skip("name", "or")) left = { type: "or", left, right: this.#and() };
    return left;
  }

  #and(): Expression {
    let left = this.#not();
    while (this.skip("name", "and")) left = { type: "and", left, right: this.#not() };
    return left;
  }

  #not(): Expression {
    if (!this.skip("name", "not")) return this.#compare();
    return { type: "unary", operator: "not", operand: this.nested(() => this.#not()) };
  }

  #compare(): Expression {
    const first = this.#sum();
    const rest: [string, Expression][] = [];
    while (true) {
      const { kind, text } = this.look();
      if (kind === "operator" && COMPARISONS.includes(text)) {
        this.next();
        rest.push([text, this.#sum()]);
      } else if (this.skip("name", "in")) rest.push(["in", this.#sum()]);
      else if (this.is("name", "not") && this.is("name", "in", 1)) {
        this.next();
        this.next();
        rest.push(["not in", this.#sum()]);
      } else break;
    }
    return rest.length === 0 ? first : { type: "compare", first, rest };
  }

  #binary(operators: readonly string[], operand: () => Expression): Expression {
    let left = operand();
    while (this.look().kind === "operator" && operators.includes(this.look().text)) {
      const operator = this.next().text;
      left = { type: "binary", operator, left, right: operand() };
    }
    return left;
  }

  #sum(): Expression {
    return this.#binary(["+", "-"], () => this.#concat());
  }

  #concat(): Expression {
    const parts = [this.#product()];
    while (this.skip("operator", "~")) parts.push(this.#product());
    return parts.length === 1 ? parts[0]! : { type: "concat", parts };
  }

  #product(): Expression {
    return this.#binary(["*", "/", "//", "%"], () => this.#binary(["**"], () => this.#unary(true)));
  }

  #unary(withFilter: boolean): Expression {
    const sign = ["-", "+"].find((operator) => this.skip("operator", operator)) as "-" | "+" | undefined;
    const operand: Expression = sign === undefined
      ? this.primary()
      : { type: "unary", operator: sign, operand: this.nested(() => this.#unary(false)) };
    const value = this.#postfix(operand);
    return withFilter ? this.#filters(value) : value;
  }

  protected primary(): Expression {
    const { kind, text } = this.look();
    if (kind === "name") {
      this.next();
      if (["true", "True", "false", "False"].includes(text)) {
        return { type: "constant", value: text.toLowerCase() === "true" };
      }
      if (text === "none" || text === "None") return { type: "constant", value: null };
      this.read.add(text);
      return { type: "name", name: text };
    }
    if (kind === "string") {
      let value = "";
      while (this.is("string")) value += this.next().text;
      return { type: "constant", value };
    }
    if (kind === "integer") return { type: "constant", value: BigInt(this.next().text.toLowerCase()) };
    if (kind === "float") return { type: "constant", value: Number(this.next().text) };
    if (kind === "operator" && "([{".includes(text)) return this.nested(() => this.#bracket());
    return this.fail(`unexpected ${text || kind}`);
  }

  #bracket(): Expression {
    if (this.skip("operator", "(")) {
      const value = this.isOperator(")")
        ? { type: "tuple", items: [] } as const
        : this.tuple(() => this.expression());
      this.expect("operator", ")");
      return value;
    }
    if (this.skip("operator", "[")) {
      return { type: "list", items: this.#items("]", () => this.expression()) };
    }
    this.expect("operator", "{");
    const pairs = this.#items("}", (): readonly [Expression, Expression] => {
      const key = this.expression();
      this.expect("operator", ":");
      return [key, this.expression()];
    });
    return { type: "dict", pairs };
  }

  /** Items between commas up to a bracket; a comma may come last. */
  #items<T>(close: string, item: () => T): T[] {
    const items: T[] = [];
    while (!this.isOperator(close)) {
      if (items.length > 0) this.expect("operator", ",");
      if (this.isOperator(close)) break;
      items.push(item());
    }
    this.next();
    return items;
  }

  /** One expression, or a tuple of several. */
  protected tuple(item: () => Expression): Expression {
    const items: Expression[] = [];
    let isTuple = false;
    while (true) {
      if (items.length > 0) this.expect("operator", ",");
      if (this.#isTupleEnd()) break;
      items.push(item());
      if (!this.isOperator(",")) break;
      isTuple = true;
    }
    if (isTuple) return { type: "tuple", items };
    if (items.length > 0) return items[0]!;
    return this.fail(`expected an expression, got ${this.look().text || this.look().kind}`);
  }

  #isTupleEnd(): boolean {
    return this.is("}}") || this.is("%}") || this.isOperator(")") || this.is("name", "in");
  }

  #postfix(value: Expression): Expression {
    while (true) {
      if (this.skip("operator", ".")) value = this.#attribute(value);
      else if (this.skip("operator", "[")) value = { type: "item", object: value, key: this.#subscript() };
      else if (this.isOperator("(")) value = { type: "call", callee: value, args: this.args() };
      else return value;
    }
  }

  #attribute(object: Expression): Expression {
    const { kind, text } = this.next();
    if (kind === "name") return { type: "attribute", object, name: text };
    if (kind !== "integer") return this.fail("expected name or number");
    return { type: "item", object, key: { type: "constant", value: BigInt(text) } };
  }

  #subscript(): Expression {
    const keys = this.#items("]", () => this.#subscripted());
    return keys.length === 1 ? keys[0]! : { type: "tuple", items: keys };
  }

  #subscripted(): Expression {
    const ends = () => this.isOperator("]") || this.isOperator(",");
    const part = () => this.isOperator(":") || ends() ? null : this.expression();
    const first = part();
    if (!this.skip("operator", ":")) return first ?? this.fail("expected subscript expression");
    const second = part();
    const third = this.skip("operator", ":") ? part() : null;
    return { type: "slice", parts: [first, second, third] };
  }

  #filters(value: Expression): Expression {
    while (true) {
      if (this.skip("operator", "|")) value = this.filter(value);
      else if (this.is("name", "is")) value = this.#test(value);
      else if (this.isOperator("(")) value = { type: "call", callee: value, args: this.args() };
      else return value;
    }
  }

  /** A filter whose bar was read. */
  protected filter(operand: Expression | null): Expression {
    const name = this.#dotted();
    if (!FILTER_NAMES.has(name) && this.conditions === 0) this.fail(`no filter named '${name}'`);
    const args = this.isOperator("(") ? this.args() : NO_ARGUMENTS;
    return { type: "filter", operand, name, args };
  }

  #dotted(): string {
    let name = this.expect("name").text;
    while (this.skip("operator", ".")) name += `.${this.expect("name").text}`;
    return name;
  }

  #test(operand: Expression): Expression {
    this.next();
    const isNegated = this.skip("name", "not");
    const name = this.#dotted();
    if (!TEST_NAMES.has(name) && this.conditions === 0) this.fail(`no test named '${name}'`);
    let args = NO_ARGUMENTS;
    const { kind, text } = this.look();
    if (this.isOperator("(")) args = this.args();
    else if (
      ["name", "string", "integer", "float"].includes(kind) && !["else", "or", "and"].includes(text) ||
      kind === "operator" && "[{".includes(text)
    ) {
      if (this.is("name", "is")) this.fail("You cannot chain multiple tests with is");
      args = { ...NO_ARGUMENTS, positional: [this.#postfix(this.primary())] };
    }
    const test: Expression = { type: "test", operand, name, args };
    return isNegated ? { type: "unary", operator: "not", operand: test } : test;
  }

  protected args(): Arguments {
    this.expect("operator", "(");
    const positional: Expression[] = [];
    const named: [string, Expression][] = [];
    let list: Expression | null = null;
    let mapping: Expression | null = null;
    const wrong = "invalid syntax for function call expression";
    this.#items(")", () => {
      if (this.skip("operator", "*")) {
        if (list !== null || mapping !== null) this.fail(wrong);
        list = this.expression();
      } else if (this.skip("operator", "**")) {
        if (mapping !== null) this.fail(wrong);
        mapping = this.expression();
      } else if (this.is("name") && this.is("operator", "=", 1)) {
        if (mapping !== null) this.fail(wrong);
        const name = this.next().text;
        this.next();
        if (named.some(([other]) => other === name)) this.fail(`keyword argument repeated: ${name}`);
        named.push([name, this.expression()]);
      } else {
        if (list !== null || mapping !== null || named.length > 0) this.fail(wrong);
        positional.push(this.expression());
      }
    });
    return { positional, named, list, mapping };
  }

  /** What is assigned to. */
  protected target(withFields: boolean): Target {
    return this.#targetOf(this.tuple(() => {
      const value = this.primary();
      if (!withFields || value.type !== "name" || !this.skip("operator", ".")) return value;
      return { type: "attribute", object: value, name: this.expect("name").text };
    }));
  }

  #targetOf(value: Expression): Target {
    if (value.type === "name") {
      // Python's own words are no names.
      if (["loop", "self", "super", "caller", "varargs", "kwargs"].includes(value.name)) {
        throw new UnsupportedError(`assigning to "${value.name}"`);
      }
      return value;
    }
    if (value.type === "tuple") {
      return {
        type: "tuple",
        items: value.items.map((item) => this.#targetOf(item)),
      };
    }
    if (value.type === "attribute" && value.object.type === "name") {
      return { type: "field", name: value.object.name, field: value.name };
    }
    return this.fail("can't assign to this expression");
  }

  /** Parameters of a macro, in brackets. */
  protected parameters(): Parameters {
    this.expect("operator", "(");
    let hasDefault = false;
    return this.#items(")", (): readonly [string, Expression | null] => {
      const name = this.expect("name").text;
      const fallback = this.skip("operator", "=") ? this.expression() : null;
      if (hasDefault && fallback === null) this.fail("non-default argument follows default argument");
      hasDefault ||= fallback !== null;
      return [name, fallback];
    });
  }
}
