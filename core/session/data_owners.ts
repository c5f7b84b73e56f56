/**
 * Several people's data in one run: owners take turns, each with its own texts, labels, order and validation.
 *
 * The edge server says whose turn it is. What travels of an owner's turn is what travels of the only data device's step:
 * E, h_L and its gradient.
 *
 * @module
 */

import type { Engine, Tensor } from "@edgetuner/kernels";
import type { RunClock } from "../contracts/clock.ts";
import { ChannelClosedError } from "../contracts/errors.ts";
import { type AccumulationStep, WHOLE_STEP } from "../contracts/micro_batches.ts";
import type { EmbeddedBatch, LossPass, LossResult, StepMode } from "../contracts/ports.ts";
import type { SplitShape } from "../protocol/pass.ts";
import { DataTurns, type DrawnTurns } from "../train/data_turns.ts";
import type { DataSharing } from "./data_sharing.ts";
import type { DataSource, DecodingRequest } from "./data_source.ts";
import { type SavedSharing, SharedValidation, type SharedValidationEvent } from "./shared_validation.ts";
import { type OwnedBatch, RemoteData } from "./remote_data.ts";
import { stepClock } from "./head_members.ts";
import type { DataAnswerTime } from "./run_events.ts";
import type { RunMember } from "./run_member.ts";
import type { WaitTimer } from "./wait_timer.ts";

/** What owners of data are asked with. */
export interface DataOwnersOptions {
  /** The engine of the base model. */
  readonly engine: Engine;
  /** How data is shared. */
  readonly sharing: DataSharing;
  /** Seed of the run. */
  readonly seed: number;
  /** What the run goes on from. @default {nothing} */
  readonly saved?: SavedSharing | undefined;
  /** Shapes of the run for an owner, who may tell its loss. */
  run(sharesLoss: boolean): SplitShape;
  /** Counts the time spent waiting for them. */
  readonly waits: WaitTimer;
  /** Training steps of the run. */
  readonly steps: number;
  /** Parts of a training step. */
  readonly accumulate: number;
  /** Micro-batches. */
  readonly microBatches: number;
  /** Heads of every layer whose devices are away. */
  away(): readonly number[];
  /** True to ask the next owner while a step is computed. */
  readonly overlap: boolean;
  /** Longest time in milliseconds that an owner may keep the others waiting in a step. @default {Infinity} */
  readonly stepDeadlineMs?: number | undefined;
  /** The clock of that. */
  readonly clock: RunClock;
  /** Longest time in milliseconds between two words to those who wait for their turns. */
  readonly tellEveryMs: number;
  /** All devices with data that have joined. */
  members(): readonly RunMember[];
  /** True if a device is away. */
  isAway(member: RunMember): boolean;
  /** Lets a device in that has joined late. */
  welcome(member: RunMember, step: number): Promise<void>;
  /** Waits for owners that are away; false if none came back in time. */
  waitForAway(step: number): Promise<boolean>;
  /** A validation is done. */
  onValidation(event: SharedValidationEvent): void;
}

/** An owner of data. */
interface Owner {
  readonly key: string;
  readonly member: RunMember;
  readonly data: RemoteData;
  /** What it was asked for while the step before was computed; `null` if nothing. */
  ahead: Ahead | null;
}

/** A batch that was asked for before its step. */
interface Ahead {
  readonly step: number;
  readonly position: number;
  readonly batch: Promise<OwnedBatch | null>;
}

/** A step that is under way. */
interface OwnersStep {
  readonly step: number;
  readonly mode: StepMode;
  /** Whose parts it has, in order, and E of the first part of each. */
  readonly owners: readonly { readonly owner: Owner; readonly batch: OwnedBatch }[];
  /** The owner whose parts are computed. */
  at: number;
  /** Parts so far, those of all owners, and rows of them. */
  part: AccumulationStep;
  rows: number;
  /** What is true of turns once it is done. */
  readonly drawn: DrawnTurns | null;
  /** Losses that owners told. */
  readonly losses: LossResult[];
}

