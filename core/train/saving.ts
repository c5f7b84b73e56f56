/**
 * When the state of a run is saved, and saving beside the steps that follow.
 *
 * @module
 */

/** Saving may take this share of the time of a run. */
const SHARE = 0.01;
/** Saves over whose cost the mean is taken. */
const MEAN_OF = 4;
/** What the newest step counts in the usual time of a step. */
const NEWEST = 0.2;

/** How often to save. */
export interface SaveEvery {
  /** Steps from one save to the next; 0 to go by time. @default {0} */
  readonly steps?: number | undefined;
  /** Milliseconds from one save to the next, more if saving is slow; 0 for none. @default {0} */
  readonly ms?: number | undefined;
}

/**
 * Says after which steps to save. By time: after the first step, then at intervals, which grow where saving takes
 * more than 1 % of them.
 */
export class SaveSchedule {
  readonly #steps: number;
  readonly #ms: number;
  readonly #now: () => number;
  #last = -Infinity;
  /** What the last saves took from the run, in milliseconds. */
  readonly #costs: number[] = [];
  #usual: number | null = null;
  /** How far steps are from that as a rule: what is within twice as much is no cost. */
  #spread = 0;

  /**
   * A schedule for one run.
   *
   * @param every How often.
   * @param now The clock, in milliseconds. @default {performance.now}
   */
  constructor({ steps = 0, ms = 0 }: SaveEvery, now: () => number = () => performance.now()) {
    this.#steps = steps;
    this.#ms = ms;
    this.#now = now;
  }

  /** True if anything is to be saved at all. */
  get saves(): boolean {
    return this.#steps > 0 || this.#ms > 0;
  }

  /** Milliseconds from one save to the next, as things are. */
  get intervalMs(): number {
    const mean = this.#costs.reduce((a, b) => a + b, 0) / Math.max(1, this.#costs.length);
    return Math.max(this.#ms, mean / SHARE);
  }

  /** True if the state after so many training steps is to be saved; asked once, before the last of them. */
  isDue(step: number): boolean {
    if (this.#steps > 0) return step % this.#steps === 0;
    if (this.#ms === 0 || this.#now() - this.#last < this.intervalMs) return false;
    this.#last = this.#now();
    return true;
  }

  /**
   * Takes in what a step took, of which the cost of saving is learnt, on whatever machine it arises.
   *
   * @param ms The whole step, with waiting for a save.
   * @param options Whether its state is saved, and the milliseconds in which this machine is known to have stood still
   * for it: where steps differ much the cost of a save cannot be told from the step.
   */
  took(ms: number, options: { readonly isSaved: boolean; readonly waitedMs?: number }): void {
    const { isSaved, waitedMs = 0 } = options;
    if (!isSaved) {
      const usual = this.#usual ?? ms;
      this.#spread = (1 - NEWEST) * this.#spread + NEWEST * Math.abs(ms - usual);
      this.#usual = (1 - NEWEST) * usual + NEWEST * ms;
    } else if (this.#usual !== null || waitedMs > 0) {
      const most = this.#usual === null ? 0 : ms - this.#usual - 2 * this.#spread;
      this.#costs.push(Math.max(0, waitedMs, most));
      if (this.#costs.length > MEAN_OF) this.#costs.shift();
    }
  }
}

/** What saving has taken so far. */
export interface SavingTimes {
  /** States saved. */
  readonly count: number;
  /** Milliseconds for which the run stood still: the read-out, and waits for the save before. */
  readonly blockedMs: number;
  /** Milliseconds of writing, most of them beside the steps. */
  readonly writingMs: number;
}

/** Writes one state at a time beside what follows; the run waits only for a save that is not done when the next is due. */
export class BackgroundSaver {
  #pending: Promise<void> = Promise.resolve();
  #count = 0;
  #blockedMs = 0;
  #writingMs = 0;

  /** What saving has taken so far. */
  get times(): SavingTimes {
    return { count: this.#count, blockedMs: this.#blockedMs, writingMs: this.#writingMs };
  }

  /**
   * Waits until nothing is being written.
   *
   * @throws What the last save threw.
   */
  async settled(): Promise<void> {
    const started = performance.now();
    try {
      await this.#pending;
    } finally {
      this.#blockedMs += performance.now() - started;
    }
  }

  /**
   * Reads a state out, which the run waits for, and writes it, which it does not.
   *
   * @param read Gives the state as it is now.
   * @param write Writes it.
   * @throws What the save before or `read` threw; what `write` throws comes with the next call.
   */
  async save<T>(read: () => T | Promise<T>, write: (state: T) => void | Promise<void>): Promise<void> {
    await this.settled();
    const started = performance.now();
    const state = await read();
    this.#blockedMs += performance.now() - started;
    this.#pending = (async () => {
      const begun = performance.now();
      await write(state);
      this.#count++;
      this.#writingMs += performance.now() - begun;
    })();
    this.#pending.catch(() => {}); // told to whoever waits next
  }
}

/** What a device does where the edge server says that a step's state is to be saved. */
export interface SaveHooks {
  /** Called when it says so. */
  announced(): Promise<void>;
  /** Called after each training step. */
  trained(step: number, isSaved: boolean): Promise<void>;
}
