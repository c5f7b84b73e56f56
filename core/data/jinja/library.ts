/**
 * What is used of `@huggingface/jinja`, and those of its classes that it does not name.
 *
 * @module
 */

import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";

/** Part of a parsed template; its fields are those of its type. */
export interface Node {
  readonly type: string;
  // deno-lint-ignore no-explicit-any
  [field: string]: any;
}

/** A value as the library holds it. */
export interface Held {
  readonly type: string;
  readonly value: unknown;
  __bool__(): { readonly value: boolean };
  toString(): string;
}

/** A function as the library holds it. */
export interface HeldFunction extends Held {
  readonly value: (args: readonly Held[], scope: Environment) => Held;
}

/** What the library's interpreter does with each part of a template. */
export interface Engine {
  evaluate(node: Node | undefined, scope: Environment): Held;
  evaluateBlock(body: readonly Node[], scope: Environment): Held;
  evaluateArguments(args: readonly Node[], scope: Environment): [Held[], Map<string, Held>];
  evaluateMacro(node: Node, scope: Environment): Held;
  evaluateCallStatement(node: Node, scope: Environment): Held;
}

/** The library's interpreter, with the parts that its types keep to itself. */
export const Base = Interpreter as unknown as new (scope: Environment) => Engine;

type New<T, A extends unknown[]> = new (...args: A) => T;

const scope = new Environment();
const classOf = (value: unknown) => scope.set(`c${scope.variables.size}`, value).constructor;

/** A function. */
export const FunctionValue = classOf(() => 0) as New<HeldFunction, [HeldFunction["value"]]>;
/** A list, as which the library takes arguments apart. */
export const ArrayValue = classOf([]) as New<Held, [readonly Held[]]>;
/** A mapping, as which the library takes named arguments apart. */
export const ObjectValue = classOf({}) as New<Held, [ReadonlyMap<string, Held>]>;

/** Named arguments, as a function is given them: the last one. */
export const KeywordArguments = (() => {
  let found: unknown;
  const take = new FunctionValue(([given]) => {
    found = given!.constructor;
    return given!;
  });
  scope.setVariable("take", take as unknown as Parameters<Environment["setVariable"]>[1]);
  new Interpreter(scope).run(parse(tokenize("{% if take(a=1) %}{% endif %}")));
  return found as New<Held, [ReadonlyMap<string, Held>]>;
})();

/** What all parts of a template are. */
export const Statement = Object.getPrototypeOf(parse([]).constructor) as new () => Node;
