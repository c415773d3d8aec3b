// Beside the picture: what is selected, or the whole mesh.
import { useEffect } from 'preact/hooks';
import { Instances } from './Instances';
import { ALL, edgeId, edges, eventId, events, graph, selected, standings } from './live';
import type { Edge, Node, NodeWorkload } from './messages';
import { Plots } from './Plot';
import { ahead, clock, instanceTone, millis, outcome, perSecond, share, short, standingTone, stateTone } from './words';

export function Side() {
  const choice = selected.value;
  useEffect(() => {
    const onKey = (event: KeyboardEvent) => { if (event.key === 'Escape') selected.value = null; };
    window.addEventListener('keydown', onKey);
    return () => { window.removeEventListener('keydown', onKey); };
  }, []);
  const edge = choice?.kind === 'edge' ? edges.value.find((each) => edgeId(each) === choice.id) : undefined;
  const node = choice?.kind === 'node' ? graph.value?.nodes.find((each) => each.id === choice.id) : undefined;
  return (
    <aside>
      {choice && <button class="plain back" onClick={() => { selected.value = null; }}>← whole mesh</button>}
      {edge ? <EdgeFacts edge={edge} /> : node ? <NodeFacts node={node} /> : <Whole />}
    </aside>
  );
}

function Whole() {
  return (
    <>
      <h2>Whole mesh</h2>
      <Plots of={ALL} />
      <Happened />
    </>
  );
}

// The newest first; about these services and instances alone when some are named.
function Happened({ about }: { about?: string[] }) {
  const found = about ? events.value.filter((event) => about.includes(event.about.split(':')[0] ?? '')) : events.value;
  if (about && !found.length) return null;
  return (
    <>
      <h2>What happened{about && ' here'}</h2>
      <ol class="events">
        {found.slice(0, 60).map((event) => (
          <li class={event.severity} key={eventId(event)}><time>{clock(event.at)}</time> <span class="kind">{event.kind}</span> {event.message}</li>
        ))}
      </ol>
      {!found.length && <p class="dim">Nothing yet.</p>}
    </>
  );
}

// How its calls travel: who is called within a machine is known by its network namespace, and nothing is encrypted.
function travels(edge: Edge): string {
  if (edge.way === 'local') return 'within the machine, callers known by their network namespaces';
  if (edge.way === 'mixed') return 'mutual TLS, and within the machine to instances that are near';
  return edge.isMtls ? 'mutual TLS' : 'not encrypted';
}

function EdgeFacts({ edge }: { edge: Edge }) {
  return (
    <>
      <h2>{edge.source} → {edge.destination}:{edge.port}</h2>
      <p class="dim">{edge.protocol}, {travels(edge)}</p>
      <dl>
        <dt>requests</dt><dd>{perSecond(edge.rate.requestsPerSecond)}</dd>
        <dt>success</dt><dd>{share(edge.rate.success)}</dd>
        <dt>p50, p95, p99</dt><dd>{millis(edge.rate.p50Ms)}, {millis(edge.rate.p95Ms)}, {millis(edge.rate.p99Ms)}</dd>
        {edge.deniedPerSecond > 0 && <><dt>denied</dt><dd>{perSecond(edge.deniedPerSecond)}</dd></>}
      </dl>
      <Plots of={edgeId(edge)} />
      {edge.panic && <p class="bad">{edge.panic}</p>}
      <Instances list={edge.endpoints} />
      <Happened about={[edge.destination, ...edge.endpoints.map((each) => each.workload)]} />
    </>
  );
}

function NodeFacts({ node }: { node: Node }) {
  const into = edges.value.filter((each) => each.destination === node.id);
  const out = edges.value.filter((each) => each.source === node.id);
  return (
    <>
      <h2>{node.id}</h2>
      <p class="dim">{node.kind}{node.ports.length ? `, port ${node.ports.join(', ')}` : ''}</p>
      <Callers title="Called by" list={into} name={(each) => each.source} />
      <Callers title="Calls" list={out} name={(each) => each.destination} />
      <h3>Instances</h3>
      {node.workloads.map((each) => <Instance workload={each} key={each.workload} />)}
      {!node.workloads.length && <p class="dim">None.</p>}
      <Happened about={[node.id, ...node.workloads.map((each) => each.workload)]} />
    </>
  );
}

function Callers({ title, list, name }: { title: string; list: Edge[]; name: (edge: Edge) => string }) {
  if (!list.length) return null;
  return (
    <>
      <h3>{title}</h3>
      <ul class="callers">{list.map((edge) => (
        <li key={edgeId(edge)}><button class="plain" onClick={() => { selected.value = { kind: 'edge', id: edgeId(edge) }; }}>{name(edge)}</button>
          <span class="dim">{perSecond(edge.rate.requestsPerSecond)} · {outcome(edge)} · p99 {millis(edge.rate.p99Ms)}</span></li>))}
      </ul>
    </>
  );
}

function Instance({ workload }: { workload: NodeWorkload }) {
  const standing = standings.value.get(workload.workload);
  return (
    <div class="instance">
      <b><i class={`dot ${stateTone(workload.state, workload.isConnected)}`} /> {short(workload.workload)}</b> <span class="dim">{workload.state.toLowerCase()}{workload.isConnected ? '' : ', not connected'}</span>
      {standing && standing.state !== 'ADMITTED' && <span class={instanceTone(standing.state)}> {standing.state}</span>}
      {standing && standing.weight !== 100 && <span class="dim"> {standing.weight} % of a fair share</span>}
      {standing?.reason && <div class={standingTone(standing)}>{standing.reason}</div>}
      <div class="dim mono">{workload.identity}</div>
      <div class="dim">certificate for {ahead(workload.certificateExpiresAt, Date.now() / 1000)}, {workload.placement}{workload.zone ? `, zone ${workload.zone}` : ''}</div>
      {workload.isExposed && <div class="warn">listens beyond loopback: it can be reached around the mesh</div>}
      {workload.lastError && <div class="bad">{workload.lastError}</div>}
    </div>
  );
}
