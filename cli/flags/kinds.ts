/**
 * What a flag is.
 *
 * @module
 */

/** A flag that takes text. */
export interface TextFlag {
  /** Which kind. */
  readonly kind: "text";
  /** What its value is called in the help. */
  readonly value: string;
  /** Its value where it is not given. */
  readonly default: string;
  /** What it does. */
  readonly help: string;
  /** The only values that it takes. */
  readonly choices?: readonly string[];
  /** Refuses values that are given. */
  readonly check?: (value: string) => void;
  /** Its value where the flag stands alone; without it that is the empty text. */
  readonly alone?: string;
}

/** Numbers that a flag takes. */
export interface NumberRange {
  /** Smallest value. */
  readonly min?: number;
  /** Largest value. */
  readonly max?: number;
  /** True if 0 is taken besides, though it is below the smallest value. @default {false} */
  readonly orZero?: boolean;
}

/** A flag that takes a number. */
export interface NumberFlag extends NumberRange {
  /** Which kind. */
  readonly kind: "number" | "integer";
  /** What its value is called in the help. */
  readonly value: string;
  /** Its value where it is not given. */
  readonly default: number;
  /** What it does. */
  readonly help: string;
  /** True if a value that fits the model is chosen where none is given, see `fitting.ts`. */
  readonly fits?: boolean;
}

/** A flag that is there or not. */
export interface SwitchFlag {
  /** Which kind. */
  readonly kind: "switch";
  /** What it does. */
  readonly help: string;
}

/** One flag. */
export type Flag = TextFlag | NumberFlag | SwitchFlag;

/** What stands around the list of flags in `--help`. */
export interface ProgramText {
  /** Its file in `examples/`. */
  readonly name: string;
  /** What it does, in a line or two. */
  readonly about: string;
  /** Commands to copy, as `edgetuner NAME`. */
  readonly examples: readonly string[];
}
