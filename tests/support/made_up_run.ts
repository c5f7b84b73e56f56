/**
 * A run that computes nothing, and what tests of the control server share.
 *
 * @module
 */

import type { EdgeServerEvent, JoinedDevice, RunHandle, StepRecord } from "@edgetuner/core";
import { type ControlAppOptions, createControlApp } from "@edgetuner/transport/server";
import { assert, assertEquals } from "@std/assert";
import { tinySettings } from "./tiny_model.ts";

/** Token of devices. */
export const JOIN = "join-token-1234";
/** Token of the API. */
export const ADMIN = "admin-token-1234";

/** A step. */
export const RECORD: StepRecord = {
  step: 3,
  mode: "train",
  loss: 1.5,
  times: { total: 5, prune: 1, readback: 1, codec: 1, wait: 1 },
  bytes: 100,
  mask: Uint8Array.of(0, 1),
  kept: [1],
  scores: Float32Array.of(0.5, 0.25),
  tokens: 26,
  batch: 1,
  answers: [{ first: 0, ms: 3, computeMs: 2 }],
  dataAnswers: [{ name: "phone", ms: 1 }],
};

/** A run that only remembers what was done to it. */
export class MadeUpRun implements RunHandle {
  readonly run = "made up";
  status: RunHandle["status"] = "running";
  readonly settings: RunHandle["settings"] = tinySettings("slice", 10);
  readonly devices: readonly JoinedDevice[] = [{
    name: "phone",
    id: "0123abcd",
    capacity: 2,
    data: true,
    range: { first: 0, count: 4 },
    connected: true,
  }];
  readonly latest: StepRecord | null = RECORD;
  readonly actions: string[] = [];
  readonly listeners = new Set<(event: EdgeServerEvent) => void>();

  traffic() {
    return [{ kind: "mask", direction: "sent", frames: 1, tensorBytes: 12, frameBytes: 80 } as const];
  }
  pause(): void {
    this.actions.push("pause");
    this.status = "paused";
  }
  resume(): void {
    this.actions.push("resume");
    this.status = "running";
  }
  stop(): void {
    this.actions.push("stop");
    this.emit({ type: "status", status: this.status = "ended", reason: "stopped" });
  }
  subscribe(listener: (event: EdgeServerEvent) => void) {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }
  emit(event: EdgeServerEvent): void {
    for (const listener of this.listeners) listener(event);
  }
}

/** A control app with one run. */
export function appOf(
  run: RunHandle,
  options: Partial<ControlAppOptions> = {},
): ReturnType<typeof createControlApp> {
  return createControlApp({
    runs: new Map([[run.run, run]]),
    joinToken: JOIN,
    adminToken: ADMIN,
    ...options,
  });
}

/** Checks that a response is a problem, and returns its text. */
export async function assertProblem(response: Response, status: number): Promise<string> {
  assertEquals([response.status, response.headers.get("content-type")], [status, "application/problem+json"]);
  const problem = await response.json();
  assertEquals(problem.status, status);
  for (const name of ["type", "title", "detail"]) {
    assert(typeof problem[name] === "string" && problem[name] !== "");
  }
  return problem.detail;
}
