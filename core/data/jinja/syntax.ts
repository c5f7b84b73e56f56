/**
 * Parts of a parsed template.
 *
 * @module
 */

/** Arguments of a call, a filter or a test. */
export interface Arguments {
  readonly positional: readonly Expression[];
  readonly named: readonly (readonly [name: string, value: Expression])[];
  /** What follows `*`. */
  readonly list: Expression | null;
  /** What follows `**`. */
  readonly mapping: Expression | null;
}

/** An expression. */
export type Expression =
  | { readonly type: "constant"; readonly value: null | boolean | bigint | number | string }
  | { readonly type: "name"; readonly name: string }
  | { readonly type: "list" | "tuple"; readonly items: readonly Expression[] }
  | { readonly type: "dict"; readonly pairs: readonly (readonly [Expression, Expression])[] }
  | { readonly type: "attribute"; readonly object: Expression; readonly name: string }
  | { readonly type: "item"; readonly object: Expression; readonly key: Expression }
  | { readonly type: "slice"; readonly parts: readonly (Expression | null)[] }
  | { readonly type: "call"; readonly callee: Expression; readonly args: Arguments }
  | {
    readonly type: "filter";
    readonly operand: Expression | null;
    readonly name: string;
    readonly args: Arguments;
  }
  | { readonly type: "test"; readonly operand: Expression; readonly name: string; readonly args: Arguments }
  | { readonly type: "unary"; readonly operator: "-" | "+" | "not"; readonly operand: Expression }
  | {
    readonly type: "binary";
    readonly operator: string;
    readonly left: Expression;
    readonly right: Expression;
  }
  | { readonly type: "and" | "or"; readonly left: Expression; readonly right: Expression }
  | {
    readonly type: "compare";
    readonly first: Expression;
    readonly rest: readonly (readonly [operator: string, right: Expression])[];
  }
  | { readonly type: "concat"; readonly parts: readonly Expression[] }
  | {
    readonly type: "condition";
    readonly test: Expression;
    readonly then: Expression;
    readonly otherwise: Expression | null;
  };

/** What is assigned to: a name, several, or a field of a namespace. */
export type Target =
  | { readonly type: "name"; readonly name: string }
  | { readonly type: "tuple"; readonly items: readonly Target[] }
  | { readonly type: "field"; readonly name: string; readonly field: string };

/** Parameters of a macro, with their defaults. */
export type Parameters = readonly (readonly [name: string, fallback: Expression | null])[];

/** A statement. */
export type Statement =
  | { readonly type: "data"; readonly text: string }
  | { readonly type: "output"; readonly value: Expression }
  | {
    readonly type: "if";
    readonly branches: readonly (readonly [test: Expression | null, body: readonly Statement[]])[];
  }
  | {
    readonly type: "for";
    readonly target: Target;
    readonly iterable: Expression;
    readonly test: Expression | null;
    readonly body: readonly Statement[];
    readonly otherwise: readonly Statement[];
    readonly recursive: boolean;
  }
  | { readonly type: "set"; readonly target: Target; readonly value: Expression }
  | {
    readonly type: "capture";
    readonly target: Target;
    readonly filter: Expression | null;
    readonly body: readonly Statement[];
  }
  | {
    readonly type: "macro";
    readonly name: string;
    readonly parameters: Parameters;
    readonly body: readonly Statement[];
    /** Names among `caller`, `varargs` and `kwargs` that the body reads. */
    readonly reads: ReadonlySet<string>;
  }
  | {
    readonly type: "callBlock";
    readonly parameters: Parameters;
    readonly call: Expression & { readonly type: "call" };
    readonly body: readonly Statement[];
    readonly reads: ReadonlySet<string>;
  }
  | { readonly type: "filterBlock"; readonly filter: Expression; readonly body: readonly Statement[] }
  | {
    readonly type: "with";
    readonly values: readonly (readonly [Target, Expression])[];
    readonly body: readonly Statement[];
  }
  | { readonly type: "generation"; readonly body: readonly Statement[] }
  | { readonly type: "break" | "continue" };
