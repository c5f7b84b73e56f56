/**
 * Whose turn it is, where several people's data trains one model.
 *
 * All of it follows from the seed of the run, the weights of the owners, and who was there in which step: so a run that
 * goes on from a state, or a step that begins again, is one bit for bit.
 *
 * @module
 */

/** How turns are shared out: as examples are, or alike. */
export type DataShare = "examples" | "equal";

/** All ways to share turns out. */
export const DATA_SHARES = ["examples", "equal"] as const satisfies readonly DataShare[];

/** An owner of data, as turns see it. */
export interface TurnOwner {
  /** Who it is, the same whenever it comes back. */
  readonly key: string;
  /** Its name, for people; with the seed it decides who of two is first. */
  readonly name: string;
  /** How many turns it gets, compared with the others; positive. */
  readonly weight: number;
}

/** An owner of data in the state of a run. */
export interface SavedTurns extends TurnOwner {
  /** Batches of it that the run has trained on. */
  readonly given: number;
  /** Where it is in the order of turns. */
  readonly pass: number;
  /** Turns that it is owed; below 0 if it has had more than its share. */
  readonly owed: number;
  /** True once it has no further batch. */
  readonly isDone: boolean;
}

/** The same, while the run goes on. */
type Turns = { -readonly [K in keyof SavedTurns]: SavedTurns[K] };

/** Whose turns a step is. */
export interface DrawnTurns {
  /** The owners in order, each with its number of parts. */
  readonly parts: ReadonlyMap<string, number>;
  /** What is true once the step is done. */
  readonly after: readonly SavedTurns[];
}

/**
 * The order of turns. Owners that are there take turns by their weights. One that was away is owed what it missed, and
 * has twice as many turns as its weight says until it has caught up: so no step is left out, and no owner alone has the
 * model for long.
 */
export class DataTurns {
  readonly #seed: number;
  #owners: readonly Turns[] = [];

  /**
   * Begins with no owner.
   *
   * @param seed Seed of the run.
   * @param saved The turns of the state that the run goes on from. @default {none}
   */
  constructor(seed: number, saved: readonly SavedTurns[] = []) {
    this.#seed = seed;
    this.#owners = saved.map((owner) => ({ ...owner }));
  }

  /** What a state notes. */
  get saved(): readonly SavedTurns[] {
    return this.#owners.map((owner) => ({ ...owner }));
  }

  /** True if it knows an owner. */
  has(key: string): boolean {
    return this.#owners.some((owner) => owner.key === key);
  }

  /** Batches that an owner has given so far: the number of its next one. */
  given(key: string): number {
    return this.#of(key).given;
  }

  /** True if an owner has no further batch. */
  isDone(key: string): boolean {
    return this.#of(key).isDone;
  }

  /**
   * Takes in an owner; one that it knows stays as it is.
   *
   * @throws {RangeError} If its weight is not positive.
   */
  add(owner: TurnOwner): void {
    if (this.has(owner.key)) return;
    const { name, weight } = owner;
    if (!(weight > 0 && Number.isFinite(weight))) {
      throw new RangeError(
        `Cannot give turns to "${name}" as its weight must be positive: current value is ${weight}`,
      );
    }
    // Who comes late has missed nothing.
    const pass = Math.min(...this.#owners.filter((o) => !o.isDone).map((o) => o.pass));
    const own = { ...owner, given: 0, pass: Number.isFinite(pass) ? pass : 0, owed: 0, isDone: false };
    const order = (o: TurnOwner) => hashOf(`${this.#seed} ${o.name}`);
    const text = (o: TurnOwner) => `${o.name}\n${o.key}`;
    this.#owners = [...this.#owners, own].sort((a, b) => order(a) - order(b) || (text(a) < text(b) ? -1 : 1));
  }

  /** An owner has no further batch. */
  finish(key: string): void {
    this.#of(key).isDone = true;
  }

  /**
   * Whose turn it is.
   *
   * @param present Keys of the owners that are there.
   * @param parts Parts of the step that are drawn one by one.
   * @returns `null` if none of them has a further batch.
   */
  draw(present: ReadonlySet<string>, parts = 1): DrawnTurns | null {
    const after: Turns[] = this.#owners.map((owner) => ({ ...owner }));
    const open = after.filter((owner) => !owner.isDone);
    const there = open.filter(({ key }) => present.has(key));
    if (there.length === 0) return null;
    const weights = open.reduce((sum, { weight }) => sum + weight, 0);
    const drawn = new Map<string, number>();
    for (let part = 0; part < parts; part++) {
      const next = there.reduce((a, b) => b.pass < a.pass ? b : a);
      drawn.set(next.key, (drawn.get(next.key) ?? 0) + 1);
      for (const owner of open) owner.owed += owner.weight / weights;
      next.pass += 1 / (next.owed >= CATCHES_UP ? 2 * next.weight : next.weight);
      next.owed--;
      next.given++;
      // Who is away does not fall behind in the order: what it misses is owed to it.
      const least = Math.min(...there.map(({ pass }) => pass));
      for (const owner of open) if (!present.has(owner.key)) owner.pass = Math.max(owner.pass, least);
    }
    return { parts: drawn, after };
  }

  /** What is true once a step that was drawn is done. */
  after({ after }: DrawnTurns): readonly SavedTurns[] {
    const known = new Map(after.map((owner) => [owner.key, owner]));
    return this.#owners.map((owner) => ({ ...known.get(owner.key) ?? owner, isDone: owner.isDone }));
  }

  /** A step that was drawn is done. */
  take(drawn: DrawnTurns): void {
    this.#owners = this.after(drawn).map((owner) => ({ ...owner }));
  }

  #of(key: string): Turns {
    const owner = this.#owners.find((o) => o.key === key);
    if (owner === undefined) throw new TypeError(`Cannot find the turns of "${key}": it has none`);
    return owner;
  }
}

/** Turns owed, with the one that it takes, from which on an owner catches up: equal owners owe each other less. */
const CATCHES_UP = 1.001;

/** FNV-1a, 32 bits. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}
