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
import { TemplateError, UnsupportedError } from "./errors.ts";
import { globals } from "./globals.ts";
import { PythonInterpreter, type Written } from "./interpreter.ts";
import type { Node } from "./library.ts";
import { lower } from "./tokens.ts";
import { mend } from "./tree.ts";
import { type Budget, fromJson, type Value } from "./values.ts";

export type { Span, Written } from "./interpreter.ts";

/** Longest time of a conversation, in milliseconds. */
const LIMIT_MS = 1500;
/** Longest template, in characters; the longest known ones have a twentieth of it. */
const MAX_SOURCE = 2 ** 20;
/** Largest text or list, in characters or items: a quarter of a million tokens or so. */
const MAX_SIZE = 2 ** 20;
/** Most characters and items of all that is read and made for a conversation. */
const MAX_WORK = 2 ** 25;
/** Work between two looks at the clock. */
const LOOK_EVERY = 4096;

function tooMuch(rule: string): RangeError {
  return new RangeError(`the template must ${rule}: it does not`);
}

class RunBudget implements Budget {
  readonly #until = performance.now() + LIMIT_MS;
  #work = 0;
  #looked = 0;

  spend(amount: number): void {
    this.#work += amount;
    if (this.#work > MAX_WORK) throw tooMuch(`read and make at most ${MAX_WORK} characters in all`);
    if (this.#work - this.#looked < LOOK_EVERY) return;
    this.#looked = this.#work;
    if (performance.now() > this.#until) throw tooMuch(`be done within ${LIMIT_MS} ms`);
  }

  checkSize(size: number): void {
    if (size > MAX_SIZE) throw tooMuch(`make values of at most ${MAX_SIZE} characters`);
  }
}

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
      const budget = new RunBudget();
      const outer = new Environment();
      const interpreter = new PythonInterpreter(outer, this.#constants, budget);
      for (const [name, value] of globals(now, budget)) interpreter.declare(outer, name, value);
      const own = new Environment(outer);
      for (const [name, value] of Object.entries(names)) {
        interpreter.declare(own, name, fromJson(value, budget));
      }
      return told(() => interpreter.write(this.#program, own));
    });
  }
}
