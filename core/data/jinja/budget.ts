/**
 * What a template may take. It is a program of whoever made the model, so everything that it makes or walks through
 * is counted, and the time is looked at.
 *
 * @module
 */

/** Longest time of a conversation, in milliseconds. */
export const LIMIT_MS = 1500;
/** Largest text or list, in characters or items: a quarter of a million tokens or so. */
const MAX_SIZE = 2 ** 20;
/** Most characters and items of all that is read and made for a conversation. */
const MAX_WORK = 2 ** 25;
/** Work between two looks at the clock. */
const LOOK_EVERY = 4096;

/** The run that goes on: templates are rendered one at a time, each in one go. */
let run = { work: 0, looked: 0, until: Infinity };

/** An error that says what a template must do. */
export function tooMuch(rule: string): RangeError {
  return new RangeError(`the template must ${rule}: it does not`);
}

/**
 * Takes note of so much work.
 *
 * @param amount Characters or items.
 * @throws {RangeError} If it is too much, or too long ago that the run began.
 */
export function spend(amount: number): void {
  run.work += amount;
  if (run.work > MAX_WORK) throw tooMuch(`read and make at most ${MAX_WORK} characters in all`);
  if (run.work - run.looked < LOOK_EVERY) return;
  run.looked = run.work;
  if (performance.now() > run.until) throw tooMuch(`be done within ${LIMIT_MS} ms`);
}

/** As `spend`, of a text or list that is to be made: it may have a largest size. */
export function grow(size: number): void {
  if (size > MAX_SIZE) throw tooMuch(`make values of at most ${MAX_SIZE} characters`);
  spend(size);
}

/** Runs a template with a budget of its own. */
export function withBudget<T>(render: () => T): T {
  const outer = run;
  run = { work: 0, looked: 0, until: performance.now() + LIMIT_MS };
  try {
    return render();
  } finally {
    run = outer;
  }
}
