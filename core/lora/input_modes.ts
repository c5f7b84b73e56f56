/**
 * The list of input modes.
 *
 * @module
 */

import type { InputMode } from "./input_mode.ts";
import { coreInput } from "./input_modes/core.ts";
import { fullInput } from "./input_modes/full.ts";
import { sliceInput } from "./input_modes/slice.ts";

/** All input modes by name: a new one is one file in `input_modes/` and one line here. */
export class InputModes {
  /** Each head module reads its own d / H columns of X: A is r x D. */
  readonly slice: InputMode = sliceInput;
  /** Each head module reads all of X, as in standard LoRA: A is r x d. */
  readonly full: InputMode = fullInput;
  /** The edge server projects X to r numbers a head and target, and the device trains R [r, r] alone. */
  readonly core: InputMode = coreInput;
}

/** Name of an input mode. */
export type InputModeName = keyof InputModes;

/** The input modes by name. */
export const INPUT_MODES: Readonly<InputModes> = new InputModes();

/** Names of the input modes, in the order of the list. */
export const INPUT_MODE_NAMES: readonly InputModeName[] = Object.keys(INPUT_MODES) as InputModeName[];
