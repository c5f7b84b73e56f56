/**
 * What devices may ask before they join: the runs, and what a device with data needs of a model.
 *
 * @module
 */

import { type RunHandle, shapeForDevices } from "@edgetuner/core";
import { problemResponse } from "../problem.ts";
import type { ModelAbout, RunAbout } from "../run_about.ts";
import type { Handlers } from "./_binding.ts";
import type { Caller } from "./_who.ts";

/** A model of which devices with data may have embedding, final norm and LM head. */
export interface ServedModel {
  /** What it is; read when it is first asked for. */
  about(): Promise<ModelAbout>;
  /** Values of one of its `ends` as f32, piece by piece; `null` for any other name. */
  values(name: string): Promise<Iterable<Uint8Array<ArrayBuffer>> | null>;
}

/**
 * Handlers of what a device with data needs of the model of its run. A device that was invited to one run hears of no
 * other.
 *
 * @param models Models of runs, by the names of these.
 */
export function modelHandlers(
  models: ReadonlyMap<string, ServedModel>,
): Pick<Handlers, "GET /join/model/:run" | "GET /join/model/:run/tensors/:name"> {
  const modelOf = (run: string, caller: Caller) =>
    [undefined, run].includes(caller.run) ? models.get(run) : undefined;
  return {
    "GET /join/model/:run": async ({ params: { run }, caller, request }) => {
      const model = modelOf(run, caller);
      return model === undefined ? notServed(request) : { data: await model.about() };
    },
    "GET /join/model/:run/tensors/:name": async ({ params: { run, name }, caller, request }) => {
      const values = await modelOf(run, caller)?.values(name) ?? null;
      if (values === null) return notServed(request);
      const pieces = values[Symbol.iterator]();
      const stream = new ReadableStream<Uint8Array<ArrayBuffer>>({
        pull(controller) {
          const { value, done } = pieces.next();
          if (done === true) controller.close();
          else controller.enqueue(value);
        },
        cancel: () => void pieces.return?.(),
      });
      return new Response(stream, { headers: { "content-type": "application/octet-stream" } });
    },
  };
}

function notServed({ url }: Request): Response {
  return problemResponse({
    status: 404,
    title: "Not served",
    detail: `Cannot answer as the run must serve it: ${new URL(url).pathname} is not served`,
  });
}

/** What a device is told of a run. */
export function aboutOf(run: RunHandle): RunAbout {
  const { latest, settings: { lora, steps, codec = "f32" } } = run;
  const isTraining = latest?.mode === "train";
  return {
    run: run.run,
    status: run.status,
    step: latest === null ? 0 : latest.step + (isTraining ? 1 : 0),
    steps,
    loss: isTraining ? latest.loss : null,
    stepMs: isTraining ? latest.times.total : null,
    model: run.model === undefined ? null : shapeForDevices(run.model),
    base: run.base ?? null,
    lora: { ...lora },
    codec,
    places: run.places ?? 0,
    devices: run.devices.map(({ name, id, capacity, range, data, connected }) => ({
      ...{ name, id, capacity, data, connected },
      heads: range?.count ?? null,
    })),
  };
}
