/**
 * Devices of a run, and those that ask to join.
 *
 * @module
 */

import type { AnswerTime, JoinedDevice } from "@edgetuner/core";
import type { JoinRequestJson, StepJson, StoredEventJson } from "@edgetuner/transport/control";
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { ago, bytes, span } from "./numbers.ts";
import { attempt, client, now, refresh, type RunState, told } from "./state.ts";

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
        {isLive ? <Invite state={state} /> : null}
      </div>
      {waiting.map((request) => <Asking key={request.request} state={state} request={request} />)}
      {devices.length === 0
        ? <p class="quiet">None has joined yet.</p>
        : (
          <div class="wide" tabIndex={0} role="region" aria-label="Table of devices">
            <table>
              <caption class="unseen">Devices of the run</caption>
              <thead>
                <tr>
                  {["Name", "State", "Heads", "Share", "Capacity", "Answers in", "Link", "Last seen"].map((
                    name,
                  ) => <th key={name} scope="col">{name}</th>)}
                  {isLive ? <th scope="col">Remove</th> : null}
                </tr>
              </thead>
              <tbody>
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
  const isHere = isLive && connected;
  return (
    <tr>
      <th scope="row">{name} {data ? <span class="quiet">has the data</span> : null}</th>
      <td>
        <span class={`status ${isHere ? "good" : "bad"}`}>{isHere ? "here" : "away"}</span>
      </td>
      <td>{range === null || own === 0 ? "-" : `${range.first} to ${range.first + own - 1}`}</td>
      <td>{own === 0 ? "-" : `${Math.round(100 * own / heads)} %`}</td>
      <td>{capacity === 0 ? "-" : capacity}</td>
      <td>{answer === undefined ? "-" : span(answer.ms / 1000)}</td>
      <td>{answer?.link === undefined ? "-" : linkText(answer.link)}</td>
      <td>{isHere ? "now" : lastSeen(state.events.value, device)}</td>
      {isLive
        ? (
          <td>
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
  const [asks, setAsks] = useState(false);
  const remove = () =>
    attempt(async () => {
      const params = { run: state.run, device: device.id || device.name };
      await client.call("POST /api/runs/:run/devices/:device/remove", { params });
      told.value = `${device.name} was removed`;
      await refresh(state);
    });
  return asks
    ? (
      <span class="ask">
        <button type="button" class="small danger" onClick={() => void remove()}>For good</button>
        <button type="button" class="small" onClick={() => setAsks(false)}>Keep</button>
      </span>
    )
    : (
      <button
        type="button"
        class="small"
        aria-label={`Remove ${device.name}`}
        onClick={() => setAsks(true)}
      >
        Remove
      </button>
    );
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

/** Makes an invite for one device. */
function Invite({ state }: { readonly state: RunState }): JSX.Element {
  const [link, setLink] = useState("");
  const make = () =>
    attempt(async () => {
      const { path } = await client.call("POST /api/runs/:run/invites", { params: { run: state.run } });
      setLink(location.origin + path);
    });
  return (
    <div class="invite">
      {link === "" ? null : (
        <label>
          For one device, for ten minutes
          <input type="text" readOnly value={link} onFocus={({ currentTarget }) => currentTarget.select()} />
        </label>
      )}
      <button type="button" class="small" onClick={() => void make()}>Invite a device</button>
    </div>
  );
}
