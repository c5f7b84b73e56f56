/**
 * Models as commands open them: what a person should know of their files is said, once.
 *
 * @module
 */

import {
  loadModel,
  type ModelFolder,
  type OpenedModel,
  openModel,
  type OpenModelOptions,
} from "@edgetuner/core";

const told = new Set<string>();

function tell({ notices = [] }: ModelFolder): void {
  for (const notice of notices) {
    if (!told.has(notice)) console.error(notice);
    told.add(notice);
  }
}

/** As `openModel`, with the notices of the model on standard error. */
export async function openTold(path: string, options: OpenModelOptions = {}): Promise<OpenedModel> {
  const opened = await openModel(path, options);
  tell(opened.model);
  return opened;
}

/** As `loadModel`, with the notices of the model on standard error. */
export async function loadTold(path: string): Promise<ModelFolder> {
  const model = await loadModel(path);
  tell(model);
  return model;
}
