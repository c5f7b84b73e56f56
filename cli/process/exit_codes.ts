/**
 * Exit codes: what the end of a program tells a script. `docs/exit_codes.md` has the same table; a test compares them.
 *
 * @module
 */

/** One way for a program to end. */
export interface Ending {
  /** Exit code. */
  readonly code: number;
  /** What it means, as the documentation has it. */
  readonly meaning: string;
}

/** All ways for a program to end. */
export const ENDINGS = {
  done: { code: 0, meaning: "All that was asked for is done and saved." },
  failed: {
    code: 1,
    meaning:
      "It cannot be done: a loss that is not finite, a file that is damaged, a plugin that is wrong, a full disk.",
  },
  usage: { code: 2, meaning: "The flags are wrong, or do not go together. Nothing was done." },
  refused: {
    code: 3,
    meaning: "The other side said no: a wrong token, another model, no place left. It will say so again.",
  },
  lost: {
    code: 4,
    meaning:
      "The other side did not come, did not answer in time or went away, or the run failed there. What was learnt is saved; try again.",
  },
  interrupted: {
    code: 130,
    meaning:
      "Someone ended it before its last step: Ctrl-C here or at the edge server, or the REST API. What was learnt is saved.",
  },
} as const satisfies Record<string, Ending>;

/** Name of a way to end. */
export type EndingName = keyof typeof ENDINGS;

/** How a program ends that an error ends. Errors of workers come as messages, so their names count. */
export function endingOf(error: unknown): EndingName {
  const name = error instanceof Error ? error.name : "";
  if (name === "UsageError") return "usage";
  if (name === "HandshakeError") return "refused";
  return name === "ChannelClosedError" || name === "DeadlineError" ? "lost" : "failed";
}

/** Exit code for an error. */
export function exitCodeFor(error: unknown): number {
  return ENDINGS[endingOf(error)].code;
}

/** What an exit code of a program of ours means; `null` for another one, such as of a process that was killed. */
export function endingWith(code: number): EndingName | null {
  const found = Object.entries(ENDINGS).find(([, ending]) => ending.code === code);
  return found === undefined ? null : found[0] as EndingName;
}

/** How a program ends whose parts ended so: the worst counts. A process that was killed is lost. */
export function worstOf(codes: readonly number[]): EndingName {
  return worstEnding(codes.map((code) => endingWith(code) ?? "lost"));
}

/** The worst of several ways to end. */
export function worstEnding(endings: readonly EndingName[]): EndingName {
  return (["usage", "failed", "refused", "lost", "interrupted"] as const).find((n) => endings.includes(n)) ??
    "done";
}