/** The owners of data, as the steps see them. */
export class DataOwners implements DataSource, Disposable {
  readonly #options: DataOwnersOptions;
  readonly #turns: DataTurns;
  readonly #validation: SharedValidation;
  readonly #owners = new Map<RunMember, Owner>();
  readonly #telling = new Map<RunMember, Promise<void>>();
  readonly #ticking: ReturnType<typeof setInterval>;
  #current: OwnersStep | null = null;
  /** True once nobody has a further batch. */
  #isOver = false;
  /** The owner that generates, and those that need not any more; `null` before all steps are done. */
  #generating: Owner | null = null;
  #hasGenerated: Set<string> | null = null;
  best = false;
  saves = false;

  /** See `DataOwnersOptions`. */
  constructor(options: DataOwnersOptions) {
    this.#options = options;
    this.#turns = new DataTurns(options.seed, options.saved?.turns);
    this.#validation = new SharedValidation(options.saved?.best);
    for (const member of options.members()) this.#take(member);
    this.#ticking = setInterval(() => this.#tellWaiting(), options.tellEveryMs);
  }

  /** Names of the owners whose data the step is of. */
  get names(): readonly string[] {
    return this.#current?.owners.map(({ owner }) => owner.member.device.name) ?? [];
  }

  get embeddingRows(): readonly number[] {
    return this.#current?.owners.flatMap(({ owner }) => owner.data.embeddingRows) ?? [];
  }

  get dataAnswers(): readonly DataAnswerTime[] {
    return this.#current?.owners.flatMap(({ owner }) => owner.data.dataAnswers) ?? [];
  }

