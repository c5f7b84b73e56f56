/**
 * What a device with heads needs, and no more: importing it loads no tokenizer, no format of data and no model family,
 * so that pages stay small. All of it is in `@edgetuner/core` too.
 *
 * @module
 */

export type { Channel } from "./contracts/channel.ts";
export { ChannelClosedError, HandshakeError } from "./contracts/errors.ts";
export { headSizeOf, type ModelShape } from "./contracts/model_shape.ts";
export { type ByteStore, checkStoreName, folderStore, memoryStore } from "./files/byte_store.ts";
export { type Adapter, adapterFiles, adapterOf, readAdapter, withZeroHeads } from "./lora/adapter.ts";
export { allocateHeads } from "./lora/allocation.ts";
export type { HeadModules } from "./lora/head_modules.ts";
export { headParameters, type LoraSettings, modeSize } from "./lora/settings.ts";
export { findRunCodecs } from "./protocol/run_codecs.ts";
export { describeStep, messagesOf } from "./protocol/step.ts";
export { messageBytes } from "./protocol/traffic.ts";
export { newDeviceId } from "./session/device_id.ts";
export { type DeviceKey, newDeviceKey } from "./session/device_key.ts";
export { forgetRunStates, storedRunStates, storeRunState } from "./session/run_state_store.ts";
export { type HeadsDeviceOptions, runHeadsDevice } from "./session/heads_device.ts";
export type { UserDeviceOptions, UserDeviceResult } from "./session/user_device_options.ts";
export { warmUpHeads } from "./session/warm_heads.ts";
export type { Welcome } from "./session/welcome.ts";
export { headMemory } from "./train/head_memory.ts";
