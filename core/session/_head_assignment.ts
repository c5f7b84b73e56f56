/**
 * Which device of a run has which heads.
 *
 * @module
 */

import { HandshakeError } from "../contracts/errors.ts";
import { showValue } from "../contracts/plain_text.ts";
import { allocateHeads, type HeadRange } from "../lora/allocation.ts";
import { type LoraSettings, loraText } from "../lora/settings.ts";
import type { MetaOf } from "../protocol/messages.ts";
import { isSame, savedWithHeads, textOf } from "./_identity.ts";
import type { RunState } from "./run_state.ts";
import type { RunMember } from "./run_member.ts";

/** The devices with heads in order of their heads, and which each has. */
export interface HeadAssignment {
  /** The devices. */
  readonly members: readonly RunMember[];
  /** The heads of each. */
  readonly ranges: readonly HeadRange[];
}

/** Heads by what each device can. */
export function newAssignment(heads: number, members: readonly RunMember[]): HeadAssignment {
  return { members, ranges: allocateHeads(heads, members.map((m) => m.device.capacity)) };
}

/** Whoever had heads has them again, whatever the order of joining. */
export function savedAssignment(
  run: string,
  { devices }: RunState,
  headMembers: readonly RunMember[],
): HeadAssignment {
  const saved = savedWithHeads(devices);
  const members = saved.map((device) => {
    const member = headMembers.find(({ hello }) => isSame(hello, device));
    if (member !== undefined) return member;
    throw new HandshakeError(
      `Cannot go on with run "${run}" as the devices with heads must be those of the saved state, ${
        saved.map(textOf).join(", ")
      }: ${textOf(device)} is missing among ${headMembers.map((m) => textOf(m.hello)).join(", ")}`,
    );
  });
  return { members, ranges: saved.map((device) => device.range) };
}

/**
 * In generation a device brings heads of its own: they must be those of this run and nobody else's.
 *
 * @throws {HandshakeError} If they are not.
 */
export function requireOwnHeads(
  { name, learnt }: MetaOf<"hello">,
  { heads, lora, headMembers }: {
    readonly heads: number;
    readonly lora: LoraSettings;
    readonly headMembers: readonly RunMember[];
  },
): void {
  if (learnt === undefined || learnt.range.first + learnt.range.count > heads) {
    throw new HandshakeError(
      `Cannot admit "${name}" as it must have learnt some of ${heads} heads before: current value is ${
        showValue(learnt?.range ?? null)
      }`,
    );
  }
  const [own, run] = [loraText(learnt.lora), loraText(lora)];
  if (own !== run) {
    throw new HandshakeError(
      `Cannot admit "${name}" as its heads must have learnt with the run's LoRA settings, ${run}: current value is ${own}`,
    );
  }
  const { first, count } = learnt.range;
  const other = headMembers.find(({ hello }) => {
    const { range } = hello.learnt!;
    return range.first < first + count && first < range.first + range.count;
  });
  if (other !== undefined) {
    throw new HandshakeError(
      `Cannot admit "${name}" as each head must be on one device: some of its heads ${first} to ${
        first + count - 1
      } are on "${other.device.name}"`,
    );
  }
}

/** The heads that devices bring to generation. */
export function ownAssignment(heads: number, headMembers: readonly RunMember[]): HeadAssignment {
  const owned = headMembers.map((member) => ({
    member,
    range: member.hello.learnt!.range,
  }))
    .sort((a, b) => a.range.first - b.range.first);
  let next = 0;
  for (const { range } of owned) {
    if (range.first !== next) break;
    next += range.count;
  }
  if (next !== heads) {
    throw new HandshakeError(
      `Cannot generate as the devices must have all ${heads} heads of a layer together: head ${next} is on none`,
    );
  }
  return { members: owned.map((o) => o.member), ranges: owned.map((o) => o.range) };
}
