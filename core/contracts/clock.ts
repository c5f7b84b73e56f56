/**
 * Where limits of waiting take their time from, so that a run can take place in virtual time.
 *
 * @module
 */

/** A clock that calls back. */
export interface RunClock {
  /** Milliseconds since some start. */
  now(): number;
  /**
   * Calls back at a time, soon (but never inside this call) if it has passed.
   *
   * @param atMs When.
   * @param callback What.
   * @returns A function that takes it back.
   */
  schedule(atMs: number, callback: () => void): () => void;
}

/** The clock of the wall. */
export const WALL_CLOCK: RunClock = {
  now: () => performance.now(),
  schedule(atMs, callback) {
    const timer = setTimeout(callback, Math.max(0, atMs - performance.now()));
    return () => clearTimeout(timer);
  },
};
