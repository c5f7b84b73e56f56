/**
 * Devices of a run, and those that ask to join.
 *
 * @module
 */

import type { AnswerTime, JoinedDevice } from "@edgetuner/core";
import type { JoinRequestJson, StepJson, StoredEventJson } from "@edgetuner/transport/control";
import type { ComponentChildren, JSX } from "preact";
import { AskFirst } from "./ask_first.tsx";
import { Invite } from "./invite.tsx";
import { ago, bytes, span } from "./numbers.ts";
import { attempt, client, now, refresh, type RunState, told } from "./state.ts";

const COLUMNS = ["Name", "State", "Heads", "Share", "Capacity", "Answers in", "Link", "Last seen"] as const;
/** States of a run that is over. */
const OVER: ReadonlySet<string> = new Set(["ended", "failed", "lost"]);

/** Devices and requests. */
export function Devices({ state }: { readonly state: RunState }): JSX.Element {
  const devices = state.devices.value;
  const isLive = state.live.value !== null;
  const heads = devices.reduce((sum, { range }) => sum + (range?.count ?? 0), 0);
  const waiting = state.requests.value.filter((request) => request.state === "waiting");
  return (
    <section class="card" aria-labelledby="devices-title">
      <div class="title">
        <h2 id="devices-title">Devices</h2>
        {isLive && !OVER.has(state.status.value) ? <Invite state={state} /> : null}
      </div>
      {waiting.map((request) => <Asking key={request.request} state={state} request={request} />)}
      {devices.length === 0
        ? <p class="quiet">None has joined yet.</p>
        : (
          <div class="wide" tabIndex={0} role="region" aria-label="Table of devices">
            {/* The roles are said too: on a phone each row is laid out as a card. */}
            <table role="table" class="devices">
              <caption class="unseen">Devices of the run</caption>
              <thead role="rowgroup">
                <tr role="row">
                  {COLUMNS.map((name) => <th key={name} role="columnheader" scope="col">{name}</th>)}
                  {isLive ? <th role="columnheader" scope="col">Remove</th> : null}
                </tr>
              </thead>
              <tbody role="rowgroup">
                {devices.map((device, at) => (
                  <Device
                    key={`${device.id} ${device.name} ${at}`}
                    {...{ state, device, heads, isLive }}
                  />
                ))}
              </tbody>
            </table>
          </div>
        )}
    </section>
  );
}

function Device({ state, device, heads, isLive }: {
  readonly state: RunState;
  readonly device: JoinedDevice;
  /** Heads of all devices. */
  readonly heads: number;
  readonly isLive: boolean;
}): JSX.Element {
  const { name, capacity, data, range, connected } = device;
  const own = range?.count ?? 0;
  const answer = answerOf(state.latest.value, range?.first);
  const isOver = !isLive || OVER.has(state.status.value);
  const isHere = !isOver && connected;
  const [word, look] = isOver ? ["run is over", "over"] : connected ? ["here", "good"] : ["away", "bad"];
  const last = range === null ? 0 : range.first + own - 1;
  const cells: readonly ComponentChildren[] = [
    <span key="state" class={`status ${look}`}>{word}</span>,
    range === null || own === 0 ? "-" : own === 1 ? range.first : `${range.first} to ${last}`,
    own === 0 ? "-" : `${Math.round(100 * own / heads)} %`,
    capacity === 0 ? "-" : capacity,
    answer === undefined ? "-" : span(answer.ms / 1000),
    answer?.link === undefined ? "-" : linkText(answer.link),
    isHere ? "now" : lastSeen(state.events.value, device),
  ];
  return (
    <tr role="row">
      <th role="rowheader" scope="row">{name} {data ? <span class="quiet">has data</span> : null}</th>
      {cells.map((cell, i) => <td key={i} role="cell" data-label={COLUMNS[i + 1]}>{cell}</td>)}
      {isLive
        ? (
          <td role="cell" data-label="Remove">
            <Remove state={state} device={device} />
          </td>
        )
        : null}
    </tr>
  );
}

/** What a step says of the device with this first head. */
function answerOf(latest: StepJson | null, first: number | undefined): AnswerTime | undefined {
  return latest?.answers?.find((answer) => answer.first === first);
}

/** A link in words: the edge server cannot tell it from the device's computing. */
function linkText({ roundTripSeconds, bytesPerSecond }: NonNullable<AnswerTime["link"]>): string {
  const rate = bytesPerSecond === null
    ? ""
    : `, ${bytes(bytesPerSecond.down)}/s down, ${bytes(bytesPerSecond.up)}/s up`;
  return `${span(roundTripSeconds)}${rate}`;
}

function lastSeen(events: readonly StoredEventJson[], { id, name }: JoinedDevice): string {
  const last = events.findLast(({ data }) => {
    const device = data.device as JoinedDevice | undefined;
    return device?.id === id && device.name === name;
  });
  return last === undefined ? "-" : ago(last.at, now.value);
}

function Remove({ state, device }: { readonly state: RunState; readonly device: JoinedDevice }): JSX.Element {
  const remove = () =>
    attempt(async () => {
      const params = { run: state.run, device: device.id || device.name };
      await client.call("POST /api/runs/:run/devices/:device/remove", { params });
      told.value = `${device.name} was removed`;
      await refresh(state);
    });
  const texts = { text: "Remove", label: `Remove ${device.name}`, yes: "For good", no: "Keep" };
  return <AskFirst {...texts} isSmall onYes={() => void remove()} />;
}

function Asking({ state, request }: {
  readonly state: RunState;
  readonly request: JoinRequestJson;
}): JSX.Element {
  const answer = (word: "approve" | "refuse") =>
    attempt(async () => {
      const params = { run: state.run, request: request.request };
      await client.call(`POST /api/runs/:run/requests/:request/${word}`, { params });
      told.value = `${request.name}: ${word === "approve" ? "approved" : "refused"}`;
      await refresh(state);
    });
  return (
    <div class="asking" role="group" aria-label={`${request.name} asks to join`}>
      <p>
        <b>{request.name}</b> asks to join. The device shows the code <b class="code">{request.code}</b>.
      </p>
      <div class="buttons">
        <button type="button" class="main" onClick={() => void answer("approve")}>Approve</button>
        <button type="button" onClick={() => void answer("refuse")}>Refuse</button>
      </div>
    </div>
  );
}
