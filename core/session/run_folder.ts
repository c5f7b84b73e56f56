/**
 * Folders in which runs keep their state: found again, for one run at a time, and never lost to another run.
 *
 * @module
 */

import { RunStateError, SaveError } from "../contracts/errors.ts";
import { claimFolder, makeFolder, saveError } from "../files/atomic.ts";
import { entriesOf, isFolder, moveFiles, writtenAt } from "../files/folders.ts";
import { isMissing } from "../files/missing.ts";
import { openRunStates, type RunState, type RunStateSource, runStateWriter } from "./run_state.ts";

/** Folders beside the default one that runs at the same time may take. */
const MOST_BESIDE = 64;
const STATE = /^step-\d{8,10}\.safetensors$/;

/** Which folder a run keeps its state in. */
export interface RunFolderOptions {
  /** The folder; made if need be. */
  readonly folder: string;
  /**
   * True where nobody asked for this very folder: if another program uses it, the next of `FOLDER-2`, `FOLDER-3`, ...
   * is taken, and the state of an earlier run is set aside in `FOLDER/previous` at the first write. Else both are refused.
   *
   * @default {false}
   */
  readonly isDefault?: boolean | undefined;
  /**
   * What to go on from: a state, a folder of them, or `"newest"` for the newest state in the folder (or, if that is a
   * default, in those beside it); `null` for a new run.
   */
  readonly resume: string | null;
  /** Of several states that `"newest"` may mean: says which of them fit. @default {all} */
  readonly fits?: ((state: RunState) => boolean) | undefined;
  /** Called with what a person should know, in one line. */
  readonly tell?: ((line: string) => void) | undefined;
}

/** A folder that this program has claimed for a run. */
export interface RunFolder extends Disposable {
  /** The folder. */
  readonly path: string;
  /** What the run goes on from; `null` for a new run. */
  readonly resumed: RunStateSource | null;
  /** Writes a state; the last two are kept. */
  write(state: RunState): Promise<void>;
}

/**
 * Claims a folder for the state of a run, and opens what the run goes on from.
 *
 * @param options See {@linkcode RunFolderOptions}.
 * @returns The folder, this program's until it is disposed or the program ends.
 * @throws {RunStateError} If there is nothing to go on from, what is there is damaged, or a folder that was asked for
 * holds another run.
 * @throws {SaveError} If another program uses the folder, or it cannot be written.
 */
export async function openRunFolder(options: RunFolderOptions): Promise<RunFolder> {
  const { resume, tell = () => {} } = options;
  if (resume === null) return await beginIn(options);
  if (resume !== "newest") {
    const { folder, isDefault = false } = options;
    const resumed = await openRunStates(resume);
    const own = await isFolder(resume) ? resume : resume.replace(/[^/\\]*$/, "") || ".";
    return await openFor(isDefault ? own : folder, resumed);
  }
  const found = await newestState(options);
  if (found !== null) return found;
  tell(`There is no state of a run in ${options.folder} yet: a new run begins`);
  return await beginIn(options);
}

/** A new run, in the first folder that is free. */
async function beginIn({ folder, isDefault = false, tell = () => {} }: RunFolderOptions): Promise<RunFolder> {
  if (!isDefault) return await openFor(folder, null);
  for (const path of besides(folder)) {
    const claim = await claimFolder(path);
    if (claim === null) continue;
    let writer: ((state: RunState) => Promise<void>) | null = null;
    // Only a run that has come so far takes the place of another one.
    const write = async (state: RunState) => {
      if (writer === null) {
        await setAside(path, tell);
        writer = await runStateWriter(path, null);
      }
      await writer(state);
    };
    return { path, resumed: null, write, ...claim };
  }
  throw new SaveError(
    `Cannot keep the state of the run as one of ${folder} to ${folder}-${MOST_BESIDE} must be free: all are in use`,
  );
}

async function openFor(path: string, resumed: RunStateSource | null): Promise<RunFolder> {
  const claim = await claimFolder(path);
  if (claim === null) throw inUse(path);
  try {
    return { path, resumed, write: await runStateWriter(path, resumed), ...claim };
  } catch (error) {
    claim[Symbol.dispose]();
    throw error;
  }
}

/** The error of a folder that another program uses. */
function inUse(path: string): SaveError {
  return new SaveError(
    `Cannot use ${path} as one run at a time may keep its state there: another program is using it; wait for its end, or name another folder`,
  );
}

/** The newest state of the folders, in a folder that nobody uses; `null` if there is none. */
async function newestState(options: RunFolderOptions): Promise<RunFolder | null> {
  const { folder, isDefault = false, fits = () => true } = options;
  const found: { readonly path: string; readonly time: number }[] = [];
  for (const path of isDefault ? besides(folder) : [folder]) {
    const time = await newestTime(path);
    if (time !== null) found.push({ path, time });
  }
  found.sort((a, b) => b.time - a.time);
  let used: string | null = null;
  for (const { path } of found) {
    const claim = await claimFolder(path);
    if (claim === null) {
      used ??= path;
      continue;
    }
    try {
      const resumed = await openRunStates(path);
      if (fits(await resumed.load(resumed.steps.at(-1)!))) {
        return { path, resumed, write: await runStateWriter(path, resumed), ...claim };
      }
      claim[Symbol.dispose]();
    } catch (error) {
      claim[Symbol.dispose]();
      throw error;
    }
  }
  if (used !== null) throw inUse(used);
  return null;
}

/** When the newest state of a folder was written, in milliseconds; `null` if it holds none. */
async function newestTime(folder: string): Promise<number | null> {
  const names = (await entriesOf(folder)).map(({ name }) => name).filter((name) => STATE.test(name));
  const times = await Promise.all(names.map((name) =>
    writtenAt(`${folder}/${name}`).catch((error) => {
      if (isMissing(error)) return 0; // gone meanwhile
      throw error;
    })
  ));
  return times.length === 0 ? null : Math.max(...times);
}

function besides(folder: string): string[] {
  const plain = folder.replace(/(?<=.)[/\\]+$/, "");
  return [plain, ...Array.from({ length: MOST_BESIDE - 1 }, (_, i) => `${plain}-${i + 2}`)];
}

/**
 * Moves the states of an earlier run to `FOLDER/previous`, where a new run does not touch them.
 *
 * @param folder A folder of states; it need not be there.
 * @param tell Called with a line if the earlier run is not over, as somebody may want to go on with it.
 * @throws {SaveError} If they cannot be moved.
 */
export async function setAside(folder: string, tell: (line: string) => void): Promise<void> {
  if (await newestTime(folder) === null) return;
  const place = `${folder}/previous`;
  const state = await openRunStates(folder).then((found) => found.load(found.steps.at(-1)!), (error) => {
    if (error instanceof RunStateError) return null; // damaged: kept as it is
    throw error;
  });
  try {
    await makeFolder(place);
    await moveFiles(folder, place, STATE);
  } catch (error) {
    throw saveError(place, error);
  }
  if (state !== null && state.step < state.settings.steps) {
    tell(
      `${folder} held the state of a run that is not over (${state.step} of ${state.settings.steps} steps): it is in ${place} now`,
    );
  }
}
