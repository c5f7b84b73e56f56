/**
 * What a device needs beside `@edgetuner/core/device` to have the data, and to take adapters away: model families,
 * tokenizers and formats of texts. A page loads it when it is asked for.
 *
 * @module
 */

export { peftFiles, toPeft } from "./lora/peft.ts";
export { runUserDevice } from "./session/user_device.ts";
export type { ModelFamily } from "./model/families.ts";
