/**
 * What devices may ask before they join: the runs, and what a device with data needs of a model.
 *
 * @module
 */

import type { Context, Hono } from "hono";
import { type RunHandle, shapeForDevices } from "@edgetuner/core";
import { problemResponse } from "../problem.ts";
import type { ModelAbout, RunAbout } from "../run_about.ts";

/** A model of which devices with data may have embedding, final norm and LM head. */
export interface ServedModel {
  /** What it is; read when it is first asked for. */
  about(): Promise<ModelAbout>;
  /** Values of one of its `ends` as f32, piece by piece; `null` for any other name. */
  values(name: string): Promise<Iterable<Uint8Array<ArrayBuffer>> | null>;
}

/**
 * Adds what a device with data needs of a run's model: `GET /join/model/RUN`, what it is, and below it `/tensors/NAME`.
 * Whatever guards `/join/*` guards these too.
 *
 * @param app Where to.
 * @param models Models of runs, by the names of these.
 */
export function addModelRoutes(
  app: Hono,
  models: ReadonlyMap<string, ServedModel>,
): void {
  app.get("/join/model/:run", async (context) => {
    const model = models.get(context.req.param("run"));
    return model === undefined ? missing(context) : context.json(await model.about());
  });
  app.get("/join/model/:run/tensors/:name", async (context) => {
    const values = await models.get(context.req.param("run"))?.values(context.req.param("name")) ?? null;
    if (values === null) return missing(context);
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
  });
}

function missing({ req: { path } }: Context): Response {
  return problemResponse({
    status: 404,
    title: "Not served",
    detail: `Cannot answer as the run must serve it: ${path} is not served`,
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
