/**
 * A step in one line, the same for every party: off a terminal and behind the bar.
 *
 * @module
 */

import { bytes } from "./progress.ts";

/** What is known of a step. */
export interface StepLine {
  /** The training loss; `null` where this party does not know it. */
  readonly loss: number | null;
  /** The last validation; `null` before the first, or where it is not known. */
  readonly validation?: number | null;
  /** Seconds of the step. */
  readonly seconds: number;
  /** Bytes and what they are, such as `/step` on the wire or ` held` on the adapter. */
  readonly traffic: { readonly bytes: number; readonly unit: "/step" | " held" };
  /** Heads that were not pruned in this step, of all layers. */
  readonly kept: number;
  /** All heads, of all layers. */
  readonly heads: number;
  /** Share of the importance that the pruner says it gave up; left out where it says nothing of it. */
  readonly gaveUp?: number | undefined;
}

/** Loss, validation, s/step, MB and kept heads, with two spaces between them. */
export function stepText(
  { loss, validation = null, seconds, traffic, kept, heads, gaveUp }: StepLine,
): string {
  return [
    ...(loss === null ? [] : [`loss ${loss.toFixed(3)}`]),
    ...(validation === null ? [] : [`validation ${validation.toFixed(3)}`]),
    `${seconds.toFixed(2)} s/step`,
    `${bytes(traffic.bytes)}${traffic.unit}`,
    ...(heads === 0 ? [] : [`kept ${kept}/${heads}`]),
    ...(gaveUp === undefined ? [] : [`gave up ${Math.round(100 * gaveUp)} % of importance`]),
  ].join("  ");
}

/**
 * The same in less and less room, for a bar on a narrow terminal: first with short units, then without the seconds,
 * then without the validation. The loss, MB and kept heads stay.
 */
export function stepTexts(line: StepLine): readonly string[] {
  const { loss, validation = null, seconds, traffic, kept, heads } = line;
  const lossText = loss === null ? [] : [`loss ${loss.toFixed(3)}`];
  const validationText = validation === null ? [] : [`val ${validation.toFixed(3)}`];
  const rest = [bytes(traffic.bytes), ...(heads === 0 ? [] : [`kept ${kept}/${heads}`])];
  const { gaveUp: _, ...plain } = line;
  const short = [
    [...lossText, ...validationText, `${seconds.toFixed(2)} s`, ...rest],
    [...lossText, ...validationText, ...rest],
    [...lossText, ...rest],
  ];
  const full = line.gaveUp === undefined ? [] : [stepText(line)];
  return [...full, stepText(plain), ...short.map((fields) => fields.join("  "))];
}

/** Kept heads of a head mask, in which 1 is pruned. */
export function keptIn(mask: ArrayLike<number>): number {
  let kept = 0;
  for (let i = 0; i < mask.length; i++) kept += 1 - mask[i]!;
  return kept;
}
