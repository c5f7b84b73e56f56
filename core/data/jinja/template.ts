/**
 * Jinja templates, as jinja2 runs them where transformers renders chats: the same text, or a refusal.
 *
 * A template is a program of whoever made the model, so everything that it makes or walks through is counted, and
 * the time is looked at.
 *
 * @module
 */

import { Environment, parse } from "@huggingface/jinja";
import { withinTime } from "../../contracts/time_limit.ts";
import { LIMIT_MS, tooMuch, withBudget } from "./budget.ts";
import { TemplateError, UnsupportedError } from "./errors.ts";
import { globals } from "./globals.ts";
import { PythonInterpreter, type Written } from "./interpreter.ts";
import type { Node } from "./library.ts";
import { lower } from "./tokens.ts";
import { mend } from "./tree.ts";
import { fromJson, type Value } from "./values.ts";

export type { Span, Written } from "./interpreter.ts";

/** Longest template, in characters; the longest known ones have a twentieth of it. */
const MAX_SOURCE = 2 ** 20;

/** Says of the library's own errors that the template is wrong. */
function told<T>(run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (error instanceof TemplateError || error instanceof UnsupportedError || error instanceof RangeError) {
      throw error;
    }
    throw new TemplateError((error as Error).message, { cause: error });
  }
}

/** A template that was parsed, to be rendered within limits. */
export class Template {
  readonly #program: Node;
  readonly #constants: ReadonlyMap<string, Value>;

  /**
   * @param source The template.
   * @throws {RangeError} If it is too long.
   * @throws {TemplateError} If it is not valid.
   * @throws {UnsupportedError} If it has what is not done here.
   */
  constructor(source: string) {
    if (source.length > MAX_SOURCE) throw tooMuch(`have at most ${MAX_SOURCE} characters`);
    [this.#program, this.#constants] = withinTime("parse the template", LIMIT_MS, () =>
      told(() => {
        const { tokens, constants } = lower(source);
        return [mend(parse(tokens) as unknown as Node), constants];
      }));
  }

  /**
   * Renders it.
   *
   * @param names What it may read, as JSON has it.
   * @param now What `strftime_now` takes for the time.
   * @throws {RangeError} If it takes too long, or makes what is too large.
   * @throws {TemplateError} If the template refuses, or does what cannot be done.
   * @throws {UnsupportedError} If it asks for what is not done here.
   */
  render(names: Readonly<Record<string, unknown>>, now: Date): Written {
    return withinTime("render the conversation", LIMIT_MS + 500, () => {
      return withBudget(() =>
        told(() => {
          const outer = new Environment();
          const interpreter = new PythonInterpreter(outer, this.#constants);
          for (const [name, value] of globals(now)) interpreter.declare(outer, name, value);
          const own = new Environment(outer);
          for (const [name, value] of Object.entries(names)) interpreter.declare(own, name, fromJson(value));
          return interpreter.write(this.#program, own);
        })
      );
    });
  }
}
