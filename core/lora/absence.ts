/**
 * What an adapter says of heads whose devices were away: what they have not learnt, and who was missing when it was
 * saved.
 *
 * @module
 */

/** Heads that missed training steps, as their device was away. */
export interface MissedSteps {
  /** Heads of every layer. */
  readonly heads: readonly number[];
  /** Training steps that they did not take part in. */
  readonly steps: number;
}

/** What is known of heads that were away; nothing is left out only because it is not known. */
export interface Absences {
  /** Heads of every layer, of any device, that were away when the adapter was saved, or in the validation that chose it. */
  readonly away?: readonly number[];
  /** Heads that missed training steps, of any device. */
  readonly missed?: readonly MissedSteps[];
}

/**
 * Heads that missed steps, by how many.
 *
 * @param counts Training steps that each head missed, in order of the heads.
 */
export function missedSteps(counts: Iterable<readonly [head: number, steps: number]>): MissedSteps[] {
  const heads = Map.groupBy([...counts].filter(([, steps]) => steps > 0), ([, steps]) => steps);
  return [...heads].map(([steps, all]) => ({ heads: all.map(([head]) => head), steps }));
}

/** What several parts of an adapter say together. */
export function joinAbsences(parts: readonly Absences[]): Absences {
  const away = [...new Set(parts.flatMap((part) => part.away ?? []))].sort((a, b) => a - b);
  // The part that was saved last knows most.
  const most = new Map<number, number>();
  for (const { heads, steps } of parts.flatMap((part) => part.missed ?? [])) {
    for (const head of heads) most.set(head, Math.max(steps, most.get(head) ?? 0));
  }
  const missed = missedSteps([...most].sort(([a], [b]) => a - b));
  return { ...(away.length > 0 && { away }), ...(missed.length > 0 && { missed }) };
}

/**
 * Reads what a file says.
 *
 * @param config What it says of itself.
 * @param heads H, heads of a layer.
 * @throws {RangeError} If it says what cannot be.
 */
export function readAbsences(config: Readonly<Record<string, unknown>>, heads: number): Absences {
  const { away = [], missed = [] } = config as { away?: unknown; missed?: unknown };
  const areHeads = (list: unknown): list is number[] =>
    Array.isArray(list) && list.length <= heads &&
    list.every((head) => Number.isInteger(head) && head >= 0 && head < heads);
  const areMissed = Array.isArray(missed) && missed.length <= heads &&
    missed.every((m) => areHeads(m?.heads) && Number.isSafeInteger(m.steps) && m.steps > 0);
  if (!areHeads(away) || !areMissed) {
    throw new RangeError(`"away" and "missed" must name heads from 0 to ${heads - 1}: they do not`);
  }
  return joinAbsences([{
    away,
    missed: missed.map(({ heads, steps }: MissedSteps) => ({ heads: [...heads], steps })),
  }]);
}

/**
 * In words, a line each; none where no head was away.
 *
 * @param absences What is known.
 */
export function absenceLines({ away = [], missed = [] }: Absences): string[] {
  return [
    ...(away.length === 0 ? [] : [`It was saved while heads ${listed(away)} were away.`]),
    ...missed.map(({ heads, steps }) =>
      `Heads ${listed(heads)} missed ${steps} training step${steps === 1 ? "" : "s"}: their device was away.`
    ),
  ];
}

/** Numbers in words, those that follow each other as "2 to 5". */
function listed(numbers: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const n of numbers) {
    const last = runs.at(-1);
    if (last !== undefined && n === last[1] + 1) last[1] = n;
    else runs.push([n, n]);
  }
  return runs.map(([a, b]) => a === b ? `${a}` : `${a} to ${b}`).join(", ");
}
