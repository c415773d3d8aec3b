// The instances behind an edge: how much each gets, how fast it answers, and why it gets less or nothing.
import { useState } from 'preact/hooks';
import type { CallerView, EdgeEndpoint } from './messages';
import { clock, gravity, instanceTone, millis, perSecond, share, short, standingTone, zoneName } from './words';

const SHOWN = 12;

export function Instances({ list }: { list: EdgeEndpoint[] }) {
  const [isWhole, setWhole] = useState(false);
  if (!list.length) return <p class="dim">No instance was called lately.</p>;
  const sorted = [...list].sort((one, other) => gravity(other) - gravity(one) || one.workload.localeCompare(other.workload));
  const rest = sorted.length - SHOWN;
  return (
    <div class="instances">
      <h3>Instances <span class="dim">{list.length}</span></h3>
      {(isWhole ? sorted : sorted.slice(0, SHOWN)).map((each) => <Instance each={each} key={each.workload} />)}
      {rest > 0 && <button class="plain" onClick={() => { setWhole(!isWhole); }}>{isWhole ? 'show fewer' : `show ${rest} more`}</button>}
    </div>
  );
}

function Instance({ each }: { each: EdgeEndpoint }) {
  const only = each.callers.length === 1 ? each.callers[0] : undefined;
  const isCalled = each.rate.requestsPerSecond > 0;
  return (
    <div class="stand" data-workload={each.workload}>
      <div class="head">
        <span class="who" title={each.workload}>{short(each.workload)}</span>
        {each.zone && <span class="zone">{each.zone}</span>}
        <span class={`state ${instanceTone(each.state)}`}>{each.state}{each.untilAt > 0 && ` until ${clock(each.untilAt)}`}</span>
      </div>
      <Weight weight={each.weight} isOff={each.isEjected} />
      <div class="dim">{isCalled
        ? `${perSecond(each.rate.requestsPerSecond)} · ${share(each.rate.success)} · p50 ${millis(each.rate.p50Ms)} · p99 ${millis(each.rate.p99Ms)}`
        : 'not called now'}</div>
      {only && <Parts view={only} />}
      {each.callers.length > 1 && each.callers.map((view) => (
        <div class="caller" key={view.zone}>
          <span class="dim">callers in {zoneName(view.zone)}:</span> {view.isDryRun && 'would be '}{view.weight} %{view.state !== 'ADMITTED' && <span class={instanceTone(view.state)}> {view.state}</span>}
          <Parts view={view} />
        </div>))}
      {each.reason && <div class={standingTone(each)}>{each.reason}</div>}
    </div>
  );
}

function Weight({ weight, isOff }: { weight: number; isOff: boolean }) {
  const width = isOff ? 0 : Math.min(100, weight);
  const colour = width >= 100 ? 'good' : width >= 25 ? 'warn' : 'bad';
  return (
    <div class="weight" title="in percent of a fair share">
      <div class="bar"><i class={colour} style={{ width: `${Math.max(isOff ? 0 : 1, width)}%` }} /></div><span>{isOff ? 'off' : `${weight} %`}</span>
    </div>
  );
}

function Parts({ view }: { view: CallerView }) {
  const parts = [view.networkMs > 0 && `network ${millis(view.networkMs)}`, view.serviceMs > 0 && `service ${millis(view.serviceMs)}`].filter(Boolean);
  return parts.length ? <div class="dim">{parts.join(' + ')}</div> : null;
}