  /** What a state after so many training steps notes. */
  savedAt(step: number): SavedSharing {
    const current = this.#current;
    const isDone = current !== null && current.drawn !== null && current.step < step;
    const turns = isDone ? this.#turns.after(current.drawn!) : this.#turns.saved;
    return { turns, best: this.#validation.best };
  }

  /** An owner has come back over another connection. */
  goOnOver(member: RunMember): void {
    const owner = this.#owners.get(member);
    // Who has taken over heads has had its welcome with them.
    if (owner === undefined) return this.#take(member);
    forgetAhead(owner);
    owner.data.goOnOver(member.peer);
  }

  /** The next step's batch: of validation where it is due, else of whoever's turn it is. */
  async request(step: number): Promise<EmbeddedBatch | DecodingRequest | null> {
    if (this.#hasGenerated !== null) return await this.#generation(step);
    await this.settle(step);
    await this.#admit(step);
    const batch = await this.#evaluation(step) ?? await this.#training(step) ?? await this.#last(step);
    return batch ?? await this.#generation(step);
  }

  /** The step before counts: turns go on, and those without heads hear whether a state follows it. */
  async settle(step: number): Promise<void> {
    const [turns, validation] = [this.#turns, this.#validation];
    const current = this.#current;
    this.#current = null;
    if (current === null) return;
    for (const { owner } of current.owners) owner.data.settle();
    if (current.mode === "evaluate") {
      return validation.add(current.owners[0]!.owner.key, current.losses.at(-1) ?? null);
    }
    if (current.drawn === null || current.step >= step) return;
    turns.take(current.drawn);
    this.best = false;
    if (!this.saves) return;
    const idle = this.#present.filter(({ member }) => member.device.capacity === 0);
    // Who is lost now is missed in its next turn.
    await Promise.allSettled(idle.map(({ member }) => member.peer.send("save", { step })));
  }

  async next(step: number): Promise<EmbeddedBatch | null> {
    const current = this.#current!;
    const { owner, batch } = current.owners[current.at]!;
    if (!this.#isMixed(current)) return await owner.data.next(step);
    const isLast = current.part.index + 1 === this.#partsBefore(current) + (batch.accumulation?.count ?? 1);
    const next = isLast ? current.owners[++current.at]?.batch : await owner.data.next(step);
    return next === undefined || next === null ? null : this.#asPart(current, next);
  }

  async loss(step: number, hidden: Tensor, pass: LossPass = {}): Promise<LossResult> {
    const current = this.#current!;
    const { owners, at, losses } = current;
    const result = await owners[at]!.owner.data.loss(step, hidden, pass);
    if (result.loss === null) return result;
    losses.push(result);
    if (at + 1 < owners.length) return { gradient: result.gradient, loss: null };
    if (losses.length < owners.length) return { ...result, loss: null };
    return { ...result, loss: losses.reduce((sum, { loss }) => sum + loss!, 0) };
  }

  async repeat(step: number, { mode }: { readonly mode: StepMode }): Promise<EmbeddedBatch | null> {
    const before = this.#current;
    this.#drop();
    if (mode === "train") return await this.#training(step);
    const owner = before?.owners[0]?.owner;
    if (owner === undefined || this.#options.isAway(owner.member)) return null;
    return await this.#evaluate(owner, step);
  }

  get hasBatch(): boolean {
    return this.#current?.owners.every(({ owner }) => owner.data.hasBatch) ?? false;
  }

  interrupt(): void {
    for (const { owner } of this.#current?.owners ?? []) owner.data.interrupt();
  }

  async answer(step: number, hidden: Tensor, away: readonly number[]): Promise<void> {
    await this.#generating!.data.answer(step, hidden, away);
  }

  refuse(rule: string): never {
    const owner = this.#generating ?? this.#current?.owners[0]?.owner;
    if (owner !== undefined) return owner.data.refuse(rule);
    throw new TypeError(`Cannot answer as ${rule}`);
  }

  [Symbol.dispose](): void {
    clearInterval(this.#ticking);
    for (const owner of this.#owners.values()) forgetAhead(owner);
    this.#drop();
  }

  /** E that nobody computes with any more. */
  #drop(): void {
    const current = this.#current;
    this.#current = null;
    for (const { batch } of current?.owners.slice(current.at + 1) ?? []) batch.embedding.dispose();
  }

  get #present(): Owner[] {
    const { isAway } = this.#options;
    const there = [...this.#owners.values()].filter(({ member }) => !isAway.call(this.#options, member));
    const order = this.#turns.saved.map(({ key }) => key);
    return there.sort((a, b) => order.indexOf(a.key) - order.indexOf(b.key));
  }

  #take(member: RunMember): void {
    const { engine, run, waits, accumulate, microBatches, away, clock } = this.#options;
    const { peer, sharesLoss, hello, device: { name } } = member;
    const shape = run.call(this.#options, sharesLoss);
    const common = { engine, waits, accumulate, microBatches, away, clock };
    const data = new RemoteData({ ...common, peer, name, run: shape });
    this.#owners.set(member, { key: hello.id ?? hello.name, member, data, ahead: null });
  }

  /** Those who have joined late, and the weights of those who are new. */
  async #admit(step: number): Promise<void> {
    const { members, welcome, isAway } = this.#options;
    const turns = this.#turns;
    for (const member of members.call(this.#options)) {
      if (this.#owners.has(member) || isAway.call(this.#options, member)) continue;
      await welcome.call(this.#options, member, step);
      this.#take(member);
    }
    for (const { member } of this.#present) {
      // It is missed from now on, whoever's turn it is.
      if (member.peer.failure !== null) throw member.peer.failure;
    }
    for (const owner of this.#present) {
      const { key, member: { device: { name } } } = owner;
      if (!turns.has(key)) turns.add({ key, name, weight: await this.#weightOf(owner) });
    }
    const away = [...this.#owners.keys()].filter((member) => isAway.call(this.#options, member));
    if (away.length === this.#owners.size) throw away[0]!.peer.failure ?? goneError();
  }

  async #weightOf({ data, member: { device: { name } } }: Owner): Promise<number> {
    const { weights, share = "equal" } = this.#options.sharing;
    if (weights !== undefined) return weights[name] ?? 1;
    return share === "examples" ? await data.examples() : 1;
  }

  /** The next batch of a validation that is due; `null` if none is left. */
  async #evaluation(step: number): Promise<EmbeddedBatch | null> {
    const { onValidation } = this.#options;
    const validation = this.#validation;
    if (!this.#isDue(step)) return null;
    validation.begin(step);
    for (const owner of this.#present) {
      if (validation.isDone(owner.key)) continue;
      const batch = await this.#evaluate(owner, step);
      if (batch !== null) return batch;
      validation.finish(owner.key, owner.data.told);
    }
    const names = new Map(this.#turns.saved.map(({ key, name }) => [key, name]));
    const event = validation.end(names);
    if (event !== null) {
      this.best = event.isBest && this.#options.sharing.keepBest === true;
      onValidation.call(this.#options, event);
    }
    return null;
  }

  #isDue(step: number): boolean {
    const { sharing: { evalEvery = 0 }, steps } = this.#options;
    return step === 0 || step >= steps || this.#isOver || (evalEvery > 0 && step % evalEvery === 0);
  }

  async #evaluate(owner: Owner, step: number): Promise<EmbeddedBatch | null> {
    const position = this.#validation.batches(owner.key);
    forgetAhead(owner);
    this.#startClock(owner);
    const batch = await owner.data.turn(step, { mode: "evaluate", position });
    if (batch === null) {
      owner.data.settle();
      return null;
    }
    this.#current = {
      ...{ step, mode: "evaluate", owners: [{ owner, batch }], at: 0, losses: [], drawn: null },
      ...{ part: WHOLE_STEP, rows: 0 },
    };
    return batch;
  }

  /** The batch of whoever's turn it is; `null` if nobody has one. */
  async #training(step: number): Promise<EmbeddedBatch | null> {
    const { sharing: { mix = false }, accumulate, steps } = this.#options;
    const turns = this.#turns;
    if (step >= steps || this.#isOver) return null;
    for (;;) {
      const present = this.#present;
      const drawn = turns.draw(new Set(present.map(({ key }) => key)), mix ? accumulate : 1);
      if (drawn === null) return null;
      const asked = [...drawn.parts].map(([key, parts]) => ({
        owner: present.find((o) => o.key === key)!,
        parts,
      }));
      const answers = await Promise.allSettled(asked.map(({ owner, parts }) =>
        this.#ask(owner, step, {
          position: turns.given(owner.key),
          ...(mix && accumulate > 1 && { parts }),
        })
      ));
      const owners: { readonly owner: Owner; readonly batch: OwnedBatch }[] = [];
      for (const [i, answer] of answers.entries()) {
        const { owner } = asked[i]!;
        if (answer.status === "rejected") continue;
        if (answer.value === null) {
          turns.finish(owner.key);
          owner.data.settle();
        } else owners.push({ owner, batch: answer.value });
      }
      const failed = answers.find((answer) => answer.status === "rejected");
      if (failed === undefined && owners.length === asked.length) return this.#begin(step, owners, drawn);
      for (const { batch } of owners) batch.embedding.dispose();
      if (failed !== undefined) throw failed.reason;
    }
  }

  #begin(step: number, owners: OwnersStep["owners"], drawn: DrawnTurns): EmbeddedBatch {
    const { batch } = owners[0]!;
    const current: OwnersStep = {
      ...{ step, mode: "train", owners, at: 0, losses: [], drawn },
      ...{ part: { index: -1, count: 0, firstRow: 0 }, rows: 0 },
    };
    this.#current = current;
    if (!this.#isMixed(current)) {
      this.#askAhead(current, drawn);
      return batch;
    }
    const counted = owners.reduce((sum, own) => sum + own.batch.counted, 0);
    for (const { owner } of owners) owner.data.counted = counted;
    return this.#asPart(current, batch);
  }

  /** An owner's batch, or its parts of a step, which it may have been asked for before. */
  async #ask(
    owner: Owner,
    step: number,
    { position, parts }: { readonly position: number; readonly parts?: number },
  ): Promise<OwnedBatch | null> {
    const { ahead } = owner;
    this.#startClock(owner);
    if (parts === undefined && ahead?.step === step && ahead.position === position) {
      owner.ahead = null;
      return await owner.data.waitFor(ahead.batch);
    }
    forgetAhead(owner);
    return await owner.data.turn(step, { mode: "train", position, ...(parts !== undefined && { parts }) });
  }

  #startClock({ data, member: { peer } }: Owner): void {
    const { stepDeadlineMs = Infinity, clock } = this.#options;
    data.clock = stepDeadlineMs === Infinity ? null : stepClock(peer, { limitMs: stepDeadlineMs, clock });
  }

  /** The next step's owner sends its batch while this step is computed, if it is another one. */
  #askAhead({ step, owners }: OwnersStep, drawn: DrawnTurns): void {
    const { overlap, seed } = this.#options;
    const next = step + 1;
    if (!overlap || this.#isDue(next)) return;
    const after = new DataTurns(seed, this.#turns.after(drawn));
    const [key] = after.draw(new Set(this.#present.map(({ key }) => key)))?.parts.keys() ?? [];
    const owner = this.#present.find((o) => o.key === key);
    if (owner === undefined || owner.ahead !== null || owners.some((own) => own.owner === owner)) return;
    const position = after.given(owner.key);
    const batch = owner.data.turn(next, { mode: "train", position }, null);
    batch.catch(() => {}); // whoever needs it hears it
    owner.ahead = { step: next, position, batch };
  }

  /** True if the parts of a step are drawn one by one. */
  #isMixed({ mode }: OwnersStep): boolean {
    const { sharing: { mix = false }, accumulate } = this.#options;
    return mode === "train" && mix && accumulate > 1;
  }

  /** Parts of the owners before the current one. */
  #partsBefore({ owners, at }: OwnersStep): number {
    return owners.slice(0, at).reduce((sum, { batch }) => sum + (batch.accumulation?.count ?? 1), 0);
  }

  /** An owner's part as one of the whole step. */
  #asPart(current: OwnersStep, batch: EmbeddedBatch): EmbeddedBatch {
    const { accumulate } = this.#options;
    const accumulation = { index: current.part.index + 1, count: accumulate, firstRow: current.rows };
    current.part = accumulation;
    current.rows += batch.batch * batch.length;
    return { ...batch, accumulation };
  }

  /** All who are there are done: waits for those who are not there, then for nobody. */
  async #last(step: number): Promise<EmbeddedBatch | null> {
    const { steps, waitForAway, isAway } = this.#options;
    const turns = this.#turns;
    if (step >= steps || this.#isOver) return null;
    const isOpen = [...this.#owners.values()].some(({ key, member }) =>
      isAway.call(this.#options, member) && !member.peer.hasLeft && turns.has(key) && !turns.isDone(key)
    );
    if (isOpen && await waitForAway.call(this.#options, step)) {
      return await this.#training(step) ?? await this.#last(step);
    }
    this.#isOver = true;
    return await this.#evaluation(step);
  }

  /** What owners ask once all steps are done, one after the other; who is lost then asks no more. */
  async #generation(step: number): Promise<DecodingRequest | null> {
    this.#hasGenerated ??= new Set();
    for (;;) {
      const owner = this.#present.find(({ key }) => !this.#hasGenerated!.has(key));
      if (owner === undefined) return null;
      try {
        if (owner !== this.#generating) forgetAhead(owner);
        if (owner !== this.#generating) await owner.data.turn(step, { mode: "generate", position: 0 });
        this.#generating = owner;
        const request = await owner.data.request(step);
        if (request !== null && "parents" in request) return request;
        request?.embedding.dispose();
      } catch (error) {
        if (owner.member.peer.failure === null && !owner.member.peer.isSilent) throw error;
      }
      this.#hasGenerated.add(owner.key);
    }
  }

  /** Nobody who waits for its turn is to think that nobody is there. */
  #tellWaiting(): void {
    for (const { member, data, ahead } of this.#owners.values()) {
      if ((data.hasTurn && ahead === null) || this.#telling.has(member) || member.peer.failure !== null) {
        continue;
      }
      const told = member.peer.send("paused", { meta: { others: true } }).catch(() => {});
      this.#telling.set(member, told.finally(() => this.#telling.delete(member)));
    }
  }
}

/** What an owner was asked for before its step is not needed. */
function forgetAhead(owner: Owner): void {
  owner.ahead?.batch.then((batch) => batch?.embedding.dispose(), () => {});
  owner.ahead = null;
}

function goneError(): ChannelClosedError {
  return new ChannelClosedError("Cannot go on as a device with data must be there: all are away");
}
