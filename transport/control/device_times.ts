/**
 * Where the time of a step goes on each device.
 *
 * @module
 */

import type { AnswerTime, JoinedDevice, StepRecord } from "@edgetuner/core";

/** The time of a device in a step: its parts add up to the whole step. */
export interface DeviceTime {
  /** Name of the device. */
  readonly device: string;
  /** True for heads, false for data: a device may have both. */
  readonly heads: boolean;
  /** Its first head; `null` for data. */
  readonly first: number | null;
  /** Milliseconds in which it was asked something: its computing and the wire. */
  readonly ms: number;
  /** Milliseconds of them in which it computed; `null` if it does not tell. */
  readonly computeMs: number | null;
  /** Milliseconds in which nothing was asked of it. */
  readonly waitMs: number;
}

/**
 * The time of each device in a step, by what it did; devices that were asked nothing are left out.
 *
 * @param record The step.
 * @param devices The devices of the run, which heads belong to.
 */
export function deviceTimes(
  { times: { total }, answers = [], dataAnswers = [] }: Pick<StepRecord, "times" | "answers" | "dataAnswers">,
  devices: readonly JoinedDevice[],
): DeviceTime[] {
  const time = ({ ms, computeMs }: Pick<AnswerTime, "ms" | "computeMs">) => (
    { ms, computeMs: computeMs ?? null, waitMs: Math.max(0, total - ms) }
  );
  const nameOf = (first: number) =>
    devices.find(({ capacity, range }) => capacity > 0 && range?.first === first)?.name ??
      `heads from ${first}`;
  return [
    ...answers.map((answer) => ({
      device: nameOf(answer.first),
      heads: true,
      first: answer.first,
      ...time(answer),
    })),
    ...dataAnswers.map((answer) => ({ device: answer.name, heads: false, first: null, ...time(answer) })),
  ];
}
