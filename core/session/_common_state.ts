/**
 * The state that a run goes on from: the newest one that all parties have.
 *
 * @module
 */

import { HandshakeError } from "../contracts/errors.ts";
import type { RunSettings } from "../train/run_settings.ts";
import { isSame, textOf } from "./_identity.ts";
import type { RunMember } from "./run_member.ts";
import type { RunState, RunStateSource } from "./run_state.ts";
import { requireSameRun } from "./same_run.ts";

/** What the run must be. */
export interface CommonStateOptions {
  /** Its name. */
  readonly run: string;
  /** The states of the edge server. */
  readonly resume: RunStateSource;
  /** The devices that must have one of the same step. */
  readonly parties: readonly RunMember[];
  readonly settings: Required<RunSettings>;
  readonly fingerprint: string;
  /** Name of the pruner. */
  readonly pruner: string;
}

/**
 * The newest state whose step all parties have. Devices that were away then need none of it: they go on with what
 * they have, as whoever comes back does.
 *
 * @throws {HandshakeError} If there is none, or the run is another one.
 */
export async function commonState(options: CommonStateOptions): Promise<RunState> {
  const { run, resume, parties, settings, fingerprint, pruner } = options;
  for (const step of resume.steps.toSorted((a, b) => b - a)) {
    const state = await resume.load(step);
    const has = (member: RunMember) => {
      const trained = trainedOf(state, member) ?? -1;
      return statesOf(member).some((own) => own === step || own <= trained);
    };
    if (!parties.every(has)) continue;
    requireSameRun(state, { settings, fingerprint });
    if (state.pruning?.pruner === pruner) return state;
    throw new HandshakeError(
      `Cannot go on with run "${run}" as the pruner must be "${state.pruning?.pruner}", as in the saved state: current value is "${pruner}"`,
    );
  }
  throw new HandshakeError(
    `Cannot go on with run "${run}" as all must have a state of the same step: the edge server has ${resume.steps}, ${
      parties.map((m) => `${textOf(m.hello)} ${statesOf(m)}`).join(", ")
    }`,
  );
}

/** Of a device that was away when a state was saved: the training steps that count for it. */
export function trainedOf({ devices }: RunState, { hello }: RunMember): number | undefined {
  return devices?.find((device) => isSame(device, hello))?.trained;
}

/** Training steps that a device has missed until a state. */
export function missedOf({ devices, step }: RunState, { hello }: RunMember): number {
  const { missed = 0, trained = step } = devices?.find((device) => isSame(device, hello)) ?? {};
  return missed + step - trained;
}

function statesOf({ hello }: RunMember): readonly number[] {
  return hello.states?.steps ?? [];
}
