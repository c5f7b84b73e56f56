/**
 * What the library's parser reads otherwise than jinja2: chained comparisons, and `~`, which binds closer than `+`.
 * Signs for `{% with %}` and `{% generation %}` become what they stand for.
 *
 * @module
 */

import { TemplateError, UnsupportedError } from "./errors.ts";
import { type Node, Statement } from "./library.ts";
import { SIGN } from "./tokens.ts";

const SUMS = new Set(["+", "-", "~"]);
const COMPARISONS = new Set(["==", "!=", "<", "<=", ">", ">=", "in", "not in"]);
const RESERVED = new Set(["loop", "self", "super", "caller", "varargs", "kwargs"]);

function made(type: string, fields: Readonly<Record<string, unknown>>): Node {
  return Object.assign(new Statement(), fields, { type });
}

/** Checks what is assigned to. */
function checkTarget(node: Node): void {
  if (node.type === "TupleLiteral") return node.value.forEach(checkTarget);
  // `{% set name | filter %}`
  if (node.type === "FilterExpression") return checkTarget(node.operand);
  if (node.type === "MemberExpression" && !node.computed) return checkTarget(node.object);
  const name = node.type === "Identifier" ? String(node.value) : SIGN;
  if (name.startsWith(SIGN) && name !== `${SIGN}filter`) {
    throw new TemplateError("can't assign to this expression");
  }
  if (RESERVED.has(name)) throw new UnsupportedError(`assigning to "${name}"`);
}

function chained(node: Node): Node {
  const { value: operator, group } = node.operator;
  const kind = SUMS.has(operator) ? "Sum" : COMPARISONS.has(operator) ? "Compare" : null;
  if (kind === null) return node;
  const { left, right } = node;
  // Only what has no brackets of its own is part of the chain.
  const isChain = left.type === kind && left.group === group;
  const chain = isChain ? left : made(kind, { group, first: left, rest: [] });
  chain.rest.push([operator, right]);
  return chain;
}

function block(node: Node): Node {
  const { test, body } = node;
  if (test.type === "Identifier" && test.value === `${SIGN}generation`) return made("Generation", { body });
  if (test.type !== "CallExpression" || test.callee.value !== `${SIGN}with`) return node;
  const values = test.args.map((argument: Node) => {
    if (argument.type !== "KeywordArgumentExpression") {
      throw new TemplateError("expected name = value in with");
    }
    return [argument.key.value, argument.value];
  });
  return made("With", { values, body });
}

function rewritten(node: Node): Node {
  switch (node.type) {
    case "BinaryExpression":
      return chained(node);
    case "If":
      return block(node);
    case "For":
      checkTarget(node.loopvar);
      return node;
    case "Set":
      checkTarget(node.assignee);
      return node;
    case "Macro":
    case "CallStatement":
      for (const parameter of node.args ?? node.callerArgs ?? []) {
        const { value: name } = parameter.key ?? parameter;
        if (["caller", "varargs", "kwargs"].includes(name)) {
          throw new UnsupportedError(`a parameter named "${name}"`);
        }
        checkTarget(parameter.key ?? parameter);
      }
      return node;
    case "KeywordArgumentExpression":
      if (node.key.value.startsWith(SIGN)) throw new TemplateError("an argument must have a name");
      return node;
    case "SpreadExpression":
    case "KeywordSpreadExpression":
      return Object.assign(node, {
        argument: made(node.type === "SpreadExpression" ? "Items" : "Fields", { value: node.argument }),
      });
    case "MemberExpression":
      // `list.0`
      return node.property.value?.startsWith?.(SIGN) ? Object.assign(node, { computed: true }) : node;
    case "FilterExpression": {
      const { value } = node.filter.callee ?? node.filter;
      if (typeof value !== "string") throw new TemplateError("a filter must have a name");
      return node;
    }
    default:
      return node;
  }
}

/** Changes a parsed template, from its innermost parts on. */
export function mend<T>(part: T): T {
  if (Array.isArray(part)) return part.map(mend) as T;
  if (part instanceof Map) return new Map([...part].map(([key, value]) => [mend(key), mend(value)])) as T;
  if (!(part instanceof Statement)) return part;
  const node: Node = part;
  for (const [key, value] of Object.entries(node)) node[key] = mend(value);
  return rewritten(node) as T;
}

/** Whether a part of a template reads a name. */
export function reads(part: unknown, name: string): boolean {
  if (Array.isArray(part)) return part.some((item) => reads(item, name));
  if (part instanceof Map) return [...part].some((pair) => reads(pair, name));
  if (!(part instanceof Statement)) return false;
  if (part.type === "Identifier") return part.value === name;
  return Object.entries(part).some(([key, value]) =>
    !(key === "property" && !part.computed) && reads(value, name)
  );
}
