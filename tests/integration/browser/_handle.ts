/**
 * A run of the small model as a control server shows it.
 *
 * @module
 */

import { type EdgeServer, type ModelShape, type RunHandle, shapeForDevices } from "@edgetuner/core";
import type { TinyBase } from "../../support/tiny_model.ts";

/** The run of an edge server, with places for `places` devices that have heads; the model may be said to be another. */
export function handleOf(
  server: EdgeServer,
  { layers }: TinyBase,
  places: number,
  shape: ModelShape = shapeForDevices(layers.shape),
): RunHandle {
  return {
    run: server.run,
    settings: server.settings,
    model: shape,
    base: { name: "gpt2_base", family: "gpt2", kvHeads: layers.shape.kvHeads },
    places,
    get status() {
      return server.status;
    },
    get devices() {
      return server.devices;
    },
    get latest() {
      return server.latest;
    },
    traffic: () => server.traffic(),
    pause: () => server.pause(),
    resume: () => server.resume(),
    stop: (reason) => server.stop(reason),
    remove: (device) => server.remove(device),
    subscribe: (listener) => server.subscribe(listener),
  };
}
